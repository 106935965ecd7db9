"""Compiling before a campaign measures, without a GPU: what is compiled is what is launched, and no fault stops it."""

from __future__ import annotations

import importlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kernels import beforehand, campaign, device, offline, registry
from kernels.ceilings import Ceilings
from kernels.registry import Case

CAPABILITY = 80
TARGET = "sm_80"


def plan_of(entry, **sizes):
    """The campaign's first case of a kernel of few instructions, shorter."""
    p = next(p for p in campaign.plan() if p.entry == entry)
    return replace(p, sizes={**p.sizes, **sizes})


def cached(folder):
    """Names of what Triton has compiled into a folder."""
    return {p.stem for p in folder.rglob("*.cubin")}


def test_what_is_compiled_is_what_the_campaign_launches(tmp_path, monkeypatch):
    """In processes of their own, from one sequence; then launched here with several: nothing is left to compile."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    plans = [plan_of("decode_attention", seq_kv=4096, batch=16), plan_of("channel_attention", batch=2)]
    jobs = beforehand.jobs_of(plans)
    assert beforehand.compile_all(jobs, capability=CAPABILITY, among=2, limit_s=300.0)
    before = sorted(tmp_path.rglob("*.cubin"))
    assert cached(tmp_path) >= {"decode_split", "merge_parts", "channel_weights", "channel_values"}
    for p in plans:
        inputs = registry.load(registry.find(p.entry).inputs)(**p.sizes, dtype=p.setting.dtype)
        with offline.launching(TARGET) as made:
            registry.load(registry.find(p.entry).launcher)(**inputs, **p.options)
        assert made
    assert sorted(tmp_path.rglob("*.cubin")) == before
    # Another word is another kernel, which shows that the comparison above sees what is compiled.
    inputs = registry.load(registry.find("channel_attention").inputs)(**plans[1].sizes, dtype="fp16")
    with offline.launching(TARGET):
        registry.load(registry.find("channel_attention").launcher)(**inputs)
    assert len(sorted(tmp_path.rglob("*.cubin"))) > len(before)


@pytest.mark.parametrize(
    "entry", ["decode_attention", "channel_attention", "flash_attention", "squeeze_excite_gate"]
)
def test_a_check_runs_the_very_kernel_that_is_then_measured(entry):
    """Its code is that of the case itself; a check in another word has other code."""

    def compiled(case):
        with offline.launching(TARGET) as made:
            offline.call(registry.find(entry), case)
        return [kernel.hash for _, kernel in made]

    p = plan_of(entry)
    gate = campaign.gate_of(p)
    assert compiled(p.alone) == compiled(gate) != compiled(replace(gate, dtype="fp16"))


def test_each_kernel_is_compiled_once_and_its_check_too():
    plans = [p for p in campaign.plan() if p.entry == "flash_attention"]
    jobs = beforehand.jobs_of(plans)
    assert {name for name, _ in jobs} == {"flash_attention"}
    forms = {p.specialisation for p in plans}
    assert len(jobs) == 2 * len(forms) < len(plans)
    assert all(case.sizes["batch"] == 1 and case.dtype == "bf16" for _, case in jobs)
    assert all(case.sizes["seq_kv"] == 256 for _, case in jobs[len(forms) :])
    assert not beforehand.jobs_of([])


def test_a_kernel_that_cannot_be_compiled_leaves_the_others(tmp_path, monkeypatch):
    """The first job asks for sizes that do not fit each other."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    wrong = Case("bf16", {"heads": 3, "kv_heads": 2, "seq_q": 16, "seq_kv": 16, "head_dim": 64})
    good = Case("bf16", {"parts": 2, "rows": 16, "head_dim": 64})
    jobs = [("flash_attention", wrong), ("merge_attention", good)]
    assert beforehand.compile_all(jobs, capability=CAPABILITY, among=1, limit_s=200.0)
    assert cached(tmp_path) == {"merge_parts"}


# A module of its own: the other process has to find it by name, wherever the tests are run from.
COMPILERS = """
import os, time
from pathlib import Path

def hangs(jobs, capability):
    for name, _ in jobs:
        Path(name).write_text(str(os.getpid()))
    time.sleep(120)

def dies(jobs, capability):
    os._exit(7)
"""


def test_a_compiler_that_hangs_is_ended_and_one_that_dies_is_told(tmp_path, monkeypatch):
    (tmp_path / "faulty_compilers.py").write_text(COMPILERS)
    monkeypatch.syspath_prepend(tmp_path)
    faulty = importlib.import_module("faulty_compilers")
    place = tmp_path / "pid"
    start = time.monotonic()
    assert not beforehand.compile_all(
        [(str(place), None)], capability=CAPABILITY, among=4, limit_s=15.0, work=faulty.hangs
    )
    assert time.monotonic() - start < 60
    assert not Path(f"/proc/{place.read_text()}").exists()
    assert not beforehand.compile_all(
        [("a", None)], capability=CAPABILITY, among=1, limit_s=60.0, work=faulty.dies
    )


def test_compiling_counts_against_the_budget_and_more_cpus_leave_more_of_it():
    """Two plans of one kernel and head size, which are compiled and checked once."""
    p = replace(next(campaign.plan()), flops=0.0, bytes=0.0)
    q = replace(p, setting=replace(p.setting, batch=2))
    one = campaign.estimate_s(p, budget_s=0.25, rates=campaign.ceilings.ASSUMED)
    other = next(r for r in campaign.plan() if r.specialisation != p.specialisation)
    whole = [list(campaign.within([p, other], minutes=None, compilers=n))[-1][1] for n in (1, 2)]
    assert whole[0] - whole[1] == pytest.approx(beforehand.COMPILE_S)
    jobs_s = beforehand.COMPILE_S
    for compilers in (1, 2):
        passed = [s for _, s in campaign.within([p, q], minutes=None, compilers=compilers)]
        first = beforehand.START_S + jobs_s + campaign.CHECK_S + one
        assert passed == pytest.approx([first, first + one])
        assert not list(campaign.within([p], minutes=(first - 0.1) / 60, compilers=compilers))
        assert len(list(campaign.within([p, q], minutes=(first + 0.1) / 60, compilers=compilers))) == 1


@pytest.mark.parametrize("whole", [True, False])
def test_a_campaign_on_a_gpu_compiles_all_before_it_measures(tmp_path, monkeypatch, capsys, whole):
    """With what is there of a GPU here: its name, its ceilings, and a case that is measured at once."""
    happened = []

    def compile_all(jobs, *, capability, among, limit_s):
        happened.append(("compiled", len(jobs), capability, among))
        assert limit_s == pytest.approx(3 * beforehand.estimate_s(len(jobs), among=among))
        return whole

    monkeypatch.setattr(device, "measured_name", lambda on: "GPU of this test")
    monkeypatch.setattr(campaign, "_ceilings", lambda *_: Ceilings(1e14, 1e12))
    monkeypatch.setattr(campaign, "_attempt", lambda p, *_: happened.append(("measured", p.entry)))
    monkeypatch.setattr(campaign.torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(beforehand, "compile_all", compile_all)
    monkeypatch.setattr(beforehand, "workers", lambda: 3)
    plans = [p for p in campaign.plan(lengths=(4096,)) if p.entry == "flash_attention"][:3]
    assert campaign.run(tmp_path / "rows.csv", plans, on="cuda", minutes=5.0) == 3
    jobs = beforehand.jobs_of(plans)
    assert happened == [("compiled", len(jobs), 90, 3), *[("measured", "flash_attention")] * 3]
    said = capsys.readouterr().err
    assert f"{len(jobs)} launches compiled" in said
    assert ("not all of them" in said) == (not whole)


def test_nothing_is_compiled_where_nothing_is_left_to_measure(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "measured_name", lambda on: "GPU of this test")
    monkeypatch.setattr(campaign, "_ceilings", lambda *_: Ceilings(1e14, 1e12))
    monkeypatch.setattr(beforehand, "compile_all", lambda *_, **__: pytest.fail("compiled for nothing"))
    assert campaign.run(tmp_path / "rows.csv", [], on="cuda", minutes=5.0) == 0
