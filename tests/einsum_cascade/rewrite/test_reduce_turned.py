"""Ranks walked from their end, and what positive factors are taken out of: held against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import evaluate, parse, passes, random_inputs, reduce_passes, same_result
from einsum_cascade.rewrite.turn import turns

STICK_BREAKING = """cascade stick_breaking
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m] where m < p
LB[m, p] = -softplus(QK[m, p])
R[0, p] = 0
iterate m {
  R[m + 1, p] = R[m, p] + pad(LB[M - 1 - m, p], 0)
}
A[m, p] = exp(QK[m, p] + LB[m, p] + R[M - 1 - m, p])
AV[f, p] = A[m, p] * V[f, m]
"""

PATH = """cascade path
"A query is carried back through the transitions of all later keys, where it meets each key."
rank E F M P
input Q[E, P] K[E, M] V[F, M] W[E, M] BE[M]
output AV[F, P]
H[0, e, p] = Q[e, p]
iterate m {
  HW[m, p] = H[m, e, p] * W[e, M - 1 - m]
  QK[m, p] = H[m, e, p] * K[e, M - 1 - m]
  H[m + 1, e, p] = select(M - 1 - m <= p, H[m, e, p] - BE[M - 1 - m] * HW[m, p] * W[e, M - 1 - m], H[m, e, p])
}
QM[m, p] = QK[M - 1 - m, p] where m <= p
GM[p] = QM[m, p] :: max(m)
SN[m, p] = exp(QM[m, p] - GM[p])
SD[p] = SN[m, p] :: sum(m)
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
"""

SOFTPICK = """cascade softpick
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m] where m <= p
LM[p] = QK[m, p] :: max(m)
GM[p] = max(LM[p], 0)
X[m, p] = exp(QK[m, p] - GM[p]) - exp(-GM[p])
N[m, p] = relu(X[m, p])
D[p] = abs(X[m, p]) :: sum(m)
A[m, p] = N[m, p] / (D[p] + 1e-6)
AV[f, p] = A[m, p] * V[f, m]
"""

SIZES = {"E": 3, "F": 2, "M": 6, "P": 6}


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def stick_breaking(x):
    """Return the mixtures by their definition: of what is left of a stick each key takes its share."""
    out = np.zeros((2, 6))
    for p in range(6):
        left = 1.0
        for m in range(p - 1, -1, -1):
            share = sigmoid(x["Q"][:, p] @ x["K"][:, m])
            out[:, p] += left * share * x["V"][:, m]
            left *= 1 - share
    return out


def path(x):
    """Return attention whose scores go through the product of the transitions between key and query."""
    out = np.zeros((2, 6))
    steps = [np.eye(3) - x["BE"][m] * np.outer(x["W"][:, m], x["W"][:, m]) for m in range(6)]
    for p in range(6):
        scores, query = [], x["Q"][:, p]
        for m in range(p, -1, -1):
            scores.append(query @ x["K"][:, m])
            query = query @ steps[m]
        weights = np.exp(scores - np.max(scores))
        out[:, p] = x["V"][:, p::-1] @ (weights / weights.sum())
    return out


def softpick(x):
    out = np.zeros((2, 6))
    for p in range(6):
        over = np.exp(x["Q"][:, p] @ x["K"][:, : p + 1]) - 1
        # 1e-6 is added to sums of exp(x - c) - exp(-c), which are smaller by exp(c)
        most = max(0.0, (x["Q"][:, p] @ x["K"][:, : p + 1]).max())
        out[:, p] = x["V"][:, : p + 1] @ np.maximum(over, 0) / (np.abs(over).sum() + 1e-6 * np.exp(most))
    return out


@pytest.mark.parametrize(
    ("text", "formula", "before", "rules"),
    [
        (STICK_BREAKING, stick_breaking, 3, ["turn"]),
        (PATH, path, 4, ["defer", "turn", "online"]),
        (SOFTPICK, softpick, 3, ["defer", "online"]),
    ],
    ids=["stick_breaking", "path", "softpick"],
)
def test_one_pass(text, formula, before: int, rules: list[str]) -> None:
    cascade = parse(text)
    found = reduce_passes(cascade, "M")
    assert (found.before, found.after) == (before, 1)
    assert [s.rule for s in found.steps] == rules
    inputs = random_inputs(cascade, SIZES, seed=7)
    split = {r: n for r, n in {**SIZES, "M1": 3, "M0": 2}.items() if r in found.cascade.rank_names}
    for each, sizes in ((cascade, SIZES), (found.cascade, split)):
        # 1e-12: some dozen float64 operations in another order
        np.testing.assert_allclose(evaluate(each, sizes, inputs)["AV"], formula(inputs), atol=1e-12)


def test_what_is_read_both_ways_is_turned_on_one_side() -> None:
    """U is read backward by T and in place by A: turning all three would leave T and U apart."""
    cascade = parse("""cascade both
rank M
input X[M]
output O[]
U[m] = exp(X[m])
T[m] = 2 * U[M - 1 - m]
R[0] = 0
iterate m {
  R[m + 1] = R[m] + T[m]
}
A[m] = U[m] * R[M - 1 - m]
O[] = A[m] :: sum(m)
""")
    sides = [
        sorted(set(r.why.removeprefix("in ").split(" the ")[0].split(", "))) for r in turns(cascade, "M")
    ]
    assert sides == [["A", "O", "U"], ["T"]]
    assert passes(cascade, "M").count == 3
    assert reduce_passes(cascade, "M").after == 1


def test_the_order_of_places_is_not_turned_where_it_can_be_seen() -> None:
    """Of an output, of places that are asked for, and of a rank in parts."""
    for line in ("O[m] = R[M - 1 - m] * X[m]", "O[] = R[M - 1 - m] :: argmax(m)"):
        shape = line.split(" ")[0]
        cascade = parse(f"""cascade seen
rank M
input X[M]
output {shape.replace("m", "M")}
R[0] = 0
iterate m {{
  R[m + 1] = R[m] + X[m]
}}
{line}
""")
        assert list(turns(cascade, "M")) == []


def test_a_maximum_that_may_be_negative_is_no_reference_for_softpick() -> None:
    """Of scores far below zero exp(-c) is infinite on the way though not in the end."""
    cascade = parse(SOFTPICK.replace("LM[p] =", "GM[p] =").replace("GM[p] = max(LM[p], 0)\n", ""))
    found = reduce_passes(cascade, "M")
    assert found.after == 2
    assert same_result(cascade, found.cascade, SIZES)
