"""Bounds hold: against an optimal cache fed with the element accesses of legal schedules."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import Event, optimal_traffic, tiled_trace
from small_cascades import GEMM, NORM

from einsum_cascade import CascadeError, bounds, evaluate, parse, zoo
from einsum_cascade.analysis.bounds import traffic_curve
from einsum_cascade.analysis.quantities import parse_bytes
from einsum_cascade.analysis.traffic import compulsory_words
from einsum_cascade.errors import DataError

GATE = """cascade gate
rank E M P
input Q[E, P] K[E, M]
output S[P]
QK[m, p] = Q[e, p] * K[e, m]
GM[p] = QK[m, p] :: max(m)
SN[m, p] = QK[m, p] * GM[p]
S[p] = SN[m, p]
"""
CAUSAL = GATE.replace("K[e, m]\n", "K[e, m] where m <= p\n")

ATTENTION = """cascade attention
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
"""
MOMENTS = """cascade moments
rank M P
input X[M, P] W[M]
output Z[P]
MU[p] = X[m, p] * W[m]
VA[p] = (X[m, p] - MU[p])**2 * W[m] :: sum(m)
Y[m, p] = (X[m, p] - MU[p]) / VA[p] * W[m]
Z[p] = Y[m, p] :: max(m)
"""


def recomputing_trace(sizes: dict[str, int], tile: int, rng: random.Random) -> list[Event]:
    """GATE without ever storing QK: each pass over the keys computes the scores again for a tile of queries."""
    trace: list[Event] = []
    for start in range(0, sizes["P"], tile):
        queries = range(start, min(start + tile, sizes["P"]))
        for final in ("GM", "S"):
            keys = list(range(sizes["M"]))
            rng.shuffle(keys)
            for first, (m, p) in enumerate(itertools.product(keys, queries)):
                for e in range(sizes["E"]):
                    trace += [("read", ("Q", e, p)), ("read", ("K", e, m))]
                    trace.append(("define" if e == 0 else "update", ("QK", m, p)))
                trace.append(("read", ("QK", m, p)))
                if final == "S":
                    trace.append(("read", ("GM", p)))
                trace.append(("define" if first < len(queries) else "update", (final, p)))
    return trace


SIZES = st.fixed_dictionaries({"M": st.integers(2, 9), "P": st.integers(1, 6), "E": st.integers(1, 4)})


@pytest.mark.parametrize(
    "text",
    [NORM, GATE, GEMM, CAUSAL.replace("gate", "causal"), ATTENTION, MOMENTS],
    ids=["norm", "gate", "gemm", "causal", "attention", "moments"],
)
@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, tile=st.integers(1, 6), words=st.integers(4, 60), seed=st.integers(0, 10**6))
def test_no_schedule_moves_less_than_the_bound(
    text: str, sizes: dict[str, int], tile: int, words: int, seed: int
) -> None:
    cascade = parse(text)
    sizes = sizes | {"F": 2}
    trace = tiled_trace(cascade, sizes, tile, random.Random(seed))
    used = {k: v for k, v in sizes.items() if k in cascade.rank_names}
    inputs = {s.tensor for s in cascade.inputs}
    outputs = {s.tensor for s in cascade.outputs}
    bound = bounds(cascade, used, buffer=float(words), word="1 B").traffic_bytes
    assert bound <= optimal_traffic(trace, words, inputs, outputs) + 1e-9


@settings(max_examples=80, deadline=None)
@given(sizes=SIZES, tile=st.integers(1, 6), words=st.integers(4, 60), seed=st.integers(0, 10**6))
def test_recomputing_from_inputs_does_not_beat_the_bound(
    sizes: dict[str, int], tile: int, words: int, seed: int
) -> None:
    trace = recomputing_trace(sizes, tile, random.Random(seed))
    bound = bounds(parse(GATE), sizes, buffer=float(words), word="1 B").traffic_bytes
    assert bound <= optimal_traffic(trace, words, {"Q", "K"}, {"S"}) + 1e-9


@pytest.mark.parametrize("p", [1, 3, 8])
def test_compulsory_words_are_those_that_some_output_needs(p: int) -> None:
    """Causal with fewer queries than keys: keys beyond the last query are never read."""
    found = compulsory_words(parse(CAUSAL), {"E": 3, "M": 8, "P": p})
    assert found == {"Q": 3 * p, "K": 3 * p, "S": p}


def test_windows_and_gathers_touch_what_they_reach() -> None:
    text = "cascade c\nrank E M P W\ninput K[E, M]\noutput Y[P]\nY[p] = K[e, {index}]\n"
    sizes = {"E": 2, "M": 20, "P": 6, "W": 3}
    # A lower bound where the index is more than a variable: its longest variable moves it over that many places.
    assert compulsory_words(parse(text.format(index="p")), sizes)["K"] == 2 * 6
    assert compulsory_words(parse(text.format(index="p + w")), sizes)["K"] <= 2 * (6 + 2)


def test_the_pass_term_is_reached_by_a_real_schedule() -> None:
    """A bound of 0 holds too; this one is tight: X is read twice, less what the buffer keeps."""
    sizes = {"M": 40, "P": 1}
    bound = bounds(parse(NORM), sizes, buffer=10.0, word="1 B").traffic_bytes
    assert bound == 40 + 40 + (40 - 10)
    # The schedule also holds the sum and one result on chip, so it may fall short of the bound by that much.
    best = min(
        optimal_traffic(tiled_trace(parse(NORM), sizes, 1, random.Random(s)), 10, {"X"}, {"Y"})
        for s in range(40)
    )
    assert bound <= best <= bound + 3


def test_the_buffer_that_frees_a_pass() -> None:
    found = bounds(parse(GATE), "M=64,P=32,E=16", word="16 bit")
    assert found.free_pass_buffer_bytes * 8 == 1024  # one row of scores: M * 16 bit
    assert found.kept == ("QK",)
    assert bounds(zoo.load("attention_1pass"), "E=4,F=4,M=64,P=8").free_pass_buffer_bytes == 0
    gate = bounds(zoo.load("squeeze_excite"), "C=8,R=2,P=30", word="1 B")
    assert gate.free_pass_buffer_bytes == 8 * 30  # the whole image stays live


@pytest.mark.parametrize("name", zoo.names())
def test_more_buffer_never_raises_the_bound(name: str) -> None:
    cascade = zoo.load(name)
    sizes = dict.fromkeys(cascade.free_ranks, 12)
    buffers = np.geomspace(8, 1e6, 30)
    curve = traffic_curve(cascade, sizes, buffers_bytes=buffers)
    assert (np.diff(curve) <= 1e-9).all()
    found = bounds(cascade, sizes, buffer=float(buffers[3]))
    assert found.traffic_bytes == pytest.approx(curve[3])
    assert found.traffic_bytes >= found.compulsory_bytes == bounds(cascade, sizes).traffic_bytes
    assert all(t.source for t in found.terms)


def test_textbook_attention_in_bytes() -> None:
    b = bounds(zoo.load("attention_3pass"), "BERT/1K,B=1", buffer="64 KiB")
    # 12 heads x (Q, K, V, AV) x 1024 x 64 words of 2 B
    assert b.compulsory_bytes == 12 * 4 * 1024 * 64 * 2
    assert b.operations["exp"] == 12 * 1024 * 1024
    assert b.passes == {"E": 1, "M": 3}
    assert b.formulas["free_pass_buffer_bytes"] == "M*word"
    assert set(b.as_json()) >= {
        "passes", "operations", "compulsory_bytes", "traffic_bytes", "free_pass_buffer_bytes", "formulas"
    }  # fmt: skip


def test_formulas_give_the_numbers() -> None:
    import sympy

    b = bounds(parse(GATE), "M=64,P=32,E=16", buffer=40.0, word="2 B")
    values = {"M": 64, "P": 32, "E": 16, "word": 2, "buffer": 40}
    named = {k: sympy.Symbol(k, positive=True, integer=True) for k in values}

    def at(name: str) -> float:
        formula = sympy.sympify(b.formulas[name], locals=named)
        return float(formula.subs({named[k]: v for k, v in values.items()}))

    assert at("compulsory_bytes") == b.compulsory_bytes
    assert at("free_pass_buffer_bytes") == b.free_pass_buffer_bytes
    passes_term = next(t for t in b.terms if t.name == "passes over M")
    assert at("compulsory_bytes") + at("pass_forced_bytes[M]") == pytest.approx(passes_term.traffic_bytes)


def test_a_curve_is_the_bound_of_each_of_its_buffers() -> None:
    cascade = zoo.load("attention_3pass")
    buffers = np.geomspace(2**10, 2**30, 30)
    curve = traffic_curve(cascade, "BERT/1M", buffers_bytes=buffers)
    one_by_one = [bounds(cascade, "BERT/1M", buffer=float(b)).traffic_bytes for b in buffers]
    # The same arithmetic on arrays and on numbers; only rounding may differ.
    assert curve == pytest.approx(one_by_one, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("16", "write the unit: '16 MiB'"),
        ("16 MB/s", "expected a number"),
        ("16 Mi", "unknown unit"),
        ("0 B", "more than"),
    ],
)
def test_amounts_without_a_unit_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_bytes(text)


def test_missing_sizes_are_refused() -> None:
    with pytest.raises(CascadeError, match="needs the size"):
        bounds(zoo.load("attention_3pass"), "E=4")


def test_a_million_tokens_squared_are_not_listed() -> None:
    """One row of a matrix of 10^12 scores is read apart: it would take a terabyte to note which element is."""
    n = 2**20
    sizes = {"D": 4, "E": 2, "F": 2, "H": 2, "J": 8, "M": n, "P": n}
    words = bounds(zoo.load("evit"), sizes).compulsory_bytes / 2
    queries_keys_values_outputs, tokens = 2 * (2 + 2 + 2 + 2) * n, 4 * n
    assert queries_keys_values_outputs < words <= queries_keys_values_outputs + tokens + 4 * (8 + 1)


@pytest.mark.parametrize(
    "index", ["j*j", "j + j", "2*j - j", "(j + 1)*j // 2", "min(j, j*j)", "i*j*j", "j**2"]
)
@pytest.mark.parametrize("where", ["", " where j*j < i + 3"])
def test_an_index_in_which_a_variable_stands_twice(index: str, where: str) -> None:
    head = "cascade d\nrank I J K\ninput A[K]\noutput O[I]\nB[k] = A[k] + 1\n"
    cascade = parse(f"{head}O[i] = B[{index}] :: sum(j){where}\n")
    sizes, a = {"I": 3, "J": 4, "K": 4}, np.array([1.0, 20.0, 300.0, 4000.0])
    before = evaluate(cascade, sizes, {"A": a})["O"]
    # An element is read where the outputs move with it; each is one word, and so are the three outputs.
    moved = [evaluate(cascade, sizes, {"A": a + 0.5 * np.eye(4)[k]})["O"] for k in range(4)]
    words = 3 + sum(not np.array_equal(before, after) for after in moved)
    assert bounds(cascade, sizes, word=1.0).compulsory_bytes <= words
