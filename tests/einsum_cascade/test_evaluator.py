"""The evaluator against a slow interpreter that knows nothing of arrays, and each construct by hand."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import strategies
from einsum_cascade import parse, zoo
from einsum_cascade.cascade import Cascade, Iterate, rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import CascadeError
from einsum_cascade.evaluator import difference, evaluate, points, random_inputs, same_result
from einsum_cascade.expr import Access, Apply, Compare, Expr, Num, Size, Var, variables

# Sums in another order, at most a few dozen terms, through functions with slopes of order one.
TOLERANCE = 1e-9

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


class Interpreter:
    """Dictionaries of points: a point that does not exist is not in the dictionary."""

    def __init__(self, use: strategies.Use) -> None:
        self.cascade: Cascade = use.cascade
        self.sizes = dict(use.sizes)
        for c in use.cascade.constants:
            self.sizes[c.name] = c.value.value
        self.tensors = {
            name: {i: np.float64(a[i]) for i in np.ndindex(a.shape)} for name, a in use.inputs.items()
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
            for place, value in found.items():
                full = env | dict(zip(sorted(made), place, strict=True))
                out[tuple(int(self.value(i, full)) for i in e.target.indices)] = value

    def environments(self, names: list[str], base: dict[str, int]):
        for place in itertools.product(*(range(self.sizes[rank_of(v)]) for v in names)):
            yield base | dict(zip(names, place, strict=True))

    def reduce(self, e: Einsum, left: list, env: dict[str, int]) -> dict[tuple[int, ...], float]:
        """Return the points after the last of the reductions that are left: {(): value}, or by selected index."""
        gone = {v for r in left for v in r.variables}
        for c in _conjuncts(e.where):
            names = set(variables(c))
            mine = not names & gone and not any(names & set(r.variables) for r in self.later(e, left))
            if mine and not self.value(c, env):
                return {}
        if not left:
            value = self.value(e.value, env)
            return {} if value is None else {(): value}
        last = left[-1]
        terms = {}
        for inner in self.environments(list(last.variables), env):
            for value in self.reduce(e, left[:-1], inner).values():
                terms[tuple(inner[v] for v in last.variables)] = value
        if last.op in ("argmax", "topk"):
            order = sorted(terms, key=lambda k: (-terms[k], k))
            count = 1 if last.op == "argmax" else self.sizes[rank_of(last.into)]
            chosen = [k[0] for k in order[:count]]
            chosen = sorted(chosen) if last.sorted else chosen
            return {((j,) if last.into else ()): np.float64(k) for j, k in enumerate(chosen)}
        return {(): _fold(last.op, list(terms.values()))}

    def later(self, e: Einsum, left: list) -> list:
        return list(e.all_reductions)[len(left) :]

    def value(self, node: Expr, env: dict[str, int]):
        if isinstance(node, Num):
            return np.float64(node.value)
        if isinstance(node, Size):
            return np.float64(self.sizes[node.name])
        if isinstance(node, Var):
            return np.float64(env[node.name])
        if isinstance(node, Access):
            index = [self.value(i, env) for i in node.indices]
            return None if None in index else self.tensors[node.tensor].get(tuple(map(int, index)))
        if isinstance(node, Apply) and node.op == "pad":
            read = self.value(node.args[0], env)
            return self.value(node.args[1], env) if read is None else read
        if isinstance(node, Apply) and node.op == "select":
            truth = self.value(node.args[0], env)
            return None if truth is None else self.value(node.args[1 if truth else 2], env)
        args = [self.value(a, env) for a in node.args]
        if any(a is None for a in args):
            return None
        if isinstance(node, Compare):
            return all(COMPARES[o](a, b) for o, a, b in zip(node.ops, args, args[1:], strict=False))
        return CALLS[node.op](*args)


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


def compare(use: strategies.Use) -> None:
    with np.errstate(all="ignore"):
        expected = Interpreter(use).run()
    found = points(use.cascade, use.sizes, use.inputs)
    for name, tensor in found.items():
        present = np.ones(tensor.values.shape, bool) if tensor.present is None else tensor.present
        present = np.broadcast_to(present, tensor.values.shape)
        assert {tuple(map(int, i)) for i in np.argwhere(present)} == set(expected[name]), (name, str(use.cascade))
        if expected[name]:
            left = np.array([tensor.values[i] for i in expected[name]])
            right = np.array(list(expected[name].values()))
            assert difference(left, right) <= TOLERANCE, (name, str(use.cascade))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(strategies.uses())
def test_evaluator_equals_the_interpreter(use: strategies.Use) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(use)
