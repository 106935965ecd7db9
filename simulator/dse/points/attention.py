"""A point of a sweep over a cascade on a spatial machine: texts -> cascade, chip, mapping, sizes -> estimate."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from einsum_cascade import zoo
from einsum_cascade.errors import DataError, HardwareError, MappingError
from einsum_cascade.sizes import changed_sizes, parse_sizes, settled_parts, stated_parts
from mappings.remembered import by_file

from ...identity import Same

Changes: TypeAlias = tuple[tuple[str, Any], ...]

# Grids change their last axis fastest, so the other inputs stay the same for many points in a row.
REMEMBERED = 1 << 14
_BANDWIDTH = re.compile(r"memories\.(\w+)\.bandwidth")
# The columns of a table that an estimate has by these names; how many assumptions it makes stands behind them.
RESULTS = ("latency_s", "energy_j", "traffic_bytes", "area_mm2", "utilization", "bound_by")


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
        inputs: cascade, hardware, mapping and sizes, by name, path or object; a point's own come first. Without a
            mapping one is made for the point.

    Raises:
        ModelError: something cannot be read, or a field does not exist.
    """
    cascade, mapping, sizes = work_of(point, inputs=inputs)
    chip = chip_of(point, inputs=inputs)
    if mapping is None:
        wanted = {**inputs, **point}.get("objective", "latency_s")
        mapping = _made(Same(cascade), tuple(sizes.items()), Same(chip), wanted)
    return Inputs(cascade, chip, mapping, sizes)


# A sweep reads its inputs, and looks at the columns of its table, before it begins.
@functools.lru_cache(maxsize=64)
def _made(cascade: Same[Any], sizes: tuple[tuple[str, int], ...], chip: Same[Any], objective: str) -> Any:
    """Return the mapping that a search finds for a point."""
    from ...spatial.default import default_mapping

    return default_mapping(cascade.it, dict(sizes), chip.it, objective=objective)


def work_of(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> tuple[Any, Any, Mapping[str, int]]:
    """Return cascade, mapping and sizes of a point; no mapping where none is given. `inputs` as in `prepare`.

    Raises:
        ModelError: see `prepare`.
    """
    given = {**inputs, **{k: v for k, v in point.items() if "." not in k}}
    named = given["cascade"]
    cascade = _named_cascade(named) if isinstance(named, str) else named
    _check_objects(cascade=cascade, sizes=given["sizes"])
    stated = given["sizes"] if isinstance(given["sizes"], str) else _as_text(given["sizes"], cascade)
    text = changed_sizes(stated, dict(_below("sizes", point)), cascade)
    sizes = _parsed(text, named) if isinstance(named, str) else parse_sizes(text, cascade)
    changes = _below("mapping", point)
    if "mapping" not in given:
        if changes:
            raise DataError(f"missing field 'mapping'; 'mapping.{changes[0][0]}' is a field of it")
        return cascade, None, sizes
    if "objective" in given:
        raise DataError("objective: with a mapping nothing is searched; leave one of the two out")
    _check_objects(mapping=given["mapping"])
    mapping = _loaded("mapping", given, changes, _mapping)
    # A tile that the user states wins over the mapping's own.
    settled = settled_parts(cascade, _named(text))
    own = tuple((k, sizes[k]) for k in mapping.nest.sizes if k in settled)
    if own:
        mapping = _loaded("mapping", given, (*own, *changes), _mapping)
    return cascade, mapping, sizes


def chip_of(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> Any:
    """Return the chip of a point; `inputs` as in `prepare`.

    Raises:
        ModelError: see `prepare`.
    """
    given = {**inputs, **{k: v for k, v in point.items() if "." not in k}}
    _check_objects(hardware=given["hardware"])
    return _loaded("hardware", given, _below("hardware", point), _hardware)


def _check_objects(**given: Any) -> None:
    """Refuse an input that is neither a name nor the object that it should be."""
    from einsum_cascade.cascade import Cascade
    from mappings.binding import SpatialMapping

    from ...hardware.model import SpatialChip

    legal: Mapping[str, tuple[type, ...]] = {
        "cascade": (Cascade,),
        "hardware": (SpatialChip, str, Path),
        "mapping": (SpatialMapping, str, Path),
        "sizes": (Mapping, str),
    }
    for root, value in given.items():
        if not isinstance(value, legal[root]):
            wanted = " or ".join("a name" if k is str else k.__name__ for k in legal[root] if k is not Path)
            named = getattr(value, "name", value)
            raise DataError(f"{root}: expected {wanted}, found {type(value).__name__} {named!r}"[:200])


def _loaded(
    root: str, given: Mapping[str, Any], changes: Changes, load: Callable[[str, Changes], Any]
) -> Any:
    """Return an input that is given as an object, or load it by name with the fields that the point sets."""
    if isinstance(given[root], (str, Path)):
        return load(str(given[root]), changes)
    return _with_fields(Same(given[root]), changes) if changes else given[root]


@functools.lru_cache(maxsize=REMEMBERED)
def _with_fields(read: Same[Any], changes: Changes) -> Any:
    """Return an object that was read from a file with fields of the file set; `_loaded` says of what."""
    from ...hardware.model import SpatialChip
    from ...hardware.reader import with_fields

    origin = read.it.origin
    if origin is None:
        kind = "hardware" if isinstance(read.it, SpatialChip) else "mapping"
        raise DataError(
            f"'{kind}.{changes[0][0]}' cannot be set on an object that was made or changed in Python; "
            f"give {kind} by name or path"
        )
    if isinstance(read.it, SpatialChip):
        return with_fields(read.it, dict(changes))
    return _mapping(origin.path, tuple({**dict(origin.changes), **dict(changes)}.items()))


def waterfall(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> list[tuple[str, str, float, float]]:
    """Return when each Einsum of a point runs: lane, Einsum, begin and end in seconds.

    Raises:
        ModelError: the point does not fit, or cannot be read.
    """
    from ...spatial.model import simulate

    found = prepare(point, inputs=inputs)
    estimate = simulate(found.cascade, found.sizes, found.hardware, found.mapping)
    # Phases follow one another; one that waits for its memory ends after its last Einsum.
    starts = dict(
        zip(estimate.phases, itertools.accumulate(estimate.phases.values(), initial=0.0), strict=False)
    )
    cycle_s = 1.0 / found.hardware.clock_hz
    return [
        (
            s.lane,
            s.einsum,
            starts[s.phase] + s.begin * cycle_s,
            starts[s.phase] + (s.begin + s.cycles) * cycle_s,
        )
        for s in estimate.slots
    ]


def evaluate(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a point as one row: totals, utilisation by array, what bounds it.

    Raises:
        ModelError: the point does not fit, or cannot be read.
    """
    from ...spatial.model import simulate

    found = prepare(point, inputs=inputs)
    estimate = simulate(found.cascade, found.sizes, found.hardware, found.mapping)
    columns = {name: getattr(estimate, name) for name in RESULTS}
    return {**columns, "assumptions": len(estimate.assumptions)}


def _below(root: str, point: Mapping[str, Any]) -> Changes:
    prefix = f"{root}."
    return tuple((k.removeprefix(prefix), v) for k, v in point.items() if k.startswith(prefix))


@by_file(64)
def _named_cascade(name: str) -> Any:
    return zoo.find(name)


@by_file(REMEMBERED)
def _parsed(text: str, cascade: str) -> Mapping[str, int]:
    return MappingProxyType(parse_sizes(text, _named_cascade(cascade)))


@by_file(REMEMBERED)
def _hardware(name: str, changes: Changes) -> Any:
    from ...spatial.request import load_spatial

    return _with_bandwidths(name, changes) or load_spatial(name, dict(changes))


def _with_bandwidths(name: str, changes: Changes) -> Any:
    """Return a chip read without the bandwidths that a point sets, and then given them; None where that fails.

    No other field depends on a bandwidth, so a grid of them reads each of its other chips once.
    """
    wanted = {m[1]: value for key, value in changes if (m := _BANDWIDTH.fullmatch(key))}
    if not wanted:
        return None
    try:
        chip = _hardware(name, tuple(c for c in changes if not _BANDWIDTH.fullmatch(c[0])))
        memories = dict(chip.memories)
        for memory, value in wanted.items():
            memories[memory] = replace(memories[memory], bandwidth_bytes_per_s=_bandwidth(value))
    except (HardwareError, KeyError, ValueError):
        return None  # read as a whole, it says what is wrong, or knows the name of a parameter
    return replace(chip, memories=memories)


@functools.lru_cache(maxsize=REMEMBERED)
def _bandwidth(text: Any) -> float:
    from ...hardware.reader import quantity

    return quantity(text, "byte/second", where="bandwidth")


@by_file(REMEMBERED)
def _mapping(name: str, changes: Changes) -> Any:
    from mappings.binding import SpatialMapping
    from mappings.files import load

    found = load(name, dict(changes))
    if not isinstance(found, SpatialMapping):
        raise MappingError(
            f"{name} is a mapping of a GPU kernel; sweep it with 'kernel: ...' instead of 'cascade: ...'"
        )
    return found


def _as_text(sizes: Mapping[str, int], cascade: Any) -> str:
    """Return a table of sizes as a text, without the tiles that only `parse_sizes` chose."""
    parts = {p for whole, inner in cascade.splits.items() if whole in sizes for p in inner}
    stated = stated_parts(cascade, sizes) if parts else {}
    return ",".join(f"{k}={v}" for k, v in sizes.items() if k not in parts or k in stated)


def _named(text: str) -> dict[str, str]:
    """Return the sizes that a text gives by name."""
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return {name.strip(): size.strip() for name, _, size in pairs}
