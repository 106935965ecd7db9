"""The closed forms of a placed block: latency, traffic, energy and room at many tile sizes at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from einsum_cascade.declarations import rank_of, variable_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import MappingError
from einsum_cascade.expr import variables
from einsum_cascade.sizes import BATCH_RANKS

from .access import Usage, room, run, run_masked, with_identities
from .area import static_power_w
from .cuts import Cut, check_cuts, cut, doubles, table_of
from .energy import actions
from .holding import resting
from .live import DENSE, Live
from .masks import constants, masks_of
from .nest import Count, Dimension, Level, Loop, Nest, Operand, SizeTable, Work
from .operands import operands_in, with_generations
from .placement import BUFFERED, STEP, WHOLE, InnerLevels, Placed, in_series
from .programs import Use, program
from .work import cycles, greatest, total


@dataclass(frozen=True, slots=True)
class Cost:
    """What a block costs at many tile sizes at once."""

    latency_s: Count
    traffic_bytes: Count
    fits: Count


# Loops as (rank, loop), outermost first: those at each memory, and those on the axes.
Loops: TypeAlias = tuple[dict[str, list[tuple[str, str]]], list[tuple[str, str]]]
# What was built for an Einsum, by all that it depends on.
Built: TypeAlias = dict[Any, tuple[Nest, tuple[Use, ...], Live]]


class Ledger:
    """The closed forms of one placed block, ready for any tiles."""

    def __init__(self, placed: Placed, built: Built) -> None:
        self.placed, self.chip, self.block = placed, placed.chip, placed.block
        sizes, cascade = placed.sizes, placed.block.cascade
        self.batch = tuple(b for b in BATCH_RANKS if b in sizes and b not in cascade.rank_names)
        found = [self._counted(e, built) for e in self.block.einsums]
        self.nests = tuple(nest for nest, _, _ in found)
        self.uses = tuple(use for _, uses, _ in found for use in uses)
        self.live = {nest.einsum: live for nest, _, live in found if live != DENSE}
        self.known = {**constants(cascade, sizes), **sizes} if self.live else sizes

    @cached_property
    def limited(self) -> Mapping[str, float]:
        """Bandwidth of the memories that have one, and of the outermost in any case."""
        return {
            name: m.bandwidth_bytes_per_s
            for name, m in self.chip.memories.items()
            if m.bandwidth_bytes_per_s < math.inf or name == self.chip.outermost
        }

    def table(self, tiles: Mapping[str, Count]) -> SizeTable:
        """Return the sizes of all loops for some tiles: `P.2` over tiles, `P.1` over steps, `P.0` inside a step.

        Where a shelf keeps larger tiles, `P.2` steps over those of the home in one of the shelf, `P.3` over the latter,
        and so on outwards; where a bench keeps smaller ones, `P.1` steps over those and `P.1.L1` inside them. On an
        axis of length 128, shorter than others, a step takes `P.turns.128` turns of `P.axis.128`. A tile need not
        divide its rank, see cuts.py.
        """
        sizes: dict[str, Count] = {**self.known}
        cuts: list[Cut] = []
        for rank in self.block.ranks:
            tile = tiles[rank]
            step, *narrower = self.placed.widths(rank, tile)
            whole = self.placed.sizes[rank]
            edges = (tile, *self.placed.outer(rank, tiles))
            top = len(edges)
            found = {f"{rank}.{top + 1}": -(-whole // edges[-1])}
            found |= {f"{rank}.{i + 1}": edges[i] // edges[i - 1] for i in range(top - 1, 0, -1)}
            around = (tile, *self.placed.inner(rank, tiles), step)
            found |= {
                part: wide // narrow
                for part, (wide, narrow) in zip(
                    self.placed.steps[rank], itertools.pairwise(around), strict=True
                )
            }
            found[f"{rank}.0"] = step
            parts = [tuple(found)]
            for extent, width in zip(self.placed.extents[rank][1:], narrower, strict=True):
                turns, axis = f"{rank}.turns.{extent}", f"{rank}.axis.{extent}"
                found |= {turns: step // width, axis: width}
                parts.append((*parts[0][:-1], turns, axis))
            found = doubles(found)
            sizes |= found
            if any(np.any(whole % edge) for edge in edges):
                cuts += [cut(rank, whole, of, [found[p] for p in of]) for of in parts]
        return table_of(sizes, cuts)

    def refused(self, tiles: Mapping[str, int]) -> bool:
        """Tell whether some tiles, the last one of a rank shorter, would not be counted exactly; see cuts.py."""
        masked = {e: live.whole.own for e, live in self.live.items() if live.whole is not None}
        try:
            check_cuts(self.nests, self.uses, self.table(tiles), masked, "")
        except MappingError:
            return True
        return False

    def cost(self, sizes: SizeTable) -> Cost:
        """Return latency, traffic and whether it fits."""
        moved: dict[str, Count] = dict.fromkeys(self.limited, 0)
        for use in self.uses:
            if use.memory in moved:
                u = self._usage(use, sizes)
                moved[use.memory] = moved[use.memory] + (u.reads + u.updates + u.fills) * u.instances
        word = self.chip.word_bytes
        busy = self._busy(sizes) / self.chip.clock_hz
        waits = (n * word / self.limited[m] for m, n in moved.items())
        return Cost(greatest((busy, *waits)), moved[self.chip.outermost] * word, self.fits(sizes))

    def energy_j(self, sizes: SizeTable, latency_s: Count) -> Count:
        """Return the energy of the block."""
        usages = [self._usage(use, sizes) for use in self.uses]
        acts = actions(self.chip, self.nests, usages, sizes, self.live)
        return total(a.energy_j for a in acts) + static_power_w(self.chip) * latency_s

    def _usage(self, use: Use, sizes: SizeTable) -> Usage:
        live = self.live.get(use.einsum, DENSE)
        if live.whole is None:
            return run(use, sizes)
        return with_identities(run_masked(use, sizes, live.whole), use, sizes, live)

    def _busy(self, sizes: SizeTable) -> Count:
        """Return the cycles of the busiest array, or of all Einsums where none runs beside another."""
        lanes: dict[str, Count] = {}
        for nest in self.nests:
            lane = "" if in_series(self.block) else nest.array
            live = self.live.get(nest.einsum, DENSE)
            lanes[lane] = lanes.get(lane, 0) + cycles(nest, self.chip.arrays[nest.array], sizes, live)
        return greatest(lanes.values())

    def fits(self, sizes: SizeTable, *, loose: bool = False) -> Count:
        """Tell whether all that is held fits."""
        fits: Count = True
        benches = {b.memory for b in self.placed.benches}
        for name, memory in self.chip.memories.items():
            if name == self.chip.outermost and isinstance(self.chip, InnerLevels):
                continue
            if (not memory.of or name in benches) and memory.capacity_bytes < math.inf:
                held = self.held(name, sizes, loose=loose) * self.chip.word_bytes
                fits = fits & (held <= memory.capacity_bytes)
        return fits

    def held(self, memory: str, sizes: SizeTable, *, loose: bool = False) -> Count:
        """Return the words that a memory holds; loosely: as if a step were a single element.

        One of the whole chip holds what all Einsums of the block need, one of an array serves one after another.
        """
        if self.chip.memories[memory].of:
            return greatest([0, *(self._held_for(e.name, memory, sizes) for e in self.block.einsums)])
        extents = self.placed.hold if memory == self.placed.home else {}
        bench = next((b for b in self.placed.benches if b.memory == memory), None)
        if bench:
            extents = self.placed.on_bench(bench)
        shelf = next((s for s in self.placed.shelves if s.memory == memory), None)
        tiles: dict[str, Count] = dict(shelf.whole) if shelf else {}
        if shelf:
            tiles[""] = shelf.reserved
        for use, held in resting(u for u in self.uses if u.memory == memory):
            tensor = use.operand.tensor
            if tensor not in extents:
                tiles[tensor] = greatest((tiles.get(tensor, 0), room(held, sizes.full)))
        stated = (self._extent(extent, sizes, loose) for extent in extents.values())
        return total((*tiles.values(), *stated))

    def _held_for(self, einsum: str, memory: str, sizes: SizeTable) -> Count:
        here = (u for u in self.uses if u.memory == memory and u.einsum == einsum)
        tiles: dict[str, Count] = {}
        for use, held in resting(here):
            tensor = use.operand.tensor
            tiles[tensor] = greatest((tiles.get(tensor, 0), room(held, sizes.full)))
        return total(tiles.values())

    def _extent(self, extent: Mapping[str, int], sizes: SizeTable, loose: bool) -> Count:
        out: Count = 1
        for rank, how in extent.items():
            if loose and how == STEP:
                continue
            out = out * sizes.full[self.parts(rank, how)]
        return out

    def parts(self, rank: str, how: int) -> tuple[str, ...]:
        """Return the loops over a rank up to some extent."""
        if rank not in self.block.ranks:
            return (rank,)
        top = how + len(self.placed.shelves) * (how == WHOLE and rank in self.block.order)
        outside = tuple(f"{rank}.{level}" for level in range(top, BUFFERED, -1))
        return (*outside, *(self.placed.steps[rank] if how > STEP else ()), f"{rank}.0")

    def _counted(self, einsum: Einsum, built: Built) -> tuple[Nest, tuple[Use, ...], Live]:
        array = self.placed.arrays[einsum.name]
        looped = loops(self.placed, einsum)
        keep = {m: by[einsum.name] for m, by in self.placed.keep.items() if einsum.name in by}
        hierarchy = self.chip.hierarchy(array)
        operands = self._operands(einsum)
        kept = [tuple(m for m in hierarchy if o.tensor in keep.get(m, ())) for o in operands]
        names = tuple((o.tensor, o.carried) for o in operands)
        time = tuple((memory, tuple(of)) for memory, of in looped[0].items())
        key = (einsum.name, array, self.placed.home, time, tuple(looped[1]), names, tuple(kept))
        if key not in built:
            nest = self._nest(einsum, array, looped, kept)
            live = masks_of(self.block.given, self.block.originals[einsum.name], nest, self.placed.sizes)
            built[key] = nest, program(nest), live
        return built[key]

    def _operands(self, einsum: Einsum) -> tuple[Operand, ...]:
        keep = self.placed.keep
        common = [name for name, memory in self.chip.memories.items() if not memory.of]
        return with_generations(
            self.block.cascade,
            einsum,
            operands_in(self.block.cascade, einsum),
            common,
            lambda memory, writer, tensor: tensor in keep.get(memory, {}).get(writer, ()),
        )

    def _nest(self, einsum: Einsum, array: str, looped: Loops, kept: Sequence[tuple[str, ...]]) -> Nest:
        time, axes = looped
        outermost = self.chip.outermost
        time = {**time, outermost: [*((b, b) for b in self.batch), *time[outermost]]}
        hierarchy = self.chip.hierarchy(array)
        elements = next((i for i, m in enumerate(hierarchy) if self.chip.memories[m].per_element), None)
        at = (len(hierarchy) if elements is None else elements) - 1
        space = tuple((_loop(r, p),) for r, p in axes)
        levels = tuple(
            Level(
                m,
                tuple(_loop(r, p) for r, p in time.get(m, ())),
                space if i == at else (),
            )
            for i, m in enumerate(hierarchy)
        )
        around = tuple(Dimension(((variable_of(b), 1),)) for b in self.batch)
        operands = tuple(
            replace(o, dimensions=(*around, *o.dimensions), kept=memories)
            for o, memories in zip(self._operands(einsum), kept, strict=True)
        )
        work = []
        for a in einsum.actions:
            over = {*map(variable_of, self.batch), *a.variables}
            steps = tuple(loop.part for level in levels for loop in level.time if loop.variable in over)
            wide = tuple(loop.part for level in levels for loop in level.fan_out if loop.variable in over)
            work.append(Work(a.op, a.count, steps, wide))
        return Nest(einsum.name, array, levels, operands, tuple(work))


def _loop(rank: str, part: str) -> Loop:
    return Loop(variable_of(rank), part)


def loops(placed: Placed, einsum: Einsum) -> Loops:
    """Return the loops of an Einsum as (rank, loop), outermost first: those at each memory, and those on the axes.

    The memories outside the home step over tiles. Inside a tile stand the loops that are shared, then results before
    reductions, so that a sum is done in one go; of either kind those that move a tensor which goes past the memory
    stand outside, so that it comes as rarely as can be. Where none goes past it, the loop along which the registers
    change least stands innermost.
    """
    block = placed.block
    found = [rank_of(v) for v in einsum.variables]
    output = {rank_of(v) for v in einsum.output_variables}
    past = (a for a in (*einsum.reads, einsum.target) if a.tensor in block.direct)
    moving = {rank_of(v) for a in past for i in a.indices for v in variables(i)}
    ranks = [r for r in (*block.shared, *found) if r in found and r in block.ranks]
    ranks = list(dict.fromkeys(ranks))
    outside = (*(shelf.memory for shelf in placed.shelves), placed.chip.outermost)
    orders = (block.order, *(shelf.order for shelf in placed.shelves))
    time = {
        memory: [(r, f"{r}.{level}") for r in order if r in found]
        for level, (memory, order) in enumerate(zip(outside, orders, strict=True), start=2)
    }
    memory = placed.home or placed.chip.outermost
    for level, bench in enumerate((None, *placed.benches)):
        if bench is not None and bench.memory in placed.chip.hierarchy(placed.arrays[einsum.name]):
            memory = bench.memory
        last = level == len(placed.benches)
        here = [(r, placed.steps[r][level]) for r in ranks if r in block.shared]
        for summed in (False, True):
            of = sorted((r for r in found if (r not in output) == summed), key=lambda r: r not in moving)
            own = [r for r in of if r in block.ranks and r not in block.shared]
            here += [(r, placed.steps[r][level]) for r in own]
            if last:
                here += [(r, f"{r}.2") for r in own if r not in block.order]
                here += [(r, r) for r in of if r not in block.ranks]
                here += [(r, turns) for r in of if r in block.ranks and (turns := _turns(placed, einsum, r))]
        if last:
            here = _stationary(placed, einsum, here)
        elif placed.benches[level].order:
            here.sort(key=lambda loop: placed.benches[level].order.index(loop[0]))
        time.setdefault(memory, []).extend(here)
    space = [(r, _on_axis(placed, einsum, r)) for r in placed.axes[einsum.name]]
    return time, space


def _stationary(placed: Placed, einsum: Einsum, here: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the loops of a tile with those inside along which fewer words of the registers change at each step.

    Without that a matrix on the elements of an array may be fetched anew in every cycle while a vector stands still.
    """
    block = placed.block
    own = [loop for loop in here if loop[0] not in block.shared]
    if block.direct or any(r.into for r in einsum.reductions):
        return list(here)
    changed = dict.fromkeys((r for r, _ in own), 0)
    for ranks, count in _register_words(placed, einsum):
        for r in changed.keys() & ranks:
            changed[r] += count
    shared = [loop for loop in here if loop[0] in block.shared]
    return [*shared, *sorted(own, key=lambda loop: -changed[loop[0]])]


def _register_words(placed: Placed, einsum: Einsum) -> Iterator[tuple[set[str], int]]:
    """Yield the ranks of each operand that the elements keep, and the words of it that they exchange in a step.

    A sum that is not made in one go is fetched and written back.
    """
    memories = placed.chip.memories
    kept = {
        t
        for memory, of in placed.keep.items()
        if memories[memory].per_element
        for t in of.get(einsum.name, ())
    }
    lie = {r: min(placed.extent(einsum.name, r), placed.sizes[r]) for r in placed.axes[einsum.name]}
    found = {rank_of(v) for v in einsum.variables}
    output = {rank_of(v) for v in einsum.output_variables}
    summed = any(placed.sizes[r] > lie.get(r, 1) for r in found - output)
    for access in dict.fromkeys((*einsum.reads, einsum.target)):
        if access.tensor in kept and access.tensor not in placed.passed:
            ranks = {rank_of(v) for i in access.indices for v in variables(i)}
            count = math.prod(n for r, n in lie.items() if r in ranks)
            yield ranks, count * (2 if access is einsum.target and summed else 1)


def _on_axis(placed: Placed, einsum: Einsum, rank: str) -> str:
    extent = placed.extent(einsum.name, rank)
    return f"{rank}.0" if extent == placed.extents[rank][0] else f"{rank}.axis.{extent}"


def _turns(placed: Placed, einsum: Einsum, rank: str) -> str:
    """Return the loop over what of a step does not lie on the axes, or the empty string."""
    if rank not in placed.axes[einsum.name]:
        return f"{rank}.0"
    extent = placed.extent(einsum.name, rank)
    return f"{rank}.turns.{extent}" if extent < placed.extents[rank][0] else ""
