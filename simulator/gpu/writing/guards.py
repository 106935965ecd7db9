"""Selections among too few: an index that does not exist is written as -1, and who reads by it asks first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from einsum_cascade.analysis.points import conditions_of, required
from einsum_cascade.analysis.predicates import joined
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate, rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Compare, Expr, Num
from einsum_cascade.ops import REDUCTION


def guarded(cascade: Cascade, sizes: Mapping[str, int]) -> Cascade:
    """Return a cascade in which every reading of an index that may not exist says that it has to.

    That is what the language means anyhow; a kernel finds it in memory as a number below zero. What one branch of a
    choice alone reads says nothing: an index below zero lies outside of whatever it points into.
    """
    unsure = frozenset(e.name for e in cascade.einsums if may_lack(cascade, e, sizes))
    if not unsure:
        return cascade

    def told(einsum: Einsum) -> Einsum:
        reads = required(einsum.value) + (required(einsum.where) if einsum.where is not None else [])
        exist: list[Expr] = [Compare(("<=",), (Num(0), a)) for a in reads if a.tensor in unsure]
        if not exist:
            return einsum
        before = [] if einsum.where is None else [einsum.where]
        return replace(einsum, where=joined("and", [*before, *dict.fromkeys(exist)]))

    body = tuple(
        replace(item, einsums=tuple(map(told, item.einsums))) if isinstance(item, Iterate) else told(item)
        for item in cascade.body
    )
    return replace(cascade, body=body)


def may_lack(cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int]) -> bool:
    """Tell whether an Einsum selects among points of which some do not exist, or more than there are."""
    for reduction in einsum.all_reductions:
        if REDUCTION[reduction.op].index:
            (over,) = reduction.variables
            more = reduction.into is not None and sizes[rank_of(reduction.into)] > sizes[rank_of(over)]
            return more or any(over in c.names for c in conditions_of(cascade, einsum))
    return False
