"""The schedule: phases one after another, steps in series, lanes side by side, Einsums of a lane in series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from einsum_cascade.errors import MappingError
from mappings.binding import WAIT, Binding
from mappings.expression import evaluate_expression

from .nest import Count, Sizes
from .work import greatest


class Slot(NamedTuple):
    """An Einsum, or waiting, on a lane: when it begins and how long it takes, in cycles from the start of its phase."""

    phase: str
    step: int
    lane: str
    einsum: str
    begin: Count
    cycles: Count


@dataclass(frozen=True, slots=True)
class Timetable:
    """Every slot of a schedule, and the cycles of each phase."""

    slots: tuple[Slot, ...]
    phase_cycles: Mapping[str, Count]


def timetable(
    binding: Binding, cycles: Mapping[str, Count], sizes: Sizes, *, where: str = "phases"
) -> Timetable:
    """Return when each Einsum runs.

    Args:
        binding: its phases.
        cycles: by Einsum.
        sizes: what the expressions of waiting may name besides Einsums (whose names stand for their cycles).
        where: what stands before an error.

    Raises:
        MappingError: an expression of waiting is malformed, or less than zero.

    >>> from mappings.binding import Binding
    >>> b = Binding({}, {"all": ({"A": ("X", "Y"), "B": ("Z",)}, {"A": ("W",)})})
    >>> timetable(b, {"X": 2, "Y": 3, "Z": 9, "W": 1}, {}).phase_cycles
    {'all': 10}
    """
    slots: list[Slot] = []
    totals: dict[str, Count] = {}
    for phase, steps in binding.phases.items():
        clock: Count = 0
        for number, step in enumerate(steps):
            ends = []
            for lane, items in step.items():
                now = clock
                for item in items:
                    length = cycles[item] if lane != WAIT else _wait(item, cycles, sizes, f"{where}.{phase}")
                    slots.append(Slot(phase, number, lane, item, now, length))
                    now = now + length
                ends.append(now)
            clock = greatest(ends)
        totals[phase] = clock
    return Timetable(tuple(slots), totals)


def _wait(text: str, cycles: Mapping[str, Count], sizes: Sizes, where: str) -> Count:
    length = evaluate_expression(text, {**sizes, **cycles}, where=f"{where}: wait")
    if not isinstance(length, (int, float, Fraction, np.ndarray)) or not np.all(
        (length >= 0) & (length < np.inf)
    ):
        raise MappingError(f"{where}: wait: '{text}' is {length}; expected cycles of zero or more")
    return length
