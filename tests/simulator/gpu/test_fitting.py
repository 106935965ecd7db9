"""Fits of many keys together: alone as before, no row order, shared costs carried over, one wrong row held at bay."""

from __future__ import annotations

import csv
import random

import numpy as np
import pytest
from scipy.optimize import least_squares

from mappings.gpu import find_kernel_mapping
from simulator.gpu.calibration import Key, Prior, made
from simulator.gpu.call import make_call
from simulator.gpu.efficiency import Efficiency, times
from simulator.gpu.fitting import _ROW_SPREAD, Group, together
from simulator.gpu.likeness import Joint, correlation
from simulator.gpu.model import lay, predict
from simulator.hardware.gpu import find_gpu

KNOWN = Prior(np.log([0.6, 5e-6, 2500.0, 0.8, 0.5]), np.array([0.4, 0.4, 0.4, 0.3, 0.4]), "test", 1.0)
SIZES = [(1, 1, 128), (2, 16, 1024), (4, 32, 8192)]
NAME = "vllm-0.24.0:vllm_flash_attn_fa3"


def laid(head_dim, sizes=SIZES):
    calls = [make_call(batch=b, heads=h, seq_q=n, head_dim=head_dim, causal=True) for b, h, n in sizes]
    return lay(calls, find_gpu("h100"), mapping=find_kernel_mapping("flash_attention", NAME))


def key(head_dim, device="h100"):
    return Key(device, "sm_90", "flash_attention_3_paged", NAME, head_dim, "bf16", "bf16")


def group(head_dim, true, *, sizes=SIZES, device="h100"):
    launch = laid(head_dim, sizes)
    return Group(key(head_dim, device), (launch,), (times(launch, true).latency_s,))


def fitted(groups):
    """The logarithms of each group's constants, deviations from one belief correlated by likeness."""
    apart = correlation([g.key for g in groups]) * (KNOWN.spread**2)[:, None, None]
    return together(groups, known=Joint(np.tile(KNOWN.mean, (len(groups), 1)), apart))


TRUE = Efficiency(0.75, 2e-5, 4000.0, 0.7, 0.5)


def test_one_group_is_the_ridge_fit_of_its_own_rows():
    one = group(128, TRUE)
    (launch,), (seconds,) = one.launches, one.measured_s

    def residuals(x):
        got = times(launch, made(np.exp(KNOWN.mean + x))).latency_s
        return np.concatenate([np.log(got / seconds) / _ROW_SPREAD, x / KNOWN.spread])

    found = fitted([one])[0] - KNOWN.mean
    oracle = least_squares(residuals, np.zeros(5))
    # 1 %: both stop where the sum of squares is flat to five digits.
    assert (residuals(found) ** 2).sum() == pytest.approx(2 * oracle.cost, rel=0.01)
    # A likeness of zero: rows of another device change nothing (stopping rules see the sum of both).
    beside = fitted([one, group(128, Efficiency(0.3, 1e-6), device="a100")])[0] - KNOWN.mean
    assert (residuals(beside) ** 2).sum() == pytest.approx(2 * oracle.cost, rel=0.01)


def test_what_one_key_says_of_the_fixed_cost_its_likes_hear():
    silent = Group(key(64))
    launch_s = np.exp(fitted([silent, group(128, TRUE)])[0][1])
    far = np.exp(fitted([silent, group(128, TRUE, device="a100")])[0][1])
    assert far == pytest.approx(5e-6)
    assert 5e-6 < launch_s < 2e-5
    assert launch_s > 8e-6  # the cost is four times what was believed; most of that is carried over


def test_the_order_of_groups_is_nothing():
    groups = [group(d, TRUE) for d in (64, 128, 256)]
    there, back = fitted(groups), fitted(groups[::-1])[::-1]
    # 1e-6: sums in another order round otherwise.
    assert np.allclose(there, back, atol=1e-6)


def test_one_wrong_row_does_not_bend_the_others():
    true = group(128, TRUE, sizes=[(b, h, n) for b, h, n in SIZES for _ in range(4)])
    seconds = true.measured_s[0].copy()
    seconds[0] *= 30
    wrong = Group(true.key, true.launches, (seconds,))
    other = laid(128, [(8, 8, 2048), (1, 64, 16384)])
    expected = times(other, TRUE).latency_s
    robust = times(other, made(np.exp(fitted([wrong])[0]))).latency_s
    assert robust == pytest.approx(expected, rel=0.15)  # 11 of 12 rows are right, within the prior's pull


def table(path, rows):
    head = ["source", "device", "kernel", "implementation", "direction", "dtype", "batch", "heads", "seq_q", "seq_kv",
            "head_dim", "causal", "latency_ms"]  # fmt: skip
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def test_predictions_do_not_depend_on_the_order_of_rows(tmp_path):
    rows = []
    for d in (64, 128):
        launch = laid(d)
        for (b, h, n), s in zip(SIZES, times(launch, TRUE).latency_s, strict=True):
            rows.append(["mine", "H100", "flash_attention", NAME, "fwd", "bf16", b, h, n, n, d, 1, s * 1e3])
    call = {"batch": 2, "heads": 8, "seq_q": 4096, "head_dim": 128, "causal": True}
    found = []
    for seed in (1, 2, 3):
        random.Random(seed).shuffle(rows)
        path = table(tmp_path / "rows.csv", rows)
        found.append(predict("flash_attention", on="h100", implementation=NAME, calibration=path, **call))
    assert len({p.latency_s for p in found}) == 1
    assert (
        found[0].scalar_source
        == "calibrated on 3 row(s) of rows.csv, 3 of its other kernels and sizes beside them"
    )
    expected = times(laid(128, [(2, 8, 4096)]), TRUE).latency_s[0]
    assert found[0].latency_s == pytest.approx(expected, rel=0.10)  # three rows a key and the prior's pull
