"""Tile counts against a materialised mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.masks import limits
from simulator.gpu.visits import FAR, reach, tile_visits, visible_pairs


def mask(seq_q: int, seq_kv: int, *, left: int, right: int) -> np.ndarray:
    i = np.arange(seq_q)[:, None] + seq_kv - seq_q
    j = np.arange(seq_kv)[None, :]
    return (j - i >= -left) & (j - i <= right)


def counted(m: np.ndarray, query: int, key: int, group: int) -> tuple[list[int], list[int], int]:
    """Full and masked tiles per query tile, and skipped ones, by looking at every element."""
    rows = np.repeat(m, group, axis=0)
    full, masked, skipped = [], [], 0
    for top in range(0, rows.shape[0], query):
        f = k = 0
        for lo in range(0, m.shape[1], key):
            tile = rows[top : top + query, lo : lo + key]
            if not tile.any():
                skipped += 1
            elif tile.all() and tile.shape[1] == key:  # a tile beyond the last key needs its mask too
                f += 1
            else:
                k += 1
        full.append(f)
        masked.append(k)
    return full, masked, skipped


sizes = st.integers(1, 70)


@settings(max_examples=400, deadline=None)
@given(
    sizes, sizes, st.integers(1, 24), st.integers(1, 24), st.integers(1, 4), st.booleans(), st.integers(0, 40)
)
def test_visits_are_those_of_the_materialised_mask(seq_q, seq_kv, query, key, group, causal, window):
    left, right = reach(causal=causal, window=window)
    got = tile_visits(seq_q, seq_kv, query=query, key=key, left=left, right=right, group=group)
    m = mask(seq_q, seq_kv, left=int(left), right=int(right))
    full, masked, skipped = counted(m, query, key, group)
    assert got.visited[0].tolist() == [a + b for a, b in zip(full, masked, strict=True)]
    assert got.full[0].tolist() == full
    assert got.skipped.tolist() == [skipped]


@settings(max_examples=200, deadline=None)
@given(sizes, sizes, st.booleans(), st.integers(0, 40))
def test_pairs_are_those_of_the_materialised_mask(seq_q, seq_kv, causal, window):
    left, right = reach(causal=causal, window=window)
    expected = int(mask(seq_q, seq_kv, left=int(left), right=int(right)).sum())
    assert visible_pairs(seq_q, seq_kv, left=left, right=right).tolist() == [expected]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 2, 7, 8])
def test_a_window_is_as_many_keys_as_it_says_and_those_that_our_kernels_see(causal, window):
    left, right = reach(causal=causal, window=window)
    assert left + right + 1 == window
    assert (left, right) == limits(causal=causal, window=window)


def test_many_calls_at_once_are_the_calls_one_by_one():
    seq = np.array([100, 1000, 333])
    together = tile_visits(seq, seq, query=128, key=64, left=FAR, right=0)
    for i, n in enumerate(seq):
        alone = tile_visits(n, n, query=128, key=64, left=FAR, right=0)
        tiles = int(alone.query_tiles[0])
        assert together.visited[i, :tiles].tolist() == alone.visited[0].tolist()
        assert together.visited[i, tiles:].sum() == 0
        assert together.skipped[i] == alone.skipped[0]


def test_worked_example():
    # 4 query tiles of 128 over 512 keys in tiles of 128, causal: 1 + 2 + 3 + 4 visited, the diagonal ones masked.
    v = tile_visits(512, 512, query=128, key=128, left=FAR, right=0)
    assert v.full.tolist() == [[0, 1, 2, 3]]
    assert v.masked.tolist() == [[1, 1, 1, 1]]
    assert v.skipped.tolist() == [6]
    # Backward: the same mask seen from the keys, queries and keys exchanged.
    back = tile_visits(512, 512, query=128, key=128, left=0, right=FAR, offset=0)
    assert back.visited.tolist() == [[4, 3, 2, 1]]
