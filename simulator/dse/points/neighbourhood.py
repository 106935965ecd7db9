"""A point of a sweep over neighbourhood attention: texts such as `30,48,80` -> exact tile counts, and time on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from einsum_cascade.errors import DataError

from .gpus import gpu_of

_WORDS = ("layout", "window", "stride", "dilation", "causal", "q_tile", "kv_tile")
# What a time depends on besides the setting; as cascade gna-tune has it.
_DEFAULTS = MappingProxyType({"heads": 24, "head_dim": 128, "batch": 1})


def prepare(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the count that a point asks for, and those of its time; empty without a GPU.

    Args:
        point: any of the inputs, and `hardware.FIELD`.
        inputs: layout, window, stride, dilation, causal, q_tile, kv_tile as numbers per axis (`30,48,80`), dynamic;
            and, for a time, hardware, backend, heads, head_dim and batch.

    Raises:
        ModelError: a text that is no list of whole numbers, or an unknown GPU, field or backend.
    """
    given = {**inputs, **point}
    counted: dict[str, Any] = {name: _numbers(name, given[name]) for name in _WORDS if name in given}
    if "dynamic" in given:
        counted["dynamic"] = _truth(given["dynamic"])
    if not any(name.partition(".")[0] == "hardware" for name in given):
        idle = next((name for name in ("backend", *_DEFAULTS) if name in given), "")
        if idle:
            raise DataError(f"{idle}: only a time depends on it; say on which GPU, as in hardware: h100")
        return counted, {}
    if "dynamic" in given:
        raise DataError("dynamic: the kernel decides on a GPU; leave it out, or name a backend")
    timed = _DEFAULTS | {name: _whole(name, given[name]) for name in _DEFAULTS if name in given}
    gpu = gpu_of(point, inputs=inputs)
    backend = str(given["backend"]) if "backend" in given else None
    kernel = _kernel(gpu, backend, axes=len(counted["layout"]), head_dim=timed["head_dim"])
    return counted | {"dynamic": kernel.dynamic}, {"gpu": gpu, "kernel": kernel, **timed}


@functools.lru_cache(maxsize=1 << 14)
def _kernel(gpu: Any, backend: str | None, *, axes: int, head_dim: int) -> Any:
    """Return the kernel that runs, which has to have tiles for so many axes and this head dimension."""
    from ...gpu.gna_backends import find_backend, tile_pairs

    found = find_backend(gpu, backend, head_dim=head_dim)
    tile_pairs(found, gpu, axes=axes, head_dim=head_dim)
    return found


def evaluate(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts and speedup bounds of a point as one row; on a GPU its time too.

    Raises:
        ModelError: a setting that does not exist.
    """
    counted, timed = prepare(point, inputs=inputs)
    bounds, columns = _bounds(tuple(counted.items()))
    return columns | _times(bounds, **timed) if timed else dict(columns)


@functools.lru_cache(maxsize=4096)
def _bounds(counted: tuple[tuple[str, Any], ...]) -> tuple[Any, dict[str, Any]]:
    """Return the counts of a setting; an axis of the GPU leaves them as they are."""
    from ...gpu.gna import gna_bounds

    found = gna_bounds(**dict(counted))
    columns = found.as_dict()
    return found, {name: value for name, value in columns.items() if isinstance(value, (bool, int, float))}


def _times(bounds: Any, *, gpu: Any, kernel: Any, heads: int, head_dim: int, batch: int) -> dict[str, Any]:
    from ...gpu.gna_time import check_copies, time_of

    found = time_of(bounds, gpu, kernel, copies=check_copies(heads, batch), head_dim=head_dim)
    return {
        "latency_s": found.latency_s,
        "kernel_s": found.kernel_s,
        "permute_s": found.permute_s,
        "dense_s": found.dense_s,
        "speedup": found.speedup,
        "steps": found.steps,
        "masked": found.masked,
        "backend": kernel.name,
        "fitted": found.constants.fitted,
    }


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    words = str(value).replace("x", ",").split(",") if not isinstance(value, (tuple, list)) else value
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise DataError(f"{name}: found {value!r}, expected whole numbers such as 30,48,80") from None


def _whole(name: str, value: Any) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise DataError(f"{name}: found {value!r}, expected a whole number") from None


def _truth(value: Any) -> bool:
    words = {"1": True, "true": True, "0": False, "false": False}
    try:
        return words[str(value).lower()]
    except KeyError:
        raise DataError(f"dynamic: expected true or false, found {value!r}") from None
