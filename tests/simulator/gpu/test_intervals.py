"""Intervals: symmetric in the ratio, tabulated for every kind of kernel, as wide as less is known."""

from __future__ import annotations

import csv
from itertools import pairwise

import pytest

from mappings.gpu import find_kernel_mapping
from simulator.gpu.efficiency import Efficiency
from simulator.gpu.intervals import KINDS, STATES, TABLE, interval, kind_of, with_interval


def test_the_truth_may_be_as_many_times_shorter_as_longer():
    low, high = interval(2e-4, Efficiency(0.6, spread=0.5, short_spread=3.0))
    assert (low, high) == (pytest.approx(2e-4 / 1.5), pytest.approx(3e-4))
    assert interval(2e-5, Efficiency(0.6, spread=0.5, short_spread=3.0)) == pytest.approx((5e-6, 8e-5))
    assert interval(2e-5, Efficiency(0.6, spread=0.5)) == pytest.approx((2e-5 / 1.5, 3e-5))


@pytest.mark.parametrize("kind", KINDS)
def test_less_knowledge_never_narrows(kind):
    widths = [with_interval(Efficiency(0.6), state=state, kind=kind) for state in STATES]
    for nearer, further in pairwise(widths):
        assert nearer.spread <= further.spread
        assert nearer.short_spread <= further.short_spread


def test_every_width_says_how_it_was_found():
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["state"], r["kind"]) for r in rows} == {(s, k) for s in STATES for k in KINDS}
    assert all(float(r["short"]) >= max(float(r["spread"]), 0.15) for r in rows)
    assert all(r["source"].startswith("fitted: ") and float(r["coverage"]) == 0.9 for r in rows)


def test_kinds():
    served = find_kernel_mapping("flash_attention", "vllm-0.24.0:vllm_flash_attn_fa3")
    plain = find_kernel_mapping("flash_attention", "cuda-fa3")
    described = find_kernel_mapping("linear_attention", "triton")
    found = [
        kind_of(served, "fwd"),
        kind_of(plain, "fwd"),
        kind_of(plain, "fwdbwd"),
        kind_of(described, "fwd"),
    ]
    assert found == ["serving", "plain", "backward", "described"]
