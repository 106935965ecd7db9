"""The bench as a user meets it: a help, and parts by name."""

from __future__ import annotations

import importlib

import pytest

bench = importlib.import_module("validation.bench.__main__")


def test_help_measures_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "start_of_the_command", lambda: pytest.fail("measured"))
    with pytest.raises(SystemExit) as end:
        bench.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("start", *bench.ROOMS))


def test_only_the_named_parts_are_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"what": "cascade --help", "value": 0.2, "unit": "s", "target": "< 0.3 s"}
    monkeypatch.setattr(bench, "start_of_the_command", lambda: row)
    bench.main(["start", "start"])
    out, err = capsys.readouterr()
    assert out.count("cascade --help") == 1
    assert err.count("measuring") == 1
    assert bench.parts([]) == ("start", *bench.ROOMS)
    assert bench.parts(["gpu", "dse"]) == ("gpu", "dse")


def test_a_part_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        bench.main(["gpus"])
    assert end.value.code == 2
    assert "did you mean 'gpu'" in capsys.readouterr().err
