"""The evaluator against a slow interpreter that knows nothing of arrays, and each construct by hand."""

from __future__ import annotations

import itertools
import math
import re
import warnings

import numpy as np
import pytest
import strategies
from hypothesis import HealthCheck, given, settings

from einsum_cascade import parse, zoo
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate, rank_of
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


class Absent(frozenset):
    """Why a point does not exist: for each condition that failed, the variables that it names."""


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
        return {(): _fold(last.op, list(terms.values()))}

    def value(self, node: Expr, env: dict[str, int]):
        if isinstance(node, Num):
            return np.float64(node.value)
        if isinstance(node, Size):
            return np.float64(self.sizes[node.name])
        if isinstance(node, Var):
            return np.float64(env[node.name])
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
        return CALLS[node.op](*args)

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


def compare(use: strategies.Use) -> None:
    with np.errstate(all="ignore"):
        expected = Interpreter(use).run()
    found = points(use.cascade, use.sizes, use.inputs)
    for name, tensor in found.items():
        present = np.ones(tensor.values.shape, bool) if tensor.present is None else tensor.present
        present = np.broadcast_to(present, tensor.values.shape)
        assert {tuple(map(int, i)) for i in np.argwhere(present)} == set(expected[name]), (
            name,
            str(use.cascade),
        )
        if expected[name]:
            left = np.array([tensor.values[i] for i in expected[name]])
            right = np.array(list(expected[name].values()))
            assert difference(left, right) <= TOLERANCE, (name, str(use.cascade))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(strategies.uses())
def test_evaluator_equals_the_interpreter(use: strategies.Use) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(use)


HEAD = "cascade c\nrank I J\n"


def outputs(body: str, sizes: str, **inputs: object) -> dict[str, list]:
    return {k: v.tolist() for k, v in evaluate(parse(HEAD + body), sizes, inputs).items()}


def only(body: str, sizes: str, **inputs: object) -> list:
    (value,) = outputs(body, sizes, **inputs).values()
    return value


# every expectation below is worked by hand
@pytest.mark.parametrize(
    ("body", "sizes", "inputs", "expected"),
    [
        # where on the output removes output points, which read as 0 when handed back
        ("input A[I]\noutput O[I]\nO[i] = A[i] where i < 2", "I=3,J=1", {"A": [5, 6, 7]}, [5, 6, 0]),
        # where on a reduced variable removes terms; without terms the identity is left
        (
            "input A[I]\noutput O[J]\nO[j] = A[i] :: sum(i) where i < j",
            "I=3,J=3",
            {"A": [5, 6, 7]},
            [0, 5, 11],
        ),
        (
            "input A[I]\noutput O[J]\nO[j] = A[i] :: prod(i) where i < j",
            "I=3,J=3",
            {"A": [5, 6, 7]},
            [1, 5, 30],
        ),
        (
            "input A[I]\noutput O[J]\nO[j] = A[i] :: max(i) where i < j",
            "I=3,J=2",
            {"A": [5, 6, 7]},
            [-math.inf, 5],
        ),
        (
            "input A[I]\noutput O[J]\nO[j] = A[i] :: min(i) where i < j",
            "I=3,J=2",
            {"A": [5, 6, 7]},
            [math.inf, 5],
        ),
        (
            "input A[I]\noutput O[J]\nO[j] = A[i] :: logsumexp(i) where i < j",
            "I=2,J=3",
            {"A": [0, 0]},
            [-math.inf, 0, math.log(2)],
        ),
        # a mask written once carries through: exp(B) is absent where B is, and is not summed
        (
            "input A[I]\noutput O[J]\nB[i, j] = A[i] where i <= j\nC[i, j] = exp(B[i, j])\nO[j] = C[i, j] :: sum(i)",
            "I=2,J=2",
            {"A": [0, 0]},
            [1, 2],
        ),
        # out of range is absent; pad reads a value there
        ("input A[I]\noutput O[I]\nO[i] = A[i + 1]", "I=3,J=1", {"A": [5, 6, 7]}, [6, 7, 0]),
        ("input A[I]\noutput O[I]\nO[i] = pad(A[i - 1], 9)", "I=3,J=1", {"A": [5, 6, 7]}, [9, 5, 6]),
        # an index beyond the tensor that names no reduced variable removes the output point: no sum of nothing, 0 ...
        (
            "input A[J, I]\noutput O[I]\nB[i] = A[j, i + 1]\nO[i] = pad(B[i], 9)",
            "I=2,J=2",
            {"A": [[1, 2], [3, 4]]},
            [6, 9],
        ),
        # ... while a point that does not exist, read at a reduced variable, is a term less
        (
            "input A[J, I]\noutput O[I]\nB[j, i] = A[j, i] where i < 1\nC[i] = B[j, i] :: sum(j)\nO[i] = pad(C[i], 9)",
            "I=2,J=2",
            {"A": [[1, 2], [3, 4]]},
            [4, 0],
        ),
        # so a gather that found nothing stays away from a softmax, with keys of any width J
        (
            "input K[J, I] T[I]\noutput O[]\nQ[i] = K[j, T[i]]\nE[i] = exp(Q[i])\nO[] = E[i] :: sum(i)",
            "I=2,J=1",
            {"K": [[0, 0]], "T": [1, -1]},
            1,
        ),
        # absent keys take no part in a softmax, padded ones do
        ("input A[I]\noutput O[]\nE[i] = exp(A[i + 1])\nO[] = E[i] :: sum(i)", "I=2,J=1", {"A": [0, 0]}, 1),
        (
            "input A[I]\noutput O[]\nE[i] = exp(pad(A[i + 1], 0))\nO[] = E[i] :: sum(i)",
            "I=2,J=1",
            {"A": [0, 0]},
            2,
        ),
        # select reads only the branch that it takes
        (
            "input A[I]\noutput O[I]\nO[i] = select(i > 0, A[i - 1], -1)",
            "I=3,J=1",
            {"A": [5, 6, 7]},
            [-1, 5, 6],
        ),
        # coordinates and sizes as values
        ("input A[I]\noutput O[I]\nO[i] = A[i]*I + i", "I=2,J=1", {"A": [5, 6]}, [10, 13]),
        # a reduced variable that the value lacks multiplies the sum
        ("input A[I]\noutput O[I]\nO[i] = A[i] + j - j :: sum(j)", "I=1,J=3", {"A": [5]}, [15]),
        # reductions run in the order written: the sum of maxima, not the maximum of sums
        (
            "input A[I, J]\noutput O[]\nO[] = A[i, j] :: max(i) :: sum(j)",
            "I=2,J=2",
            {"A": [[1, 8], [5, 2]]},
            13,
        ),
        # topk: ties to the smaller index, sorted by index, absent when there are too few
        ("input A[I]\noutput O[J]\nO[j] = A[i] :: topk(i -> j)", "I=4,J=2", {"A": [1, 7, 3, 7]}, [1, 3]),
        ("input A[I]\noutput O[J]\nO[j] = A[i] :: topk(i -> j)", "I=4,J=2", {"A": [8, 1, 9, 2]}, [2, 0]),
        (
            "input A[I]\noutput O[J]\nO[j] = A[i] :: topk(i -> j, sorted)",
            "I=4,J=2",
            {"A": [8, 1, 9, 2]},
            [0, 2],
        ),
        (
            "input A[I]\noutput O[J]\nT[j] = A[i] :: topk(i -> j) where i > 1\nO[j] = pad(T[j], -1)",
            "I=3,J=2",
            {"A": [1, 2, 3]},
            [2, -1],
        ),
        ("input A[I]\noutput O[]\nO[] = A[i] :: argmax(i)", "I=3,J=1", {"A": [1, 7, 7]}, 1),
        # minus infinity that exists is chosen before a point that does not
        (
            "input A[I]\noutput O[]\nO[] = A[i] :: argmax(i) where i > 0",
            "I=3,J=1",
            {"A": [5, -math.inf, -math.inf]},
            1,
        ),
        # gather through an index tensor; an index of -1 is absent
        (
            "input A[I] T[J]\noutput O[J]\nO[j] = A[T[j]]",
            "I=3,J=3",
            {"A": [5, 6, 7], "T": [2, -1, 0]},
            [7, 0, 5],
        ),
        # scatter as a filtered sum: both rows that point to 1 arrive there
        (
            "input A[J] T[J]\noutput O[I]\nO[i] = A[j] :: sum(j) where T[j] == i",
            "I=3,J=3",
            {"A": [5, 6, 7], "T": [1, 0, 1]},
            [6, 12, 0],
        ),
        # backward index, floor division, modulo
        ("input A[I]\noutput O[I]\nO[i] = A[I - 1 - i]", "I=3,J=1", {"A": [5, 6, 7]}, [7, 6, 5]),
        ("input A[I]\noutput O[J]\nO[j] = A[j // 2] + A[j % 2]", "I=2,J=3", {"A": [5, 6]}, [10, 11, 11]),
    ],
)
def test_by_hand(body: str, sizes: str, inputs: dict, expected: object) -> None:
    assert only(body, sizes, **inputs) == pytest.approx(expected, abs=1e-15)


def test_states() -> None:
    text = """cascade c
rank I
input A[I]
output R[I] L[] P[I] B[I]
R[0] = 100
iterate i {
  P[i]     = R[i]
  R[i + 1] = R[i] + A[i]
  B[i]     = A[I - 1 - i]
}
L[] = R[I]
"""
    out = evaluate(parse(text), "I=3", {"A": [1, 2, 4]})
    assert out["R"].tolist() == [100, 101, 103, 107]  # every state can be read after the block
    assert out["P"].tolist() == [100, 101, 103]
    assert out["L"] == 107
    assert out["B"].tolist() == [4, 2, 1]


def test_a_generation_reads_the_one_before_and_never_the_one_to_come() -> None:
    head = "cascade c\nrank I\ninput A[I]\noutput O[I] U[I]\niterate i {\n"
    text = head + "  B[i] = A[i]\n  O[i] = pad(B[i - 1], -1)\n  U[i] = pad(B[i + 1], -2)\n}\n"
    out = evaluate(parse(text), "I=3", {"A": [5, 6, 7]})
    assert out["O"].tolist() == [-1, 5, 6]
    assert out["U"].tolist() == [-2, -2, -2]


def test_a_sum_of_infinities_is_not_hidden_by_an_absent_zero() -> None:
    body = "input A[I] B[I]\noutput O[]\nM[i] = A[i] where i > 0\nO[] = M[i] * B[i]"
    assert only(body, "I=2,J=1", A=[0, 2], B=[math.inf, 3]) == 6


def test_nan_comes_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(only("input A[]\noutput O[]\nO[] = A[] - A[]", "I=1,J=1", A=math.inf))


def test_same_result_across_a_split() -> None:
    sizes = {"E": 3, "F": 2, "M": 12, "P": 5}
    full, one = zoo.load("attention_3pass"), zoo.load("attention_1pass")
    assert same_result(full, one, sizes)
    assert same_result(one, full, {"E": 3, "F": 2, "M1": 4, "M0": 3, "P": 5})
    assert not same_result(full, zoo.load("attention_causal"), sizes)
    assert same_result(zoo.load("linear_recurrent"), zoo.load("linear_chunked"), {"E": 3, "F": 2, "T": 12})


def test_random_inputs_are_reproducible_and_stay_inside() -> None:
    text = HEAD + "rank N\ninput A[N, I] T[J] L[I]\noutput O[I, J]\nO[i, j] = A[T[j]*2 + 1, i] * log(L[i])"
    a, b = (random_inputs(parse(text), "I=3,J=50,N=9", seed=4) for _ in range(2))
    assert all((a[k] == b[k]).all() for k in a)
    assert set(a["T"]) == {0, 1, 2, 3}  # 2*3 + 1 = 7 is the last odd row below 9
    assert ((a["L"] > 0) & (a["L"] < 1)).all()


ADD = HEAD + "input A[I] B[I]\noutput O[I]\nO[i] = A[i] + B[i]"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"A": [1, 2]}, r"c needs the input B\[I\]"),
        ({"A": [1, 2], "B": [1, 2], "C": [1]}, "c has no input C; known: A, B"),
        ({"A": [1, 2], "B": [1, 2, 3]}, r"input B has the shape \(3,\), expected \(2,\) \(I=2\)"),
        ({"A": [1, 2], "B": ["x", "y"]}, "input B holds <U1, not real numbers"),
        ({"A": [1, 2], "B": [1j, 2]}, "input B holds complex128, not real numbers"),
        ({"A": [1, math.nan], "B": [1, 2]}, r"input A is not a number \(NaN\) at \(1,\)"),
        ({"A": [[1], [1, 2]], "B": [1, 2]}, "input A is not an array"),
    ],
)
def test_inputs_are_refused(inputs: dict, message: str) -> None:
    with pytest.raises(CascadeError) as caught:
        evaluate(parse(ADD), "I=2,J=1", inputs)
    assert re.search(message, str(caught.value).replace("\n  ", "; ")), caught.value


def test_memory_is_bounded_before_anything_is_made() -> None:
    with pytest.raises(CascadeError, match="the tensor QK would take 8,796,093,022,208 bytes; the limit is"):
        evaluate(zoo.load("attention_3pass"), "E=1,F=1,M=1M,P=1M", {})
    text = HEAD + "rank K\ninput A[I] B[J] C[K]\noutput O[]\nO[] = exp(A[i] + B[j] + C[k]) :: sum(i, j, k)"
    with pytest.raises(CascadeError, match="an operand of O would take"):
        evaluate(parse(text), "I=1M,J=1M,K=1M", {})


def test_an_index_must_be_whole() -> None:
    body = "input A[I] T[J]\noutput O[J]\nO[j] = A[T[j]]"
    with pytest.raises(CascadeError, match=r"A is indexed by 0.5, which is not a whole number"):
        only(body, "I=3,J=1", A=[1, 2, 3], T=[0.5])


def test_large_sizes_go_through_matrix_multiplication() -> None:
    # 2^36 points in the iteration space: only a contraction that never makes them can do this
    n = 4096
    c = zoo.load("gemm")
    x = random_inputs(c, {"M": n, "N": n, "K": 256})
    out = evaluate(c, {"M": n, "N": n, "K": 256}, x, limit_bytes=2**29)["C"]
    assert difference(out, x["A"].T @ x["B"]) <= 1e-12
