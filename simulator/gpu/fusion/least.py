"""The least of several costs that are dear to work out, from floors under them that are cheap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

C = TypeVar("C")
R = TypeVar("R")


class Least(Generic[C, R]):
    """The candidate of the least cost, of equal ones the first; looked for only as far as somebody asks.

    Args:
        floor: under the cost of every candidate.
        candidates: gives each with a floor under its own cost, and whether that floor is as good as the cost; asked
            once, by the first who needs more than `floor`.
        work_out: gives the cost of a candidate, and what it comes to.

    >>> asked = []
    >>> given = [(2.0, False, 3.5), (3.0, False, 3.0), (4.0, True, 4.0)]
    >>> costs = Least(1.0, lambda: given, lambda c: (asked.append(c) or c, str(c)))
    >>> costs.within(0.5), costs.within(2.5), costs.result, asked
    (1.0, 3.0, '3.0', [3.5, 3.0])
    """

    def __init__(
        self,
        floor: float,
        candidates: Callable[[], Iterable[tuple[float, bool, C]]],
        work_out: Callable[[C], tuple[float, R]],
    ) -> None:
        """See the class."""
        self._floor, self._candidates, self._work_out = floor, candidates, work_out
        self._left: list[tuple[float, int, bool, C]] | None = None  # by falling floor
        self._best: tuple[float, int] = (math.inf, 0)
        self._result: R | None = None

    @property
    def floor(self) -> float:
        """What the least cost is known not to be below."""
        if self._left is None:
            return self._floor
        return min(self._best[0], self._left[-1][0] if self._left else math.inf)

    def raised(self, below: float) -> float:
        """Return a floor under the least cost, of the candidates' own floors if that of all is below something."""
        if self._left is None and self._floor < below:
            found = ((floor, place, known, c) for place, (floor, known, c) in enumerate(self._candidates()))
            self._left = sorted(found, key=lambda each: each[:2], reverse=True)
        return self.floor

    def within(self, below: float) -> float:
        """Return the least cost if that is below something, else a floor under it that is not."""
        found = self.raised(below)
        while self._left and found < below and self._left[-1][0] <= self._best[0] and not self._left[-1][2]:
            self._try_next(self._left)
            found = self.floor
        return found

    @property
    def result(self) -> R | None:
        """What the candidate of the least cost comes to; None where there is no candidate."""
        self.raised(math.inf)
        while self._left and self._left[-1][0] <= self._best[0]:
            self._try_next(self._left)
        return self._result

    def _try_next(self, left: list[tuple[float, int, bool, C]]) -> None:
        _, place, _, candidate = left.pop()
        cost, result = self._work_out(candidate)
        if (cost, place) < self._best or self._result is None:
            self._best, self._result = (cost, place), result
