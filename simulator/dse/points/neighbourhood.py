"""A point of a sweep over neighbourhood-attention settings: texts such as `30,48,80` -> exact tile counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from einsum_cascade.errors import DataError

_WORDS = ("layout", "window", "stride", "dilation", "causal", "q_tile", "kv_tile")


def prepare(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the count that a point asks for.

    Args:
        point: any of the inputs.
        inputs: layout, window, stride, dilation, causal, q_tile, kv_tile as numbers per axis (`30,48,80`), dynamic.

    Raises:
        DataError: a text that is no list of whole numbers.
    """
    given = {**inputs, **point}
    out: dict[str, Any] = {name: _numbers(name, given[name]) for name in _WORDS if name in given}
    if "dynamic" in given:
        out["dynamic"] = _truth(given["dynamic"])
    return out


def evaluate(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts and speedup bounds of a point as one row.

    Raises:
        ModelError: a setting that does not exist.
    """
    from ...gpu.gna import gna_bounds

    found = gna_bounds(**prepare(point, inputs=inputs)).as_dict()
    return {name: value for name, value in found.items() if isinstance(value, (bool, int, float))}


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    words = str(value).replace("x", ",").split(",") if not isinstance(value, (tuple, list)) else value
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise DataError(f"{name}: found {value!r}, expected whole numbers such as 30,48,80") from None


def _truth(value: Any) -> bool:
    words = {"1": True, "true": True, "0": False, "false": False}
    try:
        return words[str(value).lower()]
    except KeyError:
        raise DataError(f"dynamic: expected true or false, found {value!r}") from None
