"""The configurations of the FuseMax artifact, as chips and mappings of the library."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mappings
from einsum_cascade import zoo
from einsum_cascade.sizes import model_sizes
from mappings.binding import SpatialMapping, Spill
from simulator.hardware.model import SpatialChip
from simulator.hardware.reader import load_hardware
from simulator.result import Estimate
from simulator.spatial.model import plan

from .fusemax_quirks import GEMM_REGISTERS, MISSED_TILE, SMALL_TILE_BUFFER, Quirks, account

GEMMS = {
    "Q": ("D", "HE"),
    "K": ("D", "HE"),
    "V": ("D", "HE"),
    "Z": ("HE", "D"),
    "FFN1": ("D", "S"),
    "FFN2": ("S", "D"),
}
_SCORES = ("QK", "SN", "A")
_WORD = 2  # bytes


@dataclass(frozen=True, slots=True)
class FlatChoice:
    """What FLAT's own search answered for a model and a length: an input of its rows.

    Attributes:
        on_chip: tensors kept in the global buffer.
        rows: queries of a group; all of them where it fuses whole heads.
    """

    on_chip: frozenset[str]
    weight_stationary: bool
    rows: int


def run(
    configuration: str, model: str, length: str, quirks: Quirks, flat: FlatChoice | None = None
) -> Estimate:
    """Return one attention configuration of the artifact: unfused, flat, cascade, arch or binding."""
    if configuration == "unfused":
        return _unfused(model, length, quirks)
    if configuration == "flat":
        if flat is None:
            raise ValueError("flat needs a choice")
        return _flat(model, length, quirks, flat)
    if configuration == "cascade":
        return _cascade(model, length, quirks)
    mapping = {"arch": "fusemax_stalled", "binding": "fusemax"}[configuration]
    settled = plan(
        _zoo("attention_1pass"), model_sizes(f"{model}/{length}"), chip("fusemax"), mappings.load(mapping)
    )
    return account(settled, quirks)


@functools.cache
def chip(name: str, **parameters: Any) -> SpatialChip:
    """Return a chip of the library, read once."""
    found: SpatialChip = load_hardware(name, parameters)
    return found


@functools.cache
def _zoo(name: str) -> Any:
    return zoo.load(name)


def _unfused(model: str, length: str, quirks: Quirks) -> Estimate:
    sizes = model_sizes(f"{model}/{length}")
    mapping = mappings.load("unfused")
    settled = plan(_zoo("attention_3pass"), sizes, chip("flat"), mapping)
    factor = MISSED_TILE.get(sizes["P"], 1) if quirks.missed_tile else 1
    if factor > 1:
        smaller = _with_sizes(mapping, P1=settled.sizes["P1"] // factor)
        settled = plan(_zoo("attention_3pass"), sizes, chip("flat"), smaller)
    return account(settled, quirks)


def _cascade(model: str, length: str, quirks: Quirks) -> Estimate:
    changes = {"arrays.PE1D.pipelined": 0} if quirks.two_cycle_exp else {}
    full = chip("flat", **changes)
    tiled_for = chip("flat", L3=SMALL_TILE_BUFFER, **changes) if quirks.small_tile else full
    sizes = model_sizes(f"{model}/{length}")
    settled = plan(_zoo("attention_1pass"), sizes, tiled_for, mappings.load("fusemax_cascade"))
    dropped = ("exp",) if quirks.no_exp_energy else ()
    return account(replace(settled, chip=full), quirks, dropped_units=dropped)


def _flat(model: str, length: str, quirks: Quirks, choice: FlatChoice) -> Estimate:
    mapping = flat_mapping(choice)
    machine = chip("flat")
    cascade = _zoo("attention_3pass")
    return account(plan(cascade, model_sizes(f"{model}/{length}"), machine, mapping), quirks)


def flat_mapping(choice: FlatChoice) -> SpatialMapping:
    """Return the mapping of FLAT's answer: stationarity, rows per group, what is kept on chip."""
    base: SpatialMapping = mappings.load("flat_weight" if choice.weight_stationary else "flat")
    on = choice.on_chip
    dram = {
        "QK": tuple(t for t in ("Q", "K", "QK") if t != "QK" or t not in on),
        "AV": tuple(t for t in ("A", "V", "AV") if t != "A" or t not in on),
        **({} if "QK" in on else {"GM": ("QK",)}),
        **({} if "A" in on else {"A": ("A",)}),
    }
    buffer = {
        "QK": tuple(t for t in ("Q", "K", "QK") if t in on),
        "GM": ("QK", "GM"),
        "SN": ("QK", "GM", "SN"),
        "SD": ("SD",),
        "A": ("SN", "SD", *(("A",) if "A" in on else ())),
        "AV": tuple(t for t in ("A", "V", "AV") if t in on),
    }
    keep = {**base.binding.keep, "DRAM": dram, "GlobalBuffer": buffer}
    spill = {"GlobalBuffer": Spill(tuple(sorted({*on, *(_SCORES if "QK" in on else ())})), flat_need(choice))}
    part = choice.rows if choice.weight_stationary else choice.rows // chip("flat").arrays["PE2D"].shape[0]
    return replace(_with_sizes(base, P1=part), binding=replace(base.binding, keep=keep, spill=spill))


def flat_need(choice: FlatChoice) -> str:
    """Return the bytes that FLAT counts as needed on chip, as an expression of a mapping.

    Scores overwrite each other in place, those of one query where they stream; everything else has a double buffer:
    its tile where it is kept on chip, the width of the array where it streams.
    """
    tile = {"Q": f"{choice.rows} * E", "AV": f"{choice.rows} * F", "K": "M * E", "V": "M * F"}
    row = {"Q": "E", "AV": "F", "K": "E", "V": "F"}
    held = [tile[t] if t in choice.on_chip else f"extent(PE2D, 0) * {row[t]}" for t in tile]
    scores = f"{_WORD} * {choice.rows if 'QK' in choice.on_chip else 1} * M"
    return f"{scores} + {2 * _WORD} * ({' + '.join(held)})"


def _with_sizes(mapping: SpatialMapping, **sizes: int) -> SpatialMapping:
    return replace(mapping, nest=replace(mapping.nest, sizes={**mapping.nest.sizes, **sizes}))


def gemms(platform: str, model: str, length: str, quirks: Quirks) -> dict[str, float]:
    """Return traffic (B), latency (s) and energy (J) of the six products around attention, one after another.

    Args:
        platform: `flat` or `proposal`.
        model: of the workload table.
        length: such as `64K`.
        quirks: which of them are on.
    """
    s = model_sizes(f"{model}/{length}")
    widths = {"D": s["D"], "S": s["S"], "HE": s["H"] * s["E"]}
    total = {"traffic": 0.0, "latency": 0.0, "energy": 0.0}
    for k, n in GEMMS.values():
        found = gemm(platform, s["B"] * s["P"], widths[k], widths[n], quirks)
        total["traffic"] += found.traffic_bytes
        total["latency"] += found.latency_s
        total["energy"] += found.energy_j
    return total


@functools.lru_cache(maxsize=4096)
def gemm(platform: str, m: int, k: int, n: int, quirks: Quirks) -> Estimate:
    """Return one product of m x k by k x n on the chip of a platform."""
    parameters = {"depth2": GEMM_REGISTERS} if platform == "proposal" and quirks.deep_gemm_registers else {}
    machine = chip("flat" if platform == "flat" else "fusemax", **parameters)
    return account(plan(_zoo("gemm"), {"M": m, "K": k, "N": n}, machine, mappings.load("gemm")), quirks)


def pareto(model: str, pe_dim: int, quirks: Quirks) -> Mapping[str, float]:
    """Return latencies and areas of +Binding at 256K on an array of pe_dim x pe_dim, with the least buffer for it.

    The artifact sizes register files with the width of a head, and doubles the buffer until memory keeps up.
    """
    sizes = model_sizes(f"{model}/256K")
    tiles = max(1, pe_dim // sizes["E"]) * 2
    buffer = pe_dim * max(1, tiles // max(1, 2**18 // pe_dim)) * sizes["E"] * 16
    while True:
        machine = chip("fusemax", N=pe_dim, L3=f"{buffer} B", depth2=2 * tiles, depth1=8 * tiles)
        found = account(plan(_zoo("attention_1pass"), sizes, machine, mappings.load("fusemax")), quirks)
        busy = {a: sum(e.time_s for e in found.einsums if e.array == a) for a in machine.arrays}
        memory_s = found.traffic_bytes / machine.memories["DRAM"].bandwidth_bytes_per_s
        if memory_s <= busy["PE1D"]:
            break
        buffer *= 2
    area = {name: mm2 * 1e6 for name, mm2 in found.area_by_component.items()}
    extra = (pe_dim, 2) if quirks.placeholder_areas else (0, 0)
    array_2d = area["PE2D"] + area["RF2D"] + extra[0]
    return {
        "traffic": found.traffic_bytes,
        "mem_lat": memory_s,
        "comp_2d_lat": busy["PE2D"],
        "comp_1d_lat": busy["PE1D"],
        "latency": found.latency_s,
        "array_2d_area": array_2d,
        "area": array_2d + area["PE1D"] + area["RF1D"] + area["GlobalBuffer"] + extra[1],
    }
