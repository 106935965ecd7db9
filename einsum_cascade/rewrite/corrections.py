"""How a reduction over a fiber is corrected when the values it was computed with change: found by sympy."""

from __future__ import annotations

from ..cascade import Cascade
from ..declarations import rank_of
from ..einsum import Einsum, plain_target
from ..expr import Apply, Expr, accesses, walk
from .elements import inline, is_flat
from .moments import recentred
from .plan import Obstacle, Plan, Running, corrected_by, opened_summaries, plan_of


def obstacles_to(cascade: Cascade, rank: str) -> list[Obstacle]:
    """Return the reductions over a rank that cannot be corrected as what they wait for changes."""
    if not is_flat(cascade):
        return []
    found = plan_of(cascade, rank)
    return found if isinstance(found, list) else corrections_of(found)


def corrections_of(plan: Plan) -> list[Obstacle]:
    """Find for each reduction over the fiber how it is corrected; return those for which there is no way."""
    obstacles: list[Obstacle] = []
    for einsum in plan.open:
        if einsum.name not in plan.seen.whole:
            continue
        found = _carried(plan, einsum)
        if isinstance(found, Obstacle):
            obstacles.append(found)
        else:
            plan.running[einsum.name] = found
    return obstacles


def _carried(plan: Plan, einsum: Einsum) -> Running | Obstacle:
    """Return how a reduction is carried from block to block.

    In a correction old values are read as `T[...]`, new ones as `T'[...]`; both are named properly when the block is
    written.
    """
    kinds = {r.op for r in einsum.all_reductions}
    if len(kinds) > 1 or not plain_target(einsum) or not kinds <= {"sum", "max", "min", "logsumexp"}:
        return Obstacle(
            einsum.name, f"its reduction ({', '.join(sorted(kinds))}) cannot be carried from block to block"
        )
    opened, predicates = inline(plan.seen, einsum, lambda t: t in plan.seen.waiting and plan.seen.streams(t))
    value = opened_summaries(plan, opened)
    waits = {a.tensor for a in accesses(value)} & plan.seen.whole
    hidden = {a.tensor for p in predicates for a in accesses(p)} & (plan.seen.whole | plan.seen.waiting)
    left = [a.tensor for a in accesses(value) if a.tensor in plan.seen.waiting - plan.seen.whole]
    if left or hidden:
        culprit = (left or sorted(hidden))[0]
        return Obstacle(einsum.name, _mixing_reason(plan, culprit))
    if waits - plan.running.keys():
        missing = sorted(waits - plan.running.keys())[0]
        return Obstacle(einsum.name, f"it waits for {missing}, which cannot be carried either")
    found = corrected_by(einsum, value, waits, next(iter(kinds))) if waits else None
    if waits and found is None:
        moved = recentred(plan, einsum, opened, predicates) if kinds == {"sum"} else None
        if moved is not None:
            return moved
        shown = ", ".join(sorted(waits))
        why = f"it depends on {shown} through each element, and no factor corrects that"
        return Obstacle(einsum.name, why)
    wild = None if found is None else _unbounded(plan, found)
    if wild is not None:
        why = f"{wild} may pass the range of exp on the way, though not in the end: it is no running maximum"
        return Obstacle(einsum.name, why)
    return Running(einsum.name, plan.fresh(f"R{einsum.name}"), found)


def _unbounded(plan: Plan, correction: Expr) -> str | None:
    """Return a sum by which alone a correction takes an exponential, or None.

    A running maximum only grows, so what is corrected by it stays between nothing and its end. A running sum may lie
    far below its end, and exp of the way left is then infinite.
    """
    for node in walk(correction):
        if not (isinstance(node, Apply) and node.op == "exp"):
            continue
        names = [a.tensor.removesuffix("'") for a in accesses(node)]
        kinds = {n: _kind(plan, n) for n in names if n in plan.running}
        if kinds and set(kinds.values()) == {"sum"}:
            return names[0]
    return None


def _kind(plan: Plan, running: str) -> str:
    """Return by what a running value is gathered up; nothing for a reference, which is made of such values."""
    return next((r.op for r in plan.cascade.einsum(running).all_reductions), "")


def _mixing_reason(plan: Plan, culprit: str) -> str:
    einsum = plan.cascade.einsum(culprit)
    if einsum.all_reductions:
        ranks = ", ".join(dict.fromkeys(rank_of(v) for v in einsum.reduced))
        return f"what it waits for is reduced over another rank ({ranks}, in {culprit})"
    return f"{culprit} selects or masks elements by a value of the whole fiber"
