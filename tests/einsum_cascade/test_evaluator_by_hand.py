"""Each construct of the language, evaluated by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from einsum_cascade import parse
from einsum_cascade.evaluator import evaluate

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


def test_a_tensor_may_have_the_name_of_a_rank() -> None:
    """Brackets tell them apart: `J[p, j]` is where the j-th largest lies, `J` is how many there are."""
    cascade = parse("""
cascade gather
rank   M P J
input  S[M, P]  K[M]
output G[P, J]  O[M]
J[p, j] = S[m, p] :: topk(m -> j)
G[p, j] = K[J[p, j]] + 100 * J
O[m]    = K[p] :: sum(p) where J[p, 0] == m
""")
    scores = np.array(
        [[5.0, 1.0], [2.0, 9.0], [7.0, 8.0]]
    )  # of p = 0 the largest are at m = 2, 0; of p = 1 at 1, 2
    found = evaluate(cascade, "M=3,P=2,J=2", {"S": scores, "K": np.array([10.0, 20.0, 30.0])})
    np.testing.assert_array_equal(found["G"], [[230, 210], [220, 230]])
    np.testing.assert_array_equal(
        found["O"], [0, 20, 10]
    )  # the best of p = 0 is m = 2, that of p = 1 is m = 1
    assert parse(str(cascade)) == cascade
