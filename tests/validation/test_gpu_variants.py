"""Our measured kernels: what the simulator itself made is predicted back, and what is slower is seen to be."""

from __future__ import annotations

import pandas as pd
import pytest

from kernels import device, journal, plans
from kernels.measurement import OURS, Measurement
from simulator.gpu.efficiency import Efficiency
from simulator.gpu.model import predict
from validation import chapters, gpu
from validation.gpu_variants import summary, variants
from validation.measured import read_measured

TRUE = Efficiency(scalar=0.55, launch_s=4e-6, block_cycles=2500.0, memory=0.85, source="made up")


def seconds(p: plans.Plan) -> float:
    """What a device of such constants would take; something for what has no model."""
    s = p.setting
    sizes = {"batch": s.batch, "heads": s.heads, "seq_q": s.seq, "seq_kv": s.seq, "head_dim": s.head_dim,
             "dtype": s.dtype, "causal": s.causal} | ({"window": s.window} if s.window else {})  # fmt: skip
    if p.entry not in ("flash_attention", "unfused_attention") or p.direction != "fwd":
        return 1e-3
    return predict(p.entry, on="h200", implementation=p.variant, calibration=TRUE, **sizes).latency_s


def row(p: plans.Plan, took_s: float) -> Measurement:
    s = p.setting
    return Measurement(
        source="made up", device="NVIDIA H200", kernel=p.entry, implementation=p.variant, direction=p.direction,
        dtype=s.dtype, batch=s.batch, heads=s.heads, seq_q=p.sizes.get("seq_q", s.seq), seq_kv=s.seq,
        head_dim=s.head_dim, causal=int(s.causal), extra=device.as_pairs({**p.sizes, **p.options}),
        latency_ms=took_s * 1e3, tflops=None, kv_heads=s.kv_heads or s.heads, window=s.window, kv_dtype=s.dtype,
        power_w=None, q25_ms=took_s * 1e3, q75_ms=took_s * 1e3, rounds=5, threads=None, ratio=None, ratio_q25=None,
        ratio_q75=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A campaign's table of three lengths, as the simulator would have measured it."""
    path = tmp_path_factory.mktemp("measured") / "h200.csv"
    journal.append(path, [row(p, seconds(p)) for p in plans.plan(lengths=(4096, 1024, 8192))])
    return path


def test_speedups_of_what_the_model_made_are_found_again(path):
    found = variants(read_measured(path))
    told = summary(found).set_index("variant")
    assert {"causal", "causal window 128", "unfused 3-pass", "unfused 2-pass", "soft-cap causal"} <= set(
        told.index
    )
    assert {64, 128} == set(found["head_dim"])
    exact = told.loc[
        ["causal", "causal window 128", "causal window 1024", "unfused 3-pass", "unfused 2-pass"]
    ]
    # The constants are fitted to 8 dense rows under a prior that pulls them a little: a few per cent.
    assert (exact["worst error"] < 0.10).all(), exact
    assert exact.loc["causal", "measured speedup"] == pytest.approx(1.8, abs=0.25)
    assert (
        exact.loc["unfused 3-pass", "measured speedup"]
        < exact.loc["unfused 2-pass", "measured speedup"]
        < 1.0
    )


def test_a_variant_that_is_slower_than_predicted_shows_its_error(path):
    table = read_measured(path)
    causal = (table["causal"] == 1) & (table["kernel"] == "flash_attention") & (table["window"] == 0)
    table.loc[causal & (table["implementation"] == OURS), "latency_ms"] *= 1.5
    told = summary(variants(table)).set_index("variant")
    assert told.loc["causal", "median error"] == pytest.approx(0.5, abs=0.08)
    assert told.loc["causal window 128", "median error"] < 0.10


def test_dense_rows_give_the_constants_and_are_no_prediction(path):
    found = variants(read_measured(path))
    fitting = found[found["fitting"]]
    assert set(fitting["variant"]) == {"dense"}
    assert fitting["speedup error"].isna().all()


def test_tables_of_others_have_no_variants_of_ours():
    assert not len(variants(read_measured(gpu.SHIPPED)))
    assert not len(summary(pd.DataFrame()))


def test_validate_tells_what_has_no_model(path):
    result = gpu.compare(path)
    assert {r["variant"] for r in result["speedups"]} >= {"causal", "neighborhood 2-D"}
    (line,) = [n for n in result["notes"] if "no model" in n]
    assert "landmark_attention" in line
    assert "unfused_attention" not in line


def test_the_report_has_a_chapter_for_each_table_and_none_for_failures(path):
    (path.parent / "h200.failed.csv").write_text("x\n")
    assert chapters.measured_files(path.parent) == [path]
    section, line = chapters.campaign(path.parent)
    names = [getattr(p, "name", "") for p in section.parts]
    assert {"campaign_h200", "campaign_h200_speedups", "campaign_h200_speedup"} <= set(names)
    assert line.startswith("1 tables; median error")
