"""Which Einsums of a cascade share a kernel: as few in memory as pays by the tile model itself."""

from __future__ import annotations

import graphlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from einsum_cascade.errors import MappingError, nearest
from mappings.gpu import KernelMapping
from mappings.grids import Grid, StepWork
from mappings.pipes import SYNC_SHARE
from mappings.tiles import TileMapping

from ...hardware.gpu import Gpu
from ..call import make_call
from ..efficiency import Efficiency, times
from ..loops import MOST_BLOCKS, lay_grids
from .structure import Structure, extent, structure_of, units_of
from .work import WARPS, Case, Tiling, Work, work_of

# Rows and columns of a product's tile that are tried, and elements of a tile without a product. Assumed: the sizes
# that kernels of this package and of others take.
_SIDES = (256, 128, 64, 32, 16)
_FLAT = (8192, 2048, 512, 128, 32, 8, 1)
_GROUP_ROWS = {
    "sm_90": 64,
    "sm_100": 128,
    "sm_103": 128,
}  # that share one reading of an operand; mma.sync has 16
# Of the measured kernels whose constants say the most: what a compiler makes of a fused loop.
FAMILY, LIKE, HEAD_DIM = "triton_attention", "triton", 128
_MOST_RESIDENT = 8  # blocks an SM; more hide nothing that fewer do not


@dataclass(frozen=True, slots=True)
class Kernel:
    """Some Einsums as one launch.

    Attributes:
        units: what it computes, by their place in the text.
        einsums: names of what it computes.
        grid, tile: as the tile simulator takes them.
        work: of a block.
        busy_s: predicted seconds beyond the fixed cost of a launch.
    """

    units: frozenset[int]
    einsums: tuple[str, ...]
    grid: Grid
    tile: TileMapping
    work: Work
    busy_s: float


class Planner:
    """Lays units of a cascade on a GPU as kernels, and remembers those that it has tried.

    Args:
        by: constants of all kernels.
    """

    def __init__(self, case: Case, gpu: Gpu, dtype: str, *, by: Efficiency) -> None:
        """See the class."""
        self.case, self.gpu, self.dtype, self.by = case, gpu, dtype, by
        self.units = units_of(case.cascade)
        self._call = make_call(batch=1, heads=1, seq_q=1, head_dim=HEAD_DIM, dtype=dtype)
        self._known: dict[frozenset[int], Kernel | None] = {}
        # Half of the registers hold tiles; the rest is what a thread needs for itself. Assumed.
        self._room = gpu.shared_bytes_per_sm + 4.0 * gpu.registers_per_sm / 2
        self._asked = frozenset(s.tensor for s in case.cascade.outputs)

    def apart(self) -> list[Kernel]:
        """Return one kernel a unit, as a framework runs them that fuses nothing."""
        return [self._alone(i) for i in range(len(self.units))]

    def together(self) -> list[Kernel]:
        """Return kernels joined as long as that is predicted to be faster, by the better of two orders.

        Joins are taken one by one, so that one may stand in the way of a better one: the largest tensors are kept out
        of memory first, or else those that the text has first.
        """
        edges = list(self._edges())
        tried = [self._joined(order) for order in (edges, sorted(edges, key=lambda e: e[::-1]))]
        return min(tried, key=lambda found: sum(k.busy_s + self.by.launch_s for k in found))

    def _joined(self, edges: Sequence[tuple[int, int]]) -> list[Kernel]:
        """Return kernels joined along edges from writers to readers, in their order, until nothing is gained."""
        found = dict(enumerate(self.apart()))
        changed = True
        while changed:
            changed = False
            for writer, reader in edges:
                a, b = found[writer], found[reader]
                groups = {k.units for k in found.values()} - {a.units, b.units}
                if a is b or self._order([*groups, a.units | b.units]) is None:
                    continue
                joined = self.kernel(a.units | b.units)
                if joined and joined.busy_s < a.busy_s + b.busy_s + self.by.launch_s:
                    found.update(dict.fromkeys(joined.units, joined))
                    changed = True
        return self._sorted(found.values())

    def given(self, groups: Sequence[Sequence[str]]) -> list[Kernel]:
        """Return the kernels that somebody has chosen, each by the names of its Einsums; the others stay alone.

        Raises:
            MappingError: a name that no Einsum has or that is given twice, or a kernel that there cannot be.
        """
        place = {name: i for i, u in enumerate(self.units) for name in u.names}
        left = set(range(len(self.units)))
        found = []
        for group in groups:
            for name in group:
                if name not in place:
                    raise MappingError(f"kernels: no Einsum '{name}'; {nearest(name, place)}")
            units = frozenset(place[name] for name in group)
            shown = "+".join(group)
            if not units <= left:
                twice = next(name for name in group if place[name] not in left)
                raise MappingError(
                    f"kernels: '{twice}' is in two kernels, or in one iterate block with another name"
                )
            if (
                self._order([units, *(frozenset((i,)) for i in range(len(self.units)) if i not in units)])
                is None
            ):
                raise MappingError(f"kernels: {shown}: what stands between two of them is in another kernel")
            kernel = self.kernel(units)
            if kernel is None:
                raise MappingError(
                    f"kernels: {shown}: no block can hold what passes between them; expected a tile of "
                    f"{self._room / 1024:.0f} KiB at the most"
                )
            left -= units
            found.append(kernel)
        return self._sorted([*found, *map(self._alone, left)])

    def kernel(self, units: frozenset[int]) -> Kernel | None:
        """Return the fastest kernel of some units; None where no block can hold what it needs."""
        if units not in self._known:
            self._known[units] = self._fastest(units)
        return self._known[units]

    def _alone(self, unit: int) -> Kernel:
        found = self.kernel(frozenset((unit,)))
        if found is not None:
            return found
        # What no block can hold goes through memory all the same, at the price of the tile that holds the least.
        units = frozenset((unit,))
        structure = structure_of(self.case.cascade, [self.units[unit]])
        assert structure is not None
        tried = [self._laid(units, structure, tile, anyway=True) for tile in self._tiles(structure)]
        return min((k for k in tried if k is not None), key=lambda k: k.work.held)

    def _edges(self) -> Iterator[tuple[int, int]]:
        """Yield writer and reader of every tensor between units, the largest first."""
        writers = {name: i for i, u in enumerate(self.units) for name in u.names}
        edges = [(name, i) for i, u in enumerate(self.units) for name in sorted(u.reads) if name in writers]
        signatures = self.case.cascade.signatures
        size = {name: math.prod(self.case.sizes[r] for r in signatures[name].ranks) for name, _ in edges}
        for name, reader in sorted(edges, key=lambda e: (-size[e[0]], e[1])):
            yield writers[name], reader

    def _order(self, groups: Sequence[frozenset[int]]) -> list[frozenset[int]] | None:
        """Return groups of units, each whole, in an order in which they can run; None where two wait for each other."""
        group_of = {i: group for group in groups for i in group}
        writers = {name: i for i, u in enumerate(self.units) for name in u.names}
        graph: dict[frozenset[int], list[frozenset[int]]] = {}
        for group in sorted(groups, key=min):
            read = sorted({writers[n] for i in group for n in self.units[i].reads if n in writers})
            graph[group] = [group_of[i] for i in read if i not in group]
        try:
            return list(graphlib.TopologicalSorter(graph).static_order())
        except graphlib.CycleError:
            return None

    def _sorted(self, kernels: Iterable[Kernel]) -> list[Kernel]:
        """Return kernels in the order in which they run.

        Raises:
            MappingError: there is none.
        """
        known = {kernel.units: kernel for kernel in kernels}
        order = self._order(list(known))
        if order is None:
            raise MappingError(
                "kernels: two of them wait for each other; expected an order in which they can run"
            )
        return [known[units] for units in order]

    def _fastest(self, units: frozenset[int]) -> Kernel | None:
        structure = structure_of(self.case.cascade, [self.units[i] for i in sorted(units)])
        if structure is None:
            return None
        found = [self._laid(units, structure, tile) for tile in self._tiles(structure)]
        return min((k for k in found if k is not None), key=lambda k: k.busy_s, default=None)

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

    def _laid(
        self, units: frozenset[int], structure: Structure, tile: dict[str, int], *, anyway: bool = False
    ) -> Kernel | None:
        """Return a kernel with a tile; None where a block could not hold what it needs."""
        tiling = Tiling(self.case, structure, tile)
        group = _GROUP_ROWS.get(self.gpu.target, 16)
        needed = {name for i, u in enumerate(self.units) if i not in units for name in u.reads}
        written = frozenset(e.name for e in structure.einsums if e.name in needed | self._asked)
        work = work_of(tiling, self.gpu, operand_rows=group, written=written)
        if work.held > self._room and not anyway:
            return None
        wide = work.rows >= group
        made = TileMapping(
            query=work.rows,
            key=work.columns,
            warps=WARPS,
            operand_rows=group if wide else 16,
            blocks_per_sm=int(min(max(self._room // max(work.held, 1.0), 1), _MOST_RESIDENT)),
            tensor_share=1.0 if wide else SYNC_SHARE.get(self.gpu.target, 1.0),
        )
        names = tuple(e.name for e in structure.einsums)
        grid = _grid("+".join(names), self.case, structure, work)
        laid = lay_grids([self._call], self.gpu, mapping=mapping_of([grid], [made]), tile=made)
        found = times(laid, self.by)
        return Kernel(units, names, grid, made, work, float(found.latency_s[0]) - self.by.launch_s)


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
    each = {n: getattr(work, n) / work.steps for n in ("tensor", "exp", "fma", "alu", "loads", "shared")}
    turns = -(-work.blocks * case.batch // MOST_BLOCKS)
    return Grid(
        name=name,
        lanes=float(case.batch),
        blocks=float(-(-work.blocks // turns)),
        steps=float(work.steps * turns),
        step=StepWork(**each, chain=float(structure.chain)),
        reads=work.reads * case.batch,
        writes=work.writes * case.batch,
    )


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
        "every block does the mean of what a mask leaves",
        overlaps=False,
        parameters={"head_dim": HEAD_DIM},
        grids=tuple(grids),
        tiles=tuple(replace(t, grids=(g.name,)) for g, t in zip(grids, tiles, strict=True)),
        useful=useful,
    )
