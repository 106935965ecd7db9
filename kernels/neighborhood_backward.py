"""Gradients of generalized neighborhood attention: weights again from the log-sum-exp, tokens permuted into tiles.

Cascade: the derivative of `gna_2d` and of its forms in one and three dimensions, causal, strided and dilated. Tiling:
one kernel walks, for a tile of keys, the box of query tiles of which some window touches it; one, for a tile of
queries, the box of key tiles that its windows touch, as the forward pass does. Each writes its own tile once, so that
no atomic addition is needed and the result does not depend on timing.
Exact: weights and sums are float32; half types round weights and score gradients once before each product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, WORD_BYTES, Build
from .attention import check_words
from .backward import row_deltas
from .interpreter import interpreted_on_cpu
from .neighborhood import (
    checked_axes,
    class_lengths,
    constants_of,
    in_box,
    key_tiles,
    neighborhood_attention,
    numbers_of,
    permute,
    seen_in_box,
    shipped_constants,
    unpermute,
)
from .primitives import LOG2E, launch, of_head, tile_and_lane

NAME = "neighborhood_attention_gradients"


@triton.jit
def query_tiles(tile, length, window, stride, Q: tl.constexpr, K: tl.constexpr, CAUSAL: tl.constexpr):
    """First query tile and number of query tiles that visit a tile of keys on one axis: `key_tiles` the other way.

    First and last key of a window never fall from one query to the next: the queries that see one of some consecutive
    keys are consecutive too, from the first whose window ends behind the first key to the last whose begins before the
    end. No window is narrower than its stride, so that no difference below is negative where it is divided.
    """
    first_key = tile * K
    last_key = tl.minimum(first_key + K, length) - 1
    if CAUSAL:
        # A query sees itself; its window begins `window - 1` before the last query of its stride.
        first = first_key
        last = (last_key + window - stride) // stride * stride + stride - 1
        # The last stride may be cut: its windows begin where they would for the last query there is.
        last = tl.where(last_key + window >= length, length - 1, last)
    else:
        # Windows stand `window // 2` before the middle of their stride, but are shifted at both ends.
        before = window // 2 - stride // 2
        first = tl.maximum(first_key + before - window + stride, 0) // stride * stride
        first = tl.where(first_key < window, 0, first)
        last = (last_key + before) // stride * stride + stride - 1
        last = tl.where(last_key + window >= length, length - 1, last)
    count = tl.minimum(last, length - 1) // Q - first // Q + 1
    # A tile that is all padding is visited by none.
    return first // Q, tl.where(first_key < length, count, 0)


@triton.jit
def _score_gradient(q, k, v, grad, lse, delta, scale, seen, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """Weights of a tile of queries by keys, and the gradient of its scores.

    Padding of the queries is zero in q, grad, lse and delta, and so adds nothing, whatever the mask says of it.
    """
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    weights = tl.exp2(scores - lse[:, None])
    if MASKED:
        weights = tl.where(seen, weights, 0.0)
    from_values = tl.dot(grad, tl.trans(v), input_precision=PRECISION)
    return weights, weights * (from_values - delta[:, None])


@triton.jit
def neighborhood_gradients_kv(q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, scale,
                              length_z, length_y, length_x, window_z, window_y, window_x,
                              stride_z, stride_y, stride_x, dilation_z, dilation_y, dilation_x,
                              q_tiles_z, q_tiles_y, q_tiles_x, k_tiles_z, k_tiles_y, k_tiles_x,
                              QZ: tl.constexpr, QY: tl.constexpr, QX: tl.constexpr,
                              KZ: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
                              CAUSAL_Z: tl.constexpr, CAUSAL_Y: tl.constexpr, CAUSAL_X: tl.constexpr,
                              HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr,
                              PRECISION: tl.constexpr):  # fmt: skip
    """Gradients of one tile of keys and values of one head and dilation class, over the query tiles that visit it.

    Tensors are permuted: [batch * heads, classes, tiles, tokens of a tile, head_dim], and 1 for head_dim in lse, delta.
    """
    QUERIES: tl.constexpr = QZ * QY * QX
    KEYS: tl.constexpr = KZ * KY * KX
    q_tiles = q_tiles_z * q_tiles_y * q_tiles_x
    k_tiles = k_tiles_z * k_tiles_y * k_tiles_x
    classes = dilation_z * dilation_y * dilation_x
    place, lane = tile_and_lane(k_tiles * classes)
    residue = place // k_tiles
    tile = place % k_tiles
    tile_z, tile_y, tile_x = in_box(tile, k_tiles_y, k_tiles_x)
    n_z, n_y, n_x = class_lengths(residue, length_z, length_y, length_x, dilation_z, dilation_y, dilation_x)
    first_x, count_x = query_tiles(tile_x, n_x, window_x, stride_x, QX, KX, CAUSAL_X)
    first_y, count_y = query_tiles(tile_y, n_y, window_y, stride_y, QY, KY, CAUSAL_Y)
    first_z, count_z = query_tiles(tile_z, n_z, window_z, stride_z, QZ, KZ, CAUSAL_Z)

    problem = lane * classes + residue
    q_token = tl.arange(0, QUERIES)
    k_token = tl.arange(0, KEYS)
    dims = tl.arange(0, BLOCK_D)
    row_mask = dims[None, :] < HEAD_DIM
    keys = ((problem * k_tiles + tile) * KEYS + k_token)[:, None] * HEAD_DIM + dims[None, :]
    k = tl.load(k_ptr + keys, mask=row_mask, other=0.0)
    v = tl.load(v_ptr + keys, mask=row_mask, other=0.0)
    dk = tl.zeros([KEYS, BLOCK_D], tl.float32)
    dv = tl.zeros([KEYS, BLOCK_D], tl.float32)
    for step in range(0, count_z * count_y * count_x):
        step_z, step_y, step_x = in_box(step, count_y, count_x)
        query_z, query_y, query_x = first_z + step_z, first_y + step_y, first_x + step_x
        query_tile = (query_z * q_tiles_y + query_y) * q_tiles_x + query_x
        rows = (problem * q_tiles + query_tile) * QUERIES + q_token
        places = rows[:, None] * HEAD_DIM + dims[None, :]
        q = tl.load(q_ptr + places, mask=row_mask, other=0.0)
        grad = tl.load(grad_ptr + places, mask=row_mask, other=0.0)
        lse = tl.load(lse_ptr + rows) * 1.4426950408889634
        delta = tl.load(delta_ptr + rows)
        if MASKED:
            seen = seen_in_box(q_token, k_token, query_z, query_y, query_x, tile_z, tile_y, tile_x, n_z, n_y, n_x,
                               window_z, window_y, window_x, stride_z, stride_y, stride_x,
                               QZ, QY, QX, KZ, KY, KX, CAUSAL_Z, CAUSAL_Y, CAUSAL_X)  # fmt: skip
        else:
            seen = True
        weights, ds = _score_gradient(q, k, v, grad, lse, delta, scale, seen, MASKED, PRECISION)
        dv = tl.dot(tl.trans(weights.to(grad.dtype)), grad, dv, input_precision=PRECISION)
        dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision=PRECISION)
    dk = dk * scale * 0.6931471805599453
    tl.store(dk_ptr + keys, dk.to(dk_ptr.dtype.element_ty), mask=row_mask)
    tl.store(dv_ptr + keys, dv.to(dv_ptr.dtype.element_ty), mask=row_mask)


@triton.jit
def neighborhood_gradients_q(q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dq_ptr, scale,
                             length_z, length_y, length_x, window_z, window_y, window_x,
                             stride_z, stride_y, stride_x, dilation_z, dilation_y, dilation_x,
                             q_tiles_z, q_tiles_y, q_tiles_x, k_tiles_z, k_tiles_y, k_tiles_x,
                             QZ: tl.constexpr, QY: tl.constexpr, QX: tl.constexpr,
                             KZ: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
                             CAUSAL_Z: tl.constexpr, CAUSAL_Y: tl.constexpr, CAUSAL_X: tl.constexpr,
                             HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr,
                             PRECISION: tl.constexpr):  # fmt: skip
    """Gradient of one tile of queries of one head and dilation class; tensors as in `neighborhood_gradients_kv`."""
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
    row_mask = dims[None, :] < HEAD_DIM
    rows = (problem * q_tiles + tile) * QUERIES + q_token
    places = rows[:, None] * HEAD_DIM + dims[None, :]
    q = tl.load(q_ptr + places, mask=row_mask, other=0.0)
    grad = tl.load(grad_ptr + places, mask=row_mask, other=0.0)
    lse = tl.load(lse_ptr + rows) * 1.4426950408889634
    delta = tl.load(delta_ptr + rows)
    dq = tl.zeros([QUERIES, BLOCK_D], tl.float32)
    for step in range(0, count_z * count_y * count_x):
        step_z, step_y, step_x = in_box(step, count_y, count_x)
        key_z, key_y, key_x = first_z + step_z, first_y + step_y, first_x + step_x
        key_tile = (key_z * k_tiles_y + key_y) * k_tiles_x + key_x
        keys = ((problem * k_tiles + key_tile) * KEYS + k_token)[:, None] * HEAD_DIM + dims[None, :]
        k = tl.load(k_ptr + keys, mask=row_mask, other=0.0)
        v = tl.load(v_ptr + keys, mask=row_mask, other=0.0)
        if MASKED:
            seen = seen_in_box(q_token, k_token, tile_z, tile_y, tile_x, key_z, key_y, key_x, n_z, n_y, n_x,
                               window_z, window_y, window_x, stride_z, stride_y, stride_x,
                               QZ, QY, QX, KZ, KY, KX, CAUSAL_Z, CAUSAL_Y, CAUSAL_X)  # fmt: skip
        else:
            seen = True
        _, ds = _score_gradient(q, k, v, grad, lse, delta, scale, seen, MASKED, PRECISION)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    dq = dq * scale * 0.6931471805599453
    tl.store(dq_ptr + places, dq.to(dq_ptr.dtype.element_ty), mask=row_mask)


@interpreted_on_cpu
def neighborhood_attention_gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    grad: torch.Tensor,
    q_tile: Sequence[int] | None = None,
    k_tile: Sequence[int] | None = None,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
    **neighborhood: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of `neighborhood_attention` for q, k and v; the forward pass is run for its log-sum-exp.

    Args:
        q: [batch, heads, *layout, head_dim] with a layout of one to three axes.
        k: like q.
        v: like q.
        grad: gradient of the result, like q.
        q_tile: tokens of a query tile on each axis, their product a power of two from 16; chosen where not given.
        k_tile: the same for keys.
        tile: warps and stages, and the sizes of chosen tiles; the shipped choice for the device where not given.
        empty: makes outputs and scratch; the checker passes one that fills them with NaN.
        neighborhood: window, stride, dilation and causal, as in the forward pass.

    Raises:
        KernelError: shapes, windows or tiles that are not legal.
    """
    out, lse = neighborhood_attention(q, k, v, empty=empty, **neighborhood)
    return neighborhood_gradients_from(
        q, k, v, out, lse, grad, q_tile=q_tile, k_tile=k_tile, tile=tile, empty=empty, **neighborhood
    )


@interpreted_on_cpu
def neighborhood_gradients_from(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad: torch.Tensor,
    *,
    q_tile: Sequence[int] | None = None,
    k_tile: Sequence[int] | None = None,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
    **neighborhood: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients for q, k and v from what a forward pass saved: its result and log-sum-exp."""
    batch, heads, head_dim = q.shape[0], q.shape[1], q.shape[-1]
    tile = tile or tiles.choose(NAME, head_dim=head_dim, dtype=q.dtype, device=q.device)
    axes = checked_axes(q, k, v, tile, q_tile=q_tile, k_tile=k_tile, **neighborhood)
    if grad.shape != q.shape or out.shape != q.shape or lse.shape != q.shape[:-1]:
        raise KernelError(
            f"expected a result and its gradient like q, {list(q.shape)}, and a log-sum-exp for each query, found "
            f"{list(out.shape)}, {list(grad.shape)} and {list(lse.shape)}"
        )
    check_words(q=q, out=out, grad=grad)
    q_shape, k_shape = [a.q_tile for a in axes], [a.k_tile for a in axes]
    boxed = (batch, heads, *(a.length for a in axes))

    def tiled(tokens: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        return permute(tokens.reshape(*boxed, -1), axes, shape).contiguous()

    queries, results, grads, sums = (tiled(t, q_shape) for t in (q, out, grad, lse))
    keys, values = (tiled(t, k_shape) for t in (k, v))
    delta = row_deltas(results, grads, empty)
    dq, dk, dv = (empty(tuple(t.shape), dtype=t.dtype, device=q.device) for t in (queries, keys, values))
    inputs = (queries, keys, values, grads, sums, delta)
    numbers = (head_dim**-0.5 * LOG2E, *numbers_of(axes))
    constants = constants_of(axes) | of_head(head_dim, q.dtype.itemsize)
    launch(neighborhood_gradients_kv, math.prod(keys.shape[:3]), tile)(*inputs, dk, dv, *numbers, **constants)
    launch(neighborhood_gradients_q, math.prod(queries.shape[:3]), tile)(*inputs, dq, *numbers, **constants)
    whole = ((dq, q_shape), (dk, k_shape), (dv, k_shape))
    first, second, third = (unpermute(t, axes, shape, batch=batch).reshape(q.shape) for t, shape in whole)
    return first, second, third


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler.

    Args:
        variant: "keys and values" or "queries", then as in the forward pass.
    """
    part, _, layout = variant.partition(", ")
    function, outputs = (
        (neighborhood_gradients_q, ("dq_ptr",))
        if part == "queries"
        else (neighborhood_gradients_kv, ("dk_ptr", "dv_ptr"))
    )
    words = ("q_ptr", "k_ptr", "v_ptr", "grad_ptr", *outputs)
    pointers = dict.fromkeys(words, POINTER[dtype]) | dict.fromkeys(("lse_ptr", "delta_ptr"), "*fp32")
    constants = shipped_constants(tile, layout) | of_head(head_dim, WORD_BYTES[dtype])
    return Build(NAME, variant, head_dim, dtype, tile, function, pointers, ("scale",), (), constants)
