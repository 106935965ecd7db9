"""What a fiber uses of each tensor: bounds hold where fibers share words, read slices, or wait for part of an input."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from schedules import optimal_traffic, tiled_trace

from einsum_cascade import Cascade, bounds, parse

# Keys come as they are, or are projected once for all queries; scores get a bias, or are read in part.
GIVEN, PROJECTED = "K[e, m]", "H[e, m]"
BIASES = (
    "",
    " + Z[m, p]",
    " + Z[m, 0]",
    " + Z[m, p // 2]",
    " + Z[m, p % 2]",
    " + Z[m, min(p, 1)]",
    " + Z[m % 2, p]",
)
SIZES = st.fixed_dictionaries({r: st.integers(1, n) for r, n in {"M": 9, "P": 8, "E": 3, "L": 3}.items()})


def softmax(keys: str, bias: str) -> Cascade:
    """Sums of softmax weights under a bias, with keys that are given or projected."""
    used = keys == PROJECTED
    inputs = "C[L, M]  W[E, L]" if used else "K[E, M]"
    project = "H[e, m] = W[e, l] * C[l, m]\n" if used else ""
    return parse(
        f"cascade softmax\nrank E M P{' L' if used else ''}\n"
        f"input Q[E, P]  {inputs}{'  Z[M, P]' if bias else ''}\noutput S[P]\n{project}"
        f"QK[m, p] = Q[e, p] * {keys}\nB[m, p] = QK[m, p]{bias}\nGM[p] = B[m, p] :: max(m)\n"
        "SN[m, p] = exp(B[m, p] - GM[p])\nS[p] = SN[m, p]\n"
    )


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("keys", [GIVEN, PROJECTED])
@settings(max_examples=60, deadline=None)
@given(
    sizes=SIZES,
    tile=st.integers(1, 8),
    words=st.integers(4, 60),
    once=st.booleans(),
    seed=st.integers(0, 10**6),
)
@example(sizes={"M": 9, "P": 8, "E": 1, "L": 1}, tile=1, words=24, once=True, seed=0)
@example(sizes={"M": 9, "P": 8, "E": 1, "L": 1}, tile=8, words=8, once=False, seed=0)
def test_no_schedule_moves_less_than_the_bound(
    keys: str, bias: str, sizes: dict[str, int], tile: int, words: int, once: bool, seed: int
) -> None:
    cascade = softmax(keys, bias)
    sizes = {r: n for r, n in sizes.items() if r in cascade.rank_names} | {"P": max(2, sizes["P"])}
    sizes |= {"M": max(2, sizes["M"])}
    trace = tiled_trace(cascade, sizes, tile, random.Random(seed), once=once)
    inputs, outputs = ({s.tensor for s in group} for group in (cascade.inputs, cascade.outputs))
    bound = bounds(cascade, sizes, buffer=float(words), word="1 B").traffic_bytes
    assert bound <= optimal_traffic(trace, words, inputs, outputs) + 1e-9


def test_keys_projected_once_do_not_make_a_row_of_scores_longer() -> None:
    """One query at a time: its M scores stay on chip, wherever the keys come from."""
    for keys in (GIVEN, PROJECTED):
        cascade = softmax(keys, "")
        sizes = {r: n for r, n in {"E": 8, "L": 4, "M": 100, "P": 50}.items() if r in cascade.rank_names}
        assert bounds(cascade, sizes, word="1 B").free_pass_buffer_bytes == 100


def test_a_row_of_a_bias_is_not_read_before_its_query() -> None:
    """H (400 words), and the rows of one query beside it: nothing comes twice with 1,000 words on chip."""
    sizes = {"E": 4, "L": 4, "M": 100, "P": 100}
    found = bounds(softmax(PROJECTED, BIASES[1]), sizes, buffer=1000.0, word="1 B")
    assert found.traffic_bytes == found.compulsory_bytes == 4 * 100 + 4 * 4 + 4 * 100 + 100 * 100 + 100


def test_a_column_that_all_queries_read_is_one_column() -> None:
    """Two walks over K and one column of Z for each of 9 tiles of 120 queries, of which 4 words each are on chip."""
    sizes = {"E": 2, "M": 1000, "P": 1000}
    found = bounds(softmax(GIVEN, BIASES[2]), sizes, buffer=500.0, word="1 B")
    assert found.traffic_bytes <= 9 * 2 * (2 + 1) * 1000 + 2 * 1000 + 1000


@pytest.mark.parametrize("value", ["select(m < 2, B[m, p], 0)", "B[m % 2, p]", "B[m // 50, p]"])
def test_a_next_pass_that_needs_few_scores_keeps_few(value: str) -> None:
    """Two scores a query are wanted again, so two words on chip are enough."""
    text = "cascade few\nrank M P\ninput X[M, P]\noutput S[P]\nB[m, p] = exp(X[m, p])\nGM[p] = B[m, p] :: max(m)\n"
    cascade = parse(text + f"SN[m, p] = {value} - GM[p]\nS[p] = SN[m, p]\n")
    found = bounds(cascade, {"M": 100, "P": 3}, buffer=8.0, word="1 B")
    assert found.free_pass_buffer_bytes <= 2
    assert found.traffic_bytes == found.compulsory_bytes == 303


def test_a_gate_of_neighbouring_channels_waits_for_these_alone() -> None:
    """Three channels of 20 pixels on chip are enough for a gate that sees three channels."""
    text = (
        "cascade gate\nrank C P W\ninput X[C, P]  T[W]\noutput O[C, P]\n"
        "G[c] = X[c, p]\nN[c] = pad(G[c + w - 1], 0) * T[w]\nO[c, p] = X[c, p] * N[c]\n"
    )
    found = bounds(parse(text), {"C": 50, "P": 20, "W": 3}, buffer=100.0, word="1 B")
    assert found.traffic_bytes == found.compulsory_bytes == 2 * 50 * 20 + 3
