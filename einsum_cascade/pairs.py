"""The `name=value` pairs of a command line, and the values in them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from .errors import DataError


def pairs_of(texts: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """Return the `name=value` pairs of an option, separated by commas or given one by one.

    Raises:
        DataError: a part that is no pair, or a name given twice.

    >>> pairs_of(["batch=4,heads=32", "causal=1"])
    {'batch': '4', 'heads': '32', 'causal': '1'}
    """
    out: dict[str, Any] = {}
    for part in (p.strip() for text in texts for p in text.split(",") if p.strip()):
        name, sign, value = (p.strip() for p in part.partition("="))
        if not sign or not name or not value:
            raise DataError(f"{option}: expected name=value, found '{part}'")
        if name in out:
            raise DataError(f"{option}: '{name}' is given twice")
        out[name] = value
    return out


def literal(text: str) -> Any:
    """Return the value that a text stands for: a number, True, False, None, or else the text itself.

    >>> literal("128"), literal("True"), literal("tf32")
    (128, True, 'tf32')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
