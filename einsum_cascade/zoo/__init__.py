"""The zoo: one `.cascade` file an operator."""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING

from ..errors import CascadeError, nearest

if TYPE_CHECKING:
    from ..cascade import Cascade


@functools.cache
def names() -> tuple[str, ...]:
    """Return the names of all zoo entries, sorted."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(f.name.removesuffix(".cascade") for f in files if f.name.endswith(".cascade")))


def text(name: str) -> str:
    """Return the text of a zoo entry.

    Raises:
        CascadeError: no such entry; the nearest name is suggested.
    """
    if name not in names():
        raise CascadeError(f"the zoo has no '{name}'", hint=nearest(name, names()))
    return resources.files(__package__).joinpath(f"{name}.cascade").read_text(encoding="utf-8")


@functools.cache
def load(name: str) -> Cascade:
    """Return a zoo entry.

    Raises:
        CascadeError: no such entry; the nearest name is suggested.

    >>> load("attention_1pass").splits
    {'M': ('M1', 'M0')}
    """
    from ..parser import parse

    return parse(text(name), file=f"{name}.cascade")


def find(name: str) -> Cascade:
    """Return a zoo entry, or the cascade in a file when the name is a path (ends in .cascade, or has a slash).

    Raises:
        CascadeError: no such entry (the nearest name is suggested), or a file that is not a legal cascade.
    """
    from ..parser import load as load_file

    return load_file(name) if name.endswith(".cascade") or "/" in name or "\\" in name else load(name)


def sizes(model: str, length: int | str) -> dict[str, int]:
    """Return the sizes of a model of the workload table at a length."""
    from ..sizes import model_sizes

    return model_sizes(f"{model}/{length}")
