"""A cascade made ready for its gradients: one reduction an Einsum, an extreme over one variable at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ..cascade import Cascade
from ..declarations import Iterate, free_name
from ..einsum import Einsum, Reduction
from ..expr import Access, Expr, Num, Var
from ..iteration import conjuncts_of
from ..expr import variables
from ..ops import REDUCTION
from ..rewrite.elements import joined
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


def reduced_value(einsum: Einsum) -> tuple[str, Expr]:
    """Return the operator by which an Einsum reduces, or nothing, and what it reduces."""
    return (einsum.all_reductions[0].op if einsum.all_reductions else ""), einsum.value
