"""The README's Python examples print what the README says, and the files it points at exist."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def test_the_examples_run() -> None:
    result = doctest.testfile(str(README), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


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
