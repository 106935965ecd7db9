"""Described kernels of this package, the call that tests ask of them, and the smallest description there is."""

from __future__ import annotations

from mappings.gpu import KernelMapping, kernel_mappings
from mappings.grids import Grid, StepWork
from mappings.tiles import TileMapping

OURS = "triton-cascade"
# Of this package; those of other people cannot be watched in the interpreter.
DESCRIBED = sorted({m.kernel for m in kernel_mappings() if m.grids and m.name.startswith("cascade_")})
CALL = {"batch": 8, "heads": 16, "seq_q": 4096, "head_dim": 128, "dtype": "bf16"}


def usual(kernel):
    """Return a call of a kernel; a gate has no heads, only channels."""
    return {n: v for n, v in CALL.items() if n != "head_dim" or not kernel.endswith("_gate")}


def described(**changed):
    """Return a mapping of one grid whose blocks take as many steps as there are queries, but for what is changed."""
    grid = {"name": "g", "steps": "seq_q", "step": StepWork(fma="block_m"), "lanes": 1} | changed
    return KernelMapping("m", "k", ("*",), "", (TileMapping(query=8, key=8),), grids=(Grid(**grid),))
