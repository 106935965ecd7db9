"""Launches compiled as a GPU would, without one: the arguments of real calls, the shipped tiles, nothing spilled."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from einsum_cascade.errors import KernelError
from kernels import offline, registry, report, tiles
from kernels.attention import flash_attention
from kernels.decode import decode_attention
from kernels.offline import Launch
from kernels.registry import Case
from kernels.tiles import Tile


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("decode_attention", {"splits": 3}),
        ("merge_attention", {}),
        ("selected_attention", {"causal": False}),
        ("efficient_channel_gate", {}),
        ("channel_attention", {}),
    ],
)
def test_a_check_would_run_on_a_gpu(name, options):
    """Those of few instructions; `cascade kernels check --target sm_90` is all of them."""
    entry = registry.find(name)
    case = next(c for c in registry.load(entry.cases)() if options.items() <= c.options.items())
    found = offline.launches(entry, case, target="sm_90")
    assert found
    assert all(launch.ok for launch in found), found


def test_a_head_that_is_no_multiple_of_16_takes_a_tile_that_does_not_spill():
    """Its rows cannot be loaded in vectors: in the tile of 64 dimensions, 40 spilled."""
    case = Case("bf16", {"heads": 1, "seq_q": 19, "seq_kv": 35, "head_dim": 40}, {"causal": True})
    (launch,) = offline.launches(registry.find("flash_attention"), case, target="sm_90")
    assert launch.ok
    q = torch.zeros(1, 1, 35, 40, dtype=torch.bfloat16)
    with offline.launching("sm_90") as made:
        flash_attention(q, q, q, causal=True, tile=Tile(128, 64, 4, 3))
    assert not offline._launch(*made[0], 2**20).ok


def test_a_row_is_judged_by_the_launches_that_would_take_it():
    """Builds of 64 channels in steps of 32 tokens do not spill; the check of 16 channels, which takes the row, does."""
    row = tiles.row_of("channel_attention", head_dim=64, word_bytes=4, target=90)
    good, bad = (
        list(offline.of_row(replace(row, tile=tile), target="sm_90"))
        for tile in (row.tile, Tile(16, 32, 4, 1))
    )
    assert {x.function for x in good} == {"channel_weights", "channel_values"}
    assert len(good) == len(bad) == 4, "two checks of two kernels"
    assert all(x.ok for x in good)
    assert [x.function for x in bad if not x.ok] == ["channel_weights"]
    assert tiles.row_of("channel_attention", head_dim=64, word_bytes=4, target=90) == row


def test_a_campaign_s_launches_are_compiled_beside_the_checks():
    """16 heads and 4096 tokens, which are multiples of 16, in both head sizes."""
    entry = registry.find("channel_attention")
    found = [case for e, case in offline.work(["channel_attention"]) if e == entry]
    checks = list(registry.load(entry.cases)())
    assert found[: len(checks)] == checks
    assert [(c.sizes["head_dim"], c.sizes["seq_q"]) for c in found[len(checks) :]] == [
        (128, 4096),
        (64, 4096),
    ]


def test_what_is_known_to_spill_is_told_and_what_no_longer_does_too():
    spilling, fine = (
        Launch("f", 255, 40, 0, fits=True, known=True),
        Launch("f", 90, 0, 0, fits=True, known=True),
    )
    (line,) = report.slow_lines([("k", "case", (fine, spilling))])
    assert line.startswith("slow but right: k, f, 40 bytes")
    (line,) = report.slow_lines([("k", "case", (fine,))])
    assert line.startswith("marked as slow but spills nothing")
    document = report.launch_document([("k", "case", (fine, spilling))])
    assert (document["ok"], document["failed"], document["slow"]) == (True, 0, 1)


def test_long_chunks_and_long_rows_of_single_words_are_all_that_is_known_to_spill():
    marked = [(e.name, c) for e, c in offline.work() if c.slow_on]
    assert {name for name, _ in marked} == {"neural_memory", "flash_attention_gradients"}
    assert all(c.dtype == "fp32" for _, c in marked)
    assert all(c.options["chunk"] > 16 for name, c in marked if name == "neural_memory")
    assert all(c.sizes["head_dim"] == 128 for name, c in marked if name == "flash_attention_gradients")


def test_arguments_of_one_become_constants():
    """One query of one head of one sequence: everything that is 1 is compiled in, as Triton does at a launch."""
    q, k = torch.zeros(1, 1, 1, 64), torch.zeros(1, 1, 48, 64)
    with offline.launching("sm_80") as made:
        decode_attention(q, k, k, splits=1)
    assert [name for name, _ in made] == ["decode_split", "merge_parts"]


def test_each_target_is_compiled_for_itself_in_one_process():
    """Triton keeps compiled functions by device: a second target must not find those of the first."""
    q = torch.zeros(1, 1, 64, 64, dtype=torch.bfloat16)
    products = {}
    for target, instruction in (("sm_80", "mma.sync"), ("sm_90", "wgmma.mma_async"), ("sm_80", "mma.sync")):
        with offline.launching(target) as made:
            flash_attention(q, q, q, tile=Tile(64, 64, 4, 2))
        products[target] = made[0][1].asm["ptx"]
        assert instruction in products[target], target


def test_what_does_not_fit_is_seen():
    q = torch.zeros(1, 1, 64, 64, dtype=torch.bfloat16)
    with offline.launching("sm_80") as made:
        flash_attention(q, q, q, tile=Tile(16, 128, 4, 6))
    assert not offline._launch(*made[0], most_shared_bytes=100 * 1024).fits


def test_an_unknown_target_is_refused():
    with pytest.raises(KernelError, match="sm_90"), offline.launching("sm_91"):
        pass


@pytest.mark.parametrize("kernel", sorted({r.kernel for r in tiles.shipped() if r.window}))
def test_every_tile_for_windows_is_judged_by_launches_that_take_it(kernel):
    """A launcher that asks without saying that it has a window leaves these rows to builds, which know less."""
    asked = {a for _, _, some in offline._askers(kernel) for a in some}
    rows = [r for r in tiles.shipped() if r.kernel == kernel and r.window]
    assert [r for r in rows if not any(offline._takes(a, r, r.target) for a in asked)] == []


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_take_the_tile_of_their_mask(causal, window):
    """On consumer Blackwell the tile for whole rows spills with a window, as a build: it has one of its own."""
    entry = registry.find("flash_attention_gradients")
    sizes = {"heads": 1, "seq_q": 21, "seq_kv": 21, "head_dim": 64}
    case = Case("bf16", sizes, {"causal": causal, "window": window}, ("grad",))
    (asked,) = (a for a in offline._asked(entry, case) if a[0] == entry.name)
    plain, windowed = (
        tiles.pick(entry.name, head_dim=64, word_bytes=2, target=120, window=w) for w in (False, True)
    )
    assert plain != windowed
    assert offline._row(asked, 120).tile == (plain if window is None else windowed)


@pytest.mark.parametrize("target", ["sm_86", "sm_90", "sm_100", "sm_120"])
def test_gradients_of_windows_in_single_words_do_not_spill(target):
    """The builds held more keys; launched with ragged ends, those spilled everywhere but on an A100."""
    entry = registry.find("flash_attention_gradients")
    sizes = {"heads": 2, "seq_q": 37, "seq_kv": 53, "head_dim": 32}
    found = offline.launches(entry, Case("fp32", sizes, {"window": 8}, ("grad",)), target=target)
    assert [launch for launch in found if not launch.ok] == []


@pytest.mark.parametrize("options", [{"causal": True}, {"window": 129}, {"causal": True, "soft_cap": 30.0}])
def test_attention_beside_two_tables_does_not_spill_on_consumer_blackwell(options):
    """The campaign launches the first; half as many keys a step, as on an A100, spilled in each of them."""
    sizes = {"heads": 2, "seq_q": 4096, "seq_kv": 4096, "head_dim": 128}
    case = Case("bf16", sizes, options, ("bias", "factor"))
    (launch,) = offline.launches(registry.find("flash_attention"), case, target="sm_120")
    assert launch.ok, launch


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_the_campaign_s_gradients_do_not_spill_when_they_are_launched(target):
    """One head a group is a constant in a launch, which the builds ahead of time do not know: both are compiled."""
    entry = registry.find("flash_attention_gradients")
    for kv_heads in (1, 2):
        sizes = {"heads": 2, "kv_heads": kv_heads, "seq_q": 256, "seq_kv": 256, "head_dim": 128}
        for window in (None, 128):
            case = Case("bf16", sizes, {"causal": True, "window": window}, ("grad",))
            found = offline.launches(entry, case, target=target)
            assert [launch.function for launch in found if not launch.ok] == []


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_gradients_under_modified_scores_do_not_spill(target):
    """In the tiles of plain scores, they did."""
    entry = registry.find("flash_attention_gradients")
    sizes = {"heads": 2, "kv_heads": 1, "seq_q": 19, "seq_kv": 27, "head_dim": 128}
    case = Case("fp16", sizes, {"window": 19}, ("grad", "bias", "factor"))
    found = offline.launches(entry, case, target=target)
    assert [launch.function for launch in found if not launch.ok] == []
    assert {launch.function for launch in found} >= {
        "gradients_kv",
        "gradients_q",
        "diagonal_sums",
        "entry_sums",
    }
