"""The tile simulator held against measured attention kernels: raw, calibrated, devices left out, roofline beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from einsum_cascade.errors import DataError
from simulator.gpu.calibration import Key, uncalibrated
from simulator.gpu.efficiency import Efficiency
from simulator.gpu.intervals import interval, kind_of, with_interval
from simulator.hardware.gpu import find_gpu

from .gpu_chosen import chosen_after_data, chosen_note
from .gpu_energy import power_note
from .gpu_metrics import kendall_tau, relative_errors
from .gpu_operators import operator_sets, operators
from .gpu_sets import (
    CONSTANTS,
    SET,
    Part,
    attention_rows,
    calibrated,
    calls_of,
    known_of,
    parts_of,
    predicted,
    roofline_calibrated,
    unknown_names,
)
from .gpu_variants import summary, variants, without_model
from .gpu_windows import dense_seconds, finding, skipping_seconds, speedups
from .measured import PUBLISHED, read_measured

SHIPPED = PUBLISHED / "gpu_measured.csv"

# A row may be off by this much before it counts as a failure of the model: the same kernel on the same chip differs by
# 20 to 30 % between published machines and versions. What the model promises is the mean error of a set, beside it.
_ROW_TOLERANCE = 0.5
_ROW_WHY = (
    "single published rows: machines and versions of one kernel differ by 20 to 30 %, fixed costs by more"
)
_PATIENCE_S = 1.0  # before a bar shows how far the work is
_LEAST_ROWS = 5  # sets with fewer rows are listed, and judged by nobody
# Two rows that agree in all of these are one measurement told twice.
_SAME = [*SET, "batch", "heads", "kv_heads", "seq_q", "seq_kv", "causal", "kv_dtype", "latency_ms"]
_RAW = Efficiency(scalar=1.0, launch_s=3e-6, block_cycles=2500.0, memory=1.0, source="no scalar", spread=1.0)


def compare(measured: Path | None = None, calibrate: Path | None = None) -> dict[str, Any]:
    """Return predicted against measured, per row and per set.

    With `calibrate`, its rows fit the constants of their (device, implementation, head_dim, dtype), those of one
    machine together, and are left out of the errors. Without, the dense row of median size of each such set does,
    for that set alone: the longest rows run at the clock that heat leaves, the shortest are fixed cost. Of rows of one
    size what they call decides, so that the file's order does not matter. What is known before the fit comes from the
    shipped table without the entries of the set's own device.

    Raises:
        DataError: a table that cannot be read, or holds no row that can be predicted.
    """
    table = read_measured(measured or SHIPPED)
    rows, left_out = attention_rows(table)
    if not len(rows):
        why = "; ".join(f"{n} rows: {rule}" for rule, n in left_out.items())
        raise DataError(f"{measured or SHIPPED}: no forward attention row on a known device ({why})")
    fitted_on, unused = _to_fit_on(rows, Path(calibrate)) if calibrate else (None, [])
    origin = "median size" if calibrate is None else Path(calibrate).name
    cases = cases_of(rows, fitted_on, origin)
    if cases["fitting"].all():
        # With no row to judge every tolerance would hold.
        raise DataError(
            f"{measured or SHIPPED}: each of its {len(cases)} rows calibrates its set, so none is left to judge; "
            "expected other lengths or masks of the same kernel too"
        )
    result = _result(cases, left_out)
    told = variants(table)
    result["variants"] = told.to_dict("records")
    result["speedups"] = summary(told).to_dict("records")
    result["operators"] = operator_sets(operators(table))
    result["chosen_after_data"] = chosen_after_data()
    result["notes"] += [
        *_calibrated_by(cases, calibrate),
        *unused,
        *unknown_names(rows),
        *power_note(rows),
        *_aliases(rows),
        *without_model(table, told),
        chosen_note(result["chosen_after_data"]),
    ]
    return result


def cases_of(rows: pd.DataFrame, fitted_on: pd.DataFrame | None, origin: str) -> pd.DataFrame:
    """Return rows with their predictions: `got` after calibration, `left_out` without any, `raw`, `roofline` [s].

    Where rows to calibrate on are given, all sets of a machine are fitted together; else each on its own.
    """
    from tqdm import tqdm

    out = []
    # A fit of a machine takes as long as some sets together: a step of its own.
    steps = rows.groupby(CONSTANTS).ngroups + rows["device"].nunique()
    # None: on a terminal only, so that a notebook or a log keeps nothing of it.
    with tqdm(
        total=steps, desc="validate gpu", file=sys.stderr, leave=False, delay=_PATIENCE_S, disable=None
    ) as bar:
        for device, machine in rows.groupby("device", sort=True):
            bar.set_postfix_str(device, refresh=False)
            sets = [_gathered(group, fitted_on) for _, group in machine.groupby(CONSTANTS, sort=True)]
            fits = _fits(sets) if fitted_on is not None else {}
            bar.update()
            for each in sets:
                out.append(_one_set(each, fits or _fits([each]), origin))
                bar.update()
    return pd.concat(out, ignore_index=True)


def _to_fit_on(rows: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the attention rows of a table to calibrate on, and what to tell of those that calibrate no set.

    Raises:
        DataError: none does.
    """
    table = read_measured(path)
    found, _ = attention_rows(table)
    sets = rows.groupby(CONSTANTS, sort=True)
    used = {i for _, group in sets for i in _calibration_rows(group, found).index}
    if not used:
        first = " ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in next(iter(sets.groups)))
        raise DataError(
            f"{path}: none of its {len(table)} rows calibrates one of {sets.ngroups} sets; "
            f"expected forward attention rows of {first} (device, implementation, head_dim, dtype)"
        )
    rest = len(table) - len(used)
    return found, [f"{rest} rows of {path.name} belong to no set of the table"] if rest else []


@dataclass(frozen=True, slots=True)
class _Set:
    """Rows with one set of constants, and those that calibrate it."""

    rows: pd.DataFrame
    by_rows: pd.DataFrame
    parts: tuple[Part, ...]
    by: tuple[Part, ...]


def _gathered(rows: pd.DataFrame, fitted_on: pd.DataFrame | None) -> _Set:
    by_rows = _calibration_rows(rows, fitted_on)
    by = tuple(parts_of(by_rows.sort_values(_SAME, kind="stable"))) if len(by_rows) else ()
    return _Set(rows, by_rows, tuple(parts_of(rows)), by)


def _fits(sets: list[_Set]) -> dict[Key, Efficiency]:
    """Return the constants of all keys of the sets, from the rows of all of them; nothing where there are none."""
    by = [part for each in sets for part in each.by]
    return calibrated([part for each in sets for part in each.parts], by) if by else {}


def _calibrated_by(cases: pd.DataFrame, calibrate: Path | None) -> list[str]:
    """Return where the rows went that are neither judged nor left out by a rule."""
    out = []
    fitting = cases[cases["fitting"]]
    if len(fitting):
        sets, again = fitting.groupby(CONSTANTS).ngroups, int(fitting.duplicated(_SAME).sum())
        origin = Path(calibrate).name if calibrate else "the dense row of median size of each set"
        out.append(
            f"{len(fitting)} rows calibrate {sets} sets and are not judged ({origin}); {again} of them repeat another"
        )
    prior = cases[cases["scalar_source"].str.startswith("uncalibrated")]
    if len(prior):
        out.append(
            f"{len(prior)} rows of {prior.groupby(CONSTANTS).ngroups} sets have no row to calibrate on; they are "
            "judged with what other sets and devices say"
        )
    alone = fitting.groupby(CONSTANTS).ngroups - _judged_sets(fitting, cases)
    if alone:
        out.append(f"{alone} sets hold nothing beside their calibration row and do not appear below")
    return out


def _judged_sets(fitting: pd.DataFrame, cases: pd.DataFrame) -> int:
    judged = set(cases[~cases["fitting"]].groupby(CONSTANTS).groups)
    return len(judged & set(fitting.groupby(CONSTANTS).groups))


def _aliases(rows: pd.DataFrame) -> list[str]:
    """Return which names of a table mean one device; their rows stay sets of their own."""
    meant: dict[str, list[str]] = {}
    for name in sorted(rows["device"].unique()):
        meant.setdefault(find_gpu(name).name, []).append(name)
    return [
        f"{device} under {len(names)} names, calibrated each for itself, since machines differ: {'; '.join(names)}"
        for device, names in meant.items()
        if len(names) > 1
    ]


def _one_set(one: _Set, fits: dict[Key, Efficiency], origin: str) -> pd.DataFrame:
    """Return the predictions of all rows with one set of constants."""
    rows, by_rows = one.rows, one.by_rows
    scale, fixed = _roofline(one.by)
    out = rows.copy()
    out["fitting"] = _same_rows(rows, by_rows)
    for part in one.parts:
        kind = kind_of(part.launch.mapping, part.direction)
        known = uncalibrated(known_of(part), kind=kind)
        fit = known
        if part.key in fits:
            state = "measured" if one.by else "own"
            source = _source(len(by_rows), origin)
            fit = with_interval(replace(fits[part.key], source=source), state=state, kind=kind)
        got, raw = predicted(part, fit), predicted(part, _RAW)
        where = part.rows
        out.loc[where, "got"] = got.latency_s
        out.loc[where, ["low", "high"]] = [interval(float(s), fit) for s in got.latency_s]
        out.loc[where, "raw"] = raw.latency_s
        out.loc[where, "left_out"] = predicted(part, known).latency_s
        out.loc[where, "roofline"] = fixed + scale * got.roofline_s
        out.loc[where, "flops"] = part.launch.flops
        out.loc[where, "scalar"] = fit.scalar
        out.loc[where, "scalar_source"] = fit.source
        if part.launch.windowed.any():
            calls = calls_of(rows.loc[where])
            out.loc[where, "skipping"] = skipping_seconds(calls, part.launch, fit)
            out.loc[where, "dense"] = dense_seconds(calls, part.launch, fit)
    return out


def _source(n: int, origin: str) -> str:
    return f"calibrated on {n} row(s) of {origin}" if n else f"uncalibrated, but for other sets of {origin}"


def _calibration_rows(rows: pd.DataFrame, fitted_on: pd.DataFrame | None) -> pd.DataFrame:
    if fitted_on is None:
        return _of_median_size(rows[rows["window"] == 0])
    first = rows.iloc[0]
    same = np.logical_and.reduce([fitted_on[name] == first[name] for name in CONSTANTS if name != "device"])
    alike = fitted_on[same]
    named = alike[alike["device"] == first["device"]]
    if len(named) or not len(alike):
        return named
    # The same chip under another name: better than rows of other chips.
    return alike[alike["device"].map(lambda name: find_gpu(name).name == find_gpu(first["device"]).name)]


def _of_median_size(dense: pd.DataFrame) -> pd.DataFrame:
    """Return the row of median size, or none of none; of rows of one size what they call decides, never the file."""
    size = dense["batch"] * dense["heads"] * dense["seq_q"] * dense["seq_kv"]
    order = dense.assign(size=size).sort_values(["size", *_SAME, "source"], kind="stable").index
    return dense.loc[order[len(order) // 2 : len(order) // 2 + 1]]


def _same_rows(rows: pd.DataFrame, by_rows: pd.DataFrame) -> pd.Series:
    known = set(map(tuple, by_rows[_SAME].to_numpy().tolist()))
    return pd.Series([tuple(r) in known for r in rows[_SAME].to_numpy().tolist()], index=rows.index)


def _roofline(by: Iterable[Part]) -> tuple[float, float]:
    pairs = [(predicted(part, _RAW).roofline_s, part.measured_s) for part in by]
    return roofline_calibrated(pairs) if pairs else (1.0, 0.0)


def _result(cases: pd.DataFrame, left_out: dict[str, int]) -> dict[str, Any]:
    cases["expected"] = cases["latency_ms"] * 1e-3
    cases["relative_error"] = relative_errors(cases["got"], cases["expected"])
    judged = cases[~cases["fitting"]]
    inside = judged["expected"].between(judged["low"], judged["high"])
    sets = [_set(keys, group) for keys, group in judged.groupby(SET, sort=True)]
    rows = [_case(row) for row in judged.to_dict("records")]
    windows = _windows(cases)
    worse = [s for s in sets if s["n"] >= _LEAST_ROWS and s["mape_calibrated"] > s["mape_roofline"]]
    failed = len(worse) + sum(not row["ok"] for row in rows)
    return {
        "suite": "gpu",
        "cells": len(rows),
        "max_relative_error": max((r["relative_error"] for r in rows), default=0.0),
        "ok": not failed,
        "failed": failed,
        "sets": sets,
        "windows": windows,
        "left_out": left_out,
        "notes": [
            *_notes(sets, worse, left_out, windows),
            f"{inside.mean():.1%} of {len(judged)} rows lie inside the interval of their prediction",
        ],
        "cases": rows,
    }


def _windows(cases: pd.DataFrame) -> list[dict[str, Any]]:
    """Return, per windowed set, what its kernel does outside the window and how well its speedup is predicted."""
    out = []
    for keys, group in cases.groupby(CONSTANTS, sort=True):
        for window, windowed in group[group["window"] > 0].groupby("window"):
            both = pd.concat([group[group["window"] == 0], windowed])
            found = dict(zip(CONSTANTS, keys, strict=True))
            found |= {"head_dim": int(found["head_dim"]), "window": int(window), "n": len(windowed)}
            out.append({**found, "finding": finding(windowed), **(speedups(both) or {})})
    return out


def _set(keys: tuple[Any, ...], group: pd.DataFrame) -> dict[str, Any]:
    """Return the errors of one set, as fractions."""
    true = group["expected"]
    errors = {
        f"mape_{name}": float(relative_errors(group[column], true).mean())
        for name, column in (
            ("raw", "raw"),
            ("calibrated", "got"),
            ("left_out", "left_out"),
            ("roofline", "roofline"),
        )
    }
    return {
        **dict(zip(SET, keys, strict=True)),
        "head_dim": int(group["head_dim"].iloc[0]),
        "window": int(group["window"].iloc[0]),
        "n": len(group),
        **errors,
        "worst": float(group["relative_error"].max()),
        "kendall_tau": kendall_tau(group["flops"] / group["got"], group["flops"] / true),
        "scalar": float(group["scalar"].iloc[0]),
    }


def _case(row: dict[str, Any]) -> dict[str, Any]:
    mask = "causal" if row["causal"] else "dense"
    window = f" window {row['window']}" if row["window"] else ""
    name = (
        f"{row['device']} {row['implementation']} {row['dtype']} b{row['batch']} h{row['heads']} "
        f"q{row['seq_q']} kv{row['seq_kv']} d{int(row['head_dim'])} {mask}{window}"
    )
    return {
        "case": name,
        "column": "latency_s",
        "expected": row["expected"],
        "got": row["got"],
        "relative_error": row["relative_error"],
        "ok": bool(row["relative_error"] <= _ROW_TOLERANCE),
        "tolerance": _ROW_TOLERANCE,
        "why": _ROW_WHY,
        "group": f"{row['device']} {row['implementation']}",
        "scalar": row["scalar"],
        "scalar_source": row["scalar_source"],
        "roofline": row["roofline"],
    }


def _notes(
    sets: list[dict[str, Any]],
    worse: list[dict[str, Any]],
    left_out: dict[str, int],
    windows: list[dict[str, Any]],
) -> list[str]:
    out = [f"{n} rows left out: {why}" for why, n in left_out.items()]
    big = [s for s in sets if s["n"] >= _LEAST_ROWS]
    if big:
        mean = {k: np.median([s[k] for s in big]) for k in ("mape_calibrated", "mape_roofline")}
        out.append(
            f"{len(big)} sets of {_LEAST_ROWS} rows or more: median error {mean['mape_calibrated']:.1%}, "
            f"roofline treated the same way {mean['mape_roofline']:.1%}"
        )
    out += [
        f"{w['device']} {w['implementation']} head_dim {w['head_dim']:g} {w['dtype']} window {w['window']}: "
        f"{w['finding']}"
        for w in windows
        if "not skip" in w["finding"] or "walks" in w["finding"]
    ]
    pairs = [w for w in windows if "pairs" in w]
    if pairs:
        error = sum(w["speedup_mape"] * w["pairs"] for w in pairs) / sum(w["pairs"] for w in pairs)
        out.append(f"window speedup over dense, same call both ways: mean error {error:.1%}")
    out += [f"worse than roofline: {' '.join(str(s[k]) for k in SET)}" for s in worse]
    return out
