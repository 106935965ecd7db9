"""Which Einsums of a cascade share a kernel: as few in memory as pays by the tile model itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import MappingError, nearest

from ...hardware.gpu import Gpu
from ..efficiency import Efficiency
from .case import Case
from .groups import Group, Groups, graph_of, of_names
from .kernels import Able, Kernel, Layer, Search
from .least import Least

# Less of a gain is none: a millionth, above what sums of floating-point numbers differ by.
_GAIN = 1e-6
# By as much sums in another order may differ.
_ROUNDING = 1e-9
# Units of a run of the text that are tried as one kernel.
_LONGEST_RUN = 12
# Units that a kernel is offered at once to compute again: scores, their weights and what both are changed by.
_MOST_AGAIN = 5


class Planner:
    """Chooses the kernels of a cascade on a GPU; `layer` has laid them.

    Args:
        by: constants of all kernels.
        able: which tilings there may be, if not all.
    """

    def __init__(self, case: Case, gpu: Gpu, dtype: str, *, by: Efficiency, able: Able | None = None) -> None:
        """See the class."""
        self.case, self.graph, self.gpu = case, graph_of(case.cascade), gpu
        self.dtype, self.by = dtype, by
        self._searched: dict[Groups, list[Search] | None] = {}
        self.layer = Layer(case, self.graph, gpu, dtype, by=by, able=able)

    def of(self, cascade: Cascade, sizes: Mapping[str, int], dtype: str) -> bool:
        """Tell whether it plans this very cascade, at these sizes and in this type."""
        return self.case.cascade is cascade and self.case.sizes == sizes and self.dtype == dtype

    def apart(self) -> list[Kernel]:
        """Return one kernel a unit, as a framework runs them that fuses nothing."""
        return self._kernels(self.graph.alone())

    def together(self) -> list[Kernel]:
        """Return kernels joined, and what they share computed again in each, as long as that is predicted to be faster.

        Steps are taken one by one, so that one may stand in the way of a better one. They are taken from several
        places: from every unit alone, with the largest tensors kept out of memory first, or the smallest, or those that
        the text has first; from the best of all ways to cut into runs an order in which they can run; from what sums
        leave smaller than what they read of, as all that is in memory; and from the whole text, where that beats all of
        these. At the end two that do not read each other are tried as one.
        """
        edges, alone = list(self._edges()), self.graph.alone()
        orders = (edges, edges[::-1], sorted(edges, key=lambda e: e[::-1]))
        tried = [self._improved(alone, order) for order in orders]
        starts = dict.fromkeys([*map(self._runs, self.graph.orders), self.graph.kept(self._shrunk())])
        tried += [self._improved(start, edges) for start in starts]
        best = min(tried, key=self._seconds)
        whole = (Group(frozenset(range(len(self.graph.units)))),)
        least = self._seconds(best)
        if self._seconds(whole, below=least * (1 - _GAIN)) < least * (1 - _GAIN):
            best = self._improved(whole, edges)
        return self._kernels(self._mixed(best, edges))

    def _mixed(self, groups: Groups, edges: Sequence[tuple[int, int]]) -> Groups:
        """Return groups that no step makes faster, nor two of them as one or a unit in another one.

        No edge leads from one to the other where neither reads the other: what runs beside each other costs one launch,
        and what both read is read once.
        """
        least = self._seconds(groups)
        while True:
            for tried in self._elsewhere(groups):
                if self._seconds(tried, below=least * (1 - _GAIN)) < least * (1 - _GAIN):
                    groups = self._improved(tried, edges)
                    least = self._seconds(groups)
                    break
            else:
                return groups

    def _elsewhere(self, groups: Groups) -> Iterator[Groups]:
        """Yield groups of which two are one, then those in which one unit is of another group."""
        for pair in itertools.combinations(range(len(groups)), 2):
            yield self.graph.joined(groups, pair)
        for at, group in enumerate(groups):
            for unit in sorted(group.own) if len(group.own) > 1 else ():
                for to in range(len(groups)):
                    if to != at:
                        yield self.graph.moved(groups, unit, to)

    def _shrunk(self) -> list[int]:
        """Return the units that reduce what they read to no more than that; and iterate blocks, which run as a whole.

        Scores are more than the queries and keys that they are made from, and maxima and sums less than scores.
        """
        found = []
        for i, unit in enumerate(self.graph.units):
            einsum = unit.einsums[0]
            read = max((self._elements(a.tensor) for a in einsum.reads), default=0)
            if unit.loop or (einsum.reduced and self._elements(einsum.name) <= read):
                found.append(i)
        return found

    def _runs(self, order: Sequence[int]) -> Groups:
        """Return the fastest groups of units that follow each other in an order of them, among all of them."""
        least: list[tuple[float, Groups]] = [(0.0, ())]
        for end in range(1, len(self.graph.units) + 1):
            starts = range(max(0, end - _LONGEST_RUN), end)
            last = {start: self._run(order[start:end]) for start in starts}
            best, at = math.inf, end - 1
            for start in sorted(starts, key=lambda i: least[i][0] + last[i].floor):
                before = least[start][0]
                found = before + last[start].within(best - before - self.by.launch_s) + self.by.launch_s
                if (found, start) < (best, at):
                    best, at = found, start
            least.append((best, (*least[at][1], Group(frozenset(order[at:end])))))
        return least[-1][1]

    def _run(self, units: Sequence[int]) -> Search:
        """Return the search for the kernel of some units, which writes what anybody outside of it reads."""
        group = Group(frozenset(units))
        rest = [Group(frozenset((i,))) for i in range(len(self.graph.units)) if i not in group.own]
        return self.layer.fastest(group.units, self.graph.written((group, *rest))[0])

    def given(self, names: Sequence[Sequence[str]]) -> list[Kernel]:
        """Return the kernels that somebody has chosen, each by the names of its Einsums; the others stay alone.

        An Einsum of several kernels is computed in each; the first of them writes it, where somebody reads it.

        Raises:
            MappingError: a name that no Einsum has or that a kernel has twice, or a kernel that there cannot be.
        """
        for group in names:
            for i, name in enumerate(group):
                if name not in self.graph.writers:
                    raise MappingError(f"kernels: no Einsum '{name}'; {nearest(name, self.graph.writers)}")
                if name in group[:i]:
                    raise MappingError(f"kernels: {'+'.join(group)}: '{name}' stands twice in it")
        groups = of_names(self.graph, names)
        self._require_order(groups, names)
        for group, made in zip(names, self._laid(groups), strict=False):
            if made is None:
                raise MappingError(
                    f"kernels: {'+'.join(group)}: no block can hold what passes between them; expected "
                    f"{self.layer.most} at the most"
                )
        return self._kernels(groups)

    def _require_order(self, groups: Groups, names: Sequence[Sequence[str]]) -> None:
        """Refuse groups that wait for each other, and say which cannot be even alone."""
        for name, group in zip(names, groups, strict=False):
            others = (g for g in self.graph.alone() if not g.own & group.own)
            if self.graph.in_order((group, *others)) is None:
                raise MappingError(
                    f"kernels: {'+'.join(name)}: what stands between two of them is in another kernel"
                )
        if self.graph.in_order(groups) is None:
            raise MappingError(
                "kernels: two of them wait for each other; expected an order in which they can run"
            )

    def _laid(self, groups: Groups) -> list[Kernel | None]:
        written = self.graph.written(groups)
        return [self.layer.kernel(g.units, w) for g, w in zip(groups, written, strict=True)]

    def _kernels(self, groups: Groups) -> list[Kernel]:
        """Return the kernels of groups in the order in which they run.

        Raises:
            MappingError: of one of them there is none, because no tiling of it may be.
        """
        ordered = self.graph.in_order(groups)
        assert ordered is not None
        out = []
        for group, kernel in zip(ordered, self._laid(ordered), strict=True):
            if kernel is None:
                names = ", ".join(sorted(self.graph.names(group.units)))
                raise MappingError(f"{names}: no tile of its kernel is one that may be used")
            out.append(kernel)
        return out

    def _seconds(self, groups: Groups, *, below: float = math.inf) -> float:
        """Return what groups take if that is below something, else less, but not below it; infinite if impossible."""
        if groups not in self._searched:
            self._searched[groups] = self._searches(groups)
        searches = self._searched[groups]
        if searches is None:
            return math.inf
        total = sum(self.by.launch_s + s.floor for s in searches)
        below *= 1 + _ROUNDING
        # The floors are raised first, each as far as is cheap.
        for rise in (Least.raised, Least.within):
            for search in sorted(searches, key=lambda s: s.floor, reverse=True):
                if total >= below:
                    return total
                before = search.floor
                total += rise(search, below - total + before) - before
        return sum(self.by.launch_s + s.floor for s in searches)

    def _searches(self, groups: Groups) -> list[Search] | None:
        """Return the search for the kernel of each group; None where two of them wait for each other."""
        if self.graph.in_order(groups) is None:
            return None
        written = zip(groups, self.graph.written(groups), strict=True)
        return [self.layer.fastest(g.units, w) for g, w in written]

    def _improved(self, groups: Groups, edges: Sequence[tuple[int, int]]) -> Groups:
        """Return groups that no step along an edge from a writer to a reader makes faster, in the order of the edges.

        Groups are joined first, then asked what they had better compute again, what rather read after all, and where
        they had better be cut, which may make way for another join.
        """
        least = self._seconds(groups)
        steps = (self._joined, self._repeated, self._read, self._cut)
        while True:
            before = least
            for step in steps:
                changed = True
                while changed:
                    changed = False
                    for edge in edges:
                        for tried in step(groups, *edge):
                            found = self._seconds(tried, below=least * (1 - _GAIN))
                            if found < least * (1 - _GAIN):
                                groups, least, changed = tried, found, True
                                break
            if least == before:
                return groups

    def _joined(self, groups: Groups, writer: int, reader: int) -> Iterator[Groups]:
        """Yield groups in which writer and reader share one, then all that read what the writer's group makes.

        Then those in which the writer's group shares one with another that the reader reads of.
        """
        owner = {i: place for place, g in enumerate(groups) for i in g.own}
        if writer not in owner or reader not in owner or owner[writer] == owner[reader]:
            return
        at = owner[writer]
        yield self.graph.joined(groups, (at, owner[reader]))
        made = self.graph.names(groups[at].own)
        readers = [i for i, g in enumerate(groups) if i != at and self.graph.read(g) & made]
        if len(readers) > 1:
            yield self.graph.joined(groups, (at, *readers))
        wanted = self.graph.read(groups[owner[reader]])
        for i, group in enumerate(groups):
            if i not in (at, owner[reader]) and self.graph.names(group.own) & wanted:
                yield self.graph.joined(groups, (at, i))

    def _repeated(self, groups: Groups, writer: int, reader: int) -> Iterator[Groups]:
        """Yield groups in which a reader computes for itself what it reads, and more and more of what that needs.

        Beside what its kernel computes again so far, or in place of that: a maximum that it reads leaves it one pass.
        """
        for place, group in enumerate(groups):
            if reader not in group.units or writer in group.units:
                continue
            taken = frozenset((writer,))
            for _ in range(_MOST_AGAIN):
                yield self.graph.repeated(groups, place, taken)
                if group.again:
                    yield self.graph.repeated(groups, place, taken, instead=True)
                read = self.graph.read(Group(taken)) - self.graph.names(group.units)
                if not read:
                    break
                # Of equal ones the first of the text: no set says in which order it gives what it holds.
                next_one = max(read, key=lambda n: (self._elements(n), -self.graph.writers[n]))
                taken |= {self.graph.writers[next_one]}

    def _read(self, groups: Groups, writer: int, reader: int) -> Iterator[Groups]:
        """Yield groups in which a reader reads what its kernel has computed again so far, or all of that.

        Then those in which who reads what the reader makes computes it again from the same: one step alone may not pay.
        """
        for place, group in enumerate(groups):
            if reader in group.units and writer in group.again:
                for left in dict.fromkeys((group.again - {writer}, frozenset())):
                    read = self.graph.repeated(groups, place, left, instead=True)
                    yield read
                    yield self._everywhere(read, reader)

    def _everywhere(self, groups: Groups, unit: int) -> Groups:
        """Return groups in which each that reads what a unit makes computes it again."""
        made = self.graph.units[unit].names
        while True:
            readers = (i for i, g in enumerate(groups) if unit not in g.units and self.graph.read(g) & made)
            place = next(readers, None)
            if place is None:
                return groups
            groups = self.graph.repeated(groups, place, frozenset((unit,)))

    def _cut(self, groups: Groups, writer: int, reader: int) -> Iterator[Groups]:
        """Yield groups of which the one that writer and reader share is cut between them.

        What both halves need is written by the first, or made by both.
        """
        for place, group in enumerate(groups):
            if writer in group.own and reader in group.own:
                yield self.graph.cut(groups, place, writer)
                yield self.graph.cut(groups, place, writer, again=True)

    def _edges(self) -> Iterator[tuple[int, int]]:
        """Yield writer and reader of every tensor between units, the largest first."""
        for _, writer, reader in sorted(self.graph.edges(), key=lambda e: (-self._elements(e[0]), e[2])):
            yield writer, reader

    def _elements(self, tensor: str) -> int:
        return math.prod(self.case.sizes[r] for r in self.case.cascade.signatures[tensor].ranks)
