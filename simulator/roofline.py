"""Roofline: no kernel is faster than its operations at the peak, nor than its bytes at the full bandwidth."""

from __future__ import annotations

from typing import Any

import numpy as np


def roofline_seconds(
    operations: Any,
    moved_bytes: Any,
    *,
    peak_per_s: float,
    bandwidth_bytes_per_s: float,
    fixed_s: float = 0.0,
) -> Any:
    """Return max(operations / peak, bytes / bandwidth) plus a fixed cost; arrays broadcast.

    Source: Williams, Waterman, Patterson, "Roofline" (2009).

    >>> float(roofline_seconds(1e12, 1e9, peak_per_s=1e15, bandwidth_bytes_per_s=1e12))
    0.001
    """
    return fixed_s + np.maximum(
        np.asarray(operations, dtype=np.float64) / peak_per_s,
        np.asarray(moved_bytes, dtype=np.float64) / bandwidth_bytes_per_s,
    )
