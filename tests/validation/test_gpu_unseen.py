"""Devices that no shipped table holds: every kind of row is predicted, three rows a set calibrate them."""

from __future__ import annotations

import io
import itertools
import sys

import numpy as np
import pandas as pd
import pytest

import validation.gpu
from simulator.gpu.calibration import shipped
from simulator.gpu.model import predict
from simulator.hardware.gpu import find_gpu
from validation.gpu import compare
from validation.gpu_intervals import three_rows
from validation.gpu_sets import attention_rows
from validation.measured import PUBLISHED, read_measured

# As tables of serving kernels name them, and kernels that frameworks call there.
UNSEEN = {
    "H200 SXM": ("sglang-0.5.14:fa3", "vllm-0.24.0:vllm_flash_attn_fa3", "trtllm-1.3.0rc20:torch_flow"),
    "GB200": ("sglang-0.5.14:trtllm_mha", "vllm-0.22.0:vllm_flashinfer", "trtllm-1.3.0rc20:torch_flow"),
    "B300 SXM": ("sglang-0.5.14:trtllm_mha", "vllm-0.24.0:vllm_flashinfer_trtllmprefill"),
    "GB300": ("sglang-0.5.14:flashinfer", "vllm-0.24.0:vllm_triton_attn"),
    "RTX PRO 6000 Server": (
        "sglang-0.5.14:flashinfer",
        "sglang-0.5.14:triton",
        "vllm-0.24.0:vllm_flashinfer_fiprefill",
        "vllm-0.24.0:vllm_flash_attn_fa2",
    ),
}
TYPES = (("bf16", ""), ("bf16", "fp8"), ("fp8", "fp8"))
SHAPES = ((1, 64, 1), (256, 64, 64), (1, 16384, 32), (8, 1536, 8))  # batch, tokens, key heads of 64


@pytest.mark.parametrize("device", UNSEEN)
def test_every_kind_of_row_is_predicted(device):
    for implementation in UNSEEN[device]:
        for head_dim, types, window, shape in itertools.product((64, 128, 192, 256), TYPES, (0, 128), SHAPES):
            (dtype, kv_dtype), (batch, tokens, kv_heads) = types, shape
            found = predict("flash_attention", on=device, implementation=implementation, batch=batch, heads=64,
                            kv_heads=kv_heads, seq_q=tokens, head_dim=head_dim, dtype=dtype, kv_dtype=kv_dtype,
                            window=window, causal=True)  # fmt: skip
            assert 0 < found.low_s < found.latency_s < found.high_s < 10
            assert not found.warnings
    decode = {"batch": 64, "heads": 32, "kv_heads": 8, "seq_q": 1, "seq_kv": 4096, "head_dim": 128}
    assert 0 < predict("flash_decode", on=device, **decode).latency_s < 1e-2


class Terminal(io.StringIO):
    """What somebody looks at: bars are drawn for nobody else."""

    def isatty(self):
        return True


@pytest.fixture(scope="module")
def serving():
    table = read_measured(PUBLISHED / "serving_attention.csv")
    served = table["implementation"].isin(["sglang-0.5.14:fa3", "trtllm-1.3.0rc20:torch_flow"])
    return table[(table["device"] == "H100 SXM") & served & table["head_dim"].isin([128, 256])]


def test_three_rows_a_set_calibrate_a_device_that_the_table_does_not_hold(
    serving, tmp_path, monkeypatch, capsys
):
    assert "h200" not in {e.key.device for e in shipped() if ":" in e.key.implementation}
    terminal = Terminal()
    monkeypatch.setattr(validation.gpu, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal)
    rows = serving.assign(device="H200 SXM")
    by = three_rows(attention_rows(rows)[0])
    paths = [tmp_path / name for name in ("all.csv", "three.csv")]
    for path, part in zip(paths, (rows, by), strict=True):
        part.to_csv(path, index=False)
    found = compare(*paths)
    sets = pd.DataFrame(found["sets"])
    assert set(sets["device"]) == {"H200 SXM"}
    assert len(by) == 3 * sets.groupby(["implementation", "head_dim", "dtype"]).ngroups
    assert {c["scalar_source"] for c in found["cases"]} <= {"calibrated on 3 row(s) of three.csv"}
    # The rows are an H100's, whose memory is slower and whose entries the table holds: this is about the way through,
    # and not about how near a real device would be. Every set is nearer than a roofline treated the same way.
    assert (sets["mape_calibrated"] < sets["mape_roofline"]).all()
    assert sets["mape_calibrated"].median() < 0.10  # 7 % as measured; on another chip's constants no worse
    assert "validate gpu" in terminal.getvalue()  # how far the work is


def test_any_three_dense_rows_do(serving):
    dense, _ = attention_rows(serving[serving["window"] == 0].assign(device="H200 SXM"))
    for seed in range(3):
        draw = np.random.default_rng(seed)
        picked = [
            draw.choice(g.index, 3, replace=False)
            for _, g in dense.groupby(["implementation", "head_dim", "dtype"])
        ]
        cases = validation.gpu.cases_of(dense, dense.loc[np.concatenate(picked)], "drawn")
        judged = cases[~cases["fitting"]]
        errors = np.abs(judged["got"] / (judged["latency_ms"] * 1e-3) - 1)
        assert errors.median() < 0.10  # 6 to 8 % as measured
        assert errors.mean() < 0.15


def test_constants_of_the_clock_say_what_they_rest_on():
    for device in UNSEEN:
        assert "hot_clock" in find_gpu(device).assumed
