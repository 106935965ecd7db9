"""What one SM of each GPU of the library does in a cycle and holds: the numbers of the hardware files, read once.

The simulator reads the same files whole, with any field open to an override; kernels, which do not know the simulator,
need these few.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from einsum_cascade.errors import MappingError, nearest

from .reader import parse_yaml, read_text

LIBRARY = Path(__file__).parents[1] / "simulator" / "hardware" / "library" / "gpu"

_UNITS = {"MHz": 1e6, "GHz": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GB/s": 1e9, "TB/s": 1e12}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z/]+)")


@dataclass(frozen=True, slots=True)
class Machine:
    """One SM of a GPU; the hardware file of its name has the sources.

    Attributes:
        target: the compiler's name of the architecture, for example `sm_90`.
        tensor_flops_per_cycle: of 16-bit operands, a multiply-add counts two.
        l2_bytes_per_cycle: what the L2 cache delivers to each SM, if all ask at once.
        register_granule: registers are handed out to a warp in multiples of this.
        shared_bytes_reserved: what the system takes of every resident block.
    """

    name: str
    target: str
    tensor_flops_per_cycle: float
    exp_per_cycle: float
    fma_per_cycle: float
    alu_per_cycle: float
    issue_per_cycle: float
    shared_bytes_per_cycle: float
    l2_bytes_per_cycle: float
    registers: int
    register_granule: int
    shared_bytes_per_sm: int
    shared_bytes_per_block: int
    shared_bytes_reserved: int
    warps: int
    blocks: int
    tensor_memory_columns: int


@functools.cache
def machines() -> Mapping[str, Machine]:
    """Return the GPUs of the library by name."""
    return {name: _machine(name, document) for name, document in _documents().items()}


def find_machine(name: str) -> Machine:
    """Return a GPU by its name or an alias, in capitals or not.

    Raises:
        MappingError: no GPU of the library is called so.

    >>> find_machine("H100 SXM5").name, find_machine("L40S").target
    ('h100', 'sm_89')
    """
    names = _names()
    if name.casefold() not in names:
        raise MappingError(f"unknown GPU '{name}'; {nearest(name, machines())}")
    return machines()[names[name.casefold()]]


@functools.cache
def machine_of_target(target: str) -> Machine:
    """Return the GPU that stands for an architecture: the first name of the library that has it.

    Raises:
        MappingError: no GPU of the library has it.

    >>> machine_of_target("sm_90").name
    'h100'
    """
    found = [m for _, m in sorted(machines().items()) if m.target == target]
    if not found:
        raise MappingError(
            f"no GPU of target '{target}'; {nearest(target, {m.target for m in machines().values()})}"
        )
    return found[0]


@functools.cache
def _documents() -> Mapping[str, Any]:
    """Return the hardware files of GPUs by name."""
    return {p.stem: parse_yaml(read_text(p), p.name)[0] for p in sorted(LIBRARY.glob("*.yaml"))}


@functools.cache
def _names() -> Mapping[str, str]:
    """Return the name of each GPU by name and alias, without capitals."""
    found = {
        str(alias).casefold(): name
        for name, document in _documents().items()
        for alias in document.get("aliases", ())
    }
    return found | {name.casefold(): name for name in _documents()}


def _machine(name: str, document: Mapping[str, Any]) -> Machine:
    per_s = _number(document["sms"]) * _number(document["clock"])
    return Machine(
        name=name,
        target=document["target"],
        tensor_flops_per_cycle=_number(document["tensor"]["fp16"]),
        **{
            f"{pipe}_per_cycle": _number(document[f"{pipe}_per_cycle"])
            for pipe in ("exp", "fma", "alu", "issue")
        },
        shared_bytes_per_cycle=_number(document["shared_bytes_per_cycle"]),
        l2_bytes_per_cycle=_number(document["l2_bandwidth"]) / per_s,
        registers=int(document["registers_per_sm"]),
        register_granule=int(document["register_granule"]),
        shared_bytes_per_sm=int(_number(document["shared_per_sm"])),
        shared_bytes_per_block=int(_number(document["shared_per_block"])),
        shared_bytes_reserved=int(_number(document["shared_reserved"])),
        warps=int(document["max_warps"]),
        blocks=int(document["max_blocks"]),
        tensor_memory_columns=int(document.get("tensor_memory_columns", 0)),
    )


def _number(value: Any) -> float:
    """Return a number of a file of the library, in bytes, hertz or bytes a second.

    >>> _number("227 KiB"), _number("1755 MHz"), _number(16)
    (232448.0, 1755000000.0, 16.0)
    """
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) * _UNITS[match[2]] if match else float(value)
