"""Steps of a loop that a block leaves out, because a `where` leaves them no point, and those that need no mask."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Expr

from ..fusion.structure import Structure
from .body import Body
from .lanes import Lanes
from .memory import Memory
from .ranges import always, ends, sure_ends


def live_steps(
    v: str,
    inside: Sequence[Einsum],
    structure: Structure,
    lanes: Lanes,
    memory: Memory,
    written: Collection[str],
) -> tuple[str, str]:
    """Return where the steps of a loop begin and end that have points in a block, as Triton writes it.

    Args:
        inside: Einsums that the loop computes; `written`: those that the kernel leaves in memory.
    """
    first, last = "0", rank_of(v)
    acting = _acting(v, inside, structure, lanes, memory, written)
    numbers = memory.case.numbers
    found = [
        ends([c.holds for c in memory.conditions(e) if not always(c.holds, numbers)], v, lanes.seen, numbers)
        for e in acting
    ]
    if not found or any(each != found[0] for each in found):
        return first, last
    for text in found[0][0]:
        first = f"tl.maximum({first}, {text})"
    for text in found[0][1]:
        last = f"tl.minimum({last}, {text})"
    return first, last


@dataclass(frozen=True)
class Stretch:
    """Some of the steps of a loop, from a value to before another, in all of which some conditions hold."""

    first: str
    last: str
    assumed: frozenset[Expr] = frozenset()


def stretches(
    v: str, inside: Sequence[Einsum], ends: tuple[str, str], lanes: Lanes, memory: Memory, body: Body
) -> list[Stretch]:
    """Return a loop in stretches: before the steps that need no mask, those, and behind them.

    Args:
        inside: Einsums that the loop computes; `ends`: where it begins, a whole number of steps, and before what it
            ends.
    """
    conditions: list[Expr] = [c.holds for e in inside for c in memory.conditions(e)]
    conditions += lanes.bounds((v,))
    numbers = memory.case.numbers
    sure: dict[Expr, tuple[list[str], list[str]]] = {}
    for part in dict.fromkeys(conditions):
        padding = part in lanes.bounds((v,))
        if padding or not always(part, numbers):
            found = ([], [rank_of(v)]) if padding else sure_ends(part, v, lanes.seen, numbers)
            if found is not None:
                sure[part] = found
    if not sure:
        return [Stretch(*ends)]
    name, step = lanes.name(v), lanes.constant(v) if v in lanes.lanes else ""
    first, last = ends
    low = list(dict.fromkeys(t for found in sure.values() for t in found[0]))
    high = list(dict.fromkeys(t for found in sure.values() for t in found[1]))
    begin, end, out = first, last, []
    if low:
        text = first
        for t in low:
            text = f"tl.maximum({text}, {t})"
        text = f"tl.cdiv({text}, {step}) * {step}" if step else text
        most = f"tl.cdiv({last}, {step}) * {step}" if step else last
        begin = body.let(f"{name}_whole", f"tl.minimum({text}, tl.maximum({most}, {first}))")
        out.append(Stretch(first, begin))
    if high:
        text = last
        for t in (t for t in high if t != last):
            text = f"tl.minimum({text}, {t})"
        if begin != "0" or text != rank_of(v):  # a rank alone is not below zero
            text = f"tl.maximum({text}, {begin})"
        end = body.let(f"{name}_cut", f"{text} // {step} * {step}" if step else text)
    out.append(Stretch(begin, end, frozenset(sure)))
    return [*out, Stretch(end, last)] if high else out


def _acting(
    v: str,
    inside: Sequence[Einsum],
    structure: Structure,
    lanes: Lanes,
    memory: Memory,
    written: Collection[str],
) -> list[Einsum]:
    """Return the Einsums that have to have a point in a step that runs; none where every step has to run."""
    stored = [e for e in inside if v in e.output_variables and e.name in written]
    if v != lanes.loop:
        return [] if stored else [e for e in inside if v in e.reduced]
    if any(e.name not in memory.last_only for e in stored) or not structure.idle:
        return []
    if not {e.name for e in inside} <= structure.masked | structure.idle:
        return []
    return [e for e in inside if e.name in structure.masked]
