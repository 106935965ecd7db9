"""What is predicted of kernels described as grids: on every GPU, alone and together, by what binds them."""

from __future__ import annotations

import tracemalloc

import pytest

from mappings.gpu import find_kernel_mapping
from mappings.grids import StepWork
from simulator.gpu.efficiency import Efficiency, times
from simulator.gpu.grid import predict_grid
from simulator.gpu.loops import lay_grids
from simulator.gpu.model import predict
from simulator.gpu.sizes import call_of
from simulator.hardware.gpu import find_gpu
from tests.support.described import CALL, DESCRIBED, OURS, described, usual

H100 = find_gpu("h100")


@pytest.mark.parametrize("kernel", DESCRIBED)
@pytest.mark.parametrize("on", ["a100", "l40s", "h100", "b200", "b300", "rtx pro 6000"])
def test_every_described_kernel_is_predicted_everywhere(kernel, on):
    p = predict(kernel, on=on, implementation=OURS, **usual(kernel))
    assert 0.5 * p.latency_s >= p.low_s > 0 and p.high_s >= 2.0 * p.latency_s
    assert p.latency_s > p.roofline_s
    assert p.latency_s == pytest.approx(p.parts_s["launch"] + sum(each["latency_s"] for each in p.launches))
    assert len(p.launches) == len(find_kernel_mapping(kernel, OURS).grids)
    assert p.resources["resources"].startswith("compiled")
    assert "of another kernel" in p.scalar_source


@pytest.mark.parametrize("kernel", DESCRIBED)
def test_more_work_takes_longer(kernel):
    call = usual(kernel)
    once = predict(kernel, on="h100", implementation=OURS, **call).latency_s
    for size in ("batch", "heads", "seq_q"):
        more = predict(kernel, on="h100", implementation=OURS, **call | {size: 2 * call[size]}).latency_s
        assert more > once, size


def test_parameters_change_what_they_should():
    few = predict("selected_attention", on="h100", picks=4, **CALL)
    many = predict("selected_attention", on="h100", picks=16, **CALL)
    assert many.tiles["full"] == 4 * few.tiles["full"]
    short = predict("neural_memory", on="h100", chunk=16, **CALL)
    assert short.launches[0]["blocks"] == 8 * 16 * 4096 // 16
    # A size that the mapping derives from others where it is not given.
    square = predict("efficient_local_gate", on="h100", batch=2, heads=64, seq_q=4096)
    assert square == predict("efficient_local_gate", on="h100", batch=2, heads=64, seq_q=4096, height=64)


def test_products_that_wait_set_the_time_of_few_blocks():
    mapping = find_kernel_mapping("neural_memory", OURS)
    alone = lay_grids([call_of(mapping, CALL | {"batch": 1, "heads": 1})], H100, mapping=mapping)
    memory = alone.then[0]
    assert memory.chain_cycles == 2 * 93.0
    steps_s = 4096 / 32 * 186.0 / H100.clock_hz
    constants = Efficiency(1e6, launch_s=0.0, block_cycles=0.0, memory=1e6)
    assert float(times(memory, constants).latency_s[0]) >= steps_s


def test_what_is_assumed_of_waiting_products_is_said():
    told = predict("neural_memory", on="h100", **CALL).assumptions
    assert any("186 cycles at the least, 93 for each product" in text for text in told)
    assert not any(
        "cycles at the least" in text for text in predict("reversed_attention", on="h100", **CALL).assumptions
    )


def test_steps_that_do_nothing_cost_nothing():
    """A kernel that only stores has blocks, and steps without work."""
    p = predict("k", on="h100", mapping=described(step=StepWork(), blocks=1024, writes=1e9), seq_q=1)
    assert p.bound_by == "memory"
    assert p.latency_s < 2 * p.roofline_s


def test_as_many_blocks_as_a_grid_holds_take_no_room():
    call = {"batch": 1, "heads": 1, "seq_q": 2**26, "head_dim": 64}
    mapping = find_kernel_mapping("selected_attention", OURS)
    tracemalloc.start()
    laid = lay_grids([call_of(mapping, call)], H100, mapping=mapping)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20
    assert laid.blocks[0] == 2**26


def test_calls_laid_together_are_those_laid_alone():
    mapping = find_kernel_mapping("softplus_attention", OURS)
    calls = [call_of(mapping, CALL | {"seq_q": n, "batch": b}) for n, b in ((1, 1), (5000, 2), (30_000, 64))]
    together = times(lay_grids(calls, H100, mapping=mapping), Efficiency(0.6)).latency_s
    for call, found in zip(calls, together, strict=True):
        (alone,) = times(lay_grids([call], H100, mapping=mapping), Efficiency(0.6)).latency_s
        assert found == pytest.approx(alone, rel=1e-12)


def test_a_launch_is_bound_by_what_binds_it():
    # Each byte is read once: memory, whatever pipe is the busiest of an SM.
    scan = predict("prefix_attention", on="h100", batch=64, heads=16, seq_kv=8192, head_dim=128)
    assert (scan.bound_by, scan.launches[0]["bound_by"]) == ("memory", "memory")
    # A chain of products on a chip that is full and has little else to do.
    for chain, bound in ((0, "fma"), (4, "chain")):
        mapping = described(step=StepWork(fma=1280, chain=chain), blocks=2**16)
        assert predict("k", on="h100", mapping=mapping, seq_q=4096).launches[0]["bound_by"] == bound
    few = predict("k", on="h100", mapping=described(step=StepWork(chain=4)), seq_q=4096)
    assert few.launches[0]["bound_by"] == "waves"


def test_gradients_described_as_forward_launches_cost_what_those_cost():
    """Blocks of the gradients of attention cost far more than a block's tiles; those of a grid say what they do."""
    one = {"batch": 8, "heads": 16, "seq_q": 1, "head_dim": 128}
    forward = predict("linear_attention", on="h100", implementation=OURS, **one).latency_s
    gradients = predict("linear_attention_gradients", on="h100", implementation=OURS, **one).latency_s
    assert gradients == pytest.approx(3 * forward, rel=0.1)


@pytest.mark.parametrize("kernel", ["squeeze_excite_gate", "efficient_local_gate", "prefix_attention"])
def test_a_grid_of_predictions_is_the_single_ones(kernel):
    extra = {"head_dim": 64} if kernel == "prefix_attention" else {}
    table = predict_grid(
        kernel, on="h100", implementation=OURS, seq=[256, 4096], heads=[16, 512, 4096], **extra
    )
    for row in table.to_dict("records"):
        sizes = {"batch": 1, "heads": row["heads"], "seq_q": row["seq"], **extra}
        alone = predict(kernel, on="h100", implementation=OURS, **sizes)
        assert 0.8 * alone.latency_s <= row["latency_s"] <= alone.latency_s * (1 + 1e-9)
        assert row["roofline_s"] == pytest.approx(alone.roofline_s)


def test_rows_of_its_own_calibrate_a_described_kernel(tmp_path):
    sizes = {
        "batch": 16,
        "heads": 16,
        "seq_q": 4096,
        "seq_kv": 4096,
        "head_dim": 128,
        "causal": 1,
        "dtype": "bf16",
    }
    guess = predict("landmark_attention", on="h100", implementation=OURS, period=32, **sizes)
    names = "source,device,kernel,implementation,direction,dtype,batch,heads,seq_q,seq_kv,head_dim,causal"
    row = f"test,H100 SXM,landmark_attention,{OURS},fwd,bf16,16,16,4096,4096,128,1,"
    file = tmp_path / "rows.csv"
    file.write_text(f"{names},extra,latency_ms\n{row}period=32; clock_mhz=1700,{guess.latency_s * 1.5e3}\n")
    p = predict("landmark_attention", on="h100", implementation=OURS, calibration=file, period=32, **sizes)
    # One row and what was known before: nearly all of the way.
    assert p.latency_s == pytest.approx(1.5 * guess.latency_s, rel=0.05)
    assert p.high_s / p.latency_s < guess.high_s / guess.latency_s
    # The row is of blocks of 32: of other blocks it says what it says of the constants.
    other = predict(
        "landmark_attention", on="h100", implementation=OURS, calibration=file, period=64, **sizes
    )
    assert other.latency_s > predict("landmark_attention", on="h100", implementation=OURS, **sizes).latency_s


def test_rows_whose_steps_differ_calibrate_together(tmp_path):
    names = "source,device,kernel,implementation,direction,dtype,batch,heads,kv_heads,seq_q,seq_kv,head_dim,causal"
    file = tmp_path / "rows.csv"
    call = CALL | {"batch": 16, "heads": 64}
    rows = [f"t,H100 SXM,selected_attention,{OURS},fwd,bf16,16,64,{h},4096,4096,128,1" for h in (2, 64)]
    found = [
        predict("selected_attention", on="h100", implementation=OURS, **call, kv_heads=h) for h in (2, 64)
    ]
    lines = [f"{r},picks=16; block=64,{1.3e3 * p.latency_s}" for r, p in zip(rows, found, strict=True)]
    file.write_text("\n".join([f"{names},extra,latency_ms", *lines]) + "\n")
    p = predict("selected_attention", on="h100", implementation=OURS, calibration=file, **call)
    assert p.latency_s == pytest.approx(1.3 * found[1].latency_s, rel=0.1)
    assert "calibrated on 2 row(s)" in p.scalar_source
