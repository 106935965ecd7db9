"""A slow interpreter of cascades that knows nothing of arrays: what the evaluator is held against."""

from __future__ import annotations

import itertools
import math

import numpy as np
import strategies

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate, rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Apply, Compare, Expr, Num, Size, Var, variables

CALLS = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "//": np.floor_divide,
    "%": np.mod,
    "**": np.power,
    "neg": np.negative,
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "cos": np.cos,
    "sin": np.sin,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.divide(1.0, 1.0 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(-np.abs(x))) + max(x, 0.0),
    "relu": lambda x: x if x > 0 or math.isnan(x) else np.float64(0.0),
    "gelu": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))),
    "erf": math.erf,
    "max": lambda *a: np.nan if any(map(math.isnan, a)) else max(a),
    "min": lambda *a: np.nan if any(map(math.isnan, a)) else min(a),
    "clamp": lambda x, low, high: min(max(x, low), high),
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
}
COMPARES = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}
IDENTITY = {"sum": 0.0, "prod": 1.0, "max": -math.inf, "min": math.inf, "logsumexp": -math.inf}


class Absent(frozenset):
    """Why a point does not exist: for each condition that failed, the variables that it names."""


class Interpreter:
    """Dictionaries of points: a point that does not exist is not in the dictionary.

    Args:
        number: the type of every number, np.float64 or np.float32.
    """

    def __init__(self, use: strategies.Use, *, number: type = np.float64) -> None:
        self.number = number
        self.cascade: Cascade = use.cascade
        self.sizes = dict(use.sizes)
        for c in use.cascade.constants:
            self.sizes[c.name] = c.value.value
        self.tensors = {
            name: {i: number(a[i]) for i in np.ndindex(a.shape)} for name, a in use.inputs.items()
        }

    def run(self) -> dict[str, dict[tuple[int, ...], float]]:
        for item in self.cascade.body:
            if isinstance(item, Iterate):
                for g in range(self.sizes[rank_of(item.variable)]):
                    for e in item.einsums:
                        self.einsum(e, {item.variable: g})
            else:
                self.einsum(item, {})
        return self.tensors

    def einsum(self, e: Einsum, fixed: dict[str, int]) -> None:
        made = {r.into for r in e.reductions if r.into}
        out = self.tensors.setdefault(e.name, {})
        names = [v for v in e.output_variables if v not in fixed and v not in made]
        for env in self.environments(names, fixed):
            found = self.reduce(e, list(e.all_reductions), env)
            for place, value in {} if isinstance(found, Absent) else found.items():
                full = env | dict(zip(sorted(made), place, strict=True))
                out[tuple(int(self.value(i, full)) for i in e.target.indices)] = value

    def environments(self, names: list[str], base: dict[str, int]):
        for place in itertools.product(*(range(self.sizes[rank_of(v)]) for v in names)):
            yield base | dict(zip(names, place, strict=True))

    def reduce(self, e: Einsum, left: list, env: dict[str, int]) -> Absent | dict[tuple[int, ...], float]:
        """Return the point after the reductions `left`, as {(): value} or by selected index; or why there is none."""
        if not left:
            failed = [self.value(c, env) for c in _conjuncts(e.where)]
            pairs = zip(_conjuncts(e.where), failed, strict=True)
            reasons = {frozenset(variables(c)) for c, f in pairs if isinstance(f, Absent) or not f}
            value = self.value(e.value, env)
            if isinstance(value, Absent):
                reasons |= value
            return Absent(reasons) if reasons else {(): value}
        last = left[-1]
        terms = {}
        for inner in self.environments(list(last.variables), env):
            found = self.reduce(e, left[:-1], inner)
            if isinstance(found, Absent):
                # What names none of the variables reduced so far fails for the whole point, not for this term alone.
                gone = {v for r in left for v in r.variables}
                whole = Absent(r for r in found if not r & gone)
                if whole:
                    return whole
                continue
            for value in found.values():
                terms[tuple(inner[v] for v in last.variables)] = value
        if last.op in ("argmax", "topk"):
            order = sorted(terms, key=lambda k: (-terms[k], k))
            count = 1 if last.op == "argmax" else self.sizes[rank_of(last.into)]
            chosen = [k[0] for k in order[:count]]
            chosen = sorted(chosen) if last.sorted else chosen
            return {((j,) if last.into else ()): np.float64(k) for j, k in enumerate(chosen)}
        return {(): self.number(_fold(last.op, list(terms.values())))}

    def value(self, node: Expr, env: dict[str, int]):
        if isinstance(node, Num):
            return self.number(node.value)
        if isinstance(node, Size):
            return self.number(self.sizes[node.name])
        if isinstance(node, Var):
            return self.number(env[node.name])
        if isinstance(node, Access):
            return self.read(node, env)
        if isinstance(node, Apply) and node.op == "pad":
            read = self.value(node.args[0], env)
            found = self.value(node.args[1], env) if isinstance(read, Absent) else read
            return Absent([frozenset(variables(node))]) if isinstance(found, Absent) else found
        args = [self.value(a, env) for a in node.args]
        if isinstance(node, Apply) and node.op == "select":
            if isinstance(args[0], Absent):
                return args[0]
            found = args[1 if args[0] else 2]
            return Absent([frozenset(variables(node))]) if isinstance(found, Absent) else found
        missing = [r for a in args if isinstance(a, Absent) for r in a]
        if missing:
            return Absent(missing)
        if isinstance(node, Compare):
            return all(COMPARES[o](a, b) for o, a, b in zip(node.ops, args, args[1:], strict=False))
        return self.number(CALLS[node.op](*args))

    def read(self, node: Access, env: dict[str, int]):
        index = [self.value(i, env) for i in node.indices]
        failed = {r for i in index if isinstance(i, Absent) for r in i}
        shape = [self.sizes[r] for r in self.cascade.signatures[node.tensor].ranks]
        state = self.cascade.signatures[node.tensor].state
        for axis, (i, n, expression) in enumerate(zip(index, shape, node.indices, strict=True)):
            if not isinstance(i, Absent) and not 0 <= i < n + (axis == state):
                failed.add(frozenset(variables(expression)))
        if failed:
            return Absent(failed)
        found = self.tensors[node.tensor].get(tuple(map(int, index)))
        return Absent([frozenset(variables(node))]) if found is None else found


def _conjuncts(where: Expr | None) -> list[Expr]:
    if isinstance(where, Apply) and where.op == "and":
        return _conjuncts(where.args[0]) + _conjuncts(where.args[1])
    return [] if where is None else [where]


def _fold(op: str, terms: list[float]) -> float:
    if not terms:
        return IDENTITY[op]
    if op == "logsumexp":
        top = max(terms)
        return top if math.isinf(top) else top + math.log(sum(math.exp(t - top) for t in terms))
    if op in ("max", "min"):
        return math.nan if any(map(math.isnan, terms)) else {"max": max, "min": min}[op](terms)
    return sum(terms[1:], terms[0]) if op == "sum" else math.prod(terms)
