"""Under a `where`: how many tiles, steps or other groups of points have a point left, whatever the size."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import CascadeError
from ..expr import Expr
from .intervals import alternatives, any_term, interval, slope
from .predicates import CHUNK, components, deciding, needed

# One digit of a coordinate: how many values it has, and whether they are told apart.
Digit: TypeAlias = tuple[int, bool]
# Coordinates that are looked at one by one: for two ranks, the length of the shorter.
LIMIT_STEPS = 2**26
LIMIT_HIDDEN = 2**22


def live_settings(
    parts: Sequence[Expr],
    digits: Mapping[str, Sequence[Digit]],
    numbers: Mapping[str, float],
    *,
    most: int = LIMIT_STEPS,
    decided: bool = False,
) -> int:
    """Return how many settings of the digits that are told apart leave a point for which all parts hold.

    A coordinate is written in digits, outermost first, as loops over tiles do: m = (m2 * M1 + m1) * M0 + m0. Where
    the outer digits are told apart and the inner ones are not, what is counted are tiles with a live point in them.

    Args:
        parts: static predicates over the variables.
        digits: of every variable, outermost first.
        numbers: sizes and constants by their names in the predicates.
        most: coordinates that are looked at one by one.
        decided: none of the parts holds at every point, as `deciding` tells.

    Raises:
        CascadeError: there would be more.

    >>> from einsum_cascade.parser import parse_expression
    >>> tiles = ((4, True), (256, False))  # four tiles of 256
    >>> live_settings([parse_expression("m <= p")], {"m": tiles, "p": tiles}, {})
    10
    """
    sizes = {v: math.prod(n for n, _ in own) for v, own in digits.items()}
    total = 1
    used: set[str] = set()
    for names, group in components(tuple(parts) if decided else deciding(parts, sizes, numbers)):
        used |= set(names)
        own = tuple((v, _merged(digits[v])) for v in names)
        total *= _settings(group, own, needed(group, numbers), most)
    return total * math.prod(n for v, own in digits.items() if v not in used for n, told in own if told)


def _merged(digits: Sequence[Digit]) -> tuple[Digit, ...]:
    """Return digits with neighbours of a kind made one, and those of a single value left out."""
    out: list[Digit] = []
    for size, told in digits:
        if out and out[-1][1] == told and size > 1:
            out[-1] = (out[-1][0] * size, told)
        elif size > 1:
            out.append((size, told))
    return tuple(out)


@functools.lru_cache(maxsize=4096)
def _settings(
    group: tuple[Expr, ...],
    digits: tuple[tuple[str, tuple[Digit, ...]], ...],
    constants: tuple[tuple[str, float], ...],
    most: int,
) -> int:
    numbers = dict(constants)
    terms = alternatives(group)
    tiled = [
        (v, own)
        for v, own in digits
        if [told for _, told in own] in ([], [True], [False], [True, False])
        and all(slope(atom.value, v, numbers) is not None for term in terms for atom in term)
    ]
    inner, own = max(tiled, key=lambda d: math.prod(n for n, _ in d[1]), default=("", ()))
    total = 0
    for grid, shape in _grids([d for d in digits if d[0] != inner], most):
        if not inner:
            total += int(any_term(terms, grid, numbers, shape[0] * shape[1]).reshape(shape).any(axis=1).sum())
            continue
        extent = math.prod(n for n, _ in own)
        ends = [interval(term, inner, extent, grid, numbers) for term in terms]
        low, high = (
            np.concatenate([np.broadcast_to(e, shape[0] * shape[1]).reshape(shape) for e in side], axis=1)
            for side in zip(*ends, strict=True)
        )
        width = own[-1][0] if own and not own[-1][1] else 1
        total += _covered(low, high, width, extent // width)
    return total


def _grids(digits: Sequence[tuple[str, tuple[Digit, ...]]], most: int) -> Any:
    """Yield the coordinates of all points, flat, with the shape (settings of the told digits, the others)."""
    told = [n for _, own in digits for n, kept in own if kept]
    hidden = [n for _, own in digits for n, kept in own if not kept]
    rows, columns = math.prod(told), math.prod(hidden)
    if rows * columns > most or columns > LIMIT_HIDDEN:
        names = ", ".join(v for v, _ in digits)
        raise CascadeError(
            f"a predicate would take {rows * columns:,} steps over {names} to count", hint="use smaller sizes"
        )
    inside = np.unravel_index(np.arange(columns), tuple(hidden)) if hidden else ()
    step = max(1, CHUNK // columns)
    for start in range(0, rows, step):
        flat = np.arange(start, min(start + step, rows))
        outside = np.unravel_index(flat, tuple(told)) if told else ()
        yield _values(digits, outside, inside, (len(flat), columns)), (len(flat), columns)


def _values(
    digits: Sequence[tuple[str, tuple[Digit, ...]]],
    outside: Sequence[Any],
    inside: Sequence[Any],
    shape: tuple[int, int],
) -> dict[str, Any]:
    given = {True: iter(outside), False: iter(inside)}
    out = {}
    for variable, own in digits:
        value = np.zeros(shape, dtype=np.int64)
        for size, told in own:
            place = next(given[told])
            value = value * size + (place[:, None] if told else place[None, :])
        out[variable] = value.ravel()
    return out


def _covered(low: Any, high: Any, width: int, tiles: int) -> int:
    """Return how many tiles of a width the intervals of each row touch, summed over rows."""
    empty = high < low
    low = np.where(empty, tiles, low // width)
    high = np.where(empty, tiles - 1, high // width)
    if (low[:, 1:] < low[:, :-1]).any():
        order = np.argsort(low, axis=1, kind="stable")
        low, high = np.take_along_axis(low, order, 1), np.take_along_axis(high, order, 1)
    reached = np.maximum.accumulate(high, axis=1)
    before = np.concatenate([np.full_like(reached[:, :1], -1), reached[:, :-1]], axis=1)
    return int(np.maximum(high - np.maximum(low, before + 1) + 1, 0).sum())
