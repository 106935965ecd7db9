"""Many points of a sweep over a spatial machine at once: columns of texts -> columns of results.

Points with the same cascade, the same mapping and chips of the same structure go through the simulator as arrays:
sizes, shapes of arrays, capacities, bandwidths, clocks. What cannot be had that way is evaluated point by point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from einsum_cascade.errors import ModelError

from ...hardware.model import Array, Memory, SpatialChip
from ...spatial.area import assumptions
from ...spatial.model import simulate
from ..batch import flat
from .attention import REMEMBERED, RESULTS, chip_of, evaluate, work_of

# What may differ between the chips of one group; all else is their structure.
_NUMBERS: Mapping[type, frozenset[str]] = {
    SpatialChip: frozenset({"clock_hz", "word_bytes", "static_power_w", "parameters"}),
    Memory: frozenset({"row_bytes", "capacity_bytes", "bandwidth_bytes_per_s"}),
    Array: frozenset({"shape"}),
}
# Fewer points than these are not worth an array.
_ALONE = 4


@dataclass(frozen=True, slots=True)
class _Distinct:
    """The distinct values of something by point: `values[which[i]]` is that of point i."""

    values: list[Any]
    which: Any

    def at(self, positions: Any) -> _Distinct:
        used, which = np.unique(self.which[positions], return_inverse=True)
        return _Distinct([self.values[i] for i in used], which)


@dataclass(frozen=True, slots=True)
class _Batch:
    """The points of one call."""

    columns: Mapping[str, Sequence[Any]]
    inputs: Mapping[str, Any]
    chips: _Distinct
    works: _Distinct


def evaluate_many(
    columns: Mapping[str, Sequence[Any]], *, inputs: Mapping[str, Any]
) -> dict[str, Sequence[Any]]:
    """Return the results of points as columns, `error` among them; equal to those of `evaluate` one by one.

    Args:
        columns: the points, one list of values an axis.
        inputs: cascade, hardware, mapping and sizes, by name, path or object.
    """
    count = len(next(iter(columns.values())))
    out: dict[str, Any] = {"error": _empty(count)}
    chips = _distinct(columns, ("hardware",), inputs, chip_of)
    works = _distinct(columns, ("cascade", "mapping", "sizes"), inputs, work_of)
    batch = _Batch(columns, inputs, chips, works)
    for positions in _groups(chips, works):
        for part, found in _solved(batch, positions):
            for name, values in found.items():
                if name not in out:
                    out[name] = _empty(count)
                out[name][part] = values
    return {name: values.tolist() for name, values in out.items()}


def _empty(count: int) -> Any:
    return np.full(count, None, dtype=object)


def _distinct(
    columns: Mapping[str, Sequence[Any]], roots: tuple[str, ...], inputs: Mapping[str, Any], read: Any
) -> _Distinct:
    """Read each distinct combination of the columns below some inputs once; None where it cannot be read."""
    names = [n for n in columns if n.partition(".")[0] in roots]
    which = np.zeros(len(next(iter(columns.values()))), dtype=np.int64)
    for name in names:
        codes, number = _codes(columns[name])
        _, which = np.unique(which * number + codes, return_inverse=True)
    _, firsts = np.unique(which, return_index=True)
    found = [_tried(read, {n: columns[n][i] for n in names}, inputs) for i in firsts]
    return _Distinct(found, which)


def _codes(values: Sequence[Any]) -> tuple[Any, int]:
    """Return values as numbers from 0, equal ones alike, and how many there are."""
    # 1, 1.0 and True are equal but not written alike.
    keys = values if len(set(map(type, values))) == 1 else [(type(v), v) for v in values]
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.fromiter(map(codes.__getitem__, keys), dtype=np.int64, count=len(values)), len(codes)


def _tried(read: Any, point: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
    try:
        return read(point, inputs=inputs)
    except ModelError:
        return None  # evaluated alone, the point says why


def _groups(chips: _Distinct, works: _Distinct) -> Iterator[Any]:
    """Yield positions of points that share cascade, mapping, and all of the chip but its numbers."""
    kinds: dict[Any, int] = {}
    of_chip = np.array([_about(c).kind if c is not None else -1 for c in chips.values])
    of_work = np.array(
        [kinds.setdefault(w and (id(w[0]), id(w[1]), tuple(w[2])), len(kinds)) for w in works.values]
    )
    label = of_chip[chips.which] * len(kinds) + of_work[works.which]
    order = np.argsort(label, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def _solved(batch: _Batch, positions: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield parts of a group with their results; where one point spoils all, halves are tried, then each alone."""
    if len(positions) >= _ALONE:
        try:
            found = _results(batch.chips.at(positions), batch.works.at(positions))
        # A mapping may say what only a single number can answer, such as min(P, 256): NumPy then raises these two.
        except (ModelError, ValueError, TypeError):
            half = len(positions) // 2
            yield from _solved(batch, positions[:half])
            yield from _solved(batch, positions[half:])
        else:
            yield positions, found
        return
    for i in positions:
        try:
            alone = evaluate({n: values[i] for n, values in batch.columns.items()}, inputs=batch.inputs)
        except ModelError as error:
            yield [i], {"error": str(error)}
        else:
            yield [i], dict(flat(alone))


def _results(chips: _Distinct, works: _Distinct) -> dict[str, Any]:
    """Return results of points of one group.

    Raises:
        ModelError: one of them cannot be had.
    """
    if any(c is None for c in chips.values) or any(w is None for w in works.values):
        raise ModelError("a point that cannot be read")
    cascade, mapping, ranks = works.values[0]
    sizes = {name: _numbers([w[2][name] for w in works.values], works.which) for name in ranks}
    chip = stacked(chips.values, chips.which)
    found = simulate(cascade, sizes, chip, mapping)
    columns = {name: getattr(found, name) for name in RESULTS}
    # How many assumptions a chip needs depends on its numbers: a memory may be in the table of energies or not.
    own = np.array([_about(c).assumptions for c in chips.values])[chips.which]
    columns["assumptions"] = own + (len(found.assumptions) - len(assumptions(chip)))
    return dict(flat(columns))


@dataclass(frozen=True, slots=True)
class _About:
    """What is remembered of a chip, which it keeps alive: the number of its structure, and of its assumptions."""

    chip: SpatialChip
    kind: int
    assumptions: int


_ABOUT: dict[int, _About] = {}
_KINDS: dict[Any, int] = {}


def _about(chip: SpatialChip) -> _About:
    found = _ABOUT.get(id(chip))
    if found is None:
        if len(_ABOUT) >= REMEMBERED:
            _ABOUT.clear()
        kind = _KINDS.setdefault(structure(chip), len(_KINDS))
        found = _ABOUT[id(chip)] = _About(chip, kind, len(assumptions(chip)))
    return found


def structure(chip: Any) -> Any:
    """Return what two chips have to share to be evaluated as one with arrays for numbers."""
    if is_dataclass(chip):
        free = _NUMBERS.get(type(chip), frozenset())
        own = ((f.name, getattr(chip, f.name)) for f in fields(chip))
        return (type(chip), *((n, _shape(v) if n in free else structure(v)) for n, v in own))
    if isinstance(chip, Mapping):
        return tuple((name, structure(value)) for name, value in chip.items())
    return chip


def _shape(value: Any) -> Any:
    """Return what is left of a field whose numbers may differ."""
    if isinstance(value, Mapping):
        return tuple(value)
    return len(value) if isinstance(value, tuple) else None


def stacked(chips: Sequence[Any], which: Any) -> Any:
    """Return chips of one structure as one, with an array where their numbers differ.

    Every chip was checked when it was read, so that the checks of the class, which are made for single numbers, are
    not run again.

    Args:
        chips: the distinct ones.
        which: for each design point the position of its chip.
    """
    first = chips[0]
    if len(chips) == 1:
        return first
    if is_dataclass(first):
        out = object.__new__(type(first))
        for field in fields(first):
            below = [getattr(c, field.name) for c in chips]
            object.__setattr__(out, field.name, stacked(below, which))
        return out
    if isinstance(first, Mapping):
        return {name: stacked([c[name] for c in chips], which) for name in first}
    if isinstance(first, tuple):
        return tuple(stacked(values, which) for values in zip(*chips, strict=True))
    return first if isinstance(first, str) else _numbers(chips, which)


def _numbers(values: Sequence[Any], which: Any) -> Any:
    """Return numbers by point; one number where they agree."""
    return values[0] if all(v == values[0] for v in values) else np.array(values)[which]
