"""Divisors of sizes: what may be the size of a tile that a rank is cut into without a rest."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from .nest import Count


def divisor(size: Count, most: Count) -> Count:
    """Return the largest divisor of a size that is at most `most`, element by element for arrays.

    >>> divisor(1000, 256), divisor(1024, 256), divisor(7, 4)
    (250, 256, 1)
    """
    if isinstance(size, np.ndarray) or isinstance(most, np.ndarray):
        sizes, bounds = np.broadcast_arrays(size, most)
        # One complex number a pair: sorting those is much faster than sorting rows.
        distinct, where = np.unique(sizes + 1j * bounds, return_inverse=True)
        found = np.array([_divisor(int(pair.real), int(pair.imag)) for pair in distinct], dtype=np.int64)
        return found[where.reshape(sizes.shape)]
    return _divisor(int(size), int(most))


def step(size: Count, length: Count) -> Count:
    """Return how much of a rank lies on an axis at a time: as few steps as it takes, on as few elements as those need.

    That is a divisor of its size where one takes as few steps as the full axis; else the last step is shorter.

    Args:
        size: of the rank.
        length: of the axis.

    >>> step(1000, 256), step(1024, 256), step(577, 256), step(7, 256)
    (250, 256, 193, 7)
    """
    steps = -(-size // length)
    return -(-size // steps)


@functools.lru_cache(maxsize=65536)
def _divisor(size: int, most: int) -> int:
    return max((d for d in divisors(size) if d <= most), default=1)


def parts_of(n: int) -> set[int]:
    """Return the sizes of the largest part when a number of steps is cut into 1, 2, 3 ... parts as even as can be.

    >>> sorted(parts_of(12))
    [1, 2, 3, 4, 6, 12]
    >>> sorted(parts_of(13))
    [1, 2, 3, 4, 5, 7, 13]
    """
    root = math.isqrt(n)
    # Each size up to the root is that of some number of parts beyond it.
    return {-(-n // k) for k in range(1, root + 2)} | set(range(1, root + 1))


@functools.lru_cache(maxsize=4096)
def tiles_of(n: int) -> tuple[int, ...]:
    """Return the tiles that a number of steps is cut into, ascending: divisors, and others where those are rare.

    Between divisors further apart than a factor of two stand the sizes that make fewest tiles of those up to them; the
    last tile is shorter then, but has more than one step.

    >>> tiles_of(16), tiles_of(13)
    ((1, 2, 4, 8, 16), (1, 5, 7, 13))
    """
    found = divisors(n)
    between = []
    for low, high in itertools.pairwise(found):
        if high > 2 * low:
            between += [t for t in parts_of(n) if low < t < high and n % t > 1]
    return tuple(sorted({*found, *between}))


@functools.lru_cache(maxsize=4096)
def divisors(n: int) -> tuple[int, ...]:
    """Return the divisors of a number, ascending.

    >>> divisors(12)
    (1, 2, 3, 4, 6, 12)
    """
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return (*small, *(n // d for d in reversed(small) if d * d != n))
