"""Caches of what follows from large objects: by which object it is, not by what it says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Found = TypeVar("Found")


class Same(Generic[Found]):
    """Makes an object the key of a cache by its identity; the cache keeps it alive, so the identity stays its own."""

    __slots__ = ("it",)

    def __init__(self, it: Found) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.it is other.it


def remembered(maxsize: int) -> Callable[[Callable[..., Found]], Callable[..., Found]]:
    """Return a decorator that remembers results by the identity of the arguments, which must be immutable.

    Hashing a chip or a mapping takes longer than what is to be remembered about it.

    >>> @remembered(maxsize=8)
    ... def length(items):
    ...     return len(items)
    >>> length((1, 2))
    2
    """

    def decorate(function: Callable[..., Found]) -> Callable[..., Found]:
        # The arguments are kept beside the result, so that nothing else takes their identity meanwhile.
        kept: dict[tuple[int, ...], tuple[tuple[Any, ...], Found]] = {}

        @functools.wraps(function)
        def asked(*arguments: Any) -> Found:
            key = tuple(map(id, arguments))
            found = kept.get(key)
            if found is None:
                found = (arguments, function(*arguments))
                if len(kept) >= maxsize:
                    kept.pop(next(iter(kept)), None)
                kept[key] = found
            return found[1]

        return asked

    return decorate
