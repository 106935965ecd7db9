"""Einsums as Triton computes them: products of tiles on tensor cores, other reductions along axes of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from einsum_cascade.einsum import Einsum, Reduction
from einsum_cascade.expr import Access, Apply, Expr, variables
from einsum_cascade.ops import REDUCTION

from ..fusion.operations import product_of, sum_of_products
from .lanes import sides
from .operators import HELPERS, OVER, TWO
from .terms import CannotWriteError, Term, joined, literal
from .values import Values


@dataclass(frozen=True)
class Operand:
    """One side of a product of tiles: what it is, what has to hold of it, and the order of its axes."""

    value: Expr
    parts: tuple[Expr, ...]
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Dot:
    """A sum of products on tensor cores.

    Attributes:
        left, right: its sides, rows first; `outside`: factors of the sum.
        batch, rows, columns, inner: vectors of the result and of the sum.
    """

    left: Operand
    right: Operand
    outside: tuple[Expr, ...]
    batch: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    inner: tuple[str, ...]


class Sums:
    """Writes the reductions of Einsums.

    Args:
        values: what expressions mean.
        helpers: functions that the kernel calls are added to it.
    """

    def __init__(self, values: Values, helpers: dict[str, None]) -> None:
        """See the class."""
        self.values, self.helpers = values, helpers
        self.lanes, self.body = values.lanes, values.body
        self._dots: dict[int, Dot | None] = {}

    def stages(self, einsum: Einsum) -> list[list[Expr]]:
        """Return the conditions of an Einsum by the reduction at which they act; last, those of its output."""
        reductions = einsum.all_reductions
        out: list[list[Expr]] = [[] for _ in range(len(reductions) + 1)]
        for condition in self.values.memory.conditions(einsum):
            acts = (i for i, r in enumerate(reductions) if not condition.names.isdisjoint(r.variables))
            out[next(acts, len(reductions))].append(condition.holds)
        return out

    def whole(self, einsum: Einsum) -> Term:
        """Return an Einsum of which a block has all terms before it at once."""
        if not einsum.all_reductions:
            return self.values.term(einsum.value)
        return self.finished(einsum, self.part(einsum))

    def part(self, einsum: Einsum, onto: str | None = None) -> Term:
        """Return the first reduction of an Einsum over the terms that a block has before it.

        Args:
            onto: name of what it was over the terms before, which is included.
        """
        dot = self.dot(einsum)
        if dot is not None:
            return self._product(dot, onto)
        reduction = einsum.all_reductions[0]
        found = self._reduced(self.values.term(einsum.value), reduction, self.stages(einsum)[0])
        if onto is None:
            return found
        # What no term moves along has no axis there, but the sum so far has it.
        axes = self.lanes.ordered(v for v in einsum.variables if v not in reduction.variables)
        return Term(self.together(einsum, onto, found.along(axes)), axes, whole=False)

    def together(self, einsum: Einsum, one: str, other: str) -> str:
        """Return two parts of the first reduction of an Einsum as one."""
        form = TWO[einsum.all_reductions[0].op]
        self._helped(form)
        return form.format(one, other)

    def begun(self, einsum: Einsum) -> Term:
        """Return what the first reduction of an Einsum is before any term."""
        reduction = einsum.all_reductions[0]
        if REDUCTION[reduction.op].index:
            raise CannotWriteError(
                f"{einsum.name}: '{reduction.op}' over a rank that a block does not hold whole"
            )
        kept = [v for v in einsum.variables if v not in reduction.variables]
        return self.full(kept, literal(float(REDUCTION[reduction.op].identity)))

    def full(self, names: Sequence[str], term: Term) -> Term:
        """Return a tile along the vectors among some variables that is a term everywhere."""
        axes = self.lanes.ordered(names)
        number = term.as_float()
        if number.plain:
            return Term(f"tl.full({self.lanes.shape(axes)}, {number.text}, tl.float32)", axes)
        if number.axes == axes:
            return number
        if not number.axes:
            return Term(
                f"tl.zeros({self.lanes.shape(axes)}, tl.float32) + {number.bracketed}", axes, whole=False
            )
        return Term(f"tl.broadcast_to({number.along(axes)}, {self.lanes.shape(axes)})", axes)

    def finished(self, einsum: Einsum, first: Term) -> Term:
        """Return an Einsum from its first reduction: times the factors of the sum, and reduced further."""
        dot = self.dot(einsum)
        out = first
        for factor in dot.outside if dot else ():
            out = self._scaled(out, factor)
        stages = self.stages(einsum)
        for i, reduction in enumerate(einsum.all_reductions[1:], 1):
            out = self._reduced(out, reduction, stages[i])
        return out

    def _scaled(self, value: Term, factor: Expr) -> Term:
        order = self.lanes.order
        if isinstance(factor, Apply) and factor.op == "/" and getattr(factor.args[0], "value", None) == 1:
            below = self.values.term(factor.args[1]).as_float()
            return joined(order, "{} / {}".format, value, below, kind="float", whole=False)
        return joined(
            order, "{} * {}".format, value, self.values.term(factor).as_float(), kind="float", whole=False
        )

    def _reduced(self, value: Term, reduction: Reduction, parts: Sequence[Expr]) -> Term:
        """Return a value reduced along the vectors of a reduction, without the points that do not exist."""
        op = reduction.op
        along = self.lanes.ordered(reduction.variables)
        where = self.values.all_of(parts, inside=along)
        if REDUCTION[op].index:
            return self._picked(value.as_float(), reduction, where)
        value = self.values.chosen(where, value.as_float(), float(REDUCTION[op].identity))
        if not set(along) <= set(value.axes):
            value = self.full((*value.axes, *along), value)
        self._helped(OVER[op])
        for v in sorted(along, key=self.lanes.order.__getitem__, reverse=True):
            axis = value.axes.index(v)
            left = tuple(a for a in value.axes if a != v)
            value = Term(OVER[op].format(value.text, axis), left)
        return value

    def _picked(self, value: Term, reduction: Reduction, where: Term | None) -> Term:
        """Return where the largest values along a variable stand; -1 where there are too few of them.

        Minus infinity is taken for a point that does not exist.
        """
        (variable,) = reduction.variables
        masked = where is not None
        value = self.values.chosen(where, value, float("-inf"))
        if variable not in self.lanes.lanes:
            return self._only(value, reduction.into)
        if variable not in value.axes:
            value = self.full((*value.axes, variable), value)
        if reduction.into is None:
            return self._first_largest(value, variable, masked)
        rest = Term(self.body.let("rest", value.text), value.axes)
        wanted = self.lanes.extent(reduction.into)
        masked = masked or wanted > self.lanes.extent(variable)
        if reduction.sorted:
            return self._by_place(rest, variable, reduction.into, wanted)
        left = tuple(a for a in value.axes if a != variable)
        axes = self.lanes.ordered((*left, reduction.into))
        found = self.body.let("largest", f"tl.full({self.lanes.shape(axes)}, -1, tl.int32)")
        turn = self.body.fresh("turn")
        self.body.open(())
        at = self._first_largest(rest, variable, masked)
        slot = self.lanes.coordinate(reduction.into)
        form = f"tl.where({{}} == {turn}, {{}}, {{}})".format
        chosen = joined(self.lanes.order, form, slot, at, Term(found, axes), kind="int", whole=True)
        self.body.line(f"{found} = {chosen.text}")
        self._taken(rest, variable, at)
        self.body.close(f"for {turn} in range(0, {wanted}):")
        return Term(found, axes, "int")

    def _only(self, value: Term, into: str | None) -> Term:
        """Return where the largest of one stands."""
        order, there = self.lanes.order, f'{value.bracketed} == float("-inf")'
        at = Term(f"tl.where({there}, -1, 0)", value.axes, "int")
        if into is None or into not in self.lanes.lanes:
            return at
        slot = self.lanes.coordinate(into)
        return joined(order, "tl.where({} == 0, {}, -1)".format, slot, at, kind="int", whole=True)

    def _first_largest(self, value: Term, variable: str, masked: bool) -> Term:
        """Return where the first of the largest values stands."""
        axis = value.axes.index(variable)
        left = tuple(a for a in value.axes if a != variable)
        at = f"tl.argmax({value.text}, axis={axis})"
        if masked:
            at = f'tl.where(tl.max({value.text}, axis={axis}) == float("-inf"), -1, {at})'
        return Term(self.body.let("at", at), left, "int")

    def _taken(self, rest: Term, variable: str, at: Term) -> None:
        """Write that a value does not count any more."""
        place = self.lanes.coordinate(variable)
        form = 'tl.where({} == {}, float("-inf"), {})'.format
        gone = joined(self.lanes.order, form, place, at, rest, kind="float", whole=True)
        self.body.line(f"{rest.text} = {gone.text}")

    def _by_place(self, rest: Term, variable: str, into: str, wanted: int) -> Term:
        """Return where the largest values stand, in ascending order: the j-th place is that which has j before it."""
        order, axes = self.lanes.order, rest.axes
        taken = self.body.let("taken", f"tl.zeros({self.lanes.shape(axes)}, tl.int32)")
        turn = self.body.fresh("turn")
        self.body.open(())
        at = self._first_largest(rest, variable, masked=True)
        place = self.lanes.coordinate(variable)
        form = "tl.where({} == {}, 1, {})".format
        self.body.line(
            f"{taken} = {joined(order, form, place, at, Term(taken, axes), kind='int', whole=True).text}"
        )
        self._taken(rest, variable, at)
        self.body.close(f"for {turn} in range(0, {wanted}):")
        before = self.body.let("before", f"tl.cumsum({taken}, axis={axes.index(variable)})")
        slot = self.lanes.coordinate(into)
        form = "tl.where(({} == 1) & ({} == {} + 1), {} + 1, 0)".format
        marks = joined(
            order, form, Term(taken, axes), Term(before, axes), slot, place, kind="int", whole=True
        )
        left = tuple(a for a in marks.axes if a != variable)
        return Term(f"(tl.sum({marks.text}, axis={marks.axes.index(variable)}) - 1)", left, "int")

    def _helped(self, form: str) -> None:
        self.helpers.update(dict.fromkeys(name for name in HELPERS if name in form))

    def dot(self, einsum: Einsum) -> Dot | None:
        """Return an Einsum as a product of tiles; None where it is none, or too small for tensor cores."""
        if id(einsum) not in self._dots:
            self._dots[id(einsum)] = self._as_dot(einsum)
        return self._dots[id(einsum)]

    def _as_dot(self, einsum: Einsum) -> Dot | None:
        product = product_of(einsum)
        if product is None:
            return None
        groups = sides(product, self.lanes.lanes)
        if not all(groups):
            return None
        inside, outside = sum_of_products(einsum)
        one = inside[product.alone]
        other = reduce(
            lambda a, b: Apply("*", (a, b)), [f for i, f in enumerate(inside) if i != product.alone]
        )
        rows, columns, inner = (self.lanes.ordered(g) for g in groups)
        batch = self.lanes.ordered(set(variables(one)) & set(variables(other)) - set(product.inner))
        used = {*batch, *rows, *columns, *inner}
        if not set(self.lanes.ordered({*variables(one), *variables(other)})) <= used or len(batch) > 1:
            return None
        first, second = one, other
        if self.lanes.order[rows[0]] > self.lanes.order[columns[0]]:
            first, second, rows, columns = second, first, columns, rows
        left, right = (*batch, *rows, *inner), (*batch, *inner, *columns)
        held = self._shared(einsum, set(left), set(right))
        if held is None:
            return None
        return Dot(
            Operand(first, held[0], left),
            Operand(second, held[1], right),
            outside,
            batch,
            rows,
            columns,
            inner,
        )

    def _shared(
        self, einsum: Einsum, left: set[str], right: set[str]
    ) -> tuple[tuple[Expr, ...], tuple[Expr, ...]] | None:
        """Return the conditions of the terms of a sum by the side that they act on; None where one names both."""
        of_left: list[Expr] = []
        of_right: list[Expr] = []
        for part in self.stages(einsum)[0]:
            names = set(self.lanes.ordered(variables(part)))
            if names <= left:
                of_left.append(part)
            elif names <= right:
                of_right.append(part)
            else:
                return None
        return tuple(of_left), tuple(of_right)

    def _product(self, dot: Dot, onto: str | None) -> Term:
        shown = [self._operand(side, dot) for side in (dot.left, dot.right)]
        exact = ', input_precision="ieee"' if self.values.word == "fp32" else ""
        made = (*dot.batch, *dot.rows, *dot.columns)
        axes = self.lanes.ordered(made)
        plain = len(dot.rows) == len(dot.columns) == 1 and axes == made
        if onto is not None and plain:
            return Term(f"tl.dot({shown[0]}, {shown[1]}, {onto}{exact})", axes)
        text = f"tl.dot({shown[0]}, {shown[1]}{exact})"
        if len(dot.rows) > 1 or len(dot.columns) > 1:
            text = f"tl.reshape({text}, {self.lanes.shape(made)})"
        if axes != made:
            text = f"tl.permute({text}, {tuple(made.index(a) for a in axes)})"
        return Term(text, axes) if onto is None else Term(f"{onto} + {text}", axes, whole=False)

    def _operand(self, side: Operand, dot: Dot) -> str:
        """Return one side of a product as a matrix in the type of its tensors."""
        bounds: tuple[str, ...] = ()
        raw = isinstance(side.value, Access) and side.value.tensor not in self.values.registers.writers
        if isinstance(side.value, Access) and raw:
            # What is masked is put together with masks in the kernel's order, and turned behind.
            turned = side.axes if self.values.all_of(side.parts) is None else None
            term = self.values.load(side.value, turned)
            raw = self.values.memory.pointer(side.value.tensor, self.values.word) == self.values.word
            term = term.as_float()
        else:
            term = self.values.term(side.value).as_float()
            bounds = dot.inner
        where = self.values.all_of(side.parts, inside=bounds)
        if where is not None:
            term = self.values.chosen(where, term, 0.0)
        text, axes = term.text, term.axes
        if set(axes) != set(side.axes):
            every = self.lanes.ordered(side.axes)
            text, axes = self.full(every, term).text, every
        if axes != side.axes:
            text = f"tl.permute({text}, {tuple(axes.index(a) for a in side.axes)})"
        groups = [dot.batch, *((dot.rows, dot.inner) if side is dot.left else (dot.inner, dot.columns))]
        if any(len(g) > 1 for g in groups):
            shape = ", ".join(" * ".join(self.lanes.constant(v) for v in g) for g in groups if g)
            text = f"tl.reshape({text}, [{shape}])"
        return text if raw or self.values.word == "fp32" else f"({text}).to({TYPES[self.values.word]})"


TYPES = {"fp32": "tl.float32", "bf16": "tl.bfloat16", "fp16": "tl.float16"}
