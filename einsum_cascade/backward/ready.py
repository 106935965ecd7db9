"""A cascade made ready for its gradients: one reduction an Einsum, an extreme over one variable at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ..cascade import Cascade
from ..declarations import Iterate, free_name, rank_of
from ..einsum import Einsum, Reduction
from ..errors import CascadeError
from ..expr import Access, Num, Var, variables
from ..iteration import conjuncts_of
from ..ops import REDUCTION
from ..rewrite.elements import is_flat, joined
from ..rewrite.equality import equal
from ..rewrite.reduction import Step
from ..rewrite.separate import Rewritten, separations
from .scalar import handed_back

# Reductions that single elements out, or multiply them: their gradient is asked for along one variable.
_ONE_BY_ONE = ("max", "min", "prod")


def active_tensors(cascade: Cascade, wanted: Collection[str]) -> frozenset[str]:
    """Return the tensors whose values move with some inputs, the inputs included."""
    found = set(wanted)
    while True:
        before = len(found)
        for einsum, _ in cascade.statements:
            if einsum.name not in found and _moves(einsum, frozenset(found)):
                found.add(einsum.name)
        if len(found) == before:
            return frozenset(found)


def _moves(einsum: Einsum, active: frozenset[str]) -> bool:
    if any(REDUCTION[r.op].index for r in einsum.reductions):
        return False
    return next(handed_back(einsum.value, Num(1), einsum.target, active), None) is not None


def read_as_values(cascade: Cascade, active: frozenset[str]) -> frozenset[str]:
    """Return the active tensors that some Einsum reads as a value, not only in an index or a condition."""
    return frozenset(
        access.tensor
        for einsum, _ in cascade.statements
        for access, _ in handed_back(einsum.value, Num(1), einsum.target, active)
    )


def with_single_reductions(cascade: Cascade, active: frozenset[str]) -> Cascade:
    """Return a cascade in which each active Einsum reduces once, the largest or the product along one variable."""
    names = {*cascade.signatures, *cascade.rank_names, *(c.name for c in cascade.constants)}

    def apart(einsum: Einsum) -> Iterator[Einsum]:
        steps = list(_steps(einsum)) if einsum.name in active else []
        if len(steps) < 2:
            yield einsum
            return
        value, open_parts = einsum.value, list(conjuncts_of(einsum.where))
        left = list(einsum.variables)
        for position, step in enumerate(steps):
            left = [v for v in left if v not in step.variables]
            last = position == len(steps) - 1
            mine = [c for c in open_parts if last or set(variables(c)) & set(step.variables)]
            open_parts = [c for c in open_parts if c not in mine]
            target = einsum.target if last else Access(_fresh(einsum.name, names), tuple(map(Var, left)))
            yield Einsum(target, value, (step,), joined(mine))
            value = target

    body: list[Einsum | Iterate] = []
    for item in cascade.body:
        if isinstance(item, Iterate):
            body.append(replace(item, einsums=tuple(part for e in item.einsums for part in apart(e))))
        else:
            body += apart(item)
    return replace(cascade, body=tuple(body))


def _steps(einsum: Einsum) -> Iterator[Reduction]:
    for r in einsum.all_reductions:
        if r.op in _ONE_BY_ONE:
            yield from (Reduction(r.op, (v,)) for v in reversed(r.variables))
        else:
            yield r


def _fresh(wanted: str, taken: set[str]) -> str:
    name = free_name(f"{wanted}P", taken)
    taken.add(name)
    return name


def with_divisions_last(cascade: Cascade) -> tuple[Cascade, tuple[Step, ...]]:
    """Return an equal cascade in which what is divided out of a sum is divided out after it, and what was done.

    The gradient of `AV = SNV / SD` by SD is a sum over what AV has; that of `A = SN / SD` is one over every element of
    a fiber once more. It is what lets the backward pass of attention do with one pass where two would be needed.
    """
    steps: list[Step] = []
    while is_flat(cascade):
        found = next(_deferred(cascade), None)
        if found is None:
            break
        cascade = found.cascade
        steps.append(Step(found.rule, found.einsum, found.why))
    return cascade, tuple(steps)


def _deferred(cascade: Cascade) -> Iterator[Rewritten]:
    """Yield equal cascades with a division later, and no Einsum that does more than before."""
    for rank in dict.fromkeys(rank_of(v) for e in cascade.einsums for v in e.reduced):
        for found in separations(cascade, rank):
            divides = found.why.startswith("1 / ")
            if (
                found.rule == "defer"
                and divides
                and not found.cancels
                and _holds(cascade, found.cascade, rank)
            ):
                yield found


def _holds(cascade: Cascade, other: Cascade, rank: str) -> bool:
    try:
        return equal(cascade, other, rank)
    except CascadeError:
        return False
