"""Rank every stride and tile pair of a neighbourhood-attention kernel by its predicted time, in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from einsum_cascade.errors import MappingError

from ..hardware.gpu import Gpu, gpu_of
from .gna import Flags, GridCounts, Numbers, grid_counts, make_axes, title_words
from .gna_axis import (
    Axis,
    AxisCounts,
    Bools,
    Ints,
    axis_trips,
    count_axis,
    dilation_classes,
    natten_fast_path,
)
from .gna_backends import Backend, Constants, TilePair, find_backend, tile_pairs
from .gna_change import constants_on
from .gna_choice import Choice, GnaTuning, StrideAdvice
from .gna_time import (
    Floats,
    check_copies,
    dealt_steps,
    dense_s,
    is_dense,
    permute_s,
    shared_steps,
    step_s,
)

_AT_ONCE = 1 << 20  # Q tiles x strides scheduled at a time
# Stride x tile pairs of one ranking, whose times are all kept: 1 GiB of them, and as much again to sort.
_MOST_SETTINGS = 1 << 27
# Q tiles of an axis, of all its strides: some ten million are counted a second, so this takes a minute or two.
_MOST_COUNTED = 1 << 30
_ASSUMPTIONS = (
    "a step costs its tensor operations at a fitted rate, whatever its tile",
    "with other head dimensions than 128 it scales as its products and exponentials one after the other",
    "the cheaper mask of padded keys on NATTEN's fast path costs nothing",
    "16-bit elements; forward pass",
)
_BOUND = "tiles go to the SM that is free first: steps are the lower bound of such schedules"


@dataclass(frozen=True, slots=True)
class _Launch:
    """What all settings of one ranking share."""

    kernel: Backend
    gpu: Gpu
    price: Constants
    copies: int
    head_dim: int
    strides: tuple[Ints, ...]


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Every stride of one tile pair; arrays have one dimension an axis of the layout."""

    pair: TilePair
    axes: tuple[Axis, ...]
    counts: tuple[AxisCounts, ...]
    steps: Ints
    kernel_s: Floats
    permute_s: float
    dense_s: float


def tune_gna(
    *,
    layout: Numbers,
    window: Numbers,
    on: str | Gpu,
    dilation: Numbers = 1,
    causal: Flags = False,
    stride: Numbers | None = None,
    heads: int = 24,
    head_dim: int = 128,
    batch: int = 1,
    backend: str | None = None,
    top: int | None = 20,
) -> GnaTuning:
    """Return every legal stride x tile pair of a kernel on a GPU, ranked by predicted time.

    Args:
        layout: tokens per axis, one to three axes.
        window: keys per axis that a query sees.
        on: a GPU of the library by name or alias, or one that was changed.
        dilation: step between the keys of a window.
        causal: axes on which nothing behind the query is seen.
        stride: rank the tile pairs of this stride only.
        heads: query heads.
        head_dim: elements of a head.
        batch: sequences.
        backend: a kernel; without one the kernel that NATTEN would pick.
        top: how many choices come back; None for all.

    Raises:
        MappingError: an illegal setting, or a kernel without tiles for it.
        HardwareError: an unknown GPU, or a kernel that does not run on it.

    >>> found = tune_gna(layout=(30, 48, 80), window=(18, 24, 24), on="b200")
    >>> found.settings, found.choices[0].fully_block_sparse
    (72576, True)
    """
    if top is not None and top < 1:
        raise MappingError(f"top: {top} is too small, expected at least 1")
    given: dict[str, Any] = {"layout": layout, "window": window, "dilation": dilation, "causal": causal}
    plain = make_axes(**given, stride=1 if stride is None else stride, q_tile=1, kv_tile=1)
    strides = tuple(_all_strides(a) if stride is None else np.array([a.stride]) for a in plain)
    launch = _launch(strides, on, backend, check_copies(heads, batch), head_dim)
    ranked = _rank(plain, launch)
    choices = _choices(ranked, launch, top)
    best = next(
        r for r in ranked if (r.pair.q_tile, r.pair.kv_tile) == (choices[0].q_tile, choices[0].kv_tile)
    )
    factor = launch.price.baseline_factor
    return GnaTuning(
        title=_title(plain, launch, heads, batch),
        device=launch.gpu.name,
        backend=launch.kernel.name,
        settings=sum(r.kernel_s.size for r in ranked),
        choices=choices,
        advice=tuple(a for r in ranked if (a := _advice(r, launch.kernel))),
        dense_s=best.dense_s,
        baseline_s=best.dense_s * factor if factor else None,
        constants=launch.price,
        assumptions=_ASSUMPTIONS if launch.kernel.persistent else (*_ASSUMPTIONS, _BOUND),
    )


def speedup_grid(
    *,
    layout: Numbers,
    window: Numbers,
    on: str | Gpu,
    dilation: Numbers = 1,
    causal: Flags = False,
    heads: int = 24,
    head_dim: int = 128,
    batch: int = 1,
    backend: str | None = None,
) -> Floats:
    """Return the predicted speedup over dense attention for every stride, with the best tile pair of each.

    Arguments as `tune_gna`. The result has one dimension an axis of the layout; entry i stands for stride i + 1.

    >>> flux = speedup_grid(layout=(256, 256), window=80, on="h100")
    >>> flux.shape, float(flux[0, 0].round(1)), float(flux[15, 15].round(1))
    ((80, 80), 4.3, 7.6)
    """
    given: dict[str, Any] = {"layout": layout, "window": window, "dilation": dilation, "causal": causal}
    plain = make_axes(**given, q_tile=1, kv_tile=1)
    strides = tuple(_all_strides(axis) for axis in plain)
    launch = _launch(strides, on, backend, check_copies(heads, batch), head_dim)
    each = [r.dense_s / (r.kernel_s + r.permute_s) for r in _rank(plain, launch)]
    return np.asarray(np.max(each, axis=0))


def _all_strides(axis: Axis) -> Ints:
    return np.arange(1, axis.window + 1)


def _launch(
    strides: tuple[Ints, ...], on: str | Gpu, backend: str | None, copies: int, head_dim: int
) -> _Launch:
    gpu = gpu_of(on)
    kernel = find_backend(gpu, backend, head_dim=head_dim)
    return _Launch(kernel, gpu, constants_on(kernel, gpu), copies, head_dim, strides)


def _rank(plain: Sequence[Axis], launch: _Launch) -> list[_Ranked]:
    """Price every stride of every tile pair; pairs that agree on an axis share its table."""
    pairs = tile_pairs(launch.kernel, launch.gpu, axes=len(plain), head_dim=launch.head_dim)
    settings = len(pairs) * prod(s.size for s in launch.strides)
    if settings > _MOST_SETTINGS:
        raise MappingError(
            f"window: {settings:,} stride x tile pairs are too many to rank, expected at most {_MOST_SETTINGS:,}; "
            "give a stride"
        )
    tables: list[dict[Axis, AxisCounts]] = [{} for _ in plain]
    ranked = []
    for pair in pairs:
        axes = tuple(
            replace(axis, q_tile=q, kv_tile=kv, dynamic=launch.kernel.dynamic)
            for axis, q, kv in zip(plain, pair.q_tile, pair.kv_tile, strict=True)
        )
        for table, axis, s in zip(tables, axes, launch.strides, strict=True):
            if axis.q_tiles * s.size > _MOST_COUNTED:
                raise MappingError(
                    f"window: {axis.q_tiles:,} Q tiles for each of {s.size:,} strides are too many to count, "
                    f"expected at most {_MOST_COUNTED:,} in all; give a stride"
                )
            if axis not in table:
                table[axis] = count_axis(axis, axis.window, s)
        counts = tuple(table[axis] for table, axis in zip(tables, axes, strict=True))
        ranked.append(_rank_pair(pair, axes, counts, launch))
    return ranked


def _rank_pair(
    pair: TilePair, axes: tuple[Axis, ...], counts: tuple[AxisCounts, ...], launch: _Launch
) -> _Ranked:
    """Price every stride of one tile pair; every array is an outer product of the axes' own."""
    price, copies, head_dim = launch.price, launch.copies, launch.head_dim
    dense = dense_s(prod(a.length for a in axes), price, launch.gpu, pair, copies=copies, head_dim=head_dim)
    tick = step_s(price, launch.gpu, pair, head_dim)
    shape = tuple(s.size for s in launch.strides)
    if is_dense(axes):
        steps = np.full(shape, round((dense - price.start_s) / tick), dtype=np.int64)
        return _Ranked(pair, axes, counts, steps, np.full(shape, dense), 0.0, dense)
    grid = grid_counts(counts)
    steps = _steps(axes, grid, launch)
    needless = grid.fast if launch.kernel.masks_launch else grid.dense
    kernel_s = price.start_s + steps * tick * (1 + (price.mask_factor - 1) * (1 - needless / grid.visited))
    moved = permute_s(axes, launch.kernel, price, copies=copies, head_dim=head_dim)
    return _Ranked(pair, axes, counts, steps, kernel_s, moved, dense)


def _steps(axes: Sequence[Axis], grid: GridCounts, launch: _Launch) -> Ints:
    """Return the steps of the busiest SM for every stride, one dimension an axis."""
    sms, copies = launch.gpu.sms, launch.copies
    if not launch.kernel.persistent:
        total, least, most = (x.astype(np.float64) for x in (grid.visited, grid.per_q_min, grid.per_q_max))
        q_tiles = prod(axis.q_tiles for axis in axes)
        return shared_steps(total, least, most, q_tiles=q_tiles, sms=sms, copies=copies)
    if len(axes) == 1:
        parts = min(len(launch.strides[0]), -(-axes[0].q_tiles * axes[0].window // _AT_ONCE))
        return np.concatenate(
            [
                dealt_steps(
                    [axis_trips(axes[0], axes[0].window, part).astype(np.float64)], sms=sms, copies=copies
                )
                for part in np.array_split(launch.strides[0], parts)
            ]
        )
    distinct, place = [], []
    for axis, s in zip(axes, launch.strides, strict=True):
        # Many strides give the same trips: only the distinct ones are scheduled.
        rows, index = np.unique(axis_trips(axis, axis.window, s), axis=0, return_inverse=True)
        distinct.append(rows.astype(np.float64))
        place.append(index.reshape(-1))
    return dealt_steps(distinct, sms=sms, copies=copies)[np.ix_(*place)]


def _choices(ranked: Sequence[_Ranked], launch: _Launch, top: int | None) -> tuple[Choice, ...]:
    """Return the first choices: fastest, then the smallest stride, the largest tiles, the order of the list."""
    latency = np.concatenate([(r.kernel_s + r.permute_s).ravel() for r in ranked])
    sizes = np.array([r.kernel_s.size for r in ranked])
    wanted = latency.size if top is None else min(top, latency.size)
    # Times that differ by rounding only are ties, and a tie goes to the smaller stride.
    latency = np.round(latency, 12)
    cut = np.partition(latency, wanted - 1)[wanted - 1]
    near = np.flatnonzero(latency <= cut)
    which = np.searchsorted(np.cumsum(sizes), near, side="right")
    inside = near - (np.cumsum(sizes) - sizes)[which]
    at = np.unravel_index(inside, [s.size for s in launch.strides])
    chosen = np.stack([s[i] for s, i in zip(launch.strides, at, strict=True)])
    work = np.array([prod(r.pair.tokens) for r in ranked])[which]
    order = np.lexsort((which, -work, *chosen, chosen.prod(axis=0), latency[near]))[:wanted]
    return tuple(
        _choice(rank, ranked[which[i]], tuple(int(a[i]) for a in at), launch)
        for rank, i in enumerate(order, start=1)
    )


def _choice(rank: int, of: _Ranked, at: tuple[int, ...], launch: _Launch) -> Choice:
    def count(name: str) -> int:
        return prod(int(getattr(c, name)[i]) for c, i in zip(of.counts, at, strict=True))

    tokens, visited = prod(a.length for a in of.axes), count("visited")
    q, kv = of.pair.tokens
    kernel_s = float(of.kernel_s[at])
    dense, fast = count("dense") == visited, count("fast") == visited
    return Choice(
        rank=rank,
        stride=tuple(int(s[i]) for s, i in zip(launch.strides, at, strict=True)),
        q_tile=of.pair.q_tile,
        kv_tile=of.pair.kv_tile,
        latency_s=kernel_s + of.permute_s,
        kernel_s=kernel_s,
        permute_s=of.permute_s,
        speedup=of.dense_s / (kernel_s + of.permute_s),
        tile_speedup=-(-tokens // q) * -(-tokens // kv) / visited,
        flop_speedup=tokens**2 / count("pairs"),
        steps=int(of.steps[at]),
        visited=visited,
        fully_block_sparse=dense,
        natten_fast_path=fast,
        mask_free=fast if launch.kernel.masks_launch else dense,
    )


def stride_advice(axes: Sequence[Axis]) -> StrideAdvice:
    """Return the smallest strides that need no mask for the tiles of the axes; a property of each axis by itself.

    Args:
        axes: the problem; the strides of the axes are not looked at.

    Raises:
        MappingError: too many Q tiles and strides to look through.

    >>> stride_advice([Axis(32768, 2048, q_tile=256, kv_tile=128)])
    StrideAdvice(q_tile=(256,), kv_tile=(128,), exact=(256,), natten=(256,))
    """
    return StrideAdvice(
        q_tile=tuple(axis.q_tile for axis in axes),
        kv_tile=tuple(axis.kv_tile for axis in axes),
        exact=_on_all([_smallest_exact(axis) for axis in axes]),
        natten=_on_all([_smallest_natten(axis) for axis in axes]),
    )


def _on_all(strides: Sequence[int | None]) -> tuple[int, ...] | None:
    """Return the strides of the axes; None where one of them has none."""
    found = tuple(s for s in strides if s is not None)
    return found if len(found) == len(strides) else None


def _smallest_exact(axis: Axis) -> int | None:
    """Return the first stride with which no visited tile of an axis needs a mask, counted no further than that."""
    step = max(1, _AT_ONCE // axis.q_tiles)
    for first in range(1, axis.window + 1, step):
        if first * axis.q_tiles > _MOST_COUNTED:
            raise MappingError(
                f"window: none of the strides below {first:,} is free of masks; no more are looked at"
            )
        counts = count_axis(axis, axis.window, np.arange(first, min(first + step, axis.window + 1)))
        if (free := counts.dense == counts.visited).any():
            return first + int(free.argmax())
    return None


def _smallest_natten(axis: Axis) -> int | None:
    """Return the first stride on which NATTEN's kernels mask nothing on an axis; its condition counts no tiles."""
    strides = _all_strides(axis)
    classes = dilation_classes(axis.length, axis.dilation)
    free: Bools = np.all([natten_fast_path(axis, size, axis.window, strides) for size, _ in classes], axis=0)
    return int(free.argmax()) + 1 if free.any() else None


def _advice(ranked: _Ranked, kernel: Backend) -> StrideAdvice | None:
    """Return the advice for a tile pair; None where looking for it would take minutes."""
    try:
        advice = stride_advice(ranked.axes)
    except MappingError:
        return None
    # A kernel that masks tile by tile has no fast path of its own: there the exact answer is the one that counts.
    return advice if kernel.masks_launch else replace(advice, natten=advice.exact)


def _title(axes: Sequence[Axis], launch: _Launch, heads: int, batch: int) -> str:
    setting = " ".join(title_words(axes, ("window", "dilation", "causal")))
    return (
        f"GNA {setting} on {launch.gpu.name} with {launch.kernel.name}, "
        f"batch {batch}, {heads} heads of {launch.head_dim}"
    )
