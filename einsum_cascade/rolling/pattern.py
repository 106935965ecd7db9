"""What all steps of a loop have in common, as Einsums of a step t."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..declarations import rank_of
from ..einsum import Einsum
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, children, plus, rebuild, substitute
from .plain import changed
from .segments import Stretch


class NoLoopError(Exception):
    """Steps that are not one step again and again."""


@dataclass
class Unifier:
    """Makes one expression of those at the same place of every step but the first, which says how the loop begins.

    Attributes:
        step: the variable of the loop; `rank` is what it runs over.
        sizes: of the ranks, in the example.
        places: where each Einsum of the cascade stands.
        starts: of each place in a step whose tensor the next step reads, the expressions that the first step has
            instead, each with the indices of the read.
    """

    einsums: Sequence[Einsum]
    stretch: Stretch
    step: str
    rank: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, int] = field(init=False)
    starts: dict[int, list[tuple[tuple[Expr, ...], Expr]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """See the class."""
        self.places = {e.name: i for i, e in enumerate(self.einsums)}

    def at(self, step: int, place: int) -> Einsum:
        """Return the Einsum at a place of a step."""
        return self.einsums[self.stretch.start + step * self.stretch.length + place]

    def name(self, place: int) -> str:
        """Return the name that the tensor at a place of every step goes by: that of the first step."""
        return self.at(0, place).name

    def einsum(self, place: int) -> Einsum:
        """Return what the Einsums at a place of every step have in common, without the step in its target.

        Raises:
            NoLoopError: they have not.
        """
        second = self.at(1, place)
        mine = [alike(self.at(j, place), second) for j in range(1, self.stretch.count)]
        value = self._unified([e.value for e in mine], 1)
        wheres = [e.where for e in mine if e.where is not None]
        where = self._unified(wheres, 1) if wheres else None
        # A number in the place of a state may have taken an axis from what the first step makes.
        first = self.at(0, place)
        with contextlib.suppress(NoLoopError):
            first = alike(replace(first, target=second.target), second)
        self._begin(first.value, value)
        return replace(second, value=value, where=where, at=None)

    def gathered(self, nodes: Sequence[Expr]) -> Expr:
        """Return the expression that is each of some, one for every step, made of what that step has made.

        Raises:
            NoLoopError: there is none.
        """
        # What the first step has made may lack an axis too; whether it is the same is seen when all is compared.
        return self._unified(nodes[1:], 1)

    def _unified(self, nodes: Sequence[Expr], first: int) -> Expr:
        """Return the expression that is each of some at its step, counted from the first of them.

        Raises:
            NoLoopError: there is none.
        """
        head = nodes[0]
        if isinstance(head, Num):
            return self._number(nodes, first)
        if isinstance(head, Access):
            return self._access(nodes, first)
        if isinstance(head, (Var, Size)):
            if any(n != head for n in nodes):
                raise NoLoopError
            return head
        parts = [children(n) for n in nodes if kind_of(n) == kind_of(head)]
        if len(parts) < len(nodes) or len({len(p) for p in parts}) > 1:
            raise NoLoopError
        match head:
            case Apply("+", (Var(place) as inner, Num())) if all(p[0] == inner for p in parts):
                return self._moved(inner, [p[1] for p in parts], first, rank_of(place))
        return rebuild(head, tuple(self._unified(p, first) for p in zip(*parts, strict=True)))

    def _moved(self, inner: Var, numbers: Sequence[Expr], first: int, rank: str) -> Expr:
        """Return a place that moves on from step to step, by tiles of its own rank if by so much."""
        values = [n.value for n in numbers if isinstance(n, Num)]
        length = self.sizes.get(rank, 0)
        if length < 2 or values != [length * j for j in range(first, first + len(values))]:
            return Apply("+", (inner, self._number(numbers, first)))
        return Apply("+", (Apply("*", (Var(self.step), Size(rank))), inner))

    def _number(self, nodes: Sequence[Expr], first: int) -> Expr:
        """Return a number that is the same at every step, or that counts up or down with it."""
        values = [n.value for n in nodes if isinstance(n, Num)]
        if len(values) < len(nodes):
            raise NoLoopError
        if len(set(values)) == 1:
            return nodes[0]
        step, last = Var(self.step), Apply("-", (Size(self.rank), Num(1)))
        for counted, sign in ((step, 1), (Apply("-", (last, step)), -1)):
            begin = first if sign > 0 else self.stretch.count - 1 - first
            more = values[0] - begin
            if values == [begin + more + sign * j for j in range(len(values))]:
                return plus(counted, more)
        stride = values[1] - values[0] if all(isinstance(v, int) for v in values) and len(values) > 1 else 0
        if values == [values[0] + stride * j for j in range(len(values))]:
            return plus(Apply("*", (step, Num(stride))), values[0] - stride * first)
        raise NoLoopError

    def _access(self, nodes: Sequence[Expr], first: int) -> Expr:
        reads = [n for n in nodes if isinstance(n, Access)]
        if len(reads) < len(nodes) or len({len(a.indices) for a in reads}) > 1:
            raise NoLoopError
        found = {self._relation(a.tensor, j) for j, a in enumerate(reads, first)}
        if len(found) > 1:
            raise NoLoopError
        back, place, name = found.pop()
        indices = tuple(self._unified(i, first) for i in zip(*(a.indices for a in reads), strict=True))
        if back < 0:
            return Access(name, indices)
        # Of the step before with that step as an index; of the same step without, for it may become a state.
        return Access(self.name(place), (Var(self.step), *indices) if back else indices)

    def _relation(self, tensor: str, step: int) -> tuple[int, int, str]:
        """Return how many steps back a tensor is made and where in its step; -1 and its name outside of the loop."""
        at = self.stretch.place(self.places.get(tensor, -1))
        if at is None:
            return -1, 0, tensor
        back = step - at[0]
        if back not in (0, 1):
            raise NoLoopError
        return back, at[1], ""

    def _begin(self, first: Expr, pattern: Expr) -> None:
        """Note what stands in the first step where the others read what the step before has made."""
        place = self.state_read(pattern)
        if place is not None:
            assert isinstance(pattern, Access)
            if not any(self.stretch.place(self.places.get(a.tensor, -1)) for a in accesses(first)):
                self.starts.setdefault(place, []).append((pattern.indices[1:], first))
            return
        if isinstance(first, (Apply, Compare)) and kind_of(first) == kind_of(pattern):
            for mine, other in zip(children(first), children(pattern), strict=False):
                self._begin(mine, other)

    def state_read(self, node: Expr) -> int | None:
        """Return the place of the tensor of the step before that a pattern reads, or None."""
        if not isinstance(node, Access):
            return None
        at = self.stretch.place(self.places.get(node.tensor, -1))
        if at is None or len(node.indices) == len(self.at(1, at[1]).target.indices):
            return None
        return at[1]


def alike(einsum: Einsum, other: Einsum) -> Einsum:
    """Return an Einsum with the reduced variables of another, in the order in which they are met.

    Raises:
        NoLoopError: it does not run over as many.
    """
    if einsum.target.indices != other.target.indices or len(einsum.reduced) != len(other.reduced):
        raise NoLoopError
    values: dict[str, Expr] = {
        mine: Var(theirs)
        for mine, theirs in zip(einsum.reduced, other.reduced, strict=True)
        if mine != theirs
    }
    out = changed(einsum, lambda node: substitute(node, values))
    if out.reductions != other.reductions or (out.where is None) != (other.where is None):
        raise NoLoopError
    return out


def kind_of(node: Expr) -> tuple[object, ...]:
    """Return what two nodes must share to be compared part by part."""
    if isinstance(node, Apply):
        return Apply, node.op
    return (Compare, node.ops) if isinstance(node, Compare) else (type(node),)


def advanced(before: Expr, now: Expr, renamed: Callable[[str], str]) -> Expr:
    """Return what stands at the next step, from the same expression at two.

    Args:
        renamed: the name at the next step of a tensor that this step reads.

    Raises:
        NoLoopError: they are not the same but for numbers and names.
    """
    if kind_of(before) != kind_of(now):
        raise NoLoopError
    if isinstance(now, Num) and isinstance(before, Num):
        return Num(now.value + now.value - before.value)
    parts = [advanced(b, n, renamed) for b, n in zip(children(before), children(now), strict=True)]
    out = rebuild(now, tuple(parts))
    return replace(out, tensor=renamed(out.tensor)) if isinstance(out, Access) else out
