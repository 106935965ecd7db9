"""The counter of launches, held against numbers from the tiling by hand: a tile is 16 by 16 in the interpreter."""

from __future__ import annotations

import linecache
import sys

import launches
import numpy as np
import pytest
import torch
from launches import counting, launches_of
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

import kernels
from kernels import registry
from kernels.registry import Case
from kernels.tiles import Tile

SQUARE = {"batch": 2, "heads": 1, "seq_q": 128, "seq_kv": 128, "head_dim": 32}
# Last tiles of 5 queries and of 5 keys, and 40 dimensions in a block of 64.
ODD = {"heads": 2, "seq_q": 37, "seq_kv": 53, "head_dim": 40}


def one(name, dtype, sizes, options=()):
    """The launch of a call that has a single one."""
    (launched,) = launches_of(name, Case(dtype, sizes, dict(options)))
    return launched


def test_dense_attention_visits_every_key_tile():
    launched = one("flash_attention", "fp32", SQUARE)
    assert (launched.name, launched.programs) == ("flash_forward", 2 * 8)
    assert launched.steps.tolist() == [8] * 16
    assert launched.dots.tolist() == [2 * 8] * 16
    assert launched.product_flops.tolist() == [2 * 8 * (2 * 16 * 16 * 32)] * 16
    # A tile of queries once, and one of keys and one of values a step; a row of float32 is 128 bytes.
    assert launched.loaded_bytes.tolist() == [(1 + 2 * 8) * 16 * 128] * 16
    assert launched.stored_bytes.tolist() == [16 * 128 + 16 * 4] * 16
    assert launched.distinct_loaded_bytes == 3 * 2 * 128 * 128
    assert launched.distinct_stored_bytes == 2 * 128 * 128 + 2 * 128 * 4


def test_causal_attention_stops_at_the_diagonal():
    launched = one("flash_attention", "bf16", SQUARE, {"causal": True})
    # The longest rows come first; the tile on the diagonal is visited whole.
    tiles = [8, 7, 6, 5, 4, 3, 2, 1] * 2
    assert launched.steps.tolist() == tiles
    assert launched.dots.tolist() == [2 * t for t in tiles]
    assert launched.dots.sum() == 2 * 2 * 36
    assert launched.product_flops.tolist() == [2 * t * (2 * 16 * 16 * 32) for t in tiles]
    assert launched.loaded_bytes.tolist() == [(1 + 2 * t) * 16 * 64 for t in tiles]
    assert launched.distinct_loaded_bytes == 3 * 2 * 128 * 64
    # The result has half words, the log-sum-exp has not.
    assert launched.distinct_stored_bytes == 2 * 128 * 64 + 2 * 128 * 4


def test_lanes_that_a_mask_turns_off_move_nothing_and_multiply():
    launched = one("flash_attention", "fp32", ODD)
    queries = [16, 16, 5] * 2
    assert launched.product_flops.tolist() == [2 * 4 * (2 * 16 * 16 * 64)] * 6
    assert launched.loaded_bytes.tolist() == [(n + 2 * 53) * 40 * 4 for n in queries]
    assert launched.stored_bytes.tolist() == [n * 40 * 4 + n * 4 for n in queries]
    assert launched.distinct_loaded_bytes == 2 * (37 + 2 * 53) * 40 * 4
    assert launched.distinct_stored_bytes == launched.stored_bytes.sum()


def test_a_tile_may_be_given_and_need_not_be_square():
    launched = one("flash_attention", "bf16", SQUARE, {"tile": Tile(64, 32)})
    assert launched.programs == 2 * 2
    assert launched.dots.tolist() == [2 * 4] * 4
    assert launched.product_flops.sum() == 2 * 2 * (2 * 128 * 128 * 32)


def test_calls_are_told_by_function_and_line():
    launched = one("flash_attention", "fp32", SQUARE, {"causal": True})
    tiles = np.array([8, 7, 6, 5, 4, 3, 2, 1] * 2)
    assert (launched.count("load", "_visit") == 2 * tiles).all()
    assert launched.count("load", "flash_forward").tolist() == [1] * 16
    assert (launched.count("load") == 2 * tiles + 1).all()
    assert launched.count("store").tolist() == [2] * 16
    assert launched.count("dot", "flash_forward").tolist() == [0] * 16
    # Whole tiles and the cut one load their keys in different lines.
    loads = [n.tolist() for p, n in launched.calls.items() if (p.op, p.function) == ("load", "_visit")]
    assert loads == [[1] * 16, (tiles - 1).tolist()] * 2
    words = {"dot": "tl.dot(", "load": "tl.load(", "store": "tl.store(", "for": "range("}
    file = f"{launches.FOLDER}attention.py"
    assert all(words[p.op] in linecache.getline(file, p.line) for p in launched.calls)


def test_a_loop_that_holds_another_is_no_step():
    """Gradients of the keys: the query heads that share them, and the query tiles of each."""
    sizes = {"heads": 6, "kv_heads": 2, "seq_q": 48, "seq_kv": 32, "head_dim": 16}
    forward, rows, keys, queries = launches_of(
        "flash_attention_gradients", Case("fp32", sizes, {}, ("grad",))
    )
    assert [x.name for x in (forward, rows, keys, queries)] == [
        "flash_forward", "row_products", "gradients_kv", "gradients_q",
    ]  # fmt: skip
    assert rows.dots.sum() == rows.steps.sum() == 0
    assert keys.programs == 2 * 2
    assert keys.steps.tolist() == [3 * 3] * 4
    assert keys.count("for").tolist() == [3 + 3 * 3] * 4
    # The products of scores and of weights' gradients lie in a function of their own.
    assert keys.dots.tolist() == [4 * 9] * 4
    assert keys.count("dot", "_score_gradient").tolist() == [2 * 9] * 4
    assert queries.dots.tolist() == [3 * 2] * (6 * 3)


def test_a_merge_reads_its_input_once_and_multiplies_nothing():
    launched = one("merge_attention", "bf16", {"parts": 3, "rows": 21, "head_dim": 40})
    assert (launched.name, launched.programs) == ("merge_parts", 2)
    assert launched.dots.tolist() == launched.product_flops.tolist() == [0, 0]
    assert launched.steps.tolist() == [3, 3]
    assert launched.loaded_bytes.tolist() == [3 * n * (40 * 2 + 4) for n in (16, 5)]
    assert launched.distinct_loaded_bytes == launched.loaded_bytes.sum()
    assert launched.distinct_stored_bytes == launched.stored_bytes.sum() == 21 * (40 * 2 + 4)


def test_a_gate_is_three_launches():
    """20 planes of 35 pixels; the taps of the convolution are unrolled, and every program reads them."""
    sizes = {"batch": 2, "channels": 10, "height": 5, "width": 7}
    means, gates, scaling = launches_of("efficient_channel_gate", Case("bf16", sizes, extras=("taps",)))
    assert [x.name for x in (means, gates, scaling)] == ["pixel_means", "convolved_gates", "scaled_pixels"]
    assert [x.programs for x in (means, gates, scaling)] == [2, 2, 2 * 3]
    assert not any(x.dots.any() for x in (means, gates, scaling))
    assert [x.steps.tolist() for x in (means, gates, scaling)] == [[3, 3], [0, 0], [0] * 6]
    image, plane_words = 20 * 35 * 2, 20 * 4
    assert [x.distinct_loaded_bytes for x in (means, gates, scaling)] == [
        image, plane_words + 3 * 2, image + plane_words,
    ]  # fmt: skip
    assert [x.distinct_stored_bytes for x in (means, gates, scaling)] == [plane_words, plane_words, image]
    # Of 3 taps, one lies beyond the end of an image for its first channel and one for its last.
    assert gates.loaded_bytes.sum() == (3 * 20 - 2 * 2) * 4 + 2 * 3 * 2
    # One gate a plane, for each of three tiles of pixels.
    assert scaling.loaded_bytes.sum() == image + 3 * plane_words


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_results_are_those_of_a_run_without_counting(dtype):
    entry = registry.find("neural_memory")
    launcher, sizes = registry.load(entry.launcher), {"heads": 2, "seq_q": 21, "seq_kv": 21, "head_dim": 16}
    inputs = registry.load(entry.inputs)(**sizes, dtype=dtype)
    plain = launcher(**inputs, chunk=16)
    with counting() as made:
        counted = launcher(**inputs, chunk=16)
    assert [x.name for x in made] == ["chunk_weights", "memory_chunks"]
    assert all(torch.equal(a, b) for a, b in zip(plain, counted, strict=True))


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda e: e.name)
def test_every_kernel_is_counted_and_writes_all_of_its_outputs(entry):
    case = next(iter(registry.load(entry.cases)()))
    inputs = registry.load(entry.inputs)(**case.sizes, dtype=case.dtype, extras=case.extras)
    with counting() as made:
        outputs = registry.load(entry.launcher)(**inputs, **case.options)
    assert sum(x.distinct_stored_bytes for x in made) >= sum(t.nbytes for t in outputs)
    for x in made:
        assert x.programs > 0
        assert x.distinct_loaded_bytes <= x.loaded_bytes.sum()
        # No kernel writes a place twice in a launch.
        assert x.distinct_stored_bytes == x.stored_bytes.sum()


def test_nothing_is_left_behind_also_after_an_error():
    def places():
        ours = [m for n, m in sys.modules.items() if n.startswith(f"{kernels.__name__}.")]
        return [dict(vars(p)) for p in (InterpreterBuilder, GridExecutor)], ["range" in vars(m) for m in ours]

    launches_of("merge_attention", Case("fp32", {"parts": 2, "rows": 3, "head_dim": 8}))
    before = places()
    with pytest.raises(ZeroDivisionError), counting():
        raise ZeroDivisionError
    assert places() == before
    assert not any(before[1])


def test_an_atomic_addition_is_refused():
    with counting(), pytest.raises(NotImplementedError, match="create_atomic_rmw"):
        InterpreterBuilder().create_atomic_rmw()
