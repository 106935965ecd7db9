"""Whether a sweep goes on in a folder: the same one, or the same with points added; never another in its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from einsum_cascade.errors import DataError

from .store import canonical


def check_same_sweep(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a sweep that would replace the table of another.

    A sweep goes on where inputs and axes are the same, and every point of before is still one of now: an axis may
    have more values, a constraint may be gone, more samples may be drawn. Another version of the model or another
    content of an input file is no other sweep: its points are computed again.

    Args:
        folder: holds the manifest `before`.
        before: the manifest that the folder holds; empty where it holds none.
        now: the manifest of the sweep that is to run.

    Raises:
        DataError: with what differs.

    >>> check_same_sweep(Path("out"), {"axes": {"N": [1, 2]}}, {"axes": {"N": [1, 2, 4]}})
    >>> check_same_sweep(Path("out"), {"axes": {"N": [1, 2]}}, {"axes": {"N": [2]}})
    Traceback (most recent call last):
    einsum_cascade.errors.DataError: out: this folder holds another sweep: axes.N was [1,2], is [2]; choose another \
folder, or delete this one
    """
    reason = _difference(before, now) if before else ""
    if reason:
        raise DataError(
            f"{folder}: this folder holds another sweep: {reason}; choose another folder, or delete this one"
        )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return how the points of before are not among those of now; the empty string where they are."""
    for group in ("inputs", "derived", "axes"):
        old, new = before.get(group) or {}, now.get(group) or {}
        for name in dict.fromkeys([*old, *new]):
            same = _contains if group == "axes" else _equal
            if not same(old.get(name), new.get(name)):
                return f"{group}.{name} was {_shown(old.get(name))}, is {_shown(new.get(name))}"
    gained = [text for text in now.get("where") or () if text not in (before.get("where") or ())]
    if gained:
        return f"where: '{gained[0]}' is new"
    old, new = before.get("samples"), now.get("samples")
    if (old is None) != (new is None) or (old or 0) > (new or 0):
        return f"samples was {_shown(old)}, is {_shown(new)}"
    # Only samples depend on their seed, and a Sobol sequence over a list depends on the length of that list; a search
    # goes where its objectives lead it.
    if old is not None:
        for name in (
            "seed",
            "axes",
            "search",
            *(("minimize", "maximize", "where") if now.get("search") else ()),
        ):
            if not _equal(before.get(name), now.get(name)):
                return f"{name} of the drawn points differs"
    return ""


def _equal(old: Any, new: Any) -> bool:
    return canonical(old) == canonical(new)


def _contains(old: Any, new: Any) -> bool:
    if not isinstance(old, list) or not isinstance(new, list):
        return _equal(old, new)
    return {canonical(v) for v in old} <= {canonical(v) for v in new}


def _shown(value: Any, most: int = 60) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= most else f"{text[:most]}..."
