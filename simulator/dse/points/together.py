"""Many points of a sweep over a spatial machine at once: columns of texts -> columns of results.

Points with the same cascade, the same mapping and chips of the same structure go through the simulator as arrays:
sizes, shapes of arrays, capacities, bandwidths, clocks. What cannot be had that way is evaluated point by point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from einsum_cascade.errors import ModelError

from ...hardware.model import Array, Memory, SpatialChip
from ...spatial.area import assumptions
from ...spatial.model import simulate
from ..batch import flat
from ..coded import Coded, coded
from .attention import REMEMBERED, RESULTS, chip_of, evaluate, work_of

# What may differ between the chips of one group; all else is their structure.
_NUMBERS: Mapping[type, frozenset[str]] = {
    SpatialChip: frozenset({"clock_hz", "word_bytes", "static_power_w", "parameters"}),
    Memory: frozenset({"row_bytes", "capacity_bytes", "bandwidth_bytes_per_s"}),
    Array: frozenset({"shape"}),
}
# A grid of which at least one point in so many is wanted is computed whole.
_SPARSE = 2


@dataclass(frozen=True, slots=True)
class _Distinct:
    """The distinct values of something: `values[which]` lies over the points, with length 1 where nothing varies."""

    values: list[Any]
    which: Any


@dataclass(frozen=True, slots=True)
class _Batch:
    """The points of one call, or some of them."""

    columns: Mapping[str, Coded]
    inputs: Mapping[str, Any]
    count: int

    def at(self, positions: Any) -> _Batch:
        columns = {name: column.at(positions) for name, column in self.columns.items()}
        return _Batch(columns, self.inputs, len(positions))


@dataclass(frozen=True, slots=True)
class _Frame:
    """How the points of a batch lie: one dimension for all of them, or one an axis of the grid that they fill.

    On a grid most of what is computed depends on few of the axes, and is computed as often as those ask for.

    Attributes:
        shape: of the frame.
        places: of the points in the flattened frame; None where they are the frame in order.
        spread: whether every column has a dimension of its own.
    """

    shape: tuple[int, ...]
    places: Any
    spread: bool

    def gathered(self, values: Any) -> Any:
        """Return values over the frame as one a point, in the order of the points."""
        everywhere = np.broadcast_to(np.asarray(values), self.shape).ravel()
        return everywhere if self.places is None else everywhere[self.places]


def evaluate_many(columns: Mapping[str, Sequence[Any]], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of points as arrays, equal to those of `evaluate` one by one; `error` where there are none.

    What a point comes to does not depend on the points beside it, to the last bit, nor on whether it is one of many as
    long as counts are below 2^53. Beyond, it may be a rounding away from `evaluate`: arrays count in doubles.

    Args:
        columns: the points, one list of values an axis, or `Coded` ones.
        inputs: cascade, hardware, mapping and sizes, by name, path or object.
    """
    count = len(next(iter(columns.values())))
    batch = _Batch({name: coded(values) for name, values in columns.items()}, inputs, count)
    out: dict[str, Any] = {}
    for positions, found in _solved(batch, np.arange(count)):
        if len(positions) == count and any(isinstance(values, np.ndarray) for values in found.values()):
            return dict(found)
        for name, values in found.items():
            if name not in out:
                out[name] = np.full(count, None, dtype=object)
            out[name][positions] = values.tolist() if isinstance(values, np.ndarray) else values
    return out


def _solved(batch: _Batch, positions: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield parts of a batch with their results; where one point spoils all, halves are tried, then each alone."""
    if not ("mapping" in batch.inputs or "mapping" in batch.columns):
        yield from _alone(batch, positions)
        return
    for frame in _frames(batch):
        chips = _distinct(batch, frame, ("hardware",), chip_of)
        works = _distinct(batch, frame, ("cascade", "mapping", "sizes"), work_of)
        groups = _groups(chips, works, frame)
        if len(groups) > 1:
            for own in groups:
                yield from _solved(batch.at(own), positions[own])
            return
        try:
            yield positions, _results(chips, works, frame)
        # A mapping may say what only a single number can answer, such as min(P, 256): NumPy then raises these two.
        except (ModelError, ValueError, TypeError):
            continue
        return
    if batch.count == 1:
        yield from _alone(batch, positions)
        return
    half = batch.count // 2
    for part in (np.arange(half), np.arange(half, batch.count)):
        yield from _solved(batch.at(part), positions[part])


def _alone(batch: _Batch, positions: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    for i, position in enumerate(positions):
        point = {name: column[i] for name, column in batch.columns.items()}
        try:
            yield [position], dict(flat(evaluate(point, inputs=batch.inputs)))
        except ModelError as error:
            yield [position], {"error": str(error)}


def _frames(batch: _Batch) -> Iterator[_Frame]:
    """Yield the frames worth a try: the grid that the points fill, and, where they leave holes, a plain row."""
    shape = tuple(len(column.values) for column in batch.columns.values())
    size = math.prod(shape)
    if size <= _SPARSE * batch.count:
        places = np.ravel_multi_index(tuple(c.which for c in batch.columns.values()), shape)
        filled = size == batch.count
        in_order = filled and bool((places == np.arange(size)).all())
        yield _Frame(shape, None if in_order else places, True)
        if filled and (in_order or len(np.unique(places)) == size):
            return
    yield _Frame((batch.count,), None, False)


def _distinct(batch: _Batch, frame: _Frame, roots: tuple[str, ...], read: Any) -> _Distinct:
    """Read each distinct combination of the columns below some inputs once; None where it cannot be read."""
    own = {n: c for n, c in batch.columns.items() if n.partition(".")[0] in roots}
    lengths = tuple(len(c.values) for c in own.values())
    if frame.spread:
        combinations = np.arange(math.prod(lengths))
        which = combinations.reshape(
            [n if name in own else 1 for name, n in zip(batch.columns, frame.shape, strict=True)]
        )
    else:
        places = np.zeros(batch.count, dtype=np.int64)
        for column in own.values():
            places = places * len(column.values) + column.which
        combinations, which = np.unique(places, return_inverse=True)
    codes = np.unravel_index(combinations, lengths) if own else ()
    points = zip(
        *([c.values[i] for i in code.tolist()] for c, code in zip(own.values(), codes, strict=True)),
        strict=True,
    )
    found = [
        _tried(read, dict(zip(own, point, strict=True)), batch.inputs) for point in (points if own else [()])
    ]
    return _Distinct(found, which)


def _tried(read: Any, point: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
    try:
        return read(point, inputs=inputs)
    except ModelError:
        return None  # evaluated alone, the point says why


def _groups(chips: _Distinct, works: _Distinct, frame: _Frame) -> list[Any]:
    """Return positions of points that share cascade, mapping, and all of the chip but its numbers."""
    kinds: dict[Any, int] = {}
    of_chip = np.array([_about(c).kind if c is not None else -1 for c in chips.values])
    of_work = np.array(
        [kinds.setdefault(w and (id(w[0]), id(w[1]), tuple(w[2])), len(kinds)) for w in works.values]
    )
    if len(np.unique(of_chip)) == len(kinds) == 1:
        return [slice(None)]
    label = frame.gathered(of_chip[chips.which] * len(kinds) + of_work[works.which])
    order = np.argsort(label, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def _results(chips: _Distinct, works: _Distinct, frame: _Frame) -> dict[str, Any]:
    """Return results of points of one group.

    Raises:
        ModelError: one of them cannot be had.
    """
    if any(c is None for c in chips.values) or any(w is None for w in works.values):
        raise ModelError("a point that cannot be read")
    cascade, mapping, ranks = works.values[0]
    if mapping is None:
        raise ModelError("a mapping is made for one point at a time")
    sizes = {name: _sizes([w[2][name] for w in works.values], works.which) for name in ranks}
    chip = stacked(chips.values, chips.which)
    found = simulate(cascade, sizes, chip, mapping)
    columns = {name: getattr(found, name) for name in RESULTS}
    # How many assumptions a chip needs depends on its numbers: a memory may be in the table of energies or not.
    own = np.array([_about(c).assumptions for c in chips.values])[chips.which]
    columns["assumptions"] = own + (len(found.assumptions) - len(assumptions(chip)))
    return {name: frame.gathered(values) for name, values in flat(columns)}


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
        own = ((f.name, getattr(chip, f.name)) for f in fields(chip) if f.compare)
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
            object.__setattr__(out, field.name, stacked(below, which) if field.compare else None)
        return out
    if isinstance(first, Mapping):
        return {name: stacked([c[name] for c in chips], which) for name in first}
    if isinstance(first, tuple):
        return tuple(stacked(values, which) for values in zip(*chips, strict=True))
    return first if isinstance(first, str) else _numbers(chips, which)


def _sizes(values: Sequence[int], which: Any) -> Any:
    """Return sizes of a rank as an array, of one size where they are equal.

    Counts beyond 2^53 are exact for numbers and rounded in arrays: a point alone is an array too, so that its results
    do not depend on the points beside it.
    """
    found = _numbers(values, which)
    return found if isinstance(found, np.ndarray) else np.full((1,) * np.ndim(which), found)


def _numbers(values: Sequence[Any], which: Any) -> Any:
    """Return numbers over the frame of their points, with length 1 where they do not vary; one number if nowhere."""
    first = values[0]
    if all(v == first for v in values):
        return first
    found = np.array(values)[which]
    for axis in range(found.ndim if found.ndim > 1 else 0):
        head = found.take([0], axis=axis)
        if found.shape[axis] > 1 and (found == head).all():
            found = head
    return found
