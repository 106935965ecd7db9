"""Seconds of a neighbourhood-attention launch from its KV-tile steps, and the fit of the constants that this needs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsum_cascade.errors import DataError, MappingError, glimpse

from ..hardware.gpu import Gpu, find_gpu, gpu_of
from .gna import Flags, GnaBounds, Numbers, gna_bounds
from .gna_axis import MAX_LENGTH, Axis, Ints, axis_trips
from .gna_backends import Backend, Constants, TilePair, backends, check_head_dim, find_backend, tile_pairs
from .gna_change import MEASURED_HEAD_DIM, as_described, constants_on, head_dim_change, step_change

Floats = NDArray[np.float64]

ELEMENT_BYTES = 2
_MOST_TURNS = 1 << 27  # pairs of an SM and a Q tile in memory at a time: 1 GiB
PERMUTED = ("query", "key", "value", "output")


@dataclass(frozen=True, slots=True)
class GnaTime:
    """Predicted time of one launch.

    Attributes:
        latency_s: kernel and token permutation.
        kernel_s: the attention kernel alone.
        permute_s: putting the four tensors into tile order and back.
        dense_s: the same kernel on dense attention of the same tokens.
        steps: KV-tile steps of the busiest SM.
        masked: share of the visits that is masked.
        constants: what the steps were priced with.
        compiled: the kernel is compiled for these tiles; other tiles are priced at its rate all the same.
    """

    latency_s: float
    kernel_s: float
    permute_s: float
    dense_s: float
    steps: int
    masked: float
    constants: Constants
    compiled: bool = True

    @property
    def speedup(self) -> float:
        """Dense attention in the same kernel / this, token permutation included."""
        return self.dense_s / self.latency_s

    @property
    def kernel_speedup(self) -> float:
        """Dense attention in the same kernel / the kernel alone."""
        return self.dense_s / self.kernel_s

    def as_dict(self) -> dict[str, Any]:
        """Return every number by name."""
        numbers = (
            "latency_s",
            "kernel_s",
            "permute_s",
            "dense_s",
            "steps",
            "masked",
            "speedup",
            "kernel_speedup",
            "compiled",
        )
        own = {name: getattr(self.constants, name) for name in ("device", "backend", "fitted", "source")}
        return {**{name: getattr(self, name) for name in numbers}, **own}

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the table for people: quantity, value, what it means."""
        other = f"{self.constants.backend} has no such tiles; priced at its rate on those that it has"
        return [
            *([] if self.compiled else [("tiles compiled", "no", other)]),
            (
                "predicted speedup",
                f"{self.speedup:.4g}x",
                "dense attention in the same kernel / this one with token permutation",
            ),
            (
                "predicted time",
                f"{self.latency_s * 1e3:.4g} ms",
                f"{self.permute_s * 1e3:.4g} ms of it permute",
            ),
            (
                "steps",
                f"{self.steps:,}",
                f"KV tiles of the busiest SM; {100 * self.masked:.0f} % of all visits pay for the mask",
            ),
        ]


def predict_gna(
    *,
    layout: Numbers,
    window: Numbers,
    stride: Numbers = 1,
    dilation: Numbers = 1,
    causal: Flags = False,
    q_tile: Numbers,
    kv_tile: Numbers,
    on: str | Gpu,
    backend: str | None = None,
    heads: int = 1,
    head_dim: int = 128,
    batch: int = 1,
) -> GnaTime:
    """Return the predicted time of one setting on a GPU; the mean error on published launches is some 5 %.

    Args:
        layout: as `gna_bounds`, and so are the next six.
        on: a GPU of the library by name or alias, or one that was changed.
        backend: a kernel of `gna_backends.backends()`; without one NATTEN's choice.
        heads: query heads.
        head_dim: elements of a head.
        batch: sequences.

    Source: one launch costs start + steps of the busiest SM x time of a step, masked or not; see `fit_constants`.

    >>> flux = dict(layout=(256, 256), window=80, q_tile=(16, 8), kv_tile=(16, 8), on="h100", heads=24)
    >>> predict_gna(**flux, stride=16).steps, predict_gna(**flux, stride=16).masked
    (4700, 0.0)
    """
    gpu = gpu_of(on)
    kernel = find_backend(gpu, backend, head_dim=head_dim)
    bounds = gna_bounds(
        layout=layout,
        window=window,
        stride=stride,
        dilation=dilation,
        causal=causal,
        q_tile=q_tile,
        kv_tile=kv_tile,
        dynamic=kernel.dynamic,
    )
    return time_of(bounds, gpu, kernel, copies=check_copies(heads, batch), head_dim=head_dim)


def time_of(bounds: GnaBounds, gpu: Gpu, kernel: Backend, *, copies: int, head_dim: int) -> GnaTime:
    """Return the predicted time of a counted setting; `predict_gna` in two steps, for many GPUs.

    Args:
        bounds: of the setting, counted with `dynamic` as the kernel has it.
        gpu: where it runs.
        kernel: what runs.
        copies: heads x batch.
        head_dim: elements of a head.

    Raises:
        MappingError: the kernel cannot run this head dimension.
    """
    check_head_dim(kernel, head_dim)
    price = constants_on(kernel, gpu)
    pair = TilePair(tuple(a.q_tile for a in bounds.axes), tuple(a.kv_tile for a in bounds.axes), "given")
    tick = step_s(price, gpu, pair, head_dim)
    dense = dense_s(bounds.tokens, price, gpu, pair, copies=copies, head_dim=head_dim)
    compiled = _has_tiles(kernel, gpu, pair, head_dim)
    if is_dense(bounds.axes):
        return GnaTime(dense, dense, 0.0, dense, round((dense - price.start_s) / tick), 0.0, price, compiled)
    steps = launch_steps(bounds.axes, kernel, sms=gpu.sms, copies=copies)
    masked = (bounds.natten_masked if kernel.masks_launch else bounds.partial) / bounds.visited
    kernel_s = price.start_s + steps * tick * (1 + (price.mask_factor - 1) * masked)
    moved = permute_s(bounds.axes, kernel, price, copies=copies, head_dim=head_dim)
    return GnaTime(kernel_s + moved, kernel_s, moved, dense, steps, masked, price, compiled)


@functools.lru_cache(maxsize=1024)
def _has_tiles(kernel: Backend, gpu: Gpu, pair: TilePair, head_dim: int) -> bool:
    """Whether a kernel is compiled for a pair of tiles."""
    listed = tile_pairs(kernel, gpu, axes=len(pair.q_tile), head_dim=head_dim)
    return (pair.q_tile, pair.kv_tile) in [(each.q_tile, each.kv_tile) for each in listed]


def check_copies(heads: int, batch: int) -> int:
    """Return heads x batch, both checked."""
    for name, value in (("heads", heads), ("batch", batch)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise MappingError(f"{name}: found {glimpse(value)}, expected a whole number")
        if value < 1:
            raise MappingError(f"{name}: {value} is too small, expected at least 1")
    if heads * batch > MAX_LENGTH:
        raise MappingError(f"heads, batch: {glimpse(heads * batch)} heads in all, expected at most 2^31")
    return heads * batch


def is_dense(axes: Sequence[Axis]) -> bool:
    """Whether the window holds everything, so that NATTEN runs its plain attention kernel instead."""
    return all(axis.window == axis.length and not axis.causal for axis in axes)


@functools.lru_cache(maxsize=1024)
def launch_steps(axes: tuple[Axis, ...], backend: Backend, *, sms: int, copies: int) -> int:
    """Return the KV-tile steps of the busiest SM for one launch of a checked setting."""
    trips = [axis_trips(axis, axis.window, axis.stride).astype(np.float64)[None] for axis in axes]
    if backend.persistent:
        return int(dealt_steps(trips, sms=sms, copies=copies).reshape(()))
    total, least, most = (np.array(prod(float(f(t)) for t in trips)) for f in (np.sum, np.min, np.max))
    q_tiles = prod(t.size for t in trips)
    return int(shared_steps(total, least, most, q_tiles=q_tiles, sms=sms, copies=copies))


def dealt_steps(trips: Sequence[Floats], *, sms: int, copies: int) -> Ints:
    """Return the steps of the busiest SM when tiles are dealt in turn: SM p takes launches p, p + SMs, and so on.

    Args:
        trips: per axis (settings, dilation classes, Q tiles) KV tiles; a Q tile of the layout visits the product of its
            axes' tiles. Q tiles of the outermost axis run fastest, then those of the others, then the classes of the
            axes in the same order, then copies.
        sms: streaming multiprocessors.
        copies: heads x batch.

    Returns:
        Steps for every combination of one setting per axis, one dimension an axis.

    Source: NATTEN 0.21.7, fmha_tile_scheduler.hpp, PersistentTileScheduler (Q tiles, then batches, which classes are
        folded into, then heads); fna_fusion.hpp, get_trip_count and correct_qkv_shape (idx2crd, whose first mode runs
        fastest; token_permute flips the axes to match).

    >>> dealt_steps([np.array([[[1.0, 2.0, 3.0]]])], sms=2, copies=2).tolist()  # 1+3+2 on one SM, 2+1+3 on the other
    [6]
    """
    settings, classes, grid = zip(*(rows.shape for rows in trips), strict=True)
    tiles, axes = prod(classes) * prod(grid), len(trips)
    # How often each SM gets each Q tile does not depend on the setting, and trips are products: so the sum over the
    # Q tiles is contracted axis by axis instead of being formed for every combination.
    times = _turns(tiles, sms=sms, copies=copies)
    # No SM does more than this; below 2**24 single precision counts exactly, at twice the speed.
    most = -(-tiles * copies // sms) * prod(float(rows.max()) for rows in trips)
    kind = np.float32 if most < 2**24 else np.float64
    # From (SMs, classes, Q tiles), both with the outermost axis last, to (SMs, class and Q tile of an axis, ...).
    apart = times.astype(kind).reshape(sms, *classes[::-1], *grid[::-1])
    work: NDArray[Any] = apart.transpose(
        0, *(place for axis in range(1, axes + 1) for place in (axis, axis + axes))
    )
    rows: list[NDArray[Any]] = [each.astype(kind).reshape(len(each), -1) for each in trips]
    work = np.matmul(work.reshape(-1, rows[0].shape[-1]), rows[0].T)
    for row in rows[1:]:
        # (SMs, inner Q tiles, Q tiles of this axis, settings of the outer axes), contracted over the third
        done = work.reshape(sms, -1, row.shape[-1], work.shape[-1])
        work = np.matmul(row, done).reshape(sms, done.shape[1], -1)
    work = work.reshape(sms, -1)
    steps: Ints = np.rint(work.max(axis=0)).astype(np.int64)
    return steps.reshape(settings[::-1]).transpose()


def _turns(tiles: int, *, sms: int, copies: int) -> Ints:
    """Return how often each SM gets each Q tile, shape (SMs x Q tiles,), SM by SM.

    Launches repeat after the least common multiple of the two, in which each pair that ever meets does so once.

    Raises:
        MappingError: more Q tiles than can be told apart.
    """
    if sms * tiles > _MOST_TURNS:
        raise MappingError(
            f"layout: {tiles:,} Q tiles are too many to deal out to {sms} SMs; expected at most {_MOST_TURNS // sms:,}"
        )
    period = math.lcm(sms, tiles)
    whole, rest = divmod(tiles * copies, period)
    launch = np.arange(period if whole else rest)
    place = launch % sms * tiles + launch % tiles
    once = np.bincount(place[:rest], minlength=sms * tiles)
    return once + whole * np.bincount(place, minlength=sms * tiles) if whole else once


def shared_steps(total: Floats, least: Floats, most: Floats, *, q_tiles: int, sms: int, copies: int) -> Ints:
    """Return the steps of the busiest SM when each tile goes to the SM that is free first, as a lower bound.

    Exact where all Q tiles visit equally many; otherwise at most one Q tile short of any such schedule.

    Args:
        total: KV tiles visited by the Q tiles of one head.
        least: fewest of one Q tile.
        most: most of one Q tile.
        q_tiles: Q tiles of one head.
        sms: streaming multiprocessors.
        copies: heads x batch.

    >>> shared_steps(np.array([300.0]), np.array([3.0]), np.array([3.0]), q_tiles=100, sms=64, copies=1).tolist()
    [6]
    >>> shared_steps(np.array([4336.0]), np.array([16.0]), np.array([17.0]), q_tiles=256, sms=132, copies=1).tolist()
    [34]
    """
    launched, visited = q_tiles * copies, total * copies
    waves = -(-launched // sms)
    # Where no SM takes more than `waves` tiles, so many of them take just that, and miss none but the largest others.
    full = launched - sms * (waves - 1)
    crowded = np.ceil((visited - (launched - full * waves) * most) / full)
    crowded = np.minimum(crowded, (waves + 1) * least)
    even = np.maximum(np.ceil(visited / sms), np.maximum(waves * least, most))
    return np.asarray(np.maximum(even, crowded)).astype(np.int64)


def step_s(price: Constants, gpu: Gpu, pair: TilePair, head_dim: int) -> float:
    """Return the time of one unmasked KV-tile step on one SM.

    With the head dimension that was measured it is the step's tensor operations / the SM's share of the rate.
    """
    q, kv = pair.tokens
    kernel, before = backends()[price.backend], as_described(gpu)
    measured = 4 * q * kv * MEASURED_HEAD_DIM * before.sms / price.flops_per_s
    asked = measured * head_dim_change(kernel, before, pair, head_dim)
    return asked * step_change(kernel, gpu, pair, head_dim)


def dense_s(tokens: int, price: Constants, gpu: Gpu, pair: TilePair, *, copies: int, head_dim: int) -> float:
    """Return the time of dense attention over as many tokens in the same kernel."""
    q, kv = pair.tokens
    waves = -(-(-(-tokens // q) * copies) // gpu.sms)
    return price.start_s + waves * -(-tokens // kv) * step_s(price, gpu, pair, head_dim)


def permute_s(
    axes: Sequence[Axis], backend: Backend, price: Constants, *, copies: int, head_dim: int
) -> float:
    """Return the time of token permutation: every tensor read and written once, padding included.

    A layout of one axis without dilation is in tile order already.

    Source: NATTEN 0.21.7, src/natten/token_permute.
    """
    if not backend.permutes or (len(axes) == 1 and axes[0].dilation == 1):
        return 0.0
    tokens = prod(axis.length for axis in axes)
    queries = prod(axis.q_tiles * axis.q_tile for axis in axes)
    keys = prod(axis.kv_tiles * axis.kv_tile for axis in axes)
    moved = len(PERMUTED) // 2 * ((tokens + queries) + (tokens + keys))
    return moved * copies * head_dim * ELEMENT_BYTES / price.permute_bytes_per_s


def fit_constants(
    launches: Sequence[Mapping[str, Any]], *, on: str, backend: str
) -> tuple[float, float, float]:
    """Return the start, the rate and the mask factor that fit measured launches best, in relative error.

    Args:
        launches: settings as `predict_gna` takes them, each with its measured `kernel_s`; at least three, with both
            masked and unmasked ones and different numbers of steps.
        on: the GPU they ran on.
        backend: the kernel.

    Returns:
        start in seconds, tensor operations per second, masked / unmasked time of a step.

    Raises:
        DataError: the launches do not determine three constants.

    Source: linear least squares of 1 = (start + unmasked steps x step + masked steps x step x factor) / measured.
    """
    rows, measured = [], []
    for launch in launches:
        asked = {name: value for name, value in launch.items() if name != "kernel_s"}
        found = predict_gna(**asked, on=on, backend=backend)
        q, kv = (_tokens(asked[name], asked["layout"]) for name in ("q_tile", "kv_tile"))
        price, pair = found.constants, TilePair((q,), (kv,), "given")
        step = step_s(price, find_gpu(on), pair, asked.get("head_dim", MEASURED_HEAD_DIM))
        work = found.steps * step * price.flops_per_s
        rows.append([1.0, work * (1 - found.masked), work * found.masked])
        measured.append(float(launch["kernel_s"]))
    design, time = np.array(rows), np.array(measured)
    weighted = design / time[:, None]
    scale = np.abs(weighted).max(axis=0)
    if len(rows) < 3 or not scale.all() or np.linalg.matrix_rank(weighted / scale) < 3:
        raise DataError(
            "three constants need three launches, masked and unmasked, of different lengths; "
            f"these {len(rows)} do not determine them"
        )
    start, plain, masked = np.linalg.lstsq(weighted / scale, np.ones(len(rows)), rcond=None)[0] / scale
    return float(start), float(1 / plain), float(masked / plain)


def _tokens(tile: Numbers, layout: Numbers) -> int:
    if not isinstance(tile, int):
        return prod(tile)
    return int(tile ** (1 if isinstance(layout, int) else len(layout)))
