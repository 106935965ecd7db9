"""Where a block of a fiber may lack every term of a reduction, or hold none but what is minus infinity."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..analysis.points import conditions_of, live_parts
from ..declarations import variable_of
from ..einsum import Einsum
from ..expr import Access, Expr, Num, variables, walk
from .plan import Plan


def may_be_empty(plan: Plan, einsum: Einsum) -> bool:
    """Tell whether a block may lack every term of a reduction."""
    moving = {plan.block, *(variable_of(i) for i in plan.inner)}
    parts = (*_wheres(plan, einsum.name), *live_parts(plan.cascade, einsum, branches=True))
    return any(set(variables(p)) & moving for p in parts)


def may_be_absent(plan: Plan, einsum: Einsum) -> bool:
    """Tell whether the reduction of a block may not exist at all, instead of having no terms.

    What removes points and names nothing that the block reduces removes the whole of it: an element by itself, a
    summary of a block (a compressed key), or a block that a mask of blocks leaves out.
    """
    terms = set(einsum.reduced) - {plan.block}
    return any(
        plan.block in c.names and not c.names & terms and plan.block in variables(c.holds)
        for c in conditions_of(plan.cascade, einsum)
    )


def given_by_element(plan: Plan, einsum: Einsum) -> bool:
    """Tell whether what is reduced holds an input's own elements, which may be infinite, or infinity itself.

    What passed through a contraction is not infinite unless everything is.
    """
    names = {e.name for e in plan.cascade.einsums}
    walking = plan.seen.walking.get(einsum.name, frozenset())
    return any(
        math.isinf(node.value)
        if isinstance(node, Num)
        else isinstance(node, Access) and node.tensor not in names and plan.seen.reads_walking(node, walking)
        for node in _mapped(plan, einsum)
    )


def largest_number(plan: Plan, einsum: Einsum) -> float:
    """Return the largest finite number, by its size, that the text writes into what is reduced; 0 where it has none."""
    numbers = (abs(node.value) for node in _mapped(plan, einsum) if isinstance(node, Num))
    return max((n for n in numbers if not math.isinf(n)), default=0)


def _mapped(plan: Plan, einsum: Einsum) -> Iterator[Expr]:
    """Yield all of what is reduced, as far as it is a map of elements."""
    names = {e.name for e in plan.cascade.einsums}
    open_values, done = [einsum.value], {einsum.name}
    while open_values:
        for node in walk(open_values.pop()):
            yield node
            if isinstance(node, Access) and node.tensor in names - done:
                done.add(node.tensor)
                source = plan.cascade.einsum(node.tensor)
                if not source.all_reductions:
                    open_values.append(source.value)


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
