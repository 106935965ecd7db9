"""What the suites refuse before they work, and what they say together."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from einsum_cascade.errors import DataError
from validation import compare, suites
from validation.cli import app


@pytest.mark.parametrize(
    ("suite", "options", "said"),
    [
        ("gpus", {}, "did you mean 'gpu'"),
        ("gpu", {"mesured": "a.csv"}, "unknown option 'mesured'; did you mean 'measured'"),
        ("seeds", {"published": "here"}, "unknown option 'published'; there is none"),
        ("gpu", {"measured": "missing.csv"}, "missing.csv: no such file or folder"),
    ],
)
def test_a_mistake_is_told(suite, options, said):
    with pytest.raises(DataError, match=said):
        compare(suite, **options)


def test_all_suites_have_the_fields_of_each_of_them(monkeypatch):
    def suite(name: str, errors: list[float], ok: bool):
        rows = [{"case": f"{name} {e}", "relative_error": e, "ok": ok} for e in errors]
        return lambda: suites.summarise(name, pd.DataFrame(rows))

    monkeypatch.setattr(suites, "SUITES", {"gna": (), "seeds": ()})
    monkeypatch.setattr(
        suites, "_SUITE", {"gna": suite("gna", [0.5, 0.25], True), "seeds": suite("seeds", [2.0], False)}
    )
    ran = CliRunner().invoke(app, ["validate", "all", "--json"])
    assert ran.exit_code == 1  # one of the seeds is out of tolerance
    document = json.loads(ran.stdout)
    assert (document["suite"], document["cells"], document["max_relative_error"]) == ("all", 3, 2.0)
    assert [(c["suite"], c["case"]) for c in document["cases"]] == [
        ("gna", "gna 0.5"),
        ("gna", "gna 0.25"),
        ("seeds", "seeds 2.0"),
    ]
    assert [s["cells"] for s in document["suites"]] == [2, 1]


@pytest.mark.parametrize(
    ("files", "readers"),
    [
        (["pareto.csv"], ["fusemax"]),
        (["counts.json"], ["gna"]),
        (["pareto.csv", "counts.json"], ["fusemax", "gna"]),
    ],
)
def test_of_all_suites_those_read_a_folder_that_find_something_there(tmp_path, monkeypatch, files, readers):
    for file in files:
        (tmp_path / file).touch()
    asked = {}

    def suite(name: str):
        def run(**options):
            asked[name] = options
            return {}

        return run

    monkeypatch.setattr(suites, "_SUITE", {name: suite(name) for name in suites.SUITES})
    suites.run("all", published=tmp_path)
    assert asked.keys() == suites.SUITES.keys()
    assert [name for name, options in asked.items() if options == {"published": tmp_path}] == readers


@pytest.mark.parametrize(("suite", "told_by"), [("all", "fusemax"), ("gna", "gna"), ("fusemax", None)])
def test_a_table_whose_name_is_misspelt_is_told_once(tmp_path, monkeypatch, suite, told_by):
    files = ["pareto.csv", "counts.json", "natten_profile.csv", "letters.csv", "natten_profiler.txt"]
    for file in files:
        (tmp_path / file).touch()
    monkeypatch.setattr(suites, "_SUITE", {name: lambda n=name, **_: {"suite": n} for name in suites.SUITES})
    told = {r["suite"]: r["notes"] for r in suites.run(suite, published=tmp_path) if "notes" in r}
    line = f"{tmp_path / 'natten_profile.csv'}: not read; did you mean natten_profiler.csv?"
    assert told == ({told_by: [line]} if told_by else {})
    (tmp_path / "natten_profiler.csv").touch()
    assert not [r for r in suites.run(suite, published=tmp_path) if "notes" in r]


def test_a_folder_without_a_table_of_any_suite_is_refused(tmp_path):
    with pytest.raises(DataError, match="none of the artifact's files in it"):
        suites.run("all", published=tmp_path)
