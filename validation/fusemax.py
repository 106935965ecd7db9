"""FuseMax: every published cell against the simulator, and the headline ratios as published and corrected."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from einsum_cascade.errors import DataError, nearest
from einsum_cascade.sizes import count as whole_number
from einsum_cascade.sizes import workloads
from simulator.result import Estimate

from .fusemax_quirks import AS_PUBLISHED, CORRECTED, SIMULATED, WHAT, Quirks
from .fusemax_runs import FlatChoice, gemms, pareto, run
from .tables import read_table

SHIPPED = Path(__file__).parent / "data" / "published" / "fusemax"
LENGTHS = ("1K", "4K", "16K", "64K", "256K", "1M")
TOLERANCE = 1e-9
WHY = "computed anew in double precision from the same model: only the order of additions may differ"
_PJ_PER_J = 1e12
_KEYS = ("model", "seq_len")
_TOTALS = ("traffic", "latency", "energy")
_UTIL = ("util_2d", "util_1d")
_ARRAYS = {"util_2d": "PE2D", "util_1d": "PE1D"}


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A result file of the artifact: its columns, and what computes a row of them."""

    name: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    got: Callable[[Mapping[str, Any], Quirks, Mapping[tuple[str, str], FlatChoice]], Mapping[str, float]]


def cases(published: Path | None = None) -> pd.DataFrame:
    """Return every published cell beside the simulator's, as published.

    Args:
        published: a folder with files of the artifact's names and columns; else the shipped rows are used. Files
            that it lacks are left out.

    Raises:
        DataError: no file is there, one is empty or not a table, or a column is missing or unknown.
    """
    folder = published or SHIPPED
    choices = flat_choices(folder)
    rows = [case for file in files_in(folder) for case in _file_cases(file, read(folder, file), choices)]
    return pd.DataFrame(rows)


def files_in(folder: Path) -> tuple[PublishedFile, ...]:
    """Return the artifact's result files that a folder holds.

    Raises:
        DataError: it holds none.
    """
    found = tuple(f for f in FILES if (folder / f"{f.name}.csv").is_file())
    if not found:
        wanted = ", ".join(f"{f.name}.csv" for f in FILES)
        raise DataError(f"{folder}: no such folder, or none of the artifact's files in it; expected {wanted}")
    return found


def _file_cases(
    file: PublishedFile, table: pd.DataFrame, choices: Mapping[tuple[str, str], FlatChoice]
) -> Iterator[dict[str, Any]]:
    for row in table.to_dict("records"):
        got = file.got(row, AS_PUBLISHED, choices)
        label = "/".join([file.name, *(str(row[k]) for k in file.keys)])
        for column in file.columns:
            expected = float(row[column])
            error = abs(got[column] - expected) / abs(expected) if expected else abs(got[column])
            yield {
                "case": label,
                "column": column,
                "expected": expected,
                "got": float(got[column]),
                "relative_error": error,
                "ok": error <= TOLERANCE,
                "tolerance": TOLERANCE,
                "why": WHY,
            }


def read(folder: Path, file: PublishedFile) -> pd.DataFrame:
    """Return a published file as a table, checked."""
    path = folder / f"{file.name}.csv"
    fixed = ("accel",) if file.name == "pareto" else ()
    wanted = (*fixed, *file.keys, *file.columns)
    table = read_table(path, required=wanted)
    _check_no_others(path, table, wanted)
    for column in file.columns:
        table[column] = _numbers(table, column, path)
    _check_models(table, path)
    _check_once(table, path, (*fixed, *file.keys))
    return table


def _check_once(table: pd.DataFrame, path: Path, keys: tuple[str, ...]) -> None:
    """Refuse a case that has two rows: which of them a headline should take is not ours to say."""
    again = table.duplicated(list(keys)).to_numpy()
    if again.any():
        row = int(again.argmax())
        case = "/".join(str(table[key].iloc[row]) for key in keys)
        raise DataError(f"{path}:{row + 2}: {case} is there a second time; expected one row for each case")


def _check_no_others(path: Path, table: pd.DataFrame, wanted: tuple[str, ...]) -> None:
    for column in table.columns:
        if column not in wanted:
            raise DataError(f"{path}: unknown column '{column}'; expected {', '.join(wanted)}")


def _numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series[float]:
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    bad = ~np.isfinite(numbers.to_numpy())
    if bad.any():
        row = int(bad.argmax())
        value = table[column].iloc[row]
        found = "none (an empty field, or NaN)" if pd.isna(value) else repr(str(value))
        raise DataError(f"{path}:{row + 2}: {column}: expected a number, found {found}")
    return numbers


def _check_models(table: pd.DataFrame, path: Path) -> None:
    for line, model in enumerate(table["model"], start=2):
        if model not in workloads():
            raise DataError(f"{path}:{line}: unknown model '{model}'; {nearest(str(model), workloads())}")
    for name in ("seq_len", "PE_dim"):
        for line, size in enumerate(table.get(name, ()), start=2):
            whole_number(str(size), name=f"{path}:{line}: {name}")


def flat_choices(folder: Path) -> dict[tuple[str, str], FlatChoice]:
    """Return what FLAT's own search answered, by model and length, from `flat_validation.csv`."""
    path = folder / "flat_validation.csv"
    path = path if path.is_file() else SHIPPED / path.name
    tensors = ("Q", "K", "QK", "A", "V", "AV")
    located = tuple(f"{t}_loc" for t in tensors)
    table = read_table(
        path,
        required=(
            "platform",
            "models",
            "seq_len",
            "P",
            *located,
            "QK_stationarity",
            "fusion_granularity",
            "P1",
        ),
    )
    out = {}
    for row in table[table["platform"] == "cloud"].to_dict("records"):
        rows = "P" if row["fusion_granularity"] == "head" else "P1"
        out[str(row["models"]), str(row["seq_len"])] = FlatChoice(
            on_chip=frozenset(t for t in tensors if row[f"{t}_loc"] == "onchip"),
            weight_stationary=row["QK_stationarity"] == "weight",
            rows=whole_number(str(row[rows]), name=f"{path}: {row['models']} at {row['seq_len']}: {rows}"),
        )
    return out


@functools.lru_cache(maxsize=1024)
def estimate(
    configuration: str, model: str, length: str, quirks: Quirks, choice: FlatChoice | None = None
) -> Estimate:
    """Return one attention configuration, remembered: cases and headline share it."""
    return run(configuration, model, length, quirks, choice)


def _choice(row: Mapping[str, Any], choices: Mapping[tuple[str, str], FlatChoice]) -> FlatChoice:
    key = (str(row["model"]), str(row["seq_len"]))
    if key not in choices:
        raise DataError(f"flat_validation.csv has no row for {key[0]} at {key[1]} on the platform 'cloud'")
    return choices[key]


def _attention(
    configuration: str,
) -> Callable[[Mapping[str, Any], Quirks, Mapping[tuple[str, str], FlatChoice]], Mapping[str, float]]:
    def got(
        row: Mapping[str, Any], quirks: Quirks, choices: Mapping[tuple[str, str], FlatChoice]
    ) -> Mapping[str, float]:
        choice = _choice(row, choices) if configuration == "flat" else None
        found = estimate(configuration, str(row["model"]), str(row["seq_len"]), quirks, choice)
        return {
            "traffic": found.traffic_bytes,
            "latency": found.latency_s,
            "energy": found.energy_j * _PJ_PER_J,
            **{column: found.utilization[array] for column, array in _ARRAYS.items()},
            **{e.name: e.utilization for e in found.einsums},
        }

    return got


def _products(
    platform: str,
) -> Callable[[Mapping[str, Any], Quirks, Mapping[tuple[str, str], FlatChoice]], Mapping[str, float]]:
    def got(row: Mapping[str, Any], quirks: Quirks, _: Any) -> Mapping[str, float]:
        found = gemms(platform, str(row["model"]), str(row["seq_len"]), quirks)
        return {**found, "energy": found["energy"] * _PJ_PER_J}

    return got


def _pareto(row: Mapping[str, Any], quirks: Quirks, _: Any) -> Mapping[str, float]:
    return pareto(str(row["model"]), int(row["PE_dim"]), quirks)


_FUSED = ("QK", "LM", "SLN", "SLD", "SLNV")
_ATTENTION = (*_TOTALS, *_UTIL)
FILES = (
    PublishedFile("attn-unfused", _KEYS, _ATTENTION, _attention("unfused")),
    PublishedFile("attn-flat", _KEYS, (*_ATTENTION, "QK", "AV"), _attention("flat")),
    PublishedFile("attn-cascade", _KEYS, (*_ATTENTION, "QK", "SLNV"), _attention("cascade")),
    PublishedFile("attn-arch", _KEYS, (*_ATTENTION, *_FUSED), _attention("arch")),
    PublishedFile("attn-binding", _KEYS, (*_ATTENTION, *_FUSED), _attention("binding")),
    PublishedFile("end2end-flat", _KEYS, _TOTALS, _products("flat")),
    PublishedFile("end2end-proposal", _KEYS, _TOTALS, _products("proposal")),
    PublishedFile(
        "pareto",
        ("model", "PE_dim"),
        ("traffic", "mem_lat", "comp_2d_lat", "comp_1d_lat", "latency", "array_2d_area", "area"),
        _pareto,
    ),
)
# What is read from a folder of published tables.
NAMES = (*(f"{f.name}.csv" for f in FILES), "flat_validation.csv")


@dataclass(frozen=True, slots=True)
class Ratio:
    """A headline: one configuration against another, in one column, with or without the products around attention."""

    quantity: str
    ours: str
    baseline: str
    column: str
    end_to_end: bool = False

    def of(self, ours: float, baseline: float) -> float:
        """Return a speedup for latencies, and what is left of the energy for energies."""
        return baseline / ours if self.column == "latency" else ours / baseline


HEADLINES = (
    Ratio("attention speedup vs FLAT", "binding", "flat", "latency"),
    Ratio("attention energy vs FLAT", "binding", "flat", "energy"),
    Ratio("attention speedup vs unfused", "binding", "unfused", "latency"),
    Ratio("attention energy vs unfused", "binding", "unfused", "energy"),
    Ratio("end-to-end speedup vs FLAT", "binding", "flat", "latency", True),
    Ratio("end-to-end energy vs FLAT", "binding", "flat", "energy", True),
    Ratio("end-to-end speedup vs unfused", "binding", "unfused", "latency", True),
    Ratio("end-to-end energy vs unfused", "binding", "unfused", "energy", True),
    Ratio("+Cascade attention speedup vs FLAT", "cascade", "flat", "latency"),
    Ratio("+Cascade attention energy vs FLAT", "cascade", "flat", "energy"),
)
_PLATFORM = {"unfused": "flat", "flat": "flat", "cascade": "flat", "arch": "proposal", "binding": "proposal"}
_Choices = Mapping[tuple[str, str], FlatChoice]
_Key = tuple[str, str]


def headline(published: Path | None = None) -> list[dict[str, Any]]:
    """Return the headline ratios: from the published cells, as published by the simulator, and corrected.

    Ratios are plain means over models and lengths, as in the paper: speedups baseline / FuseMax, energies FuseMax /
    baseline. `published` and `as_published_same_rows` are over the rows at hand, the others over all 24; `corrected`
    puts four errors of bookkeeping right, `simulated` has no quirk of the artifact at all.
    """
    folder = published or SHIPPED
    choices = flat_choices(folder)
    found = [f for f in files_in(folder) if f.keys == _KEYS]
    tables = {f.name: read(folder, f).set_index(list(_KEYS)) for f in found}
    every = [(m, n) for m in workloads() for n in LENGTHS if (m, n) in choices]
    out = []
    for ratio in HEADLINES:
        names = _names(ratio)
        here = all(name in tables for name in names)
        rows = [key for key in every if here and all(key in tables[name].index for name in names)]
        out.append(
            {
                "quantity": ratio.quantity,
                "rows": len(rows),
                "published": _mean(ratio, rows, _read_from(tables, ratio)),
                "as_published_same_rows": _mean(ratio, rows, _simulated(ratio, AS_PUBLISHED, choices)),
                "as_published": _mean(ratio, every, _simulated(ratio, AS_PUBLISHED, choices)),
                "corrected": _mean(ratio, every, _simulated(ratio, CORRECTED, choices)),
                "simulated": _mean(ratio, every, _simulated(ratio, SIMULATED, choices)),
            }
        )
    return out


def _names(ratio: Ratio) -> list[str]:
    """Return the files that a ratio needs."""
    pair = (ratio.ours, ratio.baseline)
    products = [f"end2end-{_PLATFORM[c]}" for c in pair] if ratio.end_to_end else []
    return [*(f"attn-{c}" for c in pair), *products]


def _mean(ratio: Ratio, keys: list[_Key], value: Callable[[str, _Key], float]) -> float | None:
    found = [ratio.of(value(ratio.ours, key), value(ratio.baseline, key)) for key in keys]
    return sum(found) / len(found) if found else None


def _read_from(tables: Mapping[str, pd.DataFrame], ratio: Ratio) -> Callable[[str, _Key], float]:
    def value(configuration: str, key: _Key) -> float:
        names = [f"attn-{configuration}"]
        names += [f"end2end-{_PLATFORM[configuration]}"] if ratio.end_to_end else []
        return sum(float(tables[name].loc[key, ratio.column]) for name in names)

    return value


def _simulated(ratio: Ratio, quirks: Quirks, choices: _Choices) -> Callable[[str, _Key], float]:
    def value(configuration: str, key: _Key) -> float:
        found = estimate(configuration, *key, quirks, choices[key] if configuration == "flat" else None)
        own = float({"latency": found.latency_s, "energy": found.energy_j}[ratio.column])
        if not ratio.end_to_end:
            return own
        return own + float(gemms(_PLATFORM[configuration], *key, quirks)[ratio.column])

    return value


def quirk_effects() -> pd.DataFrame:
    """Return what each quirk alone does to the headline ratios: everything as published but this one."""
    choices = flat_choices(SHIPPED)
    every = [(m, n) for m in workloads() for n in LENGTHS if (m, n) in choices]
    rows = []
    for name, what in WHAT.items():
        without = replace(AS_PUBLISHED, **{name: False})
        found = {r.quantity: _mean(r, every, _simulated(r, without, choices)) for r in HEADLINES}
        rows.append({"quirk": name, "what": what, **found})
    return pd.DataFrame(rows)
