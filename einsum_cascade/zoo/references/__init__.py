"""Formulas of the zoo written straight from the papers in NumPy float64, one file a family."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..reference import Reference


def families() -> tuple[dict[str, Reference], ...]:
    """Return the table of each family: zoo entry -> reference."""
    from . import language, linear, local, modern, recent, selected, softmax, vision

    modules = (softmax, modern, recent, linear, local, selected, vision, language)
    return tuple(m.TABLE for m in modules)
