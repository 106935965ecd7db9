"""What a `where` leaves of a nest: how many steps have anything to do, however the loops are cut into tiles.

An array works in lock-step: a setting of all temporal loops is one step of all its elements.

* A step without a point is skipped: masks are arithmetic on coordinates, so a sequencer knows before it begins.
  A step with one point or more takes all its cycles, and every element spends its energy: an element of such an array
  has no switch of its own, and what it computes at a masked point is overwritten.
* A tile is moved in every setting of the loops that step over it in which a step is done, and it is moved whole.
* A result that no point reaches is written all the same, with the value of a reduction without terms.
* A predicate that reads data removes nothing, for which points it removes is known to the data alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from einsum_cascade.analysis.indices import merged_splits
from einsum_cascade.analysis.points import live_parts
from einsum_cascade.analysis.tile_points import live_settings
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Compare, Expr, Size, Var, variables, walk
from einsum_cascade.ops import REDUCTION

from ..identity import Same
from .factors import divisors
from .idle import Removed
from .live_tiles import live_tiles
from .nest import Count, Nest, SizeTable

# Up to so many combinations of tile sizes all are counted at once, beyond only those in question.
_MOST_TILES = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """The points that exist, over the loops of a nest.

    Attributes:
        parts: static predicates; a point exists where all hold.
        loops: loops over each variable of the predicates, outermost first.
        names: sizes and constants in the predicates.
        ends: variables whose loops may run beyond the end of their rank, and these ranks.
        own: all loops over the variables of the predicates.
    """

    parts: tuple[Expr, ...]
    loops: tuple[tuple[str, tuple[str, ...]], ...]
    names: tuple[str, ...]
    ends: tuple[tuple[str, str], ...] = ()
    own: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        # Asked for at every count, and the same in all of them.
        object.__setattr__(self, "own", tuple(part for _, parts in self.loops for part in parts))


@dataclass(frozen=True, slots=True)
class Live:
    """The masks of an Einsum.

    Attributes:
        whole: of its iteration space; None where every point exists.
        works: of the space of each of its kinds of work, in the order of the nest.
        written: of its results, those that no point reaches included: a sum or a maximum of nothing is written too.
    """

    whole: Mask | None = None
    works: tuple[Mask | None, ...] = ()
    written: Mask | None = None

    def of_work(self, position: int) -> Mask | None:
        """Return the mask of a kind of work."""
        return self.works[position] if self.works else None

    def changed(self, change: Callable[[Mask], Mask | None]) -> Live:
        """Return what a change makes of each mask; one mask stays one: its points are met at the same time."""
        made = {mask: mask and change(mask) for mask in (self.whole, self.written, *self.works)}
        return Live(made[self.whole], tuple(made[mask] for mask in self.works), made[self.written])


DENSE = Live()


def live_of(
    cascade: Cascade,
    einsum: Einsum,
    nest: Nest,
    parts_of: Mapping[str, tuple[str, ...]],
    removed: Removed | None,
) -> Live:
    """Return the masks of an Einsum in its nest.

    Args:
        cascade: the algorithm.
        einsum: one of it.
        nest: its loops.
        parts_of: parts of each split rank, outermost first.
        removed: what else removes its points, because it would leave every state as it was.
    """
    conditions = live_parts(cascade, einsum)
    spaces = dict.fromkeys((einsum.variables, *(action.variables for action in einsum.actions)))
    masks = {space: _mask(cascade, nest, conditions, space, parts_of, removed) for space in spaces}
    whole = masks[einsum.variables]
    if whole is None:
        return DENSE
    # A selection among nothing gives nothing, and a state that stays as it was is not written.
    selects = any(REDUCTION[r.op].index for r in einsum.all_reductions)
    complete = not einsum.reduced or selects or removed is not None
    results, exist = einsum.output_variables, live_parts(cascade, einsum, outputs=True)
    written = whole if complete else _mask(cascade, nest, exist, results, parts_of, removed)
    return Live(whole, tuple(masks[action.variables] for action in einsum.actions), written)


def _mask(
    cascade: Cascade,
    nest: Nest,
    conditions: Sequence[Expr],
    space: tuple[str, ...],
    parts_of: Mapping[str, tuple[str, ...]],
    removed: Removed | None,
) -> Mask | None:
    inside = [c for c in conditions if set(variables(c)) <= set(space)]
    if removed is not None:
        inside += removed.parts
        space = tuple(dict.fromkeys((*space, *removed.seen)))
    if not inside:
        return None
    ones = dict.fromkeys((*cascade.rank_names, *(rank_of(v) for v in space)), 1)
    merged, _ = merged_splits(cascade, inside, space, ones)
    before, after = (tuple(dict.fromkeys(v for p in ps for v in variables(p))) for ps in (inside, merged))
    replaced = [v for v in before if v not in after]
    loops = []
    for v in after:
        digits = (v,) if v in space else _digits(cascade, v, replaced)
        loops.append((v, tuple(loop for d in digits for loop in _loops(nest, d, parts_of))))
    names = sorted({n.name for part in merged for n in walk(part) if isinstance(n, Size)})
    return Mask(_one(tuple(merged)), tuple(loops), tuple(names))


@functools.lru_cache(maxsize=1024)
def _one(parts: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Return one and the same object for equal predicates: what is counted for one is known for all."""
    return parts


def _digits(cascade: Cascade, variable: str, replaced: Sequence[str]) -> tuple[str, ...]:
    """Return the variables that one stands for, outermost first: m1 and m0 for the m that replaced m1*M0 + m0.

    A part may have been put together itself: m1, m0 and n for the d that replaced (m1*M0 + m0)*N + n.
    """
    ranks = {rank_of(v): v for v in replaced}
    known = {**{cascade.aliases.get(r, r): v for r, v in ranks.items()}, **ranks}

    def of(rank: str) -> tuple[str, ...]:
        if rank in known:
            return (known[rank],)
        return tuple(v for part in cascade.splits[cascade.aliases.get(rank, rank)] for v in of(part))

    return tuple(v for part in cascade.splits[rank_of(variable)] for v in of(part))


def _loops(nest: Nest, variable: str, parts_of: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the loops over a variable, outermost first; the whole rank for one that the nest does not loop over."""
    rank = rank_of(variable)
    found = {loop.part for loop in (*nest.time, *nest.space) if loop.variable == variable}
    return tuple(p for p in parts_of.get(rank, ()) if p in found) or (rank,)


def settings(mask: Mask | None, loops: tuple[str, ...], sizes: SizeTable) -> Count:
    """Return how many settings of some loops leave a point.

    Args:
        mask: the points that exist; None for all.
        loops: names of loops.
        sizes: of loops, ranks and constants; arrays of many design points too. It remembers the answer.

    Raises:
        CascadeError: there are too many points to look at.
    """
    if mask is None:
        return sizes[loops]
    sizes = sizes.across(mask.own)
    found = sizes.get((mask, loops))
    if found is None:
        found = sizes[mask, loops] = _settings(mask, loops, sizes)
    return found


def _settings(mask: Mask, loops: tuple[str, ...], sizes: SizeTable) -> Count:
    own = mask.own
    kept = frozenset(loops).intersection(own)
    free = sizes[tuple(p for p in loops if p not in kept)]
    values = [sizes[name] for name in (*own, *mask.names, *(rank for _, rank in mask.ends))]
    if not any(isinstance(v, np.ndarray) for v in values):
        return free * _counted(mask, kept, tuple(values))
    found = _of_tiles(mask, kept, sizes)
    if found is not None:
        return free * found
    spread = np.broadcast_arrays(*values)
    distinct, which = np.unique(np.stack([v.ravel() for v in spread]), axis=1, return_inverse=True)
    found = np.array(
        [_counted(mask, kept, tuple(column.tolist())) for column in distinct.T], dtype=np.float64
    )
    return free * found[which.ravel()].reshape(spread[0].shape)


def settings_of_tiles(mask: Mask | None, loops: tuple[str, ...], sizes: SizeTable) -> Count:
    """Return the same as `settings`; what is counted on the way answers for all tile sizes."""
    if mask is None:
        return sizes[loops]
    kept = frozenset(loops).intersection(mask.own)
    found = _of_tiles(mask, kept, sizes)
    return (
        settings(mask, loops, sizes)
        if found is None
        else found * sizes[tuple(p for p in loops if p not in kept)]
    )


def _of_tiles(mask: Mask, kept: frozenset[str], sizes: SizeTable) -> Count | None:
    """Return what the sizes of tiles say, from a table of all; None where more than those differs between points."""
    cut = tuple((v, parts, sum(p in kept for p in parts)) for v, parts in mask.loops)
    key = (Same(mask.parts), cut)
    if key in sizes:
        return sizes[key]
    found = None
    known = not any(isinstance(sizes[name], np.ndarray) for name in mask.names)
    if known and all(kept.issuperset(parts[:told]) for _, parts, told in cut):
        found = _tabled(mask, cut, sizes)
    sizes[key] = found
    return found


def _tabled(mask: Mask, cut: tuple[tuple[str, tuple[str, ...], int], ...], sizes: SizeTable) -> Count | None:
    ends = dict(mask.ends)
    wholes = [np.asarray(sizes[ends[v]] if v in ends else sizes[parts]) for v, parts, _ in cut]
    if any((whole != whole.flat[0]).any() for whole in wholes):
        return None
    extents = [int(whole.flat[0]) for whole in wholes]
    every = math.prod(len(divisors(n)) for n in extents) <= _MOST_TILES
    tables: dict[str, tuple[int, tuple[int, ...]]] = {}
    places = []
    for size, (variable, parts, told) in zip(extents, cut, strict=True):
        width = sizes[parts[told:]]
        tiles = divisors(size) if every else ()
        at = np.searchsorted(tiles, width)
        if not every or (np.take(tiles, at, mode="clip") != width).any():
            tiles = tuple(np.unique(width).astype(np.int64).tolist())
            at = np.searchsorted(tiles, width)
        tables[variable] = size, tiles
        places.append(at)
    numbers = tuple((name, sizes[name]) for name in mask.names)
    return _table(Same(mask.parts), tuple(tables.items()), numbers)[tuple(places)]


@functools.lru_cache(maxsize=4096)
def _table(
    parts: Same[tuple[Expr, ...]], cuts: tuple[Any, ...], numbers: tuple[tuple[str, float], ...]
) -> Any:
    return live_tiles(parts.it, dict(cuts), dict(numbers))


@functools.lru_cache(maxsize=65536)
def _counted(mask: Mask, kept: frozenset[str], values: tuple[float, ...]) -> int:
    names = dict.fromkeys((*mask.names, *(rank for _, rank in mask.ends)))
    of = dict(zip((*mask.own, *mask.names, *(rank for _, rank in mask.ends)), values, strict=True))
    digits = tuple((v, tuple((int(of[p]), p in kept) for p in parts)) for v, parts in mask.loops)
    beyond = tuple((v, rank) for v, rank in mask.ends if math.prod(n for n, _ in dict(digits)[v]) > of[rank])
    parts = _bounded(Same(mask.parts), beyond) if beyond else mask.parts
    return _left(Same(parts), digits, tuple((n, of[n]) for n in names))


@functools.lru_cache(maxsize=1024)
def _bounded(parts: Same[tuple[Expr, ...]], ends: tuple[tuple[str, str], ...]) -> tuple[Expr, ...]:
    """Return predicates with the ends of ranks."""
    return _one((*parts.it, *(Compare(("<",), (Var(v), Size(rank))) for v, rank in ends)))


@functools.lru_cache(maxsize=65536)
def _left(
    parts: Same[tuple[Expr, ...]],
    digits: tuple[tuple[str, tuple[tuple[int, bool], ...]], ...],
    numbers: tuple[tuple[str, float], ...],
) -> int:
    return live_settings(parts.it, dict(digits), dict(numbers))
