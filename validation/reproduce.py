"""All figures and tables of a subject from our own simulator, written into a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from einsum_cascade.errors import DataError, nearest
from einsum_cascade.outputs import check_writable, make_folder
from einsum_cascade.sizes import workloads

from . import fusemax, gna, plots
from .fusemax_quirks import AS_PUBLISHED, SIMULATED, Quirks
from .fusemax_runs import gemms, pareto
from .report import picture

CONFIGURATIONS = {
    "unfused": "Unfused",
    "flat": "FLAT",
    "cascade": "+Cascade",
    "arch": "+Architecture",
    "binding": "+Binding",
}
# The artifact charges each configuration with the projections of its own chip.
PLATFORM = {"unfused": "flat", "flat": "flat", "cascade": "flat", "arch": "proposal", "binding": "proposal"}
PE_DIMENSIONS = (16, 32, 64, 128, 256, 512)


def reproduce(subject: str, out: Path) -> list[Path]:
    """Write every figure (PNG) and table (CSV) of a subject into a folder; return the paths.

    Raises:
        DataError: an unknown subject, or a folder that cannot be written.
    """
    if subject not in _SUBJECTS:
        raise DataError(f"cannot reproduce '{subject}'; {nearest(subject, _SUBJECTS)}")
    written: list[Path] = []
    make_folder(out)
    try:
        check_writable(out / f".{subject}")  # a folder that takes no file is told before the work
        for name, frame, axes in _SUBJECTS[subject]():
            table = out / f"{name}.csv"
            frame.to_csv(table, index=False)
            written.append(table)
            if axes is not None:
                figure = out / f"{name}.png"
                figure.write_bytes(picture(axes))
                written.append(figure)
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror or error}") from None
    return written


def attention_table(quirks: Quirks) -> pd.DataFrame:
    """Return every configuration of the artifact on every model and length, attention alone and end to end.

    Columns: configuration, model, length, latency_s, energy_j, traffic_bytes, util_2d, util_1d, and the same totals
    with the six products around attention (end_to_end_...).
    """
    from tqdm.auto import tqdm

    choices = fusemax.flat_choices(fusemax.SHIPPED)
    cells = [(c, m, n) for c in CONFIGURATIONS for m in workloads() for n in fusemax.LENGTHS]
    rows = []
    for configuration, model, length in tqdm(
        cells, desc="fusemax", file=sys.stderr, leave=False, disable=None
    ):
        choice = choices[model, length] if configuration == "flat" else None
        found = fusemax.estimate(configuration, model, length, quirks, choice)
        around = gemms(PLATFORM[configuration], model, length, quirks)
        rows.append(
            {
                "configuration": CONFIGURATIONS[configuration],
                "model": model,
                "length": length,
                "latency_s": found.latency_s,
                "energy_j": found.energy_j,
                "traffic_bytes": found.traffic_bytes,
                "util_2d": found.utilization["PE2D"],
                "util_1d": found.utilization["PE1D"],
                "end_to_end_latency_s": found.latency_s + around["latency"],
                "end_to_end_energy_j": found.energy_j + around["energy"],
            }
        )
    return pd.DataFrame(rows)


def against(table: pd.DataFrame, baseline: str, column: str) -> pd.DataFrame:
    """Return the table with `ratio`: the baseline's latency over ours, or our energy over the baseline's."""
    base = table[table["configuration"] == baseline].set_index(["model", "length"])[column]
    keys = pd.MultiIndex.from_frame(table[["model", "length"]])
    of_baseline = base.loc[keys].to_numpy()
    ratio = of_baseline / table[column] if "latency" in column else table[column] / of_baseline
    return table.assign(ratio=ratio)


# The artifact's columns have no units in their names.
_UNITS = {
    "traffic": "traffic_bytes",
    **{name: f"{name}_s" for name in ("mem_lat", "comp_2d_lat", "comp_1d_lat", "latency")},
    **{name: f"{name}_um2" for name in ("array_2d_area", "area")},
}


def pareto_table(quirks: Quirks) -> pd.DataFrame:
    """Return area against latency of +Binding at 256K for growing arrays."""
    rows = [{"model": m, "PE_dim": p, **pareto(m, p, quirks)} for m in workloads() for p in PE_DIMENSIONS]
    table = pd.DataFrame(rows).rename(columns=_UNITS)
    return table.assign(area_mm2=table["area_um2"] / 1e6)


_Part = tuple[str, pd.DataFrame, Any]


def _fusemax() -> Iterator[_Part]:
    table = attention_table(SIMULATED)
    yield "attention", table, None
    yield "attention_as_published", attention_table(AS_PUBLISHED), None
    yield "utilization", table, plots.utilization(table)
    for what in ("latency_s", "energy_j", "end_to_end_latency_s", "end_to_end_energy_j"):
        ratio = against(table, "Unfused", what)
        yield f"{what.rsplit('_', 1)[0]}_against_unfused", ratio, plots.ratio_bars(ratio, column=what)
    front = pareto_table(SIMULATED)
    yield "pareto", front, plots.area_latency(front)
    yield "headline", pd.DataFrame(fusemax.headline()), None
    yield "quirks", fusemax.quirk_effects(), None


def _gna() -> Iterator[_Part]:
    bars = gna.bars()
    yield "bounds", bars, plots.gna_bars(bars)
    yield "cases", gna.cases(), None
    yield "launches", gna.launches(), None


def _gpu() -> Iterator[_Part]:
    from .gpu_figures import figures

    yield from figures()


_SUBJECTS: Mapping[str, Callable[[], Iterator[_Part]]] = {"fusemax": _fusemax, "gna": _gna, "gpu": _gpu}
