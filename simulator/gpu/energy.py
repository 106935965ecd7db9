"""What a launch costs in joules: operations and bytes times their energies, and the power that flows all the time."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from einsum_cascade.errors import HardwareError, nearest
from mappings.pipes import READ_TOGETHER

from ..hardware.gpu import EnergyRates, Gpu
from .launch import Launch

Floats = NDArray[np.float64]

TABLE = Path(__file__).parent / "tables" / "energy.csv"
# Entries of the table; every other one is a kind of memory.
_ON_CHIP = ("tensor", "vector", "exp", "shared", "l2")
_FITTED = ("idle_share", "scale", "spread", "spread_elsewhere")


@dataclass(frozen=True, slots=True)
class Constant:
    """One number of the table of energies, and where it comes from."""

    value: float
    source: str
    assumed: bool


@dataclass(frozen=True, slots=True)
class Power:
    """Watts and joules of n calls, each of shape (n,).

    Attributes:
        dynamic_j: of operations and bytes alone, before the fitted scale.
        spread: relative half-width of the interval of the power.
    """

    power_w: Floats
    energy_j: Floats
    dynamic_j: Floats
    spread: float


@functools.cache
def constants() -> dict[str, Constant]:
    """Return the table of energies by name."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {
            r["name"]: Constant(float(r["value"]), r["source"], r["assumed"] == "1")
            for r in csv.DictReader(file)
        }


def energy_names(gpu: Gpu) -> tuple[str, ...]:
    """Return the entries of the table that a GPU's energies rest on."""
    fitted = ("idle_share", "scale", "spread" if _fitted(gpu) else "spread_elsewhere")
    return fitted if gpu.energy is not None else (*_ON_CHIP, gpu.memory_kind, *fitted)


def _fitted(gpu: Gpu) -> bool:
    return constants()["scale"].source.startswith(f"fitted: {gpu.name} ")


@functools.cache
def energy_rates(gpu: Gpu) -> EnergyRates:
    """Return what operations and bytes cost on a GPU: its file's word, else derived.

    Published energies are of one old process. What a newer one saves is read off the datasheet: board power over peak
    rate bounds the energy of a tensor-core operation, and everything else on the chip is scaled alike. Memory keeps
    its published energy.

    >>> from ..hardware.gpu import find_gpu
    >>> round(energy_rates(find_gpu("b200")).tensor_j_per_flop * 1e12, 3)
    0.446
    """
    if gpu.energy is not None:
        return gpu.energy
    table = constants()
    memories = set(table).difference(_ON_CHIP, _FITTED)
    if gpu.memory_kind not in memories:
        raise HardwareError(
            f"{gpu.name}: memory_kind: no energy of '{gpu.memory_kind}' is known; {nearest(gpu.memory_kind, memories)}"
        )
    per_flop = gpu.board_power_w / gpu.peak_flops("bf16")
    process = per_flop / table["tensor"].value  # joules per pJ of the table
    return EnergyRates(
        tensor_j_per_flop=per_flop,
        exp_j=process * table["exp"].value,
        vector_j=process * table["vector"].value,
        shared_j_per_byte=process * table["shared"].value,
        l2_j_per_byte=process * table["l2"].value,
        memory_j_per_byte=table[gpu.memory_kind].value * 1e-12,
        idle_w=table["idle_share"].value * gpu.board_power_w,
    )


def power(
    launch: Launch, latency_s: Floats, *, idle_w: float | None = None, scale: float | None = None
) -> Power:
    """Return watts and joules of every call of a launch, if it runs again and again.

    Args:
        latency_s: shape (n,), of each call.
        idle_w: power that flows all the time, `scale`: of the dynamic energy; the shipped fit by default.
    """
    gpu, table = launch.gpu, constants()
    rates = energy_rates(gpu)
    dynamic = _dynamic_j(launch, rates)
    for each in launch.then:
        dynamic = dynamic + _dynamic_j(each, rates)
    idle = rates.idle_w if idle_w is None else idle_w
    factor = table["scale"].value if scale is None else scale
    watts = np.minimum(idle + factor * dynamic / latency_s, gpu.board_power_w)
    spread = table["spread" if _fitted(gpu) else "spread_elsewhere"].value
    return Power(watts, watts * latency_s, dynamic, spread)


def _dynamic_j(launch: Launch, rates: EnergyRates) -> Floats:
    """Return the energy of operations and bytes; the pipes' cycles times their rates are what a tile does."""
    gpu, cycles = launch.gpu, dict(launch.tile_times.pipes)
    tensor = cycles["tensor"] * gpu.tensor.of(launch.dtype) * launch.tile.tensor_share
    vector = cycles["fma"] * gpu.fma_per_cycle + cycles["alu"] * gpu.alu_per_cycle
    l2_per_cycle = READ_TOGETHER * gpu.l2_bandwidth_bytes_per_s / (gpu.sms * gpu.clock_hz)
    # An operand half as wide costs half: fp8 runs at twice the rate within the same power.
    width = gpu.tensor.of("bf16") / gpu.tensor.of(launch.dtype)
    tile_j = (
        tensor * width * rates.tensor_j_per_flop
        + cycles["exp"] * gpu.exp_per_cycle * rates.exp_j
        + vector * rates.vector_j
        + cycles["shared"] * gpu.shared_bytes_per_cycle * rates.shared_j_per_byte
        + cycles["l2"] * l2_per_cycle * rates.l2_j_per_byte
    )
    tiles = launch.counts[0] + launch.counts[1]
    moved = launch.bytes_moved + launch.bytes_appended
    return np.asarray(
        tiles * tile_j + moved * (rates.l2_j_per_byte + rates.memory_j_per_byte), dtype=np.float64
    )
