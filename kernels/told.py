"""What a stranger's file raised, told in one line: the file is not ours, and its mistakes are no traceback of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from einsum_cascade.errors import KernelError, ModelError, raised_at

# Of a message: a compiler's may be pages long.
MOST_LETTERS = 500


def told(path: Path, error: BaseException) -> str:
    """Return in one line what a file raised while it was executed, and at which of its lines."""
    root, place = error, raised_at(path, error)
    while root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, SystemExit):
        return f"{place}: it ends the program while it is loaded (exit {root.code})"
    return f"{place}: {type(root).__name__}: {' '.join(str(root).split())[:MOST_LETTERS]}"


@contextmanager
def executed(path: Path) -> Iterator[None]:
    """Execute what stands in a file inside the block; whatever it raises is its mistake, in one line.

    Raises:
        KernelError: it raised something; what this package raises goes on as it is.
    """
    try:
        yield
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # A file of somebody's may raise what it likes.
        raise KernelError(told(path, error)) from error
