"""Running sums: what each place gathers up of all before it, as a state that goes from place to place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..analysis.indices import fits, stays_inside
from ..analysis.needed import without_unused as without_unread
from ..analysis.points import conditions_of
from ..cascade import Cascade, fresh_name
from ..declarations import Iterate, rank_of
from ..einsum import Einsum, is_map, places_of, plain_target
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, plus, substitute, transform, variables
from .plain import einsums_of, with_each, without_unused

_Body = tuple[Einsum | Iterate, ...]

_START: dict[str, Expr] = {
    "sum": Num(0),
    "prod": Num(1),
    "max": Apply("neg", (Num(math.inf),)),
    "min": Num(math.inf),
}
_STEP = {"sum": "+", "prod": "*", "max": "max", "min": "min"}


def with_running_states(cascade: Cascade) -> Cascade:
    """Return an equal cascade in which running sums, products and extremes are recurrences.

    `S[i] = X[j] :: sum(j) where j <= i` takes a sum for each i; as `S[i + 1] = S[i] + X[i]` it takes one term.
    """
    for name in [e.name for e in cascade.body if isinstance(e, Einsum)]:
        einsum = cascade.einsum(name)
        if (along := _along(cascade, einsum)) is not None:
            cascade = without_unread(_as_recurrence(cascade, einsum, *along))
    return cascade


def _along(cascade: Cascade, einsum: Einsum) -> tuple[str, str] | None:
    """Return the variable of the places of a running sum, and that of the terms; None of anything else."""
    match einsum.where, einsum.all_reductions:
        case Compare(("<=",), (Var(term), Var(place))), (reduction,) if reduction.variables == (term,):
            pass
        case _:
            return None
    indices = einsum.target.indices
    plain = plain_target(einsum) and len(set(indices)) == len(indices)
    alike = _meant(cascade, term) == _meant(cascade, place)
    if not plain or not alike or reduction.op not in _START or place in variables(einsum.value):
        return None
    return place, term


def _meant(cascade: Cascade, variable: str) -> str:
    rank = rank_of(variable)
    while rank in cascade.aliases:
        rank = cascade.aliases[rank]
    return rank


def _as_recurrence(cascade: Cascade, einsum: Einsum, place: str, term: str) -> Cascade:
    op = einsum.all_reductions[0].op
    start = _START[op]
    axis = einsum.output_variables.index(place)
    # A result has no place for the start, and a place before the first, which is absent, would be the start.
    kept = any(s.tensor == einsum.name for s in cascade.outputs) or _is_read_outside(cascade, einsum, axis)
    state = fresh_name(cascade, f"R{einsum.name}") if kept else einsum.name
    renamed = transform(
        substitute(einsum.value, {term: Var(place)}),
        lambda node: Size(rank_of(place)) if node == Size(rank_of(term)) else node,
    )
    terms = Einsum(einsum.target, _opened(cascade, renamed, einsum))
    before: list[Einsum] = []
    value = terms.value
    # Of a term that is not there nothing is added.
    if conditions_of(cascade, terms) and isinstance(value, Access):
        value = Apply("pad", (value, start))
    elif conditions_of(cascade, terms):
        apart = replace(
            terms, target=Access(fresh_name(cascade, f"T{einsum.name}", [state]), einsum.target.indices)
        )
        before, value = [apart], Apply("pad", (apart.target, start))

    def at(index: Expr) -> Access:
        return Access(state, (*einsum.target.indices[:axis], index, *einsum.target.indices[axis + 1 :]))

    first = Einsum(at(Num(0)), start)
    here, there = at(Var(place)), at(plus(Var(place), 1))
    step = Iterate(place, (Einsum(there, _next(op, here, value)),))
    after = [Einsum(einsum.target, there)] if kept else []

    def later(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor != einsum.name or kept:
            return node
        index = node.indices
        return Access(state, (*index[:axis], plus(index[axis], 1), *index[axis + 1 :]))

    def change(other: Einsum, _: str | None) -> Iterable[Einsum]:
        where = None if other.where is None else transform(other.where, later)
        return [replace(other, value=transform(other.value, later), where=where)]

    def moved(item: Einsum | Iterate) -> list[Einsum | Iterate]:
        return [*before, first, step, *after] if item is einsum else [*with_each((item,), change)]

    body = [part for item in cascade.body for part in moved(item)]
    return without_unused(replace(cascade, body=_side_by_side(body, [*before, first], step)))


def _is_read_outside(cascade: Cascade, einsum: Einsum, axis: int) -> bool:
    rank = cascade.signatures[einsum.name].ranks[axis]
    places = (a.indices[axis] for e in cascade.einsums for a in e.reads if a.tensor == einsum.name)
    return not all(fits(cascade, rank, i) or stays_inside(cascade, rank, i) for i in places)


def _opened(cascade: Cascade, value: Expr, reader: Einsum) -> Expr:
    """Return a value that is an element of a map, read by nobody else, as what the map makes it of."""
    if not isinstance(value, Access) or not cascade.defines(value.tensor):
        return value
    source = cascade.einsum(value.tensor)
    others = any(value.tensor in e.sources for e in cascade.einsums if e is not reader)
    asked = any(value.tensor == s.tensor for s in cascade.outputs)
    if not is_map(source) or value.tensor in cascade.states or others or asked:
        return value
    return substitute(source.value, places_of(source, value))


def _side_by_side(body: Sequence[Einsum | Iterate], before: Sequence[Einsum], step: Iterate) -> _Body:
    """Return a body with a block in one with the last block over the same rank before it, where nothing forbids that.

    What the block needs has to be there by then; what is read of the other is read behind both, and no later.
    """
    own = body.index(step)
    other = next((i for i in range(own - 1, -1, -1) if _is_block(body[i], step.variable)), None)
    if other is None:
        return tuple(body)
    earlier = body[other]
    assert isinstance(earlier, Iterate)
    made = {e.name for item in body[other:own] if item not in before for e in einsums_of(item)}
    if made & {t for e in (*before, *step.einsums) for t in e.sources}:
        return tuple(body)
    both = replace(earlier, einsums=(*earlier.einsums, *step.einsums))
    return (
        *body[:other],
        *before,
        both,
        *(i for i in body[other + 1 :] if i is not step and i not in before),
    )


def _is_block(item: Einsum | Iterate, variable: str) -> bool:
    return isinstance(item, Iterate) and item.variable == variable


def _next(op: str, here: Expr, value: Expr) -> Expr:
    match op, value:
        case "sum", Apply("neg", (taken,)):
            return Apply("-", (here, taken))
    return Apply(_STEP[op], (here, value))
