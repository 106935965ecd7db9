"""Steps that wait for each other: what a step adds depends on what earlier ones added, as in delta rules.

The chunk then is a triangular system F = R + N F, with N strictly below the diagonal. Its inverse is
(1 + N)(1 + N^2)(1 + N^4) ..., which ends, for N to the power of the chunk is 0: products of matrices again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import networkx

from ...einsum import Einsum
from ...errors import CascadeError
from ...expr import Access, Compare, Expr, Var, accesses, substitute, transform, variables
from ..elements import places_of
from .block import Block
from .linear import NotLinearError, Product, products, total
from .prepare import opened
from .reads import Reader


def knots(block: Block) -> dict[str, frozenset[str]]:
    """Return the Einsums that wait for themselves from step to step, each with those of its circle.

    Raises:
        CascadeError: a gate waits for its own state.
    """
    graph = networkx.DiGraph()
    for name, einsum in block.others.items():
        for access in einsum.reads:
            if access.tensor in block.others:
                graph.add_edge(name, access.tensor)
            elif block.is_state(access):
                graph.add_edges_from((name, fed) for fed in block.feeding(access.tensor))
    found: dict[str, frozenset[str]] = {}
    for circle in networkx.strongly_connected_components(graph):
        if len(circle) > 1 or any(graph.has_edge(n, n) for n in circle):
            found |= dict.fromkeys(circle, frozenset(circle))
    for state in block.states.values():
        gates = {a.tensor for f in (*state.gate.above, *state.gate.below) for a in accesses(f)}
        waits = sorted(gates & set(found))
        if waits:
            raise CascadeError(f"the gate of {state.name} reads {waits[0]}, which depends on earlier states")
    return found


def unknown_of(block: Block, circle: frozenset[str]) -> str:
    """Return the one tensor of a circle by which steps hand on what later ones wait for.

    Raises:
        CascadeError: there are several.
    """
    fed = {
        a.tensor
        for state in block.states.values()
        for product in state.added
        for f in product.above
        for a in accesses(f)
        if a.tensor in circle
    }
    if len(fed) != 1:
        named = sorted(n for n in circle if block.cascade.defines(n))
        raise CascadeError(
            f"{' and '.join(named)} wait for each other from step to step by {len(fed)} tensors; one can be solved for"
        )
    return fed.pop()


@dataclass
class Solver:
    """Writes the tensor of a circle at all steps of a chunk at once.

    Attributes:
        size: steps of a chunk.
    """

    reader: Reader
    size: int

    def solve(self, name: str, circle: frozenset[str]) -> None:
        """Write the unknown of a circle.

        Raises:
            CascadeError: it is not linear in what earlier steps handed on.
        """
        block, writer = self.reader.block, self.reader.writer
        einsum = block.others[name]
        readers = {n: e for n, e in block.others.items() if n in circle and block.reads_state(e)}
        known, matrix = self._system(name, einsum, circle, readers)
        then, now = writer.ranks.then, writer.ranks.now
        right = self._one(f"{name}R", known, einsum)
        lower = _single(matrix)
        if lower is None or {then.name, now.name} - set(variables(lower)):
            keep = {writer.ranks.chunk.name, then.name, now.name, *(v for p in matrix for v in p.variables)}
            lower = writer.write(
                writer.fresh(f"{name}N"), total(matrix), keep, where=writer.order(strict=True)
            )
        inverse = self._inverse(name, lower)
        earlier = substitute(right, {now.name: then})
        mine = {v for p in (inverse, earlier) for v in variables(p)} - {then.name}
        solved = writer.write(writer.fresh(f"{name}S"), Product((inverse, earlier)).value, mine)
        target = writer.at(einsum.target)
        assert isinstance(target, Access)
        writer.einsums.append(Einsum(target, total([Product((right,)), Product((solved,))])))

    def _system(
        self, name: str, einsum: Einsum, circle: frozenset[str], readers: dict[str, Einsum]
    ) -> tuple[list[Product], list[Product]]:
        """Return the known part of a tensor, and what multiplies it at earlier steps, each as a sum of products."""
        reader, writer = self.reader, self.reader.writer
        if name in readers:
            return reader.known(einsum, name), self._coefficients(name, einsum, einsum)
        value = self._down_to_readers(einsum, circle, set(readers))
        try:
            parts = products(value, lambda a: a.tensor in readers)
        except NotLinearError:
            raise CascadeError(
                f"{name} depends on earlier steps other than by a sum of products: they cannot be done at once"
            ) from None
        stand_ins: dict[str, Access] = {}
        matrix: list[Product] = []
        for part in parts:
            read = next((f for f in part.above if isinstance(f, Access) and f.tensor in readers), None)
            if read is None:
                continue
            source = readers[read.tensor]
            if source.name not in stand_ins:
                stand_ins[source.name] = self._known_part(source, name)
            weight = part.without(read).map(writer.at)
            matrix += [weight.times(c) for c in self._coefficients(name, einsum, source, read)]

        def known(node: Expr) -> Expr:
            if not isinstance(node, Access) or node.tensor not in stand_ins:
                return node
            return substitute(stand_ins[node.tensor], places_of(readers[node.tensor], node))

        # The read itself goes first, for its stand-in has the coordinates of a chunk already.
        return [p.map(lambda f: writer.at(transform(f, known))) for p in parts], matrix

    def _down_to_readers(self, einsum: Einsum, circle: frozenset[str], readers: set[str]) -> Expr:
        """Return the value of an Einsum in terms of those of its circle that read states."""
        block = self.reader.block
        inner = {n: block.others[n] for n in circle if n not in readers and n != einsum.name}
        for other in inner.values():
            if other.all_reductions or other.where is not None:
                raise CascadeError(f"{other.name} reduces what depends on earlier steps")
        if einsum.all_reductions or einsum.where is not None:
            raise CascadeError(f"{einsum.name} reduces what depends on earlier steps")
        value = einsum.value
        for _ in inner:
            value = opened(value, inner)
        return value

    def _known_part(self, source: Einsum, unknown: str) -> Access:
        """Write what is known of an Einsum before the unknown is, and return the read of it, in its own variables."""
        return self._one(f"{source.name}B", self.reader.known(source, unknown), source)

    def _one(self, wanted: str, parts: list[Product], einsum: Einsum) -> Access:
        """Return the read of a sum of products as a tensor with the axes of an Einsum."""
        writer = self.reader.writer
        axes = set(einsum.output_variables) - {self.reader.block.step}
        keep = {writer.ranks.chunk.name, writer.ranks.now.name, *axes}
        single = _single(parts)
        if single is not None and set(variables(single)) == keep:
            return single
        return writer.write(writer.fresh(wanted), total(parts), keep)

    def _coefficients(
        self, name: str, einsum: Einsum, source: Einsum, read: Access | None = None
    ) -> list[Product]:
        """Return what multiplies the unknown of earlier steps in an Einsum that reads states."""
        writer = self.reader.writer
        places = {} if read is None else places_of(source, read)
        places.pop(self.reader.block.step, None)
        expected = writer.at(einsum.target, writer.ranks.then)
        found = []
        for coefficient, wanted in self.reader.waiting(source, name):
            there = substitute(writer.at(wanted, writer.ranks.then), places)
            if there != expected:
                raise CascadeError(f"{source.name} mixes the elements of {name} of earlier steps")
            found.append(coefficient.map(lambda f: substitute(f, places)))
        return found

    def _inverse(self, name: str, lower: Access) -> Access:
        """Return M with (1 - N)^-1 = 1 + M, from N, by squaring."""
        writer = self.reader.writer
        then, now, amid = (v.name for v in (writer.ranks.then, writer.ranks.now, writer.ranks.amid))
        keep = set(variables(lower))
        order = writer.order(strict=True)

        def product(wanted: str, left: Access, right: Access) -> Access:
            value = Product((substitute(left, {then: Var(amid)}), substitute(right, {now: Var(amid)}))).value
            lies = Compare(("<", "<"), (Var(then), Var(amid), Var(now)))
            return writer.write(writer.fresh(wanted), value, keep, where=lies)

        power, inverse = lower, lower
        for _ in range(max(0, math.ceil(math.log2(self.size)) - 1)):
            power = product(f"{name}P", power, power)
            more = product(f"{name}Q", power, inverse)
            parts = [Product((a,)) for a in (inverse, power, more)]
            inverse = writer.write(writer.fresh(f"{name}V"), total(parts), keep, where=order)
        return inverse


def _single(parts: list[Product]) -> Access | None:
    """Return the one access that a sum of products is, or None."""
    if len(parts) != 1 or parts[0].negative or parts[0].below or len(parts[0].above) != 1:
        return None
    (factor,) = parts[0].above
    return factor if isinstance(factor, Access) else None
