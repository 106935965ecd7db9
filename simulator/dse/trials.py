"""Which points are read before a sweep begins, so that what is misspelt is told at once and not by every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from einsum_cascade.errors import ModelError

from .space import Point, Range, Space, Value

# Values of an axis beyond these are not tried before the sweep begins; they speak for themselves in the table.
_TRIED = 32
# A value is refused where so many points with it, spread over the space, cannot be read.
_SPREAD = 8
# Of a larger space so many points, drawn at random, are looked through for those with a value.
_LOOKED_AT = 1 << 16


def check_values(space: Space, prepare: Callable[[Point], Any]) -> None:
    """Refuse a listed value with which no point can be read.

    One that goes with some values of the other axes and not with others is none: its points say so in the table.

    Args:
        space: the points.
        prepare: reads a point, or raises.

    Raises:
        ModelError: as the first point without fault of its axes does; else with the axis and the value.

    >>> def prepare(point):
    ...     if point["x"] * point["y"] == 0:
    ...         raise ModelError("nothing to do")
    >>> check_values(Space({"x": [1, 2], "y": [3, 0]}), prepare)
    Traceback (most recent call last):
    einsum_cascade.errors.ModelError: y: 0: nothing to do
    """
    found = _refused(prepare, (space[i] for i in _spread(range(len(space)))))
    if found is not None:
        raise found
    for name, value, positions in _by_value(space):
        found = _refused(prepare, (space[i] for i in _spread(positions.tolist())))
        if found is not None:
            raise type(found)(f"{name}: {value}: {found}")


def _refused(prepare: Callable[[Point], Any], points: Iterable[Point]) -> ModelError | None:
    """Return what the first of some points has to complain of; None where one of them can be read."""
    first = None
    for point in points:
        try:
            prepare(point)
        except ModelError as error:
            first = first or error
        else:
            return None
    return first


def _by_value(space: Space) -> Iterator[tuple[str, Value, Any]]:
    """Yield axis, value and positions of points with it, for the first values of every list."""
    if len(space) > _LOOKED_AT:  # of a space that no list of all its points would fit memory for
        every = np.sort(np.random.default_rng(0).choice(len(space), _LOOKED_AT))
    else:
        every = np.arange(len(space))
    columns = space.coded(every)
    for name, values in space.axes.items():
        if isinstance(values, Range):
            continue
        column = columns[name]
        listed = {(type(v), v) for v in values[: _TRIED + 1]}
        for code, value in enumerate(column.values):
            if (type(value), value) in listed:
                yield name, value, every[column.which == code]


def _spread(positions: Sequence[int]) -> list[int]:
    """Return some positions, evenly spread, the first one first."""
    step = (len(positions) - 1) / (_SPREAD - 1)
    return [positions[i] for i in dict.fromkeys(int(step * k) for k in range(_SPREAD))]
