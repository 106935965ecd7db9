"""The evaluator against a slow interpreter that knows nothing of arrays, and what it refuses."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from interpreter import Interpreter

from einsum_cascade import parse, zoo
from einsum_cascade.errors import CascadeError
from einsum_cascade.evaluator import difference, evaluate, points, random_inputs, same_result

# Sums in another order, at most a few dozen terms, through functions with slopes of order one.
TOLERANCE = 1e-9


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
        evaluate(parse(HEAD + body), "I=3,J=1", {"A": [1, 2, 3], "T": [0.5]})


def test_large_sizes_go_through_matrix_multiplication() -> None:
    # 2^36 points in the iteration space: only a contraction that never makes them can do this
    n = 4096
    c = zoo.load("gemm")
    x = random_inputs(c, {"M": n, "N": n, "K": 256})
    out = evaluate(c, {"M": n, "N": n, "K": 256}, x, limit_bytes=2**29)["C"]
    assert difference(out, x["A"].T @ x["B"]) <= 1e-12


def test_what_is_asked_for_being_equal_is_drawn_so_that_it_may_be() -> None:
    text = (
        "cascade masked\nrank M P\ninput X[M] KEEP[M] A[M] B[P]\noutput Y[P]\n"
        "Y[p] = X[m] :: sum(m) where KEEP[m] != 0 and A[m] == B[p]\n"
    )
    inputs = random_inputs(parse(text), "M=64,P=64")
    for name in ("KEEP", "A", "B"):
        assert set(np.unique(inputs[name])) == {0.0, 1.0}
    assert len(np.unique(inputs["X"])) == 64
