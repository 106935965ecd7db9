"""Ctrl-C at any moment: while the command loads, while it runs, and where the shell said to ignore it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

# Each interrupts itself, so that the moment is the same on every machine.
LOADING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["cascade", "gna", "--layout", "64", "--window", "8", "--q-tile", "8", "--kv-tile", "8"]
from validation.entrance import main
main()
"""


def run(code: str, *, ignoring: bool = False) -> subprocess.CompletedProcess[str]:
    def before() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignoring else signal.SIG_DFL)

    # A test runner in the background may itself ignore interrupts, which children inherit.
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=before)


@pytest.mark.parametrize("module", ["validation.cli", "typer", "einsum_cascade.terminal"])
def test_an_interrupt_while_the_command_loads_ends_it_without_a_word(module: str) -> None:
    found = run(LOADING.format(module=module))
    assert (found.returncode, found.stdout, found.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("module", ["simulator.gpu.gna", "numpy"])
def test_an_interrupt_while_it_runs_ends_it_with_130(module: str) -> None:
    found = run(LOADING.format(module=module))
    assert (found.returncode, found.stdout) == (130, "")
    assert "Traceback" not in found.stderr


def test_an_interrupt_before_the_command_is_parsed_ends_it_with_130() -> None:
    code = "import validation.cli\ndef stop():\n    raise KeyboardInterrupt\nvalidation.cli.main = stop\n"
    found = run(f"{code}from validation.entrance import main\nmain()\n")
    assert (found.returncode, found.stderr) == (130, "")


def test_who_was_told_to_ignore_interrupts_goes_on() -> None:
    found = run(LOADING.format(module="validation.cli"), ignoring=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert "tile bound" in found.stdout


def test_a_library_changes_no_handler() -> None:
    code = "import signal\nbefore = signal.getsignal(2)\nimport validation.entrance, validation.cli\n"
    assert run(f"{code}assert signal.getsignal(2) is before\n").returncode == 0


def test_the_installed_command_begins_here() -> None:
    import tomllib
    from pathlib import Path

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["scripts"] == {"cascade": "validation.entrance:main"}
    # `python -m validation` is the same.
    found = subprocess.run(
        [sys.executable, "-m", "validation", "gna", "--layout", "8,8,8,8", "--window", "8"],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert found.returncode == 2
