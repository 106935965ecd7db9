"""Tiles that a predicate leaves, for all tile sizes at once: against points that are looked at one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import CascadeError
from einsum_cascade.parser import parse_expression
from simulator.spatial import live
from simulator.spatial.factors import divisors
from simulator.spatial.live import Mask
from simulator.spatial.live_tiles import live_tiles
from simulator.spatial.nest import SizeTable

PREDICATES = (
    "m <= p",
    "0 <= p - m < 3",
    "abs(m - p) <= 2 and e > 0",
    "m < 2 or p - m < 3",
    "m // 2 == p // 2",
    "m % 3 == p % 3",
    "m * 2 <= p",
    "m > 100",
    "m >= 0",
    "e <= m and m <= p",
    "m * e < p",
    "(m * 5 + p) % 7 == e",
)


def brute_force(text, cuts):
    """The table, with every point looked at."""
    where = compile(text, "predicate", "eval")
    order = list(cuts)
    points = [
        dict(zip(order, place, strict=True))
        for place in itertools.product(*(range(n) for n, _ in cuts.values()))
    ]
    live_points = [p for p in points if eval(where, {"abs": abs}, p)]
    out = np.empty([len(widths) for _, widths in cuts.values()])
    for place in np.ndindex(out.shape):
        widths = {v: cuts[v][1][i] for v, i in zip(order, place, strict=True)}
        out[place] = len({tuple(p[v] // widths[v] for v in order) for p in live_points})
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PREDICATES),
    st.permutations(["m", "p", "e"]),
    st.tuples(*[st.sampled_from([1, 4, 6, 12])] * 2, st.sampled_from([1, 2, 4])),
)
def test_equal_to_looking_at_every_point(text, order, extents):
    sizes = dict(zip(("m", "p", "e"), extents, strict=True))
    cuts = {v: (sizes[v], divisors(sizes[v])) for v in order}
    assert (live_tiles([parse_expression(text)], cuts, {}) == brute_force(text, cuts)).all()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PREDICATES),
    st.permutations(["m", "p", "e"]),
    st.tuples(*[st.integers(1, 13)] * 2, st.integers(1, 4)),
    st.lists(st.integers(1, 7), min_size=1, max_size=4, unique=True),
)
def test_tiles_need_not_divide(text, order, extents, widths):
    sizes = dict(zip(("m", "p", "e"), extents, strict=True))
    cuts = {v: (sizes[v], tuple(sorted(min(w, sizes[v]) for w in widths))) for v in order}
    cuts = {v: (n, tuple(dict.fromkeys(found))) for v, (n, found) in cuts.items()}
    assert (live_tiles([parse_expression(text)], cuts, {}) == brute_force(text, cuts)).all()


def test_some_sizes_alone():
    cuts = {"m": (12, (3, 6)), "p": (12, (2, 12))}
    found = live_tiles([parse_expression("0 <= p - m < 3")], cuts, {})
    assert (found == brute_force("0 <= p - m < 3", cuts)).all()


def test_a_band_at_full_size():
    """A causal triangle of n tiles by n, all on and under the diagonal: n (n + 1) / 2."""
    size = 2**16
    widths = tuple(2**k for k in range(17))
    found = live_tiles([parse_expression("m <= p")], {"m": (size, widths), "p": (size, widths)}, {})
    tiles = np.array([size // w for w in widths])
    assert (np.diag(found) == tiles * (tiles + 1) // 2).all()


def test_too_many_points_are_refused():
    ends = dict.fromkeys(("m", "p"), (2**20, (1, 2**20)))
    with pytest.raises(CascadeError, match="use smaller sizes"):
        live_tiles([parse_expression("m * p % 3 == 0")], ends, {})


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PREDICATES[:9]), st.sets(st.sampled_from(["P.2", "P.1", "M.2", "M.1", "M.0", "P.0"])))
def test_many_points_at_once_are_each_point(text, kept):
    """`settings` over arrays of tile sizes, against one call for every choice of sizes."""
    used = [v for v in ("m", "p") if v in text]
    assume("e" not in text and used)
    loops = {"m": ("M.2", "M.1", "M.0"), "p": ("P.2", "P.1", "P.0")}
    part = parse_expression(text)
    tiles = [(t, s) for t in divisors(12) for s in divisors(t)]
    count = len(tiles)
    table = {}
    for rank, shape in (("M", (count, 1)), ("P", (1, count))):
        tile, step = (np.array(x, dtype=np.float64).reshape(shape) for x in zip(*tiles, strict=True))
        table |= {f"{rank}.2": 12 / tile, f"{rank}.1": tile / step, f"{rank}.0": step}
    own = Mask((part,), tuple((v, loops[v]) for v in used), ())
    asked = tuple(sorted(kept))
    found = np.broadcast_to(live.settings(own, asked, SizeTable(table)), (count, count))
    for i, j in [(0, 0), (3, 7), (count - 1, 2), (5, count - 1), (8, 8)]:
        one = {n: int(np.broadcast_to(v, (count, count))[i, j]) for n, v in table.items()}
        assert found[i, j] == live.settings(own, asked, SizeTable(one))
        if set(asked) == {p for v in used for p in loops[v]}:
            points = itertools.product(*(range(12) for _ in used))
            holds = [eval(text, {"abs": abs}, dict(zip(used, p, strict=True))) for p in points]
            assert found[i, j] == sum(holds) and len(holds) == math.prod([12] * len(used))
