"""Rule turn: elements that are asked for from the end of a rank are walked from its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import networkx as nx

from ..analysis.streams import runs_backward, view, walkers
from ..cascade import Cascade
from ..declarations import variable_of
from ..einsum import Einsum, plain_target
from ..expr import Access, Expr, Size, Var, from_end, swapped, transform
from ..ops import REDUCTION
from ..rolling.plain import with_each
from .places import replaced, worked_out
from .separate import Rewritten


def turns(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    """Yield the cascades in which some Einsums meet the elements of the rank in the opposite order.

    Pattern: `X[m] = a(y_m)`, of which a recurrence reads `X[M - 1 - m]`: what later keys have left, summed from the
    last. Rewrite: `X[m] = a(y_(M - 1 - m))`, which the recurrence reads as `X[m]`, and so all that X streams to or
    from but for inputs, outputs and iterate blocks; these are read at `M - 1 - m` instead. Two that read each other
    backward walk in opposite ways before and in one way after it, so only one of them is turned.
    """
    if view(cascade, rank).components != (rank,):
        return
    able = {e.name: e for e in cascade.body if isinstance(e, Einsum) and _can_turn(cascade, e, rank)}
    for together in _turned_together(cascade, able, rank):
        names = [e.name for e in cascade.einsums if e.name in together]
        why = f"in {', '.join(names)} the elements of {rank} are walked from the last to the first"
        yield Rewritten("turn", names[0], why, _turned(cascade, rank, frozenset(names)))


def _turned_together(cascade: Cascade, able: Mapping[str, Einsum], rank: str) -> Iterator[set[str]]:
    """Yield the Einsums that would follow each other without turning, were they turned; either side of each group."""
    streams = nx.Graph()
    streams.add_nodes_from(able)
    against: set[str] = set()
    for reader in cascade.einsums:
        for access in reader.reads:
            backward = _against(cascade, reader, access, rank)
            against |= {reader.name, access.tensor} & able.keys() if backward else set()
            if reader.name in able and access.tensor in able and _axes(cascade, access, rank):
                streams.add_edge(reader.name, access.tensor, backward=backward)
    for group in nx.connected_components(streams):
        if group.isdisjoint(against):
            continue
        first = next(name for name in able if name in group)
        turned = {first: False}
        for one, other in nx.bfs_edges(streams, first):
            turned[other] = turned[one] != streams.edges[one, other]["backward"]
        sides = [{name for name in group if turned[name] == side} for side in (True, False)]
        yield from (side for side in sorted(sides, key=len, reverse=True) if side)


def _can_turn(cascade: Cascade, einsum: Einsum, rank: str) -> bool:
    """Tell whether an Einsum outside of all blocks walks the rank, in an order that nobody sees."""
    v = variable_of(rank)
    if v not in walkers(cascade, einsum, view(cascade, rank)) or not plain_target(einsum):
        return False
    if einsum.name in cascade.states or any(REDUCTION[r.op].index for r in einsum.all_reductions):
        return False
    return v not in einsum.output_variables or einsum.name not in {s.tensor for s in cascade.outputs}


def _axes(cascade: Cascade, access: Access, rank: str) -> list[int]:
    """Return the axes of a tensor that are the rank."""
    return [i for i, r in enumerate(cascade.signatures[access.tensor].ranks) if r == rank]


def _against(cascade: Cascade, einsum: Einsum, access: Access, rank: str) -> bool:
    """Tell whether something that is computed is read from the end of the rank to its beginning."""
    walking = frozenset({variable_of(rank)}).intersection(einsum.variables)
    given = any(access.tensor == s.tensor for s in cascade.inputs)
    return not given and any(runs_backward(access.indices[i], walking) for i in _axes(cascade, access, rank))


def _turned(cascade: Cascade, rank: str, names: frozenset[str]) -> Cascade:
    v = variable_of(rank)
    turned = {v: from_end(Size(rank), Var(v))}
    # As a person would write it, and as it is worked out.
    last, worked = turned[v], worked_out(turned[v])

    def elsewhere(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in names:
            return node
        axes = _axes(cascade, node, rank)
        places = enumerate(node.indices)
        return Access(
            node.tensor, tuple(worked_out(from_end(Size(rank), x)) if i in axes else x for i, x in places)
        )

    def change(einsum: Einsum, _: str | None) -> Iterable[Einsum]:
        values = turned if einsum.name in names else {}

        def changed(node: Expr) -> Expr:
            return swapped(transform(replaced(node, values), elsewhere), worked, last)

        where = None if einsum.where is None else changed(einsum.where)
        return [replace(einsum, value=changed(einsum.value), where=where)]

    return replace(cascade, body=with_each(cascade.body, change))
