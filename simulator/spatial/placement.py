"""A block on a chip: its arrays and axes, and which memory keeps what meanwhile."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import MappingError
from einsum_cascade.expr import Expr, Size, Var, variables

from ..hardware.model import SpatialChip
from ..identity import Same
from .assignment import assignments, options
from .block import Block
from .factors import divisor
from .idle import skipped
from .nest import Count
from .registers import register_words, registers
from .shelf import Bench, Shelf

# How far a tile of a rank extends in a memory: one step on the arrays, the tile at the memory, the whole rank.
STEP, BUFFERED, WHOLE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class InnerLevels(SpatialChip):
    """A chip without the memories outside some level: what that one keeps, and whether it has room, is asked later."""


@dataclass(frozen=True)  # without slots, so that what follows from it is derived once
class Placed:
    """A block on a chip, tile sizes still open.

    Attributes:
        arrays: the array of each Einsum.
        axes: for each Einsum the ranks on the axes of its array.
        home: the memory of the whole chip that holds the tiles; the empty string where only the outermost one exists.
        span: cycles of the busiest array with the widest tiles, per element of the batch: no tiles take fewer.
        narrow: how many times shorter the axes are taken than they are, for smaller steps.
        shelves: memories between the home and the outermost one that keep larger tiles, innermost first.
        benches: memories inside the home that keep smaller tiles, outermost first.
        registered: by Einsum, the operands in registers where these are not the result and what else finds room.
    """

    block: Block
    chip: SpatialChip
    sizes: Mapping[str, int]
    arrays: Mapping[str, str]
    axes: Mapping[str, tuple[str, ...]]
    home: str
    span: float
    narrow: int = 1
    shelves: tuple[Shelf, ...] = ()
    benches: tuple[Bench, ...] = ()
    registered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def extents(self) -> Mapping[str, tuple[int, ...]]:
        """By rank, the lengths of the axes that it lies on, longest first."""
        out: dict[str, set[int]] = {}
        for e in self.block.einsums:
            for rank in self.axes[e.name]:
                out.setdefault(rank, set()).add(self.extent(e.name, rank))
        return {r: tuple(sorted(out.get(r, {1}), reverse=True)) for r in self.block.ranks}

    def extent(self, einsum: str, rank: str) -> int:
        """Return the length of the axis of an Einsum's array on which a rank lies, as far as it is used."""
        length = self.chip.arrays[self.arrays[einsum]].shape[self.axes[einsum].index(rank)]
        return max(1, length // self.narrow)

    def widths(self, rank: str, tile: Count) -> tuple[Count, ...]:
        """Return how much of a tile lies on each of the axes that the rank lies on, longest first.

        Each divides the one before, so that one cut of the rank serves all arrays. The first is the step that all
        Einsums of the block take together; those on shorter axes take it in turns.
        """
        out = []
        for extent in self.extents[rank]:
            tile = divisor(tile, extent)
            out.append(tile)
        return tuple(out)

    def cuts(self, rank: str, tile: int) -> tuple[int, ...]:
        """Return the sizes at which a tile cuts its rank: the tile, and what lies on axes; largest first."""
        return tuple(min(n, self.sizes[rank]) for n in (tile, *self.widths(rank, tile)))

    def outer(self, rank: str, tiles: Mapping[str, Count]) -> tuple[Count, ...]:
        """Return the tiles of a rank on the shelves, innermost first; none of a rank that has no loops outside home."""
        return tuple(tiles[s.tile(rank)] for s in self.shelves) if rank in self.block.order else ()

    def inner(self, rank: str, tiles: Mapping[str, Count]) -> tuple[Count, ...]:
        """Return the tiles of a rank on the benches, outermost first."""
        return tuple(tiles[b.tile(rank)] for b in self.benches)

    @cached_property
    def steps(self) -> Mapping[str, tuple[str, ...]]:
        """By rank, the loops over the steps of a tile at home, outermost first: around benches, and on them."""
        inside = [bench.memory for bench in self.benches]
        return {r: (f"{r}.1", *(f"{r}.1.{memory}" for memory in inside)) for r in self.block.ranks}

    @cached_property
    def passed(self) -> frozenset[str]:
        """Tensors that stay in the registers of the elements that make them until their readers are done.

        The readers of the pass stand on the same array with the same ranks on its axes, read each element where it
        was written, and the ranks of the tensor are shared, or lie on the axes whole. A later pass may read it too,
        if it comes back from the outermost memory.
        """
        room = {name: self._registers(name) for name in self.chip.arrays}
        out = []
        for e in self.block.einsums:
            array = self.arrays[e.name]
            if room[array] > 0 and self._stays(e):
                room[array] -= 1
                out.append(e.name)
        return frozenset(out)

    def _registers(self, array: str) -> int:
        """Return the registers of an element that no operand needs."""
        memory = next((m for m in self.chip.memories.values() if m.of == array and m.per_element), None)
        if memory is None:
            return 0
        here = [e for e in self.block.einsums if self.arrays[e.name] == array]
        most = max((sum(register_words(e, self.sizes).values()) for e in here), default=0)
        return int(min(memory.capacity_bytes / self.chip.word_bytes, len(here) + most)) - most

    def _stays(self, writer: Einsum) -> bool:
        block, name = self.block, writer.name
        readers = [r for r in block.readers[name] if block.stage[r.name] == block.stage[name]]
        selects = any(r.into for r in writer.reductions)  # makes many words at a time
        if not readers or selects or block.tiled or block.apart(name):
            return False
        place = self.arrays[name], self.axes[name]
        local = all(self._fixed(rank_of(v), writer) for v in writer.output_variables)
        where = {a.indices for r in readers for a in r.reads if a.tensor == name}
        together = all((self.arrays[r.name], self.axes[r.name]) == place for r in readers)
        return local and together and where == {writer.target.indices}

    def _fixed(self, rank: str, writer: Einsum) -> bool:
        """Tell whether an element meets one coordinate of a rank at a time, the same in writer and readers."""
        if rank not in self.extents:
            return False  # the cascade splits it, and this Einsum loops over it in one piece
        longest = self.extents[rank][0]
        if rank not in self.axes[writer.name]:
            return rank in self.block.shared and longest == 1
        one_turn = self.extent(writer.name, rank) == longest
        return one_turn and (rank in self.block.shared or self.sizes[rank] <= longest)

    @cached_property
    def keep(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """By memory and Einsum, the tensors that the memory keeps tiles of."""
        out = {self.chip.outermost: self.exchanged}
        out |= {shelf.memory: dict(shelf.kept) for shelf in self.shelves}
        if self.home:
            out[self.home] = {e.name: self._at_home(e) for e in self.block.einsums}
        for i, bench in enumerate(self.benches):
            out[bench.memory] = dict(bench.kept)
            for outer in (self.home, *(b.memory for b in self.benches[:i])):
                out[outer] = {e: tuple(t for t in of if t not in bench.only) for e, of in out[outer].items()}
        for name, memory in self.chip.memories.items():
            if memory.per_element:
                here = [e for e in self.block.einsums if self.arrays[e.name] == memory.of]
                room = int(min(memory.capacity_bytes / self.chip.word_bytes, 1 << 30))
                out[name] = {
                    e.name: self.registered.get(e.name, registers(e, self.sizes, room)) for e in here
                }
        return out

    @cached_property
    def exchanged(self) -> dict[str, tuple[str, ...]]:
        """By Einsum, the tensors that it exchanges with the outermost memory."""
        found = self._fetched()
        for shelf in self.shelves:
            found = {e: tuple(t for t in of if t not in shelf.only.get(e, ())) for e, of in found.items()}
        return found

    def _fetched(self) -> dict[str, tuple[str, ...]]:
        """Return what each Einsum exchanges with the memories outside its home.

        What several Einsums of a pass read at the same indices comes for the first of them; what has no streamed rank
        stays for the later passes too. One that skips points brings nothing for those that do not skip them.
        """
        block = self.block
        out = {}
        brought: dict[tuple[object, ...], list[Einsum]] = {}
        for e in block.einsums:
            found: dict[str, None] = {}
            for access in e.reads:
                tensor = access.tensor
                if tensor in block.by_name and not self._read_back(tensor, e):
                    continue
                ranks = {rank_of(v) for v in _names(access.indices)}
                stage = block.stage[e.name] if block.stream in ranks else -1
                key = (tensor, access.indices, stage)
                stays = self.home and (not block.tiled or ranks <= set(block.shared))
                before = brought.setdefault(key, [])
                if not stays or not any(
                    skipped(block.cascade, b) <= skipped(block.cascade, e) for b in before
                ):
                    found[tensor] = None
                before.append(e)
            # What nobody needs has to go somewhere too where it goes past the memory.
            if not self.home or e.name in block.asked_for | block.spilled | block.direct:
                found[e.name] = None
            out[e.name] = tuple(found)
        return out

    def _read_back(self, tensor: str, reader: Einsum) -> bool:
        block = self.block
        if not self.home:
            return True
        return tensor in block.spilled and block.stage[reader.name] > block.stage[tensor]

    def _at_home(self, einsum: Einsum) -> tuple[str, ...]:
        block = self.block
        tensors = dict.fromkeys((*(a.tensor for a in einsum.reads), einsum.name))
        stay = (t for t in tensors if t not in block.direct)
        return tuple(t for t in stay if t not in self.passed or self._read_back(t, einsum))

    @cached_property
    def hold(self) -> Mapping[str, Mapping[str, int]]:
        """By tensor, how far its tile at home extends along each of its ranks, where the loops do not say it.

        What is used up within a pass exists for one step of the shared loops; what waits for a later pass, or for
        the next generation, for all of them inside the fused tile; a pass that reads it needs all its own ranks.
        """
        if not self.home or len(self.block.einsums) == 1:
            return {}
        return self._extents({t for tensors in self.keep[self.home].values() for t in tensors})

    def on_bench(self, bench: Bench) -> Mapping[str, Mapping[str, int]]:
        """Return the same of the tensors that a bench has in the place of the home."""
        return self._extents(bench.only)

    def _extents(self, kept: Collection[str]) -> Mapping[str, Mapping[str, int]]:
        extents = {t: self._extent(t) for t in sorted(kept)}
        return {t: extent for t, extent in extents.items() if extent is not None}

    def _extent(self, tensor: str) -> Mapping[str, int] | None:
        block = self.block
        writer = block.by_name.get(tensor)
        users = [e for e in block.einsums if e.name == tensor or any(a.tensor == tensor for a in e.reads)]
        accesses = [a.indices for e in users for a in (*e.reads, e.target) if a.tensor == tensor]
        if writer is None and (block.tiled or not _plain(accesses)):
            return None
        ranks = [rank_of(v) for v in _names(writer.target.indices if writer else accesses[0])]
        steps = [r for r in block.shared if any(r in map(rank_of, e.variables) for e in users)]
        # Used up in a step only if it moves with every shared loop around its users; where ranks of one Einsum are cut
        # at the outermost memory, its other loops lie inside those, and nobody shares a step with it.
        step = not block.tiled and set(steps) <= set(ranks) and tensor not in block.cascade.states
        if writer is None:
            return dict.fromkeys(steps, STEP) | self._rest(ranks, WHOLE) if step else None
        apart = block.apart(tensor)
        extent = dict.fromkeys(block.fused, STEP if step and not apart else BUFFERED)
        if block.stream in ranks and tensor not in block.cascade.states:
            extent[block.stream] = WHOLE if apart else STEP if step else BUFFERED
        elif block.stream in ranks and self._recalled(writer):
            extent[block.stream] = WHOLE
        return {r: n for r, n in extent.items() if r in ranks} | self._rest(ranks, WHOLE)

    def _recalled(self, state: Einsum) -> bool:
        """Tell whether a later pass reads another generation of a state than the last one."""
        block = self.block
        axis = block.cascade.signatures[state.name].state
        later = (r for r in block.readers[state.name] if block.stage[r.name] > block.stage[state.name])
        found = (a.indices[axis or 0] for r in later for a in r.reads if a.tensor == state.name)
        return any(index != Size(block.stream) for index in found)

    def _rest(self, ranks: Sequence[str], how: int) -> dict[str, int]:
        return {r: how for r in ranks if r not in self.block.shared}


def placements(
    block: Block, sizes: Mapping[str, int], chip: SpatialChip, *, most: int, narrow: int = 1
) -> Iterator[Placed]:
    """Yield a block on a chip in the most promising ways, those that keep the busiest array shortest busy first.

    Ties go to the fewest tensors that change the array.

    Args:
        block: Einsums that run together.
        sizes: by rank.
        chip: the machine.
        most: assignments of Einsums to arrays that are given.
        narrow: how many times shorter the axes are taken than they are.

    Raises:
        MappingError: no array can do an operation.
    """
    names = list(chip.arrays)
    barred = barred_from_axes(block)
    of = Same(block.given), Same(sizes), Same(chip)
    rows = [options(Same(block.originals[e.name]), *of, narrow, barred) for e in block.einsums]
    for e, row in zip(block.einsums, rows, strict=True):
        if not any(math.isfinite(cycles) for _, cycles in row):
            raise _no_array(e, chip)
    table = tuple(tuple(cycles for _, cycles in row) for row in rows)
    homes = shared_memories(chip) or ("",)
    index = {e.name: i for i, e in enumerate(block.einsums)}
    pairs = tuple((index[t], index[r.name]) for t, readers in block.readers.items() for r in readers)
    for choice, span in assignments(table, pairs, series=in_series(block), most=most):
        chosen = {e.name: names[a] for e, a in zip(block.einsums, choice, strict=True)}
        lie = {e.name: row[a][0] for e, row, a in zip(block.einsums, rows, choice, strict=True)}
        for home in homes:
            yield Placed(block, chip, sizes, chosen, lie, home, span, narrow)


def barred_from_axes(block: Block) -> frozenset[str]:
    """Return the ranks that lie on no axis: those that the cascade itself splits, and that of generations."""
    return frozenset((*block.cascade.splits, *([block.stream] if block.iterated else [])))


def shared_memories(chip: SpatialChip) -> tuple[str, ...]:
    """Return the memories of the whole chip inside the outermost one."""
    return tuple(name for name, m in chip.memories.items() if not m.of and name != chip.outermost)


def in_series(block: Block) -> bool:
    """Tell whether the Einsums share no loop, so that nothing lets one run beside another."""
    return len(block.einsums) > 1 and not block.shared


def _no_array(einsum: Einsum, chip: SpatialChip) -> MappingError:
    missing = {a.op for a in einsum.actions} - {op for a in chip.arrays.values() for op in a.ops}
    what = ", ".join(sorted(missing)) or "all of " + ", ".join(sorted({a.op for a in einsum.actions}))
    return MappingError(f"{einsum.name}: no array of {chip.name} can do {what}")


def _names(indices: Sequence[Expr]) -> dict[str, None]:
    return {v: None for i in indices for v in variables(i)}


def _plain(accesses: Sequence[Sequence[Expr]]) -> bool:
    """Tell whether every access has the same single variables as indices."""
    return len(set(map(tuple, accesses))) == 1 and all(isinstance(i, Var) for i in accesses[0])
