"""Tiles that do not divide their rank: counts against a walk in which the last tile is shorter, and what is refused."""

from __future__ import annotations

import importlib.util
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from examples import MORE
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mappings
from einsum_cascade import zoo
from einsum_cascade.errors import MappingError
from simulator import load_hardware, simulate
from simulator.spatial.access import run, words
from simulator.spatial.cuts import check_cuts, cut, exact, table_of
from simulator.spatial.ledger import Ledger
from simulator.spatial.mapper import find_mapping
from simulator.spatial.nest import Dimension, Level, Loop, Nest, Operand
from simulator.spatial.programs import program
from simulator.spatial.tiling import Tiled
from simulator.spatial.writing import write

_spec = importlib.util.spec_from_file_location("nest_walk", Path(__file__).parent / "nest_walk.py")
nest_walk = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(nest_walk)

LEVELS = ("DRAM", "L3", "reg")
MOST_POINTS = 600


@st.composite
def cut_nests(draw):
    """A nest whose variables have two or three loops each, which rarely multiply to their rank, and three operands."""
    sizes, order, cuts, ends = {}, [], [], {}
    for v in "mnp":
        inner = tuple(draw(st.integers(1, 3)) for _ in range(draw(st.integers(1, 2))))
        parts = tuple(f"{v}{d}" for d in range(len(inner), -1, -1))
        ends[v] = draw(st.integers(math.prod(inner[:1]), 3 * math.prod(inner)))
        number = ends[v]
        for steps in reversed(inner):
            number = -(-number // steps)
        made = cut(v.upper(), ends[v], parts, (number, *inner))
        sizes |= dict(zip(parts, made.full, strict=True)) | {v.upper(): ends[v]}
        if math.prod(made.full) != ends[v]:
            cuts.append(made)
        order.append([Loop(v, part) for part in parts])
    time = []
    while any(order):  # a random order of all loops that keeps the digits of each variable in their order
        time.append(draw(st.sampled_from([q for q in order if q])).pop(0))
    wide = draw(st.lists(st.sampled_from(time), max_size=2, unique=True))
    time = [x for x in time if x not in wide]
    first, second = sorted(draw(st.lists(st.integers(0, len(time)), min_size=2, max_size=2)))
    # What lies on an axis is a digit below those of all loops over its variable that stand outside.
    for x in wide:
        inside = [y.part for y in time[second:] if y.variable == x.variable]
        outside = [y.part for y in time[:second] if y.variable == x.variable]
        assume(all(y > x.part for y in outside) and all(y < x.part for y in inside))
    levels = (
        Level("DRAM", tuple(time[:first])),
        Level(
            "L3",
            tuple(time[first:second]),
            tuple((x,) for x in sorted(wide, key=lambda x: x.part, reverse=True)),
        ),
        Level("reg", tuple(time[second:])),
    )
    total = 1
    for x in (*time, *wide):
        total *= sizes[x.part]
    assume(cuts and total <= MOST_POINTS)

    def operand(name, dimensions, output=False):
        kept = draw(st.lists(st.sampled_from(LEVELS), min_size=1, unique=True))
        return Operand(name, dimensions, tuple(kept), output)

    def plain():
        return tuple(
            Dimension(((v, 1),)) for v in draw(st.lists(st.sampled_from("mnp"), max_size=3, unique=True))
        )

    operands = [operand("I", plain()), operand("O", plain(), output=True)]
    if not wide:  # what elements of a fan-out see of a window overlaps, and is counted once for each
        operands.append(operand("W", (Dimension((("m", draw(st.integers(1, 3))), ("n", 1))),)))
    return Nest("X", "A", levels, tuple(operands), ()), sizes, tuple(cuts), ends


def laid(nest, table):
    check_cuts((nest,), program(nest), table, {}, "here")


def refused(nest, table):
    try:
        laid(nest, table)
    except MappingError:
        return True
    return False


@settings(max_examples=200 * MORE, deadline=None, suppress_health_check=list(HealthCheck))
@given(cut_nests())
def test_counts_equal_the_walk(drawn):
    """Words of one instance of each memory; an element on an axis is the first one, which works to the end."""
    nest, sizes, cuts, ends = drawn
    table = table_of(sizes, cuts)
    if refused(nest, table):
        return
    walked = nest_walk.walk(nest, sizes, ends)
    for use in program(nest):
        found = walked[use.operand.tensor, use.operand.output, use.memory]
        got = exact(run(use, table))
        assert (got.reads, got.fills, got.updates) == (found["reads"], found["fills"], found["updates"]), use
        assert all(isinstance(v, int) for v in (got.reads, got.fills, got.updates))
        assert got.instances == math.prod(sizes[part] for part in use.copies)


@settings(max_examples=60 * MORE, deadline=None, suppress_health_check=list(HealthCheck))
@given(cut_nests())
def test_what_is_held_is_the_fullest_tile(drawn):
    nest, sizes, cuts, ends = drawn
    table = table_of(sizes, cuts)
    for use in program(nest):
        if use.operand.tensor != "W":
            most = nest_walk.fullest(nest, sizes, ends, use.operand, LEVELS.index(use.memory))
            assert words(use.tile, table.full) == most, use


@settings(max_examples=60 * MORE, deadline=None, suppress_health_check=list(HealthCheck))
@given(cut_nests())
def test_nothing_is_refused_without_reason(drawn):
    """Where a nest is refused, some count or the number of steps differs from the walk."""
    nest, sizes, cuts, ends = drawn
    table = table_of(sizes, cuts)
    assume(refused(nest, table))
    walked = nest_walk.walk(nest, sizes, ends)
    pairs = [(run(u, table), walked[u.operand.tensor, u.operand.output, u.memory]) for u in program(nest)]
    steps = table[tuple(x.part for x in nest.time)]
    assert steps != nest_walk.steps(nest, sizes, ends) or any(
        (u.reads, u.fills, u.updates) != (w["reads"], w["fills"], w["updates"]) for u, w in pairs
    )


@settings(max_examples=50 * MORE, deadline=None, suppress_health_check=list(HealthCheck))
@given(cut_nests())
def test_steps_are_those_that_the_longest_element_takes(drawn):
    nest, sizes, cuts, ends = drawn
    table = table_of(sizes, cuts)
    if refused(nest, table):
        return
    assert table[tuple(x.part for x in nest.time)] == nest_walk.steps(nest, sizes, ends)
    everything = tuple(x.part for x in (*nest.time, *nest.space))
    assert table[everything] == math.prod(ends.values())


@pytest.mark.parametrize(("length", "tile", "tiles"), [(2**18, 342, 3), (2**20, 456, 9)])
def test_products_of_xlm_with_the_best_tile_of_any_size(length, tile, tiles):
    """Compulsory: both operands and the result once; a tile of rows that divides their number makes one pass more."""
    sizes = {"B": 64, "H": 16, "E": 128, "F": 128, "P": length, "M": length}
    mapping, machine = mappings.load("unfused", {"P1": tile}), load_hardware("flat")
    found = simulate(zoo.load("attention_3pass"), sizes, machine, mapping)
    assert (found.tiles["P1"], found.tiles["P2"]) == (tile, tiles)
    products = sum(e.traffic_bytes for e in found.einsums if e.name in ("QK", "AV"))
    compulsory = 2 * machine.word_bytes * 64 * 16 * (2 * length * 128 + length**2)
    assert products / compulsory == pytest.approx(1.000976, abs=5e-7)
    assert products == 2 * machine.word_bytes * 64 * 16 * (length * 128 * (1 + tiles) + length**2)
    even = simulate(zoo.load("attention_3pass"), sizes, machine, mappings.load("unfused", {"P1": 256}))
    assert found.latency_s < even.latency_s
    for uneven, plain in zip(found.einsums, even.einsums, strict=True):
        assert (uneven.cycles, uneven.operations) == (plain.cycles, plain.operations)


def test_room_is_for_full_tiles():
    machine = load_hardware("flat", L3="32 MiB")
    sizes = {"B": 1, "H": 1, "E": 128, "F": 128, "P": 2**18, "M": 2**18}
    simulate(zoo.load("attention_3pass"), sizes, machine, mappings.load("unfused", {"P1": 511}))
    with pytest.raises(MappingError, match="the tiles kept in GlobalBuffer take"):
        # three tiles with a mean of 341 1/3 rows of blocks, of which the full ones have 512
        simulate(zoo.load("attention_3pass"), sizes, machine, mappings.load("unfused", {"P1": 512}))


def test_many_sizes_at_once_equal_one_by_one():
    lengths = np.array([768.0, 1024.0, 1280.0, 2560.0])
    machine, mapping = load_hardware("fusemax"), mappings.load("fusemax", {"P1": 3})
    sizes = {"B": 1, "H": 2, "E": 64, "F": 64, "M": 1024}
    many = simulate(zoo.load("attention_1pass"), {**sizes, "P": lengths}, machine, mapping)
    for k, length in enumerate(lengths.astype(int).tolist()):
        one = simulate(zoo.load("attention_1pass"), {**sizes, "P": length}, machine, mapping)
        for name in ("latency_s", "energy_j", "traffic_bytes"):
            # a mean of tiles is rounded in an array, and a fraction alone
            assert getattr(many, name)[k] == pytest.approx(getattr(one, name), rel=1e-12)


ATTENTION = {"B": 1, "H": 2, "E": 64, "F": 64, "P": 2560, "M": 1024}


@pytest.mark.parametrize(
    ("cascade", "mapping", "sizes", "message"),
    [
        (
            "attention_1pass",
            {"P1": 11},
            ATTENTION,
            "P1 * P0 = 2816 does not divide P = 2560; a tile may be as large",
        ),
        ("attention_1pass", {"M0": 100}, ATTENTION, "M0 = 100 does not divide M = 1024"),
    ],
)
def test_what_is_refused(cascade, mapping, sizes, message):
    with pytest.raises(MappingError) as caught:
        simulate(zoo.load(cascade), sizes, load_hardware("fusemax"), mappings.load("fusemax", mapping))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_axis_and_an_order_that_are_refused():
    nest = Nest("X", "A", (Level("DRAM", (Loop("m", "m1"), Loop("m", "m2"))),), (), ())
    cuts = (cut("M", 5, ("m2", "m1"), (2, 3)),)
    table = table_of({"m2": 2, "m1": 3, "M": 5}, cuts)
    with pytest.raises(MappingError, match="the loop over m1 stands outside that over m2: put it inside"):
        laid(nest, table)
    wide = replace(nest, levels=(Level("DRAM", (Loop("m", "m1"),), ((Loop("m", "m2"),),)),))
    with pytest.raises(MappingError, match=r"m2 2 \* m1 3 cuts M = 5 .* in X, m2 lies on an axis of A"):
        laid(wide, table)


def test_the_search_counts_uneven_tiles_as_a_mapping_of_them(monkeypatch):
    """The closed forms of a block, at tiles that do not divide, against the mapping that is written from them."""
    cascade, sizes, machine = zoo.load("gemm"), {"K": 64, "M": 1024, "N": 768}, load_hardware("fusemax", N=16)
    ledgers = []
    build = Ledger.__init__

    def watched(self, placed, built):
        build(self, placed, built)
        ledgers.append(self)

    monkeypatch.setattr(Ledger, "__init__", watched)
    find_mapping(cascade, sizes, machine, objective="traffic_bytes")
    ledger = next(x for x in ledgers if x.placed.home and {"M", "N"} <= set(x.block.order))
    rows, columns = (
        np.array(v) for v in zip(*itertools.product([96, 256, 304], [80, 192, 768]), strict=True)
    )
    costs = ledger.cost(ledger.table({"M": rows, "N": columns, "K": 64}))
    for k, (m, n) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        tiles = {"M": m, "N": n, "K": 64}
        mapping = write(cascade, sizes, [Tiled((0.0, 0.0, 0.0), ledger.placed, tiles)], "uneven")
        found = simulate(cascade, sizes, machine, mapping)
        one = ledger.cost(ledger.table(tiles))
        for name in ("traffic_bytes", "latency_s"):
            # the mean of the tiles is rounded
            assert getattr(costs, name)[k] == pytest.approx(getattr(found, name), rel=1e-12)
            assert getattr(one, name) == pytest.approx(getattr(found, name), rel=1e-12)
        held = ledger.held(ledger.placed.home, ledger.table(tiles)) * machine.word_bytes
        assert held == next(x.held_bytes for x in found.memories if x.name == ledger.placed.home)
