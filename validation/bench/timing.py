"""How long a piece of work takes: the median of some rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def timed(
    work: Callable[[], T], rounds: int = 1, *, clock: Callable[[], float] = time.perf_counter
) -> tuple[T, float]:
    """Return what the work gives and the median seconds of a round.

    Args:
        work: what is timed; called once a round.
        rounds: at least one.
        clock: wall clock, or `time.process_time` where only the processor's time counts.
    """
    taken = []
    for _ in range(rounds):
        begun = clock()
        result = work()
        taken.append(clock() - begun)
    return result, statistics.median(taken)
