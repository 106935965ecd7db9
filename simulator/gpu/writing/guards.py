"""What a kernel has to ask before it reads, said in its text: that an index exists, and what its sources asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from einsum_cascade.analysis.points import conditions_of, required
from einsum_cascade.analysis.predicates import joined
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate, rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Compare, Expr, Num, accesses
from einsum_cascade.ops import REDUCTION


def guarded(cascade: Cascade, sizes: Mapping[str, int]) -> Cascade:
    """Return a cascade whose Einsums say themselves what they ask of other tensors before they have a point."""
    return _with_inherited(_with_indices(cascade, sizes))


def _with_indices(cascade: Cascade, sizes: Mapping[str, int]) -> Cascade:
    """Return a cascade in which every reading of an index that may not exist says that it has to.

    That is what the language means anyhow; a kernel finds it in memory as a number below zero. What one branch of a
    choice alone reads says nothing: an index below zero lies outside of whatever it points into.
    """
    unsure = frozenset(e.name for e in cascade.einsums if may_lack(cascade, e, sizes))

    def exist(einsum: Einsum) -> list[Expr]:
        reads = required(einsum.value) + (required(einsum.where) if einsum.where is not None else [])
        return [Compare(("<=",), (Num(0), a)) for a in reads if a.tensor in unsure]

    return _asking(cascade, exist) if unsure else cascade


def _with_inherited(cascade: Cascade) -> Cascade:
    """Return a cascade in which an Einsum says what the Einsums that it reads of have asked of others.

    A point that reads a removed one is removed too, and a kernel finds that out where the other did: it has to read the
    same, which whoever lays out kernels has to know, so that it is there.
    """

    def asked(einsum: Einsum) -> list[Expr]:
        known = {a.tensor for a in einsum.reads}
        holds = (c.holds for c in conditions_of(cascade, einsum))
        return [
            h for h in holds if any(cascade.defines(a.tensor) and a.tensor not in known for a in accesses(h))
        ]

    return _asking(cascade, asked)


def _asking(cascade: Cascade, more: Callable[[Einsum], list[Expr]]) -> Cascade:
    """Return a cascade whose Einsums ask for more before they have a point; itself where none does."""

    def told(einsum: Einsum) -> Einsum:
        parts = more(einsum)
        if not parts:
            return einsum
        before = [] if einsum.where is None else [einsum.where]
        return replace(einsum, where=joined("and", [*before, *dict.fromkeys(parts)]))

    body = tuple(
        replace(item, einsums=tuple(map(told, item.einsums))) if isinstance(item, Iterate) else told(item)
        for item in cascade.body
    )
    return cascade if body == cascade.body else replace(cascade, body=body)


def may_lack(cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int]) -> bool:
    """Tell whether an Einsum selects among points of which some do not exist, or more than there are."""
    for reduction in einsum.all_reductions:
        if REDUCTION[reduction.op].index:
            (over,) = reduction.variables
            more = reduction.into is not None and sizes[rank_of(reduction.into)] > sizes[rank_of(over)]
            return more or any(over in c.names for c in conditions_of(cascade, einsum))
    return False
