"""Cycles and operations of one Einsum on one array; a `where` leaves out steps as live.py says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..hardware.model import Array
from .live import DENSE, Live, Mask, settings
from .nest import Count, Nest, SizeTable


class Pace(NamedTuple):
    """Cycles that an array takes at every setting of some temporal loops that leaves a point."""

    mask: Mask | None
    time: tuple[str, ...]
    cycles: int


class Charge(NamedTuple):
    """Cycles that functional units of one kind work at every such setting, in every element of some fan-out."""

    unit: str
    mask: Mask | None
    time: tuple[str, ...]
    space: tuple[str, ...]
    cycles: int


def paces(nest: Nest, array: Array, live: Live = DENSE) -> tuple[Pace, ...]:
    """Return what the cycles of an Einsum are a sum of, at one point a cycle for a one-cycle operation.

    An element that is no pipeline does the operations of a point one after another; in a pipeline the busiest
    functional unit sets the pace. Work of different spaces (a map, and what follows a reduction) adds up.
    """
    busy: dict[tuple[Mask | None, tuple[str, ...]], dict[str, int]] = {}
    for i, w in enumerate(nest.work):
        of = busy.setdefault((live.of_work(i), w.time), {})
        for unit, length in array.ops[w.op].items():
            of[unit] = of.get(unit, 0) + length * w.count
    longest = max if array.pipelined else sum
    return tuple(Pace(mask, time, longest(of.values())) for (mask, time), of in busy.items())


def paced(found: Iterable[Pace], sizes: SizeTable) -> Count:
    """Return the cycles that some paces add up to."""
    out: Count = 0
    for mask, time, each in found:
        out = out + settings(mask, time, sizes) * each
    return out


def cycles(nest: Nest, array: Array, sizes: SizeTable, live: Live = DENSE) -> Count:
    """Return the cycles that an Einsum keeps its array."""
    return paced(paces(nest, array, live), sizes)


def useful(nest: Nest, sizes: SizeTable, live: Live = DENSE) -> Count:
    """Return the points of an Einsum as a fraction of the elements' share in the steps that are done."""
    if live.whole is None:
        return 1.0
    time = tuple(loop.part for loop in nest.time)
    sizes = sizes.across(live.whole.own)
    done = settings(live.whole, time, sizes) * sizes[nest.width]
    points = settings(live.whole, (*time, *nest.width), sizes)
    return np.divide(points, np.maximum(done, 1))


def charges(nest: Nest, array: Array, live: Live = DENSE) -> tuple[Charge, ...]:
    """Return what the work of the functional units is a sum of: what energy is charged for.

    In a step that is done every element of the fan-out works, also at points that a `where` removes.
    """
    return tuple(
        Charge(unit, live.of_work(i), w.time, w.space, length * w.count)
        for i, w in enumerate(nest.work)
        for unit, length in array.ops[w.op].items()
    )


def unit_operations(nest: Nest, array: Array, sizes: SizeTable, live: Live = DENSE) -> dict[str, Count]:
    """Return the cycles of functional units over all elements, by unit."""
    out: dict[str, Count] = {}
    for unit, mask, time, space, each in charges(nest, array, live):
        out[unit] = out.get(unit, 0) + settings(mask, time, sizes) * sizes.across(space)[space] * each
    return out


def operations(nest: Nest, sizes: SizeTable, live: Live = DENSE) -> dict[str, Count]:
    """Return the scalar operations of an Einsum by cost class: those at points that exist."""
    out: dict[str, Count] = {}
    for i, w in enumerate(nest.work):
        out[w.op] = out.get(w.op, 0) + settings(live.of_work(i), w.loops, sizes) * w.count
    return out


def total(values: Iterable[Count]) -> Count:
    """Return a sum of counts; numbers and arrays alike."""
    out: Count = 0
    for v in values:
        out = out + v
    return out


def greatest(values: Iterable[Count]) -> Count:
    """Return the largest of some counts, element by element for arrays; 0 for none."""
    best: Count = 0
    for value in values:
        if isinstance(value, np.ndarray) or isinstance(best, np.ndarray):
            best = np.maximum(best, value)
        elif value > best:
            best = value
    return best
