"""The harness: what is timed is right, what is written has the schema, and a wrong implementation is not timed."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from einsum_cascade.errors import DataError, KernelError
from kernels import bench_cpu, device, inputs, measurement, peers, reference, timing
from kernels.measurement import Setting
from kernels.reference import window_mask

SCHEMA = [
    "source", "device", "kernel", "implementation", "direction", "dtype", "batch", "heads", "seq_q", "seq_kv",
    "head_dim", "causal", "extra", "latency_ms", "tflops", "kv_heads", "window", "kv_dtype", "power_w",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return bench_cpu.measure(Setting(1, 2, 70, 16), (16,), count=1, budget_s=0.01)[0]


def test_the_schema_is_the_published_one(rows, tmp_path):
    import pandas as pd

    path = tmp_path / "measured.csv"
    measurement.write_table(measurement.as_table(rows), path)
    read = pd.read_csv(path)
    assert list(read.columns[: len(SCHEMA)]) == SCHEMA
    assert len(read) == 6
    assert (read["latency_ms"] > 0).all()
    assert read["source"].str.startswith("cascade kernels bench").all()
    assert read["extra"].str.contains("torch=").all()


def test_quartiles_surround_the_median_and_the_baseline_is_one(rows):
    assert rows[0].implementation == bench_cpu.BASELINE
    assert rows[0].ratio == rows[0].ratio_q25 == rows[0].ratio_q75 == 1.0
    for r in rows:
        assert r.q25_ms <= r.latency_ms <= r.q75_ms
        assert r.threads == 1


def test_a_wrong_implementation_is_not_timed():
    setting = Setting(1, 1, 40, 16)
    tensors = tuple(inputs.attention(heads=1, seq_q=40, seq_kv=40, head_dim=16).values())
    good = bench_cpu.contenders(setting, ())[0]
    bench_cpu.gate(good, tensors)
    with pytest.raises(KernelError, match="nothing was timed"):
        bench_cpu.gate(replace(good, call=lambda q, k, v: 1.001 * good.call(q, k, v)), tensors)


@settings(deadline=None)
@given(seq=st.integers(1, 40), window=st.integers(1, 45), block=st.integers(1, 20))
def test_blocked_window_for_any_block(seq, window, block):
    q, k, v = inputs.attention(heads=1, seq_q=seq, seq_kv=seq, head_dim=8).values()
    mask = window_mask(seq, seq, causal=True, window=window)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert torch.allclose(bench_cpu.blocked_window(q, k, v, window=window, block=block), expected, atol=1e-5)


@settings(deadline=None)
@given(seq=st.integers(1, 40), window=st.none() | st.integers(1, 45), causal=st.booleans())
def test_visible_pairs_are_those_of_the_mask(seq, window, causal):
    mask = window_mask(seq, seq, causal=causal, window=window)
    assert Setting(1, 1, seq, 8, causal=causal, window=window).pairs == int(mask.sum())


def test_rounds_are_interleaved_and_stop_at_the_budget():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = timing.interleaved(
        calls, clock=lambda call: (call(), 1.0)[1], budget_s=0.0, least_rounds=3, warm_up=1
    )
    assert order == ["a", "b"] + ["a", "b"] * 3
    assert times == {"a": (1.0,) * 3, "b": (1.0,) * 3}


def test_a_single_thread_is_timed_without_what_others_do_meanwhile():
    """Half of the call is a wait, as for a processor that another has: the wall counts it, its own time does not."""

    def call():
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        time.sleep(0.1)

    own, wall = (timing.cpu_clock(call, now=now) for now in (time.process_time, time.perf_counter))
    assert timing.own_time() in (time.process_time, time.perf_counter)
    assert own < 0.06 < 0.12 <= wall


def test_a_coarse_processor_clock_is_not_used(monkeypatch):
    ticks = iter(0.01 * (i // 5) for i in range(10**6))
    monkeypatch.setattr(time, "process_time", lambda: next(ticks))
    assert timing.own_time() is time.perf_counter


def test_ratios_are_taken_within_a_round():
    """A machine that becomes twice as slow in the middle does not change the ratio."""
    found = timing.ratios({"a": [1.0, 1.0, 2.0, 2.0], "b": [3.0, 3.0, 6.0, 6.0]}, "a")["b"]
    assert (found.median, found.q25, found.q75) == (3.0, 3.0, 3.0)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), bench_cpu.threads(1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_rates_are_positive_and_plausible_and_of_the_same_rounds():
    _, found = bench_cpu.measure(Setting(1, 2, 70, 16), (), count=1, budget_s=0.01)
    assert (found.threads, found.batch, found.heads, found.seq, found.head_dim) == (1, 1, 2, 70, 16)
    assert 0.0 < found.cpu_share <= 1.0
    # From a slow laptop under load to a large server: five orders of magnitude, so that units are right.
    assert 1e8 < found.gemm_flops_per_s < 1e13
    assert 1e6 < found.softmax_per_s < 1e12
    assert 1e6 < found.masked_per_s < 1e12
    assert 1e3 < found.calls_per_s < 1e8
    assert 1e8 < found.copy_bytes_per_s < 1e13


def test_missing_devices_are_named():
    with pytest.raises(KernelError, match="did you mean 'cuda'"):
        device.resolve("cud")
    if not torch.cuda.is_available():
        with pytest.raises(KernelError, match="no NVIDIA GPU"):
            device.resolve("cuda")


def test_a_gpu_of_another_maker_is_none_that_is_known(monkeypatch):
    """PyTorch calls an AMD GPU "cuda"; the clock reads registers that it does not have, no table has its tiles."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device.resolve(asked) for asked in (None, "cuda")] == ["cuda", "cuda"]
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert device.resolve(None) == "cpu"
    with pytest.raises(KernelError, match="no NVIDIA GPU"):
        device.resolve("cuda")


def test_a_table_cannot_be_written_into_nowhere(rows, tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        measurement.write_table(measurement.as_table(rows), tmp_path / "none" / "x.csv")


def test_environment_has_what_makes_a_measurement_believable():
    facts = device.environment("cpu")
    assert {"torch", "triton", "commit", "threads", "simd"} <= set(facts)
    assert "torch=" in device.as_pairs(facts)


def test_flex_attention_is_entered_where_a_compiler_is(monkeypatch):
    """With the compiler of PyTorch left out, as it takes minutes: the same function runs uncompiled."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(bench_cpu, "COMPILERS", ("true",))
    setting = Setting(1, 2, 40, 16)
    found = bench_cpu.compiled_contenders(setting, (8, 64))
    tensors = tuple(inputs.attention(heads=2, seq_q=40, seq_kv=40, head_dim=16).values())
    assert [(c.setting.causal, c.setting.window) for c in found] == [(False, None), (True, None), (True, 8)]
    for c in found:
        bench_cpu.gate(c, tensors)
    with pytest.raises(KernelError, match="nothing was timed"):
        bench_cpu.gate(replace(found[0], call=lambda q, k, v: 1.001 * v), tensors)


@pytest.mark.skipif(not any(map(shutil.which, bench_cpu.COMPILERS)), reason="needs a C++ compiler")
def test_flex_attention_compiled_for_this_cpu_is_right():
    """Really compiled, a causal window; `fullgraph` makes it fail rather than run uncompiled."""
    setting = Setting(1, 1, 128, 16, causal=True, window=40)
    tensors = inputs.attention(heads=1, seq_q=128, seq_kv=128, head_dim=16)
    expected = reference.attention(**{n: t.double() for n, t in tensors.items()}, causal=True, window=40)[0]
    with torch.inference_mode():
        found = peers.flex(setting)(tensors)
    # float32: sums of 16 and 40 terms and an exponential, some tens of 2^-23.
    assert torch.allclose(found.double(), expected, atol=1e-5)


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(bench_cpu, "COMPILERS", ("no-such-compiler",))
    with pytest.raises(KernelError, match="no-such-compiler"):
        bench_cpu.compiled_contenders(Setting(1, 2, 40, 16), ())
