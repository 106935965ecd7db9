"""Where a block of a fiber may lack every term of a reduction, or hold none but what is minus infinity."""

from __future__ import annotations

import math

from ..analysis.points import live_parts
from ..declarations import variable_of
from ..einsum import Einsum
from ..expr import Access, Expr, Num, variables, walk
from .plan import Plan


def may_be_empty(plan: Plan, einsum: Einsum) -> bool:
    """Tell whether a block may lack every term of a reduction."""
    parts = (*_wheres(plan, einsum.name), *live_parts(plan.cascade, einsum))
    moving = {plan.block, *(variable_of(i) for i in plan.inner)}
    return any(set(variables(p)) & moving for p in parts)


def given_by_element(plan: Plan, einsum: Einsum) -> bool:
    """Tell whether what is reduced holds an input's own elements, which may be infinite, or infinity itself.

    What passed through a contraction is not infinite unless everything is.
    """
    names = {e.name for e in plan.cascade.einsums}
    open_values, done = [einsum.value], {einsum.name}
    while open_values:
        for node in walk(open_values.pop()):
            if isinstance(node, Num) and math.isinf(node.value):
                return True
            if not isinstance(node, Access) or node.tensor in done:
                continue
            if node.tensor not in names:
                if plan.seen.reads_walking(node, plan.seen.walking[einsum.name]):
                    return True
                continue
            done.add(node.tensor)
            source = plan.cascade.einsum(node.tensor)
            if not source.all_reductions:
                open_values.append(source.value)
    return False


def _wheres(plan: Plan, name: str) -> list[Expr]:
    names = {e.name for e in plan.cascade.einsums}
    found: list[Expr] = []
    open_names, done = [name], {name}
    while open_names:
        einsum = plan.cascade.einsum(open_names.pop())
        if einsum.where is not None:
            found.append(einsum.where)
        fresh = {a.tensor for a in einsum.reads} & names - done
        done |= fresh
        open_names += sorted(fresh)
    return found
