"""New Einsums of a chunk: free names, coordinates of a chunk, and products contracted group by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ...cascade import Cascade, fresh_name
from ...declarations import Rank, rank_of, variable_of
from ...einsum import Einsum, Reduction
from ...errors import CascadeError
from ...expr import Access, Apply, Compare, Expr, Num, Size, Var, substitute, transform, variables
from ..partition import part_names
from ..places import Digits
from .linear import Product, summands, total


@dataclass(frozen=True)
class Ranks:
    """The ranks of a recurrence in chunks.

    Attributes:
        whole: the rank of all steps.
        outer, inner: chunks, and steps inside one.
        earlier, between: second and third name of `inner`, for pairs and triples of steps.
    """

    whole: str
    outer: str
    inner: str
    earlier: str
    between: str

    @property
    def step(self) -> Var:
        """The variable over all steps."""
        return Var(variable_of(self.whole))

    @property
    def chunk(self) -> Var:
        """The variable over chunks."""
        return Var(variable_of(self.outer))

    @property
    def now(self) -> Var:
        """The variable over the steps of a chunk."""
        return Var(variable_of(self.inner))

    @property
    def then(self) -> Var:
        """The variable over the steps of a chunk that come before, or at, `now`."""
        return Var(variable_of(self.earlier))

    @property
    def amid(self) -> Var:
        """The variable over the steps from `then` to `now`."""
        return Var(variable_of(self.between))

    @property
    def last(self) -> Expr:
        """The last step of a chunk."""
        return Apply("-", (Size(self.inner), Num(1)))

    @property
    def names(self) -> frozenset[str]:
        """The variables that say where in time a value belongs."""
        return frozenset(v.name for v in (self.chunk, self.now, self.then, self.amid))


def ranks_of(cascade: Cascade, rank: str) -> Ranks:
    """Return free names for the ranks of a recurrence in chunks: T = T1 * T0, and S0 and R0 for T0 again."""
    outer, inner = part_names(cascade, rank)
    taken = {*cascade.rank_names, *cascade.signatures, *(c.name for c in cascade.constants), outer, inner}
    others: list[str] = []
    for letter in "SRUVWXYZ":
        for name in (f"{letter}0", f"{letter}_0"):
            if name not in taken and len(others) < 2:
                others.append(name)
                taken.add(name)
                break
    return Ranks(rank, outer, inner, *others)


@dataclass
class Writer:
    """The Einsums of one chunk, in an order in which each reads only what stands before it.

    Attributes:
        made: where each tensor of the block has its axis of steps, which becomes chunk and step of the chunk.
        digits: of indices by sizes of blocks.
        apart: whether a gate on a summed rank is divided between the factors of both steps.
        einsums: those written so far.
        names: tensors that have a name already.
        seconds: second and third names of ranks, by the variables that run over them; at earlier steps an Einsum may
            meet other elements than its own.
    """

    cascade: Cascade
    ranks: Ranks
    made: dict[str, int]
    digits: Digits
    apart: bool = False
    einsums: list[Einsum] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    seconds: dict[str, tuple[str, str]] = field(default_factory=dict)
    _once: dict[str, Access] = field(default_factory=dict)
    _same: dict[tuple[object, ...], str] = field(default_factory=dict)

    def fresh(self, wanted: str) -> str:
        """Return a tensor name that is free."""
        name = fresh_name(self.cascade, wanted, [*self.names, *_rank_names(self.ranks)])
        self.names.add(name)
        return name

    def beside(self, variable: str) -> str:
        """Return the second name of a variable, for elements of earlier steps."""
        return self._named_twice(variable)[0]

    def between(self, variable: str) -> str:
        """Return the third name of a variable, for elements of steps between."""
        return self._named_twice(variable)[1]

    def _named_twice(self, variable: str) -> tuple[str, str]:
        if variable not in self.seconds:
            rank = rank_of(variable)
            self.seconds[variable] = (
                variable_of(self.fresh(f"{rank}_1")),
                variable_of(self.fresh(f"{rank}_2")),
            )
        return self.seconds[variable]

    @property
    def firsts(self) -> dict[str, str]:
        """The first names of variables that have second ones, by these."""
        return {second: variable for variable, (second, _) in self.seconds.items()}

    def is_beside(self, variable: str) -> bool:
        """Tell whether a variable is the second name of another."""
        return variable in self.besides

    @property
    def besides(self) -> frozenset[str]:
        """The second names of variables."""
        return frozenset(self.firsts)

    def at(self, node: Expr, place: Expr | None = None) -> Expr:
        """Return an expression of one step of the recurrence at a step of a chunk.

        Args:
            place: the step of the chunk, `now` unless given.

        Raises:
            CascadeError: a tensor of the block is read at another step than the present one.
        """
        inner = place or self.ranks.now
        step, chunk = self.ranks.step, self.ranks.chunk

        def change(n: Expr) -> Expr:
            if not isinstance(n, Access) or n.tensor not in self.made:
                return n
            slot = self.made[n.tensor]
            if n.indices[slot] != step:
                raise CascadeError(f"{n.tensor} is read at another step than the one it is made in")
            return Access(n.tensor, (*n.indices[:slot], chunk, inner, *n.indices[slot + 1 :]))

        offset = Apply("+", (Apply("*", (chunk, Size(self.ranks.inner))), inner))
        placed = substitute(transform(node, change), {step.name: offset})
        return transform(placed, self.digits.worked_out)

    def write(
        self,
        name: str,
        value: Expr,
        keep: Iterable[str],
        *,
        where: Expr | None = None,
        op: str = "sum",
    ) -> Access:
        """Write an Einsum and return the access that reads it; one that stands there already is only read.

        Args:
            keep: the variables that stay; chunk and steps come first.
        """
        kept = set(keep)
        present = [v for v in variables(value) if v in kept]
        times = [v.name for v in (self.ranks.chunk, self.ranks.then, self.ranks.now) if v.name in kept]
        order = [*times, *(v for v in dict.fromkeys(present) if v not in times)]
        order += sorted(kept - set(order))
        met = (*variables(value), *(() if where is None else variables(where)))
        gone = tuple(v for v in dict.fromkeys(met) if v not in kept)
        said = op != "sum" or (where is not None and _met(where, gone))
        reductions = (Reduction(op, gone),) if gone and said else ()
        target = Access(name, tuple(map(Var, order)))
        same = (value, tuple(order), reductions, where)
        if same in self._same:
            return Access(self._same[same], target.indices)
        self._same[same] = name
        self.einsums.append(Einsum(target, value, reductions, where))
        return target

    def once(self, wanted: str, value: Expr, keep: Iterable[str], *, where: Expr, op: str = "sum") -> Access:
        """Write an Einsum as `write` does, the first time that its name is wanted."""
        if wanted not in self._once:
            self._once[wanted] = self.write(self.fresh(wanted), value, keep, where=where, op=op)
        return self._once[wanted]

    def one(self, wanted: str, product: Product, *, where: Expr | None = None) -> Expr:
        """Return a product as the read of one tensor, written as an Einsum of its own unless it is one."""
        single = len(product.above) == 1 and not product.below and isinstance(product.above[0], Access)
        if single and where is None:
            return product.above[0]
        keep = {self.ranks.chunk.name, *product.variables}
        return self.write(self.fresh(wanted), product.value, keep, where=where)

    def order(self, *, strict: bool) -> Expr:
        """Return the condition that `then` comes before `now`, or is `now` unless strict."""
        return Compare(("<" if strict else "<=",), (self.ranks.then, self.ranks.now))

    def contracted(self, wanted: str, product: Product, keep: frozenset[str], *, strict: bool) -> Product:
        """Return a product summed over the earlier steps and over what is not kept, sums over the fewest factors first.

        Args:
            product: factors at `now`, at `then`, and between both.
            keep: variables of the result besides those of time.
            strict: earlier steps only, not `now` itself.
        """
        then, now = self.ranks.then.name, self.ranks.now.name
        mask: Expr | None = self.order(strict=strict)
        pairs, rest = self.weights(wanted, product, keep | self.besides, strict=strict)
        if pairs is not None and {then, now} <= set(variables(pairs)):
            mask = None  # what is masked once stays masked where it is read
        earlier = {then, *self.besides}
        outside, inside = rest.split(lambda f: earlier.isdisjoint(variables(f)))
        # What multiplies the result alike for every earlier step is applied once, after the sum.
        scalars, vectors = inside.split(lambda f: set(variables(f)) <= self.ranks.names | self.besides)
        weighing = Product(() if pairs is None else (pairs,)).times(scalars.unsigned)
        if vectors.above or vectors.below:
            if weighing.above or weighing.below:
                both = self.one(f"{wanted}D", weighing, where=mask if _has(weighing, then, now) else None)
                mask = None if _has(weighing, then, now) else mask
                weighing = Product((both,))
            weighing = weighing.times(vectors.unsigned)
        mine = {self.ranks.chunk.name, now, *(keep & weighing.variables)}
        summed = self.write(self.fresh(f"{wanted}I"), weighing.value, mine, where=mask)
        return Product((summed,), negative=product.negative).times(outside.unsigned)

    def weights(
        self, wanted: str, product: Product, keep: frozenset[str], *, strict: bool
    ) -> tuple[Expr | None, Product]:
        """Return the factors that sums other than that over earlier steps touch, summed, and the others.

        Factors of one of both steps are multiplied first, so that the sum is a product of two matrices.
        """
        then, now = self.ranks.then.name, self.ranks.now.name
        gone = product.variables - keep - self.ranks.names
        if not gone:
            return None, product
        touched, rest = product.split(lambda f: bool(set(variables(f)) & gone))
        if self.apart:
            touched = touched.map_above(lambda f: _torn(f, now, then, self.middle))
        late, others = touched.split(lambda f: then not in variables(f))
        early, both = others.split(lambda f: now not in variables(f))
        sides = [
            side if is_outer(side, gone) else Product((self.one(f"{wanted}{letter}", side),))
            for letter, side in (("Q", late), ("K", early))
            if side.above or side.below
        ]
        for side in reversed(sides):
            both = side.times(both)
        both = self.thinned(f"{wanted}W", both, gone)
        mask = self.order(strict=strict) if _has(both, then, now) else None
        mine = {self.ranks.chunk.name, *(both.variables - gone)}
        return self.write(self.fresh(f"{wanted}W"), both.value, mine, where=mask), rest

    def thinned(self, wanted: str, product: Product, gone: frozenset[str]) -> Product:
        """Return a product with those sums over some of its factors done that take fewer steps than one over all.

        The product of k q and v o, summed over the axes of both pairs, is a product of two numbers.

        Args:
            gone: variables that are to be summed over.
        """
        while not product.below:
            whole = product.variables
            groups = [[f for f in product.above if v in variables(f)] for v in sorted(gone & whole)]
            spaces = [frozenset(v for f in group for v in variables(f)) for group in groups]
            smaller = [i for i, space in enumerate(spaces) if len(space) < len(whole) and len(groups[i]) > 1]
            if not smaller:
                break
            group = groups[min(smaller, key=lambda i: (len(spaces[i]), len(groups[i])))]
            rest = [f for f in product.above if f not in group]
            mine = Product(tuple(group))
            left = mine.variables - (gone - {v for f in rest for v in variables(f)})
            summed = self.write(self.fresh(wanted), mine.value, {self.ranks.chunk.name, *left})
            product = Product((summed, *rest), negative=product.negative)
        return product

    def middle(self, node: Expr, variable: str) -> Expr:
        """Return a value of one step at the middle of a chunk."""
        half = Apply("//", (Size(self.ranks.inner), Num(2)))
        return substitute(node, {variable: half})


def is_outer(product: Product, gone: frozenset[str]) -> bool:
    """Tell whether a product is larger than any of its factors along what is to be summed over."""
    mine = gone & product.variables
    return not product.below and len(mine) > 1 and not any(mine <= set(variables(f)) for f in product.above)


def fresh_ranks(writer: Writer, walked: frozenset[str]) -> tuple[Rank, ...]:
    """Return the second names of the rank of steps, and of others, that some Einsum walks."""
    ranks, aliases = writer.ranks, writer.cascade.aliases
    named = [(name, ranks.inner) for name in (ranks.earlier, ranks.between)]
    for variable, others in writer.seconds.items():
        rank = rank_of(variable)
        named += [(rank_of(v), aliases.get(rank, rank)) for v in others]
    return tuple(Rank(name, Size(of)) for name, of in named if variable_of(name) in walked)


def _torn(node: Expr, now: str, then: str, middle: Callable[[Expr, str], Expr]) -> tuple[Expr, ...]:
    """Return exp(a - b), a of the later step and b of the earlier one, as exp(a - c) and exp(c - b).

    The reference c is b at the middle of the chunk, so that neither exponent exceeds half of what a chunk decays by.
    """
    if not isinstance(node, Apply) or node.op != "exp":
        return (node,)
    parts = summands(Product((node.args[0],)))
    late = [p for p in parts if then not in p.variables]
    early = [p for p in parts if then in p.variables]
    if not late or not early or any(now in p.variables for p in early):
        return (node,)
    # Early parts are what to take from; the reference is theirs at the middle of the chunk.
    reference = [p.map(lambda f: middle(f, then)) for p in early]
    return tuple(
        Apply("exp", (total(sum_),)) for sum_ in (late + reference, [p.negated for p in reference] + early)
    )


def _met(node: Expr, names: Iterable[str]) -> bool:
    return not set(names).isdisjoint(variables(node))


def _has(product: Product, *names: str) -> bool:
    return set(names) <= product.variables


def _rank_names(ranks: Ranks) -> tuple[str, ...]:
    return ranks.outer, ranks.inner, ranks.earlier, ranks.between
