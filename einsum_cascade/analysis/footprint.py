"""What must stay on chip between two passes for the second to be free: a minimum vertex cut of the dependency graph.

A pass over a rank ends when a value is there that depends on every element of a fiber. The next pass asks for elements
again; each path from an input to such an element must then be met by a word on chip, or by a word that is moved. The
paths do not overlap (Menger), so words are counted, not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cascade import Cascade
from ..declarations import rank_of
from ..expr import Access, Expr, accesses, index_variables, variables
from .demand import demands
from .fibers import (
    Choice,
    axes,
    drops_terms,
    fibers_per_word,
    independent,
    needed_reads,
    read_when_first,
    times,
)
from .forks import NEVER, too_many
from .indices import merged_splits
from .passes import passes, timeline
from .points import numbers_of
from .predicates import count
from .reach import existing
from .streams import RankView, view, walkers

_SOURCE, _SINK = "the inputs", "the next pass"
# The accesses to a tensor, by the Einsum that reads it.
Reads = dict[str, dict[str, list[Access]]]


@dataclass(frozen=True, slots=True)
class Node:
    """A tensor on a path between two passes.

    Attributes:
        tensor: its name.
        given: it is an input, so that it can be read again.
        asked_for: it is an output, so that it is written anyway.
        cuttable: it may be kept on chip while the pass ends; what depends on the whole fiber is not yet there.
        per_fiber: its words that belong to one fiber, axis by axis: the least of some products of ranks.
        reads: its accesses on the paths.
    """

    tensor: str
    given: bool
    asked_for: bool
    cuttable: bool
    per_fiber: tuple[tuple[Choice, ...], ...]
    reads: tuple[Access, ...]


@dataclass(frozen=True)
class Boundary:
    """The end of one pass over a rank, and what the next pass needs from before it.

    Attributes:
        rank: the rank.
        ended: the pass that ends.
        whole: the Einsum whose value needs every element of the fiber.
        sink: the Einsum of the next pass that waits for it.
        outer: variables along which fibers are independent of each other: one fiber per query p.
        nodes: tensors on the paths from inputs to the sink.
        edges: (from, to) between tensors; inputs that are read again come from `_SOURCE`, the sink is `_SINK`.
        countable: False inside an iterate block over another rank, where moved words may serve two generations.
        coarser: the same with fibers along the variables of every Einsum on the paths only: one fiber for all queries
            where keys are projected once. It bounds the traffic too, for other sizes better.
    """

    rank: str
    ended: int
    whole: str
    sink: str
    outer: tuple[str, ...]
    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]
    countable: bool
    coarser: Boundary | None

    def words(self, node: str, sizes: Mapping[str, int]) -> int:
        """Return the words of a tensor that belong to one fiber."""
        return math.prod(min(times(choice, sizes) for choice in axis) for axis in self.nodes[node].per_fiber)

    def distinct(self, cascade: Cascade, node: str, sizes: Mapping[str, int]) -> float:
        """Return the words of a tensor per fiber when those that fibers share are counted once."""
        return self.words(node, sizes) / fibers_per_word(cascade, self.nodes[node].reads, self.outer, sizes)

    def fibers(self, sizes: Mapping[str, int]) -> int:
        """Return the number of fibers, batch ranks left out."""
        return math.prod(sizes[rank_of(v)] for v in self.outer)

    def cut(self, sizes: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
        """Return the fewest words of one fiber that make the next pass free, and the tensors they belong to."""
        value, names = self.least_cut(
            {n: float(self.words(n, sizes)) for n in self.nodes if self.nodes[n].cuttable}
        )
        return int(value), names

    def least_cut(self, capacity: Mapping[str, float]) -> tuple[float, tuple[str, ...]]:
        """Return the smallest total capacity of tensors that meet every path, and these tensors."""
        import networkx

        value, (near, _) = networkx.minimum_cut(self.flow_graph(capacity), _SOURCE, _SINK)
        return float(value), tuple(n for n in capacity if (n, 0) in near and (n, 1) not in near)

    def flow(self, capacity: Mapping[str, float]) -> float:
        """Return the largest flow from inputs to the next pass when tensors carry at most their capacity."""
        import networkx

        return float(networkx.maximum_flow_value(self.flow_graph(capacity), _SOURCE, _SINK))

    def flow_graph(self, capacity: Mapping[str, float]) -> Any:
        """Return the graph in which each tensor is an edge, so that cutting edges cuts tensors."""
        import networkx

        graph = networkx.DiGraph()
        graph.add_nodes_from((_SOURCE, _SINK))
        for name in self.nodes:
            if name in capacity:
                graph.add_edge((name, 0), (name, 1), capacity=capacity[name])
            else:
                graph.add_edge((name, 0), (name, 1))
        for a, b in self.edges:
            start = _SOURCE if a == _SOURCE else (a, 1)
            graph.add_edge(start, _SINK if b == _SINK else (b, 0))
        return graph

    def live(self, cascade: Cascade, sizes: Mapping[str, int]) -> tuple[float, float]:
        """Return which part of the fibers, and of the (fiber, element) pairs, is needed and exists.

        Predicates of both Einsums count. 0 where one speaks of other variables too: then nothing is claimed.
        """
        sink, whole = cascade.einsum(self.sink), cascade.einsum(self.whole)
        walking = walkers(cascade, sink, view(cascade, self.rank))
        exists = [p for e in (sink, whole) for p in existing(cascade, e)]
        best = (1.0, 0.0)
        for demand in demands(cascade, sizes).get((self.sink, False), ()):
            parts = list(dict.fromkeys((*exists, *demand)))
            if NEVER in parts or too_many(parts):
                continue
            parts = [p for p in parts if variables(p)]
            by_fiber = [p for p in parts if set(variables(p)) <= set(self.outer)]
            fibers = _fraction(cascade, self.outer, by_fiber, sizes)
            pairs = _fraction(cascade, (*walking, *self.outer), parts, sizes)
            best = max(best, (fibers, pairs), key=lambda f: f[1])
        return best


def _fraction(cascade: Cascade, space: tuple[str, ...], parts: list[Expr], sizes: Mapping[str, int]) -> float:
    """Return which part of a space satisfies some conditions; 0 where they speak of other variables too."""
    if any(not set(variables(p)) <= set(space) for p in parts):
        return 0.0
    merged, extents = merged_splits(cascade, parts, space, sizes)
    return count(merged, extents, numbers_of(cascade, sizes)) / math.prod(extents.values())


def boundaries(cascade: Cascade, rank: str, sizes: Mapping[str, int]) -> tuple[Boundary, ...]:
    """Return what lies between each two consecutive passes over a rank.

    Args:
        sizes: of every rank; they tell which conditions hold everywhere, as `e + 1 - 2*(e%2) < E` does for even E.
    """
    key = ("boundaries", rank, frozenset(sizes.items()))
    if key not in cascade.derived:
        cascade.derived[key] = _boundaries(cascade, rank, sizes)
    found: tuple[Boundary, ...] = cascade.derived[key]
    return found


def _boundaries(cascade: Cascade, rank: str, sizes: Mapping[str, int]) -> tuple[Boundary, ...]:
    found = passes(cascade, rank)
    if found.count == 1:
        return ()
    seen = view(cascade, rank)
    times = timeline(cascade, rank)
    sure = _sure(cascade, sizes)
    out = []
    for ended in range(1, found.count):
        pair = _chain_pair(cascade, found.chain, found.levels, times, ended)
        if pair is not None:
            out.append(_boundary(cascade, seen, (ended, *pair), found.chain, sure, sizes))
    return tuple(out)


def _sure(cascade: Cascade, sizes: Mapping[str, int]) -> frozenset[Expr]:
    """Return the conditions under which points exist that hold at every point."""
    found = {c for e in cascade.einsums for c in existing(cascade, e) if variables(c)}
    return frozenset(
        c for c in found if not too_many([c]) and _fraction(cascade, variables(c), [c], sizes) == 1
    )


def _chain_pair(
    cascade: Cascade,
    chain: tuple[str, ...],
    levels: Mapping[str, int],
    times: Mapping[str, float],
    ended: int,
) -> tuple[str, str] | None:
    """Return the whole-fiber value with which a pass ends and the Einsum of the next pass that waits for it."""
    whole = next((n for n in chain if times[n] == ended + 0.5), None)
    # A chain may begin with a state that a later pass of the generation before has written.
    waiting = chain[chain.index(whole) :] if whole is not None else ()
    sink = next((n for n in waiting if levels.get(n) == ended + 1), None)
    # A walk in the other direction needs a new pass without any such value; nothing is claimed for it.
    return None if sink is None or whole is None else (whole, sink)


def _boundary(
    cascade: Cascade,
    seen: RankView,
    between_passes: tuple[int, str, str],
    chain: tuple[str, ...],
    sure: frozenset[Expr],
    sizes: Mapping[str, int],
) -> Boundary:
    ended, whole, sink = between_passes
    reads = _reads(cascade, seen, sink, sure)
    inputs = {s.tensor for s in cascade.inputs}
    blocks = {cascade.block_of(n) for n in (*chain, *reads)} - {None}
    outside = frozenset(b for b in blocks if b is not None and rank_of(b) not in seen.components)
    between = chain[chain.index(whole) : chain.index(sink) + 1]
    computed = [n for n in sorted(reads) if n not in inputs]
    outer = _outer(cascade, seen, between, computed, outside)
    every = [set(cascade.einsum(n).output_variables) for n in computed]
    run_along = tuple(v for v in outer if all(v in found for found in every))
    where = (seen.rank, ended, whole, sink)
    coarser = None
    if run_along != outer:
        coarser = _among_fibers(cascade, where, reads, (run_along, outside), None, sure, sizes)
    return _among_fibers(cascade, where, reads, (outer, outside), coarser, sure, sizes)


def _among_fibers(
    cascade: Cascade,
    where: tuple[str, int, str, str],
    reads: Reads,
    along: tuple[tuple[str, ...], frozenset[str]],
    coarser: Boundary | None,
    sure: frozenset[Expr],
    sizes: Mapping[str, int],
) -> Boundary:
    import networkx

    (_, _, whole, sink), (outer, outside) = where, along
    inputs, asked = ({s.tensor for s in group} for group in (cascade.inputs, cascade.outputs))
    after = networkx.descendants(cascade.graph, whole)
    # Inside an iterate block over another rank the state that a generation starts with is its input.
    states = {n for n in cascade.states.intersection(reads) if cascade.block_of(n) in outside}
    fixed = {*outer, *outside}
    # Whichever Einsum of the next pass comes first, these inputs have been read by then.
    used = {n: [a for found in readers.values() for a in found] for n, readers in reads.items()}
    given = inputs & networkx.ancestors(cascade.graph, whole)
    counted = sure.union(c for n in (sink, whole) for c in existing(cascade, cascade.einsum(n)))
    for first in (sink, *after.intersection(reads)):
        given &= read_when_first(cascade, first, fixed, used, counted)
    nodes = {
        n: Node(
            n,
            given=n in inputs,
            asked_for=n in asked,
            cuttable=n not in after or n in states,
            per_fiber=axes(cascade, n, readers, fixed, sizes),
            reads=tuple(used[n]),
        )
        for n, readers in sorted(reads.items())
    }
    edges = [(_SOURCE, n) for n in nodes if n in given | states]
    for tensor, readers in sorted(reads.items()):
        edges += [(tensor, _SINK if r == sink else r) for r in readers if r == sink or r not in states]
    return Boundary(*where, outer, nodes, tuple(edges), not outside, coarser)


def _reads(cascade: Cascade, seen: RankView, sink: str, sure: frozenset[Expr]) -> Reads:
    """Return how each tensor is read, element by element of the rank, by the Einsums on the way to the sink."""
    found: Reads = {}
    open_names, done = [sink], {sink}
    names = {e.name for e in cascade.einsums}
    while open_names:
        name = open_names.pop()
        einsum = cascade.einsum(name)
        walking = frozenset(walkers(cascade, einsum, seen))
        if name != sink and drops_terms(cascade, einsum, sure):
            continue  # which terms are left, and what they read, is not looked into
        for access in needed_reads(einsum):
            followed = any(index_variables(i) & walking for i in access.indices)
            if not followed or _gathered(access) or access.tensor == name:
                continue
            found.setdefault(access.tensor, {}).setdefault(name, []).append(access)
            if access.tensor in names and access.tensor not in done:
                done.add(access.tensor)
                open_names.append(access.tensor)
    return found


def _gathered(access: Access) -> bool:
    return any(accesses(i) for i in access.indices)


def _outer(
    cascade: Cascade, seen: RankView, between: Sequence[str], reached: Iterable[str], outside: frozenset[str]
) -> tuple[str, ...]:
    """Return the variables along which each whole value waits for its own fiber, and which no Einsum mixes.

    The Einsum that waits may sum over them, for each of its terms waits by itself. One on the way may ignore them: keys
    that are projected once serve every query.
    """
    *before, last = between
    common = set(cascade.einsum(last).variables) - set(walkers(cascade, cascade.einsum(last), seen)) - outside
    for name in before:
        common &= set(cascade.einsum(name).output_variables) - set(
            walkers(cascade, cascade.einsum(name), seen)
        )
    # Summed over what an earlier Einsum sums over too, the terms wait for each other after all: keys of a softmax.
    import networkx

    earlier = networkx.ancestors(cascade.graph, last) & {e.name for e in cascade.einsums}
    mixed = {v for n in earlier for v in cascade.einsum(n).reduced}
    common -= mixed & set(cascade.einsum(last).reduced)
    along = {v for n in (*before, *reached) for v in cascade.einsum(n).reduced}
    on_the_way = [cascade.einsum(n) for n in (*between, *reached)]
    return tuple(sorted(v for v in common - along if all(independent(cascade, e, v) for e in on_the_way)))
