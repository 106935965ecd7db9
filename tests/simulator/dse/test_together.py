"""Points evaluated together are those evaluated one by one, errors included, whichever points are beside them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappings
import simulator as sim
from einsum_cascade import zoo
from einsum_cascade.errors import ModelError
from simulator.dse.batch import flat
from simulator.dse.points import attention, together

FIXED = {"cascade": "attention_1pass", "hardware": "fusemax", "mapping": "fusemax", "sizes": "BERT/4K"}
# Some of these values cannot be read, do not divide, or do not fit: such points have to say so one by one.
VALUES = {
    "hardware": ["fusemax", "flat", "edge"],
    "hardware.N": [64, 96, 256, "0"],
    "hardware.L3": ["64 KiB", "3 MiB", "16 MiB", "1 parsec"],
    "hardware.memories.DRAM.bandwidth": ["7 GiB/s", "400 GiB/s", "inf"],
    "hardware.clock": ["100 MHz", "940 MHz"],
    "hardware.word": ["1 B", "2 B"],
    "hardware.static_power": ["0 W", "3 W"],
    "hardware.arrays.PE2D.pipelined": [True, False],
    "cascade": ["attention_1pass", "attention_3pass"],
    "mapping": ["fusemax", "fusemax_stalled", "flat", "nowhere"],
    "mapping.sizes.P1": [1, 4, "fit(GlobalBuffer)", "search(GlobalBuffer)"],
    "sizes.seq": ["1K", "6144", "64K", "1M", 1.5],
    "sizes.M0": [32, "64", 7],
    "sizes.B": [1, 3, 3.0],
    "sizes.model": ["BERT", "XLM"],
    "sizes.E": [48, 64],
}


@st.composite
def batches(draw):
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=5, unique=True))
    count = draw(st.integers(1, 24))
    columns = {n: [draw(st.sampled_from(VALUES[n])) for _ in range(count)] for n in names}
    return columns, {name: value for name, value in FIXED.items() if name not in names}


def one_by_one(columns, inputs):
    out = []
    for values in zip(*columns.values(), strict=True):
        try:
            out.append(dict(flat(attention.evaluate(dict(zip(columns, values, strict=True)), inputs=inputs))))
        except ModelError as error:
            out.append({"error": str(error)})
    return out


def as_rows(found):
    rows = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


@settings(max_examples=30, deadline=None)
@given(batches())
def test_together_is_one_by_one(batch):
    columns, inputs = batch
    # No tolerance: tiles divide these lengths, whole numbers below 2^53 are exact in doubles, and the operations are
    # the same in the same order.
    assert as_rows(together.evaluate_many(columns, inputs=inputs)) == one_by_one(columns, inputs)


# Tiles of 256 or 96 elements divide few of these lengths; then a mean of tiles is a fraction.
UNEVEN = {
    "sizes.seq": [577, 1000, 1731, 4096, 5000, 999_983],
    "sizes.B": [1, 3, 7],
    "hardware.N": [64, 96, 256],
    "hardware.clock": ["333 MHz", "1 GHz"],
    "hardware.memories.DRAM.bandwidth": ["7 GiB/s", "1 TB/s"],
}


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(
        [("attention_1pass", "fusemax"), ("attention_3pass", "flat"), ("attention_3pass", "unfused")]
    ),
    st.data(),
)
def test_the_points_beside_it_do_not_change_a_point(kind, data):
    cascade, mapping = kind
    inputs = {"cascade": cascade, "mapping": mapping, "hardware": "flat", "sizes": "BERT/4K"}
    names = data.draw(st.lists(st.sampled_from(sorted(UNEVEN)), min_size=1, max_size=4, unique=True))
    count = data.draw(st.integers(1, 8))
    columns = {n: [data.draw(st.sampled_from(UNEVEN[n])) for _ in range(count)] for n in names}
    whole = as_rows(together.evaluate_many(columns, inputs=inputs))
    # No tolerance: equal designs have to stay equal on a front, and a sweep that goes on gives the same table.
    parts = [
        {n: [v] for n, v in zip(columns, values, strict=True)}
        for values in zip(*columns.values(), strict=True)
    ]
    assert [as_rows(together.evaluate_many(part, inputs=inputs))[0] for part in parts] == whole
    # Nor here: means of tiles are fractions in one and doubles in the other, but what they multiply to is whole.
    assert one_by_one(columns, inputs) == whole


def test_equal_designs_stay_together_on_a_front_where_tiles_are_uneven():
    # Bound by the arrays at every bandwidth, so that all four designs are equal.
    axes = {
        "hardware.memories.DRAM.bandwidth": ["2 TB/s", "4 TB/s", "8 TB/s", "16 TB/s"],
        "sizes.seq": [577, 1000],
    }
    inputs = {"cascade": "attention_3pass", "hardware": "flat", "mapping": "flat", "sizes": "BERT/577,B=1"}
    table = sim.sweep(sim.Space({name: axes[name] for name in reversed(axes)}), **inputs)
    assert len(sim.pareto(table, minimize=["latency_s", "energy_j"], by="sizes.seq")) == 8


def grid(axes):
    space = sim.Space(axes)
    return space.columns(range(len(space)))


def test_a_grid_goes_through_the_simulator_once(monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return sim.simulate(*arguments)

    columns = grid(
        {
            "hardware.N": [64, 128, 256],
            "hardware.L3": ["2 MiB", "16 MiB"],
            "hardware.memories.DRAM.bandwidth": ["20 GiB/s", "400 GiB/s"],
            "sizes.seq": ["4K", "64K", "1M"],
        }
    )
    wanted = one_by_one(columns, FIXED)
    monkeypatch.setattr(together, "simulate", counted)
    assert as_rows(together.evaluate_many(columns, inputs=FIXED)) == wanted
    assert len(calls) == 1
    assert len({row["bound_by"] for row in wanted}) > 1


def test_objects_too():
    objects = {
        "cascade": zoo.load("attention_1pass"),
        "hardware": sim.load_hardware("fusemax"),
        "mapping": mappings.load("fusemax"),
        "sizes": "BERT/4K",
    }
    columns = grid({"sizes.seq": ["1K", "4K", "16K", "64K"], "sizes.B": [1, 2]})
    assert as_rows(together.evaluate_many(columns, inputs=objects)) == one_by_one(columns, FIXED)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_over_chips_of_different_structure_is_the_same_table(jobs):
    axes = {"hardware": ["fusemax", "edge"], "sizes.seq": ["1K", "4K", "64K"], "sizes.B": [1, 2, 3]}
    inputs = {name: value for name, value in FIXED.items() if name not in axes}
    table = sim.sweep(sim.Space(axes), jobs=jobs, **inputs)
    for row, wanted in zip(table.to_dict("records"), one_by_one(grid(axes), inputs), strict=True):
        assert {name: row[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    "bandwidth", ["7 GiB/s", "inf", "1 GB/s", "N", "-3 GiB/s", "3 GHz", "200", 200, "0 B/s"]
)
@pytest.mark.parametrize("memory", ["DRAM", "GlobalBuffer", "Nowhere"])
def test_a_chip_with_a_bandwidth_is_the_one_that_the_reader_makes(memory, bandwidth):
    changes = {"N": 128, f"memories.{memory}.bandwidth": bandwidth}
    point = {f"hardware.{name}": value for name, value in changes.items()}
    try:
        wanted = sim.load_hardware("fusemax", changes)
    except ModelError as error:
        with pytest.raises(type(error)) as found:
            attention.chip_of(point, inputs=FIXED)
        assert str(found.value) == str(error)
    else:
        assert attention.chip_of(point, inputs=FIXED) == wanted
