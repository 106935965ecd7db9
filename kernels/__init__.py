"""Triton kernels of the zoo's cascades: run, checked, compiled for a target without a GPU, and measured.

Importing the package loads neither torch nor Triton; the modules of the face are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import aot, bench, check, device, reference, registry, written

__all__ = ["aot", "bench", "check", "device", "reference", "registry", "written"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module("." + name, __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the face, so that completion shows what is loaded only when it is used."""
    return sorted(__all__)
