"""What a block holds, in shared memory and in registers: how many fit an SM, and what does not fit and is spilt."""

from __future__ import annotations

from dataclasses import dataclass

from mappings.pipes import OPERAND_ROWS

from ...hardware.gpu import Gpu
from .tiling import Tiling

_WORD = 4.0  # bytes of what lies in registers: sums and softmax in fp32
# Tiles of an operand that are in shared memory at a time: those on their way, and that which a group of warps reads
# while it multiplies; mma.sync has it in registers by then. Source: Triton, the default num_stages of 3; what products
# for sm_80, sm_89, sm_90, sm_100 and sm_120 compile to.
_STAGES, _STAGES_ALONE = 3.0, 2.0
# Registers of a thread beside tiles: addresses, masks, what is on its way between them. Chosen after looking at what
# 235 kernels that were written from the zoo's texts for sm_90 compile to.
_OWN = 30.0
_LANES = 32
# Elements of a tile that a thread works on, at the most: it does so one after the other, in code without a loop. Chosen
# after looking at what was written from the zoo: beyond, the compiler is not done after a minute.
_UNROLLED = 512


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of a block in shared memory and in registers, all of its threads together.

    Attributes:
        largest: elements of its largest tile.
        warps: of a block.
    """

    shared: float
    registers: float
    largest: int
    warps: int

    def fits(self, gpu: Gpu) -> bool:
        """Tell whether a block can have that much."""
        return self.load(gpu) <= 1.0

    def load(self, gpu: Gpu) -> float:
        """Return it as a share of what a block can have, of that which is the scarcest."""
        unrolled = self.largest / (_LANES * self.warps * _UNROLLED)
        registers = self.registers / registers_of(gpu, self.warps)
        return max(self.shared / gpu.shared_bytes_per_block, registers, unrolled)

    def blocks(self, gpu: Gpu) -> int:
        """Return how many such blocks an SM holds; one of which too much was asked counts as one."""
        shared = self.shared / gpu.shared_bytes_per_sm
        registers = self.registers / (_WORD * gpu.registers_per_sm)
        return max(1, int(1.0 / max(shared, registers, self.warps / gpu.max_warps)))


def group_rows(gpu: Gpu) -> int:
    """Return the rows of a product that share one reading of its columns, where it has as many; 16 of mma.sync."""
    return OPERAND_ROWS.get(gpu.target, 16)


def registers_of(gpu: Gpu, warps: int) -> float:
    """Return the bytes of registers that a block of so many warps can have."""
    return _WORD * min(gpu.max_registers * _LANES * warps, gpu.registers_per_sm)


def spilt_of(held: Held, gpu: Gpu) -> float:
    """Return the bytes that a step of a block moves for registers that do not fit: they are written and read again."""
    return 2.0 * max(0.0, held.registers - registers_of(gpu, held.warps))


def room_of(gpu: Gpu) -> float:
    """Return the bytes beyond which an operand that does not move with the steps is loaded anew in each of them."""
    return gpu.shared_bytes_per_block / 2


def held_of(tiling: Tiling, gpu: Gpu) -> Held:
    """Return what a block holds: of what it reads, and the most of its own at a time.

    Sides of products lie in shared memory, and where they move with the steps, the next ones too. All else is loaded
    into registers.
    """
    case, structure, room = tiling.case, tiling.structure, room_of(gpu)
    products = {id(p.einsum): p for p in structure.products}
    together = group_rows(gpu)
    shared = registers = 0.0
    for (access, readers), loaded in zip(structure.readings.items(), tiling.loaded, strict=True):
        every = case.word_of(access.tensor) * loaded
        moves = every > room or not case.names(access).isdisjoint(structure.outer)
        now = case.word_of(access.tensor) * tiling.part(access) if moves else every
        rows = [tiling.side(products[id(e)].rows) for e in readers if id(e) in products]
        if not rows:
            registers += now
        elif moves:
            shared += now * (_STAGES if max(rows) >= together > 16 else _STAGES_ALONE)
        else:
            shared += now
    threads = _LANES * tiling.warps
    registers += _WORD * (_most_live(tiling) + _OWN * threads)
    return Held(shared, registers, tiling.largest, tiling.warps)


def _most_live(tiling: Tiling) -> float:
    """Return the most elements of its own that a block holds at a time; what is used up makes place for others."""
    structure = tiling.structure
    size = {
        e.name: tiling.part(e.target, whole=whole)
        for e, whole in zip(structure.einsums, structure.gathered, strict=True)
    }
    always = sum(n for name, n in size.items() if name in structure.states)
    live: dict[str, float] = {}
    most = always
    for einsum, used_up in zip(structure.einsums, structure.used_up, strict=True):
        state = einsum.name in structure.states
        in_place = state or any(size[name] >= size[einsum.name] for name in used_up)
        taken = 0.0 if in_place else size[einsum.name]
        most = max(most, always + sum(live.values()) + taken)
        given = max((live.pop(name, 0.0) for name in used_up), default=0.0)
        if not state:
            live[einsum.name] = given if in_place else taken
    return most
