"""The event-driven run against the closed form of the schedule."""

from __future__ import annotations

import pytest

import mappings
from einsum_cascade import zoo
from simulator import load_hardware
from simulator.spatial.mapper import find_mapping
from simulator.spatial.model import plan
from simulator.spatial.pipeline import run

SIZES = {"B": 64, "H": 12, "E": 64, "F": 64, "P": 65536, "M": 65536}


@pytest.mark.parametrize(("mapping", "chip"), [("fusemax", "fusemax"), ("fusemax_cascade", "flat")])
def test_steady_state_is_the_closed_form(mapping, chip):
    cascade = zoo.load("attention_1pass")
    found = run(plan(cascade, SIZES, load_hardware(chip), mappings.load(mapping)), cascade)
    # Neither is below the busiest array; with some streams in flight the pipeline reaches it.
    assert found.steady >= found.bound * (1 - 1e-9)
    assert found.steady == pytest.approx(found.closed, rel=0.02)
    assert found.fill >= -1e-9


def test_one_stream_fills_the_arrays_and_filling_costs_the_same_once():
    cascade = zoo.load("attention_1pass")
    settled = plan(cascade, SIZES, load_hardware("fusemax"), mappings.load("fusemax"))
    short, long = (run(settled, cascade, passes=n, streams=1) for n in (32, 64))
    assert long.steady == pytest.approx(long.closed, rel=1e-9)
    assert short.fill == pytest.approx(long.fill, rel=1e-9)


def test_arrays_that_take_turns_leave_time_unused():
    """+Architecture's order of steps is no law of the cascade: the same work, free to overlap, takes less."""
    cascade = zoo.load("attention_1pass")
    found = run(plan(cascade, SIZES, load_hardware("fusemax"), mappings.load("fusemax_stalled")), cascade)
    assert found.bound <= found.steady < found.closed


def test_copies_of_a_mapping_run_too():
    """Long rows of three-pass attention are computed again: the copies are jobs as the originals are."""
    cascade, chip = zoo.load("attention_3pass"), load_hardware("fusemax")
    mapping = find_mapping(cascade, SIZES, chip).mapping
    assert mapping.nest.recompute
    found = run(plan(cascade, SIZES, chip, mapping), cascade)
    # Runs of 8 and 16 passes end with the arrays in different places of a pass: less than a hundredth between them.
    assert found.steady == pytest.approx(found.closed, rel=0.01)
