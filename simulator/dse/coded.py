"""Columns of design points by code: an axis has few values, so a point is told by whole numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Coded(Sequence[Any]):
    """A list of values, most of them repeated: `values[which[i]]` is the i-th one.

    Attributes:
        values: the distinct ones; 1, 1.0 and True are three.
        which: for each entry the position of its value.

    >>> list(Coded(("a", "b"), np.array([1, 0, 1])))
    ['b', 'a', 'b']
    """

    values: tuple[Any, ...]
    which: Any

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, position: Any) -> Any:
        return self.values[self.which[position]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self.tolist(), dtype=dtype)

    def tolist(self) -> list[Any]:
        """Return the entries as a plain list."""
        return list(map(self.values.__getitem__, self.which.tolist()))

    def at(self, positions: Any) -> Coded:
        """Return the entries at some positions, with the values that occur there alone."""
        return Coded(self.values, self.which[positions]).compact()

    def compact(self) -> Coded:
        """Return the same entries without the values that none of them has.

        >>> Coded(("a", "b", "c"), np.array([2, 0, 2])).compact().values
        ('a', 'c')
        """
        used = np.bincount(self.which, minlength=len(self.values)) > 0
        if used.all():
            return self
        kept = np.flatnonzero(used)
        return Coded(tuple(self.values[i] for i in kept.tolist()), (np.cumsum(used) - 1)[self.which])


def coded(values: Sequence[Any]) -> Coded:
    """Return a list of values by code.

    >>> coded([64, 128, 64]).which.tolist()
    [0, 1, 0]
    """
    if isinstance(values, Coded):
        return values
    # 1, 1.0 and True are equal but not written alike.
    alike = len(set(map(type, values))) == 1
    keys = values if alike else [(type(v), v) for v in values]
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    which = np.fromiter(map(codes.__getitem__, keys), dtype=np.int64, count=len(values))
    return Coded(tuple(codes) if alike else tuple(v for _, v in codes), which)
