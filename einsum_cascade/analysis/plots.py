"""Traffic against buffer size: the bound as a curve, schedules as points above it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..outputs import PICTURES
from ..pictures import COLOURS, DARK, GRID, LINES, MARKS
from .quantities import shown_bytes

Axes = Any
# So many powers of two at most are written along an axis; over less than this factor, round amounts between them.
_MOST_TICKS, _NARROW = 9, 16.0


def plot_traffic(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    points: Mapping[str, tuple[float, float]] | None = None,
    ax: Axes = None,
) -> Axes:
    """Draw least traffic against buffer size.

    Args:
        curves: by label, buffer bytes and traffic bytes.
        points: by label, the buffer bytes and traffic bytes of a schedule.
        ax: matplotlib axes; made when not given.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, (label, (buffers, moved)) in enumerate(curves.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        ax.plot(buffers, moved, linewidth=2, label=label, **style)
    for i, (label, (buffer, moved_bytes)) in enumerate((points or {}).items(), start=len(curves)):
        ax.plot(buffer, moved_bytes, MARKS[i % len(MARKS)], color=COLOURS[i % len(COLOURS)], label=label)
    ax.set(xlabel="on-chip buffer", ylabel="least off-chip traffic")
    for which in "xy":
        axis_of_bytes(ax, which)
    ax.grid(visible=True, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, labelcolor=DARK)
    return ax


def axis_of_bytes(ax: Axes, which: str) -> None:
    """Make an axis on which everything is drawn logarithmic, with ticks as people write amounts: 64 KiB.

    Args:
        ax: matplotlib axes.
        which: "x" or "y".
    """
    ax.set(**{f"{which}scale": "log"})
    low, high = getattr(ax, f"get_{which}lim")()
    ticks = _round_bytes(low, high)
    getattr(ax, f"set_{which}ticks")(ticks, [shown_bytes(tick) for tick in ticks])
    getattr(ax, f"set_{which}ticks")([], minor=True)
    ax.set(**{f"{which}lim": (low, high)})


def _round_bytes(low: float, high: float) -> list[float]:
    """Return powers of two in an interval, or, where that is narrow, multiples of one.

    >>> _round_bytes(3.0, 300.0), _round_bytes(1100.0, 3000.0)
    ([4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0], [1280.0, 1536.0, 1792.0, 2048.0, 2304.0, 2560.0, 2816.0])
    """
    if high / low < _NARROW:
        step = 2.0 ** math.floor(math.log2((high - low) / 4))
        return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    stride = -(-(last - first + 1) // _MOST_TICKS)
    return [2.0**k for k in range(first, last + 1, stride)]


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
