"""FuseMax: every published cell against the simulator, and the headline ratios as published and corrected."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from einsum_cascade.errors import DataError, nearest
from einsum_cascade.sizes import count as whole_number
from einsum_cascade.sizes import workloads
from simulator.result import Estimate

from .fusemax_quirks import AS_PUBLISHED, CORRECTED, WHAT, Quirks
from .fusemax_runs import FlatChoice, gemms, pareto, run

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
        published: a folder with files of the artifact's names and columns; else the shipped rows are used.

    Raises:
        DataError: a file is missing, empty or not a table, or a column is missing or unknown.
    """
    folder = published or SHIPPED
    choices = flat_choices(folder)
    rows = [case for file in FILES for case in _file_cases(file, read(folder, file), choices)]
    return pd.DataFrame(rows)


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
    table = _csv(folder / f"{file.name}.csv")
    wanted = (*file.keys, *file.columns)
    fixed = ("accel",) if file.name == "pareto" else ()
    _check_columns(folder / f"{file.name}.csv", table, (*fixed, *wanted))
    for column in file.columns:
        table[column] = _numbers(table, column, folder / f"{file.name}.csv")
    _check_models(table, folder / f"{file.name}.csv")
    return table


def _csv(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        table = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: not a table: {str(e).splitlines()[0]}") from None
    if table.empty:
        raise DataError(f"{path}: the table has no rows")
    return table


def _check_columns(path: Path, table: pd.DataFrame, wanted: tuple[str, ...]) -> None:
    for column in wanted:
        if column not in table.columns:
            raise DataError(f"{path}: column '{column}' is missing; {nearest(column, map(str, table.columns))}")
    for column in table.columns:
        if column not in wanted:
            raise DataError(f"{path}: unknown column '{column}'; expected {', '.join(wanted)}")


def _numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series[float]:
    numbers = pd.to_numeric(table[column], errors="coerce")
    if numbers.isna().any():
        line = int(numbers.isna().to_numpy().argmax()) + 2
        raise DataError(f"{path}:{line}: {column}: expected a number, found {table[column].iloc[line - 2]!r}")
    return numbers.astype(float)


def _check_models(table: pd.DataFrame, path: Path) -> None:
    for line, model in enumerate(table["model"], start=2):
        if model not in workloads():
            raise DataError(f"{path}:{line}: unknown model '{model}'; {nearest(str(model), workloads())}")
    if "seq_len" in table:
        for length in table["seq_len"]:
            whole_number(str(length), name="seq_len")


def flat_choices(folder: Path) -> dict[tuple[str, str], FlatChoice]:
    """Return what FLAT's own search answered, by model and length, from `flat_validation.csv`."""
    path = folder / "flat_validation.csv"
    table = _csv(path if path.is_file() else SHIPPED / path.name)
    tensors = ("Q", "K", "QK", "A", "V", "AV")
    located = tuple(f"{t}_loc" for t in tensors)
    for column in ("platform", "models", "seq_len", "P", *located, "QK_stationarity", "fusion_granularity", "P1"):
        if column not in table.columns:
            raise DataError(f"{path}: column '{column}' is missing")
    out = {}
    for row in table[table["platform"] == "cloud"].to_dict("records"):
        head = row["fusion_granularity"] == "head"
        out[str(row["models"]), str(row["seq_len"])] = FlatChoice(
            on_chip=frozenset(t for t in tensors if row[f"{t}_loc"] == "onchip"),
            weight_stationary=row["QK_stationarity"] == "weight",
            rows=int(row["P"] if head else row["P1"]),
            spilled=float(row["proportion_spilled"]),
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

# FuseMax (+Binding) or +Cascade against a baseline: (quantity, configuration, baseline, column, end to end)
_HEADLINES = (
    ("attention speedup vs FLAT", "binding", "flat", "latency", False),
    ("attention energy vs FLAT", "binding", "flat", "energy", False),
    ("attention speedup vs unfused", "binding", "unfused", "latency", False),
    ("attention energy vs unfused", "binding", "unfused", "energy", False),
    ("end-to-end speedup vs FLAT", "binding", "flat", "latency", True),
    ("end-to-end energy vs FLAT", "binding", "flat", "energy", True),
    ("end-to-end speedup vs unfused", "binding", "unfused", "latency", True),
    ("end-to-end energy vs unfused", "binding", "unfused", "energy", True),
    ("+Cascade attention speedup vs FLAT", "cascade", "flat", "latency", False),
    ("+Cascade attention energy vs FLAT", "cascade", "flat", "energy", False),
)
_PLATFORM = {"unfused": "flat", "flat": "flat", "cascade": "flat", "arch": "proposal", "binding": "proposal"}


def headline(published: Path | None = None) -> list[dict[str, Any]]:
    """Return the headline ratios: from the published cells, as published by the simulator, and corrected.

    Ratios are plain means over models and lengths, as in the paper: speedups baseline / FuseMax, energies FuseMax /
    baseline. `published` and `as_published_same_rows` are over the rows at hand; the others over all 24.
    """
    folder = published or SHIPPED
    choices = flat_choices(folder)
    tables = {f.name: read(folder, f).set_index(list(_KEYS)) for f in FILES if f.name != "pareto"}
    every = [(m, n) for m in workloads() if m in {k[0] for k in choices} for n in LENGTHS]
    out = []
    for quantity, ours, baseline, column, whole in _HEADLINES:
        names = [f"attn-{ours}", f"attn-{baseline}"]
        names += [f"end2end-{_PLATFORM[c]}" for c in (ours, baseline)] if whole else []
        rows = [key for key in every if all(key in tables[n].index for n in names)]

        def ratio(keys: list[tuple[str, str]], value: Callable[[str, str, str], float]) -> float | None:
            pairs = [(value(ours, *k), value(baseline, *k)) for k in keys]  # noqa: B023
            if not pairs:
                return None
            found = [b / a if column == "latency" else a / b for a, b in pairs]  # noqa: B023
            return sum(found) / len(found)

        def from_table(configuration: str, model: str, length: str) -> float:
            cell = float(tables[f"attn-{configuration}"].loc[(model, length), column])  # noqa: B023
            rest = f"end2end-{_PLATFORM[configuration]}"
            return cell + (float(tables[rest].loc[(model, length), column]) if whole else 0.0)  # noqa: B023

        def simulated(quirks: Quirks) -> Callable[[str, str, str], float]:
            return lambda c, m, n: _value(c, m, n, column, whole, quirks, choices)  # noqa: B023

        out.append(
            {
                "quantity": quantity,
                "rows": len(rows),
                "published": ratio(rows, from_table),
                "as_published_same_rows": ratio(rows, simulated(AS_PUBLISHED)),
                "as_published": ratio(every, simulated(AS_PUBLISHED)),
                "corrected": ratio(every, simulated(CORRECTED)),
            }
        )
    return out


def _value(
    configuration: str,
    model: str,
    length: str,
    column: str,
    whole: bool,
    quirks: Quirks,
    choices: Mapping[tuple[str, str], FlatChoice],
) -> float:
    choice = choices[model, length] if configuration == "flat" else None
    found = estimate(configuration, model, length, quirks, choice)
    value = {"latency": found.latency_s, "energy": found.energy_j}[column]
    if whole:
        value += gemms(_PLATFORM[configuration], model, length, quirks)[column]
    return float(value)


def quirk_effects() -> pd.DataFrame:
    """Return what each quirk alone does to the headline ratios: everything as published but this one."""
    choices = flat_choices(SHIPPED)
    every = [(m, n) for m in workloads() for n in LENGTHS if (m, n) in choices]
    rows = []
    for name, what in WHAT.items():
        without = replace(AS_PUBLISHED, **{name: False})
        row: dict[str, Any] = {"quirk": name, "what": what}
        for quantity, ours, baseline, column, whole in _HEADLINES:
            ratios = []
            for key in every:
                a, b = (_value(c, *key, column, whole, without, choices) for c in (ours, baseline))
                ratios.append(b / a if column == "latency" else a / b)
            row[quantity] = sum(ratios) / len(ratios)
        rows.append(row)
    return pd.DataFrame(rows)
