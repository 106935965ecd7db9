"""Length-scaled softplus attention, in one pass, and its re-weighted form, in two.

Cascades: `lssa` (no maximum is needed and the division waits for the end: one pass) and `lssar` (weights below the mean
are cut and the others raised to a power: the mean needs the denominator first, so that there are two passes).
Tiling: block_m queries of one head walk key tiles of block_n: whole tiles, then the cut ones at the diagonal.
Exact: scores, sums and powers are float32, powers relative to a running maximum, so that they cannot overflow where the
cascade's would; half types round the weights and the result only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, WORD_BYTES, Build
from .attention import checked_shapes
from .interpreter import interpreted_on_cpu
from .primitives import launch, of_head, tile_and_lane

MOST_POWER = 63


@triton.jit
def _log2_above_one(t):
    """log2(1 + t) for t from 0 to 1, to 2e-7 of itself: a sum with 1 would lose what is small, which may be all.

    Coefficients: the Chebyshev polynomial of degree 8 of log2(1 + t) / t, in float32.
    """
    p = 0.007579137511424914
    p = p * t - 0.042687192884289224
    p = p * t + 0.1130519898499299
    p = p * t - 0.1972852243993128
    p = p * t + 0.27571966844568524
    p = p * t - 0.35842849237996777
    p = p * t + 0.48069547531883405
    p = p * t - 0.721340328851908
    return (p * t + 1.4426949983881152) * t


@triton.jit
def _weights(q, k_ptr, k_row, start, rows, seq_kv, warmth, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
             BLOCK_N: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Softplus of the scores of one key tile, over ln 2; 0 where a key is not seen."""
    steps = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    cols = start + steps
    k_ptrs = k_ptr + tl.cast(start, tl.int64) * k_row + (steps[None, :] * k_row + dims[:, None])
    k = tl.load(k_ptrs, mask=(cols[None, :] < seq_kv) & (dims[:, None] < HEAD_DIM), other=0.0)
    scores = tl.dot(q, k, input_precision=PRECISION) * warmth[:, None]
    # log2(1 + 2^x), in a form that does not overflow; what is factored out cancels in every quotient of weights.
    weights = tl.maximum(scores, 0.0) + _log2_above_one(tl.exp2(-tl.abs(scores)))
    if MASKED:
        weights = tl.where((cols[None, :] < seq_kv) & (cols[None, :] <= rows[:, None]), weights, 0.0)
    return weights


@triton.jit
def _values(
    v_ptr, v_row, start, seq_kv, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr
):
    steps = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    v_ptrs = v_ptr + tl.cast(start, tl.int64) * v_row + (steps[:, None] * v_row + dims[None, :])
    return tl.load(v_ptrs, mask=(start + steps[:, None] < seq_kv) & (dims[None, :] < HEAD_DIM), other=0.0)


@triton.jit
def _power(x, POWER: tl.constexpr):
    """Raise to a whole power by squaring."""
    result = x * 0.0 + 1.0
    for bit in tl.static_range(0, 6):
        if (POWER >> bit) % 2 == 1:
            result *= x
        x *= x
    return result


@triton.jit
def _sum_tiles(acc, total, q, k_ptr, v_ptr, k_row, v_row, first, last, rows, seq_kv, warmth, HEAD_DIM: tl.constexpr,
               BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, VALUES: tl.constexpr, MASKED: tl.constexpr,
               PRECISION: tl.constexpr):  # fmt: skip
    for start in range(first, last, BLOCK_N):
        weights = _weights(
            q, k_ptr, k_row, start, rows, seq_kv, warmth, HEAD_DIM, BLOCK_D, BLOCK_N, MASKED, PRECISION
        )
        total += tl.sum(weights, 1)
        if VALUES:
            v = _values(v_ptr, v_row, start, seq_kv, HEAD_DIM, BLOCK_D, BLOCK_N)
            acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, total


@triton.jit
def _reweight_tiles(acc, total, top, scaled, q, k_ptr, v_ptr, k_row, v_row, first, last, rows, seq_kv, warmth,
                    POWER: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
                    MASKED: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    for start in range(first, last, BLOCK_N):
        weights = _weights(
            q, k_ptr, k_row, start, rows, seq_kv, warmth, HEAD_DIM, BLOCK_D, BLOCK_N, MASKED, PRECISION
        )
        excess = weights * scaled[:, None] - 1.0
        # The mean itself, as the weight of a query with a single key is, exceeds it by what float32 and the hardware's
        # division round of a weight, its share and the sum: by less than 2^-20.
        excess = tl.where(excess > 9.5367431640625e-07, excess, 0.0)
        new_top = tl.maximum(top, tl.max(excess, 1))
        safe = tl.where(new_top == 0.0, 1.0, new_top)
        powers = _power(excess / safe[:, None], POWER)
        shrink = _power(top / safe, POWER)
        total = total * shrink + tl.sum(powers, 1)
        top = new_top
        v = _values(v_ptr, v_row, start, seq_kv, HEAD_DIM, BLOCK_D, BLOCK_N)
        acc = tl.dot(powers.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return acc, total, top


@triton.jit
def softplus_forward(q_ptr, k_ptr, v_ptr, sum_ptr, out_ptr, q_batch, q_head, q_row, k_batch, k_head, k_row,
                     v_batch, v_head, v_row, heads, group, seq_q, seq_kv, scale, POWER: tl.constexpr,
                     HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                     PASS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One tile of queries: PASS 0 is the whole of `lssa`, 1 the sums of `lssar`, 2 its re-weighted values."""
    row_tiles = tl.cdiv(seq_q, BLOCK_M)
    tile, lane = tile_and_lane(row_tiles)
    # The longest rows first, so that the last wave is made of short ones.
    p0 = (row_tiles - 1 - tile) * BLOCK_M
    batch = lane // heads
    head = lane % heads
    steps = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    there = p0 + steps < seq_q
    inside = there[:, None] & (dims[None, :] < HEAD_DIM)
    q_ptr += batch * q_batch + head * q_head + tl.cast(p0, tl.int64) * q_row
    q = tl.load(q_ptr + (steps[:, None] * q_row + dims[None, :]), mask=inside, other=0.0)
    k_ptr += batch * k_batch + head // group * k_head
    v_ptr += batch * v_batch + head // group * v_head
    # Rows are counted on the keys' axis: the last query stands on the last key.
    rows = p0 + steps + seq_kv - seq_q
    length = (rows + 1).to(tl.float32)
    warmth = scale * tl.log2(length)
    whole = tl.minimum(p0 + seq_kv - seq_q + 1, seq_kv) // BLOCK_N * BLOCK_N
    last = tl.minimum(p0 + BLOCK_M + seq_kv - seq_q, seq_kv)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = sum_ptr + lane * seq_q + p0 + steps
    if PASS == 2:
        top = tl.zeros([BLOCK_M], tl.float32)
        # A row without weights has none above the mean, and no infinity to multiply them with.
        scaled = tl.minimum(length / tl.load(sums, mask=there, other=1.0), 3.0e38)
        acc, total, top = _reweight_tiles(
            acc, total, top, scaled, q, k_ptr, v_ptr, k_row, v_row, 0, whole, rows, seq_kv, warmth, POWER, HEAD_DIM,
            BLOCK_D, BLOCK_N, False, PRECISION,
        )  # fmt: skip
        acc, total, top = _reweight_tiles(
            acc, total, top, scaled, q, k_ptr, v_ptr, k_row, v_row, whole, last, rows, seq_kv, warmth, POWER, HEAD_DIM,
            BLOCK_D, BLOCK_N, True, PRECISION,
        )  # fmt: skip
        # The cascade's least sum, 1e-9, relative to the power of the maximum as the sum is; a row without excess is 0.
        least = 1e-9 * tl.exp2(-POWER * tl.log2(tl.where(top == 0.0, 1.0, top)))
        total = tl.maximum(total, least)
    else:
        acc, total = _sum_tiles(acc, total, q, k_ptr, v_ptr, k_row, v_row, 0, whole, rows, seq_kv, warmth, HEAD_DIM,
                                BLOCK_D, BLOCK_N, PASS == 0, False, PRECISION)  # fmt: skip
        acc, total = _sum_tiles(acc, total, q, k_ptr, v_ptr, k_row, v_row, whole, last, rows, seq_kv, warmth, HEAD_DIM,
                                BLOCK_D, BLOCK_N, PASS == 0, True, PRECISION)  # fmt: skip
    if PASS == 1:
        tl.store(sums, total, mask=there)
    else:
        out_ptr += (lane * seq_q + p0) * HEAD_DIM
        # A row of none but weights that are 0, see `softplus_attention`, is 0.
        out = (acc / tl.where(total == 0.0, 1.0, total)[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + (steps[:, None] * HEAD_DIM + dims[None, :]), out, mask=inside)


@interpreted_on_cpu
def softplus_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return causal attention with weights softplus(log(d) log(p + 1) / sqrt(d) * q_p . k_m), divided by their sum.

    A weight below 2^-126 counts as 0, as half types flush still larger ones (float16 below 2^-24) and float16 ends at
    65504: a query whose scores, of which 0 is a weight of ln 2, are all below about -87 has the result 0.

    Args:
        q: [batch, heads, seq_q, head_dim]; the last query stands on the last key, so seq_q is at most seq_kv.
        k: [batch, kv_heads, seq_kv, head_dim].
        v: like k.
        tile: shape, warps and stages; the shipped choice for the device where not given.
        empty: makes the output; the checker passes one that fills it with NaN.

    Raises:
        KernelError: shapes that do not fit.
    """
    return (_run(q, k, v, passes=(0,), power=1, kernel="softplus_attention", tile=tile, empty=empty),)


@interpreted_on_cpu
def reweighted_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    power: int = 15,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return softplus attention whose weights are relu(length * weight - 1) ** power, normalised again.

    Args:
        power: 1 to 63.

    The other arguments are those of `softplus_attention`.
    """
    if not 1 <= power <= MOST_POWER:
        raise KernelError(f"power={power}: expected 1 to {MOST_POWER}")
    return (_run(q, k, v, passes=(1, 2), power=power, kernel="reweighted_attention", tile=tile, empty=empty),)


def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    passes: tuple[int, ...],
    power: int,
    kernel: str,
    tile: tiles.Tile | None,
    empty: Callable[..., torch.Tensor],
) -> torch.Tensor:
    batch, heads, seq_q, head_dim, kv_heads, seq_kv = checked_shapes(q, k, v)
    if seq_q > seq_kv:
        raise KernelError(f"expected at most as many queries as keys, {seq_kv}, found {seq_q}")
    tile = tile or tiles.choose(kernel, head_dim=head_dim, dtype=q.dtype, device=q.device)
    sums = empty((batch, heads, seq_q), dtype=torch.float32, device=q.device)
    out = empty((batch, heads, seq_q, head_dim), dtype=q.dtype, device=q.device)
    for number in passes:
        launch(softplus_forward, triton.cdiv(seq_q, tile.block_m) * batch * heads, tile)(
            q, k, v, sums, out, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], heads, heads // kv_heads, seq_q,
            seq_kv, math.log(head_dim) * head_dim**-0.5, POWER=power, **of_head(head_dim, q.dtype.itemsize),
            BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, PASS=number,
        )  # fmt: skip
    return out


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler.

    Args:
        variant: "one pass" of softplus attention; "sums" or "values" of the re-weighted form.
    """
    number = ("one pass", "sums", "values").index(variant)
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), POINTER[dtype]) | {"sum_ptr": "*fp32"}
    strides = tuple(f"{t}_{axis}" for t in "qkv" for axis in ("batch", "head", "row"))
    constants = {
        "POWER": 15, **of_head(head_dim, WORD_BYTES[dtype]), "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n, "PASS": number,
    }  # fmt: skip
    kernel = "reweighted_attention" if number else "softplus_attention"
    return Build(kernel, variant, head_dim, dtype, tile, softplus_forward, pointers, ("scale",), strides,
                 constants)  # fmt: skip
