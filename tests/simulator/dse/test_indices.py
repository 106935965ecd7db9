"""Sobol indices against closed forms, and what a sweep for them needs."""

from __future__ import annotations

import json
import math
import sys

import pytest
import typer
from typer.testing import CliRunner

from einsum_cascade.errors import DataError, HardwareError
from simulator.dse import cli
from simulator.dse.engine import space_of, sweep
from simulator.dse.indices import sobol_indices
from simulator.dse.space import Range, Space

CUBE = {"x": Range(-math.pi, math.pi), "y": Range(-math.pi, math.pi), "z": Range(-math.pi, math.pi)}


def ishigami(point):
    x, y, z = point["x"], point["y"], point["z"]
    return {"t": math.exp(math.sin(x) + 7 * math.sin(y) ** 2 + 0.1 * z**4 * math.sin(x))}


def indices(space, evaluate):
    return sobol_indices(sweep(space, evaluate=evaluate), space, objectives=["t"]).set_index("axis")


def test_ishigami():
    # First-order indices 0.3139, 0.4424, 0; total ones 0.5576, 0.4424, 0.2437.
    # Source: T. Ishigami, T. Homma (1990); A. Saltelli et al., Global Sensitivity Analysis (2008), p. 179.
    pytest.importorskip("SALib")
    found = indices(Space(CUBE, samples=20_480, design="saltelli", seed=1), ishigami)
    for axis, first, total in (("x", 0.3139, 0.5576), ("y", 0.4424, 0.4424), ("z", 0.0, 0.2437)):
        # The intervals of 95 % are of the estimate itself; twice them is as good as certain.
        assert found.loc[axis, "first"] == pytest.approx(first, abs=2 * found.loc[axis, "first_within"])
        assert found.loc[axis, "total"] == pytest.approx(total, abs=2 * found.loc[axis, "total_within"])
    assert found["total_within"].max() < 0.05
    assert found.index[0] == "x"


def test_points_that_fall_together_are_computed_once():
    # t = a b with logs 0, ln 2 each: the variance is shared evenly, nothing is left to both together.
    pytest.importorskip("SALib")
    space = Space({"a": [1, 2], "b": [1, 2], "c": ["p", "q"]}, samples=5 * 512, design="saltelli")
    assert len(space) == 8
    found = indices(space, lambda point: {"t": point["a"] * point["b"]})
    assert found.loc[["a", "b"], "total"].tolist() == pytest.approx([0.5, 0.5], abs=0.06)
    assert found.loc["c", "total"] == 0.0


def test_what_they_need(monkeypatch):
    pytest.importorskip("SALib")

    def fail(point):
        if point["x"] > 0:
            raise HardwareError("does not fit")
        return {"t": 1.0}

    with pytest.raises(DataError, match=r"Sobol indices need every point; .* have failed"):
        indices(Space(CUBE, samples=80, design="saltelli"), fail)
    with pytest.raises(DataError, match="'t' is the same everywhere"):
        indices(Space(CUBE, samples=80, design="saltelli"), lambda point: {"t": 2.0})
    with pytest.raises(DataError, match="need a sweep with 'design: saltelli'"):
        indices(Space(CUBE, samples=80), ishigami)
    with pytest.raises(DataError, match="3 axes need at least 10 points, found 9"):
        Space(CUBE, samples=9, design="saltelli")
    with pytest.raises(DataError, match="unknown design 'saltely'; did you mean 'saltelli'"):
        Space(CUBE, samples=9, design="saltely")
    monkeypatch.setitem(sys.modules, "SALib", None)
    monkeypatch.setitem(sys.modules, "SALib.sample", None)
    with pytest.raises(
        DataError, match=r"needs SALib; install it: pip install 'einsum-cascade\[sensitivity\]'"
    ):
        Space(CUBE, samples=80, design="saltelli")


def test_by_command(tmp_path):
    pytest.importorskip("SALib")
    (tmp_path / "sweep.yaml").write_text(
        """cascade: attention_1pass
hardware: fusemax
mapping: fusemax
sizes: BERT/64K
axes:
  hardware.N: [64, 128, 256]
  hardware.memories.DRAM.bandwidth: {from: 50, to: 800, log: true, unit: GiB/s}
design: saltelli
samples: 256
minimize: [latency_s]
"""
    )
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.register(app)

    def run(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    run("sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out", "--jobs", "1")
    rows = json.loads(run("sensitivity", tmp_path / "out", "--json"))
    assert [row["axis"] for row in rows] == ["hardware.N", "hardware.memories.DRAM.bandwidth"]
    assert rows[0]["total"] > 0.9
    assert "Sobol indices" in run("sensitivity", tmp_path / "out")


def test_a_space_comes_back_from_its_manifest(tmp_path):
    space = Space(CUBE | {"n": [1, 2]}, where=("n > 1",), derived={"m": "2 * n"}, samples=64, seed=4)
    sweep(space, evaluate=lambda point: {"t": point["x"]}, out=tmp_path)
    again = space_of(json.loads((tmp_path / "manifest.json").read_text()))
    assert list(again) == list(space)
