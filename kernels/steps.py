"""What one step of a compiled kernel keeps the pipes of a GPU busy for, and how many blocks an SM of it holds."""

from __future__ import annotations

from collections.abc import Mapping

from einsum_cascade.errors import KernelError, MappingError, nearest
from mappings.compiled import builds_for
from mappings.machines import Machine, find_machine, machine_of_target, machines
from mappings.pipes import MMA_FLOPS, OPERAND_ROWS, READ_TOGETHER, SYNC_SHARE

from .aot import TARGETS, WORD_BYTES, Resources

# Kernels whose step is one score tile: as the simulator has it, each warp (mma.sync) or warp group (wgmma) reads the
# keys for itself, and the queries are read once. What other kernels load is written to shared memory and read once.
SCORE_TILES = ("flash_attention", "neighborhood_attention")


def rates(target: int) -> Machine:
    """Return the GPU that stands for a generation, by compute capability times ten."""
    return machine_of_target(f"sm_{target}")


def machine_of(name: str) -> Machine:
    """Return a GPU by its name or an alias, or the one that stands for a compile target.

    >>> machine_of("HGX B300").name, machine_of("sm_80").name
    ('b300', 'a100')
    """
    if name in TARGETS:
        return rates(TARGETS[name])
    try:
        return find_machine(name)
    except MappingError:
        raise KernelError(f"machine '{name}': {nearest(name, (*machines(), *TARGETS))}") from None


def target_of(machine: Machine) -> str:
    """Return the compile target whose builds run on a GPU.

    >>> target_of(machine_of("h100")), target_of(machine_of("b300"))
    ('sm_90', 'sm_100')
    """
    found = next((t for t in builds_for(machine.target) if t in TARGETS), None)
    if found is None:
        raise KernelError(
            f"{machine.name}: no kernel is compiled for {machine.target}; {nearest('', TARGETS)}"
        )
    return found


def blocks_per_sm(r: Resources, machine: Machine) -> int:
    """Return how many thread blocks of a compiled kernel one SM holds; 0 where not even one fits."""
    warps = r.warps
    per_warp = -(-r.registers * 32 // machine.register_granule) * machine.register_granule
    # Warps get registers in fours, one of each scheduler. Source: CUDA occupancy calculator.
    fitting = machine.registers // per_warp // 4 * 4
    limits = [fitting // warps, machine.warps // warps, machine.blocks]
    limits.append(machine.shared_bytes_per_sm // (r.shared_bytes + machine.shared_bytes_reserved))
    if r.tensor_memory_columns:
        limits.append(machine.tensor_memory_columns // r.tensor_memory_columns)
    return min(limits) if r.shared_bytes <= machine.shared_bytes_per_block else 0


def step_cycles(r: Resources, machine: Machine, *, masked: bool = False) -> dict[str, float]:
    """Return cycles that one step of one thread block keeps each pipe of an SM busy.

    Args:
        masked: of the loop over masked tiles instead of the one over whole tiles.
    """
    step = (r.masked_loop if masked else None) or r.step
    lanes = 32 * r.tile.warps
    # Warps repeat products of fewer rows than they have; a wgmma or tcgen05 does the work of many mma.sync.
    counted = step.pipes["tensor"] * r.tile.warps * MMA_FLOPS
    synchronous = counted > 0 and counted >= r.work.product_flops
    share = SYNC_SHARE.get(machine.target, 1.0) if synchronous and WORD_BYTES.get(r.dtype) != 4 else 1.0
    rows = 16 if synchronous else OPERAND_ROWS.get(machine.target, 16)
    return {
        "tensor": max(counted, r.work.product_flops) / (machine.tensor_flops_per_cycle * share),
        "exp": step.pipes["special"] * lanes / machine.exp_per_cycle,
        "fma": step.pipes["fma"] * lanes / machine.fma_per_cycle,
        "alu": (step.pipes["alu"] + step.pipes["convert"]) * lanes / machine.alu_per_cycle,
        "issue": step.instructions * r.tile.warps / machine.issue_per_cycle,
        "shared": _shared_bytes(r, rows) / machine.shared_bytes_per_cycle,
        "l2": r.work.load_bytes / machine.l2_bytes_per_cycle / READ_TOGETHER,
    }


def _shared_bytes(r: Resources, rows: int) -> float:
    """Return what a step moves through shared memory, if so many rows of a product share one reading."""
    if r.kernel not in SCORE_TILES:
        return 2.0 * r.work.load_bytes
    queries = r.tile.block_m * r.head_dim * WORD_BYTES[r.dtype]
    return r.work.load_bytes * (-(-r.tile.block_m // rows) + 1) + queries


def busiest(cycles: Mapping[str, float]) -> str:
    """Return the slowest pipe of a step."""
    return max(cycles, key=lambda name: cycles[name])


def alone(cycles: Mapping[str, float]) -> float:
    """Return the cycles of a step of which nothing overlaps."""
    return sum(cycles[name] for name in ("tensor", "exp", "fma", "alu"))
