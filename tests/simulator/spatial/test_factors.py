"""Sizes of parts and steps: against every number of parts, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.spatial.factors import parts_of, step, tiles_of


@pytest.mark.parametrize("n", [1, 2, 3, 5, 12, 97, 577, 1024])
def test_parts_are_those_of_every_number_of_them(n):
    assert parts_of(n) == {-(-n // k) for k in range(1, n + 1)}


@given(st.integers(1, 5000), st.integers(1, 600))
def test_a_step_takes_as_few_as_the_axis_allows_and_no_smaller_one_does(size, length):
    fewest = -(-size // length)
    found = step(size, length)
    assert found <= length and -(-size // found) == fewest
    assert found == 1 or -(-size // (found - 1)) > fewest


@given(st.integers(1, 5000))
def test_tiles_are_divisors_and_others_whose_rest_is_more_than_one_step(n):
    tiles = tiles_of(n)
    assert {d for d in range(1, n + 1) if n % d == 0} <= set(tiles)
    assert all(n % t != 1 or n == 1 or t == 1 for t in tiles)
