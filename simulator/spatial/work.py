"""Cycles and operations of one Einsum on one array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..hardware.model import Array
from .access import product
from .nest import Count, Loop, Nest, Sizes


def cycles(nest: Nest, array: Array, sizes: Sizes) -> Count:
    """Return the cycles that an Einsum keeps its array, at one point a cycle for a one-cycle operation.

    An element that is no pipeline does the operations of a point one after another; in a pipeline the busiest
    functional unit sets the pace. Work of different spaces (a map, and what follows a reduction) adds up.
    """
    total: Count = 0
    time = nest.time
    for variables, busy in _by_space(nest, array).items():
        pace = max(busy.values()) if array.pipelined else sum(busy.values())
        total = total + steps(time, variables, sizes) * pace
    return total


def _by_space(nest: Nest, array: Array) -> dict[tuple[str, ...], dict[str, int]]:
    """Return cycles per point by functional unit, for each space in which the Einsum works."""
    out: dict[tuple[str, ...], dict[str, int]] = {}
    for work in nest.work:
        busy = out.setdefault(work.variables, {})
        for unit, length in array.ops[work.op].items():
            busy[unit] = busy.get(unit, 0) + length * work.count
    return out


def steps(loops: Iterable[Loop], variables: tuple[str, ...], sizes: Sizes) -> Count:
    """Return the product of the loops over some variables."""
    return product((loop.part for loop in loops if loop.variable in variables), sizes)


def fill(nest: Nest, array: Array, sizes: Sizes) -> Count:
    """Return the fraction of the array's elements that the Einsum uses."""
    return product((loop.part for loop in nest.space), sizes) / array.elements


def unit_operations(nest: Nest, array: Array, sizes: Sizes) -> Mapping[str, Count]:
    """Return the cycles of functional units over all elements, by unit: what energy is charged for."""
    loops = (*nest.time, *nest.space)
    out: dict[str, Count] = {}
    for variables, busy in _by_space(nest, array).items():
        points = steps(loops, variables, sizes)
        for unit, length in busy.items():
            out[unit] = out.get(unit, 0) + points * length
    return out


def operations(nest: Nest, sizes: Sizes) -> dict[str, Count]:
    """Return the scalar operations of an Einsum by cost class."""
    loops = (*nest.time, *nest.space)
    out: dict[str, Count] = {}
    for work in nest.work:
        out[work.op] = out.get(work.op, 0) + steps(loops, work.variables, sizes) * work.count
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
