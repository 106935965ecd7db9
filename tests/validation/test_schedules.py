"""A bound is a bound: no schedule of the simulator moves less, whatever the cascade."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from strategies import Use, uses

import einsum_cascade as ec
from einsum_cascade.errors import MappingError
from simulator import load_hardware, simulate
from simulator.spatial.default import default_mapping
from validation.schedules import on_chip_bytes, simulated_traffic


@pytest.mark.parametrize("name", ["fusemax", "edge"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(use=uses())
def test_no_schedule_of_a_random_cascade_is_below_its_bound(name: str, use: Use) -> None:
    chip = load_hardware(name)
    try:
        mapping = default_mapping(use.cascade, use.sizes, chip)
        moved = simulate(use.cascade, use.sizes, chip, mapping).traffic_bytes
    except MappingError:
        assume(False)  # the chip cannot do one of the operations
    bound = ec.bounds(use.cascade, use.sizes, buffer=on_chip_bytes(chip), word=chip.word_bytes)
    assert bound.traffic_bytes <= moved


@pytest.mark.parametrize(
    "name", ["attention_3pass", "attention_2pass", "attention_1pass", "linear_chunked", "gemm"]
)
def test_the_points_of_the_plot_are_above_the_curve(name: str) -> None:
    cascade = ec.zoo.load(name)
    sizes = {"gemm": "M=4096,K=1024,N=4096"}.get(name, "BERT/16K,B=1")
    points = simulated_traffic(cascade, sizes, "2 B")
    assert points
    for buffer, traffic in points.values():
        assert ec.bounds(cascade, sizes, buffer=buffer).traffic_bytes <= traffic
