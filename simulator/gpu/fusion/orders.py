"""Orders in which a kernel may compute its Einsums: a text has one of many, and some of them hold more at a time.

What a text computes first is often what its writer thought of first. Two that make little of what is held, and so let
more blocks onto an SM, are told from who reads what alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import variable_of

from .structure import Unit

# Elements along a rank, for whoever only asks which of two tensors is the larger. Assumed.
_EXTENT = 64.0


@dataclass(frozen=True, slots=True)
class Node:
    """What is computed at once: what it makes, what it needs of others, and elements of what it makes."""

    makes: frozenset[str]
    needs: frozenset[str]
    size: float


Order: TypeAlias = Callable[[Sequence[Node]], list[int]]
_T = TypeVar("_T")


def orders_of(cascade: Cascade, units: Sequence[Unit]) -> tuple[tuple[Unit, ...], ...]:
    """Return some units in orders in which they can be computed: that of the text first, then others, if there are.

    Einsums of an iterate block are put in order, too.

    >>> from einsum_cascade import parse
    >>> from .structure import units_of
    >>> text = parse('''cascade two
    ... rank I J
    ... input A[I, J]  B[I, J]
    ... output Y[I]
    ... U[i, j] = exp(A[i, j])
    ... V[i, j] = exp(B[i, j])
    ... S[i]    = U[i, j]
    ... T[i]    = V[i, j]
    ... Y[i]    = S[i] * T[i]
    ... ''')
    >>> [[n for u in order for n in sorted(u.names)] for order in orders_of(text, units_of(text))]
    [['U', 'V', 'S', 'T', 'Y'], ['U', 'S', 'V', 'T', 'Y']]
    """
    found = dict.fromkeys([tuple(units)])
    for order in (depth_first, least_first):
        inside = [_inside(cascade, u, order) for u in units]
        found[tuple(_put(inside, [_node(cascade, u.names, u.reads) for u in units], order))] = None
    return tuple(found)


def depth_first(nodes: Sequence[Node]) -> list[int]:
    """Return an order in which each is computed just before who needs it: of several, that first which needs most.

    Source: Sethi and Ullman, "The generation of optimal code for arithmetic expressions" (1970).
    """
    needs = _before(nodes)
    most: list[float] = [0.0] * len(nodes)

    def first(some: Iterable[int]) -> list[int]:
        return sorted(some, key=lambda i: (nodes[i].size - most[i], i))

    for i, node in enumerate(nodes):  # each stands behind what it needs
        held = 0.0
        for j in first(needs[i]):
            most[i] = max(most[i], held + most[j])
            held += nodes[j].size
        most[i] = max(most[i], held + node.size)
    out: dict[int, None] = {}
    wanted = {j for some in needs for j in some}
    todo = first(i for i in range(len(nodes)) if i not in wanted)[::-1]
    while todo:
        left = [j for j in first(needs[todo[-1]]) if j not in out]
        if left:
            todo += left[::-1]
        else:
            out[todo.pop()] = None
    return list(out)


def least_first(nodes: Sequence[Node]) -> list[int]:
    """Return an order in which the next is always the one that adds least to what is held, or takes most from it."""
    needs = _before(nodes)
    readers = [{j for j, some in enumerate(needs) if i in some} for i in range(len(nodes))]
    out: dict[int, None] = {}

    def added(i: int) -> float:
        over = sum(nodes[j].size for j in needs[i] if readers[j] <= {*out, i})
        return (nodes[i].size if readers[i] else 0.0) - over

    while len(out) < len(nodes):
        able = [i for i in range(len(nodes)) if i not in out and needs[i] <= out.keys()]
        out[min(able, key=lambda i: (added(i), nodes[i].size, i))] = None
    return list(out)


def _before(nodes: Sequence[Node]) -> list[set[int]]:
    """Return those that each needs, by their places."""
    makers = {name: i for i, node in enumerate(nodes) for name in node.makes}
    return [{makers[n] for n in node.needs if n in makers} - {i} for i, node in enumerate(nodes)]


def _put(some: Sequence[_T], nodes: Sequence[Node], order: Order) -> list[_T]:
    return [some[i] for i in order(nodes)]


def _node(cascade: Cascade, makes: Collection[str], needs: Collection[str], *, loop: str = "") -> Node:
    ranks = [[r for r in cascade.signatures[n].ranks if variable_of(r) != loop] for n in makes]
    return Node(frozenset(makes), frozenset(needs), sum(_EXTENT ** len(own) for own in ranks))


def _inside(cascade: Cascade, unit: Unit, order: Order) -> Unit:
    """Return an iterate block with its Einsums in another order; all else as it is."""
    if not unit.loop:
        return unit
    key = ("order of a block", unit.loop, unit.names, order.__name__)
    if key not in cascade.derived:
        nodes = [
            _node(
                cascade,
                (e.name,),
                {a.tensor for a in e.reads if not cascade.reads_previous(a)},
                loop=unit.loop,
            )
            for e in unit.einsums
        ]
        cascade.derived[key] = replace(unit, einsums=tuple(_put(unit.einsums, nodes, order)))
    found: Unit = cascade.derived[key]
    return found
