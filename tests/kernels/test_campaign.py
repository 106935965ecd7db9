"""The campaign script without a GPU: the whole plan at tiny sizes, stopped and resumed, torn rows, foreign files."""

from __future__ import annotations

import csv

import pytest
import torch

from einsum_cascade.errors import DataError, KernelError
from kernels import campaign, registry


def tiny():
    return list(campaign.plan(lengths=(32,), head_dims=(16,), tokens=32))


def test_the_plan_covers_every_kernel_but_the_merge():
    """The merge is measured inside split-KV decode; the others do not share the plan's sizes."""
    covered = {p.entry for p in campaign.plan()}
    assert covered == {e.name for e in registry.entries()} - {
        "merge_attention",
        "channel_attention",
        "selected_attention",
        "reversed_attention",
    }
    keys = [campaign._key_of(p, "d") for p in campaign.plan()]
    assert len(keys) == len(set(keys))


def test_the_whole_plan_runs_stops_and_goes_on(tmp_path):
    path = tmp_path / "rows.csv"
    plans = tiny()
    assert campaign.run(path, plans[:2], on="cpu") == 2
    # A stop in the middle of a row.
    path.write_text(path.read_text()[:-20])
    assert campaign.run(path, plans, on="cpu") == len(plans) - 1
    assert campaign.run(path, plans, on="cpu") == 0
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == len(plans)
    assert all(r["device"].startswith("Triton interpreter") for r in rows)
    assert all(float(r["latency_ms"]) > 0 for r in rows)


def test_a_result_with_holes_stops_the_campaign():
    with pytest.raises(KernelError, match="holds NaN"):
        campaign._gate(tiny()[0], (torch.tensor([1.0, float("nan")]), torch.zeros(1)))


def test_a_foreign_file_is_not_touched(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="missing"):
        campaign.run(path, tiny(), on="cpu")
    assert path.read_text() == "a,b\n1,2\n"
