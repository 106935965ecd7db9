"""Files that a command will write: whether they can be is told before the work, not after it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import DataError

PICTURES = (".svg", ".png", ".pdf")


def check_writable(path: str | Path, endings: Sequence[str] = ()) -> None:
    """Try whether a file can be written; one that is there is left as it is.

    Args:
        path: the file.
        endings: of its name, one of which it must have; any will do without one.

    Raises:
        DataError: another ending, no such folder, or a place that takes no file.
    """
    target = Path(path)
    if endings and target.suffix not in endings:
        raise DataError(f"{target}: expected a file that ends in {', '.join(endings)}")
    try:
        if not target.parent.is_dir():
            raise DataError(f"cannot write {target}: there is no folder {target.parent}")
        if target.exists() and not (target.is_file() or target.is_dir()):
            return  # a pipe or a device, whose reader would notice that it is opened
        new = not target.exists()
        with target.open("a", encoding="utf-8"):
            pass
        if new:
            # Of a link that leads nowhere yet, the file that it names.
            target.resolve().unlink()
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text to a file.

    Raises:
        DataError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None


def make_folder(folder: Path) -> None:
    """Make a folder, and those around it, where there is none.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror or error}") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write that takes the place of another once it is whole.

    Raises:
        OSError: it cannot take that place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
