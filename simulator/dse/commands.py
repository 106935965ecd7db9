"""What the commands of this room do, apart from printing."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.errors import DataError
from einsum_cascade.machine import cpus

from .computed import is_formula, with_formulas
from .formulas import magnitudes, read_formula, value_of
from .pareto import hypervolume, knee, numbers_in, pareto
from .spec import read_spec
from .store import read_manifest
from .study import sweep
from .subjects import changes_work
from .tables import CSV, PARQUET, plain_rows, read_table

if TYPE_CHECKING:
    import pandas as pd


def run_sweep(spec: Path, out: Path, *, jobs: int | None = None, scheduler: str = "") -> dict[str, Any]:
    """Run a sweep file into a folder and return what came of it.

    Raises:
        ModelError: the file is wrong, the folder cannot be written, the cluster is lost, or every point fails.
    """
    found = read_spec(spec)
    if jobs is not None and scheduler:
        raise DataError("--jobs and --scheduler exclude each other: a cluster has its own workers")
    with contextlib.ExitStack() as stack:
        workers = None
        if scheduler:
            from .cluster import connected

            workers = stack.enter_context(connected(scheduler))
        table = sweep(
            found.space,
            out=out,
            jobs=cpus() if jobs is None else jobs,
            workers=workers,
            progress=True,
            objectives={"minimize": found.minimize, "maximize": found.maximize},
            search=found.search,
            **found.inputs,
        )
    result: dict[str, Any] = {"points": len(table), "failed": int(table["error"].notna().sum())}
    if result["failed"]:
        result["most_often"] = str(table["error"].value_counts().index[0])
    return result | {"table": str(out / PARQUET), "csv": str(out / CSV)}


@dataclass(frozen=True, slots=True)
class Front:
    """What `cascade pareto` shows.

    Attributes:
        rows: the front.
        columns: those worth printing: axes, objectives and what bounds.
        remarks: one line each.
    """

    rows: list[dict[str, Any]]
    columns: list[str]
    remarks: list[str]


def run_pareto(
    folder: Path,
    *,
    minimize: Sequence[str] = (),
    maximize: Sequence[str] = (),
    by: Sequence[str] = (),
    where: Sequence[str] = (),
    plot: Path | None = None,
) -> Front:
    """Return the front of a sweep, by the objectives of its file where none are given.

    Args:
        where: constraints over axes and results that a design has to meet, for example `area_mm2 <= 500`.

    Raises:
        DataError: no finished sweep, no such column, or no design that meets the constraints.
    """
    table, manifest = within(read_table(folder), where), read_manifest(folder)
    if not minimize and not maximize:
        minimize, maximize = manifest.get("minimize", ()), manifest.get("maximize", ())
    table = with_formulas(table, [*minimize, *maximize])
    front = pareto(table, minimize=minimize, maximize=maximize, by=by)
    axes = [*manifest["axes"], *manifest["derived"]]
    remarks = []
    if plot:
        from .plots import save_front

        save_front(plot, table, front, [*minimize, *maximize], by=by)
        remarks.append(f"wrote {plot}")
    work = [a for a in axes if changes_work(a) and table[a].nunique() > 1 and a not in by]
    if work:
        groups = " ".join(f"--by {a}" for a in work)
        remarks.append(f"the designs do different work; one front for each: {groups}")
    elif not by and len(minimize) + len(maximize) > 1:
        bend = knee(table, minimize=minimize, maximize=maximize)
        volume = hypervolume(table, minimize=minimize, maximize=maximize)
        named = ", ".join(f"{s} {brief(bend[a])}" for s, a in zip(short_names(axes), axes, strict=True))
        remarks.append(f"knee: {named}; the front dominates {volume:.1%} of the box that the designs span")
    shown = dict.fromkeys([*axes, *minimize, *maximize, *(["bound_by"] if "bound_by" in front else [])])
    return Front(plain_rows(front.drop(columns="error", errors="ignore")), list(shown), remarks)


def within(table: pd.DataFrame, where: Sequence[str]) -> pd.DataFrame:
    """Return the designs that meet every constraint over the columns of a table; those with an error meet none.

    Raises:
        DataError: an unknown column, no constraint, or no design that meets them all.

    >>> import pandas as pd
    >>> within(pd.DataFrame({"N": [64, 128], "area_mm2": [90.0, 330.0]}), ["area_mm2 <= 100"])["N"].tolist()
    [64]
    """
    for text in where:
        formula = read_formula(text, [c for c in table.columns if c != "error"], where="--where")
        if not formula.logical:
            raise DataError(f"--where: '{text}' is a number; a constraint compares, as in '{text} <= 256'")
        usable = table[table["error"].isna()] if "error" in table else table
        columns = {name: _compared(usable[name]) for name in formula.axes.values()}
        table = usable[np.broadcast_to(value_of(formula, columns), len(usable)).astype(bool)]
        if not len(table):
            raise DataError(f"--where: none of {len(usable):,} designs meets '{text}'")
    return table


def _compared(column: pd.Series) -> Any:
    numbers = numbers_in(column)
    return column.astype(object).fillna("").map(str).to_numpy() if numbers is None else numbers


def run_sensitivity(folder: Path, objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Return how much each axis of a sweep moves each objective; Sobol indices where it was drawn for them.

    Raises:
        DataError: no finished sweep, or no such column.
    """
    from .effects import sensitivity
    from .engine import space_of
    from .indices import SALTELLI, sobol_indices

    table, manifest = read_table(folder), read_manifest(folder)
    wanted = objectives or [*manifest.get("minimize", ()), *manifest.get("maximize", ())]
    if manifest.get("design") == SALTELLI:
        return plain_rows(sobol_indices(table, space_of(manifest), objectives=wanted))
    axes = [a for a in [*manifest["axes"], *manifest["derived"]] if table[a].nunique() > 1]
    orders = {a: _in_order(table[a], manifest["axes"].get(a)) for a in axes}
    return plain_rows(sensitivity(table, axes=orders, objectives=wanted, derived=tuple(manifest["derived"])))


def _in_order(column: Any, stated: Any) -> list[Any]:
    """Return the values of an axis as its list states them, or from the least to the greatest where none does."""
    found = column.unique().tolist()
    if isinstance(stated, list):
        # A column with a text in it holds texts alone.
        return [str(v) for v in stated] if any(isinstance(v, str) for v in found) else stated
    sizes = magnitudes(found)
    return [found[i] for i in sizes.argsort(kind="stable")]


_LONG = re.compile(r"(\d+\.\d{4,}(?:e[-+]?\d+)?)( \S+)?")


def brief(value: Any) -> Any:
    """Return a value as a table shows it: a drawn amount in five digits, all else as it is.

    >>> brief("54.68719917438009 MiB"), brief(0.123456789), brief("16 MiB"), brief(1024), brief("16,8,8")
    ('54.687 MiB', '0.12346', '16 MiB', 1024, '16,8,8')
    """
    match = _LONG.fullmatch(str(value)) if isinstance(value, (str, float)) else None
    return f"{float(match[1]):.5g}{match[2] or ''}" if match else value


def short_names(columns: Sequence[str]) -> list[str]:
    """Return the shortest ends of dotted names that still tell them apart.

    >>> short_names(["hardware.N", "sizes.N", "hardware.memories.DRAM.bandwidth", "area_mm2"])
    ['hardware.N', 'sizes.N', 'bandwidth', 'area_mm2']
    >>> short_names(["hardware.arrays.PE2D.shape.0"])  # a place in a list says nothing without the list
    ['shape.0']
    >>> short_names(["hardware.N", "hardware.N / latency_s"])
    ['N', 'hardware.N / latency_s']
    """
    out = []
    for column in columns:
        if is_formula(column):
            out.append(column)
            continue
        parts = column.split(".")
        least = next((n for n, word in enumerate(reversed(parts), start=1) if not word.isdigit()), 1)
        ends = [".".join(parts[-n:]) for n in range(least, len(parts) + 1)]
        others = {c for c in columns if c != column}
        out.append(next((e for e in ends if not any(f".{o}".endswith(f".{e}") for o in others)), column))
    return out
