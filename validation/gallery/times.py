"""Predicted time of a zoo entry: on a GPU by the model of its kernel, else laid out from its text; a spatial array."""

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
from simulator.hardware.model import SpatialChip
from simulator.hardware.reader import load_hardware
from simulator.result import Estimate
from simulator.spatial.default import default_mapping
from simulator.spatial.model import simulate

GPU, ARRAY = "h100", "fusemax"
DTYPE = "bf16"
SIMULATED, FROM_TEXT = "simulated", "from its text"
# Where in the row of lengths a mapping is searched: where everything fits on chip, and where nothing does any more.
SEARCHED = (0, 2)


@dataclass(frozen=True, slots=True)
class Time:
    """A predicted time, or the reason why there is none.

    Attributes:
        how: `simulated` by the model of a kernel, or `from its text`: no kernel is known, nor its tiles.
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


def gpu_time(name: str, sizes: Mapping[str, int]) -> Time:
    """Return the time of an entry on the GPU.

    Args:
        sizes: of every rank of the entry, batch ranks too.
    """
    laid = kernels().get(name)
    try:
        if laid is None:
            return _from_text(name, sizes)
        arguments = {a: _value(text, sizes) for a, text in laid.arguments.items()}
        # The entry's own `where` is the mask; its ranks are among the arguments.
        if arguments.pop("mask", False):
            arguments["cascade"] = zoo.load(name)
        call = _neighbourhood if laid.kernel == "neighborhood" else _attention
        return call(laid, arguments)
    except ModelError as error:
        return Time(None, refused=str(error))


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


def _from_text(name: str, sizes: Mapping[str, int]) -> Time:
    from simulator.gpu.fusion.predict import predict_cascade

    found = predict_cascade(zoo.load(name), sizes, on=GPU, dtype=DTYPE)
    return Time(found.latency_s, FROM_TEXT, found.bound_by, found.low_s, found.high_s)


def _neighbourhood(laid: Kernel, arguments: Mapping[str, Any]) -> Time:
    from simulator.gpu.gna_tune import tune_gna

    best = tune_gna(on=GPU, batch=1, top=1, **arguments).choices[0]
    return Time(best.latency_s, SIMULATED, "tensor cores")
