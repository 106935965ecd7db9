"""Whether a file can be written is found out without leaving a trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from einsum_cascade.errors import DataError
from einsum_cascade.outputs import PICTURES, check_writable


def test_nothing_is_left_and_nothing_is_changed(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("kept")
    check_writable(new)
    check_writable(old)
    assert not new.exists()
    assert old.read_text() == "kept"


def test_a_link_that_leads_nowhere_yet_stays(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    check_writable(link)
    assert link.is_symlink() and not link.exists()


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)
    check_writable("/dev/null")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none/x.svg", "there is no folder"),
        ("x.txt", "expected a file that ends in .svg, .png, .pdf"),
        ("x" * 300 + ".svg", "File name too long"),
    ],
)
def test_what_cannot_be_written_is_told(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        check_writable(tmp_path / name, PICTURES)
    assert not list(tmp_path.iterdir())
