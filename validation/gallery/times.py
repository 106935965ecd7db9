"""Predicted time of a zoo entry: the GPU simulators where they have its kernel, else a roofline; a spatial array."""

from __future__ import annotations

import contextlib
import csv
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from einsum_cascade import zoo
from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import MappingError, ModelError
from mappings.binding import SpatialMapping
from simulator.hardware.gpu import Gpu, find_gpu
from simulator.hardware.model import SpatialChip
from simulator.hardware.reader import load_hardware
from simulator.result import Estimate
from simulator.spatial.default import default_mapping
from simulator.spatial.model import simulate

GPU, ARRAY = "h100", "fusemax"
DTYPE = "bf16"
SIMULATED, ROOFLINE = "simulated", "roofline"
# Where in the row of lengths a mapping is searched: where everything fits on chip, and where nothing does any more.
SEARCHED = (0, 2)
# Cost classes that the special-function units of a GPU serve; multiply-accumulates go to the tensor cores.
_SPECIAL = ("exp", "log", "sqrt", "sin", "divide")


@dataclass(frozen=True, slots=True)
class Time:
    """A predicted time, or the reason why there is none.

    Attributes:
        how: `simulated`, or `roofline`: no machine with these peaks is faster, a kernel may well be slower.
        low_s, high_s: the simulator's interval, where it gives one.
    """

    seconds: float | None
    how: str = SIMULATED
    bound_by: str = ""
    low_s: float | None = None
    high_s: float | None = None
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel by whose model an entry is timed; arguments name ranks of the entry."""

    kernel: str
    arguments: Mapping[str, str]
    remark: str


@functools.cache
def kernels() -> Mapping[str, Kernel]:
    """Return the kernel of each entry that has one."""
    text = resources.files("validation").joinpath("data/gallery_kernels.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        r["name"]: Kernel(
            r["kernel"], dict(a.split("=", 1) for a in r["arguments"].split()), r["remark"] or ""
        )
        for r in rows
    }


def gpu_time(
    name: str, sizes: Mapping[str, int], operations: Mapping[str, int], *, traffic_bytes: float
) -> Time:
    """Return the time of an entry on the GPU.

    Args:
        sizes: of every rank of the entry, batch ranks too.
        operations: by cost class, for the roofline, and so is the next.
        traffic_bytes: the least that a chip with the on-chip memory of that GPU moves.
    """
    laid = kernels().get(name)
    if laid is None:
        return roofline(find_gpu(GPU), operations, traffic_bytes=traffic_bytes)
    arguments = {a: _value(text, sizes) for a, text in laid.arguments.items()}
    # The entry's own `where` is the mask; its ranks are among the arguments.
    if arguments.pop("mask", False):
        arguments["cascade"] = zoo.load(name)
    call = _neighbourhood if laid.kernel == "neighborhood" else _attention
    try:
        return call(laid, arguments)
    except ModelError as error:
        return Time(None, refused=str(error))


def on_chip_bytes(gpu: Gpu) -> float:
    """Return registers, shared memory and L2 cache of a GPU: all that may hold a value between two uses."""
    return gpu.sms * (gpu.shared_bytes_per_sm + 4 * gpu.registers_per_sm) + gpu.l2_bytes


def roofline(gpu: Gpu, operations: Mapping[str, int], *, traffic_bytes: float) -> Time:
    """Return the least time that operations at the peaks and least traffic at the full bandwidth allow.

    The dependence of one step on the one before is not priced: a recurrence takes longer.

    Source: Williams, Waterman, Patterson, "Roofline" (2009), with a roof for each kind of unit.
    """
    special = sum(operations.get(op, 0) for op in _SPECIAL)
    plain = sum(n for op, n in operations.items() if op != "mac" and op not in _SPECIAL)
    per_s = gpu.sms * gpu.clock_hz
    parts = {
        "tensor cores": 2 * operations.get("mac", 0) / gpu.peak_flops(DTYPE),
        "special functions": special / (per_s * gpu.exp_per_cycle),
        "vector units": plain / (per_s * gpu.fma_per_cycle),
        "memory": traffic_bytes / gpu.memory_bandwidth_bytes_per_s,
    }
    slowest = max(parts, key=lambda part: parts[part])
    return Time(parts[slowest], ROOFLINE, slowest)


def array_times(cascade: Cascade, uses: Sequence[Mapping[str, int]]) -> list[Time]:
    """Return the times of a cascade on the spatial array at growing sizes.

    A mapping is searched at some sizes and serves the following ones where it fits them, for the search takes longer
    than all the rest of the page. What does not fit at one size is not tried at larger ones.

    Args:
        uses: the size of every rank, of one use after another.
    """
    out: list[Time] = []
    mapping: SpatialMapping | None = None
    for number, sizes in enumerate(uses):
        try:
            estimate = None if number in SEARCHED else _simulated(cascade, sizes, mapping)
            if estimate is None:
                mapping = default_mapping(cascade, sizes, _chip())
                estimate = simulate(cascade, sizes, _chip(), mapping)
        except MappingError as error:
            refused = Time(None, refused=str(error).removeprefix("automatic: "))
            return out + [refused] * (len(uses) - number)
        out.append(Time(float(estimate.latency_s), bound_by=estimate.bound_by))
    return out


def _simulated(cascade: Cascade, sizes: Mapping[str, int], mapping: SpatialMapping | None) -> Estimate | None:
    """Return the estimate under a mapping that was found for smaller sizes, or None where it does not fit these."""
    if mapping is None:
        return None
    with contextlib.suppress(MappingError):
        return simulate(cascade, sizes, _chip(), mapping)
    return None


@functools.cache
def _chip() -> SpatialChip:
    return load_hardware(ARRAY)


def _value(text: str, sizes: Mapping[str, int]) -> Any:
    """Return an argument: a number, the size of a rank or the product of some, or several of them.

    >>> _value("X*Y", {"X": 4, "Y": 8}), _value("X,2", {"X": 4})
    (32, (4, 2))
    """
    parts = tuple(
        math.prod(int(t) if t.isdigit() else sizes[t] for t in part.split("*")) for part in text.split(",")
    )
    return parts if len(parts) > 1 else parts[0]


def _attention(laid: Kernel, arguments: Mapping[str, Any]) -> Time:
    from simulator.gpu.model import predict

    found = predict(laid.kernel, on=GPU, batch=1, dtype=DTYPE, **arguments)
    return Time(found.latency_s, SIMULATED, found.bound_by, found.low_s, found.high_s)


def _neighbourhood(laid: Kernel, arguments: Mapping[str, Any]) -> Time:
    from simulator.gpu.gna_tune import tune_gna

    best = tune_gna(on=GPU, batch=1, top=1, **arguments).choices[0]
    return Time(best.latency_s, SIMULATED, "tensor cores")
