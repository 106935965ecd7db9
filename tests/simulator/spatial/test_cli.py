"""cascade simulate and cascade map: JSON, exit codes, one line for a mistake."""

from __future__ import annotations

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from simulator.spatial.cli import register

APP = typer.Typer()
register(APP)
BASE = ["simulate", "attention_1pass", "--on", "fusemax", "--mapping", "fusemax", "--sizes", "BERT/4K"]


def call(*arguments):
    return CliRunner().invoke(APP, list(arguments))


def test_json_holds_what_the_contract_names():
    found = call(*BASE, "--json")
    assert found.exit_code == 0
    fields = json.loads(found.stdout)
    wanted = {
        "latency_s",
        "energy_j",
        "traffic_bytes",
        "area_mm2",
        "utilization",
        "bound_by",
        "einsums",
        "memories",
    }
    assert wanted | {"assumptions"} <= set(fields)
    assert fields["latency_s"] == pytest.approx((128 + 10 + 4) * 64 * 12 * 16**2 / 940e6, rel=1e-12)


def test_settings():
    plain, wide = (
        json.loads(call(*BASE, "--json", *more).stdout) for more in ((), ("--set", "hardware.N=128"))
    )
    assert wide["latency_s"] > plain["latency_s"]
    one = json.loads(call(*BASE, "--json", "--set", "sizes.B=1", "--set", "mapping.P1=2").stdout)
    assert one["latency_s"] == pytest.approx(plain["latency_s"] / 64, rel=1e-12)
    assert one["tiles"]["P1"] == 2
    assert json.loads(call(*BASE[:-1], "BERT/4K,M0=128", "--json").stdout)["tiles"]["M0"] == 128
    longer = json.loads(call(*BASE[:-1], "BERT/1K", "--json", "--set", "sizes.seq=4K").stdout)
    assert longer["latency_s"] == plain["latency_s"]
    for parts in ("M1=32", "M0=128,M1=32"):  # either part of a split settles the other
        assert json.loads(call(*BASE[:-1], f"BERT/4K,{parts}", "--json").stdout)["tiles"]["M0"] == 128


def test_table_and_picture(tmp_path):
    path = tmp_path / "w.svg"
    found = call(*BASE, "--plot", str(path))
    assert found.exit_code == 0 and "bound by" in found.stdout
    assert path.read_text().startswith("<?xml")


def test_without_a_mapping():
    found = call("simulate", "linear_chunked", "--on", "edge", "--sizes", "E=64,F=64,T=1024", "--json")
    assert json.loads(found.stdout)["mapping"] == "automatic"


@pytest.mark.parametrize(
    ("name", "chip", "sizes", "recomputes"),
    [
        ("attention_2pass", "flat", "E=64,F=64,P=512,M=512", False),
        ("attention_3pass", "fusemax", "BERT/64K", True),
    ],
)
def test_map_writes_a_file(tmp_path, name, chip, sizes, recomputes):
    path = tmp_path / "m.yaml"
    found = call("map", name, "--on", chip, "--sizes", sizes, "--out", str(path), "--json")
    fields = json.loads(found.stdout)
    assert {"mapping", "estimate", "gap", "evaluated", "seconds"} == set(fields)
    assert bool(fields["mapping"]["nest"].get("recompute")) == recomputes
    again = call("simulate", name, "--on", chip, "--mapping", str(path), "--sizes", sizes, "--json")
    assert json.loads(again.stdout)["latency_s"] == fields["estimate"]["latency_s"]


MAP = ["map", "attention_1pass", "--on", "fusemax", "--sizes", "BERT/4K", "--json"]


def test_slack_is_what_may_be_given_up():
    fastest, given = (json.loads(call(*MAP, "--slack", s).stdout)["estimate"] for s in ("0", "0.05"))
    assert fastest["latency_s"] <= given["latency_s"] <= 1.05 * fastest["latency_s"]
    assert given["energy_j"] < fastest["energy_j"]


def test_effort_is_what_is_looked_at():
    # Fifteen Einsums may be cut into phases in more ways than a short search looks at.
    sizes = ["map", "ninformer", "--on", "fusemax", "--sizes", "N=1024,D=64,R=64,T=64"]
    short, long = (json.loads(call(*sizes, "--effort", e, "--json").stdout) for e in ("1", "160"))
    assert short["evaluated"] < long["evaluated"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--effort", "0"], "effort: expected a whole number of at least 1, found 0"),
        (["--slack", "-0.1"], "slack: expected a share of the latency such as 0.01, at least 0, found -0.1"),
        (["--slack", "nan"], "slack: .* found nan"),
        (["--slack", "inf"], "slack: .* found inf"),
        (["--objective", "latency"], "did you mean 'latency_s'"),
        (["--set", "mapping.P1=2"], "the mapping is what is searched"),
    ],
)
def test_mistakes_of_a_search(change, message):
    found = call(*MAP, *change)
    assert found.exit_code == 2
    assert re.search(message, json.loads(found.stdout)["error"])
    assert re.search(message, found.stderr) and len(found.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--on", "fusemx"], "did you mean 'fusemax'"),
        (["--on", "h100"], "h100 is a GPU; expected a spatial chip"),
        (["--mapping", "fusemx"], "did you mean 'fusemax'"),
        (["--mapping", "gpu/flash_attention_2"], "of a GPU kernel|unknown mapping"),
        (["--sizes", "E=64"], "needs the size of"),
        (["--sizes", "BERT/64X"], "expected a whole number"),
        (["--set", "N=128"], "expected hardware., mapping. or sizes."),
        (["--set", "hardware.N"], "expected FIELD=VALUE"),
        (["--set", "hardware.L3=16"], "write the unit: '16 MiB'"),
        (["--set", "hardware.L3=4 KiB"], "no tile fits GlobalBuffer"),
        (
            ["--set", "hardware.memories.DRAM.kind=hbm9"],
            "fusemax: memories.DRAM: unknown kind of dram 'hbm9'",
        ),
        (
            ["--set", "hardware.memories.RF1D.component=foo"],
            "fusemax: memories.RF1D: unknown component 'foo'",
        ),
        (["--set", "hardware.node_nm=3"], "fusemax: arrays.PE2D: mac: no energy at 3 nm"),
        (["--set", "mapping.keep.RF2D=QK"], "keep: RF2D: expected 'all', a list of tensors, .* found 'QK'"),
        (["--set", "mapping.M0=step(M)"], "sizes.M0: 'step' takes 2 value"),
        (["--set", "mapping.M0=2 * PE2D"], "sizes.M0: '2 . PE2D' cannot be computed"),
        (["--plot", "picture.txt"], "ends in .svg"),
    ],
)
def test_mistakes(change, message):
    arguments = [*BASE]
    if change[0] in arguments:
        arguments[arguments.index(change[0]) + 1] = change[1]
    else:
        arguments += change
    found = call(*arguments)
    assert found.exit_code == 2
    assert re.search(message, found.stderr)
    assert len(found.stderr.strip().splitlines()) <= 2 and "Traceback" not in found.stderr
