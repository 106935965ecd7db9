"""Points that every reader removes are removed where they are made: no product is computed for a masked score.

And what is then only repeated is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..analysis.points import required
from ..einsum import Einsum, places_of
from ..expr import Access, Apply, Expr, Var, accesses, substitute, transform, variables, walk
from ..iteration import conjuncts_of
from .values import both


def without_unread(einsums: Sequence[Einsum], asked: Sequence[str]) -> list[Einsum]:
    """Return Einsums of which those that others read under one predicate have it: `QK` that of `S = QK / 8`.

    The others mostly need it no more, since reading a removed point removes the point that reads it.

    Args:
        einsums: in the order in which they are computed.
        asked: tensors that are read by whoever asks for the result.
    """
    out = list(einsums)
    for i in reversed(range(len(out))):
        if out[i].name in asked:
            continue
        reads = [(k, a) for k, e in enumerate(out) for a in e.reads if a.tensor == out[i].name]
        conditions = {_of_the_read(out[i], out[k], a) for k, a in reads}
        condition = conditions.pop() if len(conditions) == 1 else None
        if condition is not None:
            out[i] = replace(out[i], where=both(out[i].where, condition))
            for k, access in reads:
                if access in required(out[k].value):  # not in a branch of `select` alone
                    out[k] = replace(out[k], where=None)
    return out


def without_copies(einsums: Sequence[Einsum], asked: Sequence[str]) -> list[Einsum]:
    """Return Einsums without those that repeat the elements of a tensor: who reads `S[p, m] = QK[m, p]` reads QK.

    Args are those of `without_unread`.
    """
    out: list[Einsum] = []
    copies: dict[str, Einsum] = {}

    def original(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in copies:
            return node
        copy = copies[node.tensor]
        return substitute(copy.value, places_of(copy, node))

    for einsum in einsums:
        where = None if einsum.where is None else transform(einsum.where, original)
        made = replace(einsum, value=transform(einsum.value, original), where=where)
        if _is_copy(made) and made.name not in asked:
            copies[made.name] = made
        else:
            out.append(made)
    return out


def _is_copy(einsum: Einsum) -> bool:
    """Tell whether an Einsum has just the elements of another tensor, its axes in whichever order."""
    if not isinstance(einsum.value, Access) or einsum.reductions or einsum.where is not None:
        return False
    own, read = einsum.target.indices, einsum.value.indices
    plain = all(isinstance(i, Var) for i in (*own, *read))
    return plain and len(own) == len(read) == len(set(own)) and set(own) == set(read)


def _of_the_read(made: Einsum, reader: Einsum, access: Access) -> Expr | None:
    """Return the condition under which an element is read, by the indices of its own tensor; None for anywhere."""
    if not _removes_what_it_reads(reader):
        return None
    names = [i.name for i in access.indices if isinstance(i, Var)]
    own = [i for i in made.target.indices if isinstance(i, Var)]
    condition = reader.where
    guarded = any(isinstance(n, Apply) and n.op == "pad" for n in walk(reader.value))
    if condition is None or guarded or any(accesses(condition)) or len(own) != len(made.target.indices):
        return None
    if len(set(names)) < len(access.indices) or not set(variables(condition)) <= set(names):
        return None
    return substitute(condition, dict(zip(names, own, strict=True)))


def _removes_what_it_reads(reader: Einsum) -> bool:
    """Tell whether reading an absent point removes what the predicate does: a sum without terms is 0, not absent."""
    if len(reader.all_reductions) > 1:
        return False
    first = {v for r in reader.all_reductions for v in r.variables}
    return not first or all(first & set(variables(c)) for c in conjuncts_of(reader.where))
