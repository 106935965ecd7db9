"""A mapped cascade executed step by step with buffers as large as the mapping says: the oracle of what a mapping holds.

The walk knows loops and who reads what, but no formula: Einsums of a phase share a loop as long as they name the same
one and nobody needs what another has not finished. Every tensor has a buffer of the words that the mapping keeps of
it, and loses what was used longest ago. A word that is neither in the buffer nor in the outermost memory is an error;
words that have to come from there, or go there, are counted.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, OrderedDict

import numpy as np

from einsum_cascade.declarations import rank_of, variable_of
from einsum_cascade.expr import Num, Size, Var, variables
from simulator.spatial import access
from simulator.spatial.access import words
from simulator.spatial.model import plan
from simulator.spatial.recompute import with_copies


class MissingWordError(AssertionError):
    """A word that somebody reads and nobody has any more."""


class Walk:
    """Runs a mapping; `reads` and `writes` count the words that pass the outermost memory, by (Einsum, tensor)."""

    def __init__(self, cascade, sizes, chip, mapping):
        self.plan = plan(cascade, sizes, chip, mapping)
        self.cascade = with_copies(cascade, mapping.nest.recompute)
        self.chip, self.layout = chip, self.plan.layout
        # Loops run over full tiles; values beyond the end of a rank are left out.
        self.sizes = getattr(self.plan.sizes, "padded", self.plan.sizes)
        self.nests = {n.einsum: n for n in self.layout.nests}
        self.einsums = {e.name: e for e in self.cascade.einsums}
        self.blocks = {e: self.cascade.block_of(e) for e in self.einsums}
        self.loops = {e: [x for x in n.time if self.sizes[x.part] > 1] for e, n in self.nests.items()}
        self.ready = {}
        self.reads, self.writes, self.written = Counter(), Counter(), set()
        self.stored = {s.tensor for s in self.cascade.inputs}
        self.initial = {e.name for e in self.cascade.initial}
        order = list(mapping.nest.nests)  # the mapper writes them in order of execution
        stays = {}
        for phase in mapping.binding.phases:
            names = [e for e in order if self.layout.phase_of[e] == phase]
            self.room = {t: self._room(t, names) for n in names for t in self._tensors(n)}
            self.buffers = {t: stays.pop(t, OrderedDict()) for t in self.room}
            for tensor, buffer in self.buffers.items():
                while len(buffer) > self.room[tensor]:
                    self._evict(tensor, buffer)
            self._run(names, 0, {})
            later = order[max(order.index(e) for e in names) + 1 :]
            for tensor, buffer in self.buffers.items():
                left = OrderedDict.fromkeys(buffer, "")  # what goes outside stays as well
                while buffer:
                    self._evict(tensor, buffer)
                if self._waits(tensor, later):
                    stays[tensor] = left

    def _waits(self, tensor, later):
        """Tell whether the next phase that reads a tensor finds it on the chip."""
        kept = (o.kept for e in later for o in self.nests[e].operands if o.tensor == tensor)
        return self.chip.outermost not in next(kept, (self.chip.outermost,))

    def _tensors(self, name):
        return {o.tensor for o in self.nests[name].operands}

    def _room(self, tensor, names):
        """Words of the buffer of a tensor: its tile in the memories of the chip, or what the elements hold."""
        homes = [n for n, m in self.chip.memories.items() if not m.of and n != self.chip.outermost]
        found = 0
        for phase_tiles in (g for h in homes for g in self._groups(h, names)):
            found = max(found, phase_tiles.get(tensor, 0))
        spread = [
            math.prod(self.sizes[x.part] for x in (*n.space, *self._inside(n)) if x.variable in o.variables)
            for n in (self.nests[e] for e in names)
            for o in n.operands
            if o.tensor == tensor
        ]
        generations = (
            2 if tensor in self.cascade.states else 1
        )  # the new one beside the one that is being read
        return max(found, *spread) * generations

    def _inside(self, nest):
        """Loops over what one element works through by itself, from words in its registers."""
        return [
            x for level in nest.levels if self.chip.memories[level.memory].per_element for x in level.time
        ]

    def _groups(self, home, names):
        uses = [u for u in self.layout.uses if u.memory == home and u.einsum in names]
        stated = self.plan.mapping.binding.hold.get(self.layout.phase_of[names[0]], {}).get(home, {})
        out = {}
        for u in uses:
            t = u.operand.tensor
            size = (
                self.plan.sizes.full[tuple(stated[t])] if t in stated else words(u.tile, self.plan.sizes.full)
            )
            out[t] = max(out.get(t, 0), size)
        yield out

    def _run(self, names, depth, at):
        if len(names) == 1:
            loops = self.loops[names[0]][depth:]
            for step in itertools.product(*(range(int(self.sizes[x.part])) for x in loops)):
                self._step(names[0], at | {x.part: i for x, i in zip(loops, step, strict=True)})
            return
        for run in self._runs(names, depth):
            if len(run) == 1:
                self._run(run, depth, at)
            else:
                part = self.loops[run[0]][depth].part
                for i in range(int(self.sizes[part])):
                    self._run(run, depth + 1, at | {part: i})

    def _runs(self, names, depth):
        """Cut Einsums into runs that share the next loop; what is computed again runs with its first reader."""
        out, waiting = [], []
        for name in names:
            waiting.append(name)
            if name in self.plan.mapping.nest.recompute and name != names[-1]:
                continue
            if not out or not all(self._joins(n, out[-1], depth) for n in waiting):
                out.append([])
            for n in waiting:
                if out[-1] and not self._joins(n, out[-1], depth):
                    out.append([])
                out[-1].append(n)
            waiting = []
        return out

    def _joins(self, name, run, depth):
        mine, theirs = (self.loops[n][depth : depth + 1] for n in (name, run[0]))
        if not mine or mine != theirs:
            return False
        for writer in run:
            key = name, writer, mine[0].variable
            if key not in self.ready:
                self.ready[key] = self._ready(*key)
        return all(self.ready[name, w, mine[0].variable] for w in run)

    def _ready(self, reader, writer, variable):
        """Tell whether what a reader needs of a writer is there within one step of a loop."""
        same_block = self.blocks[reader] == variable == self.blocks[writer]
        target = self.einsums[writer].target
        for a in self.einsums[reader].reads:
            before = writer in self.cascade.states and self.cascade.reads_previous(a)
            if a.tensor == writer and not same_block and not before:
                pairs = [p for p in zip(target.indices, a.indices, strict=True) if variable in
                         {v for i in p for v in variables(i)}]  # fmt: skip
                if not pairs or any(w != r for w, r in pairs):
                    return False
        return True

    def _step(self, name, at):
        nest, einsum = self.nests[name], self.einsums[name]
        ranges = {v: self._values(rank_of(v), nest, at) for v in einsum.variables}
        grid = [dict(zip(ranges, point, strict=True)) for point in itertools.product(*ranges.values())]
        kept = {o.tensor: o.kept for o in nest.operands}
        for tensor, indices in dict.fromkeys((a.tensor, a.indices) for a in einsum.reads):
            for place in dict.fromkeys(self._place(indices, p) for p in grid):
                self._read(name, tensor, place, kept[tensor])
        for place in dict.fromkeys(self._place(einsum.target.indices, p) for p in grid):
            self._write(name, place, kept[name])

    def _values(self, rank, nest, at):
        """Values of a rank's variable in a step: its loops fix some digits, the axes run over others."""
        parts = self.layout.ranks.parts.get(rank)
        looped = {x.part for x in (*nest.time, *nest.space) if x.variable == variable_of(rank)}
        parts = [rank] if not parts or rank in looped else [p for p in parts if p in looped]
        wide = {x.part for x in nest.space}
        values = np.zeros(1, dtype=int)
        for part in parts:
            size = int(self.sizes[part])
            digits = np.arange(size) if part in wide else np.array([at.get(part, 0)])
            values = (values[:, None] * size + digits).ravel()
        return values[values < self.sizes[rank]].tolist()

    def _place(self, indices, point):
        return tuple(self._index(i, point) for i in indices)

    def _index(self, index, point):
        if isinstance(index, Num):
            return index.value
        if isinstance(index, Var):
            return point[index.name]
        if isinstance(index, Size):
            return int(self.sizes[index.name])
        a, b = (self._index(x, point) for x in index.args)
        return {"+": a + b, "-": a - b, "*": a * b}[index.op]

    def _read(self, name, tensor, place, kept):
        buffer = self.buffers[tensor]
        if place in buffer:
            buffer.move_to_end(place)
            return
        started = tensor in self.initial and place[self.cascade.signatures[tensor].state] == 0
        if started:
            return
        if self.chip.outermost not in kept:
            raise MissingWordError(f"{name} reads {tensor}{list(place)}, which is on the chip no more")
        self.reads[name, tensor] += 1
        self._insert(tensor, place, name="")

    def _write(self, name, place, kept):
        buffer = self.buffers[name]
        outside = self.chip.outermost in kept
        needed = any(name in {a.tensor for a in e.reads} for e in self.einsums.values())
        if place not in buffer and (name, place) in self.written and not outside and needed:
            raise MissingWordError(f"{name}{list(place)} is not finished and on the chip no more")
        if place not in buffer and (name, place) in self.written and outside:
            self.reads[name, name] += 1
        self.written.add((name, place))
        self._insert(name, place, name if outside else "")

    def _insert(self, tensor, place, name):
        buffer = self.buffers[tensor]
        buffer[place] = name or buffer.get(place, "")
        buffer.move_to_end(place)
        self._overwrite(tensor, place, buffer)
        while len(buffer) > self.room[tensor]:
            self._evict(tensor, buffer)

    def _overwrite(self, tensor, place, buffer):
        """A state is updated in place: what was before the generation before is gone, and needs no room.

        Where its tile extends over all generations, none of them goes.
        """
        axis = self.cascade.signatures[tensor].state
        if axis is not None and not self._all_generations(tensor, axis):
            old = tuple(i - 2 if a == axis else i for a, i in enumerate(place))
            buffer.pop(old, None)

    def _all_generations(self, tensor, axis):
        rank = self.cascade.signatures[tensor].ranks[axis]
        own = {rank, *self.layout.ranks.parts.get(rank, ())}
        held = (of.get(tensor, ()) for by in self.plan.mapping.binding.hold.values() for of in by.values())
        return any(own & set(parts) for parts in held)

    def _evict(self, tensor, buffer):
        _, writer = buffer.popitem(last=False)
        if writer:
            self.writes[writer, tensor] += 1


def check_moved(walk):
    """A walk moves no more past the outermost memory than the simulator counts, of any tensor, for any Einsum."""
    claimed = {}
    for use in (u for u in walk.layout.uses if u.memory == walk.chip.outermost):
        counted = access.run(use, walk.plan.sizes)
        reads, writes = claimed.get((use.einsum, use.operand.tensor), (0, 0))
        claimed[use.einsum, use.operand.tensor] = reads + counted.reads, writes + counted.updates
    for key, (reads, writes) in claimed.items():
        assert walk.reads[key] <= reads and walk.writes[key] <= writes, key
