"""The oracle of masked counts: every point of a small nest listed with its mask, every tile held in a set."""

from __future__ import annotations

import itertools
import math
from collections import Counter


class Walk:
    """All steps of a nest with the coordinates of their points, and which of the points exist.

    A step is a setting of all temporal loops; it holds one point for every setting of the spatial loops.
    """

    def __init__(self, nest, sizes, exists):
        self.nest, self.sizes = nest, sizes
        self.loops = [(loop, level, False) for level, at in enumerate(nest.levels) for loop in at.time]
        self.loops += [(loop, level, True) for level, at in enumerate(nest.levels) for loop in at.fan_out]
        # a coordinate is written in the digits of its loops, level by level, temporal before spatial
        self.order = sorted(range(len(self.loops)), key=lambda k: (self.loops[k][1], self.loops[k][2]))
        self.live = {}
        for setting in itertools.product(*(range(sizes[loop.part]) for loop, _, _ in self.loops)):
            self.live[setting] = bool(exists(self.point(setting)))

    def point(self, setting):
        """The value of every variable."""
        out = {}
        for k in self.order:
            loop = self.loops[k][0]
            out[loop.variable] = out.get(loop.variable, 0) * self.sizes[loop.part] + setting[k]
        return out

    def steps(self):
        """Temporal settings in which some element has a point."""
        time = sum(not spatial for _, _, spatial in self.loops)
        return sorted({setting[:time] for setting, live in self.live.items() if live})

    def points(self):
        return sum(self.live.values())

    def counts(self, operand):
        """Reads, fills and updates of each memory that keeps an operand, as a loop nest with guarded bodies does them.

        A transfer stands in the innermost loop, outside the memory that receives, that moves the tensor; it happens
        when a step inside is done.
        """
        levels = [level.memory for level in self.nest.levels]
        kept = [i for i, memory in enumerate(levels) if memory in operand.kept]
        out = {}
        for position, i in enumerate(kept):
            last = position + 1 == len(kept)
            child = len(levels) if last else kept[position + 1]
            counts = Counter()
            words, new = self._moved(operand, child, range(i, child), every=last)
            own, first = self._moved(operand, i, range(0), every=False)
            if position == 0:
                own = first = 0
            if operand.output:
                counts.update(updates=words, reads=words - new, fills=own - first)
            else:
                counts.update(reads=words, fills=own)
            out[levels[i]] = counts
        return out

    def _moved(self, operand, child, fan_out, *, every):
        """Words that reach the instances of a memory below one instance, and how many of them are different."""
        outside = [k for k, (_, level, spatial) in enumerate(self.loops) if level < child and not spatial]
        moves = [
            k
            for k in outside
            if self.loops[k][0].variable in operand.variables and self.sizes[self.loops[k][0].part] > 1
        ]
        if not every:
            outside = [k for k in outside if moves and k <= moves[-1]]
        places = [k for k, (_, level, spatial) in enumerate(self.loops) if spatial and level in fan_out]
        above = [k for k, (_, level, spatial) in enumerate(self.loops) if spatial and level < child]
        tiles = {}
        for setting, live in self.live.items():
            if live:
                tiles.setdefault(tuple(setting[k] for k in outside), setting)
        words, seen = 0, set()
        for setting in tiles.values():
            tile = self._tile(
                operand, setting, {*self._inside(child), *places}, zero=set(above) - set(places)
            )
            words += len(tile)
            seen |= tile
        return words, len(seen)

    def _inside(self, level):
        return [k for k, (_, at, _) in enumerate(self.loops) if at >= level]

    def _tile(self, operand, setting, free, zero):
        ranges = [
            range(self.sizes[loop.part]) if k in free else [0 if k in zero else setting[k]]
            for k, (loop, _, _) in enumerate(self.loops)
        ]
        found = set()
        for chosen in itertools.product(*ranges):
            point = self.point(chosen)
            found.add(tuple(point.get(v, 0) for d in operand.dimensions for v, _ in d.terms))
        return found

    def dense_steps(self):
        return math.prod(self.sizes[loop.part] for loop, _, spatial in self.loops if not spatial)
