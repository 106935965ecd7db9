"""The closed form of the access counts against a walk of the nest, on random small nests."""

from __future__ import annotations

import importlib.util
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from einsum_cascade.expr import Size
from simulator.spatial.access import count, words
from simulator.spatial.nest import Dimension, Level, Loop, Nest, Operand, SizeTable
from simulator.spatial.programs import program

_spec = importlib.util.spec_from_file_location("nest_walk", Path(__file__).parent / "nest_walk.py")
nest_walk = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(nest_walk)

VARIABLES = ("m", "n", "p", "e")
LEVELS = ("DRAM", "L3", "col", "reg")
MOST_POINTS = 400


@st.composite
def nests(draw):
    """A nest of two to four memories with up to 400 points, and one input and one output kept in some of them."""
    depth = draw(st.integers(2, 4))
    fan_out_at = draw(st.integers(0, depth - 1))
    budget = MOST_POINTS
    levels = []
    sizes = {}

    def loop(size):
        part = f"L{len(sizes)}"
        sizes[part] = size
        return Loop(draw(st.sampled_from(VARIABLES)), part)

    for i in range(depth):
        time, space = [], []
        for _ in range(draw(st.integers(0, 3))):
            size = draw(st.integers(1, min(3, max(1, budget))))
            budget //= size
            time.append(loop(size))
        if i == fan_out_at:
            for _ in range(draw(st.integers(0, 2))):
                size = draw(st.integers(1, min(3, max(1, budget))))
                budget //= size
                space.append((loop(size),))
        levels.append(Level(LEVELS[i], tuple(time), tuple(space)))

    def operand(name, output):
        ranks = draw(st.lists(st.sampled_from(VARIABLES), max_size=3, unique=True))
        kept = draw(st.lists(st.sampled_from(LEVELS[:depth]), min_size=1, unique=True))
        return Operand(name, tuple(Dimension(((v, 1),)) for v in ranks), tuple(kept), output)

    return Nest("X", "A", tuple(levels), (operand("I", False), operand("O", True)), ()), sizes


@settings(max_examples=180, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(nests())
def test_closed_form_equals_the_walk(drawn):
    nest, sizes = drawn
    walked = nest_walk.walk(nest, sizes)
    for use in count(nest, sizes):
        found = walked[use.operand.tensor, use.operand.output, use.memory]
        assert (use.reads, use.fills, use.updates) == (found["reads"], found["fills"], found["updates"]), use


@settings(max_examples=100, deadline=None)
@given(nests(), st.lists(st.integers(1, 4), min_size=2, max_size=4))
def test_many_points_at_once_equal_one_by_one(drawn, factors):
    nest, sizes = drawn
    first = nest.levels[0]
    grown = replace(nest, levels=(replace(first, time=(*first.time, Loop("p", "X"))), *nest.levels[1:]))
    together = count(grown, {**sizes, "X": np.array(factors)})
    for k, factor in enumerate(factors):
        for many, one in zip(together, count(grown, {**sizes, "X": factor}), strict=True):
            for name in ("reads", "fills", "updates", "elided", "instances"):
                values = np.broadcast_to(getattr(many, name), (len(factors),))
                assert values[k] == getattr(one, name)


def test_worked_example():
    # Q[e] under m = 4 at DRAM, e = 8 at the buffer: the buffer's tile of 8 stays while m runs, so DRAM is read 8
    # times; the units ask the buffer in each of the 32 cycles.
    levels = (Level("DRAM", (Loop("m", "M"),)), Level("L3", (Loop("e", "E"),)))
    q = Operand("Q", (Dimension((("e", 1),)),), ("DRAM", "L3"))
    dram, buffer = count(Nest("QK", "A", levels, (q,), ()), {"M": 4, "E": 8})
    assert dram.reads == 8
    assert (buffer.reads, buffer.fills) == (32, 8)


def test_output_written_once_is_never_read():
    levels = (Level("DRAM", (Loop("p", "P"),)), Level("reg", (Loop("e", "E"),)))
    out = Operand("O", (Dimension((("p", 1),)),), ("DRAM", "reg"), output=True)
    dram, register = count(Nest("O", "A", levels, (out,), ()), {"P": 4, "E": 8})
    assert (dram.updates, dram.reads) == (4, 0)
    # 32 updates, of which the first of each of 4 words needs no read
    assert (register.updates, register.reads, register.fills) == (32, 28, 0)


@pytest.mark.parametrize(("m1", "m0"), [(2, 4), (4, 2), (1, 8)])
def test_digits_of_an_index_are_its_product(m1, m0):
    levels = (Level("DRAM", (Loop("m1", "M1"), Loop("m0", "M0"))), Level("reg"))
    key = Operand("K", (Dimension((("m1", Size("M0")), ("m0", 1))),), ("DRAM", "reg"))
    use, *_ = program(Nest("QK", "A", levels, (key,), ()))
    assert words(use.tile, SizeTable({"M1": m1, "M0": m0})) == m1 * m0


def test_window_tile_is_the_span():
    levels = (Level("DRAM"), Level("reg", (Loop("p", "P"), Loop("w", "W"))))
    key = Operand("K", (Dimension((("p", 1), ("w", 1))),), ("DRAM", "reg"))
    _, use = program(Nest("QK", "A", levels, (key,), ()))
    assert words(use.tile, SizeTable({"P": 16, "W": 5})) == 16 + 5 - 1


@pytest.mark.parametrize(
    ("indices", "order"),
    [
        (("p", "p"), "pw"),  # a diagonal
        (("p", "pw"), "pw"),  # a band stored in full
        (("pw", "p"), "wp"),
        (("pw", "p", "w"), "pw"),
        (("p", "pw", "wq"), "pqw"),
    ],
)
def test_indices_that_share_a_variable_equal_the_walk(indices, order):
    sizes = {"P": 3, "W": 2, "Q": 2}
    outer, *inner = order
    levels = (
        Level("D", (Loop(outer, outer.upper()),)),
        Level("S", tuple(Loop(v, v.upper()) for v in inner)),
        Level("R"),
    )
    dimensions = tuple(Dimension(tuple((v, 1) for v in of)) for of in indices)
    nest = Nest("X", "A", levels, (Operand("I", dimensions, ("D", "S")),), ())
    found = {use.memory: (use.reads, use.fills) for use in count(nest, sizes)}
    walked = nest_walk.walk(nest, sizes)
    assert found == {m: (w["reads"], w["fills"]) for (_, _, m), w in walked.items()}


@settings(max_examples=100, deadline=None)
@given(nests())
def test_conservation(drawn):
    """What a memory is filled with was read outside, once for all instances that want the same words."""
    nest, sizes = drawn
    for operand in nest.operands:
        own = [u for u in count(nest, sizes) if u.operand is operand]
        for outer, inner in itertools.pairwise(own):
            moved = math.prod(
                sizes[loop.part]
                for level in nest.levels[_at(nest, outer) : _at(nest, inner)]
                for loop in level.fan_out
                if loop.variable in operand.variables
            )
            if not operand.output:
                assert inner.fills * moved == outer.reads


def _at(nest, use):
    return [level.memory for level in nest.levels].index(use.memory)
