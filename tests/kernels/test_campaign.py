"""The campaign script without a GPU: the whole plan at tiny sizes, stopped and resumed, torn rows, foreign files."""

from __future__ import annotations

import csv
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from einsum_cascade.errors import DataError, KernelError
from kernels import campaign, check, journal, plans, registry, tiles
from kernels.ceilings import Ceilings


def tiny():
    return list(campaign.plan(lengths=(32,), head_dims=(16,), tokens=32))


def test_the_plan_covers_every_kernel_but_the_merge():
    """The merge is measured inside split-KV decode."""
    covered = {p.entry for p in campaign.plan(lengths=plans.LENGTHS[:1])}
    assert covered == {e.name for e in registry.entries()} - {"merge_attention"}


def test_every_length_head_size_and_mask_is_there_once():
    every = list(campaign.plan())
    keys = [campaign._key_of(p, "d") for p in every]
    assert len(keys) == len(set(keys))
    flash = {
        (p.setting.seq, p.setting.head_dim, p.setting.causal, p.setting.window)
        for p in every
        if p.entry == "flash_attention"
    }
    for seq in (1024, 2048, 4096, 8192, 16384, 32768, 65536):
        for head_dim in (64, 128):
            assert {
                (seq, head_dim, False, None),
                (seq, head_dim, True, None),
                (seq, head_dim, True, 128),
            } <= flash


def test_a_budget_keeps_the_most_valuable_and_is_kept():
    every = list(campaign.plan())
    whole = list(campaign.within(every, minutes=None))
    assert len(whole) == len(every)
    assert whole[-1][1] < 8 * 60, "the whole plan is meant for eight minutes"
    few = list(campaign.within(every, minutes=5))
    assert few[-1][1] <= 300
    assert few[0][0] == every[0]
    assert {p.entry for p, _ in few} == {p.entry for p in every}


def test_what_is_kept_in_memory_fits_a_card_of_forty_gigabytes():
    """Scores of 4 bytes and weights of 2 beside four tensors; and the fused kernel is timed on the same batch."""
    every = list(campaign.plan())
    unfused = [p for p in every if p.entry == "unfused_attention"]
    fused = {p.setting for p in every if p.entry == "flash_attention" and p.variant == "triton-cascade"}
    assert {p.setting.seq for p in unfused} == {1024, 2048, 4096, 8192}
    for p in unfused:
        s = p.setting
        scores = s.batch * s.heads * s.seq**2
        assert 6 * scores + 4 * 2 * s.batch * s.heads * s.seq * s.head_dim < 38e9
        assert s in fused


# NVIDIA's largest: of B200, B300 and their boards. Source: "CUDA C++ Programming Guide" and deviceQuery of such cards.
LARGEST_L2_BYTES = 126 * 2**20


def test_inputs_are_larger_than_any_cache():
    """Counted from the sizes alone: what a launch reads, at two bytes a number, is half as much again at the least."""
    for p in campaign.plan():
        n = p.sizes
        if "layout" in n:
            read = 3 * n["batch"] * n["heads"] * math.prod(n["layout"]) * n["head_dim"]
        elif "channels" in n:
            read = n["batch"] * n["channels"] * n["height"] * n["width"]
        else:
            kv = 2 * n["batch"] * n.get("kv_heads", n["heads"]) * n["seq_kv"] * n["head_dim"]
            read = kv + n["batch"] * n["heads"] * n["seq_q"] * n["head_dim"]
        assert 2 * read > 1.5 * LARGEST_L2_BYTES, (p.entry, p.variant, n)


def test_every_case_has_a_check_of_its_own_kernel_that_is_small():
    for p in campaign.plan():
        case, n = campaign.gate_of(p), campaign.gate_of(p).sizes
        assert case.dtype == p.setting.dtype
        assert n["batch"] == 1
        assert n.get("heads") == p.sizes.get("heads")
        assert n.get("head_dim") == p.sizes.get("head_dim")
        assert n.get("channels") == p.sizes.get("channels")
        assert p.options.keys() <= case.options.keys()
        assert case.extras == p.extras
        assert n.get("seq_kv", 256) == 256
        assert math.prod(n.get("layout", (256,))) == 256


def test_an_estimate_by_hand():
    """1e12 operations at half of 100e12 are 20 ms; five rounds of one launch: 0.1 s; four calls before: 0.08 s."""
    p = replace(next(campaign.plan()), flops=1e12, bytes=0.0)
    rates = Ceilings(gemm_flops_per_s=100e12, copy_bytes_per_s=1e12)
    found = campaign.estimate_s(p, budget_s=0.0, rates=rates)
    assert found == pytest.approx(campaign.SETUP_S + 0.18, rel=1e-3)


def test_the_whole_plan_runs_stops_and_goes_on(tmp_path):
    path = tmp_path / "rows.csv"
    cases = tiny()
    assert campaign.run(path, cases[:2], on="cpu") == 2
    # A stop in the middle of a row.
    path.write_text(path.read_text()[:-20])
    assert campaign.run(path, cases, on="cpu") == len(cases) - 1
    assert campaign.run(path, cases, on="cpu") == 0
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == len(cases)
    assert all(r["device"].startswith("Triton interpreter") for r in rows)
    assert all(float(r["latency_ms"]) > 0 for r in rows)


def test_a_killed_campaign_goes_on_where_it_was(tmp_path):
    """The process is killed after some rows, as a lost machine would be; what it wrote is kept, and nothing twice."""
    path = tmp_path / "rows.csv"
    code = (
        "import sys; from pathlib import Path; from kernels import campaign;"
        "campaign.run(Path(sys.argv[1]), campaign.plan(lengths=(32,), head_dims=(16,), tokens=32), on='cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and (not path.exists() or path.read_text().count("\n") < 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = path.read_text().splitlines()[1:3]
    cases = tiny()[:6]
    campaign.run(path, cases, on="cpu")
    rows = path.read_text().splitlines()
    assert rows[1:3] == kept
    keys = [tuple(r[k] for k in journal.KEY) for r in csv.DictReader(rows)]
    assert len(keys) == len(set(keys)) >= len(cases)


def test_a_file_that_was_cut_in_its_head_begins_anew(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("source,dev")
    assert campaign.run(path, tiny()[:1], on="cpu") == 1
    assert len(list(csv.DictReader(path.open()))) == 1


# One generation: their tiles differ in size and depth, of which the interpreter knows the size alone.
MEASURED_ON = 90


@pytest.mark.parametrize(
    "entry", [e for e in registry.entries() if e.name != "merge_attention"], ids=lambda e: e.name
)
def test_a_kernel_is_right_at_the_tiles_at_which_it_is_measured(entry, monkeypatch):
    """The checks of the interpreter take small tiles, so that short sequences take several steps; these are shipped."""
    taken = []

    def choose(kernel, *, head_dim, dtype, device, window=False):
        taken.append(
            tiles.fitting(
                kernel, head_dim=head_dim, word_bytes=dtype.itemsize, target=MEASURED_ON, window=window
            )
        )
        return taken[-1]

    monkeypatch.setattr(tiles, "choose", choose)
    plan = campaign.plan(head_dims=plans.HEAD_DIMS[:1])
    forms = {p.specialisation: campaign.gate_of(p) for p in plan if p.entry == entry.name}
    for case in forms.values():
        few = {"heads": 2} | ({"kv_heads": 1} if "kv_heads" in case.sizes else {})
        sizes = case.sizes if "channels" in case.sizes else {**case.sizes, **few}
        outcome = check.run_case(entry, replace(case, sizes=sizes))
        assert outcome.ok, outcome
    assert len(taken) >= len(forms)
    assert max(t.block_m * t.block_n for t in taken) > math.prod(tiles.INTERPRETED)


def test_a_kernel_that_is_wrong_at_its_measured_tile_is_seen(monkeypatch):
    """Its check is run where it is measured, on the GPU; here in its place on the CPU, by a kernel that is wrong."""
    monkeypatch.setattr(
        campaign.check,
        "run_case",
        lambda entry, case, *, device, run=check.run_case: run(entry, case, device="cpu"),
    )
    p = next(p for p in tiny() if p.entry == "squeeze_excite_gate")
    assert campaign._check(p) == ""
    load = registry.load

    def wrong(place):
        found = load(place)
        if place != registry.find(p.entry).launcher:
            return found
        return lambda *args, **kwargs: tuple(1.05 * t for t in found(*args, **kwargs))

    monkeypatch.setattr(registry, "load", wrong)
    assert "relative error 0.05" in campaign._check(p)


def test_a_result_with_holes_is_refused():
    with pytest.raises(KernelError, match="holds NaN"):
        campaign._gate(tiny()[0], (torch.tensor([1.0, float("nan")]), torch.zeros(1)))


def test_a_foreign_file_is_not_touched(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="missing"):
        campaign.run(path, tiny(), on="cpu")
    assert path.read_text() == "a,b\n1,2\n"
