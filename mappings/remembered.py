"""Results remembered by the names that they were read by, and read again when a file among those names has changed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_FILES = (".yaml", ".yml", ".cascade")


def by_file(maxsize: int | None) -> Callable[[F], F]:
    """Return a decorator that remembers results by arguments, and by what a file named among them is now.

    In a notebook a file is edited between two calls, and the workers of a cluster outlive a sweep: remembered by its
    path alone, the old file would be answered for the new one.

    Args:
        maxsize: results kept; None for all.

    >>> lengths = by_file(8)(len)
    >>> lengths("fusemax"), lengths("mine.yaml")
    (7, 9)
    """

    def decorate(read: F) -> F:
        @functools.lru_cache(maxsize=maxsize)
        def kept(_state: tuple[object, ...], *given: Any) -> Any:
            return read(*given)

        @functools.wraps(read)
        def remembering(*given: Any) -> Any:
            return kept(tuple(_state_of(a) for a in given if isinstance(a, str)), *given)

        return remembering  # type: ignore[return-value]

    return decorate


def _state_of(name: str) -> tuple[int, int] | None:
    """Return when a file was changed (ns) and its size in bytes; None for what names none."""
    if not (name.endswith(_FILES) or os.sep in name):
        return None
    try:
        found = os.stat(name)  # noqa: PTH116 (a sweep asks at every point, and a Path takes thrice as long)
    except (OSError, ValueError):
        return None  # who reads it says what is wrong
    return found.st_mtime_ns, found.st_size
