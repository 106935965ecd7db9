"""Rule fetch: an element that is asked for out of turn is computed at its place instead of taken from the stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..cascade import Cascade
from ..einsum import Einsum
from ..expr import Access, Expr, Var, substitute, transform, variables
from .elements import Along, along, fresh_name, plain_target
from .separate import Rewritten


def fetches(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    """Yield the cascades in which one read out of turn has an Einsum of its own.

    Pattern: `C[p] = QK[p, p // T]`, a read of a stream at a place that does not walk the rank, where QK is made of
    inputs alone. Rewrite: QK's Einsum once more, at that place only; the stream then need not be kept for it.
    """
    seen = along(cascade, rank)
    given = {s.tensor for s in cascade.inputs}
    for einsum in (item for item in cascade.body if isinstance(item, Einsum)):
        for access in einsum.reads:
            if not seen.streams(access.tensor) or seen.reads_walking(access, seen.walking[einsum.name]):
                continue
            source = cascade.einsum(access.tensor)
            made_of_inputs = {a.tensor for a in source.reads} <= given
            if plain_target(source) and made_of_inputs and cascade.block_of(source.name) is None:
                yield _fetched(cascade, seen, einsum, source, access)


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
    body = [part for item in cascade.body for part in ((computed, reading) if item == einsum else (item,))]
    why = f"{source.name} at a place of its own is computed there, so nothing waits for the walk along {seen.rank}"
    return Rewritten("fetch", einsum.name, why, replace(cascade, body=tuple(body)))
