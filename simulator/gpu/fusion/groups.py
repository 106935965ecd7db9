"""Groups of units that share a kernel: what each writes for the others, what nobody needs, in which order they run."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from einsum_cascade.cascade import Cascade
from einsum_cascade.expr import Access

from .orders import orders_of
from .structure import Structure, Unit, readings_of, structure_of, units_of


@dataclass(frozen=True, slots=True)
class Group:
    """Units of one kernel, by their place in the text.

    Attributes:
        own: those whose tensors it writes where another group reads them; each unit is of one group at the most.
        again: those that it computes for itself although another group does too, so that they need not be written.
    """

    own: frozenset[int]
    again: frozenset[int] = frozenset()

    @property
    def units(self) -> frozenset[int]:
        """All that it computes."""
        return self.own | self.again


Groups = tuple[Group, ...]


@dataclass(frozen=True)
class Graph:
    """Units of a cascade, and who reads what of whom."""

    cascade: Cascade

    @cached_property
    def _read(self) -> dict[frozenset[int], frozenset[str]]:
        return {}

    @cached_property
    def _known(self) -> dict[tuple[str, Groups], Groups | None]:
        """What has been said of groups: a search comes back to most of them several times."""
        return {}

    @cached_property
    def _structures(self) -> dict[frozenset[int], list[Structure]]:
        return {}

    def structures(self, units: frozenset[int]) -> list[Structure]:
        """Return the structures of a kernel of some units, one an order of theirs; none where their loops cannot be."""
        if units not in self._structures:
            orders = orders_of(self.cascade, [self.units[i] for i in sorted(units)])
            found = (structure_of(self.cascade, order) for order in orders)
            self._structures[units] = [s for s in found if s is not None]
        return self._structures[units]

    def readings(self, units: frozenset[int]) -> Iterable[Access]:
        """Return what a kernel of some units reads of memory."""
        own = [self.units[i] for i in sorted(units)]
        return readings_of([e for u in own for e in u.einsums], [e for u in own for e in u.first])

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Units in the order of the text."""
        return units_of(self.cascade)

    @cached_property
    def orders(self) -> list[list[int]]:
        """Orders in which all units can run, by their places in the text: that of the text first."""
        places = {u.names: i for i, u in enumerate(self.units)}
        every = ([places[u.names] for u in order] for order in orders_of(self.cascade, self.units))
        return [list(order) for order in dict.fromkeys(map(tuple, every))]

    @cached_property
    def writers(self) -> Mapping[str, int]:
        """The unit that computes each tensor."""
        return {name: i for i, u in enumerate(self.units) for name in u.names}

    @cached_property
    def asked(self) -> frozenset[str]:
        """Tensors that the cascade is asked for."""
        return frozenset(s.tensor for s in self.cascade.outputs)

    @cached_property
    def _made(self) -> tuple[frozenset[str], ...]:
        """Tensors of other units that each unit reads."""
        return tuple(frozenset(n for n in u.reads if n in self.writers) for u in self.units)

    @cached_property
    def _ends(self) -> frozenset[int]:
        """Units that are computed for their own sake: an output is of them, or nobody reads them at all."""
        read = frozenset().union(*self._made)
        return frozenset(i for i, u in enumerate(self.units) if u.names & self.asked or not u.names & read)

    def names(self, units: Iterable[int]) -> frozenset[str]:
        """Return the tensors that some units compute."""
        return frozenset(n for i in units for n in self.units[i].names)

    def alone(self) -> Groups:
        """Return every unit in a group of its own."""
        return tuple(Group(frozenset((i,))) for i in range(len(self.units)))

    def kept(self, units: Collection[int]) -> Groups:
        """Return a group for each of some units and each that is an end, which computes all others for itself."""
        ends = sorted(self._ends.union(units))
        inside = frozenset(range(len(self.units))) - frozenset(ends)
        return self.pruned(tuple(Group(frozenset((i,)), self._sources((i,), inside) - {i}) for i in ends))

    def edges(self) -> Iterator[tuple[str, int, int]]:
        """Yield each tensor that a unit reads of another one, with its writer and its reader."""
        for reader, read in enumerate(self._made):
            for name in sorted(read):
                yield name, self.writers[name], reader

    def read(self, group: Group) -> frozenset[str]:
        """Return the tensors that a group reads of other groups."""
        units = group.units
        if units not in self._read:
            self._read[units] = frozenset(
                n for i in units for n in self._made[i] if self.writers[n] not in units
            )
        return self._read[units]

    def written(self, groups: Groups) -> list[frozenset[str]]:
        """Return the tensors that each group has to write: its own that another one reads, or that are asked for."""
        wanted = self.asked.union(*(self.read(g) for g in groups))
        return [self.names(g.own) & wanted for g in groups]

    def pruned(self, groups: Groups) -> Groups:
        """Return groups without the units that nobody needs any more."""
        key = ("pruned", groups)
        if key not in self._known:
            self._known[key] = self._pruned(groups)
        return self._known[key] or ()

    def _pruned(self, groups: Groups) -> Groups:
        while True:
            wanted = frozenset().union(*(self.read(g) for g in groups))
            kept = _owned(tuple(k for g in groups if (k := self._needed(g, wanted)).own))
            if kept == groups:
                return kept
            groups = kept

    def _needed(self, group: Group, wanted: frozenset[str]) -> Group:
        """Return a group with what its ends need; `wanted` are the tensors that other groups read."""
        ends = {i for i in group.own if i in self._ends or self.units[i].names & wanted}
        found = self._sources(ends, group.units)
        return Group(group.own & found, group.again & found)

    def _sources(self, ends: Iterable[int], inside: frozenset[int]) -> frozenset[int]:
        """Return units with those that they need, as far as these are inside a group."""
        found, todo = set(ends), sorted(ends)
        while todo:
            more = {self.writers[n] for n in self._made[todo.pop()]} & inside - found
            found |= more
            todo += sorted(more)
        return frozenset(found)

    def in_order(self, groups: Groups) -> Groups | None:
        """Return groups, each whole, in an order in which they can run; None where two wait for each other."""
        key = ("in order", groups)
        if key not in self._known:
            self._known[key] = self._in_order(groups)
        return self._known[key]

    def _in_order(self, groups: Groups) -> Groups | None:
        owner = {i: group for group in groups for i in group.own}
        waits = {
            group: [owner[self.writers[n]] for n in sorted(self.read(group))]
            for group in sorted(groups, key=lambda g: min(g.units))
        }
        try:
            return tuple(graphlib.TopologicalSorter(waits).static_order())
        except graphlib.CycleError:
            return None

    def joined(self, groups: Groups, places: Collection[int]) -> Groups:
        """Return groups with some of them, by their place, as one."""
        own = frozenset().union(*(groups[i].own for i in places))
        again = frozenset().union(*(groups[i].again for i in places)) - own
        return (*(g for i, g in enumerate(groups) if i not in places), Group(own, again))

    def moved(self, groups: Groups, unit: int, to: int) -> Groups:
        """Return groups in which a unit is of the one at a place, no longer of its own."""
        taken = (
            Group(g.own | {unit}, g.again - {unit}) if i == to else Group(g.own - {unit}, g.again)
            for i, g in enumerate(groups)
        )
        return self.pruned(tuple(g for g in taken if g.own))

    def cut(self, groups: Groups, at: int, unit: int, *, again: bool = False) -> Groups:
        """Return groups of which the one at a place is two: a unit with what it needs there, and the rest.

        Args:
            again: the rest computes for itself what the unit needs.
        """
        group = groups[at]
        first = self._sources((unit,), group.own)
        more = first - {unit} if again else frozenset()
        two = Group(first, group.again), Group(group.own - first, group.again | more)
        return self.pruned((*groups[:at], *two, *groups[at + 1 :]))

    def repeated(self, groups: Groups, at: int, units: frozenset[int], *, instead: bool = False) -> Groups:
        """Return groups in which the one at a place computes more for itself, without what that spares.

        Args:
            instead: of what it has computed again so far, which it then reads.
        """
        before = frozenset() if instead else groups[at].again
        more = Group(groups[at].own, before | (units - groups[at].own))
        return self.pruned((*groups[:at], more, *groups[at + 1 :]))


def _owned(groups: Groups) -> Groups:
    """Return groups of which the first that computes a unit again owns it, where its owner has let it go."""
    owned = frozenset().union(*(g.own for g in groups))
    out = []
    for group in groups:
        taken = group.again - owned
        owned |= taken
        out.append(Group(group.own | taken, group.again - taken))
    return tuple(out)


def graph_of(cascade: Cascade) -> Graph:
    """Return the units of a cascade, the same for all sizes: kernels have one structure whatever the sizes."""
    graph: Graph = cascade.derived.setdefault("graph", Graph(cascade))
    return graph


def of_names(graph: Graph, groups: Sequence[Sequence[str]]) -> Groups:
    """Return groups from the names of their Einsums; the first that names one owns it, and the others stay alone."""
    left = set(range(len(graph.units)))
    found = []
    for group in groups:
        units = frozenset(graph.writers[name] for name in group)
        found.append(Group(units & left, units - left))
        left -= units
    return (*found, *(Group(frozenset((i,))) for i in sorted(left)))
