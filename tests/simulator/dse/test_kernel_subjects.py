"""Sweeps of kernels on GPUs; every row is what the predictor itself says."""

from __future__ import annotations

import json

import pytest
from sweeping import refused, run, swept

import simulator as sim
from einsum_cascade import zoo

KERNEL = """
kernel: flash_attention
hardware: h100
sizes: {batch: 4, heads: 32, seq_q: 4K, head_dim: 128, dtype: bf16}
axes:
  sizes.seq_q: [4K, 16K]
  sizes.causal: [0, 1]
  hardware.clock: [1.2 GHz, 1.7 GHz]
minimize: [latency_s]
"""


def test_a_kernel_on_a_gpu(tmp_path):
    table = swept(tmp_path, KERNEL)
    assert len(table) == 8
    for row in table.to_dict("records"):
        gpu = sim.load_hardware("h100", {"clock": row["hardware.clock"]})
        call = {"batch": 4, "heads": 32, "head_dim": 128, "dtype": "bf16"}
        found = sim.predict(
            "flash_attention", on=gpu, seq_q=row["sizes.seq_q"], causal=row["sizes.causal"], **call
        )
        assert row["latency_s"] == found.latency_s
        assert row["bound_by"] == found.bound_by
        assert row["tiles.skipped"] == found.tiles["skipped"]
    assert len(json.loads(run("pareto", tmp_path / "out", "--by", "sizes.seq_q", "--json").stdout)) == 2


MASKED = """
kernel: flash_attention
mask: arrow_attention
hardware: h100
sizes: {batch: 4, heads: 32, head_dim: 128}
axes:
  sizes.seq_q: [4K, 8K]
  sizes.R: [64, 1K]
minimize: [latency_s]
"""


def test_a_kernel_under_the_mask_of_a_cascade(tmp_path):
    table = swept(tmp_path, MASKED)
    assert len(table) == 4
    call = {"batch": 4, "heads": 32, "head_dim": 128, "cascade": zoo.load("arrow_attention")}
    for row in table.to_dict("records"):
        found = sim.predict("flash_attention", on="h100", seq_q=row["sizes.seq_q"], R=row["sizes.R"], **call)
        assert row["latency_s"] == found.latency_s
        assert row["tiles.skipped"] == found.tiles["skipped"]
    (tmp_path / "lacking").mkdir()
    with pytest.raises(AssertionError, match="needs the size of R"):
        swept(tmp_path / "lacking", MASKED.replace("  sizes.R: [64, 1K]\n", ""))


def test_a_kernel_on_a_gpu_with_more_of_one_pipe(tmp_path):
    axes = "  hardware.exp_per_cycle: [x0.25, x1, x2]\n  hardware.l2: [x0.5, x1]\n  sizes.seq_q: [512, 8K]\n"
    head, _, tail = KERNEL.partition("axes:\n")
    table = swept(tmp_path, head + "axes:\n" + axes + "minimize" + tail.partition("minimize")[2])
    by = table.set_index(["sizes.seq_q", "hardware.l2", "hardware.exp_per_cycle"])["latency_s"]
    assert by["8K", "x1", "x0.25"] > 1.2 * by["8K", "x1", "x1"] >= by["8K", "x1", "x2"]
    assert by["512", "x0.5", "x1"] > by["512", "x1", "x1"]
    gpu = sim.load_hardware("h100", {"exp_per_cycle": "x2", "l2": "25 MiB"})
    call = {"batch": 4, "heads": 32, "head_dim": 128, "dtype": "bf16"}
    found = sim.predict("flash_attention", on=gpu, seq_q=512, **call)
    assert by["512", "x0.5", "x2"] == found.latency_s


def test_gradients_by_the_name_that_predict_takes(tmp_path):
    table = swept(tmp_path, KERNEL.replace("flash_attention", "flash_attention_gradients"))
    call = {"batch": 4, "heads": 32, "head_dim": 128, "dtype": "bf16"}
    for row in table.to_dict("records"):
        gpu = sim.load_hardware("h100", {"clock": row["hardware.clock"]})
        words = {"seq_q": row["sizes.seq_q"], "causal": row["sizes.causal"]}
        both = [
            sim.predict("flash_attention", on=gpu, direction=d, **words, **call).latency_s
            for d in ("fwd", "bwd")
        ]
        assert row["latency_s"] == pytest.approx(sum(both), rel=1e-12)


OWN = """
kind: gpu
name: copies
kernel: copies
implementations: ["*"]
family: copies
source: "written for a test"
tiles: [{query: 64, key: 1, warps: 4}]
grids:
- {name: copy, blocks: "batch * heads", steps: 1, step: {loads: 1024}, reads: "WORDS * batch * seq_q * word", writes: 0}
"""


def test_a_kernel_of_your_own_by_its_mapping_files(tmp_path):
    for name, factor in (("once", "1"), ("twice", "2")):
        (tmp_path / f"{name}.yaml").write_text(OWN.replace("WORDS", factor))
    files = [str(tmp_path / f"{name}.yaml") for name in ("once", "twice")]
    text = f"""
kernel: copies
sizes: {{batch: 64, heads: 8}}
axes:
  mapping: {files}
  hardware: [a100, h100]
  sizes.seq_q: [64K, 1M]
minimize: [latency_s]
"""
    table = swept(tmp_path, text)
    assert len(table) == 8
    for row in table.to_dict("records"):
        found = sim.predict(
            "copies", on=row["hardware"], mapping=row["mapping"], batch=64, heads=8, seq_q=row["sizes.seq_q"]
        )
        assert row["latency_s"] == found.latency_s
    (tmp_path / "lacking").mkdir()
    with pytest.raises(AssertionError, match=r"none\.yaml: .*no such file"):
        swept(tmp_path / "lacking", text.replace("once.yaml", "none.yaml"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("flash_attention", "flash_atention"), "flash_attention"),
        (("hardware: h100", "hardware: fusemax"), "not a GPU"),
        (("heads: 32", "head: 32"), "unknown size 'head'"),
        (("hardware.clock", "hardware.klock"), "klock"),
        (("hardware.clock", "mapping.tile"), "unknown axis 'mapping.tile'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, given, message):
    assert message in refused(tmp_path, KERNEL.replace(*given))
