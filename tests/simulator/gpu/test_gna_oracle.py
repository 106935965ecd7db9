"""GNA counts against a materialised mask, built query by query from the semantics; tiles counted one by one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulator.gpu.gna import gna_bounds


@dataclass
class Side:
    """One axis, as the oracle sees it."""

    length: int
    window: int
    stride: int
    dilation: int
    causal: bool
    q_tile: int
    kv_tile: int


def keys_of(i: int, tokens: int, side: Side) -> range:
    """The keys of query i of a class: its leader's window, pushed inside; padding behaves as the last query."""
    group = i - i % side.stride
    if side.causal:
        leader = min(group + side.stride - 1, tokens - 1)
        return range(max(leader - side.window + 1, 0), min(i + 1, tokens))
    leader = min(group + side.stride // 2, tokens - 1)
    first = leader - side.window // 2  # an odd window is centred, an even one looks one further left
    while first < 0:
        first += 1
    while first + side.window > tokens:
        first -= 1
    return range(first, first + side.window)


def class_mask(tokens: int, side: Side) -> tuple[np.ndarray, np.ndarray]:
    """(padded queries, padded keys) mask of one class of an axis, and which queries are real."""
    longest = -(-side.length // side.dilation)
    queries = -(-longest // side.q_tile) * side.q_tile
    keys = -(-longest // side.kv_tile) * side.kv_tile
    mask = np.zeros((queries, keys), dtype=bool)
    for i in range(queries):
        mask[i, list(keys_of(i, tokens, side))] = True
    return mask, np.arange(queries) < tokens


def kv_ranges(rows: np.ndarray, side: Side, dynamic: bool) -> list[range]:
    """The KV tiles of a Q tile on one axis: the touched ones of the grid, or steps from the first key to the last."""
    used = np.flatnonzero(rows.any(axis=0))
    if dynamic:
        end = used[-1] + 1
        return [range(k, min(k + side.kv_tile, end)) for k in range(used[0], end, side.kv_tile)]
    grid = [range(k, k + side.kv_tile) for k in range(0, rows.shape[1], side.kv_tile)]
    return [keys for keys in grid if rows[:, keys].any()]


def brute_force(sides: list[Side], dynamic: bool) -> dict[str, int]:
    """Count by walking every class, every Q tile and every KV tile of the N-dimensional mask."""
    visited = dense = pairs = q_tiles = 0
    per_q = []
    sizes = [[len(range(g, s.length, s.dilation)) for g in range(s.dilation)] for s in sides]
    for tokens in itertools.product(*sizes):
        made = [class_mask(n, s) for n, s in zip(tokens, sides, strict=True)]
        starts = [range(0, len(real), s.q_tile) for (_, real), s in zip(made, sides, strict=True)]
        for corner in itertools.product(*starts):
            rows = [m[c : c + s.q_tile] for (m, _), c, s in zip(made, corner, sides, strict=True)]
            real = [r[c : c + s.q_tile] for (_, r), c, s in zip(made, corner, sides, strict=True)]
            whole = nd_mask(rows)[np.ix_(*real)]
            pairs += int(whole.sum())
            q_tiles += 1
            # Queries behind the end are clipped away by dynamic tiling, unless the whole tile is behind it.
            seen = [r[k] if dynamic and k.any() else r for r, k in zip(rows, real, strict=True)]
            tiles = list(
                itertools.product(*(kv_ranges(r, s, dynamic) for r, s in zip(seen, sides, strict=True)))
            )
            per_q.append(len(tiles))
            visited += len(tiles)
            for keys in tiles:
                block = whole[(..., *np.ix_(*keys))]
                dense += bool(block.size and block.all())
    return {
        "q_tiles": q_tiles,
        "visited": visited,
        "dense": dense,
        "partial": visited - dense,
        "pairs": pairs,
        "per_q_min": min(per_q),
        "per_q_max": max(per_q),
        "fully_block_sparse": dense == visited,
    }


def nd_mask(rows: list[np.ndarray]) -> np.ndarray:
    """The mask of an N-dimensional tile: queries of every axis first, then keys; a pair must pass on every axis."""
    n = len(rows)
    out = np.ones((1,) * (2 * n), dtype=bool)
    for axis, mask in enumerate(rows):
        shape = [1] * (2 * n)
        shape[axis], shape[n + axis] = mask.shape
        out = out & mask.reshape(shape)
    return out


def compare(sides: list[Side], dynamic: bool) -> None:
    names = ("window", "stride", "dilation", "causal", "q_tile", "kv_tile")
    asked = {name: [getattr(s, name) for s in sides] for name in names}
    found = gna_bounds(layout=[s.length for s in sides], **asked, dynamic=dynamic)
    expected = brute_force(sides, dynamic)
    assert {name: getattr(found, name) for name in expected} == expected, (sides, dynamic)
    tokens = int(np.prod([s.length for s in sides]))
    assert found.flop_speedup == tokens**2 / expected["pairs"]
    if found.natten_fast_path and not found.natten_bounds_masked and no_idle_tiles(sides):
        assert found.natten_mask_missing == (expected["partial"] > 0)
        if all(s.q_tile % 2 == 0 and s.kv_tile in (1, 2, 4, 8, 16) for s in sides):
            assert expected["partial"] == 0, (
                "such tiles NATTEN ships forward: there its predicate must suffice"
            )
    else:
        assert not found.natten_mask_missing


def no_idle_tiles(sides: list[Side]) -> bool:
    """Whether the shortest dilation class of every axis fills as many Q tiles as the longest."""

    def tiles(tokens: int, tile: int) -> int:
        return -(-tokens // tile)

    shortest = [tiles(s.length // s.dilation, s.q_tile) for s in sides]
    return shortest == [tiles(tiles(s.length, s.dilation), s.q_tile) for s in sides]


def random_side(rng: np.random.Generator, most: int) -> Side:
    length = int(rng.integers(2, most + 1))
    dilation = int(rng.integers(1, max(length // 2, 1) + 1)) if rng.random() < 0.4 else 1
    window = int(rng.integers(2, length // dilation + 1))
    stride = int(rng.integers(1, window + 1))
    q_tile, kv_tile = (int(x) for x in rng.integers(1, 9, size=2))
    return Side(length, window, stride, dilation, bool(rng.random() < 0.3), q_tile, kv_tile)


@pytest.mark.parametrize(("axes", "most", "cases"), [(1, 48, 1500), (2, 11, 250), (3, 6, 120)])
def test_random_settings_equal_the_materialised_mask(axes: int, most: int, cases: int) -> None:
    rng = np.random.default_rng(20260 + axes)
    for _ in range(cases):
        compare([random_side(rng, most) for _ in range(axes)], dynamic=bool(rng.random() < 0.4))


@st.composite
def sides(draw: st.DrawFn) -> Side:
    length = draw(st.integers(2, 40))
    dilation = draw(st.integers(1, length // 2))
    window = draw(st.integers(2, length // dilation))
    return Side(
        length, window, draw(st.integers(1, window)), dilation, draw(st.booleans()),
        draw(st.integers(1, 16)), draw(st.integers(1, 16)),
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(sides(), st.booleans())
def test_one_axis(side: Side, dynamic: bool) -> None:
    compare([side], dynamic)


@settings(max_examples=150, deadline=None)
@given(sides())
def test_aligned_settings_are_fully_block_sparse(side: Side) -> None:
    """Tiles that divide everything: the kernel's own condition, reached on purpose and not by luck."""
    unit = side.kv_tile
    length, window, stride = side.length * unit, side.window * unit, 2 * side.stride * unit
    assume(stride <= window and window // 2 % unit == 0)
    aligned = Side(length, window, stride, 1, False, 2 * unit, unit)
    assume(length <= 400)
    compare([aligned], dynamic=False)
    found = gna_bounds(layout=length, window=window, stride=stride, q_tile=2 * unit, kv_tile=unit)
    assert found.natten_fast_path <= found.fully_block_sparse


def test_idle_q_tiles_are_launched_visit_and_are_never_dense() -> None:
    # 33 tokens in 2 classes of 17 and 16; tiles of 16: two Q tiles a class, the second class's second one is padding.
    # It behaves as the last query: keys 8..15 of its class, in KV tiles 2 and 3 of 4 keys.
    found = gna_bounds(layout=33, window=8, stride=1, dilation=2, q_tile=16, kv_tile=4)
    assert found.q_tiles == 4
    # class of 17: tile 0 sees keys 0..16 -> 5 tiles, tile 1 (query 16) keys 9..16 -> 3; class of 16: 4 and 2.
    assert found.visited == 5 + 3 + 4 + 2
    # only query 16 alone finds whole tiles: keys 12..15; all of tile 0 share no whole tile, padding counts none.
    assert found.dense == 1
