"""Newer attentions as people write them: fewer passes, held against NumPy; and rewrites that must not be made."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import evaluate, parse, parse_sizes, passes, random_inputs, reduce_passes

SOFTMAX = """GM[p] = {s} :: max({v})
SN[{v}, p] = exp({s} - GM[p])
SD[p] = SN[{v}, p] :: sum({v})
A[{v}, p] = SN[{v}, p] / SD[p]
"""


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reduced(text: str, rank: str, sizes: str, before: int, after: int):
    cascade = parse(text)
    found = reduce_passes(cascade, rank)
    assert (found.before, found.after) == (before, after)
    inputs = random_inputs(cascade, parse_sizes(sizes, cascade), seed=5)
    # the sizes of the original are enough for the result, whatever ranks were split
    return found, inputs, evaluate(found.cascade, parse_sizes(sizes, found.cascade), inputs)


def test_pages_chosen_by_their_bounds_are_fetched_once() -> None:
    """Quest: the largest product that a page's extreme keys allow chooses pages, which are then fetched whole."""
    text = f"""cascade quest
rank E F G I P R
rank M = G * I
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
KX[e, g] = K[e, g*I + i] :: max(i)
KN[e, g] = K[e, g*I + i] :: min(i)
UB[g, p] = max(Q[e, p] * KX[e, g], Q[e, p] * KN[e, g]) :: sum(e)
TOP[r, p] = UB[g, p] :: topk(g -> r)
QK[r, i, p] = Q[e, p] * K[e, TOP[r, p] * I + i]
{SOFTMAX.format(s="QK[r, i, p]", v="r, i")}AV[f, p] = A[r, i, p] * V[f, TOP[r, p] * I + i] :: sum(r, i)
"""
    _, x, got = reduced(text, "M", "E=3,F=2,M=12,I=3,P=4,R=3", 3, 2)
    scores, pages = x["Q"].T @ x["K"], x["K"].reshape(3, 4, 3)
    for p in range(4):
        q = x["Q"][:, p, None]
        best = np.argsort(-np.maximum(q * pages.max(2), q * pages.min(2)).sum(0))[:3]
        keys = (best[:, None] * 3 + np.arange(3)).ravel()
        np.testing.assert_allclose(got["AV"][:, p], x["V"][:, keys] @ softmax(scores[p, keys]), atol=1e-12)


def test_a_table_of_places_inside_a_block_is_made_before_the_walk() -> None:
    text = f"""cascade table
rank E F P
rank M = M1 * M0
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
W[m0] = exp(-m0)
QK[m1, m0, p] = Q[e, p] * K[e, m1*M0 + m0]
S[m1, m0, p] = QK[m1, m0, p] + W[m0]
{SOFTMAX.format(s="S[m1, m0, p]", v="m1, m0")}AV[f, p] = A[m1, m0, p] * V[f, m1*M0 + m0] :: sum(m1, m0)
"""
    _, x, got = reduced(text, "M", "E=3,F=2,M=6,M0=2,P=5", 3, 1)
    scores = x["Q"].T @ x["K"] + np.exp(-(np.arange(6) % 2))
    np.testing.assert_allclose(got["AV"], x["V"] @ softmax(scores).T, atol=1e-12)


def test_buckets_need_as_many_as_their_text_divides() -> None:
    """T5: sizes at which a rewrite is checked grow until the text, which divides B by 4, can be evaluated."""
    text = f"""cascade t5
rank E F M P B
input Q[E, P] K[E, M] V[F, M] REL[B]
output AV[F, P]
FAR[m, p] = floor(log(max(abs(p - m), 1) / (B // 4)) / log(128 / (B // 4)) * (B // 2 - B // 4))
BK[m, p] = select(m > p, B // 2, 0) + select(abs(p - m) < B // 4, abs(p - m), min(B // 2 - 1, B // 4 + FAR[m, p]))
QK[m, p] = Q[e, p] * K[e, m]
S[m, p] = QK[m, p] + REL[BK[m, p]]
{SOFTMAX.format(s="S[m, p]", v="m")}AV[f, p] = A[m, p] * V[f, m]
"""
    _, x, got = reduced(text, "M", "E=3,F=2,M=40,P=40,B=16", 3, 1)
    p, m = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
    apart = abs(p - m)
    far = 4 + np.floor(np.log(np.maximum(apart, 1) / 4) / np.log(128 / 4) * 4)
    bucket = 8 * (m > p) + np.where(apart < 4, apart, np.minimum(7, far))
    scores = x["Q"].T @ x["K"] + x["REL"][bucket.astype(int)]
    np.testing.assert_allclose(got["AV"], x["V"] @ softmax(scores).T, atol=1e-12)


def test_a_second_name_gives_the_size_of_a_rank_that_was_split() -> None:
    """Axial attention: keys of a row under a second name, `rank U = X`; X alone is enough for the result too."""
    text = """cascade axial
rank E F Y X
rank U = X
input Q[E, Y, X] K[E, Y, X] V[F, Y, X]
output O[F, Y, X]
QK[u, y, x] = Q[e, y, x] * K[e, y, u]
GM[y, x] = QK[u, y, x] :: max(u)
SN[u, y, x] = exp(QK[u, y, x] - GM[y, x])
SD[y, x] = SN[u, y, x] :: sum(u)
A[u, y, x] = SN[u, y, x] / SD[y, x]
O[f, y, x] = A[u, y, x] * V[f, y, u]
"""
    found, x, got = reduced(text, "U", "E=3,F=2,Y=3,X=6", 3, 1)
    weights = softmax(np.einsum("eyx,eyu->yxu", x["Q"], x["K"]))
    np.testing.assert_allclose(got["O"], np.einsum("yxu,fyu->fyx", weights, x["V"]), atol=1e-12)
    assert parse_sizes("E=3,F=2,Y=3,X=6,U0=2", found.cascade)["U1"] == 3


def test_a_walk_the_other_way_has_its_reason() -> None:
    """Stick-breaking attention from the last key to the first, over shares that are asked for themselves."""
    text = """cascade stick
rank F M P
input QK[M, P] V[F, M]
output AV[F, P] S[M, P]
S[m, p] = sigmoid(QK[m, p])
LEFT[0, p] = 1
AC[0, f, p] = 0
iterate m {
  AC[m + 1, f, p] = AC[m, f, p] + LEFT[m, p] * S[M - 1 - m, p] * V[f, M - 1 - m]
  LEFT[m + 1, p] = LEFT[m, p] * (1 - S[M - 1 - m, p])
}
AV[f, p] = AC[M, f, p]
"""
    found = reduce_passes(parse(text), "M")
    assert found.after == 2
    assert reduce_passes(parse(text.replace(" S[M, P]", "")), "M").after == 1
    assert [(s.einsum, s.why) for s in found.stuck] == [("AC", "it walks M in the other direction")]


@pytest.mark.parametrize("scale", [1, 5, 30])
def test_a_running_sum_is_no_running_maximum(scale: int) -> None:
    """exp(x - sum) may be finite where exp(x - sum so far) is not, so it is not carried from block to block."""
    text = """cascade wild
rank E F M P
input Q[E, P] K[E, M] V[F, M] G[M]
output O[F, P]
S[m, p] = Q[e, p] * K[e, m] * 2
W[p] = S[m, p] * G[m] :: sum(m)
T[m, p] = exp(S[m, p] - W[p]) * G[m]
O[f, p] = T[m, p] * V[f, m]
"""
    cascade = parse(text)
    found = reduce_passes(cascade, "M")
    assert found.after == 2 and "no running maximum" in found.stuck[0].why
    for seed in range(8):
        inputs = {t: scale * v for t, v in random_inputs(cascade, "E=3,F=2,M=15,P=7", seed=seed).items()}
        before = evaluate(cascade, "E=3,F=2,M=15,P=7", inputs)["O"]
        after = evaluate(found.cascade, "E=3,F=2,M=15,P=7", inputs)["O"]
        assert np.isfinite(after[np.isfinite(before)]).all()


def test_passes_over_selected_pages_end_with_the_selection() -> None:
    """What is gathered up inside a page is gathered while pages stream; only all pages together end the visit."""
    # a bound of each page from all its keys, the page's own largest score, and the sum of those
    text = """cascade inside
rank E G I P R
rank M = G * I
input Q[E, P] K[E, M]
output L[R, P] T[P]
KX[g] = K[e, g*I + i] :: max(e, i)
UB[g, p] = KX[g] * Q[e, p]
TOP[r, p] = UB[g, p] :: topk(g -> r)
S[r, i, p] = Q[e, p] * K[e, TOP[r, p] * I + i]
L[r, p] = S[r, i, p] :: max(i)
T[p] = L[r, p] :: sum(r)
"""
    found = passes(parse(text), "M")
    assert found.count == 2
    assert found.summaries["L"] == 2 and found.summaries["T"] == 2.5


def test_keys_chosen_by_weights_that_were_gathered_online() -> None:
    """H2O: keys that drew the most attention are kept; both softmaxes run online, over keys and over kept ones."""
    text = """cascade heavy
rank E M P R
input Q[E, P] K[E, M] N[E]
output TOP[] SUM[]
QK[m, p] = Q[e, p] * K[e, m] where m <= p
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p] :: sum(m)
A[m, p] = SN[m, p] / SD[p]
HH[m] = A[m, p] :: sum(p)
J[r] = HH[m] :: topk(m -> r)
S[r] = N[e] * K[e, J[r]]
TOP[] = S[r] :: max(r)
Y[r] = exp(S[r] - TOP[]) * K[0, J[r]]
SUM[] = Y[r] :: sum(r)
"""
    _, x, got = reduced(text, "M", "E=3,M=6,P=6,R=3", 5, 3)
    seen = np.where(np.arange(6)[:, None] <= np.arange(6), x["K"].T @ x["Q"], -np.inf)
    best = np.argsort(-softmax(seen.T).sum(0))[:3]
    scores = x["N"] @ x["K"][:, best]
    np.testing.assert_allclose(got["TOP"], scores.max(), atol=1e-12)
    np.testing.assert_allclose(got["SUM"], np.exp(scores - scores.max()) @ x["K"][0, best], atol=1e-12)


def test_what_a_pad_guards_stays_an_access() -> None:
    """The variance of masked shares: those that are masked count as 0."""
    text = f"""cascade guarded
rank P M
input X[P, M] KEEP[M]
output O[P]
S[m, p] = X[p, m] where KEEP[m] == 1
{SOFTMAX.format(s="S[m, p]", v="m")}MU[p] = A[m, p] / M :: sum(m)
O[p] = (pad(A[m, p], 0) - MU[p])**2 :: sum(m)
"""
    _, x, got = reduced(text, "M", "P=3,M=8", 4, 2)
    keep = x["KEEP"] == 1
    shares = np.zeros((3, 8))
    shares[:, keep] = softmax(x["X"][:, keep])
    np.testing.assert_allclose(got["O"], ((shares - shares.mean(1, keepdims=True)) ** 2).sum(1), atol=1e-12)


def test_a_formula_that_is_fetched_under_a_pad_gets_a_name() -> None:
    text = f"""cascade shifted
rank P M
input X[P, M] V[M]
output O[P]
Z[m, p] = X[p, m] * V[m]
Y[m, p] = pad(Z[m + 1, p], 0) + Z[m, p]
{SOFTMAX.format(s="Y[m, p]", v="m")}O[p] = A[m, p] * V[m]
"""
    _, x, got = reduced(text, "M", "P=3,M=8", 3, 1)
    z = x["X"] * x["V"]
    wanted = softmax(z + np.pad(z, ((0, 0), (0, 1)))[:, 1:]) @ x["V"]
    np.testing.assert_allclose(got["O"], wanted, atol=1e-12)


def test_shares_of_nothing_add_up_to_nothing() -> None:
    """The sum of a row's shares is SD / SD = 1, and 0 where the mask leaves the row nothing: both in one pass."""
    text = f"""cascade shares
rank P M
input X[P, M] KEEP[P, M]
output O[P]
S[m, p] = X[p, m] where KEEP[p, m] == 1
{SOFTMAX.format(s="S[m, p]", v="m")}O[p] = A[m, p] / M :: sum(m)
"""
    found, x, _ = reduced(text, "M", "P=3,M=8", 3, 1)
    x["KEEP"] = np.array([[1.0] * 8, [0.0] * 8, [0.0, 1.0] * 4])
    got = evaluate(found.cascade, parse_sizes("P=3,M=8", found.cascade), x)
    np.testing.assert_allclose(got["O"], [1 / 8, 0.0, 1 / 8], atol=1e-12)
