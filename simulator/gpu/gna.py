"""Exact speedup bounds of generalised neighbourhood attention (GNA) for a window, a stride and a pair of tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import index
from typing import Any, NamedTuple

import numpy as np

from einsum_cascade.errors import MappingError

from .gna_axis import Axis, AxisCounts, Ints, count_axis, dilation_classes

Numbers = int | Sequence[int]
Flags = bool | Sequence[bool]

_MEANING = (
    ("flop_speedup", "FLOP bound", "all pairs / unmasked pairs: what no tiling can beat"),
    ("tile_speedup", "tile bound", "KV tiles of dense attention / KV tiles visited, over all Q tiles: exact"),
    (
        "worst_tile_speedup",
        "worst-tile figure",
        "KV tiles / those of the worst Q tile: published as NATTENSim; no bound",
    ),
)


@dataclass(frozen=True, slots=True)
class GnaBounds:
    """Counts and speedup bounds of one setting, for one head and a batch of one.

    Attributes:
        axes: the setting, axis by axis, outermost first.
        q_tiles: Q tiles launched; the padding of every axis and dilation class is in them.
        kv_tiles: KV tiles that the padded keys fill.
        visited: (Q tile, KV tile) pairs that are computed.
        dense: those of them without a masked or padded key for any real query.
        partial: the others.
        pairs: unmasked (query, key) pairs.
        per_q_min: fewest KV tiles of a Q tile.
        per_q_max: most KV tiles of a Q tile.
        natten_masked: visits that NATTEN's kernels send through the neighbourhood mask.
        natten_bounds_masked: visits on its fast path that still get the cheaper mask of padded keys.
    """

    axes: tuple[Axis, ...]
    q_tiles: int
    kv_tiles: int
    visited: int
    dense: int
    partial: int
    pairs: int
    per_q_min: int
    per_q_max: int
    natten_masked: int
    natten_bounds_masked: int

    @property
    def tokens(self) -> int:
        """Tokens of the whole layout."""
        return prod(axis.length for axis in self.axes)

    @property
    def dense_tiles(self) -> int:
        """Tile pairs of dense attention over the same tokens, flattened, with tiles of the same size."""
        q, kv = prod(axis.q_tile for axis in self.axes), prod(axis.kv_tile for axis in self.axes)
        return -(-self.tokens // q) * -(-self.tokens // kv)

    @property
    def flop_speedup(self) -> float:
        """All pairs / unmasked pairs."""
        return self.tokens**2 / self.pairs

    @property
    def tile_speedup(self) -> float:
        """KV tiles of dense attention / KV tiles visited, summed over the Q tiles."""
        return self.dense_tiles / self.visited

    @property
    def padded_tile_speedup(self) -> float:
        """The same with dense attention padded as the layout is: every Q tile x every KV tile."""
        return self.q_tiles * self.kv_tiles / self.visited

    @property
    def worst_tile_speedup(self) -> float:
        """KV tiles / KV tiles of the worst Q tile: the figure published as NATTENSim's, which is not a bound."""
        return self.kv_tiles / self.per_q_max

    @property
    def fully_block_sparse(self) -> bool:
        """Exactly: no visited tile needs a mask."""
        return self.partial == 0

    @property
    def natten_fast_path(self) -> bool:
        """NATTEN's own, sufficient, condition for leaving its neighbourhood mask out of the whole launch."""
        return self.natten_masked == 0

    @property
    def natten_mask_missing(self) -> bool:
        """NATTEN would leave out a mask that is needed: its condition is not sufficient for every pair of tiles.

        Only said where nothing else explains a partial visit: no padded keys, no Q tile that is all padding.
        """
        explained = self.natten_bounds_masked or any(axis.idle_q_tiles for axis in self.axes)
        return self.natten_fast_path and not self.fully_block_sparse and not explained

    def as_dict(self) -> dict[str, Any]:
        """Return every number by name, the setting first."""
        names = ("layout", "window", "stride", "dilation", "causal", "q_tile", "kv_tile")
        setting = {name: [getattr(axis, _field(name)) for axis in self.axes] for name in names}
        counts = ("q_tiles", "kv_tiles", "visited", "dense", "partial", "pairs", "per_q_min", "per_q_max")
        ratios = ("flop_speedup", "tile_speedup", "padded_tile_speedup", "worst_tile_speedup")
        flags = ("fully_block_sparse", "natten_fast_path", "natten_mask_missing")
        masks = ("natten_masked", "natten_bounds_masked")
        numbers = {name: getattr(self, name) for name in (*counts, *ratios, *flags, *masks)}
        return {**setting, "dynamic": self.axes[0].dynamic, **numbers}

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the table for people: quantity, value, what it means."""
        speedups = [(label, f"{getattr(self, name):.4g}x", why) for name, label, why in _MEANING]
        spread = f"{self.per_q_min:,} to {self.per_q_max:,}"
        natten = "mask-free path" if self.natten_fast_path else f"{self.natten_masked:,} visits masked"
        if self.natten_mask_missing:
            natten = "mask missing"
        return [
            *speedups,
            (
                "fully block-sparse",
                "yes" if self.fully_block_sparse else "no",
                "exact: no visited tile needs a mask",
            ),
            ("NATTEN's fast path", natten, "its kernels mask every visited tile of a class or none"),
            ("Q tiles", f"{self.q_tiles:,}", "launched, padding included"),
            ("KV tiles", f"{self.kv_tiles:,}", "of the padded keys"),
            (
                "visited",
                f"{self.visited:,}",
                f"tile pairs computed, of {self.dense_tiles:,} in dense attention",
            ),
            (
                "dense / partial",
                f"{self.dense:,} / {self.partial:,}",
                "visits without / with masked or padded keys",
            ),
            ("per Q tile", spread, "fewest and most KV tiles of one Q tile"),
            ("pairs", f"{self.pairs:,}", f"unmasked, of {self.tokens**2:,}"),
        ]

    @property
    def title(self) -> str:
        """The setting in one line."""
        setting = " ".join(title_words(self.axes, ("window", "stride", "dilation", "causal")))
        tiling = "dynamic " if self.axes[0].dynamic else ""
        tiles = " / ".join(_shape(self.axes, name) for name in ("q_tile", "kv_tile"))
        return f"GNA {setting}, {tiling}tiles {tiles}"

    def __str__(self) -> str:
        widths = [max(len(row[i]) for row in self.rows()) for i in (0, 1)]
        lines = (f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c}" for a, b, c in self.rows())
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        body = "".join(f"<tr><th>{a}</th><td>{b}</td><td>{c}</td></tr>" for a, b, c in self.rows())
        return f"<table><caption>{self.title}</caption>{body}</table>"


def title_words(axes: Sequence[Axis], names: Sequence[str]) -> Iterator[str]:
    """Yield the layout and those settings of the axes by name; dilation and causality only where there are any.

    >>> " ".join(title_words([Axis(64, 8, causal=True), Axis(32, 4)], ("window", "dilation", "causal")))
    '64,32 window 8,4 causal 1,0'
    """
    yield _shape(axes, "length")
    for name in names:
        plain = {"dilation": 1, "causal": False}.get(name)
        if any(getattr(axis, name) != plain for axis in axes):
            yield f"{name} {_shape(axes, name)}"


def _shape(axes: Sequence[Axis], name: str) -> str:
    return ",".join(str(int(getattr(axis, name))) for axis in axes)


class GridCounts(NamedTuple):
    """Counts of a whole grid of settings: one dimension an axis of the layout.

    Attributes:
        visited: tile pairs computed.
        dense: those without a masked key.
        pairs: unmasked pairs.
        per_q_min: fewest KV tiles of a Q tile.
        per_q_max: most KV tiles of a Q tile.
        fast: visits on NATTEN's mask-free path.
    """

    visited: Ints
    dense: Ints
    pairs: Ints
    per_q_min: Ints
    per_q_max: Ints
    fast: Ints


def gna_bounds(
    *,
    layout: Numbers,
    window: Numbers,
    stride: Numbers = 1,
    dilation: Numbers = 1,
    causal: Flags = False,
    q_tile: Numbers,
    kv_tile: Numbers,
    dynamic: bool = False,
) -> GnaBounds:
    """Return the exact tile counts and speedup bounds of one GNA setting.

    Args:
        layout: tokens per axis, one to three axes, outermost first. Everything else is given per axis too; a single
            number holds for all of them.
        window: keys per axis that a query sees.
        stride: queries per axis that share a window; 1 is neighbourhood attention, the window blocked attention.
        dilation: step between the keys of a window.
        causal: axes on which nothing behind the query is seen.
        q_tile: shape of a Q tile.
        kv_tile: shape of a KV tile.
        dynamic: KV tiles start at the window of their Q tile (cutlass-fna) instead of on a grid (Hopper, Blackwell).

    Raises:
        MappingError: a number out of range, a window longer than its axis, a stride longer than its window.

    Source: semantics of NATTEN 0.21.7 (see gna_axis.SOURCE); GNA, arXiv 2504.16922.

    >>> flux = gna_bounds(layout=(256, 256), window=80, q_tile=16, kv_tile=(16, 8))
    >>> flux.visited, flux.dense, flux.pairs, flux.per_q_min, flux.per_q_max
    (18564, 8004, 419430400, 50, 84)
    >>> round(flux.flop_speedup, 2), round(flux.tile_speedup, 2), round(flux.worst_tile_speedup, 2)
    (10.24, 7.06, 6.1)
    """
    axes = make_axes(
        layout=layout, window=window, stride=stride, dilation=dilation,
        causal=causal, q_tile=q_tile, kv_tile=kv_tile, dynamic=dynamic,
    )  # fmt: skip
    counts = [count_axis(axis) for axis in axes]
    visited, dense, pairs, least, most, fast = (
        prod(int(getattr(c, name)) for c in counts) for name in AxisCounts._fields
    )
    padded = any(_padded(axis) for axis in axes)
    return GnaBounds(
        axes=axes,
        q_tiles=prod(axis.q_tiles for axis in axes),
        kv_tiles=prod(axis.kv_tiles for axis in axes),
        visited=visited,
        dense=dense,
        partial=visited - dense,
        pairs=pairs,
        per_q_min=least,
        per_q_max=most,
        natten_masked=visited - fast,
        natten_bounds_masked=fast if padded else 0,
    )


def make_axes(
    *,
    layout: Numbers,
    window: Numbers,
    stride: Numbers = 1,
    dilation: Numbers = 1,
    causal: Flags = False,
    q_tile: Numbers,
    kv_tile: Numbers,
    dynamic: bool = False,
) -> tuple[Axis, ...]:
    """Return the checked axes of a setting; arguments as `gna_bounds` has them.

    >>> [axis.window for axis in make_axes(layout=(8, 16), window=4, q_tile=4, kv_tile=4)]
    [4, 4]
    """
    lengths = _integers("layout", layout)
    if not 1 <= len(lengths) <= 3:
        raise MappingError(f"layout: found {len(lengths)} axes, expected 1, 2 or 3")
    given = {"window": window, "stride": stride, "dilation": dilation, "q_tile": q_tile, "kv_tile": kv_tile}
    columns = {name: _per_axis(name, value, len(lengths)) for name, value in given.items()}
    columns["causal"] = _per_axis("causal", causal, len(lengths))
    if any(flag not in (0, 1) for flag in columns["causal"]):
        raise MappingError(f"causal: found {columns['causal']}, expected 0 or 1 for each axis")
    axes = []
    for i, length in enumerate(lengths):
        values: dict[str, Any] = {name: column[i] for name, column in columns.items()}
        values["causal"] = bool(values["causal"])
        try:
            axes.append(Axis(length, dynamic=bool(dynamic), **values))
        except MappingError as error:
            raise MappingError(f"axis {i}: {error}") from None
    return tuple(axes)


def grid_counts(axes: Sequence[AxisCounts]) -> GridCounts:
    """Return the counts of every combination of one entry per axis: outer products of the axes' one-dimensional tables.

    >>> across = count_axis(Axis(256, 80, q_tile=16, kv_tile=16), stride=np.array([1, 16]))
    >>> grid_counts([across, count_axis(Axis(256, 80, q_tile=16, kv_tile=8), stride=np.array([1, 8, 16]))]).visited
    array([[18564, 18564, 16320],
           [14560, 14560, 12800]])
    """
    return GridCounts(*(_outer(getattr(a, name).ravel() for a in axes) for name in GridCounts._fields))


def _outer(factors: Iterable[Ints]) -> Ints:
    return reduce(np.multiply.outer, factors)


def _field(name: str) -> str:
    return "length" if name == "layout" else name


def _padded(axis: Axis) -> bool:
    """Whether NATTEN holds some dilation class for padded; it asks the same of dynamic tiles."""
    return any(size % axis.kv_tile for size, _ in dilation_classes(axis.length, axis.dilation))


def _integers(name: str, value: object) -> tuple[int, ...]:
    items: Iterable[Any] = value if isinstance(value, (Sequence, np.ndarray)) else (value,)
    if isinstance(value, (str, bytes)):
        raise MappingError(f"{name}: found {value!r}, expected whole numbers")
    try:
        return tuple(index(item) for item in items)
    except TypeError:
        raise MappingError(f"{name}: found {value!r}, expected whole numbers") from None


def _per_axis(name: str, value: object, axes: int) -> tuple[int, ...]:
    found = _integers(name, value)
    if len(found) == 1:
        return found * axes
    if len(found) != axes:
        legal = "1, for the one axis" if axes == 1 else f"1 or {axes}, one for each axis"
        raise MappingError(f"{name}: found {len(found)} numbers, expected {legal} of the layout")
    return found
