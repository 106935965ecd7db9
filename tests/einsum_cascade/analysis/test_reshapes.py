"""Indices that lay a tensor out anew, and conditions that hold by themselves, against a walk over all points."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import einsum_cascade as ec
from einsum_cascade.analysis.intervals import alternatives, any_term, number
from einsum_cascade.analysis.points import points
from einsum_cascade.analysis.ranges import always, reach
from einsum_cascade.analysis.reshapes import reshapes
from einsum_cascade.expr import variables
from einsum_cascade.parser import parse, parse_expression

INDICES = ("{run} % {a}", "{run} // {a}", "{run} // {a} % {b}", "{run} % {a} // {b}", "{run}")
RUNS = ("(x * Y + y)", "(y * X + x)", "(y * X + X - 1 - x)", "(2 * x + y)", "x", "(x * Y + y + 1)")


def _places(indices: list[str], sizes: dict[str, int], numbers: dict[str, int]) -> list[tuple[int, ...]]:
    points = itertools.product(*(range(sizes[v]) for v in sizes))
    parsed = [parse_expression(i) for i in indices]
    grids = [dict(zip(sizes, p, strict=True)) for p in points]
    return [tuple(int(number(i, g, numbers)) for i in parsed) for g in grids]


@given(
    run=st.sampled_from(RUNS),
    forms=st.lists(st.sampled_from(INDICES), min_size=1, max_size=3),
    digits=st.lists(st.sampled_from((1, 2, 3, 4, 6)), min_size=6, max_size=6),
    x=st.integers(1, 4),
    y=st.integers(1, 6),
    shape=st.lists(st.sampled_from((1, 2, 3, 4, 6, 8, 12)), min_size=3, max_size=3),
)
def test_what_is_called_a_reshape_reaches_each_element_once(run, forms, digits, x, y, shape):
    texts = [f.format(run=run, a=digits[2 * i], b=digits[2 * i + 1]) for i, f in enumerate(forms)]
    names = dict.fromkeys(v for t in texts for v in variables(parse_expression(t)))
    sizes = {v: {"x": x, "y": y}[v] for v in names}
    extents = shape[: len(forms)]
    numbers = {"X": x, "Y": y}
    if reshapes([parse_expression(t) for t in texts], extents, sizes, numbers):
        places = _places(texts, sizes, numbers)
        assert sorted(places) == sorted(itertools.product(*map(range, extents)))


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (2, 3, 4), (1, 24), (24,), (2, 1, 12)])
def test_every_reshape_of_a_matrix_is_found(shape):
    """Row by row into any other shape, spelt with remainders first or quotients first."""
    for nested in (False, True):
        texts, step = [], 1
        for size in reversed(shape):
            one = f"(c * N + n) // {step} % {size}"
            texts.append(f"(c * N + n) % {step * size} // {step}" if nested else one)
            step *= size
        parsed = [parse_expression(t) for t in reversed(texts)]
        assert reshapes(parsed, shape, {"c": 4, "n": 6}, {"C": 4, "N": 6})
        assert not reshapes(parsed, shape, {"c": 4, "n": 5}, {"C": 4, "N": 5})


EXPRESSIONS = (
    "x", "3 * x - y", "(x - y) % 3", "(x * Y + y) // X", "(x * Y + y) % X // 2", "abs(x - 2)", "clamp(x - 1, 0, Y - 1)",
    "max(x, y)", "min(x, 2)", "S * x", "S * x % 3", "x // 2 - y // 2", "-y",
)  # fmt: skip


@given(
    left=st.sampled_from(EXPRESSIONS),
    right=st.sampled_from((*EXPRESSIONS, "Y", "X - 1", "0")),
    op=st.sampled_from(("<", "<=", ">", ">=")),
    x=st.integers(1, 5),
    y=st.integers(1, 5),
)
def test_what_always_holds_holds_at_every_point(left, right, op, x, y):
    sizes, numbers = {"x": x, "y": y}, {"X": x, "Y": y, "S": 0.75}
    low, high = reach(parse_expression(left), numbers)
    points = [dict(zip("xy", p, strict=True)) for p in itertools.product(range(x), range(y))]
    values = [float(number(parse_expression(left), p, numbers)) for p in points]
    assert low <= min(values)
    assert max(values) <= high
    condition = parse_expression(f"{left} {op} {right}")
    if always(condition, numbers, sizes):
        assert all(any_term(alternatives([condition]), p, numbers, 1).all() for p in points)


@pytest.mark.parametrize(("m", "n"), [(6, 8), (6144, 1024), (2**20, 2048)])
def test_a_tensor_that_is_laid_out_anew_is_needed_whole(m, n):
    """Of any size: each element is read once, however the tensor is laid out in between."""
    text = """cascade relaid
rank M N E
rank L = N
input X[M, N]  W[L, E]
output O[M, E]
Y[m, n] = X[(m*N + n) % M, (m*N + n) // M]
Z[m, n] = Y[(n*M + m) // N, (n*M + m) % N]
O[m, e] = Z[m, l] * W[l, e]
"""
    found = ec.bounds(parse(text), {"M": m, "N": n, "E": 4})
    assert found.compulsory_bytes == 2 * math.fsum((m * n, n * 4, m * 4))
    assert points(parse(text), "Z", {"M": m, "N": n, "E": 4}) == m * n
