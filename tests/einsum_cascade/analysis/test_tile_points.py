"""Live tiles and steps under a predicate against a list of all points, whichever digits are told apart."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.analysis.tile_points import live_settings
from einsum_cascade.errors import CascadeError
from einsum_cascade.parser import parse_expression

PREDICATES = (
    "m <= p", "0 <= p - m < 5", "m*2 + 1 == p", "abs(m - p) < 3 or m < 2", "m//3 == p//3", "(m + p)%4 == 0",
    "m < p and p < 9", "m != p", "m > 100", "3 <= 2", "m >= 0",
)  # fmt: skip


def listed(text, digits):
    """Settings of the told digits, from a list of all coordinates; Python reads the predicate."""
    names = list(digits)
    found = set()
    ranges = [list(itertools.product(*(range(n) for n, _ in digits[v]))) for v in names]
    for places in itertools.product(*ranges):
        point = {}
        for v, place in zip(names, places, strict=True):
            value = 0
            for (size, _), digit in zip(digits[v], place, strict=True):
                value = value * size + digit
            point[v] = value
        if eval(text, {"abs": abs}, point):
            told = [
                digit
                for v, place in zip(names, places, strict=True)
                for (_, kept), digit in zip(digits[v], place, strict=True)
                if kept
            ]
            found.add(tuple(told))
    return len(found)


digit_lists = st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=3)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PREDICATES), digit_lists, digit_lists, digit_lists)
def test_counted_equals_listed(text, m, p, e):
    digits = {"m": m, "p": p, "e": e}
    assert live_settings([parse_expression(text)], digits, {}) == listed(text, digits)


def test_sizes_by_name():
    tiles = ((4, True), (8, False))
    window = parse_expression("0 <= p - m < W")
    # every query tile meets its own key tile, and all but the first the one before it
    assert live_settings([window], {"m": tiles, "p": tiles}, {"W": 5.0}) == 7


def test_too_many_to_look_at():
    whole = dict.fromkeys(("m", "p", "q"), ((2**20, True),))
    with pytest.raises(CascadeError, match="steps over"):
        live_settings([parse_expression("m <= p + q")], whole, {})
