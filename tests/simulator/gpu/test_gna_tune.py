"""The tuner against one prediction at a time, stride advice against trial, the table of 76 tiles."""

from __future__ import annotations

from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np
import pytest

from einsum_cascade.errors import MappingError
from simulator.gpu.gna import gna_bounds, make_axes
from simulator.gpu.gna_axis import Axis
from simulator.gpu.gna_tune import GnaTuning, speedup_grid, stride_advice, tune_gna

HUNYUAN: dict[str, Any] = {"layout": (30, 48, 80), "window": (18, 24, 24)}


@pytest.fixture(scope="module")
def hunyuan() -> GnaTuning:
    return tune_gna(**HUNYUAN, on="b200", top=None)


@pytest.mark.parametrize(
    ("asked", "backend"),
    [
        ({"layout": (24, 20), "window": (9, 12), "causal": (0, 1), "on": "h100"}, None),
        ({"layout": (30, 24), "window": (6, 8), "dilation": (3, 2), "on": "b200", "heads": 3}, None),
        ({"layout": (24, 20), "window": (9, 12), "on": "a100", "batch": 2}, None),
        ({"layout": (9, 10, 11), "window": (4, 3, 5), "on": "a100", "head_dim": 64}, "flex-fna"),
        ({"layout": 900, "window": 40, "on": "h100", "dilation": 3, "heads": 1}, None),
    ],
)
def test_every_choice_equals_a_prediction_by_itself(asked: dict[str, Any], backend: str | None) -> None:
    from simulator.gpu.gna_time import predict_gna

    found = tune_gna(**asked, backend=backend, top=None)
    axes = len(asked["window"]) if isinstance(asked["window"], tuple) else 1
    assert found.settings == len(found.choices) == len(found.advice) * int(np.prod(asked["window"]))
    rng = np.random.default_rng(axes)
    for i in rng.choice(len(found.choices), size=60):
        choice = found.choices[i]
        one = predict_gna(
            **{"heads": 24, **asked}, stride=choice.stride, q_tile=choice.q_tile, kv_tile=choice.kv_tile,
            backend=found.backend,
        )  # fmt: skip
        assert choice.steps == one.steps
        assert choice.latency_s == pytest.approx(one.latency_s, rel=1e-12)
        assert choice.speedup == pytest.approx(one.speedup, rel=1e-12)
        assert choice.mask_free == (one.masked == 0)


def test_choices_are_ranked_and_counted_exactly(hunyuan: GnaTuning) -> None:
    assert hunyuan.settings == len(hunyuan.choices) == 7 * 18 * 24 * 24
    times = [c.latency_s for c in hunyuan.choices]
    # Ties are made at a picosecond.
    assert all(a <= b + 1e-12 for a, b in pairwise(times))
    assert [c.rank for c in hunyuan.choices] == list(range(1, hunyuan.settings + 1))
    for choice in hunyuan.choices[:: hunyuan.settings // 40]:
        one = gna_bounds(**HUNYUAN, stride=choice.stride, q_tile=choice.q_tile, kv_tile=choice.kv_tile)
        assert (choice.visited, choice.tile_speedup, choice.flop_speedup) == (
            one.visited, one.tile_speedup, one.flop_speedup,
        )  # fmt: skip
        assert choice.fully_block_sparse == one.fully_block_sparse
        assert choice.natten_fast_path == one.natten_fast_path


def test_the_published_stride_comes_first(hunyuan: GnaTuning) -> None:
    # GNA's authors ran HunyuanVideo on B200 with stride 16,8,8.
    assert hunyuan.choices[0].stride == (16, 8, 8)
    assert hunyuan.choices[0].kv_tile == (2, 8, 8)


def test_the_first_rows_are_the_same_when_fewer_are_asked_for(hunyuan: GnaTuning) -> None:
    assert tune_gna(**HUNYUAN, on="b200", top=30).choices == hunyuan.choices[:30]


def test_a_grid_holds_the_best_choice_of_every_stride() -> None:
    asked: dict[str, Any] = {
        "layout": (30, 24),
        "window": (6, 8),
        "dilation": (3, 2),
        "causal": (0, 1),
        "on": "b200",
    }
    grid = speedup_grid(**asked)
    assert grid.shape == (6, 8)
    choices = tune_gna(**asked, top=None).choices
    for i, j in np.ndindex(*grid.shape):
        best = max(c.speedup for c in choices if c.stride == (i + 1, j + 1))
        assert grid[i, j] == pytest.approx(best, rel=1e-12)


def test_one_stride_alone() -> None:
    found = tune_gna(**HUNYUAN, on="b200", stride=(1, 1, 1))
    assert found.settings == 7
    assert {c.stride for c in found.choices} == {(1, 1, 1)}
    # the advice is about all strides even so
    assert found.advice == tune_gna(**HUNYUAN, on="b200").advice


def test_least_tile_work_of_the_76_pairs() -> None:
    found = tune_gna(**HUNYUAN, on="a100", stride=(16, 8, 8), top=None)
    assert found.settings == 76
    work = {c: c.visited * prod(c.q_tile) * prod(c.kv_tile) for c in found.choices}
    least = [c for c, w in work.items() if w == min(work.values())]
    largest = max(prod(c.q_tile) * prod(c.kv_tile) for c in least)
    best = {(c.q_tile, c.kv_tile, c.visited) for c in least if prod(c.q_tile) * prod(c.kv_tile) == largest}
    assert best == {((2, 8, 4), (2, 8, 8), 145800), ((2, 4, 8), (2, 8, 8), 145800)}


def test_stride_advice_is_the_first_that_works() -> None:
    rng = np.random.default_rng(7)
    seen = 0
    for _ in range(300):
        q_tile, kv_tile = (int(2 ** rng.integers(0, 4)) for _ in range(2))
        length = int(rng.integers(4, 40)) * int(rng.choice([1, kv_tile]))
        window = int(rng.integers(2, length + 1))
        advice = stride_advice([Axis(length, window, q_tile=q_tile, kv_tile=kv_tile)])
        asked: dict[str, Any] = {"layout": length, "window": window, "q_tile": q_tile, "kv_tile": kv_tile}
        bounds = [gna_bounds(**asked, stride=s) for s in range(1, window + 1)]
        exact = next((s for s, b in enumerate(bounds, 1) if b.fully_block_sparse), None)
        natten = next((s for s, b in enumerate(bounds, 1) if b.natten_fast_path), None)
        assert advice.exact == (None if exact is None else (exact,))
        assert advice.natten == (None if natten is None else (natten,))
        seen += exact is not None
    assert seen > 20


def test_a_ranking_reads_and_prints(hunyuan: GnaTuning) -> None:
    few = tune_gna(**HUNYUAN, on="h100", top=3)
    assert list(few.table()["rank"]) == [1, 2, 3]
    assert few.as_dict()["choices"][0]["stride"] == few.choices[0].stride
    assert "fitted" in str(few)
    assert "cuDNN" in few._repr_html_()
    assert tune_gna(**HUNYUAN, on="a100", top=1).baseline_s is None
    assert len(few.choice_columns()) == len(few.choice_rows()[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window": (31, 24, 24)}, "longer than the layout's 30"),
        ({"head_dim": 100, "backend": "blackwell-fna"}, "head_dim: blackwell-fna cannot run 100"),
        ({"stride": 25}, "stride: 25 is larger than the window 18"),
        ({"top": -1}, "top: -1 is too small"),
        ({"heads": 0}, "heads: 0 is too small"),
    ],
)
def test_mistakes(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MappingError, match=said):
        tune_gna(**{**HUNYUAN, "on": "b200", **changes})


def test_more_settings_than_can_be_kept_are_refused() -> None:
    asked: dict[str, Any] = {"layout": (512, 512, 512), "window": 256, "on": "a100"}
    with pytest.raises(MappingError, match="1,275,068,416 stride x tile pairs are too many to rank"):
        tune_gna(**asked)
    assert tune_gna(**asked, stride=256).settings == 76


def test_more_strides_than_can_be_counted_are_refused_and_one_of_them_is_not() -> None:
    asked: dict[str, Any] = {"layout": 2**20, "window": 2**19, "on": "h100"}
    with pytest.raises(MappingError, match="8,192 Q tiles for each of 524,288 strides are too many to count"):
        tune_gna(**asked)
    assert tune_gna(**asked, stride=128).advice[0].exact == (256,)


def test_advice_that_would_take_minutes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.gpu.gna_tune._MOST_COUNTED", 2**20)
    monkeypatch.setattr("simulator.gpu.gna_tune._AT_ONCE", 2**12)
    # On a causal axis no stride is free of masks, and one after the other would be looked at.
    asked: dict[str, Any] = {"layout": 2**17, "window": 2**16, "on": "h100", "stride": 128}
    assert tune_gna(**asked, causal=True).advice == ()
    assert tune_gna(**asked).advice != ()


def test_advice_over_two_axes_is_the_smallest_of_all_strides_tried() -> None:
    """Every stride of every axis is counted; the smallest free one must be the advice, and none if there is none."""
    rng = np.random.default_rng(8)
    for _ in range(40):
        layout = [int(n) for n in rng.integers(4, 26, size=2)]
        dilation = [
            int(d) if n >= 2 * d else 1 for n, d in zip(layout, rng.integers(1, 3, size=2), strict=True)
        ]
        window = [int(rng.integers(2, max(n // d, 2) + 1)) for n, d in zip(layout, dilation, strict=True)]
        tiles = {name: [int(2**k) for k in rng.integers(0, 4, size=2)] for name in ("q_tile", "kv_tile")}
        asked: dict[str, Any] = {"layout": layout, "window": window, "dilation": dilation, **tiles}
        tried = {s: gna_bounds(**asked, stride=s) for s in product(*(range(1, w + 1) for w in window))}
        found = stride_advice(make_axes(**asked, stride=1))
        for strides, advice in (
            ([s for s, b in tried.items() if b.fully_block_sparse], found.exact),
            ([s for s, b in tried.items() if b.natten_fast_path], found.natten),
        ):
            assert advice == (min(strides, key=lambda s: (sum(s), s)) if strides else None), asked
