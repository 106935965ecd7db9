"""The mask of a cascade's own text: which key tiles each query tile visits under any `where`, exact."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsum_cascade.analysis.indices import merged_splits
from einsum_cascade.analysis.intervals import alternatives
from einsum_cascade.analysis.points import live_parts, numbers_of
from einsum_cascade.analysis.predicates import components, count
from einsum_cascade.analysis.tile_pairs import Axes, tile_pairs
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of, variable_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import DataError
from einsum_cascade.expr import Access, Expr, Size, variables, walk
from einsum_cascade.sizes import BATCH_RANKS, resolve

from .call import whole
from .visits import Visits

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mask:
    """Which keys each query sees.

    Attributes:
        name: of the cascade.
        parts: predicates over coordinates, all of which have to hold.
        queries, keys: variables and their extents, outermost first; a kernel takes them row by row.
        numbers: sizes and constants in the predicates.
    """

    name: str
    parts: tuple[Expr, ...]
    queries: tuple[tuple[str, int], ...]
    keys: tuple[tuple[str, int], ...]
    numbers: tuple[tuple[str, float], ...]

    @property
    def pairs(self) -> int:
        """Visible (query, key) pairs."""
        return count(self.parts, dict(self.queries + self.keys), dict(self.numbers))

    @property
    def tests(self) -> int:
        """Comparisons that a masked tile makes for each score at the most: those of all alternatives."""
        return sum(len(term) for term in alternatives(self.parts))

    @property
    def seq_q(self) -> int:
        """Queries of all axes."""
        return math.prod(n for _, n in self.queries)

    @property
    def seq_kv(self) -> int:
        """Keys of all axes."""
        return math.prod(n for _, n in self.keys)


@dataclass(frozen=True, slots=True)
class MaskTiles:
    """Tiles under a mask, of one head.

    Attributes:
        full: of each query tile, key tiles all of whose pairs are visible; `masked`: visited, and not full.
        kv_tiles: key tiles of dense attention for each query tile; `pairs`: visible ones.
    """

    full: Ints
    masked: Ints
    kv_tiles: int
    pairs: int

    @property
    def visited(self) -> int:
        """Tile pairs that are computed."""
        return int(self.full.sum() + self.masked.sum())

    @property
    def skipped(self) -> int:
        """Tile pairs that nobody computes."""
        return len(self.full) * self.kv_tiles - self.visited


def mask_tiles(
    cascade: Cascade, sizes: Mapping[str, int], *, q_tile: Sequence[int], kv_tile: Sequence[int]
) -> MaskTiles:
    """Return the tiles that the `where` of a cascade leaves, for tiles with an extent along each axis.

    Predicates that share no variable are counted apart and multiplied: a neighbourhood of three axes costs what its
    axes cost. What binds axes together is counted tile by tile.

    Args:
        sizes: of the ranks of the queries, the keys and the predicates, as for `evaluate`; others do not matter.
        q_tile: queries of a tile along each axis, outermost first; `kv_tile`: keys.

    Raises:
        ModelError: no mask, a size missing, another number of axes, or too many points to look at.

    >>> from einsum_cascade import zoo
    >>> found = mask_tiles(zoo.load("attention_causal"), {"P": 512, "M": 512}, q_tile=[128], kv_tile=[64])
    >>> found.full.tolist(), found.masked.tolist(), found.skipped
    ([0, 2, 4, 6], [2, 2, 2, 2], 12)
    """
    mask = mask_of(cascade, sizes)
    for name, axes, tile in (("q_tile", mask.queries, q_tile), ("kv_tile", mask.keys, kv_tile)):
        if len(tile) != len(axes) or min(tile) < 1:
            along = ", ".join(rank_of(v) for v, _ in axes)
            raise DataError(
                f"{name}: expected an extent of at least 1 along each of {along}, found {list(tile)}"
            )
    tiles = dict(zip((v for v, _ in mask.queries + mask.keys), (*q_tile, *kv_tile), strict=True))
    visited, full = np.ones((2, *(-(-n // tiles[v]) for v, n in mask.queries)), dtype=np.int64)
    used: set[str] = set()
    for names, group in components(mask.parts):
        used |= set(names)
        rows, columns = (_axes(side, tiles, names) for side in (mask.queries, mask.keys))
        seen, whole = _by_rows(group, rows, columns, dict(mask.numbers))
        shape = [-(-n // tiles[v]) if v in names else 1 for v, n in mask.queries]
        visited, full = visited * seen.reshape(shape), full * whole.reshape(shape)
    for v, n in mask.keys:
        if v not in used:
            visited, full = visited * -(-n // tiles[v]), full * (n // tiles[v])
    kv_tiles = math.prod(-(-n // tiles[v]) for v, n in mask.keys)
    return MaskTiles(full.ravel(), (visited - full).ravel(), kv_tiles, mask.pairs)


def _axes(side: tuple[tuple[str, int], ...], tiles: Mapping[str, int], names: Sequence[str]) -> Axes:
    own = [(v, n) for v, n in side if v in names]
    return Axes(tuple(v for v, _ in own), tuple(n for _, n in own), tuple(tiles[v] for v, _ in own))


def _by_rows(
    parts: Sequence[Expr], rows: Axes, columns: Axes, numbers: Mapping[str, float], group: int = 1
) -> tuple[Ints, Ints]:
    """Return the column tiles that each row tile visits, and those of them that are full."""
    sizes = _rows_of_tiles(rows, group)
    seen, whole = [], []
    for first, kept in tile_pairs(parts, rows, columns, numbers, group=group):
        seen.append((kept > 0).sum(axis=1))
        # A tile that the end of an axis cuts off needs its mask; a row tile that it cuts off has fewer rows.
        whole.append((kept == sizes[first : first + len(kept), None] * columns.whole).sum(axis=1))
    return np.concatenate(seen), np.concatenate(whole)


def _rows_of_tiles(rows: Axes, group: int) -> Ints:
    if group == 1:
        return rows.sizes()
    count, tile = rows.points * group, rows.tile[0]
    return np.diff(np.append(np.arange(0, count, tile), count))


@functools.lru_cache(maxsize=256)
def mask_visits(mask: Mask, *, query: int, key: int, group: int = 1, by_keys: bool = False) -> Visits:
    """Return the visits of one call whose tiles cut the queries and the keys row by row.

    Args:
        query: rows of a tile; `key`: its columns.
        group: query heads that are packed as neighbouring rows.
        by_keys: a block owns `query` keys and walks over the queries, `key` at a time.
    """
    numbers = dict(mask.numbers)
    if by_keys:
        rows, columns = _flat(mask.queries, key), _flat(mask.keys, query)
        sizes = columns.sizes()
        seen = whole = np.zeros(columns.tiles, dtype=np.int64)
        for _, kept in tile_pairs(mask.parts, rows, columns, numbers):
            seen = seen + (kept > 0).sum(axis=0)
            whole = whole + (kept == sizes[None, :] * rows.whole).sum(axis=0)
        rows, columns = columns, rows
    else:
        rows, columns = _flat(mask.queries, query), _flat(mask.keys, key)
        seen, whole = _by_rows(mask.parts, rows, columns, numbers, group)
    return Visits(whole[None], (seen - whole)[None], np.array([len(seen)]), np.array([columns.tiles]))


def _flat(side: tuple[tuple[str, int], ...], tile: int) -> Axes:
    return Axes(tuple(v for v, _ in side), tuple(n for _, n in side), (tile,))


def masked_sizes(cascade: Cascade, sizes: Mapping[str, Any]) -> tuple[Mask, dict[str, Any]]:
    """Return the mask of a cascade at the sizes of a call, and the sizes that are the kernel's.

    Args:
        sizes: of the call, and of ranks of the cascade; lengths that one of them does not say follow from the other.

    >>> from einsum_cascade import zoo
    >>> mask, rest = masked_sizes(zoo.load("attention_sliding_window"), {"seq_q": "1K", "W": 128, "heads": 8})
    >>> mask.pairs, sorted(rest.items())
    (122944, [('heads', 8), ('seq_kv', 1024), ('seq_q', 1024)])
    """
    ranks = {n: whole(n, v) for n, v in sizes.items() if n in cascade.rank_names}
    rest = {n: v for n, v in sizes.items() if n not in ranks}
    lengths = {n: whole(n, sizes[n]) for n in ("seq_q", "seq_kv") if n in sizes}
    if "seq_q" in lengths:
        lengths.setdefault("seq_kv", lengths["seq_q"])
    mask = mask_of(cascade, ranks, soft=lengths)
    if not mask.pairs:
        raise DataError(f"{cascade.name}: expected a mask that leaves a score at these sizes; it leaves none")
    return mask, rest | {"seq_q": mask.seq_q, "seq_kv": mask.seq_kv} | lengths


def mask_of(cascade: Cascade, sizes: Mapping[str, int], *, soft: Mapping[str, int] | None = None) -> Mask:
    """Return the mask of a cascade's scores: every condition under which one exists, inherited ones too.

    Args:
        sizes: of ranks; `soft`: "seq_q" and "seq_kv" for a side of one rank that `sizes` does not name.

    Raises:
        ModelError: no static `where` over queries and keys, several masks, or a size missing.

    >>> from einsum_cascade import zoo
    >>> mask_of(zoo.load("attention_sliding_window"), {"P": 1024, "M": 1024, "W": 128}).pairs
    122944
    """
    einsum, queries, keys = _scores(cascade)
    parts = _parts(cascade, einsum)
    given = dict(sizes)
    for side, name in ((queries, "seq_q"), (keys, "seq_kv")):
        ranks = _ranks(cascade, side)
        if soft and name in soft and len(ranks) == 1 and not any(rank_of(v) in given for v in side):
            given.setdefault(ranks[0], soft[name])
    told = {*_ranks(cascade, (*queries, *keys)), *_mentioned(cascade, parts)}
    rest = {r: 1 for r in cascade.free_ranks if r not in told}
    known = resolve(cascade, given, soft=rest)
    merged, extents = merged_splits(cascade, list(parts), (*queries, *keys), known)
    numbers = {n: float(v) for n, v in numbers_of(cascade, known).items()}
    names = {n.name for p in merged for n in walk(p) if isinstance(n, Size)}
    return Mask(
        cascade.name,
        tuple(merged),
        _extents(cascade, queries, extents),
        _extents(cascade, keys, extents),
        tuple(sorted((n, v) for n, v in numbers.items() if n in names)),
    )


def _scores(cascade: Cascade) -> tuple[Einsum, tuple[str, ...], tuple[str, ...]]:
    """Return the last Einsum of the masked scores, and its variables of queries and of keys."""
    written = {e.name: e for e in cascade.einsums}
    results = {v for s in cascade.outputs if s.tensor in written for v in written[s.tensor].output_variables}
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Einsum]] = {}
    for einsum in cascade.einsums:
        names = [v for v in einsum.output_variables if rank_of(v) not in BATCH_RANKS]
        queries = tuple(v for v in names if v in results)
        keys = tuple(v for v in names if v not in results)
        over = [set(variables(p)) for p in _parts(cascade, einsum)]
        if any(own & set(queries) and own & set(keys) for own in over):
            found.setdefault((queries, keys), []).append(einsum)
    if not found or any(_gathers(e) for e in cascade.einsums):
        raise DataError(
            f"{cascade.name}: expected a `where` over queries and keys, and neither it nor an index that reads data"
        )
    last = {sides: each[-1] for sides, each in found.items()}
    widest = max(last, key=lambda sides: len(sides[1]))
    mine = set(_parts(cascade, last[widest]))
    others = [e for each in found.values() for e in each if not set(_parts(cascade, e)) <= mine]
    if others:
        raise DataError(
            f"{cascade.name}: expected one mask; found those of {last[widest].name} and of {others[0].name}"
        )
    return last[widest], *widest


def _gathers(einsum: Einsum) -> bool:
    """Tell whether an Einsum reads at places that data names."""
    read = (node for node in walk(einsum.value) if isinstance(node, Access))
    return any(isinstance(inner, Access) for node in read for index in node.indices for inner in walk(index))


def _parts(cascade: Cascade, einsum: Einsum) -> tuple[Expr, ...]:
    """Return the conditions of an Einsum over the variables of its target."""
    names = set(einsum.output_variables)
    return tuple(p for p in live_parts(cascade, einsum) if set(variables(p)) <= names)


def _ranks(cascade: Cascade, side: Sequence[str]) -> tuple[str, ...]:
    """Return the ranks of variables, a split rank in place of its parts."""
    whole = {part: name for name, parts in cascade.splits.items() for part in parts}
    return tuple(dict.fromkeys(whole.get(rank_of(v), rank_of(v)) for v in side))


def _mentioned(cascade: Cascade, parts: Sequence[Expr]) -> Iterator[str]:
    """Yield the ranks that predicates name, those behind constants and derived ranks included."""
    defined = {c.name: c.value for c in cascade.constants}
    defined |= {r.name: r.size for r in cascade.ranks if r.size is not None}
    open_parts, seen = list(parts), set[str]()
    while open_parts:
        for node in walk(open_parts.pop()):
            if isinstance(node, Size) and node.name not in seen:
                seen.add(node.name)
                yield node.name
                if node.name in defined:
                    open_parts.append(defined[node.name])


def _extents(
    cascade: Cascade, side: Sequence[str], extents: Mapping[str, int]
) -> tuple[tuple[str, int], ...]:
    """Return the variables of a side with their extents; a split that stands as one variable is one."""
    names = [v if v in extents else variable_of(_ranks(cascade, (v,))[0]) for v in side]
    return tuple((v, extents[v]) for v in dict.fromkeys(names))
