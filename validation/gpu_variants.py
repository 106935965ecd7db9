"""Our own measured kernels: each variant's time and its speedup over dense attention, predicted beside measured.

Constants are fitted to the dense rows of a device alone; every variant is predicted with those, so that its speedup
over the dense kernel is a prediction and no fit.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from einsum_cascade.errors import MappingError, ModelError
from kernels import tiles
from kernels.aot import WORD_BYTES
from kernels.measurement import OURS
from mappings.gpu import find_kernel_mapping
from simulator.gpu.efficiency import Efficiency
from simulator.gpu.gna import gna_bounds
from simulator.gpu.model import predict
from simulator.gpu.sizes import call_of, words_of
from simulator.hardware.gpu import find_gpu

from .gpu_sets import CONSTANTS, KERNEL, attention_rows, calibrated, known_device, parts_of

NEIGHBORHOOD = "neighborhood_attention"
# The gradients of attention are no kernel of their own to the simulator, but a direction.
GRADIENTS = f"{KERNEL}_gradients"
_CALL = ("batch", "heads", "seq_q", "seq_kv", "head_dim", "dtype", "direction")
# Tokens are brought into tiles and back before and after: five tensors, each read and written. Gradients take what a
# forward pass gave and were given, five more, and bring back three, each laid out and cut.
_PERMUTED = {NEIGHBORHOOD: 10.0, f"{NEIGHBORHOOD}_gradients": 10.0 + 22.0}


def variants(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each row of ours that has a model: times and speedups, both ways.

    A row is held against dense attention of the same sizes in the same direction, where that was measured; one without
    heads has the constants of the widest head.

    Args:
        table: of `measured.read_measured`.

    Returns:
        device, kernel, variant, the call, measured and predicted [ms] with the relative error, and where the same call
        was measured dense, both speedups over it with theirs; `fitting` marks the dense rows that gave the constants.
    """
    ours = table[table["implementation"].str.startswith(OURS)].rename_axis("row").reset_index()
    out = [row for _, machine in ours.groupby("device", sort=True) for row in _machine(machine)]
    return pd.DataFrame(out)


def _machine(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    dense = rows[_is_dense(rows)]
    modelled, _ = attention_rows(dense[dense["direction"] == "fwd"])
    if not known_device(rows["device"].iloc[0]) or not len(modelled):
        return
    alike = modelled.groupby(CONSTANTS, sort=True)
    parts = [part for _, group in alike for part in parts_of(group)]
    fits = {(key.head_dim, key.dtype): fit for key, fit in calibrated(parts, parts).items()}
    base = {_call(r): r["latency_ms"] for r in dense.to_dict("records")}
    widest = {dtype: fits[d, dtype] for d, dtype in sorted(fits)}
    for row in rows.to_dict("records"):
        at = (row["head_dim"], row["dtype"])
        fit = fits.get(at) or (None if row["head_dim"] else widest.get(row["dtype"]))
        seconds = None if fit is None else _predicted_s(row, fit)
        if fit is None or seconds is None:
            continue
        found = {
            "device": row["device"], "kernel": row["kernel"], "variant": _name(row), **{n: row[n] for n in _CALL},
            "measured [ms]": row["latency_ms"], "predicted [ms]": seconds * 1e3,
            "time error": seconds * 1e3 / row["latency_ms"] - 1.0,
            "fitting": row["kernel"] == KERNEL and _name(row) == "dense",
            "row": row["row"],
        }  # fmt: skip
        dense_ms = base.get(_call(row))
        yield found | ({} if dense_ms is None else _speedups(found, dense_ms, _dense_s(row, fit)))


def _is_dense(rows: pd.DataFrame) -> pd.Series:
    plain = rows["kernel"].isin((KERNEL, GRADIENTS)) & (rows["implementation"] == OURS)
    return plain & (rows["causal"] == 0) & (rows["window"] == 0)


def _call(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(row[n] for n in _CALL)


def _name(row: Mapping[Any, Any]) -> str:
    """Return what distinguishes a row from dense attention, in words."""
    kernel = str(row["kernel"]).removeprefix(f"{KERNEL}_").removesuffix("_attention")
    words = [
        "" if row["kernel"] == KERNEL else kernel.replace("_", " "),
        row["implementation"].removeprefix(OURS).strip(),
    ]
    words += ["causal" if row["causal"] else "", f"window {row['window']}" if row["window"] else ""]
    return " ".join(filter(None, words)) or "dense"


def _predicted_s(row: Mapping[Any, Any], fit: Efficiency) -> float | None:
    """Return the predicted seconds of a row; None where the simulator has no model of its kernel."""
    if row["kernel"] in _PERMUTED:
        return _neighborhood_s(row, fit)
    kernel = KERNEL if row["kernel"] == GRADIENTS else row["kernel"]
    words = {n: row[n] for n in (*_CALL, "causal", "kv_heads", "window") if row[n]}
    words["head_dim"] = int(row["head_dim"])
    try:
        mapping = find_kernel_mapping(kernel, row["implementation"])
        call = call_of(mapping, words, remarks=str(row["extra"]))
        found = predict(kernel, on=row["device"], mapping=mapping, calibration=fit, **words_of(call))
    except ModelError:
        return None
    return found.latency_s


def _dense_s(row: Mapping[Any, Any], fit: Efficiency) -> float:
    plain = {n: row[n] for n in _CALL} | {"head_dim": int(row["head_dim"])}
    return predict(KERNEL, on=row["device"], implementation=OURS, calibration=fit, **plain).latency_s


def _neighborhood_s(row: Mapping[Any, Any], fit: Efficiency) -> float | None:
    """Return the dense time by the tiles that are visited of all, and the time of bringing tokens into tiles."""
    said = dict(re.findall(r"(layout|window)=(\([\d, ]+\))", str(row["extra"])))
    if len(said) < 2:
        return None
    layout, window = (ast.literal_eval(said[n]) for n in ("layout", "window"))
    gpu, word_bytes = find_gpu(row["device"]), WORD_BYTES[row["dtype"]]
    try:
        tile = tiles.pick(
            row["kernel"], head_dim=int(row["head_dim"]), word_bytes=word_bytes,
            target=int(gpu.target.removeprefix("sm_")),
        )  # fmt: skip
        shapes = {"q_tile": tiles.spread(tile.block_m, layout), "kv_tile": tiles.spread(tile.block_n, layout)}
        bounds = gna_bounds(layout=layout, window=window, stride=1, **shapes)
    except (ModelError, MappingError):
        return None
    moved = _PERMUTED[row["kernel"]] * row["batch"] * row["heads"] * row["seq_q"] * row["head_dim"]
    permuting = moved * word_bytes / (fit.memory * gpu.memory_bandwidth_bytes_per_s)
    return _dense_s(row, fit) * bounds.visited / (bounds.q_tiles * bounds.kv_tiles) + permuting


def _speedups(found: Mapping[str, Any], dense_ms: float, dense_s: float) -> dict[str, float]:
    if found["fitting"]:
        return {}
    measured, predicted = dense_ms / found["measured [ms]"], dense_s * 1e3 / found["predicted [ms]"]
    return {
        "measured speedup": measured, "predicted speedup": predicted, "speedup error": predicted / measured - 1.0,
    }  # fmt: skip


def without_model(table: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """Return in one line which of our rows were measured and are predicted by nothing."""
    ours = table[table["implementation"].str.startswith(OURS)]
    rest = ours.drop(found["row"]) if len(found) else ours
    if not len(rest):
        return []
    return [f"{len(rest)} rows of ours have no model: {', '.join(sorted(rest['kernel'].unique()))}"]


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row a variant: how many, the median speedups, and how far predicted speedups and times are off.

    A variant that is another call than dense attention, decode for example, has no speedup over it.
    """
    if not len(found) or "speedup error" not in found:
        return pd.DataFrame()
    by = found[~found["fitting"]].groupby(["device", "variant"], sort=False)
    return pd.DataFrame(
        {
            "rows": by.size(), "measured speedup": by["measured speedup"].median(),
            "predicted speedup": by["predicted speedup"].median(),
            "median error": by["speedup error"].agg(lambda e: e.abs().median()),
            "worst error": by["speedup error"].agg(lambda e: e.abs().max()),
            "median time error": by["time error"].agg(lambda e: e.abs().median()),
        }
    ).reset_index()  # fmt: skip
