"""What the gallery shows of each zoo entry: its stored facts, and bounds and predicted times at every length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from einsum_cascade import zoo
from einsum_cascade.analysis.passes import passes
from einsum_cascade.analysis.points import operations
from einsum_cascade.analysis.traffic import traffic
from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import CascadeError
from einsum_cascade.zoo.entries import Entry, entry, sizes_at
from simulator.hardware.gpu import find_gpu

from .amounts import count
from .times import GPU, NONE, Time, array_time, gpu_time, on_chip_bytes

LENGTHS = tuple(2**k for k in (10, 12, 14, 16, 18, 20))
# Bytes of an element, and the on-chip memory for which the traffic is bounded in the plots.
WORD_BYTES, BUFFER_BYTES = 2, 16 * 2**20


@dataclass(frozen=True, slots=True)
class Point:
    """An entry at one length.

    Attributes:
        compulsory_bytes: every needed input read once, every output written once.
        traffic_bytes: no schedule with BUFFER_BYTES on chip moves less.
        refused: why there are no bounds at this length.
    """

    length: int
    sizes: Mapping[str, int]
    compulsory_bytes: float | None = None
    traffic_bytes: float | None = None
    gpu: Time = NONE
    array: Time = NONE
    refused: str = ""


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


def rows(names: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of some entries, one by one, for they take half a second each.

    Raises:
        CascadeError: no such entry.
    """
    for told in [entry(name) for name in names]:
        cascade = zoo.load(told.name)
        chains = {rank: passes(cascade, rank).chain for rank in told.over}
        yield Row(told, cascade, chains, tuple(_points(told.name, cascade)))


def _points(name: str, cascade: Cascade) -> Iterator[Point]:
    """Yield the points of an entry; what does not fit the array at one length is not tried at longer ones."""
    refused: Time | None = None
    for length in LENGTHS:
        point = _point(name, cascade, length, array=refused)
        if point.sizes and point.array.refused and refused is None:
            refused = Time(None, refused=f"as at {count(length)}")
        yield point


def _point(name: str, cascade: Cascade, length: int, *, array: Time | None) -> Point:
    try:
        sizes = sizes_at(name, length)
        counts = operations(cascade, sizes)
        moved = traffic(cascade, sizes)
    except CascadeError as error:
        return Point(length, {}, gpu=_refused(error), array=_refused(error), refused=str(error))
    buffers = np.array([BUFFER_BYTES, on_chip_bytes(find_gpu(GPU))]) / WORD_BYTES
    least, least_gpu = (float(words) * WORD_BYTES for words in moved.least_words(buffers))
    return Point(
        length,
        sizes,
        moved.compulsory_words * WORD_BYTES,
        least,
        gpu_time(name, sizes, counts, traffic_bytes=least_gpu),
        array or array_time(cascade, sizes),
    )


def _refused(error: CascadeError) -> Time:
    return Time(None, refused=str(error))
