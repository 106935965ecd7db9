"""Passes of an iterate block that change nothing: where a mask leaves a block empty, its updates are left out.

A mask written once at the scores reaches the Einsums that read them, but not the running values beyond a reduction:
the maximum of no scores is -inf, their sum is 0, and RM = max(RM, -inf) is computed for nothing. That it is for
nothing is proved here by carrying those constants through the updates: where each state turns out to be what it was
before, a pass over coordinates without a point is no work at all. Differences of equal numbers count as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einsum_cascade.analysis.points import live_parts
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Apply, Compare, Expr, Num, Size, Var, variables
from einsum_cascade.ops import REDUCTION, SCALAR

from ..identity import remembered

_NEUTRAL: Mapping[str, float] = {"+": 0.0, "*": 1.0, "max": float("-inf"), "min": float("inf")}
_RIGHT_NEUTRAL: Mapping[str, float] = {"-": 0.0, "/": 1.0}


@dataclass(frozen=True, slots=True)
class Removed:
    """What removes points of an Einsum besides its own conditions: coordinates without a point that satisfies `parts`.

    Attributes:
        seen: the variables of the parts; those that the Einsum lacks may have any value.
    """

    parts: tuple[Expr, ...]
    seen: tuple[str, ...]


def idle(cascade: Cascade) -> dict[str, Removed]:
    """Return the Einsums that have nothing to do where a mask leaves nothing, and the conditions of the mask.

    >>> from einsum_cascade import zoo
    >>> sorted(idle(zoo.load("attention_1pass_causal")))
    ['PRM', 'RD', 'RM', 'RNV', 'SPD', 'SPNV']
    """
    out: dict[str, Removed] = {}
    for item in cascade.body:
        if isinstance(item, Iterate):
            out |= _idle_in(cascade, item)
    return out


@remembered(maxsize=1024)
def skipped(cascade: Cascade, einsum: Einsum) -> frozenset[Expr]:
    """Return the conditions of the points that an Einsum steps over."""
    removed = idle(cascade).get(einsum.name)
    return frozenset(live_parts(cascade, einsum)).union(removed.parts if removed else ())


def _idle_in(cascade: Cascade, block: Iterate) -> dict[str, Removed]:
    conditions = {e.name: live_parts(cascade, e) for e in block.einsums}
    distinct = {frozenset(parts) for parts in conditions.values() if parts}
    if len(distinct) != 1 or not _closed(cascade, block):
        return {}
    masked = [e for e in block.einsums if conditions[e.name]]
    parts = conditions[masked[0].name]
    over = dict.fromkeys(v for part in parts for v in variables(part))
    emptied = frozenset(v for e in masked for v in e.reduced if v in over)
    if block.variable in emptied or not _keeps_states(
        cascade, block, emptied, frozenset(e.name for e in masked)
    ):
        return {}
    return {e.name: Removed(parts, tuple(over)) for e in block.einsums if not conditions[e.name]}


def _closed(cascade: Cascade, block: Iterate) -> bool:
    """Tell whether only states leave the block, and all that passes inside is read where it was written."""
    own = {e.name: e.target.indices for e in block.einsums}
    local = own.keys() - cascade.states
    outside = {a.tensor for e in cascade.einsums if e.name not in own for a in e.reads}
    if local & (outside | {s.tensor for s in cascade.outputs}):
        return False
    return all(
        a.tensor not in own or a.indices in (own[a.tensor], _before(cascade, block, a.tensor, own[a.tensor]))
        for e in block.einsums
        for a in e.reads
    )


def _before(cascade: Cascade, block: Iterate, tensor: str, written: Sequence[Expr]) -> tuple[Expr, ...]:
    """Return the indices of a state one generation before the one that is written."""
    axis = cascade.signatures[tensor].state
    return tuple(Var(block.variable) if i == axis else index for i, index in enumerate(written))


def _keeps_states(cascade: Cascade, block: Iterate, emptied: frozenset[str], masked: frozenset[str]) -> bool:
    """Tell whether every state is what it was, at coordinates where no point of the masked Einsums exists."""
    values: dict[str, Expr | None] = {}
    for e in block.einsums:
        if e.name in masked:
            values[e.name] = _of_nothing(e, emptied)
        elif e.all_reductions:
            return False
        else:
            values[e.name] = _simplified(cascade, e.value, values)
        if e.name in cascade.states:
            before = Access(e.name, _before(cascade, block, e.name, e.target.indices))
            if values[e.name] != before:
                return False
    return True


def _of_nothing(einsum: Einsum, emptied: frozenset[str]) -> Expr | None:
    """Return the value of a reduction without terms; None for a point that does not exist, and where it is unclear."""
    reductions = einsum.all_reductions
    if len(reductions) == 1 and emptied <= set(reductions[0].variables) and not reductions[0].into:
        return Num(REDUCTION[reductions[0].op].identity)
    return None


def _simplified(cascade: Cascade, node: Expr, values: Mapping[str, Expr | None]) -> Expr | None:
    """Return an expression with known values put in; None where something unknown matters."""
    if isinstance(node, Access):
        known = node.tensor in values and not _is_previous(cascade, node)
        return values[node.tensor] if known else node
    if isinstance(node, (Num, Size, Var)):
        return node
    parts = [_simplified(cascade, a, values) for a in node.args]
    if isinstance(node, Compare):
        return None if None in parts else Compare(node.ops, tuple(p for p in parts if p is not None))
    return _applied(node.op, parts)


def _is_previous(cascade: Cascade, access: Access) -> bool:
    return access.tensor in cascade.states and cascade.reads_previous(access)


def _applied(op: str, args: Sequence[Expr | None]) -> Expr | None:
    if op == "*" and any(isinstance(a, Num) and a.value == 0 for a in args):
        return Num(0.0)
    known = [a for a in args if a is not None]
    if len(known) < len(args):
        return None
    if op == "select":
        return known[1 if _holds(known[0]) else 2] if _holds(known[0]) is not None else None
    if all(isinstance(a, Num) for a in known):
        return Num(float(SCALAR[op].function(*(a.value for a in known if isinstance(a, Num)))))
    if op == "-" and len(known) == 2 and known[0] == known[1]:
        return Num(0.0)
    if op in _NEUTRAL:
        known = [a for a in known if not (isinstance(a, Num) and a.value == _NEUTRAL[op])] or known[:1]
    elif op in _RIGHT_NEUTRAL and isinstance(known[-1], Num) and known[-1].value == _RIGHT_NEUTRAL[op]:
        known = known[:1]
    same = op in ("max", "min") and all(a == known[0] for a in known)
    if (same or len(known) == 1) and (op in _NEUTRAL or op in _RIGHT_NEUTRAL):
        return known[0]
    return Apply(op, tuple(known))


def _holds(condition: Expr) -> bool | None:
    """Tell whether a comparison of two equal sides holds; None for any other condition."""
    if isinstance(condition, Compare) and len(condition.ops) == 1 and condition.args[0] == condition.args[1]:
        return condition.ops[0] in ("==", "<=", ">=")
    return None
