"""An Einsum of the recurrence at the steps of a chunk: its reads of states taken apart into products of matrices."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from ...declarations import rank_of
from ...einsum import Einsum
from ...errors import CascadeError
from ...expr import Access, Apply, Expr, Num, Size, accesses, substitute, variables
from .block import Block, State, outer_product
from .extremes import copied_extreme, updated_extreme
from .linear import Product, holds, products, total
from .paths import Fed, Paths, Walker
from .writer import Writer, is_outer

# When a step meets what it waits for: at steps before it, at those and at itself, at itself alone.
EARLIER, UP_TO, NOW = "earlier", "up to", "now"


@dataclass(frozen=True)
class Wait:
    """What multiplies an unknown of earlier steps, or of the same one.

    Attributes:
        weight: in the coordinates of a chunk.
        unknown: the read of it, at a step of the recurrence.
        when: at which steps it is met.
    """

    weight: Product
    unknown: Access
    when: str

    def changed(self, change: Callable[[Expr], Expr]) -> Wait:
        """Return the same with every expression changed."""
        unknown = change(self.unknown)
        assert isinstance(unknown, Access)
        return replace(self, weight=self.weight.map(change), unknown=unknown)


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

    def known(self, einsum: Einsum) -> list[Product]:
        """Return the parts of an Einsum that reads states."""
        terms = products(einsum.value, self.block.is_state)
        return [part for term in terms for part in self.known_in(einsum, term, frozenset())]

    def known_in(self, einsum: Einsum, term: Product, circle: frozenset[str]) -> list[Product]:
        """Return the parts of a product in an Einsum that reads states, without those that wait for a circle."""
        access = self._state_in(term)
        if access is None:
            return [self.plain(einsum, term)]
        rest = term.without(access).map(self.writer.at)
        paths = self._paths(self.block.states[access.tensor], access)
        parts = [self._carried(einsum, rest.times(c.weight), c.state) for c in paths.carried]
        return parts + [
            self._fed(einsum, rest, f)
            for f in paths.fed
            if not holds(f.added.value, lambda a: a.tensor in circle)
        ]

    def waiting_in(
        self, einsum: Einsum, term: Product, unknowns: Collection[str], circle: frozenset[str]
    ) -> list[Wait]:
        """Return what multiplies unknown tensors of earlier steps in a product that reads a state."""
        access = self._state_in(term)
        assert access is not None
        rest = term.without(access).map(self.writer.at)
        found = []
        for f in self._paths(self.block.states[access.tensor], access).fed:
            wanted = [a for a in f.added.above if isinstance(a, Access) and a.tensor in unknowns]
            others = f.added.without(wanted[0]) if wanted else f.added
            hidden = sorted({a.tensor for a in accesses(others.value)} & circle)
            if hidden:
                raise CascadeError(
                    f"what a step adds is no sum of products of {hidden[0]}, which earlier steps decide"
                )
            if wanted:
                others = others.map(lambda n: self.writer.at(n, self.writer.ranks.then))
                product = rest.times(f.weight).times(others)
                wait = Wait(product, wanted[0], EARLIER if f.strict else UP_TO)
                found.append(self.gathered(einsum, wait))
        return found

    def gathered(self, einsum: Einsum, wait: Wait) -> Wait:
        """Return the same with the sums over all that neither the Einsum nor the unknown keeps."""
        wait = replace(wait, weight=_times_alike(einsum, wait.weight, set(variables(wait.unknown))))
        keep = self._kept(einsum) | {v for i in wait.unknown.indices for v in variables(i)}
        pairs, left = self.writer.weights(einsum.name, wait.weight, keep, strict=wait.when == EARLIER)
        return replace(wait, weight=Product(() if pairs is None else (pairs,)).times(left))

    def named(self, wanted: str, parts: list[Product], einsum: Einsum) -> Access:
        """Return the read of a sum of products as a tensor with the axes of an Einsum."""
        writer = self.writer
        keep = {writer.ranks.chunk.name, writer.ranks.now.name, *self._kept(einsum)}
        single = single_of(parts)
        if single is not None and set(variables(single)) == keep:
            return single
        return writer.write(writer.fresh(wanted), total(parts), keep)

    def _paths(self, state: State, access: Access) -> Paths:
        """Return the paths of what an access reads of a state."""
        places = state.places(access)
        paths = self.walker.paths(state, before=self.block.is_before(access))
        return paths.changed(lambda node: substitute(node, places))

    def _state_in(self, term: Product) -> Access | None:
        return next((f for f in term.above if isinstance(f, Access) and self.block.is_state(f)), None)

    def _kept(self, einsum: Einsum) -> frozenset[str]:
        return frozenset(einsum.output_variables) - {self.block.step}

    def plain(self, einsum: Einsum, term: Product) -> Product:
        """Return a part without a state, its sums done."""
        product = Product(negative=term.negative, below=term.below)
        for factor in term.above:
            product = product.times(outer_product(factor, self.block.others) or Product((factor,)))
        return self.summed(f"{einsum.name}N", product.map(self.writer.at), einsum)

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
            part = self.summed(f"{einsum.name}X", touched.times(Product((state,))), einsum)
            return part.times(rest)
        host = Product()
        if touched.above or touched.below:
            host = Product((self.writer.one(f"{einsum.name}Q", touched),))
        part = self.summed(f"{einsum.name}X", host.times(Product((state,))), einsum)
        return part.times(rest)

    def summed(self, wanted: str, product: Product, einsum: Einsum) -> Product:
        """Return a product of one step summed over all that an Einsum does not keep."""
        keep = self._kept(einsum)
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
        product = _times_alike(einsum, rest.times(fed.weight).times(added), set())
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


def _times_alike(einsum: Einsum, product: Product, others: set[str]) -> Product:
    """Return a product times the number of terms that are alike: those of a sum over what it does not depend on."""
    for variable in einsum.reduced:
        if variable not in product.variables | others:
            product = product.times(Product((Size(rank_of(variable)),)))
    return product


def single_of(parts: list[Product]) -> Access | None:
    """Return the one access that a sum of products is, or None."""
    if len(parts) != 1 or parts[0].negative or parts[0].below or len(parts[0].above) != 1:
        return None
    (factor,) = parts[0].above
    return factor if isinstance(factor, Access) else None
