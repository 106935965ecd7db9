"""Mappings under which an Einsum would read what is nowhere: refused, so that no estimate is below the bounds."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from examples import MORE
from hypothesis import given, settings
from hypothesis import strategies as st
from random_machines import random_mapping, tight_machine
from tiny_cascades import tiny_cascade

from einsum_cascade import bounds
from einsum_cascade.errors import MappingError
from einsum_cascade.parser import parse
from mappings.binding import Binding, SpatialMapping
from mappings.loopnest import EinsumLoops, LoopNest
from simulator import load_hardware, simulate
from simulator.spatial.mapper import on_chip_bytes

TWICE = """
cascade twice
rank M P
input X[M, P]
output Y[M, P]
T[m, p] = X[m, p] * 2
S[p]    = T[m, p] :: sum(m)
Y[m, p] = T[m, p] / S[p]
"""
SIZES = {"M": 64, "P": 3}


def twice(*, outside=("X", "Y"), buffer=("X", "T", "S", "Y"), time=None, phases=(("T", "S", "Y"),), hold=()):
    """A mapping of three Einsums of which the last waits for a sum over all of M."""
    loops = EinsumLoops(time or {"DRAM": ("P", "M")})
    nest = LoopNest("twice", {"others": loops})
    steps = {f"p{i}": ({"PE1D": names},) for i, names in enumerate(phases)}
    held = {"p0": {"GlobalBuffer": dict(hold)}} if hold else {}
    keep = {"DRAM": outside, "GlobalBuffer": buffer, "RF1D": "all"}
    return SpatialMapping(nest, Binding(keep, steps, hold=held), "mine")


def moved(mapping, sizes=SIZES):
    found = simulate(parse(TWICE), sizes, load_hardware("fusemax", N=4, L3="4 KiB"), mapping)
    return found.traffic_bytes / 2


def test_a_row_that_waits_for_its_sum_has_to_be_kept():
    with pytest.raises(MappingError, match=r"mine: Y reads T, .* no more \(64 words, of which 1 are kept\)"):
        moved(twice())
    assert moved(twice(hold={"T": ("M",)})) == 2 * 64 * 3
    assert moved(twice(time={"DRAM": ("P",), "GlobalBuffer": ("M",)})) == 2 * 64 * 3
    # Or it goes out, and comes back for both readers.
    assert moved(twice(outside=("X", "T", "Y"))) == (2 + 3) * 64 * 3


def test_a_row_of_one_element_waits_for_nobody():
    assert moved(twice(), {"M": 1, "P": 3}) == 2 * 3


def test_a_sum_is_kept_until_it_is_finished():
    with pytest.raises(
        MappingError, match=r"S is not finished when the loops inside M .*3 words, of which 1 are"
    ):
        moved(twice(time={"DRAM": ("M", "P")}, hold={"T": ("M", "P")}))
    assert moved(twice(time={"DRAM": ("M", "P")}, hold={"T": ("M", "P"), "S": ("P",)})) == 2 * 64 * 3


def test_a_phase_finds_all_that_the_phase_before_made():
    phases = (("T",), ("S", "Y"))
    with pytest.raises(MappingError, match=r"S reads T, .*\(192 words, of which 64 are kept\)"):
        moved(twice(phases=phases, time={"DRAM": ("P",), "GlobalBuffer": ("M",)}))
    assert moved(twice(phases=phases, time={"GlobalBuffer": ("P", "M")})) == 2 * 64 * 3


def test_what_a_later_phase_reads_takes_room_in_those_between():
    cascade = parse(
        "cascade c\nrank M\ninput X[M]\noutput W[M] Y[M]\n"
        "T[m] = X[m] * 2\nU[m] = X[m] * 3\nW[m] = U[m] + 1\nY[m] = T[m] + 1\n"
    )
    loops = LoopNest("c", {"others": EinsumLoops({"GlobalBuffer": ("M",)})})
    keep = {"DRAM": ("X", "W", "Y"), "GlobalBuffer": {"T": ("T",), "U": ("U",), "W": ("U",), "Y": ("T",)}}
    phases = {f"p{e}": ({"PE1D": (e,)},) for e in "TUWY"}
    laid = SpatialMapping(loops, Binding({**keep, "RF1D": "all"}, phases), "mine")
    # T waits in all of the 64 words while U is made and used: 2 * 64 words of 2 bytes.
    with pytest.raises(MappingError, match="the tiles kept in GlobalBuffer take 256 bytes"):
        simulate(cascade, {"M": 64}, load_hardware("fusemax", N=4, L3="128 B"), laid)
    found = simulate(cascade, {"M": 64}, load_hardware("fusemax", N=4, L3="256 B"), laid)
    assert next(m.held_bytes for m in found.memories if m.name == "GlobalBuffer") == 256


def test_nothing_is_read_where_nobody_puts_it():
    cascade = parse("cascade c\nrank M\ninput X[M]\noutput Y[M]\nT[m] = X[m] * 2\nY[m] = T[m] * X[m]\n")
    chip = load_hardware("fusemax", N=4)
    loops = LoopNest("c", {"others": EinsumLoops({"DRAM": ("M",)})})

    def refused(outside, order=(("T",), ("Y",))):
        keep = {"DRAM": outside, "GlobalBuffer": {"T": ("X", "T"), "Y": ("X", "T", "Y")}, "RF1D": "all"}
        steps = {f"p{i}": ({"PE1D": names},) for i, names in enumerate(order)}
        with pytest.raises(MappingError) as caught:
            simulate(cascade, {"M": 8}, chip, SpatialMapping(loops, Binding(keep, steps), "mine"))
        return str(caught.value)

    assert "Y reads T from DRAM, where T does not keep it" in refused({"T": ("X",), "Y": ("X", "T", "Y")})
    backwards = (("Y",), ("T",))
    assert "Y reads T from DRAM, before it is made" in refused(
        {"T": ("X", "T"), "Y": ("X", "T", "Y")}, backwards
    )
    assert "Y reads T, which nobody brings from DRAM" in refused({"T": ("X",), "Y": ("X", "Y")}, backwards)


def test_a_later_generation_needs_the_one_before():
    cascade = parse(
        "cascade c\nrank T P\ninput A[T, P]\noutput O[P]\nR[0, p] = 0\n"
        "iterate t {\nR[t + 1, p] = R[t, p] + A[t, p]\n}\nO[p] = R[T, p]\n"
    )

    def laid(hold):
        nest = LoopNest("c", {"R": EinsumLoops({"DRAM": ("T", "P")}), "O": EinsumLoops({"DRAM": ("P",)})})
        keep = {"DRAM": ("A", "O"), "GlobalBuffer": ("A", "R", "O"), "RF1D": "all"}
        binding = Binding(keep, {"p0": ({"PE1D": ("R", "O")},)}, hold={"p0": {"GlobalBuffer": hold}})
        return simulate(
            cascade, {"T": 5, "P": 7}, load_hardware("fusemax", N=4), SpatialMapping(nest, binding)
        )

    with pytest.raises(
        MappingError, match=r"R is not finished when the loops inside T .*7 words, of which 1 are kept"
    ):
        laid({"A": ()})
    assert laid({"R": ("P",)}).traffic_bytes == 2 * (5 * 7 + 7)


def test_many_design_points_are_refused_like_each_of_them():
    cascade, chip = parse(TWICE), load_hardware("fusemax", N=4, L3="4 KiB")
    lengths = np.array([1.0, 1.0])
    assert simulate(cascade, {"M": lengths, "P": 3}, chip, twice()).traffic_bytes.tolist() == [12, 12]
    with pytest.raises(MappingError, match="Y reads T"):
        simulate(cascade, {"M": np.array([1.0, 64.0]), "P": 3}, chip, twice())


@settings(max_examples=30 * MORE, deadline=None)
@given(st.integers(0, 2**32))
def test_what_is_accepted_moves_no_less_than_the_bound(tmp_path_factory, seed):
    rng = random.Random(seed)
    path = tmp_path_factory.mktemp("chip") / "tight.yaml"
    path.write_text(tight_machine(rng))
    chip, cascade = load_hardware(path), parse(tiny_cascade(seed, plain=True).text)
    sizes = {"M": rng.choice([8, 16, 40]), "P": rng.choice([1, 2]), "E": rng.choice([1, 2, 3])}
    least = bounds(cascade, sizes, buffer=on_chip_bytes(chip), word=chip.word_bytes).traffic_bytes
    for _ in range(30):
        mapping = random_mapping(rng, cascade, sizes, chip)
        try:
            found = simulate(cascade, sizes, chip, mapping)
        except MappingError:
            continue
        assert found.traffic_bytes >= least * (1 - 1e-12), replace(mapping, name=f"seed {seed}")
        assert all(u <= 1 + 1e-12 for u in found.utilization.values())
