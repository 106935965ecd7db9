"""Texts that name places by numbers, or read one rank along another: equality is asked where such places exist."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import evaluate, parse, random_inputs, reduce_passes, same_result
from einsum_cascade.evaluator import difference
from einsum_cascade.rewrite.equality import equal, trial_sizes

HEAD = "rank E P M\ninput Q[P, E] K[M, E]\noutput O[P, M]\n"


def turned(half: int, sign: str) -> str:
    rotated = f"select(e < {half}, {sign}Q[p, e + {half}], Q[p, e - {half}])"
    return f"cascade turned\n{HEAD}R[p, e] = {rotated}\nO[p, m] = R[p, e] * K[m, e]\n"


@pytest.mark.parametrize("half", [2, 16, 64])
def test_texts_that_differ_at_a_place_are_told_apart(half: int) -> None:
    one, other = parse(turned(half, "-")), parse(turned(half, "2*"))
    assert not same_result(one, other, {"E": 2 * half, "P": 3, "M": 4})
    assert equal(one, one, "M")
    assert not equal(one, other, "M")


@pytest.mark.parametrize(("read", "last"), [("X[p, 2]", 2), ("X[p, 40]", 40), ("X[p, 0 + 7]", 7)])
def test_an_output_that_reads_one_place_exists_where_it_is_asked_for(read: str, last: int) -> None:
    head = "cascade one\nrank P C M\ninput X[P, C] Y[P, M]\noutput O[P]\n"
    cascade = parse(f"{head}S[p] = Y[p, m] :: sum(m)\nO[p] = {read} * S[p]\n")
    for mine, _ in trial_sizes(cascade, cascade, "M"):
        assert mine["C"] > last
        assert np.abs(evaluate(cascade, mine, random_inputs(cascade, mine))["O"]).min() > 0


def test_ranks_that_are_read_along_each_other_fit() -> None:
    text = (
        "cascade sums\nrank P M C J\ninput F[C] X[P, M]\noutput O[P, M]\n"
        "CS[c] = F[i] :: sum(i) where i <= c\nU[j] = select(j < 1, 0, CS[j - 1])\n"
        "O[p, m] = X[p, m] * (U[p + 1] - U[m + 1])\n"
    ).replace("rank P M C J", "rank P M C J\nrank I = C")
    cascade = parse(text)
    for mine, _ in trial_sizes(cascade, cascade, "M"):
        assert mine["J"] >= max(mine["P"], mine["M"]) + 1
        assert mine["C"] >= mine["J"] - 1


def test_numbers_too_large_to_be_tried_are_left_out() -> None:
    cascade = parse(
        "cascade far\nrank P M\ninput X[P, M]\noutput O[P]\nO[p] = X[p, m] :: sum(m) where m < p + 5000\n"
    )
    assert all(
        n < 5000
        for mine, theirs in trial_sizes(cascade, cascade, "M")
        for n in (*mine.values(), *theirs.values())
    )


def test_marks_of_a_mask_say_nothing_of_the_other_numbers() -> None:
    low = np.finfo(float).min
    assert difference([1.0, low], [2.0, low]) == 0.5
    assert difference([1.0, -3e38], [1.0, low]) > 0.5
    assert difference([1e6 + 1, 2.0], [1e6, 2.0]) == pytest.approx(1e-6)
    assert difference([np.inf, 1.0], [np.inf, 1.0]) == 0
    assert difference([1.0], [np.inf]) == np.inf


# A compressed key is one element of a block, which a mask may leave out; so may a mask of blocks.
SUMMARY = """cascade compressed
rank P E F
rank D = B*N
input Q[P, E] K[D, E] V[D, F]
output OC[P, E] O[P, F]
C[b, e]     = K[b*N + n, e] / N :: sum(n)
S[p, b]     = Q[p, e] * C[b, e] where (b + 1)*N - 1 <= p
GM[p]       = S[p, b] :: max(b)
SN[p, b]    = exp(S[p, b] - GM[p])
SD[p]       = SN[p, b] :: sum(b)
A[p, b]     = SN[p, b] / SD[p]
OC[p, e]    = A[p, b] * C[b, e]
SX[p, b, n] = Q[p, e] * K[b*N + n, e]
GX[p]       = SX[p, b, n] :: max(b, n)
SY[p, b, n] = exp(SX[p, b, n] - GX[p])
SZ[p]       = SY[p, b, n] :: sum(b, n)
AX[p, b, n] = SY[p, b, n] / SZ[p]
O[p, f]     = AX[p, b, n] * V[b*N + n, f] :: sum(b, n)
"""
BLOCKS = """cascade chosen
rank P E F
rank D = B*N
input Q[P, E] K[D, E] V[D, F] T[P, B]
output O[P, F]
S[p, b, n]  = Q[p, e] * K[b*N + n, e] where T[p, b] > 0
GM[p]       = S[p, b, n] :: max(b, n)
SN[p, b, n] = exp(S[p, b, n] - GM[p])
SD[p]       = SN[p, b, n] :: sum(b, n)
A[p, b, n]  = SN[p, b, n] / SD[p]
O[p, f]     = A[p, b, n] * V[b*N + n, f] :: sum(b, n)
"""


@pytest.mark.parametrize("text", [SUMMARY, BLOCKS], ids=["summary", "blocks"])
@pytest.mark.parametrize("blocks", [(1, 4), (4, 1), (3, 2), (5, 3)])
def test_a_block_that_a_mask_leaves_out_changes_nothing(text: str, blocks: tuple[int, int]) -> None:
    cascade = parse(text)
    found = reduce_passes(cascade, "D")
    assert found.after == 1
    sizes = {"P": 7, "E": 3, "F": 2, "B": blocks[0], "N": blocks[1]}
    for seed in range(3):
        assert same_result(cascade, found.cascade, sizes, seed=seed)


def test_copies_of_elements_get_names_of_their_own() -> None:
    # B + U is taken as far as BU3, so that the copies of U and of U4 would both be BU4.
    names = {"U": "BU", "U2": "BU2", "U3": "BU3"}
    lines = [f"{b}[p] = X[p, m] * {i + 2} :: max(m)" for i, b in enumerate(names.values())]
    text = (
        "cascade named\nrank P M J F\ninput X[P, M] V[M, F]\noutput O[P, F] PL[P, J] R[P]\n"
        + "\n".join(lines)
        + "\nU[p, m] = X[p, m] * X[p, m]\nU4[p, m] = U[p, m] + X[p, m]\nGM[p] = U4[p, m] :: max(m)\n"
        "SN[p, m] = exp(U4[p, m] - GM[p])\nSD[p] = SN[p, m] :: sum(m)\nA[p, m] = SN[p, m] / SD[p]\n"
        "O[p, f] = A[p, m] * V[m, f]\nPL[p, j] = A[p, m] :: topk(m -> j)\nR[p] = BU[p] + BU2[p] + BU3[p]\n"
    )
    cascade = parse(text)
    found = reduce_passes(cascade, "M")
    assert found.after < found.before
    assert same_result(cascade, found.cascade, {"P": 3, "M": 8, "J": 2, "F": 2})
