"""How a cascade is laid on a machine, and how a data file becomes an object."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .files import entries, load, names, save

_FACE = {"entries": ".files", "load": ".files", "names": ".files", "save": ".files"}

__all__ = ["entries", "load", "names", "save"]


def __getattr__(name: str) -> Any:
    if name in _FACE:
        value = getattr(importlib.import_module(_FACE[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the face, so that completion shows what is loaded only when it is used."""
    return sorted(__all__)
