"""Neighbourhood attention on a GPU whose numbers were changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.gpu.gna_backends import backends, constants
from simulator.gpu.gna_change import as_described, constants_on
from simulator.gpu.gna_time import predict_gna
from simulator.gpu.gna_tune import tune_gna
from simulator.hardware.gpu import find_gpu
from simulator.hardware.reader import load_hardware

VIDEO = {"layout": (30, 48, 80), "window": (18, 24, 24), "stride": (16, 8, 8)}
TILES = {"q_tile": (4, 4, 8), "kv_tile": (4, 4, 8)}
H100 = find_gpu("h100")


def time_on(gpu, **more):
    return predict_gna(**VIDEO, **TILES, on=gpu, heads=24, **more)


def test_the_gpu_itself_is_the_gpu_by_name():
    assert time_on(H100) == time_on("h100") == time_on(load_hardware("h100"))
    assert constants_on(backends()["hopper-fna"], H100) == constants(backends()["hopper-fna"], H100)


@pytest.mark.parametrize("name", ["h100", "b200", "a100", "l40s"])
def test_everything_twice_as_fast_halves_all_but_the_start(name):
    gpu = find_gpu(name)
    twice = replace(
        gpu,
        clock_hz=2 * gpu.clock_hz,
        l2_bandwidth_bytes_per_s=2 * gpu.l2_bandwidth_bytes_per_s,
        memory_bandwidth_bytes_per_s=2 * gpu.memory_bandwidth_bytes_per_s,
    )
    was, now = time_on(gpu), time_on(twice)
    start = was.constants.start_s
    assert now.kernel_s - start == pytest.approx((was.kernel_s - start) / 2, rel=1e-12)
    assert now.permute_s == pytest.approx(was.permute_s / 2, rel=1e-12)
    assert "another clock_hz, l2_bandwidth_bytes_per_s, memory_bandwidth" in now.constants.source
    assert not now.constants.fitted


@pytest.mark.parametrize(
    ("field", "factor"),
    [
        ("exp_per_cycle", 0.1),
        ("l2_bandwidth_bytes_per_s", 0.4),
        ("shared_bytes_per_cycle", 0.2),
        ("clock_hz", 0.5),
    ],
)
def test_less_of_a_pipe_is_slower_and_more_is_never_slower(field, factor):
    less = replace(H100, **{field: getattr(H100, field) * factor})
    more = replace(H100, **{field: getattr(H100, field) / factor})
    assert time_on(less).kernel_s > time_on(H100).kernel_s >= time_on(more).kernel_s


def test_exponentials_alone_bound_a_step_when_they_are_scarce():
    """At one exponential a cycle a step of 128 x 128 takes 16,384 cycles, at 1 / 100 a hundred times as many.

    Products, 2048 cycles, are a hundredth or less of the time in which two groups of rows wait for each other:
    (T^2 + T S + S^2) / (T + S) of 2048 and 16,384 cycles is 16,612, of S a hundred times as long S and 3 in a million.
    """
    one, few = (replace(H100, exp_per_cycle=n) for n in (1.0, 0.01))
    start = time_on(H100).constants.start_s
    steps = [(time_on(gpu).kernel_s - start) for gpu in (one, few)]
    assert steps[1] / steps[0] == pytest.approx(1638400 / 16611.6, rel=1e-5)  # of the numbers above


def test_fewer_processors_take_more_steps_of_the_same_length():
    half = replace(H100, sms=66, l2_bandwidth_bytes_per_s=H100.l2_bandwidth_bytes_per_s / 2)
    was, now = time_on(H100), time_on(half)
    assert now.steps > was.steps
    tick = (was.kernel_s - was.constants.start_s) / was.steps
    assert (now.kernel_s - now.constants.start_s) / now.steps == pytest.approx(tick, rel=1e-12)


def test_a_gpu_of_ones_own_is_taken_as_it_is():
    own = replace(H100, name="mine", exp_per_cycle=32.0)
    assert as_described(own) is own
    assert time_on(own).constants.source.startswith("assumed: h100 scaled by peak")


def test_nobody_measured_cudnn_on_a_gpu_that_was_changed():
    given = {"layout": VIDEO["layout"], "window": VIDEO["window"], "stride": 1, "top": 1}
    assert tune_gna(**given, on=H100).baseline_s is not None
    assert tune_gna(**given, on=replace(H100, exp_per_cycle=32.0)).baseline_s is None


def test_the_ranking_takes_a_changed_gpu_too():
    given = {"layout": VIDEO["layout"], "window": VIDEO["window"]}
    slow = tune_gna(**given, on=replace(H100, exp_per_cycle=2.0), top=1).choices[0]
    fast = tune_gna(**given, on=H100, top=1).choices[0]
    assert slow.latency_s > 2 * fast.latency_s
    again = predict_gna(
        **given,
        stride=fast.stride,
        q_tile=fast.q_tile,
        kv_tile=fast.kv_tile,
        on=H100,
        heads=24,
    )
    assert fast.latency_s == pytest.approx(again.latency_s, rel=1e-9)
