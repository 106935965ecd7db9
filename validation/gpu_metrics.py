"""How far predictions are off: mean and worst relative error, and whether the order of speeds is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def relative_errors(predicted: ArrayLike, measured: ArrayLike) -> NDArray[np.float64]:
    """Return |predicted - measured| / measured."""
    true = np.asarray(measured, dtype=np.float64)
    return np.asarray(np.abs(np.asarray(predicted, dtype=np.float64) - true) / true, dtype=np.float64)


def kendall_tau(a: ArrayLike, b: ArrayLike) -> float | None:
    """Return Kendall's tau-b of two series, None where one of them is constant.

    >>> kendall_tau([1, 2, 3], [1, 3, 2])
    0.3333333333333333
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    i, j = np.triu_indices(len(x), 1)
    dx, dy = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
    untied = float(np.sqrt(np.sum(dx != 0)) * np.sqrt(np.sum(dy != 0)))
    return float(np.sum(dx * dy)) / untied if untied else None
