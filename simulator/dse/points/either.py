"""A point of a sweep over a cascade on machines of both kinds: a GPU lays it out as kernels, a spatial chip maps it."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from . import attention, text
from .gpus import is_gpu


def prepare(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> Any:
    """Return what the machine of the point needs.

    Args:
        point: by axis, as the machines have them.
        inputs: cascade, hardware and sizes.

    Raises:
        ModelError: something cannot be read, or a field does not exist.
    """
    return _room(point, inputs).prepare(point, inputs=inputs)


def evaluate(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a point as one row; a GPU has no area, and a spatial chip no interval.

    Raises:
        ModelError: the point does not fit, or cannot be read.
    """
    found: dict[str, Any] = _room(point, inputs).evaluate(point, inputs=inputs)
    return found


def _room(point: Mapping[str, Any], inputs: Mapping[str, Any]) -> ModuleType:
    return text if is_gpu(point.get("hardware", inputs.get("hardware"))) else attention
