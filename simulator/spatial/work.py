"""Cycles and operations of one Einsum on one array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..hardware.model import Array
from .nest import Count, Loop, Nest


def cycles(nest: Nest, array: Array) -> Count:
    """Return the cycles that an Einsum keeps its array, at one point a cycle for a one-cycle operation.

    An element that is no pipeline does the operations of a point one after another; in a pipeline the busiest
    functional unit sets the pace. Work of different spaces (a map, and what follows a reduction) adds up.
    """
    total: Count = 0
    for variables, busy in _by_space(nest, array).items():
        pace = max(busy.values()) if array.pipelined else sum(busy.values())
        total = total + _steps(nest.time, variables) * pace
    return total


def _by_space(nest: Nest, array: Array) -> dict[frozenset[str], dict[str, int]]:
    """Return cycles per point by functional unit, for each space in which the Einsum works."""
    out: dict[frozenset[str], dict[str, int]] = {}
    for work in nest.work:
        busy = out.setdefault(frozenset(work.variables), {})
        for unit, length in array.ops[work.op].items():
            busy[unit] = busy.get(unit, 0) + length * work.count
    return out


def _steps(loops: Iterable[Loop], variables: frozenset[str]) -> Count:
    product: Count = 1
    for loop in loops:
        if loop.variable in variables:
            product = product * loop.size
    return product


def fill(nest: Nest, array: Array) -> Count:
    """Return the fraction of the array's elements that the Einsum uses."""
    used: Count = 1
    for loop in nest.space:
        used = used * loop.size
    return used / array.elements


def unit_operations(nest: Nest, array: Array) -> Mapping[str, Count]:
    """Return the cycles of functional units over all elements, by unit: what energy is charged for."""
    loops = (*nest.time, *nest.space)
    out: dict[str, Count] = {}
    for variables, busy in _by_space(nest, array).items():
        points = _steps(loops, variables)
        for unit, length in busy.items():
            out[unit] = out.get(unit, 0) + points * length
    return out


def operations(nest: Nest) -> dict[str, Count]:
    """Return the scalar operations of an Einsum by cost class."""
    loops = (*nest.time, *nest.space)
    out: dict[str, Count] = {}
    for work in nest.work:
        out[work.op] = out.get(work.op, 0) + _steps(loops, frozenset(work.variables)) * work.count
    return out


def greatest(values: Iterable[Count]) -> Count:
    """Return the largest of some counts, element by element for arrays; 0 for none."""
    best: Count = 0
    for value in values:
        both = isinstance(value, np.ndarray) or isinstance(best, np.ndarray)
        best = np.maximum(best, value) if both else max(best, value)
    return best
