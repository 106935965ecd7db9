"""The validation suites: what is compared with what, one result a suite."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum_cascade.errors import DataError, nearest
from einsum_cascade.terminal import cell, note, table

if TYPE_CHECKING:
    import pandas as pd

# suite -> the options that it takes
SUITES: dict[str, tuple[str, ...]] = {
    "fusemax": ("published",),
    "gna": ("published",),
    "gpu": ("measured", "calibrate"),
    "cascades": (),
    "seeds": (),
}
# Names of files that are this alike, of 1, are taken for one with a slip in it.
_NEAR = 0.75


def compare(suite: str, **options: Any) -> pd.DataFrame:
    """Return the cases of a suite as a table: case, column, expected, got, relative_error, ok, tolerance, why.

    Raises:
        DataError: no such suite, or its data cannot be read.
    """
    import pandas as pd

    return pd.DataFrame(run_one(suite, **options)["cases"])


def run(suite: str, **options: Path | None) -> list[dict[str, Any]]:
    """Return the results of one suite, or of all that are installed.

    Of all suites those read the folder of published tables that find something of theirs in it. What lies there and is
    read by none, its name misspelt perhaps, is told in the notes of the first that does.

    Raises:
        DataError: no such suite, an option that the suite does not take, or data that cannot be read.
    """
    wanted = list(SUITES) if suite == "all" else [suite]
    given = {k: v for k, v in options.items() if v is not None}
    for option in given:
        if suite != "all" and suite in SUITES and option not in SUITES[suite]:
            raise DataError(f"validate {suite} takes no --{option}")
    results, told = [], False
    for name in wanted:
        taken = {k: v for k, v in given.items() if k in SUITES.get(name, ())}
        if suite == "all" and "published" in taken and name not in _readers(taken["published"]):
            del taken["published"]
        result = run_one(name, **taken)
        if "published" in taken and not told:
            told = True
            if unread := _unread(taken["published"], wanted):
                result = {**result, "notes": [*result.get("notes", ()), *unread]}
        results.append(result)
    return results


def _files() -> dict[str, tuple[str, ...]]:
    """Return the names of the files that each suite reads from a folder of published tables."""
    from . import fusemax, gna

    return {"fusemax": fusemax.NAMES, "gna": gna.NAMES}


def _readers(folder: Path) -> tuple[str, ...]:
    """Return the suites that find published tables of theirs in a folder; all that look there if none does."""
    found = {suite: any((folder / n).is_file() for n in names) for suite, names in _files().items()}
    return tuple(suite for suite, there in found.items() if there) or tuple(found)


def _unread(folder: Path, suites: Sequence[str]) -> list[str]:
    """Return a line for each table in a folder that none of some suites reads and whose name is nearly that of one."""
    known = [name for suite, names in _files().items() if suite in suites for name in names]
    absent = [name for name in known if not (folder / name).is_file()]
    tables = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".csv", ".json"))
    meant = {name: difflib.get_close_matches(name, absent, n=1, cutoff=_NEAR) for name in tables}
    return [
        f"{folder / name}: not read; did you mean {near[0]}?"
        for name, near in meant.items()
        if near and name not in known
    ]


def together(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return several suites as one with the fields that each of them has, and all of each under `suites`.

    >>> one = {"suite": "a", "cells": 1, "max_relative_error": 0.5, "ok": True, "failed": 0, "cases": [{"case": "x"}]}
    >>> both = together([one, one | {"suite": "b", "ok": False, "failed": 1, "max_relative_error": 0.25}])
    >>> both["suite"], both["cells"], both["max_relative_error"], both["ok"], both["failed"]
    ('all', 2, 0.5, False, 1)
    >>> both["cases"]
    [{'suite': 'a', 'case': 'x'}, {'suite': 'b', 'case': 'x'}]
    """
    errors = [r["max_relative_error"] for r in results]
    return {
        "suite": "all",
        "cells": sum(r["cells"] for r in results),
        "max_relative_error": max(errors),
        "ok": all(r["ok"] for r in results),
        "failed": sum(r["failed"] for r in results),
        "cases": [{"suite": r["suite"], **case} for r in results for case in r["cases"]],
        "suites": list(results),
    }


def run_one(suite: str, **options: Any) -> dict[str, Any]:
    """Return the result of one suite in the shape of `cascade validate --json`."""
    if suite not in SUITES:
        raise DataError(f"unknown suite '{suite}'; {nearest(suite, [*SUITES, 'all'])}")
    for option, path in options.items():
        if option not in SUITES[suite]:
            raise DataError(f"suite '{suite}': unknown option '{option}'; {nearest(option, SUITES[suite])}")
        if path is not None and not Path(path).exists():
            raise DataError(f"{path}: no such file or folder")
    return _SUITE[suite](**options)


def _fusemax(published: Path | None = None) -> dict[str, Any]:
    from .fusemax import cases, headline

    return summarise("fusemax", cases(published), headline=headline(published))


def _gna(published: Path | None = None) -> dict[str, Any]:
    from .gna import cases

    return summarise("gna", cases(published))


def _gpu(measured: Path | None = None, calibrate: Path | None = None) -> dict[str, Any]:
    from . import cpu
    from .gpu import compare as compare_gpu
    from .measured import read_measured

    if measured is not None and cpu.is_of_cpus(table := read_measured(measured)):
        if calibrate is not None:
            raise DataError(f"{measured}: ratios on a CPU take no --calibrate: its rates are in the rows")
        return cpu.compare(table, origin=measured)
    return compare_gpu(measured, calibrate)


def _cascades() -> dict[str, Any]:
    from .gpu_cascades import NOT_HELD, compare

    notes = [f"not held: {kernel} on {device}: {why}" for (kernel, device), why in NOT_HELD.items()]
    return summarise("cascades", compare(), notes=notes)


def _seeds() -> dict[str, Any]:
    from .seeds import NOT_REPRODUCED, cases

    notes = [f"not reproduced: {claim}: {why}" for claim, why in NOT_REPRODUCED.items()]
    return summarise("seeds", cases(), not_reproduced=NOT_REPRODUCED, notes=notes)


_SUITE: dict[str, Callable[..., dict[str, Any]]] = {
    "fusemax": _fusemax,
    "gna": _gna,
    "gpu": _gpu,
    "cascades": _cascades,
    "seeds": _seeds,
}


def summarise(suite: str, cases: pd.DataFrame, **extra: Any) -> dict[str, Any]:
    """Return a suite's result: the cases, how many hold, and the largest relative error."""
    finite = cases["relative_error"].dropna()
    return {
        "suite": suite,
        "cells": len(cases),
        "max_relative_error": float(finite.max()) if len(finite) else 0.0,
        "ok": bool(cases["ok"].all()),
        "failed": int((~cases["ok"].astype(bool)).sum()),
        **extra,
        "cases": cases.to_dict("records"),
    }


def print_result(result: dict[str, Any]) -> None:
    """Print one suite for people: the worst cases first, then what the suite adds."""
    cases = sorted(result["cases"], key=lambda c: (c["ok"], -(c["relative_error"] or 0.0)))
    shown = [
        [
            c["case"],
            c["column"],
            cell(c["expected"]),
            cell(c["got"]),
            c["relative_error"],
            c["tolerance"],
            c["ok"],
        ]
        for c in cases[:12]
    ]
    columns = ["case", "column", "expected", "got", "relative error", "tolerance", "ok"]
    table(f"{result['suite']}: {result['cells']} cells, {_verdict(result)} (worst 12 shown)", columns, shown)
    if headline := result.get("headline"):
        names = list(headline[0])
        table(f"{result['suite']}: headline", names, [[r[n] for n in names] for r in headline])
    if sets := result.get("sets"):
        table(f"{result['suite']}: mean errors by set", _SET_COLUMNS, map(_set_row, sets), note=_SET_NOTE)
    if operators := result.get("operators"):
        title = f"{result['suite']}: kernels of other shapes, by what attention told of the device"
        table(title, _OPERATOR_COLUMNS, map(_operator_row, operators), note=_OPERATOR_NOTE)
    if speedups := result.get("speedups"):
        shown = [list(r.values()) for r in speedups]
        table(f"{result['suite']}: our variants over dense", list(speedups[0]), shown, note=_SPEEDUP_NOTE)
    for line in result.get("notes", ()):
        note(line)


_SPEEDUP_NOTE = (
    "the speedup of each variant over the dense kernel on the same call, measured and predicted with the constants of "
    "the dense rows alone; errors of the predicted one"
)
_SET_COLUMNS = ("set", "n", "raw", "own", "others", "roofline", "worst", "tau")
_SET_NOTE = (
    "errors of the latency with no constants, with constants from rows of the set's own machine, with those of other "
    "devices alone, and of a roofline fitted on the same own rows; tau: Kendall's, on TFLOPS"
)


_OPERATOR_COLUMNS = ("kernel", "device", "n", "no row", "one row", "roofline", "inside")
_OPERATOR_NOTE = (
    "median errors of the latency: no row of these kernels calibrates, the row of median time does, an ideal roofline; "
    "inside: rows within the interval of the first; times of chunk_retention and of small products hold the host's work"
)


def _operator_row(found: dict[str, Any]) -> list[Any]:
    """Return a set of rows of another kernel as a line of a terminal."""
    errors = ("median_raw", "median_calibrated", "median_roofline", "inside")
    shown = ("-" if found[k] is None else f"{found[k]:.1%}" for k in errors)
    return [f"{found['kernel']} {found['implementation']}", found["device"], found["n"], *shown]


def _set_row(found: dict[str, Any]) -> list[Any]:
    """Return a set of GPU rows as a line of a terminal; all fields are in the JSON."""
    window = f" window {found['window']:g}" if found["window"] else ""
    name = f"{found['device']} {found['implementation']} d{found['head_dim']:g} {found['dtype']}{window}"
    errors = ("mape_raw", "mape_calibrated", "mape_left_out", "mape_roofline", "worst")
    shown = ("-" if (e := found[k]) is None or e != e else f"{e:.1%}" for k in errors)
    return [name, found["n"], *shown, found["kendall_tau"]]


def _verdict(result: dict[str, Any]) -> str:
    """Return how a suite ended; one judged by sets or a median may hold while a single row is off."""
    if not result["ok"]:
        return f"{result['failed']} out of tolerance"
    off = sum(not c["ok"] for c in result["cases"])
    judged = "the median" if "median_relative_error" in result else "every set"
    return f"{judged} within tolerance, single rows off: {off}" if off else "all within tolerance"
