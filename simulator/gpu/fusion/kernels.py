"""Units of a cascade as one launch: the tile and the parts that the tile model says are the fastest."""

from __future__ import annotations

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
from ..loops import MOST_BLOCKS, lay_grids, waited_cycles
from .case import Case
from .floors import SLACK, floor_s, moved_s
from .groups import Graph
from .held import Held, group_rows, held_of, registers_of
from .least import Least
from .structure import Structure
from .tiles import tilings
from .tiling import Tiling
from .work import Work, fullest_of, read_of, work_of, written_of

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


# A tiling, and what a block of it does: in every block what it does on average.
Candidate = tuple[Tiling, Work]
Search = Least[Candidate, Kernel]


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
        self._group_rows = group_rows(gpu)
        self._known: dict[tuple[frozenset[int], frozenset[str]], Search] = {}
        self._works: dict[frozenset[int], list[Candidate]] = {}

    @property
    def most(self) -> str:
        """What a block can hold at the most, in words."""
        shared, registers = self.gpu.shared_bytes_per_block, registers_of(self.gpu, 8)
        return f"{shared / 1024:.0f} KiB in shared memory and {registers / 1024:.0f} KiB in registers"

    def kernel(self, units: frozenset[int], written: frozenset[str]) -> Kernel | None:
        """Return the fastest kernel of some units; None where no block can hold what it needs.

        A unit alone always has one: of what no block can hold, the tile that holds the least, and registers that do not
        fit are spilt.

        Args:
            written: tensors that it leaves in memory.
        """
        return self.fastest(units, written).result

    def fastest(self, units: frozenset[int], written: frozenset[str]) -> Search:
        """Return the search for the fastest kernel of some units, by its seconds beyond a launch; as `kernel`."""
        key = (units, written)
        if key not in self._known:
            self._known[key] = self._search(units, written)
        return self._known[key]

    def _search(self, units: frozenset[int], written: frozenset[str]) -> Search:
        def work_out(candidate: Candidate) -> tuple[float, Kernel]:
            kernel = self.laid(units, written, candidate)
            return kernel.busy_s, kernel

        return Least(self.moved_s(units, written), lambda: self.candidates(units, written), work_out)

    def moved_s(self, units: frozenset[int], written: frozenset[str]) -> float:
        """Return seconds that a kernel of some units takes at the least, for what it reads and writes."""
        moved = read_of(self.case, self.graph.readings(units)) + written_of(self.case, written)
        return moved_s(self.gpu, self.by, moved * self.case.batch) * (1 - SLACK)

    def candidates(
        self, units: frozenset[int], written: frozenset[str]
    ) -> Iterator[tuple[float, bool, Candidate]]:
        """Yield the tilings that a block of some units can hold, each with seconds that it takes at the least.

        And whether it takes no more: of blocks that are not alike the tile model has no closed form.
        """
        writes = written_of(self.case, written)
        for tiling, work in self._fit(units):
            whole = replace(work, writes=writes)
            yield self._floor_s(tiling, whole), tiling.active == 1.0, (tiling, whole)

    def _fit(self, units: frozenset[int]) -> list[Candidate]:
        """Return the tiles that a block can hold, with what it does but for what it writes."""
        if units not in self._works:
            found = self._found(self.graph.structures(units), alone=len(units) == 1)
            self._works[units] = list(found)
        return self._works[units]

    def _held(self, structures: Sequence[Structure]) -> list[tuple[Held, Tiling]]:
        """Return the tilings of some structures that differ in the order of their Einsums, with what a block holds.

        Of the same tile, the order that holds least; of those that hold the same, the first.
        """
        least: dict[object, tuple[Held, Tiling]] = {}
        for structure in structures:
            for tiling in tilings(self.case, structure, self.gpu):
                if self._able is None or self._able(tiling):
                    held, known = held_of(tiling, self.gpu), least.get(tiling.key)
                    if known is None or held.load(self.gpu) < known[0].load(self.gpu):
                        least[tiling.key] = held, tiling
        return list(least.values())

    def _found(self, structures: Sequence[Structure], *, alone: bool) -> Iterator[Candidate]:
        held = self._held(structures)
        fit = [each for each in held if each[0].fits(self.gpu)]
        if not fit and alone and held:
            fit = [min(held, key=lambda each: each[0].load(self.gpu))]
        for size, tiling in fit:
            yield (
                tiling,
                work_of(
                    tiling,
                    self.gpu,
                    held=size,
                    group_rows=self._group_rows,
                    written=frozenset(),
                    alike=True,
                ),
            )

    def _floor_s(self, tiling: Tiling, work: Work) -> float:
        least = floor_s(
            work,
            self._tile(work),
            gpu=self.gpu,
            by=self.by,
            dtype=self._call.dtype,
            batch=self.case.batch,
            waited_cycles=waited_cycles(tiling.structure.chain, _trips(tiling.structure, work)),
            alike=tiling.active == 1.0,
        )
        return least * (1 - SLACK)

    def _tile(self, work: Work) -> TileMapping:
        alone = SYNC_SHARE.get(self.gpu.target, 1.0)
        return TileMapping(
            query=work.rows,
            key=work.columns,
            warps=work.held.warps,
            operand_rows=self._group_rows if work.synchronous < 0.5 else 16,
            blocks_per_sm=min(work.held.blocks(self.gpu), _MOST_RESIDENT),
            tensor_share=1.0 / (1.0 - work.synchronous + work.synchronous / alone),
        )

    def laid(self, units: frozenset[int], written: frozenset[str], candidate: Candidate) -> Kernel:
        """Return a candidate as the tile model lays it."""
        tiling, work = candidate[0], replace(candidate[1], fullest=fullest_of(candidate[0]))
        structure, made = tiling.structure, self._tile(work)
        names = tuple(e.name for e in structure.einsums)
        grid = _grid("+".join(names), self.case, structure, work)
        busy_s = self._busy_s(grid, made)
        return Kernel(units, names, written, grid, made, work, busy_s, tiling)

    def with_tile(self, kernel: Kernel, tile: TileMapping) -> Kernel:
        """Return a kernel with what a compiler has made of its tile."""
        return replace(kernel, tile=tile, busy_s=self._busy_s(kernel.grid, tile))

    def _busy_s(self, grid: Grid, tile: TileMapping) -> float:
        laid = lay_grids([self._call], self.gpu, mapping=mapping_of([grid], [tile]), tile=tile)
        return float(times(laid, self.by).latency_s[0]) - self.by.launch_s


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
    """Return the times that a step waits for memory at the least.

    Of products, a block asks for as many steps ahead as make a tile; all else is loaded where it is asked for.
    """
    if work.steps == 1:
        return 0.0
    if structure.loop or structure.summed_in_products.isdisjoint(structure.outer):
        return 1.0
    return min(1.0, work.loads / work.steps / _AHEAD)


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
