"""Rule fetch: an element that is asked for out of turn is computed at its place instead of taken from the stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..cascade import Cascade
from ..einsum import Einsum
from ..expr import Access, Expr, Var, substitute, transform, variables
from .elements import Along, along, fresh_name, plain_target, spliced
from .separate import Rewritten


def fetches(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    """Yield the cascades in which one read out of turn has an Einsum of its own.

    Pattern: `C[p] = QK[p, p // T]`, a read of a stream at another place than where the walk is, where QK is made of
    inputs alone. Rewrite: QK's Einsum once more, at that place; the stream then need not be kept for it. A shifted
    read (`QK[m + w]`, a convolution of scores) costs that Einsum once a shift.
    """
    seen = along(cascade, rank)
    given = {s.tensor for s in cascade.inputs}
    for einsum in (item for item in cascade.body if isinstance(item, Einsum)):
        for access in einsum.reads:
            if not seen.streams(access.tensor):
                continue
            source = cascade.einsum(access.tensor)
            if _in_step(seen, source, access):
                continue
            made_of_inputs = {a.tensor for a in source.reads} <= given
            if plain_target(source) and made_of_inputs and cascade.block_of(source.name) is None:
                yield _fetched(cascade, seen, einsum, source, access)


def _in_step(seen: Along, source: Einsum, access: Access) -> bool:
    """Tell whether a read follows the walk: each index along the rank is the variable of the definition."""
    pairs = zip(source.target.indices, access.indices, strict=True)
    return all(i == t for t, i in pairs if isinstance(t, Var) and t.name in seen.walking[source.name])


def _fetched(cascade: Cascade, seen: Along, einsum: Einsum, source: Einsum, access: Access) -> Rewritten:
    values = {
        t.name: i for t, i in zip(source.target.indices, access.indices, strict=True) if isinstance(t, Var)
    }
    used = tuple(dict.fromkeys(v for i in access.indices for v in variables(i)))
    own = Access(fresh_name(cascade, f"{source.name}{einsum.name}"), tuple(map(Var, used)))
    where = None if source.where is None else substitute(source.where, values)
    computed = Einsum(own, substitute(source.value, values), source.reductions, where)

    def change(node: Expr) -> Expr:
        return own if node == access else node

    there = None if einsum.where is None else transform(einsum.where, change)
    reading = Einsum(einsum.target, transform(einsum.value, change), einsum.reductions, there)
    body = spliced(cascade.body, einsum, (computed, reading))
    why = f"{source.name} at a place of its own is computed there, so nothing waits for the walk along {seen.rank}"
    return Rewritten("fetch", einsum.name, why, replace(cascade, body=body))
