"""Rule fetch: an element that is asked for out of turn is computed at its place instead of taken from the stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..analysis.points import inside
from ..cascade import Cascade, fresh_name
from ..declarations import rank_of
from ..einsum import Einsum, plain_target
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, substitute, transform, variables, walk
from .elements import Along, along, joined, spliced
from .separate import Rewritten


def fetches(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    """Yield the cascades in which one read out of turn has an Einsum of its own.

    Pattern: `C[p] = QK[p, p // T]`, a read of a stream at another place than where the walk is, where QK is made of
    inputs alone. Rewrite: QK's Einsum once more, at that place, or its formula where it reduces nothing; the stream
    then need not be kept for it. A shifted read (`QK[m + w]`, a convolution of scores) costs it once a shift.
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
            if made_of_inputs and _can_move(source, access) and cascade.block_of(source.name) is None:
                yield _fetched(cascade, seen, einsum, source, access)


def out_of_turn(cascade: Cascade, rank: str) -> int:
    """Return how many reads of streams ask for an element where the walk is not."""
    seen = along(cascade, rank)
    reads = [
        (cascade.einsum(a.tensor), a) for e in cascade.einsums for a in e.reads if seen.streams(a.tensor)
    ]
    return sum(1 for source, access in reads if not _in_step(seen, source, access))


def _inside(cascade: Cascade, source: Einsum, access: Access) -> Iterator[Expr]:
    """Yield the conditions under which a place exists, where what is computed there would exist beyond it.

    An index that an input is read by along the same rank needs none: the input ends where the rank does.
    """
    bounded = {
        (index, rank)
        for read in _certain_reads(source.value)
        for index, rank in zip(read.indices, cascade.signatures[read.tensor].ranks, strict=True)
    }
    axes = zip(source.target.indices, access.indices, cascade.signatures[source.name].ranks, strict=True)
    for own, index, rank in axes:
        same_rank = isinstance(index, Var) and rank_of(index.name) == rank
        if not same_rank and (own, rank) not in bounded:
            yield Compare(("<=", "<"), (Num(0), index, Size(rank)))


def _lost(cascade: Cascade, einsum: Einsum, access: Access) -> Iterator[Expr]:
    """Yield what a reader has to say itself of the places it asks for, for what is computed there does not say it.

    An index beyond its tensor names its own variables alone, a point that does not exist all variables of its access:
    where others of them are summed, the sum would be 0 where it did not exist.
    """
    gone = set(einsum.reduced)
    if access in _certain_reads(einsum.value) and not gone.isdisjoint(variables(access)):
        yield from (c.holds for c in inside(cascade, access) if c.names.isdisjoint(gone))


def _certain_reads(value: Expr) -> Iterator[Access]:
    """Yield the accesses without which a value does not exist: none for which `pad` or `select` has another."""
    if isinstance(value, Access):
        yield value
    elif isinstance(value, Apply) and value.op not in ("pad", "select"):
        for part in value.args:
            yield from _certain_reads(part)


def _can_move(source: Einsum, access: Access) -> bool:
    """Tell whether a definition may be written at another place.

    What a selection makes has no value for one place alone, and a variable of the place that the definition reduces
    itself would be caught by its reduction.
    """
    caught = {v for i in access.indices for v in variables(i)} & {*source.reduced}
    selects = any(r.into is not None for r in source.reductions)
    return plain_target(source) and not caught and not selects


def _in_step(seen: Along, source: Einsum, access: Access) -> bool:
    """Tell whether a read follows the walk: each index along the rank is the variable of the definition."""
    pairs = zip(source.target.indices, access.indices, strict=True)
    return all(i == t for t, i in pairs if isinstance(t, Var) and t.name in seen.walking[source.name])


def _fetched(cascade: Cascade, seen: Along, einsum: Einsum, source: Einsum, access: Access) -> Rewritten:
    values = {
        t.name: i for t, i in zip(source.target.indices, access.indices, strict=True) if isinstance(t, Var)
    }
    there = [] if source.where is None else [substitute(source.where, values)]
    where = joined((*there, *_inside(cascade, source, access)))
    own = substitute(source.value, values)
    made: tuple[Einsum, ...] = ()
    # What a `pad` guards has to stay an access.
    roots = (einsum.value, *(() if einsum.where is None else (einsum.where,)))
    guarded = any(
        isinstance(n, Apply) and n.op == "pad" and n.args[0] == access for root in roots for n in walk(root)
    )
    if source.all_reductions or where is not None or guarded:
        used = tuple(dict.fromkeys(v for i in access.indices for v in variables(i)))
        place = Access(fresh_name(cascade, f"{source.name}{einsum.name}"), tuple(map(Var, used)))
        own, made = place, (Einsum(place, own, source.reductions, where),)

    def change(node: Expr) -> Expr:
        return own if node == access else node

    condition = None if einsum.where is None else transform(einsum.where, change)
    condition = joined((*(() if condition is None else (condition,)), *_lost(cascade, einsum, access)))
    reading = Einsum(einsum.target, transform(einsum.value, change), einsum.reductions, condition)
    body = spliced(cascade.body, einsum, (*made, reading))
    why = f"{source.name} at a place of its own is computed there, so nothing waits for the walk along {seen.rank}"
    return Rewritten("fetch", einsum.name, why, replace(cascade, body=body))
