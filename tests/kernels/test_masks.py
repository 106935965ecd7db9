"""Limits of masks by hand, and pairs counted one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from einsum_cascade.errors import KernelError
from kernels.masks import limits, visible_pairs


@given(seq=st.integers(1, 30), causal=st.booleans(), window=st.none() | st.integers(1, 40))
def test_pairs_are_counted_one_by_one(seq, causal, window):
    """A causal query sees its last `window` keys; another one a window around itself, one more to the left if even."""

    def seen(p, m):
        if causal:
            return m <= p and (window is None or m > p - window)
        return window is None or -(window // 2) <= m - p <= (window - 1) // 2

    expected = sum(seen(p, m) for p in range(seq) for m in range(seq))
    assert visible_pairs(seq, causal=causal, window=window) == expected


def test_a_window_of_four():
    assert limits(causal=True, window=4) == (3, 0)
    assert limits(causal=False, window=4) == (2, 1)


def test_a_window_without_keys_is_refused():
    with pytest.raises(KernelError, match="window=0"):
        limits(causal=False, window=0)
