"""The examples of the README and of each package's page print what they say, and what they point at exists."""

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
PAGES = (README, *sorted(ROOT.glob("*/README.md")))
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
# Lines of an output that are left out.
LEFT_OUT = "..."


def test_each_part_has_its_page() -> None:
    assert {
        "README.md",
        "einsum_cascade/README.md",
        "simulator/README.md",
        "kernels/README.md",
    } <= TEXTS.keys()


@pytest.mark.parametrize("page", [name for name, text in TEXTS.items() if ">>> " in text])
def test_the_examples_run(page: str) -> None:
    result = doctest.testfile(str(ROOT / page), module_relative=False)
    assert result.attempted > 3
    assert result.failed == 0


def examples() -> list[tuple[str, list[str]]]:
    """Return the commands of one call each that the pages show an output of, and its lines; a command once."""
    found: dict[str, dict[str, None]] = {}
    for text in TEXTS.values():
        for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for part in block.replace("\\\n", " ").split("$ ")[1:]:
                command, *lines = part.splitlines()
                shown = (line for line in lines if line.strip() and line.strip() != LEFT_OUT)
                found.setdefault(command.partition("  #")[0], {}).update(dict.fromkeys(shown))
    return [(c, [*lines]) for c, lines in found.items() if lines and c.startswith(".venv/bin/cascade")]


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


def heads(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_and_picture_leads_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXTS[page]) if "://" not in link]
    lost = []
    for path, _, anchor in (link.partition("#") for link in links):
        place = (ROOT / page).parent / path if path else ROOT / page
        if not place.exists() or (anchor and anchor not in heads(place.read_text(encoding="utf-8"))):
            lost.append(f"{path}#{anchor}")
    assert links or page != "README.md"
    assert lost == []


def test_every_command_it_names_exists() -> None:
    from validation.cli import app

    known = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    known |= {g.name for g in app.registered_groups}
    shown = set(re.findall(r"^\$ \.venv/bin/cascade ([a-z-]+)", "\n".join(TEXTS.values()), re.MULTILINE))
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
