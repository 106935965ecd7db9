"""Files that a command will write: whether they can be is told before the work, not after it."""

from __future__ import annotations

from collections.abc import Sequence
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
