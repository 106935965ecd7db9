"""Where prediction meets measurement: published tables, measured tables, and how far off we are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .suites import compare

__all__ = ["compare"]


def __getattr__(name: str) -> Any:
    if name == "compare":
        from .suites import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the face, so that completion shows what is loaded only when it is used."""
    return sorted(__all__)
