"""Iteration points: intervals against a walk over every point."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from examples import MORE
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Use, uses

from einsum_cascade import CascadeError, evaluate, parse, zoo
from einsum_cascade.analysis.points import conditions_of, operations, points
from einsum_cascade.analysis.predicates import conjuncts, count, is_static, projection
from einsum_cascade.analysis.reach import defined
from einsum_cascade.cascade import Cascade
from einsum_cascade.evaluator import points as evaluated
from einsum_cascade.evaluator import random_inputs
from einsum_cascade.expr import Access
from einsum_cascade.ops import REDUCTION
from einsum_cascade.parser import parse_expression

_NAMES = ("m", "p", "q")
_NUMBERS = {"W": 3, "S": 2}


@st.composite
def linear(draw: st.DrawFn) -> str:
    coefficients = [draw(st.integers(-3, 3)) for _ in _NAMES]
    terms = [f"{c}*{v}" for c, v in zip(coefficients, _NAMES, strict=True) if c]
    return " + ".join([*terms, str(draw(st.integers(-6, 6)))])


@st.composite
def comparison(draw: st.DrawFn) -> str:
    op = draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
    shape = draw(
        st.sampled_from(
            ["{a} {o} {b}", "abs({a}) {o} 4", "0 <= {a} < W", "(m + p)//S {o} {b}", "p % 3 {o} 1"]
        )
    )
    return shape.format(a=draw(linear()), b=draw(linear()), o=op)


@st.composite
def predicate(draw: st.DrawFn, depth: int = 2) -> str:
    if depth == 0:
        return draw(comparison())
    kind = draw(st.sampled_from(["and", "or", "not", "leaf"]))
    if kind == "leaf":
        return draw(comparison())
    if kind == "not":
        return f"not ({draw(predicate(depth - 1))})"
    return f"({draw(predicate(depth - 1))}) {kind} ({draw(predicate(depth - 1))})"


def walk_all(text: str, sizes: dict[str, int]) -> list[dict[str, int]]:
    """The oracle: Python itself reads the predicate, at every point."""
    code = compile(text, "predicate", "eval")
    grid = itertools.product(*(range(sizes[v]) for v in _NAMES))
    spots = (dict(zip(_NAMES, place, strict=True)) for place in grid)
    return [s for s in spots if eval(code, {"abs": abs, **_NUMBERS}, s)]


@settings(max_examples=150, deadline=None)
@given(text=predicate(), m=st.integers(1, 7), p=st.integers(1, 6), q=st.integers(1, 4))
def test_counts_equal_a_walk_over_every_point(text: str, m: int, p: int, q: int) -> None:
    sizes = {"m": m, "p": p, "q": q}
    assert count(conjuncts(parse_expression(text)), sizes, _NUMBERS) == len(walk_all(text, sizes))


@settings(max_examples=200, deadline=None)
@given(
    text=predicate(),
    m=st.integers(1, 7),
    p=st.integers(1, 6),
    kept=st.lists(st.sampled_from(_NAMES), unique=True),
)
def test_projections_equal_a_walk_over_every_point(text: str, m: int, p: int, kept: list[str]) -> None:
    sizes = {"m": m, "p": p, "q": 3}
    wanted = {tuple(s[v] for v in kept) for s in walk_all(text, sizes)}
    assert projection(conjuncts(parse_expression(text)), kept, sizes, _NUMBERS) == len(wanted)


def test_what_shares_only_a_kept_variable_is_not_walked_together() -> None:
    """A place in a block and an earlier block: 10^15 points together, 2 * 10^5 walked alone."""
    text = "(t <= p % 64 and g < p // 64) or (t > p % 64 and g == 0)"
    sizes = {"p": 10**5, "t": 10**5, "g": 10**5}
    assert projection(conjuncts(parse_expression(text)), ["p"], sizes, {}) == 10**5


def test_more_places_than_memory_has_are_refused() -> None:
    sizes = dict.fromkeys("pmt", 10**6)
    with pytest.raises(CascadeError, match="would take 1,000,000,000,000 steps"):
        projection([parse_expression("t <= p % 64 and t <= m % 64")], ["p", "m"], sizes, {})


def test_a_million_by_a_million_is_counted_by_intervals() -> None:
    n, w = 2**20, 4096
    got = points(zoo.load("attention_1pass_sliding_window"), "QK", f"E=1,F=1,M={n},P={n},W={w}")
    assert got == w * (w + 1) // 2 + (n - w) * w


def test_a_mask_carries_through_the_cascade() -> None:
    c = zoo.load("attention_causal")
    sizes = "E=2,F=3,M=10,P=10"
    assert points(c, "QK", sizes) == 2 * 55
    assert points(c, "SN", sizes) == points(c, "A", sizes) == 55
    assert points(c, "AV", sizes) == 3 * 55


def test_reads_outside_a_tensor_do_not_count_but_padded_ones_do() -> None:
    text = "cascade c\nrank P W\ninput X[P]\noutput Y[P]\nY[p] = {x} * 2 :: sum(w)\n"
    # p + w - 1 leaves [0, 4) once at each end for w in 0..2.
    assert points(parse(text.format(x="X[p + w - 1]")), "Y", "P=4,W=3") == 10
    assert points(parse(text.format(x="pad(X[p + w - 1], 0)")), "Y", "P=4,W=3") == 12


def test_operations_of_textbook_attention() -> None:
    # E*M*P + F*M*P = 2*64 + 3*64 multiply-accumulates; one max, exp, divide a score; two additions a score (- and sum)
    got = operations(zoo.load("attention_3pass"), "E=2,F=3,M=8,P=8")
    assert got == {"mac": 320, "max": 64, "exp": 64, "add": 128, "divide": 64}
    batched = operations(zoo.load("attention_3pass"), "E=2,F=3,M=8,P=8,B=2,H=3")
    assert batched == {op: 6 * n for op, n in got.items()}


def test_what_leaves_a_reduction_without_terms_leaves_its_identity_to_the_next() -> None:
    """Of j = 0 the chain removes all terms, and min is inf there: max has two terms, after the two of min."""
    text = "cascade c\nrank I J\ninput A[I, J]\noutput O[]\nO[] = A[i, j] :: min(i) :: max(j) where 1 <= j <= i\n"
    assert operations(parse(text), "I=3,J=2") == {"max": 4}
    # B[1, j] is outside of B whatever j is: no term of the product, and one of the maximum
    text = (
        "cascade c\nrank I J\ninput B[I, J]\noutput O[]\nU[i, j] = B[i, j] where I > 1\n"
        "O[] = U[i, j] :: prod(j) :: max(i)\n"
    )
    assert operations(parse(text), "I=1,J=2") == {"max": 1, "mul": 0}


def test_an_unknown_einsum_is_refused() -> None:
    with pytest.raises(CascadeError, match="no Einsum QQ"):
        points(zoo.load("attention_3pass"), "QQ", "E=1,F=1,M=1,P=1")


MASKED_SUMS = """cascade masked_sums
rank G P T
input A[G, P, T]
output D[G, P]
B[g, p, t] = A[g, p, t] where g == p and t <= p
C[g, p] = B[g, p, t] :: sum(t)
D[g, p] = 1 + C[g, p]
"""


def test_a_chain_that_names_a_reduced_variable_removes_terms() -> None:
    """Not the places for which its other comparisons fail: all of it is one conjunct."""
    text = "cascade chain\nrank I M\ninput A[I]\noutput U[M]\nU[m] = A[i] :: min(i) where i >= I <= m + 1\n"
    cascade, sizes = parse(text), {"I": 3, "M": 4}
    inputs = random_inputs(cascade, sizes)
    assert evaluated(cascade, sizes, inputs)["U"].present is None
    assert defined(cascade, cascade.einsum("U"), sizes) == 4


def test_an_element_that_a_conjunct_reads_removes_what_the_conjunct_names() -> None:
    """A[2] does not exist, so the conjunct fails; it names i, so that terms are removed: a product of none is 1."""
    text = "cascade missing\nrank I N\ninput A[N] B[I]\noutput U[N]\nU[n] = B[i] :: prod(i) where A[2] > I or n < i\n"
    cascade, sizes = parse(text), {"I": 3, "N": 2}
    found = evaluated(cascade, sizes, random_inputs(cascade, sizes))["U"]
    assert found.present is None
    assert (found.values == 1).all()
    assert defined(cascade, cascade.einsum("U"), sizes) == 2


def test_what_removes_all_terms_of_a_sum_does_not_remove_the_sum() -> None:
    """The sum of nothing is zero: it exists, and who reads it exists."""
    cascade, sizes = parse(MASKED_SUMS), "G=4,P=4,T=4"
    assert evaluated(cascade, sizes, random_inputs(cascade, sizes))["D"].present is None
    assert points(cascade, "C", sizes) == 1 + 2 + 3 + 4
    assert points(cascade, "D", sizes) == 16


@settings(max_examples=100 * MORE, deadline=None)
@given(use=uses(iterate=False))
def test_points_of_a_map_are_those_that_the_evaluator_finds_present(use: Use) -> None:
    """Of what data decides nothing is known before; nor of what a selection among too few has left absent."""
    found = evaluated(use.cascade, use.sizes, use.inputs)
    for einsum in use.cascade.einsums:
        conditions = conditions_of(use.cascade, einsum)
        known = all(is_static(c.holds) for c in conditions) and not einsum.gathers
        if (
            einsum.all_reductions
            or not known
            or any(may_be_absent_by_data(use.cascade, a) for a in einsum.reads)
        ):
            continue
        present = found[einsum.name].present
        there = math.prod(found[einsum.name].values.shape) if present is None else int(present.sum())
        assert points(use.cascade, einsum.name, use.sizes) == there


@settings(max_examples=150 * MORE, deadline=None)
@given(use=uses(iterate=False))
def test_elements_that_exist_are_those_that_the_evaluator_finds_present(use: Use) -> None:
    """Of sums as of maps: at least as many as are counted, and just as many where coordinates alone decide."""
    found = evaluated(use.cascade, use.sizes, use.inputs)
    for einsum in use.cascade.einsums:
        if any(may_be_absent_by_data(use.cascade, a) for a in einsum.reads) or einsum.gathers:
            continue
        present = found[einsum.name].present
        there = math.prod(found[einsum.name].values.shape) if present is None else int(present.sum())
        counted = defined(use.cascade, einsum, use.sizes)
        conditions = conditions_of(use.cascade, einsum)
        if not all(is_static(c.holds) for c in conditions):
            assert counted >= there  # what data removes, nobody knows before
            continue
        assert counted <= there
        if not any(REDUCTION[r.op].index for r in einsum.all_reductions):
            assert counted == there


def may_be_absent_by_data(cascade: Cascade, access: Access) -> bool:
    """Tell whether an element may be absent by data: a selection has made it, or something that reads one."""
    todo, seen = [access.tensor], set()
    while todo:
        name = todo.pop()
        writer = next((e for e in cascade.einsums if e.name == name), None)
        if writer is None or name in seen:
            continue
        seen.add(name)
        chosen = any(REDUCTION[r.op].index for r in writer.all_reductions)
        if chosen or writer.gathers or not all(is_static(c.holds) for c in conditions_of(cascade, writer)):
            return True
        todo += [a.tensor for a in writer.reads]
    return False


@pytest.mark.parametrize(
    ("value", "there"),
    [
        ("pad(X[n - 5], X[n + 3])", lambda n: n >= 5 or n + 3 < 50),
        ("pad(X[n - 30], X[n + 30])", lambda n: n >= 30 or n + 30 < 50),
        ("X[n] + pad(X[n - 5], X[n - 3])", lambda n: n >= 3),
        ("pad(X[n - 30], pad(X[n + 40], X[n + 30]))", lambda n: n >= 30 or n + 30 < 50),
        ("pad(X[n + 1], 2)", lambda n: True),
    ],
)
def test_what_stands_in_place_of_an_absent_element_has_to_exist_only_there(value: str, there: Any) -> None:
    cascade = parse(f"cascade t\nrank N\ninput X[N]\noutput Y[N]\nY[n] = {value}\n")
    expected = sum(there(n) for n in range(50))
    assert points(cascade, "Y", "N=50") == expected
    # No input is 0, and what is absent reads as 0.
    assert np.count_nonzero(evaluate(cascade, "N=50", {"X": np.arange(1.0, 51.0)})["Y"]) == expected
