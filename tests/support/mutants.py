"""Cascades with one operator changed: what a reference must notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import CascadeError
from einsum_cascade.expr import Access, Apply, Compare, Expr, Num, children, rebuild

OPERATORS = {
    "+": "-", "-": "+", "*": "+", "/": "*", "//": "*", "%": "//", "max": "min", "min": "max", "exp": "tanh",
    "log": "exp", "sqrt": "abs", "relu": "abs", "sigmoid": "tanh", "tanh": "sigmoid", "softplus": "relu",
    "cos": "sin", "sin": "cos",
    "and": "or", "or": "and", "abs": "relu", "floor": "abs", "gelu": "relu", "**": "*",
}  # fmt: skip
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
REDUCTIONS = {"max": "min", "min": "max", "sum": "max", "prod": "sum", "logsumexp": "max"}


def mutants(cascade: Cascade) -> Iterator[tuple[str, Cascade]]:
    """Yield every legal cascade that differs in one operator of one Einsum, with what was changed."""
    for at, item in enumerate(cascade.body):
        members = item.einsums if isinstance(item, Iterate) else (item,)
        for i, einsum in enumerate(members):
            for what, other in _of_einsum(einsum):
                changed = (*members[:i], other, *members[i + 1 :])
                new = replace(item, einsums=changed) if isinstance(item, Iterate) else other
                try:
                    mutant = replace(cascade, body=(*cascade.body[:at], new, *cascade.body[at + 1 :]))
                except CascadeError:
                    continue
                yield f"{einsum.name}: {what}", mutant


def _of_einsum(einsum: Einsum) -> Iterator[tuple[str, Einsum]]:
    for what, value in _of(einsum.value):
        yield what, replace(einsum, value=value)
    if einsum.where is not None:
        yield "where is lost", replace(einsum, where=None)
        for what, where in _of(einsum.where):
            yield f"where {what}", replace(einsum, where=where)
    for i, r in enumerate(einsum.all_reductions):
        if r.op in REDUCTIONS:
            other = replace(r, op=REDUCTIONS[r.op])
            every = (*einsum.all_reductions[:i], other, *einsum.all_reductions[i + 1 :])
            yield f"{r.op} becomes {other.op}", replace(einsum, reductions=every)


def _of(node: Expr) -> Iterator[tuple[str, Expr]]:
    if isinstance(node, Apply) and node.op in OPERATORS:
        yield f"{node.op} becomes {OPERATORS[node.op]}", replace(node, op=OPERATORS[node.op])
    if isinstance(node, Compare):
        for i, op in enumerate(node.ops):
            other = (*node.ops[:i], COMPARISONS[op], *node.ops[i + 1 :])
            yield f"{op} becomes {COMPARISONS[op]}", replace(node, ops=other)
    if isinstance(node, Num):
        yield f"{node.value} becomes {node.value + 1}", Num(node.value + 1)
    if isinstance(node, Access) and len(set(node.indices)) == 2 and len(node.indices) == 2:
        yield f"{node.tensor} is transposed", replace(node, indices=node.indices[::-1])
    parts = children(node)
    for i, part in enumerate(parts):
        for what, other in _of(part):
            yield what, rebuild(node, (*parts[:i], other, *parts[i + 1 :]))
