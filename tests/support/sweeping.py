"""Sweep files run as commands, for tests of what may be swept."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import typer
from typer.testing import CliRunner

from simulator.dse import cli


def command(*arguments: str | Path):
    """Return what a command came to, whatever its exit code."""
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.register(app)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def run(*arguments: str | Path):
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    return result


def swept(folder: Path, text: str) -> pd.DataFrame:
    (folder / "spec.yaml").write_text(text)
    run("sweep", folder / "spec.yaml", "--out", folder / "out", "--jobs", "1")
    return pd.read_parquet(folder / "out" / "table.parquet")


def refused(folder: Path, text: str) -> str:
    """Return the one message with which a sweep file is refused."""
    (folder / "spec.yaml").write_text(text)
    result = command("sweep", folder / "spec.yaml", "--out", folder / "out")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr
