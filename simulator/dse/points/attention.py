"""A point of a sweep over a cascade on a spatial machine: texts -> cascade, chip, mapping, sizes -> estimate."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from einsum_cascade import zoo
from einsum_cascade.errors import CascadeError, DataError
from einsum_cascade.sizes import SEQUENCE_RANKS, parse_sizes

# Grids change their last axis fastest, so the other inputs stay the same for many points in a row.
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one simulation needs."""

    cascade: Any
    hardware: Any
    mapping: Any
    sizes: Mapping[str, int]


def prepare(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> Inputs:
    """Return the inputs of the simulation that a point asks for.

    Args:
        point: by axis: `hardware.FIELD`, `mapping.FIELD`, `sizes.RANK`, `sizes.seq`, `sizes.model`, or a whole input.
        inputs: cascade, hardware, mapping and sizes, by name, path or object; a point's own come first.

    Raises:
        ModelError: something cannot be read, or a field does not exist.
    """
    given = {**inputs, **{k: v for k, v in point.items() if "." not in k}}
    cascade = given["cascade"]
    cascade = _named_cascade(cascade) if isinstance(cascade, str) else cascade
    return Inputs(
        cascade,
        _loaded("hardware", given, point, _hardware),
        _loaded("mapping", given, point, _mapping),
        _sizes(given["sizes"], dict(_below("sizes", point)), cascade),
    )


def _loaded(root: str, given: Mapping[str, Any], point: Mapping[str, Any], load: Callable[..., Any]) -> Any:
    """Return an input that is given as an object, or load it by name with the fields that the point sets."""
    changes = _below(root, point)
    if isinstance(given[root], (str, Path)):
        return load(str(given[root]), changes)
    if changes:
        raise DataError(f"'{root}.{changes[0][0]}' cannot be set on an object; give {root} by name or path")
    return given[root]


def evaluate(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a point as one row: totals, utilisation by array, what bounds it.

    Raises:
        ModelError: the point does not fit, or cannot be read.
    """
    from ...spatial.model import simulate

    found = prepare(point, inputs=inputs)
    estimate = simulate(found.cascade, found.sizes, found.hardware, found.mapping)
    return {
        "latency_s": estimate.latency_s,
        "energy_j": estimate.energy_j,
        "traffic_bytes": estimate.traffic_bytes,
        "area_mm2": estimate.area_mm2,
        "utilization": dict(estimate.utilization),
        "bound_by": estimate.bound_by,
        "assumptions": len(estimate.assumptions),
    }


def _below(root: str, point: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    prefix = f"{root}."
    return tuple((k.removeprefix(prefix), v) for k, v in point.items() if k.startswith(prefix))


@functools.lru_cache(maxsize=64)
def _named_cascade(name: str) -> Any:
    return zoo.find(name)


@functools.lru_cache(maxsize=_REMEMBERED)
def _hardware(name: str, changes: tuple[tuple[str, Any], ...]) -> Any:
    from ...hardware.reader import load_hardware

    return load_hardware(name, dict(changes))


@functools.lru_cache(maxsize=_REMEMBERED)
def _mapping(name: str, changes: tuple[tuple[str, Any], ...]) -> Any:
    from mappings.files import load

    return load(name, dict(changes))


def _sizes(given: Any, changes: dict[str, Any], cascade: Any) -> dict[str, int]:
    """Return the sizes of a text such as `BERT/64K,B=1` with some of them changed."""
    text = given if isinstance(given, str) else ",".join(f"{k}={v}" for k, v in given.items())
    first, *rest = (part.strip() for part in text.split(","))
    model, slash, length = first.partition("/")
    sizes = dict(part.partition("=")[::2] for part in (rest if slash else [first, *rest]))
    seq, other = changes.pop("seq", None), changes.pop("model", None)
    if slash:
        model, length = str(other or model), str(seq or length)
    elif other is not None:
        raise CascadeError(f"sizes.model: the sizes '{text}' name no model; write them as {other}/64K")
    elif seq is not None:
        sizes |= {rank: str(seq) for rank in SEQUENCE_RANKS if rank in cascade.rank_names}
    sizes |= {rank: str(size) for rank, size in changes.items()}
    parts = ([f"{model}/{length}"] if slash else []) + [f"{k}={v}" for k, v in sizes.items()]
    return parse_sizes(",".join(parts), cascade)
