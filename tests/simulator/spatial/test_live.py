"""Masked nests: closed forms against a walk with the materialised mask, and laws of whole simulations."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mappings
from einsum_cascade import bounds, zoo
from einsum_cascade.analysis.points import operations_by_einsum
from einsum_cascade.errors import MappingError
from einsum_cascade.parser import parse, parse_expression
from einsum_cascade.sizes import parse_sizes, resolve
from simulator import load_hardware, simulate
from simulator.hardware.model import Array
from simulator.spatial.access import run, run_masked
from simulator.spatial.cuts import cut, table_of
from simulator.spatial.default import default_mapping
from simulator.spatial.ends import with_ends
from simulator.spatial.idle import idle
from simulator.spatial.live import Live, Mask
from simulator.spatial.live import settings as live_settings
from simulator.spatial.model import plan
from simulator.spatial.nest import Dimension, Level, Loop, Nest, Operand, SizeTable, Work
from simulator.spatial.programs import program
from simulator.spatial.work import cycles, operations, unit_operations, useful
from validation.schedules import on_chip_bytes

_spec = importlib.util.spec_from_file_location("masked_walk", Path(__file__).parent / "masked_walk.py")
masked_walk = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(masked_walk)

VARIABLES = ("m", "p", "e")
MASKS = (
    "m <= p",
    "0 <= p - m < 3",
    "m//2 == p//2",
    "m > 100",
    "m >= 0",
    "abs(m - p) < 2 and e > 0",
    "e != m",
)
LEVELS = ("DRAM", "L3", "reg")


@st.composite
def masked_nests(draw):
    """A nest of two or three memories with up to 300 points, an input, an output, and a mask."""
    depth = draw(st.integers(2, 3))
    fan_out_at = draw(st.integers(0, depth - 1))
    budget, sizes, levels = 300, {}, []

    def loop():
        nonlocal budget
        size = draw(st.integers(1, max(1, min(4, budget))))
        budget //= size
        sizes[f"L{len(sizes)}"] = size
        return Loop(draw(st.sampled_from(VARIABLES)), f"L{len(sizes) - 1}")

    for i in range(depth):
        time = tuple(loop() for _ in range(draw(st.integers(0, 3))))
        space = tuple((loop(),) for _ in range(draw(st.integers(0, 2)))) if i == fan_out_at else ()
        levels.append(Level(LEVELS[i], time, space))

    def operand(name, output):
        ranks = draw(st.lists(st.sampled_from(VARIABLES), max_size=2, unique=True))
        kept = draw(st.lists(st.sampled_from(LEVELS[:depth]), min_size=1, unique=True))
        return Operand(name, tuple(Dimension(((v, 1),)) for v in ranks), tuple(kept), output)

    operands = (operand("I", False), operand("O", True))
    bare = Nest("X", "A", tuple(levels), operands, ())
    time, space = (tuple(x.part for x in xs) for xs in (bare.time, bare.space))
    nest = Nest("X", "A", tuple(levels), operands, (Work("mac", 1, time, space),))
    return nest, sizes, draw(st.sampled_from(MASKS))


def mask_of(nest, text):
    """The mask with the loops of each variable in the order in which they make up its coordinate."""
    loops = {}
    for level in nest.levels:
        for x in (*level.time, *level.fan_out):
            loops.setdefault(x.variable, []).append(x.part)
    part = parse_expression(text)
    used = [v for v in VARIABLES if v in text]
    assume(all(v in loops for v in used))
    return Mask((part,), tuple((v, tuple(loops[v])) for v in used), ())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(masked_nests())
def test_closed_form_equals_the_walk(drawn):
    nest, sizes, text = drawn
    mask, table = mask_of(nest, text), SizeTable(sizes)
    walk = masked_walk.Walk(nest, sizes, lambda point: eval(text, {"abs": abs}, point))
    steps, points = len(walk.steps()), walk.points()
    array = Array((4, 4), ("mac",), {"mac": {"mac": 1}})
    live = Live(mask, (mask,))
    assert cycles(nest, array, table, live) == steps
    assert operations(nest, table, live) == {"mac": points}
    fan_out = math.prod(sizes[x.part] for x in nest.space)
    assert unit_operations(nest, array, table, live) == {"mac": steps * fan_out}
    assert useful(nest, table, live) == pytest.approx(points / max(1, steps * fan_out), rel=1e-12)
    for operand in nest.operands:
        walked = walk.counts(operand)
        for use in program(nest):
            if use.operand is operand:
                got = run_masked(use, table, mask)
                found = walked[use.memory]
                wanted = (found["reads"], found["fills"], found["updates"])
                assert (got.reads, got.fills, got.updates) == wanted, (use, got)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(masked_nests(), st.data())
def test_ends_of_ranks_are_one_predicate_more(drawn, data):
    """Tiles that do not divide a rank under a mask: as many steps and tiles as in a walk beyond the end."""
    nest, sizes, text = drawn
    mask = mask_of(nest, text)
    cuts, ends = [], {}
    for v, parts in mask.loops:
        inner = math.prod(sizes[p] for p in parts[1:])
        ends[v] = data.draw(st.integers((sizes[parts[0]] - 1) * inner + 1, sizes[parts[0]] * inner))
        cuts.append(cut(v.upper(), ends[v], parts, [sizes[p] for p in parts]))
    stated = {**sizes, **{p: n for c in cuts for p, n in zip(c.parts, c.full, strict=True)}}
    table = table_of({**stated, **{v.upper(): n for v, n in ends.items()}}, cuts)
    live = with_ends({"X": Live(mask, (mask,))}, [nest], {c.whole: c.parts for c in cuts}, "here")["X"]

    def there(point):
        return all(point[v] < n for v, n in ends.items()) and eval(text, {"abs": abs}, point)

    walk = masked_walk.Walk(nest, stated, there)
    steps, points = len(walk.steps()), walk.points()
    array = Array((4, 4), ("mac",), {"mac": {"mac": 1}})
    fan_out = math.prod(stated[x.part] for x in nest.space)
    assert cycles(nest, array, table, live) == steps
    assert operations(nest, table, live) == {"mac": points}
    assert unit_operations(nest, array, table, live) == {"mac": steps * fan_out}
    assert useful(nest, table, live) == pytest.approx(points / max(1, steps * fan_out), rel=1e-12)
    for operand in nest.operands:
        walked = walk.counts(operand)
        for use in (u for u in program(nest) if u.operand is operand):
            got, found = run_masked(use, table, live.whole), walked[use.memory]
            assert (got.reads, got.fills, got.updates) == (found["reads"], found["fills"], found["updates"])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(masked_nests())
def test_a_mask_that_removes_nothing_changes_nothing(drawn):
    nest, sizes, _ = drawn
    mask, table = mask_of(nest, "m + p >= 0"), SizeTable(sizes)
    for use in program(nest):
        assert run_masked(use, table, mask) == run(use, table)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(masked_nests(), st.lists(st.integers(1, 3), min_size=2, max_size=4))
def test_many_points_at_once_equal_one_by_one(drawn, factors):
    nest, sizes, text = drawn
    mask = mask_of(nest, text)
    names = list(sizes)
    together = SizeTable({**sizes, names[0]: np.array(factors, dtype=np.float64)})
    for use in program(nest):
        many = run_masked(use, together, mask)
        for k, factor in enumerate(factors):
            one = run_masked(use, SizeTable({**sizes, names[0]: factor}), mask)
            for name in ("reads", "fills", "updates", "elided"):
                assert np.broadcast_to(getattr(many, name), (len(factors),))[k] == getattr(one, name)


def test_tiles_of_a_causal_mask_by_hand():
    # 4 x 4 tiles of 256 x 256: those on the diagonal and below it, 10 of 16, are done, each in full
    cascade = zoo.load("attention_1pass_causal")
    sizes = {"B": 1, "H": 1, "E": 64, "F": 64, "P": 1024, "M": 1024}
    chip, mapping = load_hardware("fusemax"), mappings.load("fusemax")
    found = {e.name: e for e in simulate(cascade, sizes, chip, mapping).einsums}
    dense = {e.name: e for e in simulate(zoo.load("attention_1pass"), sizes, chip, mapping).einsums}
    for name in ("QK", "LM", "SLN", "RNV", "RM"):
        assert found[name].cycles == dense[name].cycles * 10 / 16
    assert found["AV"].cycles == dense["AV"].cycles
    assert found["QK"].operations["mac"] == 64 * 1024 * 1025 // 2
    # every element of a tile on the diagonal works, needed or not
    assert found["QK"].utilization / found["QK"].time_s == pytest.approx(
        dense["QK"].utilization / dense["QK"].time_s * (1024 * 1025 / 2) / (10 * 256**2)
        * simulate(zoo.load("attention_1pass"), sizes, chip, mapping).latency_s
        / simulate(cascade, sizes, chip, mapping).latency_s,
        rel=1e-12,
    )  # fmt: skip


MASKED = (
    "attention_causal", "attention_1pass_causal", "attention_sliding_window", "attention_1pass_sliding_window",
    "gna_1d", "gna_2d", "linear_chunked", "attention_sink_logit", "tnl_quadratic",
)  # fmt: skip
SIZES = {"E": 16, "F": 16, "M": 256, "P": 256, "T": 256, "W": 32, "S": 4}


def sizes_of(cascade):
    parts = {p for ps in cascade.splits.values() for p in ps}
    out = {r: SIZES.get(r, 16) for r in cascade.free_ranks if r not in parts}
    out |= {whole: SIZES.get(whole, 256) for whole in cascade.splits}
    return {**resolve(cascade, out), "B": 1, "H": 2}


def without_masks(cascade):
    """The same cascade with every `where` left out of its text."""
    lines = [line.partition(" where ")[0] for line in str(cascade).splitlines()]
    return parse("\n".join(lines) + "\n")


@pytest.mark.parametrize("chip", ["fusemax", "flat", "edge", "tpu_v4i"])
@pytest.mark.parametrize("name", MASKED)
def test_masked_cascades_on_every_chip(name, chip):
    cascade, machine = zoo.load(name), load_hardware(chip)
    sizes = sizes_of(cascade)
    mapping = default_mapping(cascade, sizes, machine)
    found = simulate(cascade, sizes, machine, mapping)
    dense = simulate(without_masks(cascade), sizes, machine, mapping)
    for total in ("latency_s", "energy_j", "traffic_bytes"):
        assert getattr(found, total) <= getattr(dense, total) * (1 + 1e-12)
    tiled = plan(cascade, sizes, machine, mapping).sizes  # the mapping says how wide a block is
    needed = operations_by_einsum(
        cascade, {r: tiled[r] for r in (*cascade.rank_names, "B", "H") if r in tiled}
    )
    idling = idle(cascade)
    for e in found.einsums:
        if e.name in idling:  # the analysis of the algorithm counts updates that change nothing
            assert all(n <= needed[e.name][op] for op, n in e.operations.items())
        else:
            assert {op: n for op, n in e.operations.items() if n} == {
                op: n for op, n in needed[e.name].items() if n
            }
    least = bounds(cascade, sizes, buffer=machine.memories["GlobalBuffer"].capacity_bytes)
    assert found.traffic_bytes >= least.compulsory_bytes * (1 - 1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 1024), st.integers(1, 1024))
def test_a_wider_window_is_never_cheaper(a, b):
    cascade, chip, mapping = (
        zoo.load("attention_1pass_sliding_window"),
        load_hardware("fusemax"),
        mappings.load("fusemax"),
    )
    low, high = (
        simulate(cascade, {"B": 1, "H": 4, "E": 64, "F": 64, "P": 1024, "M": 1024, "W": w}, chip, mapping)
        for w in sorted((a, b))
    )
    for total in ("latency_s", "energy_j", "traffic_bytes"):
        assert getattr(low, total) <= getattr(high, total) * (1 + 1e-12)


def test_a_window_of_everything_is_the_causal_mask():
    chip, mapping = load_hardware("fusemax"), mappings.load("fusemax")
    sizes = {"B": 1, "H": 4, "E": 64, "F": 64, "P": 1024, "M": 1024}
    window = simulate(zoo.load("attention_1pass_sliding_window"), {**sizes, "W": 1024}, chip, mapping)
    causal = simulate(zoo.load("attention_1pass_causal"), sizes, chip, mapping)
    assert (window.latency_s, window.energy_j, window.traffic_bytes) == pytest.approx(
        (causal.latency_s, causal.energy_j, causal.traffic_bytes), rel=1e-12
    )


def test_updates_that_matter_are_not_skipped():
    # without the correction by the new maximum a state still changes where a mask leaves nothing: it is halved
    text = str(zoo.load("attention_1pass_causal")).replace("RD[m1, p] * PRM[m1, p]", "RD[m1, p] * 0.5")
    assert idle(parse(text)) == {}
    # what leaves the block has to be computed
    text = str(zoo.load("attention_1pass_causal")).replace("output AV[F, P]", "output AV[F, P] PRM[M1, P]")
    assert idle(parse(text)) == {}


def test_what_is_said_about_masks():
    chip = load_hardware("fusemax")
    causal, plain = zoo.load("attention_causal"), zoo.load("attention_3pass")
    sizes = parse_sizes("E=64,F=64,P=512,M=512", causal)
    found = simulate(causal, sizes, chip, default_mapping(causal, sizes, chip))
    assert any("saves the steps" in a for a in found.assumptions)
    dense = simulate(plain, sizes, chip, default_mapping(plain, sizes, chip))
    assert not any("where" in a for a in dense.assumptions)


def test_a_mask_too_large_to_count_is_said_and_taken_as_none():
    text = "cascade x\nrank A B C\ninput X[A, B, C]\noutput Y[A, B, C]\n"
    cascade = parse(text + "Y[a, b, c] = X[a, b, c] * X[a, b, c] where a <= b + c\n")
    sizes, chip = {"A": 4096, "B": 32768, "C": 4096}, load_hardware("fusemax")
    mapping = default_mapping(cascade, sizes, chip)
    settled = plan(cascade, sizes, chip, mapping)
    assert not settled.live and "too many points" in settled.notes[0]


def test_a_predicate_over_data_removes_nothing():
    text = "cascade x\nrank A\ninput X[A]\noutput Y[A]\nY[a] = X[a] * X[a] where X[a] > 0\n"
    cascade, chip = parse(text), load_hardware("fusemax")
    sizes = {"A": 1024}
    found = simulate(cascade, sizes, chip, default_mapping(cascade, sizes, chip))
    assert any("reads data removes nothing" in a for a in found.assumptions)
    assert found.einsums[0].operations == {"mul": 1024}


def test_settings_without_a_mask_are_a_product():
    assert live_settings(None, ("A", "B"), SizeTable({"A": 3, "B": 5})) == 15


def test_masked_estimates_of_many_design_points_equal_one_by_one():
    chip, mapping = load_hardware("fusemax"), mappings.load("fusemax", {"P1": 2})
    lengths, windows = np.array([512, 1024, 1024, 2048]), np.array([100, 100, 700, 3000])
    cascade = zoo.load("attention_1pass_sliding_window")
    sizes = {"B": 1, "H": 4, "E": 64, "F": 64}
    many = simulate(cascade, {**sizes, "P": lengths, "M": lengths, "W": windows}, chip, mapping)
    for k, (length, window) in enumerate(zip(lengths, windows, strict=True)):
        one = simulate(
            cascade, {**sizes, "P": int(length), "M": int(length), "W": int(window)}, chip, mapping
        )
        for total in ("latency_s", "energy_j", "traffic_bytes"):
            assert getattr(many, total)[k] == pytest.approx(getattr(one, total), rel=1e-12)
        assert many.bound_by[k] == one.bound_by
        assert many.utilization["PE2D"][k] == pytest.approx(one.utilization["PE2D"], rel=1e-12)


@pytest.mark.parametrize("name", MASKED)
def test_masked_traffic_respects_the_bound_of_a_small_chip(name):
    cascade, chip = zoo.load(name), load_hardware("edge", L3="16 KiB")
    sizes = sizes_of(cascade)
    mapping = default_mapping(cascade, sizes, chip)
    tiled = plan(cascade, sizes, chip, mapping).sizes
    asked = {r: tiled[r] for r in (*cascade.rank_names, "B", "H") if r in tiled}
    least = bounds(cascade, asked, buffer=on_chip_bytes(chip)).traffic_bytes
    assert simulate(cascade, sizes, chip, mapping).traffic_bytes >= least * (1 - 1e-12)


def test_a_mask_that_removes_everything_is_refused():
    cascade = parse("cascade x\nrank A\ninput X[A]\noutput Y[A]\nY[a] = X[a] * X[a] where a > A\n")
    chip, sizes = load_hardware("fusemax"), {"A": 1024}
    with pytest.raises(MappingError, match="nothing to do"):
        simulate(cascade, sizes, chip, default_mapping(cascade, sizes, chip))
