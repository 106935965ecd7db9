"""Sweeps of cascades, on spatial chips, on GPUs and on both; every row is what the simulator itself says."""

from __future__ import annotations

import pandas as pd
import pytest
from sweeping import run, swept

import mappings
import simulator as sim
from einsum_cascade import zoo
from einsum_cascade.errors import DataError, ModelError
from einsum_cascade.sizes import parse_sizes
from simulator.spatial.default import default_mapping
from simulator.spatial.model import simulate
from simulator.spatial.request import resolve


def test_a_tile_that_the_user_states_wins_as_in_simulate():
    fixed = {"cascade": "attention_1pass", "hardware": "fusemax", "mapping": "fusemax"}
    table = sim.sweep(sim.Space({"sizes.M0": [64, 128, 256]}), sizes="BERT/4K", **fixed)
    for row in table.to_dict("records"):
        sizes = f"BERT/4K,M0={row['sizes.M0']}"
        asked = resolve("attention_1pass", on="fusemax", mapping="fusemax", sizes=sizes)
        assert (
            row["latency_s"] == simulate(asked.cascade, asked.sizes, asked.hardware, asked.mapping).latency_s
        )
    assert table["latency_s"].nunique() == 3


def test_inputs_that_contradict_or_lack():
    space = sim.Space({"mapping": ["fusemax"]})
    fixed = {"cascade": "attention_1pass", "hardware": "fusemax", "sizes": "BERT/4K"}
    with pytest.raises(DataError, match="'mapping' is both a field and an axis"):
        sim.sweep(space, mapping="fusemax", **fixed)
    with pytest.raises(DataError, match=r"missing field 'mapping'; 'mapping.sizes.P1' is a field of it"):
        sim.sweep(sim.Space({"mapping.sizes.P1": [1, 2]}), **fixed)
    with pytest.raises(DataError, match="missing field 'sizes'"):
        sim.sweep(sim.Space({"hardware.N": [64]}), **{k: v for k, v in fixed.items() if k != "sizes"})
    with pytest.raises(TypeError, match="unexpected keyword argument 'mappings'"):
        sim.sweep(space, mappings="x", **fixed)
    with pytest.raises(DataError, match="cannot be set on an object"):
        sim.sweep(
            sim.Space({"hardware.N": [64]}),
            **{**fixed, "hardware": sim.load_hardware("fusemax")},
            mapping="fusemax",
        )
    with pytest.raises(ModelError, match="GPU"):
        sim.sweep(sim.Space({"sizes.seq": ["4K"]}), **{**fixed, "hardware": "h100"}, mapping="fusemax")


def test_without_a_mapping_one_is_made_for_each_point():
    fixed = {"hardware": "fusemax", "sizes": "BERT/4K,B=1"}
    axes = {
        "cascade": ["attention_1pass", "attention_3pass"],
        "hardware.N": [64, 128],
        "sizes.seq": ["1K", "4K"],
    }
    table = sim.sweep(sim.Space(axes), **fixed)
    for row in table.to_dict("records"):
        settings = [f"hardware.N={row['hardware.N']}"]
        asked = resolve(
            row["cascade"], on="fusemax", mapping="", sizes=f"BERT/{row['sizes.seq']},B=1", settings=settings
        )
        found = simulate(asked.cascade, asked.sizes, asked.hardware, asked.mapping)
        assert row["latency_s"] == found.latency_s


def test_objects_are_taken_as_names_are(tmp_path):
    space = sim.Space({"sizes.seq": ["4K", "16K"]})
    names = {
        "cascade": "attention_1pass",
        "hardware": "fusemax",
        "mapping": "fusemax",
        "sizes": "BERT/4K,B=1",
    }
    table = sim.sweep(space, **names)
    sizes = {"B": 1, "H": 12, "E": 64, "F": 64, "M": 4096, "P": 4096}
    objects = {
        "cascade": zoo.load("attention_1pass"),
        "hardware": sim.load_hardware("fusemax"),
        "mapping": mappings.load("fusemax"),
        "sizes": sizes,
    }
    given = sim.sweep(space, **objects, jobs=2, out=tmp_path)
    pd.testing.assert_frame_equal(given, table, check_exact=True)
    for root in ("cascade", "hardware", "mapping"):
        wrong = {**objects, root: sim.load_hardware("h100")}
        with pytest.raises(DataError, match=rf"{root}: expected .*found Gpu 'h100'"):
            sim.sweep(space, **wrong)
    with pytest.raises(
        DataError, match="axis 'hardware': expected finite numbers or texts, found SpatialChip fusemax"
    ):
        sim.Space({"hardware": [objects["hardware"]]})


def test_a_table_of_sizes_is_taken_as_its_text_is():
    """`parse_sizes` fills in a tile; only one that a user chose wins over the mapping's."""
    flash = zoo.load("attention_1pass")
    fixed = {"cascade": flash, "hardware": "fusemax", "mapping": "fusemax"}
    for text in ("BERT/1K", "BERT/1K,M0=128", "BERT/1K,M1=8"):
        space = sim.Space({"hardware.N": [64, 256], "sizes.B": [1, 2]})
        by_text = sim.sweep(space, **fixed, sizes=text)
        by_table = sim.sweep(space, **fixed, sizes=parse_sizes(text, flash))
        pd.testing.assert_frame_equal(by_table, by_text, check_exact=True)
    space = sim.Space({"sizes.seq": ["1K", "4K"]})
    table = sim.sweep(space, **fixed, sizes=parse_sizes("BERT/1K", flash))
    pd.testing.assert_frame_equal(table, sim.sweep(space, **fixed, sizes="BERT/1K"), check_exact=True)


TEXT = """
cascade: attention_3pass
sizes: BERT/64K
axes:
  hardware: [a100, h100]
  sizes.seq: [1K, 4K]
  implementation: [fused, eager]
minimize: [latency_s]
"""


def test_a_cascade_on_gpus_is_swept_as_it_is_predicted(tmp_path):
    """The same words as on a spatial machine; the machine tells that it is a GPU."""
    (tmp_path / "text.yaml").write_text(TEXT)
    run("sweep", tmp_path / "text.yaml", "--out", tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "table.parquet")
    assert len(table) == 8
    for row in table.to_dict("records"):
        told = sim.predict_cascade(
            zoo.load("attention_3pass"),
            f"BERT/{row['sizes.seq']}",
            on=row["hardware"],
            implementation=row["implementation"],
        )
        assert row["latency_s"] == told.latency_s
        assert row["launches"] == len(told.launches)
        assert row["traffic_bytes"] == sum(each["bytes"] for each in told.launches)


def test_kernels_and_types_of_a_cascade_are_axes_too():
    table = sim.sweep(
        sim.Space({"kernels": ["QK/GM+SN+SD+A/AV", "QK+GM/SN+SD+A/AV"], "dtype": ["bf16", "fp32"]}),
        cascade="attention_3pass",
        hardware="h100",
        sizes="BERT/1K",
    )
    assert set(table["launches"]) == {3}
    assert table["latency_s"].nunique() == 4


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"hardware": "h100", "mapping": "fusemax"}, "h100 is a GPU; expected a spatial chip"),
        ({"hardware": "h100", "sizes": "E=3"}, "F, M, P"),
        ({"hardware": "h100", "implementation": "lazy"}, "eager, fused"),
        ({"hardware": "h100", "dtype": 16}, "dtype: expected a word"),
        ({"hardware": "fusemax", "dtype": "bf16"}, "dtype"),
    ],
)
def test_what_a_cascade_on_a_gpu_does_not_take(inputs, message):
    given = {"cascade": "attention_3pass", "sizes": "BERT/1K", **inputs}
    with pytest.raises((ModelError, TypeError)) as error:
        sim.sweep(sim.Space({"hardware.clock": ["x1", "x2"]}), **given)
    assert message in str(error.value)


def test_a_cascade_on_machines_of_both_kinds(tmp_path):
    text = """
cascade: attention_1pass
sizes: BERT,B=1
axes:
  hardware: [h100, fusemax, b200, edge]
  sizes.seq: [1K, 64K]
minimize: [latency_s]
"""
    table = swept(tmp_path, text)
    assert len(table) == 8
    cascade = zoo.load("attention_1pass")
    for row in table.to_dict("records"):
        sizes = parse_sizes(f"BERT/{row['sizes.seq']},B=1", cascade)
        if row["hardware"] in ("h100", "b200"):
            found = sim.predict_cascade(cascade, sizes, on=row["hardware"])
            assert pd.isna(row["area_mm2"])
        else:
            chip = sim.load_hardware(row["hardware"])
            found = simulate(cascade, sizes, chip, default_mapping(cascade, sizes, chip))
            assert pd.isna(row["high_s"])
        assert row["latency_s"] == found.latency_s
    # A field of one kind alone is told, for no point of the other can have it.
    (tmp_path / "field").mkdir()
    with pytest.raises(AssertionError, match="hardware: fusemax: "):
        swept(tmp_path / "field", text.replace("axes:", "axes:\n  hardware.sms: [66, 132]"))
