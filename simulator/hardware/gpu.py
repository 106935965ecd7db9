"""A GPU as numbers: streaming multiprocessors, the rates of their pipes, limits of residency, caches and memory."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

from einsum_cascade.errors import HardwareError, glimpse, nearest
from mappings.remembered import by_file
from mappings.schema import Unit, file_fields

_NOT_NUMBERS = ("name", "target", "summary", "source", "sources", "assumed", "memory_kind")


@dataclass(frozen=True, slots=True)
class TensorRates:
    """Dense tensor-core operations per cycle and SM; a multiply-add counts as two, zero means no unit of its own."""

    fp16: float
    bf16: float
    fp8: float = 0.0
    tf32: float = 0.0
    fp32: float = 0.0

    def of(self, dtype: str) -> float:
        """Return the rate of an operand type: narrow types without a unit of their own run as fp16, fp32 as tf32.

        Raises:
            HardwareError: a type that nothing here runs.

        >>> TensorRates(fp16=2048, bf16=2048).of("fp8")
        2048
        >>> TensorRates(fp16=2048, bf16=2048, tf32=1024).of("fp32")
        1024
        """
        if dtype.startswith("fp8"):
            return self.fp8 or self.fp16
        # Half the operands fit where no unit of their own is described.
        wide = self.tf32 or self.fp16 / 2
        known = {"fp16": self.fp16, "bf16": self.bf16, "tf32": wide, "fp32": self.fp32 or wide}
        if dtype not in known:
            raise HardwareError(
                f"{dtype}: no rate of its products is known; expected {', '.join(known)} or fp8"
            )
        return known[dtype]


@dataclass(frozen=True, slots=True)
class EnergyRates:
    """What one operation or byte costs; calibrated against board power where the file says so."""

    tensor_j_per_flop: Annotated[float, Unit("joule", "tensor")]
    exp_j: Annotated[float, Unit("joule", "exp")]
    vector_j: Annotated[float, Unit("joule", "vector")]
    shared_j_per_byte: Annotated[float, Unit("joule", "shared")]
    l2_j_per_byte: Annotated[float, Unit("joule", "l2")]
    memory_j_per_byte: Annotated[float, Unit("joule", "memory")]
    idle_w: Annotated[float, Unit("watt", "idle")]


_TARGET = re.compile(r"sm_\d+[af]?")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, everything that the tile simulator asks of it.

    Attributes:
        target: the compiler's name of the architecture, for example `sm_90`.
        clock_hz: the clock that it holds under load, not the highest one.
        hot_clock: what heat and the power limit leave of that clock in a launch that lasts.
        tensor: dense tensor-core rate per operand type.
        exp_per_cycle: exponentials per cycle and SM (the MUFU pipe); likewise the next two.
        shared_bytes_per_cycle: shared memory bandwidth of one SM.
        register_granule: registers are handed out to a warp in multiples of this.
        shared_reserved_bytes: what the system takes of every resident block.
        tensor_memory_columns: columns of tensor memory in one SM; zero where there is none.
        l2_partitions: of the L2 cache, each of which holds what the SMs next to it read.
        memory_kind: the word under which its energy per byte is tabulated; `energy`: rates that replace the table's.
        sources: where each number comes from, by the word used in the file.
        assumed: the words whose numbers nobody published.
    """

    name: str
    target: str
    sms: int
    clock_hz: Annotated[float, Unit("hertz", "clock")]
    tensor: TensorRates
    exp_per_cycle: float
    fma_per_cycle: float
    alu_per_cycle: float
    issue_per_cycle: float
    shared_bytes_per_cycle: float
    registers_per_sm: int
    register_granule: int
    max_registers: int
    max_warps: int
    max_blocks: int
    shared_bytes_per_sm: Annotated[float, Unit("byte", "shared_per_sm")]
    shared_bytes_per_block: Annotated[float, Unit("byte", "shared_per_block")]
    shared_reserved_bytes: Annotated[float, Unit("byte", "shared_reserved")]
    l2_bytes: Annotated[float, Unit("byte", "l2")]
    l2_bandwidth_bytes_per_s: Annotated[float, Unit("byte/second", "l2_bandwidth")]
    memory_bytes: Annotated[float, Unit("byte", "memory")]
    memory_bandwidth_bytes_per_s: Annotated[float, Unit("byte/second", "memory_bandwidth")]
    board_power_w: Annotated[float, Unit("watt", "board_power")]
    tensor_memory_columns: int = 0
    l2_partitions: int = 1
    hot_clock: float = 1.0
    memory_kind: str = "hbm3"
    energy: EnergyRates | None = None
    summary: str = ""
    source: str = ""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    assumed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = file_fields(Gpu)
        for word, at in known.items():
            value = getattr(self, at.name)
            least = -1 if word == "tensor_memory_columns" else 0
            if isinstance(value, (int, float)) and not least < value < math.inf:
                raise ValueError(f"{word}: expected a positive number, found {value}")
        for word in self.assumed:
            if word not in known:
                raise ValueError(f"assumed: no number '{word}' here; {nearest(word, known)}")
        if not _TARGET.fullmatch(self.target):
            raise ValueError(f"target: expected an architecture such as sm_90, found {self.target!r}"[:120])

    def peak_flops(self, dtype: str) -> float:
        """Return the dense tensor-core rate of the whole chip at its clock, in operations per second."""
        return self.sms * self.clock_hz * self.tensor.of(dtype)


def gpu_of(on: object) -> Gpu:
    """Return a GPU that is given by name, by its file, or as it is.

    Raises:
        HardwareError: something else, or see `find_gpu`.
    """
    if isinstance(on, (str, Path)):
        return find_gpu(str(on))
    if not isinstance(on, Gpu):
        raise HardwareError(f"on: expected a GPU or the name of one, found {glimpse(on)}")
    return on


@by_file(None)
def find_gpu(device: str) -> Gpu:
    """Return the GPU of a file of your own, or the one that a measured table means by a device's name.

    What ends like the path of a file is one. Of names, one or an alias of the library wins; else the longest alias
    whose words all stand in the name, so that "NVIDIA H100 80GB HBM3 (node 7)" still finds its chip.

    Raises:
        HardwareError: nothing in the library is meant by that name, no such file, or one of another kind of chip.

    >>> find_gpu("H100 SXM").name, find_gpu("NVIDIA L40S 48GB").name
    ('h100', 'l40s')
    """
    from .reader import library, load_hardware, names

    gpus = set(names("gpu"))
    if device.endswith((".yaml", ".yml")):
        mine = load_hardware(device)
        if not isinstance(mine, Gpu):
            raise HardwareError(
                f"{device} describes no GPU; expected 'kind: gpu', or one of {', '.join(sorted(gpus))}"
            )
        return mine
    known = {alias: path.stem for alias, path in library().items() if path.stem in gpus}
    if device not in known:
        words = _words(device)
        inside = [a for a in known if _words(a) and set(_words(a)) <= set(words)]
        if not inside:
            raise HardwareError(f"unknown GPU '{device}'; {nearest(device, gpus)}")
        device = max(inside, key=lambda a: (len(_words(a)), len(a)))
    found = load_hardware(known[device])
    if not isinstance(found, Gpu):
        raise HardwareError(f"'{device}' is not a GPU; {nearest(device, gpus)}")
    return found


def _words(name: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", name.lower()))


def unsourced(gpu: Gpu) -> tuple[str, ...]:
    """Return the numbers of a GPU, by the name of their field, for which its file gives no source."""
    missing = []
    for f in fields(gpu):
        word = _word_of(f.name)
        said = getattr(gpu, f.name) not in (None, 0, f.default)
        if said and f.name not in _NOT_NUMBERS and word not in gpu.sources:
            missing.append(f.name)
    return tuple(missing)


def _word_of(name: str) -> str:
    from mappings.schema import file_fields

    return next(key for key, f in file_fields(Gpu).items() if f.name == name)
