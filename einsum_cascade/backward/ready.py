"""A cascade made ready for its gradients: one reduction an Einsum, an extreme over one variable at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from ..analysis.points import conditions_of_access
from ..cascade import Cascade
from ..declarations import rank_of
from ..einsum import Einsum, Reduction, factors, plain_target
from ..errors import CascadeError
from ..expr import Access, Apply, Expr, Num, Var, accesses, transform, variables, walk
from ..iteration import conjuncts_of
from ..ops import REDUCTION
from ..rewrite.elements import is_flat, joined
from ..rewrite.equality import equal
from ..rewrite.reduction import Step
from ..rewrite.separate import Rewritten, separations
from ..rolling.plain import in_every, with_each
from .names import Names
from .parts import sum_of
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


def with_choices(cascade: Cascade) -> Cascade:
    """Return an equal cascade in which what stands in place of an absent element, if data, is a branch of a choice.

    `pad(X[i - 1], Y[i])` is `select(0 <= i - 1, X[i - 1], Y[i])`: each branch then has its own share of the gradient.
    """

    def change(node: Expr) -> Expr:
        if not isinstance(node, Apply) or node.op != "pad" or not accesses(node.args[1]):
            return node
        access, instead = node.args
        assert isinstance(access, Access)
        exists = joined([c.holds for c in conditions_of_access(cascade, access)])
        return access if exists is None else Apply("select", (exists, access, instead))

    return replace(cascade, body=in_every(cascade.body, lambda node: transform(node, change)))


def with_single_reductions(cascade: Cascade, active: frozenset[str]) -> Cascade:
    """Return a cascade in which each active Einsum reduces once, the largest or the product along one variable."""
    names = Names.of(cascade)

    def apart(einsum: Einsum, block: str | None) -> Iterator[Einsum]:
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
            target = einsum.target if last else Access(names.free(f"{einsum.name}P"), tuple(map(Var, left)))
            yield Einsum(target, value, (step,), joined(mine))
            value = target

    return replace(cascade, body=with_each(cascade.body, apart))


def _steps(einsum: Einsum) -> Iterator[Reduction]:
    for r in einsum.all_reductions:
        if r.op in _ONE_BY_ONE:
            yield from (Reduction(r.op, (v,)) for v in reversed(r.variables))
        else:
            yield r


def with_factors_apart(cascade: Cascade, active: frozenset[str]) -> Cascade:
    """Return a cascade in which what multiplies a sum alike for every term is multiplied after it.

    What comes back to a gate of scores then is one product a score, not the sum of the scores over again.
    """
    names = Names.of(cascade)

    def apart(einsum: Einsum, block: str | None) -> Iterator[Einsum]:
        found = _apart(einsum, block, active, names) if einsum.name in active else None
        yield from found or (einsum,)

    return replace(cascade, body=with_each(cascade.body, apart))


def _apart(
    einsum: Einsum, block: str | None, active: frozenset[str], names: Names
) -> tuple[Einsum, Einsum] | None:
    if [r.op for r in einsum.all_reductions] != ["sum"] or not plain_target(einsum):
        return None
    gone = set(einsum.reduced)
    parts = [(part, under, gone.isdisjoint(variables(part))) for part, under in factors(einsum.value)]
    outside = [(part, under) for part, under, alike in parts if alike]
    inside = [(part, under) for part, under, alike in parts if not alike]
    read = {a.tensor for part, _ in outside for a in accesses(part)}
    value = _multiplied(inside)
    if not read & active or value is None or not gone <= set(variables(value)):
        return None
    used = {block, *variables(value), *(() if einsum.where is None else variables(einsum.where))}
    target = Access(
        names.free(f"{einsum.name}P"), tuple(Var(v) for v in einsum.output_variables if v in used)
    )
    whole = _multiplied([(target, False), *outside])
    assert whole is not None
    summed = sum_of(value, einsum.reduced)
    return Einsum(target, value, summed, einsum.where), Einsum(einsum.target, whole)


def _multiplied(parts: Sequence[tuple[Expr, bool]]) -> Expr | None:
    """Return the product of some factors, those under the line divided by; None where none stands above it."""
    above = [part for part, under in parts if not under]
    if not above:
        return None
    value = above[0]
    for part in above[1:]:
        value = Apply("*", (value, part))
    for part in (part for part, under in parts if under):
        value = Apply("/", (value, part))
    return value


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
            # An Einsum that nothing needs is gone from what a rule gives.
            known = found.rule == "defer" and not found.cancels and found.cascade.defines(found.einsum)
            if not known or not _divides(found.cascade.einsum(found.einsum)):
                continue
            if _holds(cascade, found.cascade, rank):
                yield found


def _divides(einsum: Einsum) -> bool:
    """Tell whether an Einsum divides by data."""
    return any(isinstance(n, Apply) and n.op == "/" and bool(accesses(n.args[1])) for n in walk(einsum.value))


def _holds(cascade: Cascade, other: Cascade, rank: str) -> bool:
    try:
        return equal(cascade, other, rank)
    except CascadeError:
        return False
