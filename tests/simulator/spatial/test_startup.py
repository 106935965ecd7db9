"""The event-driven run on random schedules, and what filling and draining is reported to cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappings
from einsum_cascade import zoo
from einsum_cascade.errors import MappingError
from simulator import load_hardware, simulate
from simulator.spatial.model import plan
from simulator.spatial.pipeline import run
from simulator.spatial.startup import start_up

CASCADE = zoo.load("attention_1pass")
BASE = mappings.load("fusemax")
ON_2D = ("QK", "LM", "SLN", "SLD", "SLNV")
PASSES, STREAMS = 16, 3
SIZES = {"B": 1, "H": 2, "E": 16, "F": 64, "P": 2048, "M": 2048}


@st.composite
def schedules(draw):
    """Random steps in a random order, Einsums that both arrays can do on either; a chip with random costs."""
    names = draw(st.permutations([e.name for e in CASCADE.einsums]))
    either = {n: draw(st.sampled_from(["PE2D", "PE1D"])) for n in ("RM", "PRM", "SPD", "RD", "SPNV", "RNV")}
    steps, at = [], 0
    while at < len(names):
        size = draw(st.integers(1, len(names) - at))
        step = {}
        for n in names[at : at + size]:
            step.setdefault("PE2D" if n in ON_2D else either.get(n, "PE1D"), []).append(n)
        steps.append({array: tuple(items) for array, items in step.items()})
        at += size
    mapping = replace(BASE, binding=replace(BASE.binding, phases={"p": tuple(steps)}))
    chip = load_hardware("fusemax", {"arrays.PE2D.ops.exp.mac": draw(st.integers(1, 40))})
    width = draw(st.sampled_from([16, 64, 256]))
    return mapping, chip, SIZES | {"E": width, "F": draw(st.sampled_from([16, 64]))}


@settings(max_examples=25, deadline=None)
@given(schedules())
def test_laws_of_random_schedules(drawn):
    mapping, chip, sizes = drawn
    settled = plan(CASCADE, sizes, chip, mapping)
    found = run(settled, CASCADE, passes=PASSES, streams=STREAMS)
    # stated steps never beat the busiest array, nor does the free order
    assert found.closed >= found.bound * (1 - 1e-12)
    assert found.total >= PASSES * STREAMS * found.bound * (1 - 1e-12)
    assert found.steady >= found.bound * (1 - 1e-9)
    # a round of all streams leaves the busiest array waiting for at most the longest Einsum (length 1), so the waits
    # of a pass fade with the number of streams, whatever the stated steps are
    assert (found.steady - found.bound) * STREAMS <= 1 + 1e-9
    assert found.fill >= -1e-9


def test_few_streams_may_wait_where_the_stated_steps_do_not():
    """Found at random: with three streams the free order is slower than these steps, with twelve it is faster."""
    steps = (
        {"PE2D": ("QK",), "PE1D": ("SPNV",)},
        {"PE1D": ("RM", "RNV"), "PE2D": ("SLD", "SLNV")},
        {"PE2D": ("PRM", "SPD", "RD")},
        {"PE2D": ("LM", "SLN"), "PE1D": ("AV",)},
    )
    mapping = replace(BASE, binding=replace(BASE.binding, phases={"p": steps}))
    chip = load_hardware("fusemax", {"arrays.PE2D.ops.exp.mac": 1})
    settled = plan(CASCADE, SIZES, chip, mapping)
    few, many = (run(settled, CASCADE, passes=PASSES, streams=n) for n in (3, 12))
    assert few.closed == many.closed
    assert many.bound < many.steady < many.closed < few.steady


@settings(max_examples=15, deadline=None)
@given(schedules())
def test_the_closed_form_is_the_latency_of_simulate(drawn):
    """A pass by the closed form, times the passes, is what simulate says of a phase that no memory slows down."""
    mapping, chip, sizes = drawn
    chip = replace(
        chip,
        memories={
            n: replace(m, bandwidth_bytes_per_s=float("inf")) if n == "DRAM" else m
            for n, m in chip.memories.items()
        },
    )
    found = simulate(CASCADE, sizes, chip, mapping)
    longest = max(e.cycles for e in found.einsums)
    closed = run(plan(CASCADE, sizes, chip, mapping), CASCADE, passes=2, streams=1).closed
    assert found.latency_s * chip.clock_hz == pytest.approx(closed * longest, rel=1e-9)


def test_start_up_is_small_where_there_are_many_tiles():
    chip, mapping = load_hardware("fusemax"), mappings.load("fusemax")
    sizes = {"B": 64, "H": 12, "E": 64, "F": 64, "P": 65536, "M": 65536}
    found = start_up(CASCADE, sizes, chip, mapping)
    assert found.steady_over_closed == pytest.approx(1, abs=0.02)
    assert found.tiles == 64 * 12 * 2 * 256
    assert 0 < found.fill_s < 1e-4 * simulate(CASCADE, sizes, chip, mapping).latency_s


def test_one_einsum_has_nothing_to_fill():
    found = start_up(
        zoo.load("gemm"), {"K": 512, "M": 512, "N": 512}, load_hardware("fusemax"), mappings.load("gemm")
    )
    assert (found.fill_s, found.steady_over_closed) == (0, 1)


def test_one_design_point_at_a_time():
    import numpy as np

    sizes = {"B": np.array([1, 2]), "H": 2, "E": 64, "F": 64, "P": 2048, "M": 2048}
    with pytest.raises(MappingError, match="one design point"):
        start_up(CASCADE, sizes, load_hardware("fusemax"), mappings.load("fusemax", {"P1": 1}))
