"""A file that is edited between two calls of one session, as in a notebook, is read again."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner

import einsum_cascade as ec
import simulator as sim
from validation.cli import app

CALL = {"batch": 4, "heads": 32, "seq_q": 8192, "seq_kv": 8192, "head_dim": 128, "causal": True}
BERT = {"cascade": "attention_1pass", "hardware": "fusemax", "mapping": "fusemax", "sizes": "BERT/1K"}
TEXT = {"cascade": "attention_causal", "sizes": "E=64,F=64,P=1K,M=1K,B=4,H=16"}


def shipped(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


CHIP = shipped("simulator", "hardware/library/fusemax.yaml")
GPU = shipped("simulator", "hardware/library/gpu/h100.yaml")
NESTS = shipped("mappings", "library/fusemax.yaml")
# The last two lanes one after the other, where the file has them side by side.
SIDE_BY_SIDE = "    - {PE2D: [SLNV], PE1D: [SPNV]}"
IN_SERIES = "    - {PE2D: [SLNV]}\n    - {PE1D: [SPNV]}"
SMALLER = ("sms: 132", "sms: 66")


def swept(**inputs: str) -> float:
    axis = {"sizes.M": [1024]} if "mapping" not in inputs else {"hardware.N": [128]}
    return float(sim.sweep(sim.Space(axis), **inputs)["latency_s"].iloc[0])


@pytest.mark.parametrize(
    ("name", "text", "change", "asked"),
    [
        ("chip.yaml", CHIP, ("940 MHz", "470 MHz"), lambda f: swept(**{**BERT, "hardware": f})),
        ("map.yaml", NESTS, (SIDE_BY_SIDE, IN_SERIES), lambda f: swept(**{**BERT, "mapping": f})),
        ("gpu.yaml", GPU, SMALLER, lambda f: swept(**TEXT, hardware=f)),
        ("gpu.yaml", GPU, SMALLER, lambda f: sim.predict("flash_attention", on=f, **CALL).latency_s),
        (
            "mine.cascade",
            ec.render(ec.zoo.load("attention_causal")),
            ("where m <= p", "where 0 <= 0"),
            lambda f: swept(**{**TEXT, "cascade": f}, hardware="h100"),
        ),
    ],
    ids=["chip", "mapping", "gpu", "predict", "cascade"],
)  # fmt: skip
def test_an_edited_file_is_read_again(tmp_path: Path, name, text, change, asked) -> None:
    path = tmp_path / name
    path.write_text(text)
    before = asked(str(path))
    assert asked(str(path)) == before
    edit(path, text, change)
    # Each change leaves the machine less or gives it more to do.
    assert asked(str(path)) > before * 1.1


def edit(path: Path, text: str, change: tuple[str, str]) -> None:
    assert change[0] in text
    path.write_text(text.replace(*change))
    later = path.stat().st_mtime_ns + 10**9  # clocks of file systems may tick in seconds
    os.utime(path, ns=(later, later))


def test_a_folder_keeps_no_rows_of_a_file_as_it_was(tmp_path: Path) -> None:
    chip, out = tmp_path / "chip.yaml", tmp_path / "out"
    chip.write_text(CHIP)
    inputs = {**BERT, "hardware": str(chip)}
    space = sim.Space({"hardware.N": [64, 128]})
    sim.sweep(space, **inputs, out=out)
    edit(chip, CHIP, ("940 MHz", "470 MHz"))
    again = sim.sweep(space, **inputs, out=out)
    fresh = sim.sweep(space, **{**BERT, "hardware": "fusemax"})
    # At half the clock everything but DRAM takes twice the cycles' time, and the arrays bind here.
    assert again["latency_s"].tolist() == pytest.approx([2 * s for s in fresh["latency_s"]], rel=0.05)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("axes", None, "axes: expected a table, found None"),
        ("axes", {"hardware.N": 5}, "axes: hardware.N: expected a list or a range, found 5"),
        ("derived", -1, "derived: expected a table, found -1"),
        ("inputs", [], "inputs: expected a table, found []"),
        ("maximize", None, "maximize: expected a list, found None"),
        ("where", {}, "where: expected a list, found {}"),
    ],
)
@pytest.mark.parametrize("command", ["pareto", "sensitivity", "explore", "sweep"])
def test_a_manifest_that_was_damaged_by_hand(
    tmp_path: Path, command: str, field: str, value, said: str
) -> None:
    out = tmp_path / "out"
    sim.sweep(sim.Space({"hardware.N": [64, 128]}), **BERT, out=out)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, field: value}))
    spec = tmp_path / "spec.yaml"
    spec.write_text("".join(f"{k}: {v}\n" for k, v in BERT.items()) + "axes: {hardware.N: [64, 128]}\n")
    args = ["sweep", str(spec), "--out", str(out)] if command == "sweep" else [command, str(out)]
    ran = CliRunner().invoke(app, args)
    assert ran.exit_code == 2
    assert ran.stderr.strip().splitlines()[-1] == f"{out / 'manifest.json'}: {said}"
