"""What the gallery shows of each zoo entry: its stored facts, and bounds and predicted times at every length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from einsum_cascade import zoo
from einsum_cascade.analysis.passes import passes
from einsum_cascade.analysis.traffic import traffic
from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import CascadeError
from einsum_cascade.zoo.entries import Entry, entry, sizes_at
from simulator.dse.workers import processes

from .times import Time, array_times, gpu_time

LENGTHS = tuple(2**k for k in (10, 12, 14, 16, 18, 20))
# Bytes of an element, and the on-chip memory for which the traffic is bounded in the plots.
WORD_BYTES, BUFFER_BYTES = 2, 16 * 2**20


@dataclass(frozen=True, slots=True)
class Point:
    """An entry at one length.

    Attributes:
        compulsory_bytes: every needed input read once, every output written once; None where it cannot be counted.
        traffic_bytes: no schedule with BUFFER_BYTES on chip moves less.
    """

    length: int
    compulsory_bytes: float | None
    traffic_bytes: float | None
    gpu: Time
    array: Time


@dataclass(frozen=True, slots=True)
class Row:
    """An entry with everything that the page tells of it.

    Attributes:
        chains: by rank, the Einsums that force its last pass, each waiting for the one before.
    """

    entry: Entry
    cascade: Cascade
    chains: Mapping[str, tuple[str, ...]]
    points: tuple[Point, ...]


def rows(names: Sequence[str], *, jobs: int = 1) -> Iterator[Row]:
    """Yield the rows of some entries in order, one by one, for each takes seconds.

    Args:
        names: of entries.
        jobs: processes that work side by side.

    Raises:
        CascadeError: no such entry.
    """
    told = [entry(name) for name in names]
    if jobs == 1:
        yield from map(_row, told, map(points, names))
        return
    with processes(jobs) as workers:
        yield from map(_row, told, workers.executor.map(points, names))


def points(name: str) -> tuple[Point, ...]:
    """Return bounds and times of an entry at every length."""
    cascade = zoo.load(name)
    uses, reason = _uses(name)
    array = array_times(cascade, uses)
    out = [_point(name, cascade, n, uses[k], array[k]) for k, n in enumerate(LENGTHS[: len(uses)])]
    refused = Time(None, refused=reason)
    return (*out, *(Point(n, None, None, refused, refused) for n in LENGTHS[len(uses) :]))


def _uses(name: str) -> tuple[list[dict[str, int]], str]:
    """Return the sizes at each length up to the first at which there are none, and why there are none there."""
    uses: list[dict[str, int]] = []
    for length in LENGTHS:
        try:
            uses.append(sizes_at(name, length))
        except CascadeError as error:
            return uses, str(error)
    return uses, ""


def _row(told: Entry, found: tuple[Point, ...]) -> Row:
    cascade = zoo.load(told.name)
    return Row(told, cascade, {rank: passes(cascade, rank).chain for rank in told.over}, found)


def _point(name: str, cascade: Cascade, length: int, sizes: Mapping[str, int], array: Time) -> Point:
    try:
        moved = traffic(cascade, sizes)
    except CascadeError as error:
        return Point(length, None, None, Time(None, refused=str(error)), array)
    (least,) = moved.least_words(np.array([BUFFER_BYTES / WORD_BYTES]))
    return Point(
        length, moved.compulsory_words * WORD_BYTES, float(least) * WORD_BYTES, gpu_time(name, sizes), array
    )
