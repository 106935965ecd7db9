"""Bounds against the best of all schedules, found by search at tiny sizes; formulas against numbers."""

from __future__ import annotations

import math

import pytest
import sympy
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from pebbles import game, least_words
from small_cascades import GEMM, NORM
from tiny_cascades import Tiny, tiny_cascade

from einsum_cascade import bounds, parse, zoo

SCORES = """cascade scores
rank E M P
input Q[E, P] K[E, M]
output S[P]
QK[m, p] = Q[e, p] * K[e, m]
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
S[p] = SN[m, p]
"""

# A second visit of which nothing comes out.
IDLE = """cascade idle
rank M P
input X[M, P]
output S[]
G[] = X[m, p] * X[m, p] :: max(m, p)
A[m, p] = X[m, p] * G[]
S[] = exp(G[])
"""

# The sum runs over all columns, but a column waits for its own maximum alone.
COLUMNS = """cascade columns
rank E M
input X[E, M]
output S[]
G[m] = X[e, m] :: max(e)
S[] = X[e, m] * G[m]
"""


# The least words of each are worked out by the search alone; the last column says whether the bound reaches them.
@pytest.mark.parametrize(
    ("text", "sizes", "words", "least", "reached"),
    [
        (GEMM, {"M": 2, "P": 2, "E": 1}, 3, 9, False),  # one of four operands comes twice
        (GEMM, {"M": 2, "P": 2, "E": 1}, 4, 8, True),
        (GEMM, {"M": 2, "P": 1, "E": 2}, 3, 9, False),
        (GEMM, {"M": 2, "P": 1, "E": 2}, 4, 8, True),
        (GEMM, {"M": 2, "P": 2, "E": 2}, 3, 17, False),
        (GEMM, {"M": 2, "P": 2, "E": 2}, 4, 14, False),
        (GEMM, {"M": 2, "P": 2, "E": 2}, 5, 13, False),
        (GEMM, {"M": 2, "P": 2, "E": 2}, 6, 12, True),
        (NORM, {"M": 3, "P": 1}, 3, 8, False),
        (NORM, {"M": 3, "P": 1}, 4, 7, False),
        (NORM, {"M": 4, "P": 1}, 4, 10, False),
        (SCORES, {"E": 1, "M": 2, "P": 1}, 3, 9, False),  # the pairs hardly fit, and everything comes again
        (SCORES, {"E": 1, "M": 2, "P": 1}, 4, 4, True),
        (SCORES, {"E": 1, "M": 3, "P": 1}, 4, 8, False),
        (SCORES, {"E": 2, "M": 2, "P": 1}, 4, 7, True),
        (IDLE, {"M": 2, "P": 2}, 3, 5, True),  # four words in, one out
        (
            COLUMNS,
            {"E": 2, "M": 3},
            4,
            7,
            True,
        ),  # a column, its maximum and the sum on chip; six words in, one out
        (zoo.text("attention_3pass"), {"E": 1, "F": 1, "M": 2, "P": 1}, 4, 6, True),
    ],
)
def test_no_schedule_at_all_moves_less(
    text: str, sizes: dict[str, int], words: int, least: int, reached: bool
) -> None:
    cascade = parse(text)
    assert least_words(game(cascade, sizes), words) == least
    bound = bounds(cascade, sizes, buffer=float(words), word="1 B").traffic_bytes
    assert bound <= least
    assert (bound == least) == reached


# A game of more points, or a search of more states, is given up: most bounds need no search at all.
MOST_POINTS, MOST_STATES = 26, 1000


def beaten(tiny: Tiny) -> tuple[int, float] | None:
    """Return the words of a schedule that moves fewer than the bound, and the bound; None if none is found."""
    cascade = parse(tiny.text)
    bound = bounds(cascade, tiny.sizes, buffer=float(tiny.words), word="1 B").traffic_bytes
    board = game(cascade, tiny.sizes)
    if len(board.terms) > MOST_POINTS:
        return None
    # A bound of 7.5 words is beaten by 7.
    least = least_words(board, tiny.words, below=bound - 1e-9, most_states=MOST_STATES)
    return None if least is None else (least, bound)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_schedule_of_a_random_cascade_moves_less(seed: int) -> None:
    tiny = tiny_cascade(seed)
    assert beaten(tiny) is None, tiny


# What the search above found, each once the bound was too high.
@pytest.mark.parametrize(
    ("words", "sizes", "inputs", "output", "lines"),
    [
        # Of what is computed only a part is needed: no second visit for the others, no word of an input.
        (3, (2, 1, 1), "A[M]", "Y[M]", "L[m] = A[m]; Y[m] = exp(pad(L[m+1], 0))"),
        (4, (5, 2, 2), "B[E, M]", "U[]", "G[] = B[0, m]; Y[e] = B[e, m] * G[] :: max(m); U[] = Y[1]"),
        (
            3,
            (4, 1, 2),
            "C[M]",
            "U[P]",
            "G[] = C[m] :: max(m); Y[] = C[m] - G[] :: sum(m); U[p] = Y[] where p == 2",
        ),
        (5, (2, 1, 2), "C[M, E, P]", "U[M, P]", "Y[m, p] = C[m, e, p]; U[m, p] = Y[0, p] where m <= m"),
        # A branch that is never taken is not read, and one that lacks its value leaves the point out.
        (3, (2, 1, 1), "B[M]", "Y[M]", "U[m] = select(m <= m, B[m-1], 0); Y[m] = select(m < m, 0, U[m-1])"),
        # A whole value waits for less than the fiber: one row, one column.
        (
            4,
            (3, 2, 1),
            "C[M, P]",
            "U[M, P]",
            "G[p] = C[m, p] :: max(m); Y[p] = C[m, p] * G[0]; U[m, p] = G[p] - Y[p]",
        ),
        (
            5,
            (6, 1, 2),
            "A[M, P] C[]",
            "U[M, P]",
            "G[p] = A[m, p]; S[] = G[p] where p != 0; U[m, p] = A[m, p] * S[]",
        ),
        # A sum without terms costs nothing to make again.
        (3, (5, 1, 2), "A[E, M]", "Y[]", "T[m] = A[e, m] where e > e; G[] = exp(T[m]); Y[] = T[m] * G[]"),
    ],
)
def test_bounds_that_were_too_high(
    words: int, sizes: tuple[int, int, int], inputs: str, output: str, lines: str
) -> None:
    body = "\n".join(lines.split("; "))
    text = f"cascade c\nrank M P E\ninput {inputs}\noutput {output}\n{body}\n"
    assert beaten(Tiny(text, dict(zip("MPE", sizes, strict=True)), words)) is None


def test_what_does_not_fit_has_no_schedule() -> None:
    assert least_words(game(parse(NORM), {"M": 3, "P": 1}), 2) is None


@pytest.mark.parametrize("name", ["gemm", "attention_3pass", "squeeze_excite"])
def test_each_term_names_its_source(name: str) -> None:
    cascade = zoo.load(name)
    found = bounds(cascade, dict.fromkeys(cascade.free_ranks, 8), buffer=64.0)
    assert found.terms
    assert all(t.source.strip() for t in found.terms)
    assert max(t.traffic_bytes for t in found.terms) == found.traffic_bytes


SIZES = st.fixed_dictionaries({r: st.integers(2, 60) for r in ("E", "F", "M", "P")})


@pytest.mark.parametrize("name", ["attention_3pass", "attention_softcap"])
# Without shrinking: each example takes sympy a while, and sizes say as they are which formula is wrong.
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(sizes=SIZES, word=st.sampled_from([1, 2, 4]), buffer=st.integers(4, 256))
@example(sizes={"E": 2, "F": 2, "M": 33, "P": 2}, word=2, buffer=64)  # causal: two keys of 33 are ever needed
def test_formulas_are_the_numbers_at_any_sizes(
    name: str, sizes: dict[str, int], word: int, buffer: int
) -> None:
    found = bounds(zoo.load(name), sizes, buffer=float(buffer), word=f"{word} B")
    symbols = {k: sympy.Symbol(k, positive=True, integer=True) for k in (*sizes, "word", "buffer")}
    at = {symbols[k]: v for k, v in {**sizes, "word": word, "buffer": buffer}.items()}

    def value(key: str) -> float:
        return float(sympy.sympify(found.formulas[key], locals=symbols).subs(at))

    assert value("compulsory_bytes") == found.compulsory_bytes
    assert value("free_pass_buffer_bytes") == found.free_pass_buffer_bytes
    forced = [t.traffic_bytes for t in found.terms if t.name == "passes over M"]
    for traffic in forced:
        total = value("compulsory_bytes") + value("pass_forced_bytes[M]")
        # Floating products of the same integers; only rounding may differ.
        assert math.isclose(total, traffic, rel_tol=1e-12)
