"""Generalized neighborhood attention in one, two and three dimensions: tokens permuted into multi-dimensional tiles.

Cascades: `gna_1d`, `gna_2d` and their causal and dilated forms. Every axis has a window, a stride and a dilation, and
may be causal. A query tile visits exactly the box of key tiles that its windows touch. Where every pair of every
visited tile is visible, the kernel is built without a mask. The window rule is NATTEN's: non-causal windows are shifted
at the edges, never cut.
Tiling: block_m queries by block_n keys, each a box of tokens that the permutation makes consecutive.
Exact: scores, maximum, denominator and numerator are float32; half types round the weights and the result only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch.nn.functional import pad

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, WORD_BYTES, Build
from .attention import check_words
from .interpreter import interpreted_on_cpu
from .primitives import LOG2E, finish, fold, launch, of_head, tile_and_lane

AXES = 3


@triton.jit
def _window(index, length, window, stride, CAUSAL: tl.constexpr):
    """First and one-past-last key of a query on one axis of one dilation class."""
    if CAUSAL:
        leader = tl.minimum(index // stride * stride + stride - 1, length - 1)
        first = tl.maximum(leader - window + 1, 0)
        last = index + 1
    else:
        leader = tl.minimum(index // stride * stride + stride // 2, length - 1)
        first = tl.minimum(tl.maximum(leader - window // 2, 0), tl.maximum(length - window, 0))
        last = first + window
    return first, last


@triton.jit
def key_tiles(tile, length, window, stride, Q: tl.constexpr, K: tl.constexpr, CAUSAL: tl.constexpr):
    """First key tile and number of key tiles that a tile of queries visits on one axis."""
    first, _ = _window(tile * Q, length, window, stride, CAUSAL)
    _, last = _window(tl.minimum(tile * Q + Q - 1, length - 1), length, window, stride, CAUSAL)
    count = (last + K - 1) // K - first // K
    # A tile that is all padding visits nothing.
    return first // K, tl.where(tile * Q < length, count, 0)


@triton.jit
def _seen(q_index, k_index, length, window, stride, CAUSAL: tl.constexpr):
    first, last = _window(q_index, length, window, stride, CAUSAL)
    return (k_index[None, :] >= first[:, None]) & (k_index[None, :] < tl.minimum(last, length)[:, None])


@triton.jit
def in_box(place, count_y, count_x):
    """Place on each axis of a tile in a box of tiles, or of a token in a tile: the last axis runs fastest."""
    return place // (count_x * count_y), place // count_x % count_y, place % count_x


@triton.jit
def seen_in_box(q_token, k_token, q_z, q_y, q_x, k_z, k_y, k_x, n_z, n_y, n_x, window_z, window_y, window_x,
                stride_z, stride_y, stride_x, QZ: tl.constexpr, QY: tl.constexpr, QX: tl.constexpr,
                KZ: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
                CAUSAL_Z: tl.constexpr, CAUSAL_Y: tl.constexpr, CAUSAL_X: tl.constexpr):  # fmt: skip
    """Which tokens of a key tile each token of a query tile sees; tiles are given by their place on each axis."""
    qt_z, qt_y, qt_x = in_box(q_token, QY, QX)
    kt_z, kt_y, kt_x = in_box(k_token, KY, KX)
    seen = _seen(q_x * QX + qt_x, k_x * KX + kt_x, n_x, window_x, stride_x, CAUSAL_X)
    seen = seen & _seen(q_y * QY + qt_y, k_y * KY + kt_y, n_y, window_y, stride_y, CAUSAL_Y)
    return seen & _seen(q_z * QZ + qt_z, k_z * KZ + kt_z, n_z, window_z, stride_z, CAUSAL_Z)


@triton.jit
def class_lengths(residue, length_z, length_y, length_x, dilation_z, dilation_y, dilation_x):
    """Tokens of a dilation class on each axis.

    A residue class of a dilated axis is a problem of its own; the first classes may be one token longer.
    """
    n_x = (length_x - residue % dilation_x + dilation_x - 1) // dilation_x
    n_y = (length_y - residue // dilation_x % dilation_y + dilation_y - 1) // dilation_y
    n_z = (length_z - residue // (dilation_x * dilation_y) + dilation_z - 1) // dilation_z
    return n_z, n_y, n_x


@triton.jit
def neighborhood_forward(q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, scale, length_z, length_y, length_x,
                         window_z, window_y, window_x, stride_z, stride_y, stride_x,
                         dilation_z, dilation_y, dilation_x, q_tiles_z, q_tiles_y, q_tiles_x,
                         k_tiles_z, k_tiles_y, k_tiles_x,
                         QZ: tl.constexpr, QY: tl.constexpr, QX: tl.constexpr,
                         KZ: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
                         CAUSAL_Z: tl.constexpr, CAUSAL_Y: tl.constexpr, CAUSAL_X: tl.constexpr,
                         HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr,
                         PRECISION: tl.constexpr):  # fmt: skip
    """One tile of queries of one head and dilation class, against the box of key tiles that it touches.

    Tensors are permuted: [batch * heads, classes, tiles, tokens of a tile, head_dim].
    """
    QUERIES: tl.constexpr = QZ * QY * QX
    KEYS: tl.constexpr = KZ * KY * KX
    q_tiles = q_tiles_z * q_tiles_y * q_tiles_x
    k_tiles = k_tiles_z * k_tiles_y * k_tiles_x
    classes = dilation_z * dilation_y * dilation_x
    place, lane = tile_and_lane(q_tiles * classes)
    residue = place // q_tiles
    tile = place % q_tiles
    tile_z, tile_y, tile_x = in_box(tile, q_tiles_y, q_tiles_x)
    n_z, n_y, n_x = class_lengths(residue, length_z, length_y, length_x, dilation_z, dilation_y, dilation_x)
    first_x, count_x = key_tiles(tile_x, n_x, window_x, stride_x, QX, KX, CAUSAL_X)
    first_y, count_y = key_tiles(tile_y, n_y, window_y, stride_y, QY, KY, CAUSAL_Y)
    first_z, count_z = key_tiles(tile_z, n_z, window_z, stride_z, QZ, KZ, CAUSAL_Z)

    problem = lane * classes + residue
    q_token = tl.arange(0, QUERIES)
    k_token = tl.arange(0, KEYS)
    dims = tl.arange(0, BLOCK_D)
    rows = (problem * q_tiles + tile) * QUERIES + q_token
    row_mask = dims[None, :] < HEAD_DIM
    q = tl.load(q_ptr + rows[:, None] * HEAD_DIM + dims[None, :], mask=row_mask, other=0.0)

    acc = tl.zeros([QUERIES, BLOCK_D], tl.float32)
    row_max = tl.full([QUERIES], float("-inf"), tl.float32)
    row_sum = tl.zeros([QUERIES], tl.float32)
    for step in range(0, count_z * count_y * count_x):
        step_z, step_y, step_x = in_box(step, count_y, count_x)
        key_z, key_y, key_x = first_z + step_z, first_y + step_y, first_x + step_x
        key_tile = (key_z * k_tiles_y + key_y) * k_tiles_x + key_x
        # Permuted keys of a tile are consecutive: one dense load, whatever the dimensions of the tile.
        keys = (problem * k_tiles + key_tile) * KEYS + k_token
        k = tl.load(
            k_ptr + keys[None, :] * HEAD_DIM + dims[:, None], mask=dims[:, None] < HEAD_DIM, other=0.0
        )
        scores = tl.dot(q, k, input_precision=PRECISION)
        if MASKED:
            seen = seen_in_box(q_token, k_token, tile_z, tile_y, tile_x, key_z, key_y, key_x, n_z, n_y, n_x,
                               window_z, window_y, window_x, stride_z, stride_y, stride_x,
                               QZ, QY, QX, KZ, KY, KX, CAUSAL_Z, CAUSAL_Y, CAUSAL_X)  # fmt: skip
            scores = tl.where(seen, scores, float("-inf"))
        weights, shrink, row_max, row_sum = fold(scores, scale, row_max, row_sum, MASKED)
        v = tl.load(v_ptr + keys[:, None] * HEAD_DIM + dims[None, :], mask=row_mask, other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)

    out, lse = finish(acc, row_max, row_sum)
    out_ptrs = out_ptr + rows[:, None] * HEAD_DIM + dims[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=row_mask)
    tl.store(lse_ptr + rows, lse)


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a layout, its neighborhood, and how it is tiled."""

    length: int
    window: int
    stride: int = 1
    dilation: int = 1
    causal: bool = False
    q_tile: int = 1
    k_tile: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            raise KernelError(f"stride={self.stride}: expected 1 to the window, {self.window}")
        if self.window < 1 or self.dilation < 1 or self.window * self.dilation > self.length:
            raise KernelError(
                f"window={self.window}, dilation={self.dilation}: their product must be 1 to the length, {self.length}"
            )

    @property
    def longest_class(self) -> int:
        """Tokens of the longest dilation class."""
        return -(-self.length // self.dilation)

    def tiles(self, size: int) -> int:
        """Tiles of a size that hold the longest dilation class."""
        return -(-self.longest_class // size)


@functools.cache
def dense(axis: Axis) -> bool:
    """Tell whether every pair of every visited tile is visible, in every dilation class.

    Query padding does not matter; key padding counts as invisible. Kept, as every launch asks.
    """
    classes = (-(-(axis.length - g) // axis.dilation) for g in range(axis.dilation))
    return all(_dense_class(axis, n) for n in classes)


def _dense_class(axis: Axis, n: int) -> bool:
    index = torch.arange(n)
    if axis.causal:
        first = (
            (index // axis.stride * axis.stride + axis.stride - 1).clamp_max(n - 1) - axis.window + 1
        ).clamp_min(0)
        last = index + 1
    else:
        leader = (index // axis.stride * axis.stride + axis.stride // 2).clamp_max(n - 1)
        first = (leader - axis.window // 2).clamp(0, max(n - axis.window, 0))
        last = first + axis.window
    tile = index // axis.q_tile
    starts = first[index % axis.q_tile == 0][tile]
    ends = last[((tile + 1) * axis.q_tile - 1).clamp_max(n - 1)]
    low = starts // axis.k_tile * axis.k_tile
    high = -(-ends // axis.k_tile) * axis.k_tile
    return bool(((first <= low) & (last.clamp_max(n) >= high)).all())


def permute(tokens: torch.Tensor, axes: Sequence[Axis], shape: Sequence[int]) -> torch.Tensor:
    """Return tokens in tiles: [batch * heads, classes, tiles, tokens of a tile, head_dim], padded with zeros.

    Args:
        tokens: [batch, heads, z, y, x, head_dim].
        shape: the tile, one size an axis.
    """
    batch, heads, *_, dim = tokens.shape
    sizes = [a.tiles(s) * s * a.dilation for a, s in zip(axes, shape, strict=True)]
    padding = [
        p for a, size in zip(reversed(axes), reversed(sizes), strict=True) for p in (0, size - a.length)
    ]
    tokens = pad(tokens, (0, 0, *padding))
    split = [n for a, s in zip(axes, shape, strict=True) for n in (a.tiles(s), s, a.dilation)]
    tokens = tokens.reshape(batch * heads, *split, dim)
    # Axes are now (tile, token, class) three times: classes first, then tiles, then tokens.
    order = [0, 3, 6, 9, 1, 4, 7, 2, 5, 8, 10]
    count = math.prod(a.tiles(s) for a, s in zip(axes, shape, strict=True))
    return tokens.permute(order).reshape(batch * heads, -1, count, math.prod(shape), dim)


def unpermute(
    tokens: torch.Tensor, axes: Sequence[Axis], shape: Sequence[int], *, batch: int
) -> torch.Tensor:
    """Return permuted tokens as [batch, heads, z, y, x, head_dim] without their padding."""
    dim = tokens.shape[-1]
    split = [a.dilation for a in axes] + [a.tiles(s) for a, s in zip(axes, shape, strict=True)] + list(shape)
    tokens = tokens.reshape(tokens.shape[0], *split, dim).permute(0, 4, 7, 1, 5, 8, 2, 6, 9, 3, 10)
    sizes = [a.tiles(s) * s * a.dilation for a, s in zip(axes, shape, strict=True)]
    whole = tokens.reshape(batch, -1, *sizes, dim)
    return whole[:, :, : axes[0].length, : axes[1].length, : axes[2].length]


@interpreted_on_cpu
def neighborhood_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    window: Sequence[int],
    stride: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    causal: Sequence[bool] | None = None,
    q_tile: Sequence[int] | None = None,
    k_tile: Sequence[int] | None = None,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return generalized neighborhood attention and the log-sum-exp of each query.

    Args:
        q: [batch, heads, *layout, head_dim] with a layout of one to three axes.
        k: like q.
        v: like q.
        window: keys a query sees on each axis.
        stride: queries that share a window on each axis; 1 where not given.
        dilation: distance between the keys of a window on each axis; 1 where not given.
        causal: which axes are causal; none where not given.
        q_tile: tokens of a query tile on each axis, their product a power of two from 16; chosen where not given.
        k_tile: the same for keys.
        tile: warps and stages, and the sizes of chosen tiles.
        empty: makes outputs; the checker passes one that fills them with NaN.

    Returns:
        Output like q, and [batch, heads, *layout] float32.

    Raises:
        KernelError: shapes, windows or tiles that are not legal.
    """
    tile = tile or tiles.choose(
        "neighborhood_attention", head_dim=q.shape[-1], dtype=q.dtype, device=q.device
    )
    axes = checked_axes(q, k, v, tile, window=window, stride=stride, dilation=dilation, causal=causal,
                        q_tile=q_tile, k_tile=k_tile)  # fmt: skip
    out, lse = _launch(q, k, v, axes, tile, empty)
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])


def checked_axes(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tile: tiles.Tile,
    *,
    window: Sequence[int],
    stride: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    causal: Sequence[bool] | None = None,
    q_tile: Sequence[int] | None = None,
    k_tile: Sequence[int] | None = None,
) -> list[Axis]:
    """Return the three axes of a call's tensors and options; options are those of `neighborhood_attention`.

    Raises:
        KernelError: shapes, windows or tiles that are not legal.
    """
    rank = q.ndim - 3
    if not 1 <= rank <= AXES or k.shape != q.shape or v.shape != q.shape or not len(window) == rank:
        raise KernelError(
            f"expected q, k, v [batch, heads, 1 to 3 axes, head_dim] and as many windows, found {list(q.shape)}, "
            f"{list(k.shape)}, {list(v.shape)} and {len(window)}"
        )
    check_words(q=q, k=k, v=v)
    layout = tuple(q.shape[2:-1])
    return _axes(
        layout, window, stride or (1,) * rank, dilation or (1,) * rank, causal or (False,) * rank,
        q_tile or tiles.spread(tile.block_m, layout), k_tile or tiles.spread(tile.block_n, layout),
    )  # fmt: skip


def _axes(layout: Sequence[int], *columns: Sequence[int | bool]) -> list[Axis]:
    """Return three axes; a layout of fewer gets leading axes of length 1."""
    if any(len(c) != len(layout) for c in columns):
        raise KernelError(f"expected {len(layout)} numbers for every option, one an axis of {tuple(layout)}")
    axes = [Axis(1, 1)] * (AXES - len(layout)) + [Axis(*row) for row in zip(layout, *columns, strict=True)]
    for name in ("q_tile", "k_tile"):
        size = math.prod(getattr(a, name) for a in axes)
        if size < 16 or size & (size - 1):
            raise KernelError(f"{name}: expected a product that is a power of two from 16, found {size}")
    return axes


def _launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    axes: list[Axis],
    tile: tiles.Tile,
    empty: Callable[..., torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, head_dim = q.shape[0], q.shape[1], q.shape[-1]
    boxed = (batch, heads, *(a.length for a in axes), head_dim)
    q_shape, k_shape = [a.q_tile for a in axes], [a.k_tile for a in axes]
    queries = permute(q.reshape(boxed), axes, q_shape).contiguous()
    keys, values = (permute(t.reshape(boxed), axes, k_shape).contiguous() for t in (k, v))
    out = empty(tuple(queries.shape), dtype=q.dtype, device=q.device)
    lse = empty((*queries.shape[:-1], 1), dtype=torch.float32, device=q.device)
    launch(neighborhood_forward, math.prod(queries.shape[:3]), tile)(
        queries, keys, values, out, lse, head_dim**-0.5 * LOG2E, *numbers_of(axes),
        **constants_of(axes), **of_head(head_dim, q.dtype.itemsize),
    )  # fmt: skip
    return unpermute(out, axes, q_shape, batch=batch), unpermute(lse, axes, q_shape, batch=batch)


def numbers_of(axes: Sequence[Axis]) -> list[int]:
    """Return the numbers of the axes in the order that the kernels take them."""
    numbers = [getattr(a, name) for name in ("length", "window", "stride", "dilation") for a in axes]
    return numbers + [a.tiles(a.q_tile) for a in axes] + [a.tiles(a.k_tile) for a in axes]


def constants_of(axes: Sequence[Axis]) -> dict[str, Any]:
    """Return what the kernels know of the axes when they are compiled."""
    shapes = [a.q_tile for a in axes] + [a.k_tile for a in axes]
    return _constants(shapes, causal=[a.causal for a in axes], masked=not all(map(dense, axes)))


def shipped_constants(tile: tiles.Tile, variant: str) -> dict[str, Any]:
    """Return the same of a variant: "1-D", "2-D" or "3-D", then "mask-free" where no visited tile needs a mask."""
    rank = int(variant[0])
    sides = (tiles.spread(tokens, (1,) * rank) for tokens in (tile.block_m, tile.block_n))
    shapes = [n for side in sides for n in (*(1,) * (AXES - rank), *side)]
    return _constants(shapes, causal=(False,) * AXES, masked=not variant.endswith("mask-free"))


def _constants(shapes: Sequence[int], *, causal: Sequence[bool], masked: bool) -> dict[str, Any]:
    named = zip(("QZ", "QY", "QX", "KZ", "KY", "KX"), shapes, strict=True)
    return {**dict(named), **{f"CAUSAL_{n}": c for n, c in zip("ZYX", causal, strict=True)}, "MASKED": masked}


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler.

    Args:
        variant: see `shipped_constants`.
    """
    constants = shipped_constants(tile, variant) | of_head(head_dim, WORD_BYTES[dtype])
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), POINTER[dtype]) | {"lse_ptr": "*fp32"}
    return Build("neighborhood_attention", variant, head_dim, dtype, tile, neighborhood_forward, pointers,
                 ("scale",), (), constants)  # fmt: skip
