"""Where a sequence of Einsums repeats itself: stretches of equal length that differ in numbers and names alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..einsum import Einsum
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var

# Steps that a loop has at the least: one may differ in how it begins, and two that are alike show what goes on.
LEAST_STEPS = 3


@dataclass(frozen=True)
class Stretch:
    """A part of a sequence that repeats itself.

    Attributes:
        start: of the first step.
        length: Einsums of a step.
        count: steps.
    """

    start: int
    length: int
    count: int

    @property
    def end(self) -> int:
        """The place behind the last step."""
        return self.start + self.length * self.count

    def place(self, position: int) -> tuple[int, int] | None:
        """Return step and place in the step of a position, or None outside."""
        if not self.start <= position < self.end:
            return None
        return divmod(position - self.start, self.length)


def stretches(einsums: Sequence[Einsum]) -> Iterator[Stretch]:
    """Yield the stretches that may be loops, those that cover the most first.

    The first step may differ from the others, as the state before it is a number or an input: it is taken in where
    there is room for it, and so are steps that begin later in the stretch.
    """
    shapes = _shapes(einsums)
    found = []
    for length in range(1, len(shapes) // (LEAST_STEPS - 1) + 1):
        begin = 0
        for at in range(len(shapes) - length + 1):
            if at == len(shapes) - length or shapes[at] != shapes[at + length]:
                if at - begin >= length * (LEAST_STEPS - 2):
                    found.append((begin, at + length, length))
                begin = at + 1
    for begin, end, length in sorted(found, key=lambda f: (f[0] - f[1], f[2])):
        for start in range(max(0, begin - length), begin + length):
            count = (end - start) // length
            if count >= LEAST_STEPS:
                yield Stretch(start, length, count)


def _shapes(einsums: Sequence[Einsum]) -> list[Any]:
    """Return of each Einsum what it is but for numbers and for the names of what others define."""
    defined = {e.name for e in einsums}
    numbered: dict[Any, int] = {}
    shapes = []
    for e in einsums:
        reduced = {v: f"reduced {i}" for i, v in enumerate(e.reduced)}
        where = None if e.where is None else _shape(e.where, defined, reduced)
        kinds = tuple((r.op, tuple(reduced.get(v, v) for v in r.variables), r.into) for r in e.reductions)
        shape = (e.target.indices, _shape(e.value, defined, reduced), kinds, where)
        shapes.append(numbered.setdefault(shape, len(numbered)))
    return shapes


def _shape(node: Expr, defined: set[str], reduced: dict[str, str]) -> Any:
    if isinstance(node, Num):
        return "number"
    if isinstance(node, (Var, Size)):
        return reduced.get(node.name, node) if isinstance(node, Var) else node
    if isinstance(node, Access):
        name = "" if node.tensor in defined else node.tensor
        return name, tuple(_shape(i, defined, reduced) for i in node.indices)
    assert isinstance(node, (Apply, Compare))
    op = node.op if isinstance(node, Apply) else node.ops
    return op, tuple(_shape(a, defined, reduced) for a in node.args)
