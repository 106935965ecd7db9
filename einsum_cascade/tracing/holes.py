"""Points that a mask removes stand for a number: 0 of a softmax, -inf of scores; where it counts it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..einsum import Einsum
from ..expr import Access, Apply, Compare, Expr, Num, Var, children, substitute, transform, variables
from ..ops import COMPARISON, REDUCTION, SCALAR
from .values import both, constant


@dataclass(frozen=True)
class _Hole:
    """What a tensor lacks.

    Attributes:
        value: what the traced function has at the points that do not exist.
        present: where they exist, in the places of the tensor's indices (`i0`, `i1`, ...).
    """

    value: float
    present: Expr


def filled(einsums: Sequence[Einsum], outputs: Sequence[str]) -> list[Einsum]:
    """Return Einsums that read `pad(A[..], 0)` where a removed point of a softmax would not act as its 0.

    A removed point removes what reads it, so that `A * V` lacks a term of 0 and is the same; `1 - A` is not.
    """
    holes: dict[str, _Hole] = {}
    out = []
    # An absent point of an output is 0, and so is one that a convolution pads.
    zero = {*outputs, *(a.tensor for e in einsums for a in set(e.reads) - set(_bare(e)))}
    for einsum in einsums:
        made, hole = _filled(einsum, holes, einsum.name in zero)
        if hole is not None:
            holes[einsum.name] = hole
        out.append(made)
    return out


def _filled(einsum: Einsum, holes: Mapping[str, _Hole], is_zero: bool) -> tuple[Einsum, _Hole | None]:
    """Return an Einsum that may read tensors with holes, and the holes of its own tensor."""
    own = not einsum.all_reductions and einsum.where is not None
    if own and is_zero:
        # An element that is absent there would be 0, not -inf: no point is removed.
        assert einsum.where is not None
        score = Apply("select", (einsum.where, einsum.value, constant(-math.inf)))
        einsum, own = replace(einsum, value=score, where=None), False
    present: Expr | None = einsum.where if own else None
    common = -math.inf if own else None
    padded: dict[Access, float] = {}
    for exists, accesses in _groups(einsum, holes).items():
        known: dict[Access, float] = {a: holes[a.tensor].value for a in accesses}
        value = _removed_value(einsum, known)
        whole = all(_is_whole(einsum, a) for a in accesses)
        if value is None or (whole and (common not in (None, value) or (is_zero and value != 0))):
            padded |= known
        elif whole:
            common, present = value, both(present, exists)
    if padded:
        einsum = _with_padding(einsum, padded)
    return einsum, _hole(einsum, common, present)


def _groups(einsum: Einsum, holes: Mapping[str, _Hole]) -> dict[Expr, list[Access]]:
    """Return the accesses that may be absent, by where they exist: those of one group are absent together."""
    groups: dict[Expr, list[Access]] = {}
    for access in _bare(einsum):
        if access.tensor in holes:
            places = {f"i{k}": index for k, index in enumerate(access.indices)}
            groups.setdefault(substitute(holes[access.tensor].present, places), []).append(access)
    return groups


def _bare(einsum: Einsum) -> list[Access]:
    """Return the accesses of an Einsum that no `pad` guards."""
    return bare_accesses(einsum.value) + ([] if einsum.where is None else bare_accesses(einsum.where))


def bare_accesses(value: Expr) -> list[Access]:
    """Return the accesses of an expression that no `pad` guards."""
    found, open_nodes = list[Access](), [value]
    while open_nodes:
        node = open_nodes.pop()
        found += [node] if isinstance(node, Access) else []
        open_nodes += children(node.args[0] if isinstance(node, Apply) and node.op == "pad" else node)
    return found


def _is_whole(einsum: Einsum, access: Access) -> bool:
    """Tell whether an absent element removes a point of the target, and not only terms of a reduction."""
    return set(variables(access)).isdisjoint(einsum.reduced)


def _removed_value(einsum: Einsum, known: Mapping[Access, float]) -> float | None:
    """Return what an Einsum has where some accesses are absent, if leaving the point out comes to the same."""
    nothing = REDUCTION[einsum.all_reductions[0].op] if einsum.all_reductions else None
    removed = -math.inf if nothing is None or nothing.index else nothing.identity
    value = value_where(einsum.value, known)
    condition = 1.0 if einsum.where is None else value_where(einsum.where, known)
    if condition == 0:
        value = removed
    elif condition is None and value != removed:
        value = None
    if nothing is not None and value != removed:
        return None
    return value if value in (0.0, math.inf, -math.inf) or nothing is not None else None


def _hole(einsum: Einsum, value: float | None, present: Expr | None) -> _Hole | None:
    if value is None or present is None:
        return None
    names = {i.name: Var(f"i{k}") for k, i in enumerate(einsum.target.indices) if isinstance(i, Var)}
    return _Hole(value, substitute(present, dict(names)))


def _with_padding(einsum: Einsum, padded: Mapping[Access, float]) -> Einsum:
    def change(node: Expr) -> Expr:
        if isinstance(node, Access) and node in padded:
            return Apply("pad", (node, constant(padded[node])))
        return node

    where = None if einsum.where is None else transform(einsum.where, change)
    return Einsum(einsum.target, transform(einsum.value, change), einsum.reductions, where)


def value_where(node: Expr, known: Mapping[Any, float]) -> float | None:
    """Return what an expression is where some parts of it are numbers, None if that depends on the rest of it.

    Whatever is not known is taken for finite: 0 times it is 0, and -inf less it is -inf.
    """
    if isinstance(node, Num):
        return float(node.value)
    if isinstance(node, Access) or node in known:
        return known.get(node)
    if not isinstance(node, (Apply, Compare)):
        return None
    args = [value_where(a, known) for a in node.args]
    if isinstance(node, Compare):
        numbers = [a for a in args if a is not None]
        if len(numbers) < len(args):
            return None
        return float(
            all(COMPARISON[op](x, y) for op, x, y in zip(node.ops, numbers, numbers[1:], strict=False))
        )
    absorbed = _absorbed(node.op, args)
    if absorbed is not None or None in args or node.op == "pad":
        return absorbed
    with np.errstate(all="ignore"):
        found = float(SCALAR[node.op].function(*args))
    return None if math.isnan(found) else found


def _absorbed(op: str, args: Sequence[float | None]) -> float | None:
    """Return what an operation gives whatever its unknown arguments are, None if it depends on them."""
    if op == "select":
        condition, first, second = args
        if condition is None:
            return first if first == second else None
        return first if condition else second
    if op in ("+", "-"):
        endless = [
            (-a if op == "-" and i else a) for i, a in enumerate(args) if a is not None and math.isinf(a)
        ]
        return endless[0] if len(set(endless)) == 1 else None
    if (op == "*" and 0.0 in args and not any(a is not None and math.isinf(a) for a in args)) or (
        op == "/" and args[0] == 0 and args[1] != 0
    ):
        return 0.0
    if op == "and" and 0.0 in args:
        return 0.0
    return 1.0 if op == "or" and 1.0 in args else None
