"""Timing that can be believed: warm-up, contenders interleaved in rounds, medians and quartiles, ratios per round."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from einsum_cascade.errors import KernelError

T = TypeVar("T")
Clock = Callable[[Callable[[], object]], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of repeated measurements, in the unit of the measurements."""

    median: float
    q25: float
    q75: float
    rounds: int


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles.

    >>> spread([3.0, 1.0, 2.0, 5.0, 4.0])
    Spread(median=3.0, q25=2.0, q75=4.0, rounds=5)
    """
    if not values:
        raise KernelError("no measurement was made")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    q25, median, q75 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, q25, q75, len(values))


# A processor clock that moves in steps above this part of the shortest measurement would round what it measures.
FINE_S = 1e-4


def cpu_clock(
    call: Callable[[], object], *, shortest_s: float = 0.002, now: Callable[[], float] = time.perf_counter
) -> float:
    """Return seconds of one call, repeated within the measurement until it lasts long enough for the clock.

    Args:
        now: the clock; that of the wall, or `time.process_time`, which stands still while others have the processor.
    """
    repeats = 1
    while True:
        start = now()
        for _ in range(repeats):
            call()
        passed = now() - start
        if passed >= shortest_s:
            return passed / repeats
        repeats *= max(2, min(10, int(shortest_s / max(passed, 1e-7)) + 1))


def own_time() -> Callable[[], float]:
    """Return the clock of a single thread: its own processor time, or that of the wall where that is too coarse.

    On a machine that others use too, the wall counts their work as well, and not the same part of every call.
    """
    steps: list[float] = []
    last = begin = time.process_time()
    while len(steps) < 10 and last - begin < 0.05:
        if (now := time.process_time()) > last:
            steps.append(now - last)
            last = now
    return time.process_time if sorted(steps)[len(steps) // 2] < FINE_S else time.perf_counter


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    *,
    clock: Clock = cpu_clock,
    budget_s: float = 1.0,
    least_rounds: int = 3,
    most_rounds: int = 51,
    warm_up: int = 1,
) -> dict[str, tuple[float, ...]]:
    """Return seconds per call of every contender, one value a round.

    Each round times all contenders once, one after the other, so that whatever else the machine does meets them alike
    and their ratios within a round stay meaningful.

    Args:
        budget_s: further rounds are made while this lasts; `least_rounds` are made anyway.
    """
    for call in contenders.values():
        for _ in range(warm_up):
            call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    start = time.perf_counter()
    for done in range(most_rounds):
        if done >= least_rounds and time.perf_counter() - start > budget_s:
            break
        for name, call in contenders.items():
            times[name].append(clock(call))
    return {name: tuple(values) for name, values in times.items()}


def in_turn(call: Callable[[T], object], items: Sequence[T]) -> Callable[[], object]:
    """Return a call that takes one item after the other, round and round.

    >>> one = in_turn(str, [1, 2])
    >>> one(), one(), one()
    ('1', '2', '1')
    """
    each = itertools.cycle(items)
    return lambda: call(next(each))


def ratios(times: Mapping[str, Sequence[float]], baseline: str) -> dict[str, Spread]:
    """Return each contender's time over the baseline's in the same round.

    >>> ratios({"a": [1.0, 2.0, 1.0], "b": [2.0, 4.0, 2.0]}, "a")["b"].median
    2.0
    """
    return {
        name: spread([t / b for t, b in zip(values, times[baseline], strict=True)])
        for name, values in times.items()
    }
