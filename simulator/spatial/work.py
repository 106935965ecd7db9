"""Cycles and operations of one Einsum on one array."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..hardware.model import Array
from .nest import Count, Nest, SizeTable


def cycles(nest: Nest, array: Array, sizes: SizeTable) -> Count:
    """Return the cycles that an Einsum keeps its array, at one point a cycle for a one-cycle operation.

    An element that is no pipeline does the operations of a point one after another; in a pipeline the busiest
    functional unit sets the pace. Work of different spaces (a map, and what follows a reduction) adds up.
    """
    if not array.pipelined:
        lengths = ((w.time, w.count * sum(array.ops[w.op].values())) for w in nest.work)
        return total(sizes[time] * length for time, length in lengths)
    busy: dict[tuple[str, ...], dict[str, int]] = {}
    for w in nest.work:
        of = busy.setdefault(w.time, {})
        for unit, length in array.ops[w.op].items():
            of[unit] = of.get(unit, 0) + length * w.count
    return total(sizes[time] * max(of.values()) for time, of in busy.items())


def fill(nest: Nest, array: Array, sizes: SizeTable) -> Count:
    """Return the fraction of the array's elements that the Einsum uses."""
    return sizes[tuple(loop.part for loop in nest.space)] / array.elements


def unit_operations(nest: Nest, array: Array, sizes: SizeTable) -> dict[str, Count]:
    """Return the cycles of functional units over all elements, by unit: what energy is charged for."""
    out: dict[str, Count] = {}
    for w in nest.work:
        for unit, length in array.ops[w.op].items():
            out[unit] = out.get(unit, 0) + sizes[w.loops] * (length * w.count)
    return out


def operations(nest: Nest, sizes: SizeTable) -> dict[str, Count]:
    """Return the scalar operations of an Einsum by cost class."""
    out: dict[str, Count] = {}
    for w in nest.work:
        out[w.op] = out.get(w.op, 0) + sizes[w.loops] * w.count
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
