"""Measured attention rows -> launches on their devices, calibrations, predictions; roofline treated the same way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from einsum_cascade.errors import DataError, HardwareError, MappingError
from mappings.gpu import find_kernel_mapping, is_described
from simulator.gpu.calibration import Key, Prior, made, prior
from simulator.gpu.call import Call, make_call
from simulator.gpu.efficiency import Efficiency, Times, times
from simulator.gpu.fitting import Group, together
from simulator.gpu.launch import Launch
from simulator.gpu.likeness import joint
from simulator.gpu.model import key_of, lay
from simulator.hardware.gpu import find_gpu

from .measured import PUBLISHED

Floats = NDArray[np.float64]

KERNEL = "flash_attention"
LEFT_OUT = PUBLISHED / "left_out.csv"
# Rows of one set share their calibrated constants; the window and the mask do not belong to the key.
CONSTANTS = ["device", "implementation", "head_dim", "dtype"]
SET = [*CONSTANTS, "window"]
_OF_A_CALL = (
    "batch",
    "heads",
    "seq_q",
    "seq_kv",
    "head_dim",
    "causal",
    "dtype",
    "window",
    "kv_heads",
    "kv_dtype",
)

_FASTER_THAN_POSSIBLE = 0.95  # of the time that the useful operations take at the device's peak rate
_MOST_ROWS = 1 << 26  # query rows of one launch, the padding of short calls included


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that one launch describes: same device, implementation, head_dim, types, and the same tile.

    Attributes:
        key: what their constants belong to.
    """

    rows: pd.Index
    launch: Launch
    measured_s: Floats
    key: Key
    direction: str = "fwd"


def attention_rows(table: pd.DataFrame, *, direction: str = "fwd") -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the attention rows of a direction that can be predicted, and how many rows each rule left out."""
    left_out: dict[str, int] = {}
    rows = table

    def keep(good: pd.Series, why: str) -> None:
        nonlocal rows
        if (~good).any():
            left_out[why] = int((~good).sum())
        rows = rows[good]

    keep(rows["kernel"].str.startswith(KERNEL), "not an attention kernel that is modelled")
    keep(rows["direction"] == direction, "not a forward pass" if direction == "fwd" else f"not {direction}")
    keep(rows["head_dim"].notna(), "no head_dim")
    known = {d: known_device(d) for d in rows["device"].unique()}
    keep(rows["device"].map(known).astype(bool), "device unknown")
    keep(_callable(rows), "a type or size that is not modelled")
    keep(_fitting(rows), "no tile of the kernel fits the device")
    keep(~_impossible(rows), "faster than the device's peak rate allows")
    for rule in pd.read_csv(LEFT_OUT).to_dict("records"):
        named = rows["source"].map(lambda text, rule=rule: fnmatchcase(text, rule["source"])).astype(bool)
        keep(~(named & (rows[rule["column"]] < rule["below"])), f"{rule['source'].strip('*')}: {rule['why']}")
    return rows, left_out


def known_device(device: str) -> bool:
    """Tell whether a device's name is that of a GPU of the library."""
    try:
        find_gpu(device)
    except HardwareError:
        return False
    return True


def unknown_names(rows: pd.DataFrame) -> list[str]:
    """Return which implementations no mapping names, with whose tiles their rows are predicted."""
    named = ((n, find_kernel_mapping(KERNEL, n)) for n in sorted(rows["implementation"].unique()))
    return [
        f"implementation '{name}' is not known: predicted with the tiles of {mapping.name}"
        for name, mapping in named
        if not is_described(name, mapping)
    ]


def _callable(rows: pd.DataFrame) -> pd.Series:
    """Return which rows describe a call at all: types may be unknown, heads indivisible."""
    return pd.Series([_call(values) is not None for values in _values(rows)], index=rows.index, dtype=bool)


def _call(values: dict[str, object]) -> Call | None:
    try:
        return make_call(**values)
    except DataError:
        return None


def _fitting(rows: pd.DataFrame) -> pd.Series:
    """Return for which rows the kernel has a tile that the device can hold; it depends on few columns."""
    fits: dict[tuple[object, ...], bool] = {}
    out = []
    for device, implementation, direction, call in zip(
        rows["device"], rows["implementation"], rows["direction"], calls_of(rows), strict=True
    ):
        kind = (device, implementation, call.head_dim, call.dtype, call.kv_dtype, call.causal, call.windowed)
        if kind not in fits:
            fits[kind] = _fits(device, implementation, call, direction)
        out.append(fits[kind])
    return pd.Series(out, index=rows.index, dtype=bool)


def _fits(device: str, implementation: str, call: Call, direction: str) -> bool:
    try:
        mapping = find_kernel_mapping(KERNEL, implementation)
        lay([call], find_gpu(device), mapping=mapping, direction=direction)
    except MappingError:
        return False
    return True


def _impossible(rows: pd.DataFrame) -> pd.Series:
    least = [
        _FASTER_THAN_POSSIBLE * call.flops() / find_gpu(device).peak_flops(call.dtype)
        for device, call in zip(rows["device"], calls_of(rows), strict=True)
    ]
    return rows["latency_ms"] * 1e-3 < pd.Series(least, index=rows.index)


def calls_of(rows: pd.DataFrame) -> list[Call]:
    """Return the calls that rows of a measured table describe."""
    return [make_call(**values) for values in _values(rows)]


def _values(rows: pd.DataFrame) -> Iterator[dict[str, object]]:
    columns = [rows[name].tolist() for name in _OF_A_CALL]
    return (dict(zip(_OF_A_CALL, values, strict=True)) for values in zip(*columns, strict=True))


def parts_of(rows: pd.DataFrame) -> Iterator[Part]:
    """Yield the rows of one set of constants as launches, one a tile."""
    device, implementation = rows["device"].iloc[0], rows["implementation"].iloc[0]
    gpu, mapping = find_gpu(device), find_kernel_mapping(KERNEL, implementation)
    direction = rows["direction"].iloc[0]
    calls = pd.Series(calls_of(rows), index=rows.index)
    like = [(c.kv_dtype, bool(c.window), c.causal) for c in calls]
    for _, alike in calls.groupby(pd.MultiIndex.from_tuples(like), sort=False):
        for group in _of_like_length(alike):
            laid = lay(list(group), gpu, mapping=mapping, direction=direction)
            measured_s = rows.loc[group.index, "latency_ms"].to_numpy(float) * 1e-3
            key = key_of(group.iloc[0], gpu, mapping, implementation, direction)
            yield Part(group.index, laid, measured_s, key, direction)


def _of_like_length(calls: pd.Series) -> Iterator[pd.Series]:
    """Yield calls in pieces: a launch is as wide as its longest call, so that one long call would widen thousands."""
    rows = np.array([c.seq_q * c.group for c in calls])
    if len(rows) * int(rows.max()) <= _MOST_ROWS:
        yield calls
        return
    order = np.argsort(rows, kind="stable")
    size = np.maximum(_MOST_ROWS // rows[order], 1)
    start = 0
    while start < len(order):
        # Rows ascend, so that a piece holds as many calls as its last one allows.
        stop = start + 1
        while stop < len(order) and stop - start < size[stop]:
            stop += 1
        yield calls.iloc[order[start:stop]]
        start = stop


def known_of(part: Part, *, without_device: bool = True) -> Prior:
    """Return what the shipped table says of a part, by default without the entries of its own device."""
    return prior(part.key, without_device=without_device)


def calibrated(parts: Iterable[Part], by: Iterable[Part]) -> dict[Key, Efficiency]:
    """Return the constants of the keys of `parts` after the calibration rows `by`, all of them fitted together."""
    laid: dict[Key, list[Part]] = {part.key: [] for part in parts}
    for part in by:
        laid.setdefault(part.key, []).append(part)
    groups = [
        Group(k, tuple(p.launch for p in laid[k]), tuple(p.measured_s for p in laid[k]))
        for k in sorted(laid, key=astuple)
    ]
    found = together(groups, known=joint([g.key for g in groups], without_device=True))
    return {group.key: made(np.exp(logs)) for group, logs in zip(groups, found, strict=True)}


def roofline_calibrated(by: Iterable[tuple[Floats, Floats]]) -> tuple[float, float]:
    """Return (scale, fixed seconds) of a roofline calibrated on the same (roofline, measured) rows.

    One row gives the scale alone; more give both, by least squares on log errors over a grid of fixed costs.
    """
    pairs = list(by)
    roof, true = np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])
    if len(true) == 1:
        return float(true[0] / roof[0]), 0.0
    fixed = np.linspace(0.0, 0.95 * float(true.min()), 96)
    logs = np.log((true[None, :] - fixed[:, None]) / roof[None, :])
    scale = np.exp(logs.mean(axis=1))
    errors = (np.log((fixed[:, None] + scale[:, None] * roof[None, :]) / true[None, :]) ** 2).sum(axis=1)
    best = int(errors.argmin())
    return float(scale[best]), float(fixed[best])


def predicted(part: Part, efficiency: Efficiency) -> Times:
    """Return the predicted seconds of a part's rows."""
    return times(part.launch, efficiency)
