"""What a traced tensor is: axes, and the expression of one element; tensors are defined only where that is needed.

No torch here: the axes of a value are matched as operations meet them, and ranks get their names at the end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..declarations import free_name
from ..einsum import Einsum, Reduction
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, transform, variables


class UntraceableError(Exception):
    """Something the language has no words for; the tracer adds the place in the user's source."""


@dataclass(eq=False)
class Axis:
    """One dimension of traced tensors; axes that must be equal are joined.

    Attributes:
        size: in the example.
        same: the axis that this one was joined to.
        other_name_of: the same rank walked by a second variable (keys and queries of one sequence).
        parts: axes whose product it is.
        joined: the axes that were joined to this one.
        number: of this axis alone.
    """

    size: int
    same: Axis | None = None
    other_name_of: Axis | None = None
    parts: tuple[Axis, ...] = ()
    joined: list[Axis] = field(default_factory=list)
    number: int = field(default_factory=itertools.count().__next__)

    @property
    def root(self) -> Axis:
        """The axis that stands for all that were joined."""
        return self if self.same is None else self.same.root

    @property
    def origin(self) -> Axis:
        """The rank behind second names."""
        root = self.root
        return root if root.other_name_of is None else root.other_name_of.origin


Element = Callable[[tuple[Expr, ...]], Expr]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor as the expression of its element.

    Attributes:
        axes: one per dimension; None for one that nothing ties down yet (arange, ones).
        sizes: of the dimensions.
        element: the expression at given indices.
        plain: it is read by an access, so that it may stand in several places.
    """

    axes: tuple[Axis | None, ...]
    sizes: tuple[int, ...]
    element: Element
    plain: bool = False


@dataclass
class Builder:
    """The Einsums made so far; local to one trace.

    Attributes:
        places: tensors of indices that a selection made; none is negative.
        lengths: of each tensor how many elements each of its indices has.
        apart: whether every operation is written down, also where one other alone reads it.
        constants: whether tensors of one number are written down too: the first step of a loop then reads them as the
            others read what the step before has made.
        tiles: whether parts of equal size of a dimension are places of its outer part: `k[i : i + 16]` is
            `k[t*16 + m]`.
    """

    apart: bool = False
    constants: bool = False
    tiles: bool = False
    einsums: list[Einsum] = field(default_factory=list)
    axis_of: dict[str, Axis] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    lengths: dict[str, tuple[int, ...]] = field(default_factory=dict)
    number: int = 0
    known: dict[object, Value] = field(default_factory=dict)

    def variable(self, axis: Axis) -> Var:
        """Return a fresh variable over an axis."""
        self.number += 1
        made = Var(f"v{self.number}")
        self.axis_of[made.name] = axis
        return made

    def name(self, wanted: str) -> str:
        """Return a tensor name that nothing has, and take it."""
        name = free_name(wanted, self.names)
        self.names.add(name)
        return name

    def given(self, name: str, sizes: Sequence[int]) -> tuple[Value, tuple[Axis, ...]]:
        """Return an input tensor."""
        axes = tuple(Axis(n) for n in sizes)
        self.lengths[name] = tuple(sizes)
        return Value(axes, tuple(sizes), lambda at: Access(name, at), plain=True), axes

    def join(self, a: Axis | None, b: Axis | None) -> Axis | None:
        """Return the axis of two dimensions that meet element by element."""
        if a is None or b is None:
            return a if b is None else b
        a, b = a.root, b.root
        if a is b or a.origin is b.origin:
            return a
        if a.size != b.size:
            raise UntraceableError(f"axes of {a.size} and {b.size} elements meet")
        if self.together(a, b):
            # They walk one iteration space as two ranks already, so they are one rank under two names.
            b.origin.other_name_of = a.origin
            return a
        if a.parts and b.parts:
            self._join_parts(a.parts, b.parts)
        elif b.parts:
            a, b = b, a
        b.same = a
        a.joined.append(b)
        return a

    def _join_parts(self, mine: Sequence[Axis], theirs: Sequence[Axis]) -> None:
        """Join the parts of two axes that are one; where one of them is a product of the other's, it is so from now on.

        Parts that cut across each other stay apart: an index by either is a place along the whole.
        """
        left, right = list(mine), list(theirs)
        while left and right:
            one, other = [left.pop(0)], [right.pop(0)]
            while (a := math.prod(x.size for x in one)) != (b := math.prod(x.size for x in other)):
                shorter, rest = (one, left) if a < b else (other, right)
                if not rest:
                    return
                shorter.append(rest.pop(0))
            if len(one) == len(other) == 1:
                self.join(one[0], other[0])
            elif len(one) == 1:
                self.join(one[0], Axis(a, parts=tuple(other)))
            elif len(other) == 1:
                self.join(other[0], Axis(a, parts=tuple(one)))

    def together(self, a: Axis, b: Axis) -> bool:
        """Tell whether two axes are walked by one Einsum."""
        for e in self.einsums:
            made = (r.into for r in e.reductions if r.into)  # the places that a selection fills
            roots = {self.axis_of[v].root for v in (*e.variables, *made)}
            if a in roots and b in roots:
                return True
        return False

    def separated(self, axes: Sequence[Axis]) -> list[Axis]:
        """Return the axes of one iteration space, a second walk of the same rank under another name."""
        seen: list[Axis] = []
        for axis in axes:
            root = axis.root
            if root in seen:
                root = Axis(root.size, other_name_of=root)
            seen.append(root)
        return seen

    def define(
        self,
        wanted: str,
        axes: Sequence[Axis | None],
        make: Callable[[tuple[Expr, ...]], Expr],
        *,
        reductions: Callable[[tuple[Expr, ...]], tuple[Reduction, ...]] | None = None,
        kept: int | None = None,
        sizes: Sequence[int],
        whole: bool = False,
        where: Callable[[tuple[Expr, ...]], Expr | None] | None = None,
    ) -> Value:
        """Add an Einsum over some axes and return its tensor.

        Args:
            make: the value at the variables of all axes.
            reductions: given the variables, what is reduced; None for the implicit sum.
            kept: how many of the axes are the target's; the others are reduced.
            whole: keep an axis in the target even where the value does not depend on it.
            where: the condition at the variables of all axes, if points are left out.
        """
        if 0 in sizes:
            raise UntraceableError("a tensor without elements")
        solid = [a if a is not None else Axis(n) for a, n in zip(axes, sizes, strict=True)]
        at = tuple(self.variable(a) for a in self.separated(solid))
        kept = len(at) if kept is None else kept
        value, condition = make(at), where(at) if where else None
        used = {*variables(value), *(variables(condition) if condition is not None else ())}
        for v in at[:kept] if whole else ():
            if v.name not in used:
                # A target may only name what the right side gives: repeat the value along the axis.
                value = Apply("+", (value, Apply("*", (Num(0), v))))
                used.add(v.name)
        for v in at[kept:]:
            if v.name not in used:
                # What is reduced counts each of its places, also where the value is the same at all of them.
                nothing = Apply("*", (Num(0), v))
                once = Apply("*", (value, Apply("+", (Num(1), nothing))))
                value = Apply("+", (value, nothing)) if reductions else once
        held = [i for i in range(kept) if at[i].name in used]
        key = _key(at, kept, value, condition, reductions(at) if reductions else (), [a.root for a in solid])
        if key in self.known and not whole:
            return self.known[key]
        name = self.name(wanted)
        target = Access(name, tuple(at[i] for i in held))
        made = Einsum(target, value, reductions(at) if reductions else (), condition)
        self.einsums.append(made)
        self.lengths[name] = tuple(sizes[i] for i in held)
        out = tuple(self.axis_of[at[i].name] for i in range(kept))
        element: Element = lambda idx: Access(name, tuple(idx[i] for i in held))  # noqa: E731
        self.known[key] = Value(out, tuple(sizes[:kept]), element, plain=True)
        return self.known[key]

    def solid(self, value: Value, wanted: str = "U") -> Value:
        """Return a value that is read by an access, defining a tensor if it is not."""
        if value.plain:
            return value
        return self.define(wanted, value.axes, lambda at: number(value.element(at)), sizes=value.sizes)


def _key(
    at: Sequence[Var],
    kept: int,
    value: Expr,
    where: Expr | None,
    reductions: tuple[Reduction, ...],
    roots: list[Axis],
) -> object:
    """Return what two Einsums have in common that compute the same: everything but the names of variables."""
    place = {v.name: f"i{i}" for i, v in enumerate(at)}

    def change(n: Expr) -> Expr:
        return Var(place.get(n.name, n.name)) if isinstance(n, Var) else n

    ops = tuple((r.op, tuple(place[v] for v in r.variables)) for r in reductions)
    condition = None if where is None else transform(where, change)
    return kept, transform(value, change), condition, ops, tuple(map(id, roots))


def both(a: Expr | None, b: Expr | None) -> Expr | None:
    """Return the condition that two conditions make; None, and a constant that is true, hold everywhere."""
    true = (None, truth(Num(1)))
    held = [c for c in (a, b) if c is not None and c not in true]
    if len(held) == 2:
        return Apply("and", tuple(held))
    return held[0] if held else None


def applied(op: str) -> Callable[..., Expr]:
    """Return the formula of an operator of the language on elements."""
    return lambda *a: Apply(op, tuple(map(number, a)))


def reducing(op: str, kept: int) -> Callable[[tuple[Expr, ...]], tuple[Reduction, ...]]:
    """Return the reduction over all axes that are not the target's, as `Builder.define` takes it."""
    return lambda at: (Reduction(op, tuple(v.name for v in at[kept:] if isinstance(v, Var))),)


def elementwise(builder: Builder, op: Callable[..., Expr], *values: Value | float) -> Value:
    """Return an operation on elements, dimensions aligned from the right as torch does."""
    rank = max((len(v.sizes) for v in values if isinstance(v, Value)), default=0)
    axes: list[Axis | None] = [None] * rank
    sizes = [1] * rank
    for v in values:
        for i, n in enumerate(v.sizes if isinstance(v, Value) else ()):
            place = rank - len(v.sizes) + i  # type: ignore[union-attr]
            sizes[place] = n if sizes[place] == 1 else sizes[place]  # what has no elements stays without
    for v in values:
        for i, n in enumerate(v.sizes if isinstance(v, Value) else ()):
            place = rank - len(v.sizes) + i  # type: ignore[union-attr]
            if n == sizes[place]:
                axes[place] = builder.join(axes[place], v.axes[i])  # type: ignore[union-attr]

    def element(at: tuple[Expr, ...]) -> Expr:
        return op(*(_aligned(v, at, sizes) if isinstance(v, Value) else constant(v) for v in values))

    return Value(tuple(axes), tuple(sizes), element)


def _aligned(value: Value, at: tuple[Expr, ...], sizes: Sequence[int]) -> Expr:
    skipped = len(at) - len(value.sizes)
    own = tuple(
        Num(0) if n == 1 and sizes[skipped + i] != 1 else at[skipped + i] for i, n in enumerate(value.sizes)
    )
    return value.element(own)


def constant(value: float) -> Expr:
    """Return a number of Python as an expression."""
    if isinstance(value, bool):
        return Num(int(value))
    if math.isnan(value):
        return Apply("-", (Num(math.inf), Num(math.inf)))
    if value < 0:
        return Apply("neg", (constant(-value),))
    return (
        Num(int(value))
        if isinstance(value, int) or (abs(value) < 2**53 and value == int(value))
        else Num(value)
    )


def is_truth(node: Expr) -> bool:
    """Tell whether an expression is true or false."""
    return isinstance(node, Compare) or (isinstance(node, Apply) and node.op in ("and", "or", "not"))


def number(node: Expr) -> Expr:
    """Return an expression as a number: true is 1."""
    return Apply("select", (node, Num(1), Num(0))) if is_truth(node) else node


def truth(node: Expr) -> Expr:
    """Return an expression as a truth value: what is not 0 is true."""
    if is_truth(node):
        return node
    if isinstance(node, Apply) and node.op == "select" and node.args[1:] == (Num(1), Num(0)):
        return node.args[0]
    return Compare(("!=",), (node, Num(0)))


def size_expression(axis: Axis | None) -> Expr:
    """Return the size of an axis as it is written before ranks have names."""
    assert axis is not None
    return Size(size_key(axis))


def size_of(axes: Sequence[Axis | None], sizes: Sequence[int]) -> Value:
    """Return the number of elements of some dimensions as a value, by name where an axis has one."""
    total: Expr = Num(math.prod(n for a, n in zip(axes, sizes, strict=True) if a is None))
    for a in axes:
        if a is not None:
            total = size_expression(a) if total == Num(1) else Apply("*", (total, size_expression(a)))
    return Value((), (), lambda at: total)


def size_key(axis: Axis) -> str:
    """Return how the size of an axis is written before ranks have names."""
    return f"N{axis.number}x{axis.size}"


def size_in_example(size: Size) -> int:
    """Return the number of elements of an axis in the example, of its size as it is written before ranks have names."""
    return int(size.name.rpartition("x")[2])


def rename(node: Expr, names: dict[str, str], sizes: dict[str, str]) -> Expr:
    """Return an expression with its variables and sizes under their final names.

    The size of an axis that no rank has come of, as that of a border that is cut off again, is its number.
    """

    def change(n: Expr) -> Expr:
        if isinstance(n, Var):
            return Var(names[n.name])
        if not isinstance(n, Size):
            return n
        return Size(sizes[n.name]) if n.name in sizes else Num(size_in_example(n))

    return transform(node, change)
