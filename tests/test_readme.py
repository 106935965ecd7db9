"""The README's examples print what the README says, and the files it points at exist."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def test_the_examples_run() -> None:
    result = doctest.testfile(str(README), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def examples() -> list[tuple[str, list[str]]]:
    """Return the commands of one call each that the README shows an output of, and its lines."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(
        r"^```console\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        for part in block.replace("\\\n", " ").split("$ ")[1:]:
            command, *lines = part.splitlines()
            found.append((command.partition("  #")[0], [line for line in lines if line.strip()]))
    return [(c, lines) for c, lines in found if lines and c.startswith(".venv/bin/cascade")]


# What depends on the machine it runs on, by its times or its devices, or runs for long, is shown and not compared.
MACHINE = ("doctor", "demo", "kernels", "sweep", "explore", "validate", "reproduce")
COMPARED = [e for e in examples() if e[0].split()[1] not in MACHINE]


@pytest.mark.parametrize(("command", "lines"), COMPARED, ids=[" ".join(c.split()[1:3]) for c, _ in COMPARED])
def test_a_command_prints_what_is_shown(
    command: str, lines: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    from validation.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    ran = CliRunner().invoke(app, shlex.split(command)[1:])
    assert ran.exit_code == 0, ran.output
    printed = {line.rstrip() for line in ran.output.splitlines()}
    assert [line for line in lines if line.rstrip() not in printed] == []


def test_examples_of_the_three_steps_are_compared() -> None:
    assert {"passes", "bounds", "simulate", "predict", "gna"} <= {c.split()[1] for c, _ in COMPARED}


def test_every_link_and_picture_leads_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_it_names_exists() -> None:
    from validation.cli import app

    known = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    known |= {g.name for g in app.registered_groups}
    shown = set(
        re.findall(r"^\$ \.venv/bin/cascade ([a-z-]+)", README.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert shown
    assert shown <= known


def test_every_command_takes_json() -> None:
    import typer

    from validation.cli import app

    def lacking(group: Any, path: str) -> list[str]:
        if hasattr(group, "commands"):
            return [p for name, c in group.commands.items() for p in lacking(c, f"{path} {name}")]
        return [] if any("--json" in p.opts for p in group.params) else [path]

    assert "Every command takes `--json`" in README.read_text(encoding="utf-8")
    assert lacking(typer.main.get_command(app), "cascade") == []
