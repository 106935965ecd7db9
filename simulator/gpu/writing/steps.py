"""Steps of a loop that a block leaves out, because a `where` leaves them no point."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum

from ..fusion.structure import Structure
from .lanes import Lanes
from .memory import Memory
from .ranges import always, ends


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
