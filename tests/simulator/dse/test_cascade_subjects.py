"""Sweeps of cascades, on spatial chips, on GPUs and on both; every row is what the simulator itself says."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from sweeping import run, swept

import mappings
import simulator as sim
from einsum_cascade import zoo
from einsum_cascade.errors import DataError, ModelError
from einsum_cascade.sizes import parse_sizes
from simulator.dse.subjects import SEARCHED
from simulator.spatial import default as default_module
from simulator.spatial.default import default_mapping
from simulator.spatial.mapper import OBJECTIVES, find_mapping
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
    for root, made in (
        ("hardware", replace(sim.load_hardware("fusemax"), clock_hz=1e9)),
        ("mapping", replace(mappings.load("fusemax"), name="mine")),
    ):
        with pytest.raises(
            DataError, match=rf"'{root}.N' cannot be set on an object that was made or changed"
        ):
            given = {**fixed, "mapping": "fusemax", root: made}
            sim.sweep(sim.Space({f"{root}.N": [64]}), **given)
    with pytest.raises(DataError, match="objective: with a mapping nothing is searched"):
        sim.sweep(sim.Space({"hardware.N": [64]}), **fixed, mapping="fusemax", objective="energy_j")
    with pytest.raises(ModelError, match="GPU"):
        sim.sweep(sim.Space({"sizes.seq": ["4K"]}), **{**fixed, "hardware": "h100"}, mapping="fusemax")


def test_fields_of_objects_that_were_read_are_axes_as_those_of_their_files():
    """Changes go on top of those with which an object was read, factors of what it says then."""
    axes = {
        "hardware.N": [128, "x2"],
        "hardware.memories.DRAM.bandwidth": ["x0.5", "0.8 GiB/s"],
        "mapping.P1": [2, 4],
    }
    chip = sim.load_hardware("fusemax", {"memories.DRAM.bandwidth": "1 GiB/s"}, N=32)
    laid = mappings.load("fusemax", {"M0": 32})
    cascade, sizes = zoo.load("attention_1pass"), "E=64,F=64,P=1K,M=1K,B=1,H=1"
    table = sim.sweep(sim.Space(axes), cascade=cascade, hardware=chip, mapping=laid, sizes=sizes)
    for row in table.to_dict("records"):
        wide = {"x2": 64}.get(row["hardware.N"], 128)
        bandwidth = {"x0.5": "0.5 GiB/s"}.get(given := row["hardware.memories.DRAM.bandwidth"], given)
        found = simulate(
            cascade,
            parse_sizes(sizes, cascade),
            sim.load_hardware("fusemax", {"memories.DRAM.bandwidth": bandwidth}, N=wide),
            mappings.load("fusemax", {"M0": 32, "P1": row["mapping.P1"]}),
        )
        assert row["latency_s"] == found.latency_s
        assert row["energy_j"] == found.energy_j
    assert table["latency_s"].nunique() > 2


@pytest.mark.parametrize(
    ("minimize", "objective"),
    [
        (["energy_j", "latency_s"], "energy_j"),
        (["area_mm2", "latency_s * energy_j"], "latency_s * energy_j"),
        (["area_mm2"], "latency_s"),
        ([], "latency_s"),
    ],
)
def test_a_mapping_is_searched_for_what_the_sweep_minimizes(minimize, objective):
    cascade, sizes = zoo.load("attention_3pass"), "E=64,F=64,P=512,M=512"
    axes = {"hardware.N": [16, 32]}
    given = {"cascade": cascade, "hardware": "edge", "sizes": sizes}
    table = sim.sweep(sim.Space(axes), **given, objectives={"minimize": minimize})
    for row in table.to_dict("records"):
        chip = sim.load_hardware("edge", N=row["hardware.N"])
        found = find_mapping(cascade, sizes, chip, objective=objective).estimate
        assert (row["latency_s"], row["energy_j"]) == (found.latency_s, found.energy_j)
    named = sim.sweep(sim.Space({**axes, "objective": [objective]}), **given)
    assert named["energy_j"].tolist() == table["energy_j"].tolist()


def test_what_a_sweep_knows_to_search_for_is_what_the_search_knows():
    assert SEARCHED == OBJECTIVES


def test_each_point_is_searched_once(monkeypatch):
    """What reads the inputs and the columns of the table beforehand asks for some of the same points."""
    searched = []

    def counted(*given, **words):
        searched.append(given)
        return find_mapping(*given, **words)

    monkeypatch.setattr(default_module, "find_mapping", counted)
    axes = {"hardware.N": [8, 16], "hardware.memories.DRAM.bandwidth": ["1 GiB/s", "2 GiB/s"]}
    given = {"cascade": "gemm", "hardware": "edge", "sizes": "M=48,N=48,K=80"}
    sim.sweep(sim.Space(axes), **given, objectives={"minimize": ["latency_s"]})
    assert len(searched) == 4


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
