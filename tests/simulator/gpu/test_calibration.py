"""Calibration recovers constants that made the data, and says how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import DataError
from mappings.gpu import find_kernel_mapping
from simulator.gpu.calibration import Entry, Key, Prior, prior, shipped, uncalibrated, unknown
from simulator.gpu.call import make_call
from simulator.gpu.efficiency import Efficiency, times
from simulator.gpu.fitting import calibrate
from simulator.gpu.model import lay
from simulator.hardware.gpu import find_gpu

KEY = Key("h100", "sm_90", "flash_attention_3", "fa3", 128, "bf16", "bf16")
WIDE = Prior(np.log([0.6, 5e-6, 2500.0, 0.8, 0.5]), np.full(5, 3.0), "test", 0.0)


def rows(sizes):
    gpu, mapping = find_gpu("h100"), find_kernel_mapping("flash_attention", "fa3")
    calls = [make_call(batch=b, heads=h, seq_q=n, head_dim=128, causal=True) for b, h, n in sizes]
    return lay(calls, gpu, mapping=mapping)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.3, 0.95), st.floats(3e-6, 3e-5), st.floats(1000, 8000))
def test_constants_that_made_the_data_are_found(scalar, launch_s, block_cycles):
    true = Efficiency(scalar, launch_s, block_cycles, 0.8)
    laid = rows([(1, 1, 128), (1, 8, 1024), (16, 16, 512), (4, 32, 8192)])
    found = calibrate([laid], [times(laid, true).latency_s], known=WIDE, source="test")
    # 3 %: the rows themselves are met within a fraction of the 8 % that a row is trusted to.
    assert times(laid, found).latency_s == pytest.approx(times(laid, true).latency_s, rel=0.03)
    other = rows([(2, 4, 700), (8, 8, 2048), (1, 64, 16384)])
    # 10 %: four rows tell the launch from the blocks' cost only together; other calls weigh them differently.
    assert times(other, found).latency_s == pytest.approx(times(other, true).latency_s, rel=0.10)


def test_one_row_moves_what_it_tells_about():
    laid = rows([(4, 32, 8192)])
    target = 2 * times(laid, Efficiency(0.6, 5e-6, 2500.0, 0.8)).latency_s
    found = calibrate([laid], [target], known=WIDE, source="test")
    assert found.scalar == pytest.approx(0.3, rel=0.1)
    assert found.launch_s == pytest.approx(5e-6, rel=0.1)  # a long row says nothing of it


def test_nothing_to_calibrate_on():
    with pytest.raises(DataError, match="at least one"):
        calibrate([], [], known=WIDE, source="test")
    with pytest.raises(DataError, match="positive"):
        calibrate([rows([(1, 1, 128)])], [np.array([0.0])], known=WIDE, source="test")


def entry(scalar, **changes):
    key = Key(**{**{f: getattr(KEY, f) for f in Key.__dataclass_fields__}, **changes})
    return Entry(key, Efficiency(scalar, 5e-6, 3000.0, 0.8, source=f"fitted {key.device}"), 40, (0.1,) * 5)


def test_the_most_similar_entry_rules():
    table = [
        entry(0.8),
        entry(0.2, mapping="other", implementation="x"),
        entry(0.3, device="a100", target="sm_80"),
    ]
    assert np.exp(prior(KEY, table=table).mean[0]) == pytest.approx(0.8, rel=0.05)
    assert prior(KEY, table=table).source == "fitted h100"
    left_out = prior(KEY, table=table, without_device=True)
    assert "like fa3 on a100" in left_out.source
    assert np.exp(left_out.mean[0]) == pytest.approx(0.3, rel=0.1)
    assert (left_out.spread > prior(KEY, table=table).spread).all()


def test_shipped_table_is_whole_and_says_where_it_comes_from():
    assert len(shipped()) > 100
    for e in shipped():
        assert e.efficiency.source.startswith("fitted: ")
        assert 0 < e.efficiency.scalar < 5
        find_gpu(e.key.device)


def test_an_unknown_device_gets_a_wider_interval_than_a_known_one():
    own = uncalibrated(prior(KEY, table=[entry(0.8)]))
    like = uncalibrated(prior(KEY, table=[entry(0.8, device="a100", target="sm_80")]))
    nothing = uncalibrated(prior(KEY, table=()))
    assert 0.25 <= own.spread < like.spread < nothing.spread == 1.0
    assert unknown(own).spread == 1.0
