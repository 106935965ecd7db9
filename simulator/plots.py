"""Pictures of estimates: an estimate in, Axes out; nothing is computed here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum_cascade.errors import DataError
from einsum_cascade.outputs import PICTURES
from einsum_cascade.pictures import COLOURS

from .result import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def waterfall(estimate: Estimate, ax: Axes | None = None) -> Axes:
    """Draw when each Einsum runs on which array: one row an array, phases one after another.

    Times are those of the whole run with the steps of a phase gathered: each bar is the time that an Einsum takes in
    all, at the place that it has in its step.
    """
    import matplotlib.pyplot as plt

    ax = ax if ax is not None else plt.subplots(figsize=(9, 2.6), layout="constrained")[1]
    lanes = list(dict.fromkeys(s.lane for s in estimate.slots))
    clock_hz = _clock(estimate)
    start = 0.0
    colours = plt.get_cmap("tab20")
    for phase, seconds in estimate.phases.items():
        for number, slot in enumerate(s for s in estimate.slots if s.phase == phase):
            left, width = start + slot.begin / clock_hz, slot.cycles / clock_hz
            row = lanes.index(slot.lane)
            ax.barh(
                row,
                width,
                left=left,
                height=0.8,
                color=colours(number % 20),
                edgecolor="white",
                linewidth=0.5,
            )
            if width > 0.03 * estimate.latency_s:
                ax.text(left + width / 2, row, slot.einsum, ha="center", va="center", fontsize=8)
        start += seconds
        ax.axvline(start, color="grey", linewidth=0.8)
    ax.set_yticks(range(len(lanes)), lanes)
    ax.invert_yaxis()
    ax.set_xlabel("time [s]")
    ax.set_title(f"{estimate.cascade} on {estimate.hardware}, mapped by {estimate.mapping}", fontsize=10)
    return ax


def _clock(estimate: Estimate) -> float:
    """Cycles per second, from any Einsum that takes some."""
    return next((float(e.cycles / e.time_s) for e in estimate.einsums if e.time_s), 1.0)


def energy_stack(estimates: dict[str, Estimate], ax: Axes | None = None) -> Axes:
    """Draw the energy of several estimates as stacked bars, one colour a component."""
    import matplotlib.pyplot as plt

    ax = ax if ax is not None else plt.subplots(figsize=(7, 3.5), layout="constrained")[1]
    components = list(dict.fromkeys(c for e in estimates.values() for c in e.energy_by_component))
    bottom = [0.0] * len(estimates)
    for i, component in enumerate(components):
        heights = [float(e.energy_by_component.get(component, 0.0)) for e in estimates.values()]
        ax.bar(
            list(estimates),
            heights,
            bottom=bottom,
            label=component,
            color=COLOURS[i % len(COLOURS)],
            edgecolor="white",
        )
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    ax.set_ylabel("energy [J]")
    ax.spines[["top", "right"]].set_visible(False)
    # Beside the bars, in the order in which they lie on each other.
    ax.legend(fontsize=8, frameon=False, reverse=True, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def save_waterfall(estimate: Estimate, path: str | Path) -> None:
    """Write the waterfall of an estimate to a file.

    Raises:
        DataError: an ending that is no picture, or a place that cannot be written.
    """
    save(waterfall(estimate), path)


def save(ax: Any, path: str | Path) -> None:
    """Write the figure of some axes to a file and close it."""
    import matplotlib.pyplot as plt

    target = Path(path)
    if target.suffix not in PICTURES:
        raise DataError(f"{target}: expected a file that ends in {', '.join(PICTURES)}")
    try:
        ax.figure.savefig(target)
    except OSError as e:
        raise DataError(f"{target}: cannot be written: {e.strerror}") from None
    finally:
        plt.close(ax.figure)
