"""Tiles under the mask of a cascade's text against a materialised mask, whatever the predicate."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import einsum_cascade as ec
import simulator as sim
from einsum_cascade.errors import ModelError
from einsum_cascade.parser import parse_expression
from simulator.gpu.cli import register
from simulator.gpu.masks import Mask, mask_of, mask_tiles, mask_visits
from simulator.gpu.visits import reach, tile_visits

ONE_AXIS = (
    "m <= p", "0 <= p - m < 5", "m*2 + 1 == p", "abs(m - p) < 3 or m < 2", "m//3 == p//3", "(m + p)%4 == 0",
    "m < p and p < 9", "m != p", "m > 100", "p == 0 or m == 0 or abs(p - m) <= 2", "m < 7", "p >= 3", "3*m <= 2*p + 4",
)  # fmt: skip
TWO_AXES = (
    "abs(my - py) <= 1 and abs(mx - px) <= 2", "(my - py)*(my - py) + (mx - px)*(mx - px) <= 5", "my == py or mx == px",
    "my <= py", "my + mx <= py + px", "mx//2 == px//2 and my <= py", "my == 0 and mx <= px or my == py",
)  # fmt: skip


def mask(text: str, queries: dict[str, int], keys: dict[str, int]) -> Mask:
    return Mask("made", (parse_expression(text),), tuple(queries.items()), tuple(keys.items()), ())


def listed(text: str, queries: dict[str, int], keys: dict[str, int]) -> np.ndarray:
    """The mask as a matrix; Python reads the predicate."""
    code = compile(text, "mask", "eval")
    rows = [dict(zip(queries, at, strict=True)) for at in itertools.product(*map(range, queries.values()))]
    columns = [dict(zip(keys, at, strict=True)) for at in itertools.product(*map(range, keys.values()))]
    return np.array([[bool(eval(code, {"abs": abs}, r | c)) for c in columns] for r in rows])


def counted(
    m: np.ndarray, row_tiles: np.ndarray, column_tiles: np.ndarray, whole: int
) -> tuple[list[int], list[int]]:
    """Full and masked tiles of each row tile: a column tile that is cut off is never full."""
    full, masked = [], []
    for r in range(row_tiles.max() + 1):
        band = m[row_tiles == r]
        tiles = [band[:, column_tiles == c] for c in range(column_tiles.max() + 1)]
        full.append(sum(t.all() and t.shape[1] == whole for t in tiles))
        masked.append(sum(bool(t.any()) for t in tiles) - full[-1])
    return full, masked


sizes, tiles = st.integers(1, 30), st.integers(1, 12)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ONE_AXIS), sizes, sizes, tiles, tiles, st.integers(1, 3))
def test_visits_of_one_axis(text, n_q, n_kv, query, key, group):
    matrix = listed(text, {"p": n_q}, {"m": n_kv})
    made = mask(text, {"p": n_q}, {"m": n_kv})
    rows = np.repeat(matrix, group, axis=0)
    expected = counted(rows, np.arange(len(rows)) // query, np.arange(n_kv) // key, key)
    got = mask_visits(made, query=query, key=key, group=group)
    assert (got.full[0].tolist(), got.masked[0].tolist()) == expected
    back = mask_visits(made, query=query, key=key, by_keys=True)
    expected = counted(matrix.T, np.arange(n_kv) // query, np.arange(n_q) // key, key)
    assert (back.full[0].tolist(), back.masked[0].tolist()) == expected
    assert made.pairs == matrix.sum()


small = st.integers(1, 6)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TWO_AXES), st.tuples(small, small, small, small), tiles, tiles)
def test_visits_of_two_axes_taken_row_by_row(text, extents, query, key):
    queries, keys = (
        dict(zip(("py", "px"), extents, strict=False)),
        dict(zip(("my", "mx"), extents[2:], strict=True)),
    )
    matrix = listed(text, queries, keys)
    expected = counted(matrix, np.arange(len(matrix)) // query, np.arange(matrix.shape[1]) // key, key)
    got = mask_visits(mask(text, queries, keys), query=query, key=key)
    assert (got.full[0].tolist(), got.masked[0].tolist()) == expected


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(TWO_AXES),
    st.tuples(small, small, small, small),
    st.tuples(small, small),
    st.tuples(small, small),
)
def test_tiles_of_two_axes(text, extents, q_tile, kv_tile):
    queries, keys = (
        dict(zip(("py", "px"), extents, strict=False)),
        dict(zip(("my", "mx"), extents[2:], strict=True)),
    )
    cascade = ec.parse(
        f"cascade c\nrank E Py Px My Mx\ninput Q[E, Py, Px] K[E, My, Mx]\noutput O[Py, Px]\n"
        f"S[my, mx, py, px] = Q[e, py, px] * K[e, my, mx] where {text}\nO[py, px] = S[my, mx, py, px]\n"
    )
    ranks = {"Py": extents[0], "Px": extents[1], "My": extents[2], "Mx": extents[3]}
    got = mask_tiles(cascade, ranks, q_tile=q_tile, kv_tile=kv_tile)

    def tile_of(side, tile):
        along = [-(-n // t) for n, t in zip(side.values(), tile, strict=True)]
        at = np.indices(tuple(side.values())).reshape(2, -1)
        return (at[0] // tile[0]) * along[1] + at[1] // tile[1]

    matrix = listed(text, queries, keys)
    expected = counted(matrix, tile_of(queries, q_tile), tile_of(keys, kv_tile), kv_tile[0] * kv_tile[1])
    assert (got.full.tolist(), got.masked.tolist()) == expected
    assert got.pairs == matrix.sum()


@pytest.mark.parametrize(
    ("name", "causal", "window", "ranks"),
    [
        ("attention_causal", True, 0, {}),
        ("attention_1pass_causal", True, 0, {}),
        ("attention_sliding_window", True, 100, {"W": 100}),
        ("attention_1pass_sliding_window", True, 100, {"W": 100}),
    ],
)
def test_the_text_says_what_the_words_causal_and_window_say(name, causal, window, ranks):
    made = mask_of(ec.zoo.load(name), ranks, soft={"seq_q": 1000, "seq_kv": 1000})
    left, right = reach(causal=causal, window=window)
    for query, key in ((128, 64), (64, 128)):
        words = tile_visits(1000, 1000, query=query, key=key, left=left, right=right)
        text = mask_visits(made, query=query, key=key)
        assert text.full.tolist() == words.full.tolist()
        assert text.masked.tolist() == words.masked.tolist()
        assert text.skipped.tolist() == words.skipped.tolist()


def test_neighbourhoods_are_those_that_the_tuner_counts():
    # P3 and P4 of the published counts: tiles visited and dense, from the text of the cascade alone.
    flux = {"Py": 256, "Px": 256, "My": 256, "Mx": 256, "Wy": 80, "Wx": 80}
    cascade = ec.zoo.load("gna_2d")
    plain = mask_tiles(cascade, flux | {"Sy": 1, "Sx": 1}, q_tile=(16, 16), kv_tile=(16, 8))
    strided = mask_tiles(cascade, flux | {"Sy": 16, "Sx": 16}, q_tile=(16, 8), kv_tile=(16, 8))
    assert (len(plain.full), plain.visited, plain.full.sum(), plain.pairs) == (256, 18564, 8004, 419430400)
    assert (len(strided.full), strided.visited, strided.full.sum()) == (512, 25600, 25600)
    one = {"layout": 500, "window": 60, "stride": 7, "q_tile": 32, "kv_tile": 16}
    bounds = sim.gna_bounds(**one)
    text = mask_tiles(ec.zoo.load("gna_1d"), {"P": 500, "M": 500, "W": 60, "S": 7}, q_tile=[32], kv_tile=[16])
    assert (text.visited, text.full.sum(), text.pairs) == (bounds.visited, bounds.dense, bounds.pairs)


CALL = {"batch": 2, "heads": 16, "seq_q": 4096, "head_dim": 128}


@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwdbwd"])
def test_a_causal_cascade_is_predicted_as_the_word_is(direction):
    text = sim.predict(
        "flash_attention", on="h100", cascade=ec.zoo.load("attention_causal"), direction=direction, **CALL
    )
    word = sim.predict("flash_attention", on="h100", causal=True, direction=direction, **CALL)
    assert text.tiles == word.tiles
    assert text.latency_s == pytest.approx(word.latency_s)
    assert any("attention_causal" in said for said in text.assumptions)


def test_a_mask_that_no_word_says_is_predicted_between_dense_and_window():
    arrow = sim.predict("flash_attention", on="h100", cascade=ec.zoo.load("arrow_attention"), R=256, **CALL)
    window = sim.predict("flash_attention", on="h100", window=513, **CALL)
    dense = sim.predict("flash_attention", on="h100", **CALL)
    # The class token's tile of queries visits all 32 key tiles, and every query tile visits the token's key tile.
    assert sum(arrow.tiles[k] for k in ("full", "masked")) > sum(window.tiles[k] for k in ("full", "masked"))
    assert window.latency_s < arrow.latency_s < dense.latency_s


@pytest.mark.parametrize(
    ("name", "kernel", "more", "told"),
    [
        ("attention_3pass", "flash_attention", {}, "expected a `where` over queries and keys"),
        ("attention_selected_blocks", "flash_attention", {}, "reads data"),
        ("bispa", "flash_attention", {}, "expected one mask"),
        ("attention_sliding_window", "flash_attention", {}, "needs the size of W"),
        ("attention_causal", "flash_attention", {"causal": 1}, "expected neither beside the mask"),
        ("attention_causal", "flash_attention", {"P": 64}, "expected 64 and 4096"),
        ("attention_causal", "channel_attention", {}, "takes no mask of a cascade"),
    ],
)
def test_what_is_no_mask_is_refused(name, kernel, more, told):
    with pytest.raises(ModelError, match=told):
        sim.predict(kernel, on="h100", cascade=ec.zoo.load(name), **CALL, **more)


def test_a_mask_that_leaves_nothing_is_refused():
    empty = ec.parse(
        "cascade empty\nrank E P M\ninput Q[E, P] K[E, M]\noutput O[P]\n"
        "S[m, p] = Q[e, p] * K[e, m] where m > p + 9999\nO[p] = S[m, p]\n"
    )
    with pytest.raises(ModelError, match="leaves none"):
        sim.predict("flash_attention", on="h100", cascade=empty, **CALL)


def test_the_command_takes_a_cascade():
    app = typer.Typer()
    register(app)
    call = ["flash_attention", "--on", "h100", "--cascade", "arrow_attention"]
    sizes = "batch=2,heads=16,seq_q=4K,head_dim=128,R=256"
    ran = CliRunner().invoke(app, [*call, "--set", sizes, "--json"])
    assert ran.exit_code == 0
    direct = sim.predict("flash_attention", on="h100", cascade=ec.zoo.load("arrow_attention"), R=256, **CALL)
    assert json.loads(ran.output)["tiles"] == dict(direct.tiles)
