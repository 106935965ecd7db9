"""Traffic against buffer size: the bound as a curve, schedules as points above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..outputs import PICTURES

Axes = Any


def plot_traffic(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    points: Mapping[str, tuple[float, float]] | None = None,
    ax: Axes = None,
) -> Axes:
    """Draw least traffic against buffer size, in MiB.

    Args:
        curves: by label, buffer bytes and traffic bytes.
        points: by label, the buffer bytes and traffic bytes of a schedule.
        ax: matplotlib axes; made when not given.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    mib = 2.0**20
    for label, (buffers, moved) in curves.items():
        ax.plot(np.asarray(buffers) / mib, np.asarray(moved) / mib, label=label)
    for label, (buffer, moved_bytes) in (points or {}).items():
        ax.plot(buffer / mib, moved_bytes / mib, "o", label=label)
    ax.set(xscale="log", yscale="log", xlabel="on-chip buffer [MiB]", ylabel="least off-chip traffic [MiB]")
    ax.grid(visible=True, which="both", alpha=0.3)
    ax.legend()
    return ax


def save_traffic(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: Path,
    *,
    points: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Write the drawing of some curves and points to a file; its ending says the format.

    Raises:
        DataError: the file cannot be written, or its ending names no format.
    """
    if path.suffix not in PICTURES:
        raise DataError(f"{path}: expected a file that ends in {', '.join(PICTURES)}")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    plot_traffic(curves, points=points, ax=figure.subplots())
    try:
        figure.savefig(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
