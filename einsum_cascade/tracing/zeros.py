"""Points of which a mask makes a 0 that adds nothing to what reads them: they need not exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..einsum import Einsum, places_of, plain_target
from ..expr import Apply, Expr, Num, accesses, substitute, swapped, variables, walk
from ..iteration import conjuncts_of
from ..ops import REDUCTION
from .holes import bare_accesses, value_where
from .values import both


def without_zeros(einsums: Sequence[Einsum]) -> list[Einsum]:
    """Return Einsums that lack the points where a mask of places makes them 0, if all who read them take it for that.

    `A = select(m <= p, S, 0)`, `S * tril(...)`: what sums products of A has the same terms without them, and an
    element that a result lacks is 0. So attention without a softmax is as sparse as its mask.

    Args:
        einsums: in the order in which they are computed.
    """
    out = list(einsums)
    for i in reversed(range(len(out))):
        for value, condition in _cut(out[i]):
            if _may_lack(out, i, condition):
                out[i] = replace(out[i], value=value, where=both(out[i].where, condition))
                break
    return out


def _cut(einsum: Einsum) -> Iterator[tuple[Expr, Expr]]:
    """Yield values without one of the masks that make them 0, each with the condition under which it does not."""
    for node in list(walk(einsum.value)):
        match node:
            case Apply("select", (condition, inside, Num(0))):
                kept = condition
            case Apply("select", (condition, Num(0), inside)):
                kept = Apply("not", (condition,))
            case _:
                continue
        while isinstance(kept, Apply) and kept.op == "not" and isinstance(kept.args[0], Apply):
            if kept.args[0].op != "not":
                break
            kept = kept.args[0].args[0]
        if accesses(kept) or value_where(einsum.value, {node: 0.0}) != 0:
            continue
        value = swapped(einsum.value, node, inside)
        # A target may only name what the right side gives.
        if set(einsum.output_variables) <= set(replace(einsum, value=value, where=kept).variables):
            yield value, kept


def _may_lack(einsums: Sequence[Einsum], i: int, condition: Expr) -> bool:
    """Tell whether an Einsum may lack what is 0 but for a condition: points of its target, or terms of its sum.

    A condition of its own names its variables, an absent element those of the access.
    """
    made = einsums[i]
    ops = {r.op for r in made.all_reductions}
    if not ops.isdisjoint(REDUCTION.keys() - {"sum"}):
        return False
    if not set(made.reduced).isdisjoint(variables(condition)):
        return True  # terms of 0
    if not plain_target(made):
        return False
    for k, reader in enumerate(einsums):
        for access in (a for a in reader.reads if a.tensor == made.name):
            there = substitute(condition, places_of(made, access))
            if set(conjuncts_of(there)) <= set(conjuncts_of(reader.where)):
                continue  # it reads no such point
            if access not in bare_accesses(reader.value) or value_where(reader.value, {access: 0.0}) != 0:
                return False
            if not _may_lack(einsums, k, there):
                return False
    return True
