"""How large ranks have to be, so that the places at which a text reads fall inside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ..analysis.ranges import reach
from ..cascade import Cascade
from ..declarations import rank_of
from ..einsum import Einsum
from ..errors import CascadeError
from ..evaluator import numbers_of_use
from ..expr import Access, Compare, Expr, Num, Size, Var, accesses, variables, walk
from ..sizes import size_value

# Places beyond which a number of the text is left out, largest first: the first is taken at which no Einsum has more
# points than MOST_POINTS, which NumPy evaluates in some milliseconds.
CAPS = (256, 128, 64, 32, 16, 8)
MOST_POINTS = 100_000


def least_sizes(cascade: Cascade, usual: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes of ranks that are too small for what a text reads at some place to exist.

    Half of a head turned by `select(e < 64, -Q[e + 64], Q[e - 64])` exists in a rank of more than 64 elements only; at
    a smaller size the whole text computes nothing, and two texts that differ would be equal. So would they where a
    tensor has fewer elements along a rank than what reads it at `p + 1` has.

    Args:
        usual: the sizes that all ranks have otherwise.
    """
    found: dict[str, int] = {}
    for einsum, _ in cascade.statements:
        for rank, size in (*_named(cascade, einsum), *_reached(cascade, einsum, usual)):
            if size > usual.get(rank, 0):
                found[rank] = max(found.get(rank, 1), size)
    for cap in CAPS:
        kept = {r: n for r, n in found.items() if n <= cap + 1}
        if _most_points(cascade, {r: max(n, kept.get(r, 1)) for r, n in usual.items()}) <= MOST_POINTS:
            return kept
    return {}


def _named(cascade: Cascade, einsum: Einsum) -> Iterator[tuple[str, int]]:
    """Yield the ranks of which a number of an Einsum names a place, with the size at which it is there."""
    for node in _nodes(einsum):
        if isinstance(node, Compare) and not accesses(node):
            for number in _numbers(cascade, node):
                yield from ((rank_of(v), number + 1) for v in variables(node))
        if isinstance(node, Access):
            for rank, index in zip(cascade.signatures[node.tensor].ranks, node.indices, strict=True):
                if isinstance(index, Var) or accesses(index):
                    continue
                for number in _numbers(cascade, index):
                    yield from ((r, number + 1) for r in (rank, *map(rank_of, variables(index))))


def _reached(cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the ranks along which an Einsum reads by variables of others, with the size at which all of it is there."""
    values = numbers_of_use(cascade, sizes)
    for node in _nodes(einsum):
        if not isinstance(node, Access):
            continue
        for rank, index in zip(cascade.signatures[node.tensor].ranks, node.indices, strict=True):
            others = {cascade.aliases.get(r, r) for r in map(rank_of, variables(index))}
            if others and cascade.aliases.get(rank, rank) not in others:
                last = reach(index, values)[1]
                if math.isfinite(last):
                    yield rank, int(last) + 1


def _nodes(einsum: Einsum) -> Iterator[Expr]:
    roots = (einsum.value, *([einsum.where] if einsum.where is not None else []))
    return (n for root in roots for n in walk(root))


def _numbers(cascade: Cascade, node: Expr) -> Iterator[int]:
    """Yield the whole numbers of an expression, those with names included."""
    named = {c.name: c.value for c in cascade.constants}
    for part in walk(node):
        value = part.value if isinstance(part, Num) else None
        if isinstance(part, Size) and part.name in named:
            try:
                value = size_value(named[part.name], cascade, {})
            except CascadeError:  # it follows from sizes, and is as small as they are
                continue
        if value is not None and math.isfinite(value) and value == int(value):
            yield abs(int(value))


def _most_points(cascade: Cascade, sizes: Mapping[str, int]) -> int:
    """Return how many points the largest Einsum has, one generation of a block at a time."""
    return max(
        math.prod(sizes.get(rank_of(v), 1) for v in e.variables if v != block)
        for e, block in cascade.statements
    )
