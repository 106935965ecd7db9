"""What waits for itself from step to step, as linear equations: which tensors are unknown, and what multiplies them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import networkx

from ...declarations import rank_of
from ...einsum import Einsum, places_of
from ...errors import CascadeError
from ...expr import Access, Apply, Compare, Expr, Num, Var, accesses, substitute, transform
from .block import Block
from .linear import NotLinearError, Product, products
from .prepare import opened
from .reads import NOW, Reader, Wait


def knots(block: Block) -> dict[str, frozenset[str]]:
    """Return the Einsums that wait for themselves from step to step, each with those of its circle.

    Raises:
        CascadeError: a gate, or what one state passes on to another, waits for its own state.
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
        for term in state.added:
            passed = [f for f in term.above if isinstance(f, Access) and block.is_state(f)]
            scaled = sorted({a.tensor for f in (*term.above, *term.below) for a in accesses(f)} & set(found))
            if passed and scaled:
                raise CascadeError(
                    f"{state.name} adds {passed[0].tensor} times {scaled[0]}, which depends on earlier states"
                )
    return found


def unknowns_of(block: Block, circle: frozenset[str]) -> tuple[str, ...]:
    """Return the tensors of a circle by which steps hand on what later ones wait for, in the order of a step."""
    fed = {
        a.tensor
        for state in block.states.values()
        for product in state.added
        for f in product.above
        for a in accesses(f)
        if a.tensor in circle
    }
    return tuple(n for n in block.others if n in fed)


def alike(block: Block, one: str, other: str) -> bool:
    """Tell whether two variables run over as many elements, whichever names their ranks have."""
    aliases = block.cascade.aliases
    return aliases.get(rank_of(one), rank_of(one)) == aliases.get(rank_of(other), rank_of(other))


@dataclass(frozen=True)
class Row:
    """The equation of one unknown.

    Attributes:
        known: what does not depend on any unknown, a sum of products at a step of a chunk.
        waits: what multiplies unknowns of earlier steps, or others of the same step.
    """

    einsum: Einsum
    known: list[Product]
    waits: list[Wait]


@dataclass
class Equations:
    """The equations of a circle: each of its unknowns as a sum over unknowns.

    Attributes:
        circle: the unknowns, and what they wait for each other by.
    """

    reader: Reader
    unknowns: tuple[str, ...]
    circle: frozenset[str]
    _rows: dict[str, Row] = field(default_factory=dict)
    _stand_ins: dict[str, Access] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """Return the equation of a tensor of the circle.

        Raises:
            CascadeError: it is not linear in what earlier steps handed on.
        """
        if name not in self._rows:
            self._rows[name] = self._row(self._opened(self.reader.block.others[name]))
        return self._rows[name]

    def _row(self, einsum: Einsum) -> Row:
        reader = self.reader
        try:
            terms = products(einsum.value, self._is_wanted)
        except NotLinearError:
            raise CascadeError(
                f"{einsum.name} depends on earlier steps other than by a sum of products: they cannot be done at once"
            ) from None
        unknowns = frozenset(self.unknowns)
        found = [(term, self._wanted_in(term)) for term in terms]
        known: list[Product] = []
        for term, access in found:
            if access is None or reader.block.is_state(access):
                known += (
                    self._plain(einsum, term)
                    if access is None
                    else reader.known_in(einsum, term, self.circle)
                )
            elif access.tensor not in unknowns:
                known.append(self._with_stand_in(einsum, term, access))
        waits: list[Wait] = []
        for term, access in found:
            if access is not None:
                waits += self._waits(einsum, term, access)
        return Row(einsum, known, [self._renamed(einsum, w) for w in waits])

    def _waits(self, einsum: Einsum, term: Product, access: Access) -> list[Wait]:
        """Return what multiplies unknowns in one product of an Einsum."""
        reader, writer = self.reader, self.reader.writer
        if reader.block.is_state(access):
            return reader.waiting_in(einsum, term, self.unknowns, self.circle)
        rest = term.without(access).map(writer.at)
        if access.tensor in self.unknowns:
            return [reader.gathered(einsum, Wait(rest, access, NOW))]
        places = places_of(reader.block.others[access.tensor], access)
        places.pop(reader.block.step, None)
        found = []
        for wait in self.row(access.tensor).waits:
            inner = wait.changed(lambda node: substitute(node, places))
            found.append(reader.gathered(einsum, replace(inner, weight=rest.times(inner.weight))))
        return found

    def _plain(self, einsum: Einsum, term: Product) -> list[Product]:
        if einsum.reduced or self.reader.block.reads_state(einsum):
            return [self.reader.plain(einsum, term)]
        return [term.map(self.reader.writer.at)]

    def _with_stand_in(self, einsum: Einsum, term: Product, access: Access) -> Product:
        """Return a product in which what is known of a tensor of the circle stands in its place."""
        writer, block = self.reader.writer, self.reader.block
        source = block.others[access.tensor]
        if source.name not in self._stand_ins:
            known = self.row(source.name).known
            self._stand_ins[source.name] = self.reader.named(f"{source.name}B", known, source)
        there = substitute(self._stand_ins[source.name], places_of(source, access))

        def known_of(node: Expr) -> Expr:
            return there if node == access else node

        product = term.map(lambda f: writer.at(transform(f, known_of)))
        return self.reader.summed(f"{einsum.name}N", product, einsum) if einsum.reduced else product

    def _is_wanted(self, access: Access) -> bool:
        return self.reader.block.is_state(access) or access.tensor in self.circle

    def _wanted_in(self, term: Product) -> Access | None:
        return next((f for f in term.above if isinstance(f, Access) and self._is_wanted(f)), None)

    def _opened(self, einsum: Einsum) -> Einsum:
        """Return an Einsum in terms of unknowns, states, and those of its circle that are sums or read states."""
        block = self.reader.block
        inner = {
            n: e
            for n, e in block.others.items()
            if n in self.circle and n not in (*self.unknowns, einsum.name) and not block.reads_state(e)
        }
        for other in (*inner.values(), einsum):
            if other.where is not None or any(r.op != "sum" for r in other.all_reductions):
                raise CascadeError(f"{other.name} reduces what depends on earlier steps")
        plain = {n: e for n, e in inner.items() if not e.all_reductions}
        value = einsum.value
        for _ in plain:
            value = opened(value, plain)
        return replace(einsum, value=value)

    def _renamed(self, einsum: Einsum, wait: Wait) -> Wait:
        """Return the same with a name of its own for what an Einsum sums over and the unknown still holds."""
        mine = set(einsum.output_variables)
        values: dict[str, Expr] = {}
        firsts = self.reader.writer.firsts
        for own, index in self._axes(wait.unknown):
            if not isinstance(index, Var) or (
                index.name not in mine
                and not alike(self.reader.block, own, firsts.get(index.name, index.name))
            ):
                raise CascadeError(
                    f"{einsum.name} mixes the elements of {wait.unknown.tensor} of earlier steps"
                )
            if index.name not in mine and not self.reader.writer.is_beside(index.name):
                values[index.name] = Var(self.reader.writer.beside(own))
        return wait.changed(lambda node: substitute(node, values))

    def _axes(self, unknown: Access) -> list[tuple[str, Expr]]:
        """Return the variable of each axis of an unknown but that of the steps, and what an access reads there."""
        target = self.reader.block.others[unknown.tensor].target
        pairs = zip(target.indices, unknown.indices, strict=True)
        step = self.reader.block.step
        return [(own.name, i) for own, i in pairs if isinstance(own, Var) and own.name != step]

    def axes(self, name: str) -> frozenset[str]:
        """Return the variables of a tensor but that of the steps."""
        return frozenset(self.reader.block.others[name].output_variables) - {self.reader.block.step}

    def mixed(self, rows: list[Row]) -> frozenset[str]:
        """Return the axes along which elements of one step wait for other elements of earlier steps."""
        return frozenset(
            own
            for row in rows
            for wait in row.waits
            for own, index in self._axes(wait.unknown)
            if index != Var(own) or own not in row.einsum.output_variables
        )

    def coefficient(self, wait: Wait, mixed: frozenset[str]) -> Product:
        """Return what multiplies an unknown whose mixed axes go by their second names."""
        weight = wait.weight
        values: dict[str, Expr] = {}
        for own, index in self._axes(wait.unknown):
            second = self.reader.writer.beside(own) if own in mixed else own
            if index != Var(second):
                assert isinstance(index, Var)
                if self.reader.writer.is_beside(index.name):
                    values[index.name] = Var(second)
                    continue
                same = Compare(("==",), (Var(second), index))
                weight = weight.times(Product((Apply("select", (same, Num(1), Num(0))),)))
        return weight.map(lambda node: substitute(node, values))
