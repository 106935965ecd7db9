"""Units of a cascade as one launch: the tile and the parts that the tile model says are the fastest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from mappings.gpu import KernelMapping
from mappings.grids import Grid, StepWork
from mappings.pipes import SYNC_SHARE
from mappings.tiles import TileMapping

from ...hardware.gpu import Gpu
from ..call import make_call
from ..efficiency import Efficiency, times
from ..loops import MOST_BLOCKS, lay_grids
from .case import Case
from .groups import Graph
from .structure import Structure, extent, structure_of
from .tiling import STEP, Tiling
from .work import WARPS, Work, held_of, work_of

# Rows and columns of a product's tile that are tried, and elements of a tile without a product. Assumed: the sizes
# that kernels of this package and of others take.
_SIDES = (256, 128, 64, 32, 16)
_FLAT = (8192, 2048, 512, 128, 32, 8, 1)
# Rows that share one reading of an operand; mma.sync has 16.
_GROUP_ROWS = {"sm_90": 64, "sm_100": 128, "sm_103": 128}
# Of the measured kernels whose constants say the most: what a compiler makes of a fused loop.
FAMILY, LIKE, HEAD_DIM = "triton_attention", "triton", 128
# Bytes that a block asks for at a time: 64 keys of 128 elements, the commonest tile; assumed.
_AHEAD = 64 * 128 * 2.0
_MOST_UNEVEN = 1 << 16  # blocks that are told apart by their steps; of more, one is a small part of an SM's
_MOST_RESIDENT = 8  # blocks an SM; more hide nothing that fewer do not


@dataclass(frozen=True, slots=True)
class Kernel:
    """Some Einsums as one launch.

    Attributes:
        units: what it computes, by their place in the text.
        einsums: names of what it computes; `written`: what of it others read, or the cascade is asked for.
        grid, tile: as the tile simulator takes them.
        work: of a block.
        busy_s: predicted seconds beyond the fixed cost of a launch.
        tiling: its structure with the extents of its tile.
    """

    units: frozenset[int]
    einsums: tuple[str, ...]
    written: frozenset[str]
    grid: Grid
    tile: TileMapping
    work: Work
    busy_s: float
    tiling: Tiling


Able: TypeAlias = Callable[[Tiling], bool]


class Layer:
    """Lays units of a cascade on a GPU as one kernel, and remembers what it has laid.

    Args:
        graph: of the cascade's units.
        by: constants of all kernels.
        able: which tilings there may be, if not all; of a structure none where it is for none of them.
    """

    def __init__(
        self, case: Case, graph: Graph, gpu: Gpu, dtype: str, *, by: Efficiency, able: Able | None = None
    ) -> None:
        """See the class."""
        self.case, self.graph, self.gpu, self.by, self._able = case, graph, gpu, by, able
        self._call = make_call(batch=1, heads=1, seq_q=1, head_dim=HEAD_DIM, dtype=dtype)
        self._group_rows = _GROUP_ROWS.get(gpu.target, 16)
        self._known: dict[tuple[frozenset[int], frozenset[str]], Kernel | None] = {}
        self._shapes: dict[frozenset[int], Structure | None] = {}
        # Half of the registers hold tiles; the rest is what a thread needs for itself. Assumed.
        self.room = gpu.shared_bytes_per_sm + 4.0 * gpu.registers_per_sm / 2

    def kernel(self, units: frozenset[int], written: frozenset[str]) -> Kernel | None:
        """Return the fastest kernel of some units; None where no block can hold what it needs.

        A unit alone always has one: what no block can hold goes through memory, at the price of the tile that holds
        the least.

        Args:
            written: tensors that it leaves in memory.
        """
        key = (units, written)
        if key not in self._known:
            self._known[key] = self._fastest(units, written)
        return self._known[key]

    def _structure(self, units: frozenset[int]) -> Structure | None:
        if units not in self._shapes:
            self._shapes[units] = structure_of(
                self.case.cascade, [self.graph.units[i] for i in sorted(units)]
            )
        return self._shapes[units]

    def _fastest(self, units: frozenset[int], written: frozenset[str]) -> Kernel | None:
        structure = self._structure(units)
        if structure is None:
            return None
        found: list[Kernel] = []
        least: tuple[float, Tiling] | None = None
        for tiling in self._tilings(structure):
            if self._able is not None and not self._able(tiling):
                continue
            held = held_of(tiling, self.gpu)
            if held <= self.room:
                found.append(self._laid(units, tiling, held, written))
            elif least is None or held < least[0]:
                least = held, tiling
        if not found and least is not None and len(units) == 1:
            return self._laid(units, least[1], least[0], written)
        return min(found, key=lambda k: k.busy_s, default=None)

    def _tilings(self, structure: Structure) -> Iterator[Tiling]:
        """Yield what to try: tiles, steps of a running sum, and parts of sums where blocks do not fill the SMs."""
        scans = (1, STEP) if structure.running else (1,)
        for tile, scanned in itertools.product(self._tiles(structure), scans):
            whole = Tiling(self.case, structure, tile, scanned=scanned)
            yield whole
            most = min(self.gpu.sms // (whole.blocks * self.case.batch), whole.most_parts)
            for power in range(1, most.bit_length()):
                yield Tiling(self.case, structure, tile, parts=2**power)

    def _tiles(self, structure: Structure) -> Iterator[dict[str, int]]:
        """Yield extents of tiles to try, of the variables that tell blocks apart."""
        sides = _sides(structure)
        options = _SIDES if any(sides) else _FLAT
        rest = () if any(sides) else structure.blocks
        used = [s for s in (*sides, rest) if s]
        seen = set()
        for lengths in itertools.product(options, repeat=len(used)):
            tile: dict[str, int] = {}
            for side, length in zip(used, lengths, strict=True):
                tile |= self._spread(side, length)
            key = tuple(sorted(tile.items()))
            if key not in seen:
                seen.add(key)
                yield tile

    def _spread(self, side: Sequence[str], length: int) -> dict[str, int]:
        """Return a tile of about a length along one side, the last of its variables filled first."""
        tile = {}
        for v in reversed(side):
            tile[v] = min(extent(v, self.case.sizes), max(length, 1))
            length //= tile[v]
        return tile

    def _laid(self, units: frozenset[int], tiling: Tiling, held: float, written: frozenset[str]) -> Kernel:
        group, structure = self._group_rows, tiling.structure
        work = work_of(tiling, self.gpu, held=held, operand_rows=group, written=written)
        wide = work.rows >= group
        made = TileMapping(
            query=work.rows,
            key=work.columns,
            warps=WARPS,
            operand_rows=group if wide else 16,
            blocks_per_sm=int(min(max(self.room // max(work.held, 1.0), 1), _MOST_RESIDENT)),
            tensor_share=1.0 if wide else SYNC_SHARE.get(self.gpu.target, 1.0),
        )
        names = tuple(e.name for e in structure.einsums)
        grid = _grid("+".join(names), self.case, structure, work)
        laid = lay_grids([self._call], self.gpu, mapping=mapping_of([grid], [made]), tile=made)
        found = times(laid, self.by)
        return Kernel(
            units, names, written, grid, made, work, float(found.latency_s[0]) - self.by.launch_s, tiling
        )


def _sides(structure: Structure) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the variables that tell blocks apart and are rows of a product, and those that are columns."""
    blocks = set(structure.blocks)
    rows: dict[str, None] = {}
    columns: dict[str, None] = {}
    for product in structure.products:
        one, other = ([v for v in side if v in blocks] for side in (product.rows, product.columns))
        if set(one) & set(columns) or set(other) & set(rows):
            one, other = other, one  # the transposed product
        rows |= dict.fromkeys(v for v in one if v not in columns)
        columns |= dict.fromkeys(v for v in other if v not in rows)
    return tuple(rows), tuple(columns)


def _grid(name: str, case: Case, structure: Structure, work: Work) -> Grid:
    """Return a kernel as a grid; beyond the most blocks of a launch, each takes several tiles, one after another."""
    turns = -(-work.blocks * case.batch // MOST_BLOCKS)
    steps, mean = _steps(work) if turns == 1 else (float(work.steps * turns), float(work.steps))
    each = {n: getattr(work, n) / mean for n in ("tensor", "exp", "fma", "alu", "loads", "shared")}
    return Grid(
        name=name,
        lanes=float(case.batch),
        blocks=float(-(-work.blocks // turns)),
        steps=steps,
        order="longest_first",
        step=StepWork(**each, chain=float(structure.chain), trips=_trips(structure, work)),
        reads=work.reads * case.batch,
        writes=work.writes * case.batch,
        parts=float(work.parts),
        partial=work.partial * case.batch,
    )


def _steps(work: Work) -> tuple[str | float, float]:
    """Return the steps of block i, and the mean of them.

    Where a mask leaves one block more than another, they are taken to fall evenly from the fullest, as under a
    triangle.
    """
    if work.fullest == work.steps or not 1 < work.blocks <= _MOST_UNEVEN:
        return float(work.steps), float(work.steps)
    fall = 2.0 * (work.fullest - work.steps) / (work.blocks - 1)
    each = np.maximum(1.0, np.ceil(work.fullest - fall * np.arange(work.blocks)))
    return f"max(1, ceil({work.fullest} - {fall!r} * i))", float(each.mean())


def _trips(structure: Structure, work: Work) -> float:
    """Return the times that a step waits for memory at the least, if a block asks for the loads of one ahead.

    Of sums, a block asks for as many steps at a time as make a tile; an iterate block runs as it is written.
    """
    if work.steps == 1:
        return 0.0
    return 1.0 if structure.loop else min(1.0, work.loads / work.steps / _AHEAD)


def mapping_of(grids: Sequence[Grid], tiles: Sequence[TileMapping], *, useful: float = 0.0) -> KernelMapping:
    """Return kernels as a mapping that the tile simulator lays on a GPU; products and the rest do not overlap."""
    return KernelMapping(
        name="cascade",
        kernel="cascade",
        implementations=("*",),
        sole=True,
        source="derived from the text of a cascade; no compiler has seen it",
        family=FAMILY,
        remark="laid out from its text: tiles of 16 to 256 rows, 64 terms a step; products and the rest take turns; "
        "blocks do from the most to the least of what a mask leaves, as under a triangle",
        overlaps=False,
        parameters={"head_dim": HEAD_DIM},
        grids=tuple(grids),
        tiles=tuple(replace(t, grids=(g.name,)) for g, t in zip(grids, tiles, strict=True)),
        useful=useful,
    )
