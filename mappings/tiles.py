"""Tiles of GPU kernels: their shapes, when a kernel takes which, and what the compiler made of them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from .grids import ORDERS


@dataclass(frozen=True, slots=True)
class LoopWork:
    """Instructions that each warp issues for a key tile, read off the compiled loop.

    Attributes:
        instructions: all of them.
        tensor: matrix products; how much one does depends on the instruction path.
        special, fma, alu: those of the special-function unit, of the multiply-add pipe, of the integer and
            comparison pipe, conversions included.
        local: loads and stores of spilt registers.
        masked_instructions: all of the loop over tiles that need their mask; zero where it was not read.
    """

    instructions: int
    special: int
    fma: int
    alu: int
    tensor: int = 0
    local: int = 0
    masked_instructions: int = 0

    def __post_init__(self) -> None:
        counts = (self.instructions, self.tensor, self.special, self.fma, self.alu, self.local)
        if min(*counts, self.masked_instructions) < 0:
            raise ValueError("loop: expected numbers of at least zero")


@dataclass(frozen=True, slots=True)
class KernelResources:
    """What one thread block occupies, as the compiler reports it.

    Attributes:
        registers: per thread.
        shared_bytes: per block.
        spill_bytes: local memory that spilt registers take, per thread.
        stack_bytes: local memory per thread, spills included.
        tensor_memory_columns: of 512, per block; zero below sm_100.
        loop: instructions of its main loop, where they were read.
        made_by: the target, the tool and its version.
    """

    registers: int
    shared_bytes: int
    made_by: str
    spill_bytes: int = 0
    stack_bytes: int = 0
    tensor_memory_columns: int = 0
    loop: LoopWork | None = None

    def __post_init__(self) -> None:
        if min(self.registers, self.shared_bytes, self.spill_bytes, self.stack_bytes) < 0:
            raise ValueError("resources: expected numbers of at least zero")


@dataclass(frozen=True, slots=True)
class PerScore:
    """Scalar work of a kernel per element of the score tile, tensor work per element and head dimension.

    Attributes:
        tensor: tensor-core operations per score and head dimension: two products of a multiply and an add are 4.
        exp: exponentials; `fma`, `alu`: fused multiply-adds and the like, maxima and conversions.
        operand_passes: key-side tiles read from shared memory per product (K and V: 2).
    """

    tensor: float = 4.0
    exp: float = 1.0
    fma: float = 2.0
    alu: float = 1.5
    operand_passes: float = 2.0


@dataclass(frozen=True, slots=True)
class TileMapping:
    """One tile shape of a kernel and when the kernel takes it.

    Attributes:
        query: rows of the score tile; heads of a group are packed into them where `pack` is set.
        key: columns of the score tile.
        operand_rows: rows of the tile that share one reading of the key side from shared memory
            (a warp's rows for mma.sync, 64 for wgmma, 128 for tcgen05).
        blocks_per_sm: residency where no compiled resources are known; otherwise it follows from them.
        lone: time of a tile in a block that has an SM for itself, while other SMs idle, in units of its time on a
            full chip: above 1 where several blocks hide each other's latency, below 1 where the clock rises.
        tensor_share: the part of the tensor-core rate that this instruction path can reach.
        cluster: neighbouring blocks of a head that share each reading of the key side from the L2 cache (multicast, or
            a matrix instruction of two multiprocessors).
        splits: this kernel splits keys where its mapping says `split_keys`; False for another kernel of the family.
        planned_rows: rows of a query tile in the host's plan of splits, where they are not `query`.
        pack, order: in place of the mapping's words, for another kernel of the family.
        head_dim, targets, dtypes, window, causal, grids: the condition; an empty one always holds, the first tile that
            holds is taken. `head_dim` is the largest one served, `grids` are names of launches.
    """

    query: int
    key: int
    warps: int = 4
    stages: int = 2
    operand_rows: int = 64
    blocks_per_sm: int = 1
    lone: float = 1.0
    tensor_share: float = 1.0
    cluster: int = 1
    splits: bool = True
    planned_rows: int = 0
    pack: bool | None = None
    order: str | None = None
    head_dim: int = 0
    targets: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    window: bool | None = None
    causal: bool | None = None
    direction: str = ""
    grids: tuple[str, ...] = ()
    resources: KernelResources | None = None
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("query", "key", "warps", "stages", "operand_rows", "blocks_per_sm", "cluster"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.planned_rows < 0:
            raise ValueError(f"planned_rows: expected at least 0, found {self.planned_rows}")
        if self.lone <= 0:
            raise ValueError(f"lone: expected a positive number, found {self.lone}")
        if not 0 < self.tensor_share <= 1:
            raise ValueError(f"tensor_share: expected a number in (0, 1], found {self.tensor_share}")
        if self.order is not None:
            require_order(self.order)

    def serves(
        self,
        *,
        head_dim: int,
        target: str,
        dtype: str,
        causal: bool,
        window: bool,
        direction: str = "fwd",
        grid: str = "",
    ) -> bool:
        """Return whether the kernel takes this tile for such a call."""
        return (
            (not self.head_dim or head_dim <= self.head_dim)
            and (not self.targets or target in self.targets)
            and (not self.dtypes or any(fnmatchcase(dtype, d) for d in self.dtypes))
            and self.causal in (None, causal)
            and self.window in (None, window)
            and self.direction in ("", direction)
            and (not self.grids or grid in self.grids)
        )


def require_order(order: str) -> None:
    """Refuse an order of blocks that no kernel has.

    Raises:
        ValueError: with those that there are.
    """
    if order not in ORDERS:
        raise ValueError(f"order: expected one of {', '.join(ORDERS)}, found {order}")
