"""Numbers that no description may hold: what is none, what is less than nothing, and what arithmetic cannot bear."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from .schema import file_fields

# Products of several such numbers are still numbers of a computer, and nothing that is built comes near them.
_LEAST, _MOST = 1e-30, 1e30
_MOST_WHOLE = 1 << 48  # as sizes of ranks


def out_of_range(described: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the place of every number that cannot be, in the words of the file, with what is expected there.

    Nothing in a description of a machine or a mapping is negative, except a number that the file itself names
    (`parameters`). Infinite are only quantities of a memory, whose class says so.

    >>> from .tiles import PerScore
    >>> next(out_of_range(PerScore(exp=float("nan")), ("per_score",)))
    'per_score.exp: expected a finite number of at least 0, found nan'
    """
    if dataclasses.is_dataclass(described) and not isinstance(described, type):
        for key, field in file_fields(type(described)).items():
            value = getattr(described, field.name)
            if _is_number(value):
                yield from _of_number(value, (*path, key), may_be_infinite=field.unit is not None)
            else:
                yield from out_of_range(value, (*path, key))
    elif isinstance(described, Mapping):
        for key, value in described.items():
            if _is_number(value):
                yield from _of_number(value, (*path, str(key)), may_be_infinite=True, may_be_negative=True)
            else:
                yield from out_of_range(value, (*path, str(key)))
    elif isinstance(described, tuple):
        for i, value in enumerate(described):
            if _is_number(value):
                yield from _of_number(value, (*path, str(i)))
            else:
                yield from out_of_range(value, (*path, str(i)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_number(
    value: float, path: tuple[str, ...], *, may_be_infinite: bool = False, may_be_negative: bool = False
) -> Iterator[str]:
    place = ".".join(path)
    if (
        math.isnan(value)
        or (math.isinf(value) and not may_be_infinite)
        or (value < 0 and not may_be_negative)
    ):
        yield f"{place}: expected a finite number of at least 0, found {value}"
    elif isinstance(value, int) and abs(value) > _MOST_WHOLE:
        yield f"{place}: expected a whole number of at most 2^48, found {value}"[:200]
    elif value and math.isfinite(value) and not _LEAST <= abs(value) <= _MOST:
        yield f"{place}: expected a number between {_LEAST:g} and {_MOST:g}, found {value:g}"
