"""Space: the points of a sweep, from axes, constraints and derived values, in a deterministic order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

from einsum_cascade.errors import DataError, nearest

from .coded import Coded, coded
from .designs import DESIGNS
from .formulas import Formula, magnitudes, read_formula, value_of

Value: TypeAlias = str | int | float | bool
Point: TypeAlias = dict[str, Value]

# A grid is stepped through in blocks, so that a constraint never holds the whole of it in memory.
_BLOCK = 1 << 18
MOST_POINTS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Range:
    """An interval from which points are sampled.

    Attributes:
        low: least value.
        high: greatest value.
        log: whether equal ratios, not equal differences, are equally likely.
        whole: whether values are rounded to whole numbers.
        unit: written behind the number, for example `MiB`; the empty string for a bare number.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    unit: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise DataError(f"a range needs finite ends with low < high, found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise DataError(f"a logarithmic range begins above 0, found {self.low}")

    def at(self, fractions: Any) -> list[Value]:
        """Return the values at fractions of the interval.

        >>> Range(1, 100, log=True).at(np.array([0.5]))
        [10]
        """
        if self.log:
            values = self.low * (self.high / self.low) ** fractions
        else:
            values = self.low + (self.high - self.low) * fractions
        return written(np.rint(values).astype(np.int64) if self.whole else values, self.unit)


@dataclass(frozen=True, slots=True)
class Derived:
    """An axis whose value follows from the others: `Derived("64 * N", unit="KiB")`."""

    formula: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Space:
    """The points of a sweep.

    A space without ranges is the grid of its axes: the last axis changes fastest. With `samples` its points
    are drawn from a scrambled Sobol sequence instead, which fills ranges and lists of values evenly.

    Attributes:
        axes: name -> values in order, or a `Range`. Quantities stay texts: `"16 MiB"`.
        where: constraints that a point has to meet, for example `"hardware.N <= 256"`.
        derived: name -> formula of an axis that depends on the others.
        samples: number of points drawn; None for the grid.
        seed: of the Sobol scrambling.
        design: of the samples: `sobol`, or `saltelli`, from which Sobol indices can be told.
        drawn: the points themselves, one column an axis, where somebody else has drawn them.

    >>> space = Space({"N": [64, 128, 256], "L3": ["4 MiB", "16 MiB"]}, where=("N * 64 KiB <= L3",))
    >>> list(space)[:2]
    [{'N': 64, 'L3': '4 MiB'}, {'N': 64, 'L3': '16 MiB'}]
    >>> len(space)
    4
    """

    axes: Mapping[str, Sequence[Value] | Range]
    where: tuple[str, ...] = ()
    derived: Mapping[str, str | Derived] = field(default_factory=dict)
    samples: int | None = None
    seed: int = 0
    design: str = "sobol"
    drawn: Mapping[str, Coded] | None = None
    _levels: dict[str, tuple[Value, ...]] = field(init=False, repr=False, compare=False)
    _drawn: dict[str, Coded] | None = field(init=False, repr=False, compare=False, default=None)
    _kept: Any = field(init=False, repr=False, compare=False, default=None)
    _formulas: dict[str, tuple[Formula, str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "axes", _checked_axes(self.axes))
        put(self, "where", _texts(self.where))
        put(self, "_formulas", _derived_formulas(self.axes, self.derived))
        ranges = [name for name, values in self.axes.items() if isinstance(values, Range)]
        if ranges and self.samples is None and self.drawn is None:
            raise DataError(f"axis '{ranges[0]}' is a range; say how many points to draw: samples: 1000")
        put(self, "_levels", {n: v for n, v in self.axes.items() if not isinstance(v, Range)})
        if self.drawn is not None:
            put(self, "_drawn", _distinct(self.drawn))
        elif self.samples is not None:
            put(self, "_drawn", _distinct(self.every_draw()))
        constraints = [read_formula(text, self.names) for text in self.where]
        for c in constraints:
            if not c.logical:
                raise DataError(
                    f"where: '{c.text}' is a number; a constraint compares, as in '{c.text} <= 256'"
                )
        if self._size > MOST_POINTS:
            raise DataError(
                f"{self._size:,} points are more than {MOST_POINTS:,}; draw some of them: samples: 100000"
            )
        if constraints:
            put(self, "_kept", _kept(self, constraints))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all axes, derived ones last."""
        return (*self.axes, *self._formulas)

    @property
    def _size(self) -> int:
        """Number of points before the constraints."""
        if self._drawn is not None:
            return len(next(iter(self._drawn.values())))
        return math.prod(len(v) for v in self._levels.values())

    def __len__(self) -> int:
        return self._size if self._kept is None else len(self._kept)

    def __iter__(self) -> Iterator[Point]:
        for start in range(0, len(self), _BLOCK):
            yield from rows(self.columns(range(start, min(start + _BLOCK, len(self)))))

    def __getitem__(self, position: int) -> Point:
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        return next(rows(self.columns([position % len(self)])))

    def columns(self, positions: Any) -> dict[str, list[Value]]:
        """Return the points at some positions as one list of values an axis.

        >>> Space({"x": [1, 2], "y": ["a", "b"]}).columns([1, 2])
        {'x': [1, 2], 'y': ['b', 'a']}
        """
        return {name: column.tolist() for name, column in self.coded(positions).items()}

    def coded(self, positions: Any) -> dict[str, Coded]:
        """Return the points at some positions as one coded column an axis, each with the values that occur there.

        >>> Space({"x": [1, 2], "y": ["a", "b"]}).coded(range(2, 4))["x"].values
        (2,)
        """
        where = np.asarray(positions, dtype=np.int64)
        if self._kept is not None:
            where = self._kept[where]
        return {name: column.compact() for name, column in self._at(where).items()}

    def every_draw(self) -> dict[str, Coded]:
        """Return the samples as they were drawn, one column an axis: those that fall together are all there."""
        return _draw(self.axes, self._levels, self.samples or 0, self.seed, self.design)

    def positions(self, points: Mapping[str, Coded]) -> Any:
        """Return the positions of some points; -1 for those that are none of this space.

        >>> Space({"x": [1, 2], "y": ["a", "b"]}).positions({"x": coded([2, 3]), "y": coded(["a", "a"])}).tolist()
        [2, -1]
        """
        axes = self._drawn or {n: Coded(v, np.arange(len(v))) for n, v in self._levels.items()}
        codes = {n: _recoded(points[n], column.values) for n, column in axes.items()}
        known = np.logical_and.reduce([c >= 0 for c in codes.values()])
        if self._drawn is None:
            flat = np.ravel_multi_index(
                tuple(np.where(known, c, 0) for c in codes.values()),
                tuple(len(v) for v in self._levels.values()),
            )
        else:
            flat, found = _looked_up([(axes[n].which, c) for n, c in codes.items()])
            known &= found
        if self._kept is not None:
            at = np.minimum(np.searchsorted(self._kept, flat), len(self._kept) - 1)
            flat, known = at, known & (self._kept[at] == flat)
        return np.where(known, flat, -1)

    def run(self, start: int, most: int) -> int:
        """Return how many points from a position on make a good batch, at most so many: up to the end of a block.

        A block holds all values of the last axes and some of the one before, so that what depends on few axes is
        computed once for it.

        >>> Space({"x": range(6), "y": range(10)}).run(7, 25)
        13
        """
        left = len(self) - start
        if left <= most or self._kept is not None or self._drawn is not None:
            return min(left, most)
        block = 1
        for values in reversed(self._levels.values()):
            block *= max(d for d in range(1, len(values) + 1) if len(values) % d == 0 and block * d <= most)
            if block * 2 > most or len(values) > most:
                break
        end = start + most
        return max(end - end % block - start, 1)

    def shard(self, index: int, count: int) -> range:
        """Return the positions of one of `count` equal parts, interleaved so that all cost about the same.

        >>> list(Space({"x": range(5)}).shard(1, 2))
        [1, 3]
        """
        if not 0 <= index < count:
            raise DataError(f"shard {index} of {count}: expected 0 <= index < count")
        return range(index, len(self), count)

    def _at(self, flat: Any) -> dict[str, Coded]:
        """Return the columns at positions before the constraints, derived axes included."""
        if self._drawn is not None:
            out = {name: Coded(column.values, column.which[flat]) for name, column in self._drawn.items()}
        else:
            shape = tuple(len(v) for v in self._levels.values())
            codes = np.unravel_index(flat, shape)
            out = {n: Coded(v, code) for (n, v), code in zip(self._levels.items(), codes, strict=True)}
        for name, (formula, unit) in self._formulas.items():
            numbers = {axis: _magnitudes(out[axis]) for axis in formula.axes.values()}
            found = np.broadcast_to(value_of(formula, numbers), np.shape(flat))
            if not np.all(np.isfinite(found)):
                raise DataError(f"derive: {name}: '{formula.text}' is not finite at some point")
            distinct, which = np.unique(found, return_inverse=True)
            out[name] = Coded(tuple(written(distinct, unit)), which)
        return out


def rows(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the points of a table given as one list a column.

    >>> list(rows({"x": [1, 2], "y": [3, 4]}))
    [{'x': 1, 'y': 3}, {'x': 2, 'y': 4}]
    """
    names = tuple(columns)
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(names, values, strict=True))


def written(values: Any, unit: str) -> list[Value]:
    """Return numbers as plain Python numbers, whole ones as int, or as texts with a unit.

    >>> written(np.array([1.0, 2.5]), ""), written(np.array([4.0]), "MiB")
    ([1, 2.5], ['4 MiB'])
    """
    plain = [int(v) if float(v).is_integer() else float(v) for v in np.asarray(values).tolist()]
    return [f"{v!r} {unit}" for v in plain] if unit else list(plain)


def _checked_axes(axes: Mapping[str, Any]) -> dict[str, tuple[Value, ...] | Range]:
    if not isinstance(axes, Mapping) or not axes:
        raise DataError("a space needs at least one axis, as in axes: {hardware.N: [64, 128]}")
    return {str(name): v if isinstance(v, Range) else _values(str(name), v) for name, v in axes.items()}


def _values(name: str, values: Any) -> tuple[Value, ...]:
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise DataError(f"axis '{name}': expected a list of values, found {values!r}")
    plain = tuple(v.item() if isinstance(v, np.generic) else v for v in values)
    if not plain:
        raise DataError(f"axis '{name}': the list of values is empty")
    for v in plain:
        if not isinstance(v, (str, int, float, bool)) or (isinstance(v, float) and not math.isfinite(v)):
            shown = v if isinstance(v, float) else f"{type(v).__name__} {getattr(v, 'name', '')}".strip()
            raise DataError(f"axis '{name}': expected finite numbers or texts, found {shown}")
    seen = {(type(v) is bool, v) for v in plain}
    if len(seen) < len(plain):
        twice = next(v for i, v in enumerate(plain) if v in plain[:i])
        raise DataError(f"axis '{name}': {twice!r} is given twice")
    return plain


def _texts(where: Any) -> tuple[str, ...]:
    if isinstance(where, str):
        return (where,)
    if not isinstance(where, Sequence):
        raise DataError(f"where: expected a list of constraints, found {where!r}")
    return tuple(where)


def _derived_formulas(axes: Mapping[str, Any], derived: Mapping[str, Any]) -> dict[str, tuple[Formula, str]]:
    out: dict[str, tuple[Formula, str]] = {}
    for name, given in derived.items():
        if name in axes:
            raise DataError(f"derive: '{name}' is an axis already")
        one = given if isinstance(given, Derived) else Derived(given)
        out[name] = (read_formula(one.formula, (*axes, *out), where=f"derive: {name}"), one.unit)
    return out


class Points(Protocol):
    """What a sweep needs of its points: a `Space`, or points listed one by one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all axes."""

    def __len__(self) -> int: ...

    def coded(self, positions: Any) -> dict[str, Coded]:
        """Return the points at some positions as one coded column an axis."""

    def positions(self, points: Mapping[str, Coded]) -> Any:
        """Return the positions of some points; -1 for those that are none."""

    def run(self, start: int, most: int) -> int:
        """Return how many points from a position on make a good batch, at most so many."""


def _recoded(column: Coded, values: Sequence[Value]) -> Any:
    """Return the entries of a column by their place among other values; -1 where they are none of those."""
    place = {(type(v), v): i for i, v in enumerate(values)}
    codes = np.array([place.get((type(v), v), -1) for v in column.values], dtype=np.int64)
    return codes[column.which]


def _looked_up(pairs: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return where some rows lie among others, and whether they do; both given by columns of whole numbers."""
    own, asked = np.zeros(len(pairs[0][0]), dtype=np.int64), np.zeros(len(pairs[0][1]), dtype=np.int64)
    found = np.ones(len(asked), dtype=bool)
    for column, wanted in pairs:
        width = max(int(column.max()), int(wanted.max(initial=0))) + 1
        distinct, own = np.unique(own * width + column, return_inverse=True)
        keys = asked * width + wanted
        asked = np.minimum(np.searchsorted(distinct, keys), len(distinct) - 1)
        found &= distinct[asked] == keys
    order = np.argsort(own)
    return order[asked], found


def _magnitudes(column: Coded) -> Any:
    """Return the magnitudes of a column; each distinct value is read once."""
    return magnitudes(column.values)[column.which]


def _kept(space: Space, constraints: Sequence[Formula]) -> Any:
    """Return the positions that meet every constraint."""
    used = {axis for c in constraints for axis in c.axes.values()}
    found = []
    for start in range(0, space._size, _BLOCK):
        flat = np.arange(start, min(start + _BLOCK, space._size))
        columns = {name: _magnitudes(c) for name, c in space._at(flat).items() if name in used}
        keep = np.ones(len(flat), dtype=bool)
        for c in constraints:
            keep &= np.asarray(value_of(c, columns), dtype=bool)
        found.append(flat[keep])
    kept = np.concatenate(found)
    if not len(kept) and space.drawn is None:
        listed = ", ".join(f"'{c.text}'" for c in constraints)
        raise DataError(f"where: no point of {space._size:,} meets {listed}")
    return kept


def _draw(
    axes: Mapping[str, Any], levels: Mapping[str, tuple[Value, ...]], samples: int, seed: int, design: str
) -> dict[str, Coded]:
    """Return the points of a design as one column an axis; some may be the same."""
    if not isinstance(samples, int) or isinstance(samples, bool) or not 1 <= samples <= MOST_POINTS:
        raise DataError(f"samples: expected a whole number from 1, found {samples!r}")
    if design not in DESIGNS:
        raise DataError(f"design: unknown design '{design}'; {nearest(str(design), DESIGNS)}")
    unit = DESIGNS[design](len(axes), samples, seed)
    out = {}
    for (name, values), u in zip(axes.items(), unit.T, strict=True):
        if isinstance(values, Range):
            out[name] = coded(values.at(u))
        else:
            out[name] = Coded(levels[name], np.minimum((u * len(values)).astype(np.int64), len(values) - 1))
    return out


def _distinct(columns: Mapping[str, Coded]) -> dict[str, Coded]:
    """Return the points that differ, each where it comes first."""
    _, firsts = np.unique(np.stack([c.which for c in columns.values()]), axis=1, return_index=True)
    return {name: column.at(np.sort(firsts)) for name, column in columns.items()}
