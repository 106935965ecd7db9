"""Which array does which Einsum, and which ranks lie on its axes: what keeps the busiest array shortest busy."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum

from ..hardware.model import Array, SpatialChip
from ..identity import Same
from .factors import divisor, step
from .masks import cuttable, masked, steps_of

# All assignments are looked at up to here, good ones and their neighbours beyond.
_MOST_ASSIGNMENTS = 1 << 12


@functools.lru_cache(maxsize=4096)
def options(
    einsum: Same[Einsum],
    cascade: Same[Cascade],
    sizes: Same[Mapping[str, int]],
    chip: Same[SpatialChip],
    narrow: int,
    barred: frozenset[str],
) -> tuple[tuple[tuple[str, ...], float], ...]:
    """Return, for each array, the best ranks for its axes and the cycles that it takes."""
    return tuple(
        best_axes(cascade.it, einsum.it, sizes.it, _narrowed(array, narrow), barred)
        for array in chip.it.arrays.values()
    )


def _narrowed(array: Array, narrow: int) -> Array:
    return array if narrow == 1 else replace(array, shape=tuple(max(1, x // narrow) for x in array.shape))


def assignments(
    table: tuple[tuple[float, ...], ...], pairs: tuple[tuple[int, int], ...], *, series: bool, most: int
) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Return the best choices of an array for each Einsum, each with the cycles of the busiest array.

    Args:
        table: the cycles of each Einsum (row) on each array (column); inf where it cannot run there.
        pairs: rows of Einsums of which one reads what the other makes; ties go to the fewest on different arrays.
        series: whether the Einsums run one after another.
        most: choices that are given.

    >>> assignments(((4.0, 6.0), (4.0, 6.0), (8.0, float("inf"))), ((0, 1),), series=False, most=1)
    (((1, 1, 0), 12.0),)
    """
    return _ranked(table, pairs, series, most)


@functools.lru_cache(maxsize=512)
def _ranked(
    table: tuple[tuple[float, ...], ...], pairs: tuple[tuple[int, int], ...], series: bool, most: int
) -> tuple[tuple[tuple[int, ...], float], ...]:
    cycles = np.array(table)
    choices = _choices(tuple(tuple(np.flatnonzero(np.isfinite(row)).tolist()) for row in cycles), table)
    each = cycles[np.arange(len(table)), choices]
    if series:
        span = each.sum(axis=1)
    else:
        columns = range(cycles.shape[1])
        span = np.stack([np.where(choices == c, each, 0.0).sum(axis=1) for c in columns]).max(axis=0)
    changes = np.zeros(len(choices))
    for a, b in pairs:
        changes += choices[:, a] != choices[:, b]
    best = np.lexsort((changes, span))[:most]
    return tuple((tuple(choices[i].tolist()), float(span[i])) for i in best)


def _choices(able: tuple[tuple[int, ...], ...], table: tuple[tuple[float, ...], ...]) -> Any:
    """Return the assignments that are looked at: all, or two good ones and those that differ from them in one place."""
    if math.prod(map(len, able)) <= _MOST_ASSIGNMENTS:
        places = np.indices([len(columns) for columns in able]).reshape(len(able), -1)
        return np.stack([np.array(c)[at] for c, at in zip(able, places, strict=True)], axis=1)
    found = []
    for start in _greedy(np.array(table)):
        found.append(start)
        for i, columns in enumerate(able):
            found += [np.where(np.arange(len(able)) == i, c, start) for c in columns]
    return np.unique(np.array(found), axis=0)


def _greedy(table: Any) -> list[Any]:
    """Return two good assignments: the longest first to the array that ends earliest, and each to its fastest."""
    load = np.zeros(table.shape[1])
    chosen = np.zeros(len(table), dtype=int)
    for i in np.argsort(-np.where(np.isfinite(table), table, 0.0).min(axis=1), kind="stable"):
        chosen[i] = int(np.argmin(load + table[i]))
        load[chosen[i]] += table[i, chosen[i]]
    return [chosen, table.argmin(axis=1)]


def ideal_cycles(
    cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int], array: Array, axes: Sequence[str]
) -> float:
    """Return the cycles of an Einsum with the widest spatial tiles, per element of the batch; inf if it cannot.

    Steps in which a `where` leaves no point are left out; wider tiles take no more of them.
    """
    if any(a.op not in array.ops for a in einsum.actions):
        return math.inf
    spatial = {r: _lying(cascade, r, sizes, x) for r, x in zip(axes, array.shape, strict=False)}
    busy: dict[tuple[str, ...], Counter[str]] = {}
    for a in einsum.actions:
        for unit, length in array.ops[a.op].items():
            busy.setdefault(a.variables, Counter())[unit if array.pipelined else ""] += length * a.count
    steps = {a.variables: a for a in einsum.actions}
    return sum(
        steps_of(cascade, einsum, steps[over], spatial, sizes) * max(units.values())
        for over, units in busy.items()
    )


def _lying(cascade: Cascade, rank: str, sizes: Mapping[str, int], length: int) -> int:
    """Return how much of a rank lies on an axis at a time."""
    return int((step if cuttable(cascade, rank) else divisor)(sizes[rank], length))


@functools.lru_cache(maxsize=512)
def _places(cascade: Same[Cascade]) -> Mapping[str, int]:
    """Return the order in which ranks are tried on axes: one for all Einsums, so that they lie on an array alike.

    What most Einsums have lies on the last axis for all of them. Names play no part: an algorithm in other letters is
    laid out the same.
    """
    used = Counter(rank_of(v) for e in cascade.it.einsums for v in e.variables)
    ranks = sorted(used, key=lambda r: used[r])  # ties stay in the order of first use
    return {rank: at for at, rank in enumerate(ranks)}


def best_axes(
    cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int], array: Array, barred: frozenset[str]
) -> tuple[tuple[str, ...], float]:
    """Return the ranks for the axes with which an Einsum takes least cycles, and the cycles; no barred rank.

    Ties go to the ranks that fill the array best, and then to results before reductions.
    """
    ranked = _ranked_axes(cascade, einsum, sizes, array, barred)
    best = ranked[0][1] if ranked else ()
    return best, ideal_cycles(cascade, einsum, sizes, array, best)


@functools.lru_cache(maxsize=4096)
def tied_axes(
    einsum: Same[Einsum],
    cascade: Same[Cascade],
    sizes: Same[Mapping[str, int]],
    array: Same[Array],
    narrow: int,
    barred: frozenset[str],
) -> tuple[tuple[str, ...], ...]:
    """Return all choices of ranks for the axes with as few cycles as the best and as many elements in use."""
    ranked = _ranked_axes(cascade.it, einsum.it, sizes.it, _narrowed(array.it, narrow), barred)
    return tuple(axes for merit, axes in ranked if merit[:2] == ranked[0][0][:2])


def _ranked_axes(
    cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int], array: Array, barred: frozenset[str]
) -> list[tuple[tuple[float, float, int], tuple[str, ...]]]:
    """Return the ranks that may lie on the axes with their merit, the best first."""
    place = _places(Same(cascade))
    ranks = sorted((r for r in map(rank_of, einsum.variables) if r not in barred), key=place.__getitem__)
    output = {rank_of(v) for v in einsum.output_variables}

    wherever = masked(cascade, einsum, sizes)
    cycles = functools.partial(ideal_cycles, cascade, einsum, sizes, array)

    def merit(choice: Sequence[str]) -> tuple[float, float, int]:
        used = math.prod(
            sizes[r] / -(-sizes[r] // _lying(cascade, r, sizes, x))
            for r, x in zip(choice, array.shape, strict=False)
        )
        results = sum(r in output for r in choice)
        return cycles(choice) if wherever else 0.0, -used, -results

    number = min(len(array.shape), len(ranks))
    found = [(merit(choice), choice) for choice in itertools.permutations(ranks, number)]
    return sorted(found, key=lambda pair: pair[0])  # stable: ties stay in the order of the ranks
