"""Energy: sums of stated energies, physical limits, and a source for every constant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mappings.gpu import find_kernel_mapping
from simulator.gpu.call import make_call
from simulator.gpu.energy import constants, energy_rates, power
from simulator.gpu.model import lay, predict
from simulator.hardware.gpu import find_gpu
from simulator.hardware.reader import names

SIZES = {
    "batch": 4,
    "heads": 32,
    "seq_q": 4096,
    "seq_kv": 4096,
    "head_dim": 128,
    "causal": False,
    "dtype": "bf16",
}


def laid(device="b200", implementation="cudnn", **changes):
    mapping = find_kernel_mapping("flash_attention", implementation)
    return lay([make_call(**{**SIZES, **changes})], find_gpu(device), mapping=mapping)


def test_a_sum_made_by_hand():
    # 4 x 32 heads, 4096^2 scores, 4 x 128 operations each at 1000 W / 2.243 PFLOPS; a score costs one exp, two fma and
    # 1.5 alu; 16 x 32 tiles of 256 x 128 a head read K and V (128 x 128 x 2 bytes each) from the L2 cache, and from
    # shared memory twice (256 rows / 128) after writing them once, beside 64 KiB of queries.
    process = 1000 / (148 * 1850e6 * 8192) / 1.05
    scores, tiles = 128 * 4096**2, 128 * 16 * 32
    on_chip = scores * (512 * 1.05 + 124.6 + 3.5 * 34.6) + tiles * 65536 * ((3 + 1) * 6.6 + 12.5)
    bytes_moved = 4 * 128 * 4096 * 128 * 2
    expected = process * (on_chip + bytes_moved * 12.5) + bytes_moved * 32.4e-12
    assert power(laid(), np.array([1.0])).dynamic_j[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("device", names("gpu"))
def test_idle_to_board_power(device):
    gpu, forever = find_gpu(device), np.array([1e6])
    idle = energy_rates(gpu).idle_w
    assert 0 < idle < gpu.board_power_w
    launch = laid(device)
    assert power(launch, forever).power_w[0] == pytest.approx(idle, rel=1e-3)
    assert power(launch, np.array([1e-9])).power_w[0] == gpu.board_power_w


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8192), st.booleans(), st.sampled_from(["b200", "h100", "a100", "l40s"]))
def test_longer_calls_cost_more(seq, causal, device):
    one = laid(device, "triton", seq_q=seq, seq_kv=seq, causal=causal)
    two = laid(device, "triton", seq_q=2 * seq, seq_kv=2 * seq, causal=causal)
    t = np.array([1.0])
    assert power(two, t).dynamic_j[0] > power(one, t).dynamic_j[0]


def test_prediction_carries_energy_and_its_interval():
    sure = predict("flash_attention", on="b200", implementation="cudnn", **SIZES)
    assert sure.energy_low_j < sure.energy_j < sure.energy_high_j
    assert sure.energy_j == pytest.approx(sure.power_w * sure.latency_s)
    assert sure.energy_high_j <= find_gpu("b200").board_power_w * sure.high_s * (1 + 1e-12)
    other = predict("flash_attention", on="h100", implementation="fa3", **SIZES)
    # Constants were fitted on one chip; elsewhere the interval is wider.
    assert other.energy_low_j / other.energy_j < sure.energy_low_j / sure.energy_j + 1e-12
    assert any("energy of spread_elsewhere" in text for text in other.assumptions)


def test_every_constant_has_a_source():
    for name, constant in constants().items():
        assert constant.source, name
        assert constant.value > 0, name
    assert constants()["scale"].source.startswith("fitted: b200 ")
