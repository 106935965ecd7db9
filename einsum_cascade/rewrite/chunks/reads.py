"""An Einsum of the recurrence at the steps of a chunk: its reads of states taken apart into products of matrices."""

from __future__ import annotations

from dataclasses import dataclass

from ...einsum import Einsum
from ...errors import CascadeError
from ...expr import Access, Apply, Num, Size, substitute, variables
from .block import Block, State, outer_product
from .extremes import copied_extreme, updated_extreme
from .linear import Product, holds, products, total
from .paths import Fed, Paths, Walker
from .writer import Writer, is_outer


@dataclass
class Reader:
    """Writes the Einsums of a block at the steps of a chunk."""

    block: Block
    writer: Writer
    walker: Walker

    def read(self, einsum: Einsum) -> None:
        """Write an Einsum at every step of a chunk."""
        writer = self.writer
        copied = self.block.copies.get(einsum.name)
        if copied is not None and self.block.states[copied.tensor].op != "sum":
            self.walker.walked[copied.tensor] = None
            copied_extreme(writer, self.block, einsum)
            return
        if not self.block.reads_state(einsum):
            where = None if einsum.where is None else writer.at(einsum.where)
            target, value = writer.at(einsum.target), writer.at(einsum.value)
            assert isinstance(target, Access)
            writer.einsums.append(Einsum(target, value, einsum.reductions, where))
            return
        target = writer.at(einsum.target)
        assert isinstance(target, Access)
        writer.einsums.append(Einsum(target, total(self.known(einsum))))

    def known(self, einsum: Einsum, unknown: str = "") -> list[Product]:
        """Return the parts of an Einsum that reads states, without those that hold an unknown tensor."""
        parts: list[Product] = []
        for term in products(einsum.value, self.block.is_state):
            access = self._state_in(term)
            if access is None:
                parts.append(self._plain(einsum, term))
                continue
            state = self.block.states[access.tensor]
            rest = term.without(access).map(self.writer.at)
            paths = self._paths(state, access)
            parts += [self._carried(einsum, rest.times(c.weight), c.state) for c in paths.carried]
            parts += [
                self._fed(einsum, rest, f)
                for f in paths.fed
                if not holds(f.added.value, lambda a: a.tensor == unknown)
            ]
        return parts

    def waiting(self, einsum: Einsum, unknown: str) -> list[tuple[Product, Access]]:
        """Return what multiplies an unknown tensor of earlier steps in an Einsum, and the read of it."""
        found = []
        for term in products(einsum.value, self.block.is_state):
            access = self._state_in(term)
            if access is None:
                continue
            rest = term.without(access).map(self.writer.at)
            for f in self._paths(self.block.states[access.tensor], access).fed:
                wanted = next(
                    (a for a in f.added.above if isinstance(a, Access) and a.tensor == unknown), None
                )
                if wanted is None:
                    if holds(f.added.value, lambda a: a.tensor == unknown):
                        raise CascadeError(
                            f"what a step adds is divided by {unknown}, which earlier steps decide"
                        )
                    continue
                others = f.added.without(wanted).map(lambda n: self.writer.at(n, self.writer.ranks.then))
                product = rest.times(f.weight).times(others)
                keep = self._kept(einsum)
                pairs, left = self.writer.weights(einsum.name, product, keep, strict=f.strict)
                found.append((Product(() if pairs is None else (pairs,)).times(left), wanted))
        return found

    def _paths(self, state: State, access: Access) -> Paths:
        """Return the paths of what an access reads of a state."""
        places = state.places(access)
        paths = self.walker.paths(state, before=self.block.is_before(access))
        return paths.changed(lambda node: substitute(node, places))

    def _state_in(self, term: Product) -> Access | None:
        return next((f for f in term.above if isinstance(f, Access) and self.block.is_state(f)), None)

    def _kept(self, einsum: Einsum) -> frozenset[str]:
        return frozenset(einsum.output_variables) - {self.block.step}

    def _plain(self, einsum: Einsum, term: Product) -> Product:
        """Return a part without a state, its sums done."""
        product = Product(negative=term.negative, below=term.below)
        for factor in term.above:
            product = product.times(outer_product(factor, self.block.others) or Product((factor,)))
        return self._summed(f"{einsum.name}N", product.map(self.writer.at), self._kept(einsum))

    def _carried(self, einsum: Einsum, weight: Product, state: Access) -> Product:
        """Return the part of a state with which the chunk began."""
        gone = (weight.variables | set(variables(state))) - self._kept(einsum) - self.writer.ranks.names
        touched, rest = weight.split(lambda f: bool(set(variables(f)) & gone))
        if rest.shares_work(frozenset(variables(state)) | weight.variables):
            # Once for all elements that share it.
            one = self.writer.one(f"{state.tensor}S", rest.unsigned)
            rest = Product((one,), negative=rest.negative)
        if not gone:
            return rest.times(Product((state,)))
        if is_outer(touched, frozenset(gone)):
            part = self._summed(f"{einsum.name}X", touched.times(Product((state,))), self._kept(einsum))
            return part.times(rest)
        host = Product()
        if touched.above or touched.below:
            host = Product((self.writer.one(f"{einsum.name}Q", touched),))
        part = self._summed(f"{einsum.name}X", host.times(Product((state,))), self._kept(einsum))
        return part.times(rest)

    def _summed(self, wanted: str, product: Product, keep: frozenset[str]) -> Product:
        """Return a product of one step summed over all that is not kept."""
        gone = product.variables - keep - self.writer.ranks.names
        if not gone:
            return product
        touched, rest = product.split(lambda f: bool(set(variables(f)) & gone))
        touched = self.writer.thinned(wanted, touched, gone)
        mine = self.writer.ranks.names & touched.variables | {self.writer.ranks.chunk.name}
        summed = self.writer.write(
            self.writer.fresh(wanted), touched.value, mine | (touched.variables - gone)
        )
        return Product((summed,)).times(rest)

    def _fed(self, einsum: Einsum, rest: Product, fed: Fed) -> Product:
        """Return the part of what was added at the steps of the chunk."""
        added = fed.added.map(lambda n: self.writer.at(n, self.writer.ranks.then))
        product = rest.times(fed.weight).times(added)
        return self.writer.contracted(einsum.name, product, self._kept(einsum), strict=fed.strict)

    def update(self, state: State) -> None:
        """Write a state at the end of a chunk."""
        if state.op != "sum":
            updated_extreme(self.writer, state)
            return
        writer, ranks = self.writer, self.writer.ranks
        paths = self.walker.paths(state, before=False).at_end(writer)
        parts = []
        for c in paths.carried:
            weight = c.weight
            if weight.shares_work(frozenset(variables(c.state))):
                weight = Product((writer.one(f"{state.name}E", weight.unsigned),), negative=weight.negative)
            parts.append(weight.times(Product((c.state,))))
        for f in paths.fed:
            added = f.added.map(lambda n: writer.at(n, ranks.then))
            parts.append(self._gathered(state, f.weight.times(added)))
        target = state.at(Apply("+", (ranks.chunk, Num(1))))
        writer.einsums.append(Einsum(target, total(parts)))

    def _gathered(self, state: State, product: Product) -> Product:
        """Return what the steps of a chunk leave in a state, what weighs them multiplied into the smallest factor."""
        writer, ranks = self.writer, self.writer.ranks
        axes = frozenset(state.axes)
        tensors, weights = product.split(lambda f: isinstance(f, Access) and bool(set(variables(f)) & axes))
        heavy = {v for f in (*weights.above, *weights.below) for v in variables(f)} & axes
        hosts = [f for f in tensors.above if heavy <= set(variables(f))]
        rest = Product(tensors.above, tensors.below)
        weighing = weights.unsigned
        host = (
            min(hosts, key=lambda f: len(set(variables(f)) & axes))
            if len(tensors.above) > 1 and hosts
            else None
        )
        if weighing.shares_work(axes if host is None else frozenset(variables(host))):
            weighing = Product((writer.one(f"{state.name}K", weighing),))
        if host is not None and not weighing.is_one:
            one = writer.one(f"{state.name}K", Product((host,)).times(weighing))
            rest, weighing = rest.without(host).times(Product((one,))), Product()
        value = rest.times(weighing).plain()
        if ranks.then.name not in value.variables:
            value = value.times(Product((Size(ranks.inner),)))  # every step adds the same
        keep = {ranks.chunk.name, *(axes & value.variables)}
        summed = writer.write(writer.fresh(f"{state.name}U"), value.value, keep)
        return Product((summed,), negative=product.negative)
