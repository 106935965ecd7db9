"""What must stay on chip between two passes for the second to be free: a minimum vertex cut of the dependency graph.

A pass over a rank ends when a value is there that depends on every element of a fiber. The next pass asks for elements
again; each path from an input to such an element must then be met by a word on chip, or by a word that is moved. The
paths do not overlap (Menger), so words are counted, not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..cascade import Cascade
from ..declarations import rank_of
from ..einsum import Einsum
from ..expr import Access, Var, accesses, index_variables, variables
from .passes import passes, timeline
from .points import live_parts, merged_splits, numbers_of
from .predicates import count
from .streams import RankView, view, walkers

_SOURCE, _SINK = "the inputs", "the next pass"


@dataclass(frozen=True, slots=True)
class Node:
    """A tensor on a path between two passes.

    Attributes:
        tensor: its name.
        given: it is an input, so that it can be read again.
        asked_for: it is an output, so that it is written anyway.
        cuttable: it may be kept on chip while the pass ends; what depends on the whole fiber is not yet there.
        per_fiber: its words that belong to one fiber, axis by axis: the least of some products of ranks.
        total: the ranks whose product is all its words.
    """

    tensor: str
    given: bool
    asked_for: bool
    cuttable: bool
    per_fiber: tuple[tuple[tuple[str, ...], ...], ...]
    total: tuple[str, ...]


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
    """

    rank: str
    ended: int
    whole: str
    sink: str
    outer: tuple[str, ...]
    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]
    countable: bool

    def words(self, node: str, sizes: Mapping[str, int]) -> int:
        """Return the words of a tensor that belong to one fiber."""
        axes = self.nodes[node].per_fiber
        return math.prod(min(math.prod(sizes[r] for r in choice) for choice in axis) for axis in axes)

    def distinct(self, node: str, sizes: Mapping[str, int]) -> float:
        """Return the words of a tensor per fiber when those that fibers share are counted once."""
        everything = math.prod(sizes[r] for r in self.nodes[node].total)
        return min(everything / self.fibers(sizes), float(self.words(node, sizes)))

    def fibers(self, sizes: Mapping[str, int]) -> int:
        """Return the number of fibers, batch ranks left out."""
        return math.prod(sizes[rank_of(v)] for v in self.outer)

    def cut(self, sizes: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
        """Return the fewest words of one fiber that make the next pass free, and the tensors they belong to."""
        import networkx

        capacity = {n: float(self.words(n, sizes)) for n in self.nodes if self.nodes[n].cuttable}
        graph = self.flow_graph(capacity)
        value, (near, _) = networkx.minimum_cut(graph, _SOURCE, _SINK)
        names = tuple(n for n in capacity if (n, 0) in near and (n, 1) not in near)
        return int(value), names

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

    def live_fraction(self, cascade: Cascade, sizes: Mapping[str, int]) -> float:
        """Return which part of the (fiber, element) pairs exists under the predicates of both Einsums.

        0 where a predicate speaks of other variables too: then nothing is claimed.
        """
        sink, whole = cascade.einsum(self.sink), cascade.einsum(self.whole)
        walking = walkers(cascade, sink, view(cascade, self.rank))
        space = (*walking, *self.outer)
        parts = list(dict.fromkeys((*live_parts(cascade, sink), *live_parts(cascade, whole))))
        parts = [p for p in parts if variables(p)]
        if any(not set(variables(p)) <= set(space) for p in parts):
            return 0.0
        merged, extents = merged_splits(cascade, parts, space, sizes)
        dense = math.prod(extents.values())
        return count(merged, extents, numbers_of(cascade, sizes)) / dense


def boundaries(cascade: Cascade, rank: str) -> tuple[Boundary, ...]:
    """Return what lies between each two consecutive passes over a rank."""
    found = passes(cascade, rank)
    if found.count == 1:
        return ()
    seen = view(cascade, rank)
    times = timeline(cascade, rank)
    out = []
    for ended in range(1, found.count):
        pair = _chain_pair(cascade, found.chain, found.levels, times, ended)
        if pair is not None:
            out.append(_boundary(cascade, seen, ended, *pair, chain=found.chain))
    return tuple(out)


def _chain_pair(
    cascade: Cascade,
    chain: tuple[str, ...],
    levels: Mapping[str, int],
    times: Mapping[str, float],
    ended: int,
) -> tuple[str, str] | None:
    """Return the whole-fiber value with which a pass ends and the Einsum of the next pass that waits for it."""
    sink = next((n for n in chain if levels.get(n) == ended + 1), None)
    whole = next((n for n in chain if times[n] == ended + 0.5), None)
    # A walk in the other direction needs a new pass without any such value; nothing is claimed for it.
    return None if sink is None or whole is None else (whole, sink)


def _boundary(
    cascade: Cascade, seen: RankView, ended: int, whole: str, sink: str, *, chain: tuple[str, ...]
) -> Boundary:
    graph = cascade.graph
    import networkx

    before = networkx.ancestors(graph, whole)
    after = networkx.descendants(graph, whole)
    edges = _edges(cascade, seen, sink)
    reached = {a for a, _ in edges} | {b for _, b in edges if b != _SINK}
    inputs = {s.tensor for s in cascade.inputs}
    blocks = {cascade.block_of(n) for n in (*chain, *reached)} - {None}
    outside = {b for b in blocks if b is not None and rank_of(b) not in seen.components}
    between = chain[chain.index(whole) : chain.index(sink) + 1]
    outer = _outer(cascade, seen, [n for n in (*between, *sorted(reached)) if n not in inputs], outside)
    # Inside an iterate block over another rank the state that a generation starts with is its input.
    states = {
        n for n in reached & cascade.states if rank_of(cascade.block_of(n) or "?") not in seen.components
    }
    sources = sorted((inputs & before | states) & reached)
    edges = tuple((a, b) for a, b in edges if b not in states) + tuple((_SOURCE, n) for n in sources)
    asked = {s.tensor for s in cascade.outputs}
    nodes = {
        n: Node(
            n,
            given=n in inputs,
            asked_for=n in asked,
            cuttable=n not in after or n in states,
            per_fiber=_axes_of_fiber(cascade, n, {*outer, *outside}),
            total=tuple(r for r in cascade.signatures[n].ranks if r not in {rank_of(v) for v in outside}),
        )
        for n in sorted(reached)
    }
    return Boundary(seen.rank, ended, whole, sink, outer, nodes, edges, not outside)


def _edges(cascade: Cascade, seen: RankView, sink: str) -> tuple[tuple[str, str], ...]:
    """Return who reads whom, element by element of the rank, on the way to the sink."""
    edges: set[tuple[str, str]] = set()
    open_names, done = [sink], {sink}
    names = {e.name for e in cascade.einsums}
    while open_names:
        name = open_names.pop()
        einsum = cascade.einsum(name)
        walking = frozenset(walkers(cascade, einsum, seen))
        for access in einsum.reads:
            followed = any(index_variables(i) & walking for i in access.indices)
            if not followed or _gathered(access) or access.tensor == name:
                continue
            edges.add((access.tensor, _SINK if name == sink else name))
            if access.tensor in names and access.tensor not in done:
                done.add(access.tensor)
                open_names.append(access.tensor)
    return tuple(sorted(edges))


def _gathered(access: Access) -> bool:
    return any(accesses(i) for i in access.indices)


def _outer(cascade: Cascade, seen: RankView, names: list[str], outside: set[str]) -> tuple[str, ...]:
    """Return the variables along which every Einsum on the way runs, and which none of them mixes."""
    common: set[str] | None = None
    for name in names:
        einsum = cascade.einsum(name)
        mine = set(einsum.output_variables) - set(walkers(cascade, einsum, seen)) - outside
        mine = {v for v in mine if _plain_everywhere(cascade, einsum, v)}
        common = mine if common is None else common & mine
    return tuple(sorted(common or ()))


def _plain_everywhere(cascade: Cascade, einsum: Einsum, variable: str) -> bool:
    """Tell whether a variable indexes intermediate tensors by itself only, so that fibers do not meet."""
    inputs = {s.tensor for s in cascade.inputs}
    for access in einsum.reads:
        for index in access.indices:
            if access.tensor not in inputs and variable in variables(index) and index != Var(variable):
                return False
    return True


def _axes_of_fiber(cascade: Cascade, tensor: str, fixed: set[str]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Return what bounds the words of one fiber along each axis: the axis, or what the index can reach.

    `K[h // G, e, m]` has one h // G per fiber h; `X[p + w]` has as many elements as w has values.
    """
    signature = cascade.signatures[tensor]
    given = any(s.tensor == tensor for s in cascade.inputs)
    reads = [a for e in cascade.einsums for a in e.reads if a.tensor == tensor and not _gathered(a)]
    held = {rank_of(v) for v in fixed}
    out = []
    for axis, rank in enumerate(signature.ranks):
        choices: list[tuple[str, ...]] = [() if rank in held and not given else (rank,)]
        indices = [a.indices[axis] for a in reads] if given else []
        choices += [tuple(rank_of(v) for v in variables(i) if v not in fixed) for i in indices]
        out.append(tuple(dict.fromkeys(choices)))
    return tuple(out)
