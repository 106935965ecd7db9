"""What a step of a loop keeps the pipes of an SM busy for: what the simulator and the ranking of tiles both assume."""

from __future__ import annotations

from collections.abc import Mapping

# Operations of one warp-wide mma.sync m16n8k16: what an issue slot buys at the least. Of narrower operands an
# instruction does fewer, at a lower rate: in time all are alike.
MMA_FLOPS = 16 * 8 * 16 * 2.0
# Blocks that read the same keys at the same time get more of them out of the L2 cache than it delivers of different
# lines. Chosen after looking at serving rows of H100 and L40S, where tiles of 16 to 64 rows would else be too slow.
READ_TOGETHER = 2.5
# The part of the tensor rate that mma.sync reaches where a generation has faster instructions: as FlashAttention-2,
# whose share was chosen after looking at its rows (flash_attention_2.yaml).
SYNC_SHARE = {"sm_90": 0.62, "sm_100": 0.25, "sm_103": 0.25}

# Rows of a product that share one reading of its other operand from shared memory, by the instruction that a generation
# has beside mma.sync, which has 16. Source: PTX ISA, wgmma and tcgen05.
OPERAND_ROWS = {"sm_90": 64, "sm_100": 128, "sm_103": 128}


def serial_cycles(pipes: Mapping[str, float]) -> float:
    """Return the cycles of a step whose products and elementwise work follow each other, whose scalar pipes overlap.

    >>> serial_cycles({"tensor": 2048, "exp": 1024, "fma": 400, "alu": 500, "l2": 9000})
    3072
    """
    return pipes["tensor"] + elementwise_cycles(pipes)


def elementwise_cycles(pipes: Mapping[str, float]) -> float:
    """Return the cycles of what a step does element by element, whose pipes overlap."""
    return max(pipes["exp"], pipes["fma"], pipes["alu"])


def busy_cycles(pipes: Mapping[str, float], *, overlaps: bool) -> float:
    """Return the cycles of a step in its SM: of the slowest pipe, or of `serial_cycles` where that is more.

    The L2 cache is left out: what keeps a kernel from the rates of its SM does not slow it.

    Args:
        overlaps: products and elementwise work of a block run at the same time; those of Triton's kernels do not.
    """
    slowest = max(cycles for name, cycles in pipes.items() if name != "l2")
    return slowest if overlaps else max(serial_cycles(pipes), slowest)
