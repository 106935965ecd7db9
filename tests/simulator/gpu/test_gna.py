"""GNA bounds: rows of counts, exact and published notions side by side, input errors, printing, grids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from einsum_cascade.errors import MappingError
from simulator.gpu.gna import GnaBounds, gna_bounds, grid_counts
from simulator.gpu.gna_axis import Axis, count_axis

ROWS = json.loads(
    (Path(__file__).parents[3] / "validation" / "data" / "published" / "gna_counts.json").read_text()
)
SETTING = ("layout", "window", "stride", "dilation", "causal", "q_tile", "kv_tile", "dynamic")
OURS = {"exact_fbs": "fully_block_sparse", "natten_fbs": "natten_fast_path"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_every_field_of_the_counted_rows(row: dict[str, Any]) -> None:
    found = gna_bounds(**{name: row[name] for name in SETTING}).as_dict()
    for name in set(row) - {*SETTING, "name", "source"}:
        # The ratios of the table are rounded to six decimals.
        expected = pytest.approx(row[name], abs=6e-7) if isinstance(row[name], float) else row[name]
        assert found[OURS.get(name, name)] == expected, name


def hunyuan(**changes: Any) -> GnaBounds:
    asked: dict[str, Any] = {
        "layout": (30, 48, 80),
        "window": (18, 24, 24),
        "q_tile": (4, 8, 8),
        "kv_tile": (2, 8, 8),
    }
    return gna_bounds(**{**asked, **changes})


def test_padding_of_dense_attention_is_its_own_number() -> None:
    # 30 rows are padded to 32 by Q tiles of 4: 480 Q tiles where dense attention has 115200 / 256 = 450.
    found = hunyuan(stride=(16, 8, 8))
    assert (found.q_tiles, found.dense_tiles) == (480, 450 * 900)
    assert found.tile_speedup == 450 * 900 / 38880
    assert found.padded_tile_speedup == 480 * 900 / 38880


def test_worst_tile_figure_is_no_bound() -> None:
    found = hunyuan()
    assert found.worst_tile_speedup == 900 / 275
    assert found.worst_tile_speedup < found.tile_speedup < found.flop_speedup


def test_natten_fast_path_and_the_exact_answer_differ() -> None:
    # 36 tokens, window 28, stride 16: groups 0-15, 16-31, 32-35 with leaders 8, 24, 35 start at 0, 8 (= 36 - 28), 8:
    # all on the grid of 4, and every window of 28 is 7 whole tiles. NATTEN asks for (14 - 8) % 4 == 0 and says no.
    found = gna_bounds(layout=36, window=28, stride=16, q_tile=16, kv_tile=4)
    assert found.fully_block_sparse
    assert not found.natten_fast_path
    # A window as long as the axis passes NATTEN's test although the last KV tile holds padding.
    padded = gna_bounds(layout=30, window=30, q_tile=8, kv_tile=8)
    assert padded.natten_fast_path
    assert not padded.fully_block_sparse
    assert padded.natten_bounds_masked == padded.visited


def test_a_mask_that_natten_would_leave_out_is_reported() -> None:
    # Tiles 1,8,16 / 4,4,8 are compiled for the backward kernels. On the first axis query 5
    # sees keys 1..8: its window starts in the middle of a KV tile of 4, and no neighbour shares it at stride 1.
    tiles = {"q_tile": (1, 8, 16), "kv_tile": (4, 4, 8)}
    found = gna_bounds(layout=(16, 32, 64), window=(8, 16, 32), stride=(1, 8, 16), **tiles)
    assert found.natten_fast_path
    assert found.natten_mask_missing
    assert not found.fully_block_sparse
    assert "mask missing" in str(found)
    assert not gna_bounds(
        layout=(16, 32, 64), window=(8, 16, 32), stride=(4, 8, 16), **tiles
    ).natten_mask_missing


def test_one_number_holds_for_all_axes() -> None:
    short = gna_bounds(layout=(16, 16), window=8, stride=4, q_tile=4, kv_tile=4, causal=(0, 1))
    long = gna_bounds(
        layout=[16, 16], window=[8, 8], stride=(4, 4), q_tile=(4, 4), kv_tile=(4, 4), causal=(False, True)
    )
    assert short == long


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window": (1, 24, 24)}, "axis 0: window: 1 is too small"),
        ({"window": (31, 24, 24)}, "axis 0: window: 31 x dilation 1 = 31 is longer than the layout's 30"),
        ({"dilation": 2}, "axis 0: window: 18 x dilation 2 = 36 is longer"),
        ({"stride": (1, 25, 1)}, "axis 1: stride: 25 is larger than the window 24"),
        ({"stride": 0}, "axis 0: stride: 0 is too small"),
        ({"dilation": (1, 1, 0)}, "axis 2: dilation: 0 is too small"),
        ({"layout": (30, 48)}, "window: found 3 numbers, expected 1 or 2"),
        ({"layout": (2, 2, 2, 2)}, "layout: found 4 axes, expected 1, 2 or 3"),
        ({"layout": ()}, "layout: found 0 axes"),
        ({"layout": (1, 48, 80), "window": (1, 24, 24)}, "at least 2; leave out an axis of one token"),
        ({"q_tile": (4, 8, 0)}, "axis 2: q_tile: 0 is not a tile"),
        ({"kv_tile": (4, -8, 1)}, "axis 1: kv_tile: -8 is not a tile"),
        ({"window": (18.5, 24, 24)}, "window: found (18.5, 24, 24), expected whole numbers"),
        ({"window": "18"}, "window: found '18', expected whole numbers"),
        ({"causal": (0, 2, 0)}, "causal: found (0, 2, 0), expected 0 or 1"),
    ],
)
def test_bad_input_has_one_clear_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MappingError) as error:
        hunyuan(**changes)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_grid_equals_one_call_at_a_time() -> None:
    windows, strides = [np.array([8, 8, 12]), np.array([6, 10])], [np.array([1, 4, 8]), np.array([2, 5])]
    axes = [Axis(32, 2, dilation=2, q_tile=4, kv_tile=4), Axis(30, 2, causal=True, q_tile=8, kv_tile=2)]
    grid = grid_counts([count_axis(a, w, s) for a, w, s in zip(axes, windows, strides, strict=True)])
    for i, j in np.ndindex(3, 2):
        one = gna_bounds(
            layout=(32, 30), window=(int(windows[0][i]), int(windows[1][j])), dilation=(2, 1), causal=(0, 1),
            stride=(int(strides[0][i]), int(strides[1][j])), q_tile=(4, 8), kv_tile=(4, 2),
        )  # fmt: skip
        assert (grid.visited[i, j], grid.dense[i, j], grid.pairs[i, j]) == (one.visited, one.dense, one.pairs)
        assert (grid.per_q_min[i, j], grid.per_q_max[i, j]) == (one.per_q_min, one.per_q_max)
        assert grid.visited[i, j] - grid.fast[i, j] == one.natten_masked


def test_the_longest_axis_is_counted_without_overflow() -> None:
    longest, stride = 2**31, 2**20
    found = gna_bounds(layout=longest, window=longest, stride=longest, q_tile=2**20, kv_tile=2**10)
    assert (found.pairs, found.visited, found.flop_speedup) == (2**62, 2**11 * 2**21, 1.0)
    # Group k of a stride begins at key max(k s + s - w, 0), and a query ends its keys.
    causal = gna_bounds(layout=longest, window=2**30, stride=stride, causal=True, q_tile=2**20, kv_tile=2**10)
    starts = sum(max((k + 1) * stride - 2**30, 0) for k in range(longest // stride))
    assert causal.pairs == longest * (longest + 1) // 2 - stride * starts
    with pytest.raises(MappingError, match=r"layout: 2147483649 is too long, an axis has at most 2\^31"):
        gna_bounds(layout=longest + 1, window=4, q_tile=2**20, kv_tile=4)


def test_text_and_html_name_the_four_numbers() -> None:
    found = hunyuan(dilation=(1, 2, 1), causal=(1, 0, 0))
    assert str(found).startswith(
        "GNA 30,48,80 window 18,24,24 stride 1,1,1 dilation 1,2,1 causal 1,0,0, tiles"
    )
    for words in ("FLOP bound", "tile bound", "worst-tile figure", "fully block-sparse"):
        assert words in str(found)
        assert words in found._repr_html_()
