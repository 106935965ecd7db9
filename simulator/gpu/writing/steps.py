"""Steps of a loop that a block leaves out, because a `where` leaves them no point, and those that need no mask."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from einsum_cascade.analysis.ranges import always
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Expr

from ..fusion.structure import Structure
from .body import Body
from .lanes import Lanes
from .memory import Memory
from .ranges import ends, sure_ends


@dataclass(frozen=True)
class Stretch:
    """Some of the steps of a loop, from a value to before another, in all of which some conditions hold."""

    first: str
    last: str
    assumed: frozenset[Expr] = frozenset()


@dataclass(frozen=True)
class Walk:
    """One loop of a kernel.

    Attributes:
        variable: along which it walks.
        inside: Einsums that it computes; `written`: those of the kernel that are left in memory.
    """

    variable: str
    inside: Sequence[Einsum]
    structure: Structure
    lanes: Lanes
    memory: Memory
    written: Collection[str]

    def live(self) -> tuple[str, str]:
        """Return where the steps begin and end that have points in a block, as Triton writes it."""
        v, numbers = self.variable, self.memory.case.numbers
        first, last = "0", rank_of(v)
        found = []
        for einsum in self._acting():
            parts = [c.holds for c in self.memory.conditions(einsum) if not always(c.holds, numbers)]
            found.append(ends(parts, v, self.lanes.seen, numbers))
        if not found or any(each != found[0] for each in found):
            return first, last
        return _chain("maximum", first, found[0][0]), _chain("minimum", last, found[0][1])

    def _acting(self) -> list[Einsum]:
        """Return the Einsums that have to have a point in a step that runs; none where every step has to run."""
        v, inside, structure = self.variable, self.inside, self.structure
        stored = [e for e in inside if v in e.output_variables and e.name in self.written]
        if v != self.lanes.loop:
            return [] if stored else [e for e in inside if v in e.reduced]
        if any(e.name not in self.memory.last_only for e in stored) or not structure.idle:
            return []
        if not {e.name for e in inside} <= structure.masked | structure.idle:
            return []
        return [e for e in inside if e.name in structure.masked]

    def stretches(self, first: str, last: str, body: Body) -> list[Stretch]:
        """Return the loop in stretches: before the steps that need no mask, those, and behind them.

        Args:
            first: where it begins, a whole number of steps; `last`: before what it ends.
        """
        v = self.variable
        sure = self._sure()
        if not sure:
            return [Stretch(first, last)]
        name, step = self.lanes.name(v), self.lanes.constant(v) if v in self.lanes.lanes else ""
        low = dict.fromkeys(t for found in sure.values() for t in found[0])
        high = dict.fromkeys(t for found in sure.values() for t in found[1] if t != last)
        begin, end, out = first, last, []
        if low:
            text, most = _chain("maximum", first, low), last
            if step:
                text, most = (f"tl.cdiv({t}, {step}) * {step}" for t in (text, most))
            begin = body.let(f"{name}_whole", f"tl.minimum({text}, tl.maximum({most}, {first}))")
            out.append(Stretch(first, begin))
        if high or any(found[1] for found in sure.values()):
            text = _chain("minimum", last, high)
            if begin != "0" or text != rank_of(v):  # a rank alone is not below zero
                text = f"tl.maximum({text}, {begin})"
            end = body.let(f"{name}_cut", f"{text} // {step} * {step}" if step else text)
        out.append(Stretch(begin, end, frozenset(sure)))
        return out if end == last else [*out, Stretch(end, last)]

    def _sure(self) -> dict[Expr, tuple[list[str], list[str]]]:
        """Return the conditions of which it is known in which steps they hold, and between which values that is."""
        v, numbers = self.variable, self.memory.case.numbers
        sure: dict[Expr, tuple[list[str], list[str]]] = {
            b: ([], [rank_of(v)]) for b in self.lanes.bounds((v,))
        }
        for part in dict.fromkeys(c.holds for e in self.inside for c in self.memory.conditions(e)):
            found = None if always(part, numbers) else sure_ends(part, v, self.lanes.seen, numbers)
            if found is not None:
                sure[part] = found
        return sure


def _chain(which: str, text: str, others: Iterable[str]) -> str:
    """Return the largest or the smallest of some whole numbers."""
    for other in others:
        text = f"tl.{which}({text}, {other})"
    return text
