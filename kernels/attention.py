"""Flash attention, forward: the 1-pass cascade with a running maximum, as one Triton kernel.

Cascade: `attention_1pass` and its causal and sliding-window variants. Query p sees key m where
`-left <= m - (p + seq_kv - seq_q) <= right`: causal is right = 0, a causal window of W keys is left = W - 1, right = 0.
With fewer queries than keys the last query sees the last key (chunked prefill, decode).
Tiling: a thread block holds block_m queries of one head and walks key tiles of block_n: cut tiles at the left end of
its band, whole tiles, cut tiles at the right end.
Exact: scores, maximum, denominator and numerator are float32; half types round the weights and the result only.
A NaN or an infinity spreads along what is seen: of a query to its row, of a key to the queries that see it. Of a value
it may reach further, to queries of a visited tile that do not see it, as its weight there is 0 and 0 * NaN is NaN.
PyTorch's math attention and FlashAttention do the same, and hiding it would take a comparison for each word of a tile
that every sound call pays for; beyond the end of the keys nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import tiles
from .aot import POINTER, WORD_BYTES, Build
from .interpreter import interpreted_on_cpu
from .masks import limits
from .primitives import LOG2E, finish, fold, launch, of_head, tile_and_lane

# Rows of a tile, or tokens of a chunk, at most: offsets inside it are 32-bit numbers.
MOST_ROWS = 256
# What each modification of the scores compiles in, by the words of a campaign, and all of them at once.
MODIFIED = {
    "soft-cap": ("SOFT_CAP",),
    "alibi": ("ALIBI",),
    "relative-bias": ("BIAS",),
    "sink": ("SINK",),
    "toeplitz": ("BIAS", "FACTOR"),
    "modified": ("SOFT_CAP", "ALIBI", "BIAS", "SINK", "FACTOR"),
}


@triton.jit
def _modified(scores, scale, rows, cols, cap, slope, bias_row, SOFT_CAP: tl.constexpr, ALIBI: tl.constexpr,
              BIAS: tl.constexpr, LAST: tl.constexpr):  # fmt: skip
    """Scores in base 2 after soft cap, ALiBi slope and relative bias, in that order."""
    scores = scores * scale
    if SOFT_CAP:
        # tanh(x) = 1 - 2 / (1 + e^2x); scores carry log2(e), so e^(2 s / cap) is 2^(2 scores / cap).
        scores = cap * 1.4426950408889634 * (1.0 - 2.0 / (1.0 + tl.exp2(2.0 * scores / cap)))
    distance = cols[None, :] - rows[:, None]
    if ALIBI:
        scores += slope * 1.4426950408889634 * distance.to(tl.float32)
    if BIAS:
        index = tl.minimum(tl.maximum(distance + LAST, 0), 2 * LAST)
        scores += tl.load(bias_row + index).to(tl.float32) * 1.4426950408889634
    return scores


@triton.jit
def _visit(acc, row_max, row_sum, q, k_ptr, v_ptr, k_row, v_row, first, last, rows, seq_kv, left, right, scale, cap,
           slope, bias_row, factor_row, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
           MASKED: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr, SOFT_CAP: tl.constexpr,
           ALIBI: tl.constexpr, BIAS: tl.constexpr, FACTOR: tl.constexpr, LAST: tl.constexpr,
           PRECISION: tl.constexpr):  # fmt: skip
    """Fold the key tiles of [first, last) into the running maximum, denominator and numerator."""
    steps = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    for start in range(first, last, BLOCK_N):
        cols = start + steps
        # The offset of a tile needs 64 bits in a long sequence; those inside a tile do not.
        k_ptrs = k_ptr + tl.cast(start, tl.int64) * k_row + (steps[None, :] * k_row + dims[:, None])
        v_ptrs = v_ptr + tl.cast(start, tl.int64) * v_row + (steps[:, None] * v_row + dims[None, :])
        if MASKED or HEAD_DIM != BLOCK_D:
            k = tl.load(k_ptrs, mask=(cols[None, :] < seq_kv) & (dims[:, None] < HEAD_DIM), other=0.0)
        else:
            k = tl.load(k_ptrs)
        scores = tl.dot(q, k, input_precision=PRECISION)
        if SOFT_CAP or ALIBI or BIAS:
            scores = _modified(scores, scale, rows, cols, cap, slope, bias_row, SOFT_CAP, ALIBI, BIAS, LAST)
            factor = 1.0
        else:
            factor = scale
        if MASKED:
            seen = cols[None, :] < seq_kv
            if HAS_LEFT:
                seen = seen & (cols[None, :] >= rows[:, None] - left)
            if HAS_RIGHT:
                seen = seen & (cols[None, :] <= rows[:, None] + right)
            scores = tl.where(seen, scores, float("-inf"))
        # A bias of -inf hides keys too, in whole tiles as in cut ones.
        weights, shrink, row_max, row_sum = fold(scores, factor, row_max, row_sum, MASKED or BIAS)
        if FACTOR:
            # In the numerator only: the weights of a row no longer sum to 1, as URPE means it.
            index = tl.minimum(tl.maximum(cols[None, :] - rows[:, None] + LAST, 0), 2 * LAST)
            weights = weights * tl.load(factor_row + index).to(tl.float32)
        if MASKED or HEAD_DIM != BLOCK_D:
            v = tl.load(v_ptrs, mask=(cols[:, None] < seq_kv) & (dims[None, :] < HEAD_DIM), other=0.0)
        else:
            v = tl.load(v_ptrs)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return acc, row_max, row_sum


@triton.jit
def flash_forward(q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, slopes_ptr, bias_ptr, sink_ptr, factor_ptr,
                  q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
                  heads, group, seq_q, seq_kv, left, right, scale, cap,
                  HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                  HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr, SOFT_CAP: tl.constexpr, ALIBI: tl.constexpr,
                  BIAS: tl.constexpr, SINK: tl.constexpr, FACTOR: tl.constexpr, LAST: tl.constexpr,
                  PRECISION: tl.constexpr):  # fmt: skip
    """One tile of queries of one head against every key tile that its band touches."""
    tiles_q = tl.cdiv(seq_q, BLOCK_M)
    tile, lane = tile_and_lane(tiles_q)
    if HAS_RIGHT:
        # The longest rows first, so that the last wave is made of short ones.
        tile = tiles_q - 1 - tile
    batch = lane // heads
    head = lane % heads
    k_ptr += batch * k_batch + head // group * k_head
    v_ptr += batch * v_batch + head // group * v_head

    p0 = tile * BLOCK_M
    steps = tl.arange(0, BLOCK_M)
    queries = p0 + steps
    dims = tl.arange(0, BLOCK_D)
    inside = (queries[:, None] < seq_q) & (dims[None, :] < HEAD_DIM)
    q_ptr += batch * q_batch + head * q_head + tl.cast(p0, tl.int64) * q_row
    q = tl.load(q_ptr + (steps[:, None] * q_row + dims[None, :]), mask=inside, other=0.0)
    # Rows are counted on the keys' axis: the last query stands on the last key.
    shift = seq_kv - seq_q
    rows = queries + shift
    row_first = p0 + shift
    row_last = tl.minimum(p0 + BLOCK_M, seq_q) - 1 + shift

    first = 0
    full_first = 0
    last = seq_kv
    full_last = seq_kv // BLOCK_N * BLOCK_N
    if HAS_RIGHT:
        last = tl.minimum(tl.maximum(row_last + right + 1, 0), seq_kv)
        full_last = tl.minimum(tl.maximum(row_first + right + 1, 0), seq_kv) // BLOCK_N * BLOCK_N
    if HAS_LEFT:
        first = tl.maximum(row_first - left, 0) // BLOCK_N * BLOCK_N
        full_first = (tl.maximum(row_last - left, 0) + BLOCK_N - 1) // BLOCK_N * BLOCK_N
        full_last = tl.maximum(full_last, full_first)

    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes_ptr + head).to(tl.float32)
    bias_row = bias_ptr + head * (2 * LAST + 1)
    factor_row = factor_ptr + head * (2 * LAST + 1)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    if SINK:
        # A sink is one more key with a learnt logit and no value.
        row_max = (
            tl.zeros([BLOCK_M], tl.float32) + tl.load(sink_ptr + head).to(tl.float32) * 1.4426950408889634
        )
        row_sum += 1.0

    if HAS_LEFT:
        acc, row_max, row_sum = _visit(
            acc, row_max, row_sum, q, k_ptr, v_ptr, k_row, v_row, first, tl.minimum(full_first, last), rows, seq_kv,
            left, right, scale, cap, slope, bias_row, factor_row, HEAD_DIM, BLOCK_D, BLOCK_N, True, HAS_LEFT, HAS_RIGHT,
            SOFT_CAP, ALIBI, BIAS, FACTOR, LAST, PRECISION,
        )  # fmt: skip
    acc, row_max, row_sum = _visit(
        acc, row_max, row_sum, q, k_ptr, v_ptr, k_row, v_row, full_first, full_last, rows, seq_kv,
        left, right, scale, cap, slope, bias_row, factor_row, HEAD_DIM, BLOCK_D, BLOCK_N, False, HAS_LEFT, HAS_RIGHT,
        SOFT_CAP, ALIBI, BIAS, FACTOR, LAST, PRECISION,
    )  # fmt: skip
    acc, row_max, row_sum = _visit(
        acc, row_max, row_sum, q, k_ptr, v_ptr, k_row, v_row, full_last, last, rows, seq_kv,
        left, right, scale, cap, slope, bias_row, factor_row, HEAD_DIM, BLOCK_D, BLOCK_N, True, HAS_LEFT, HAS_RIGHT,
        SOFT_CAP, ALIBI, BIAS, FACTOR, LAST, PRECISION,
    )  # fmt: skip

    out, lse = finish(acc, row_max, row_sum)
    out_ptr += batch * o_batch + head * o_head + tl.cast(p0, tl.int64) * o_row
    o_ptrs = out_ptr + (steps[:, None] * o_row + dims[None, :])
    tl.store(o_ptrs, out.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + lane * seq_q + queries, lse, mask=queries < seq_q)


@interpreted_on_cpu
def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
    slopes: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    sink: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return softmax(scale * Q K^T, masked and modified) V and the log-sum-exp of each row.

    Args:
        q: [batch, heads, seq_q, head_dim], float32, float16 or bfloat16.
        k: [batch, kv_heads, seq_kv, head_dim]; heads is a multiple of kv_heads.
        v: like k; of values that are hidden NaN and infinities may show, see the head of the file.
        causal: a query sees no key after itself; the last query stands on the last key.
        window: see `kernels.masks.limits`.
        scale: head_dim ** -0.5 where not given; positive.
        soft_cap: scores become soft_cap * tanh(score / soft_cap); 0 leaves them.
        slopes: [heads], ALiBi: slope * (m - p) is added to the score.
        bias: [heads, 2 * last + 1], relative bias by m - p, clamped to -last .. last; -inf hides a key.
        sink: [heads], logit of one more key that has no value.
        factor: [heads, 2 * last + 1] like `bias`, multiplies the weights in the numerator only: URPE's Toeplitz matrix.
        tile: shape, warps and stages; the shipped choice for the device where not given.
        empty: makes the output tensors; the checker passes one that fills them with NaN.

    Returns:
        Output like q, and [batch, heads, seq_q] float32 (natural logarithm; -inf and 0 where a row sees no key).

    Raises:
        KernelError: shapes, types or options that the kernel does not take.
    """
    batch, heads, seq_q, head_dim, kv_heads, seq_kv = checked_shapes(q, k, v)
    scale = head_dim**-0.5 if scale is None else scale
    check_factors(scale=scale, soft_cap=soft_cap)
    check_each_head(heads, slopes=slopes, sink=sink)
    left, right = limits(causal=causal, window=window, farthest=seq_q + seq_kv)
    tables = {"ALIBI": slopes, "BIAS": bias, "SINK": sink, "FACTOR": factor}
    flags = {"SOFT_CAP": soft_cap > 0} | {flag: t is not None for flag, t in tables.items()}
    tile = tile or _beside(
        tiles.choose(
            "flash_attention",
            head_dim=head_dim,
            dtype=q.dtype,
            device=q.device,
            # Modified scores need registers as windows do, and take their tiles.
            window=any(flags.values()) or left is not None,
        ),
        flags={flag for flag, there in flags.items() if there},
        windowed=left is not None,
        head_dim=head_dim,
    )
    out = empty((batch, heads, seq_q, head_dim), dtype=q.dtype, device=q.device)
    lse = empty((batch, heads, seq_q), dtype=torch.float32, device=q.device)
    launch(flash_forward, triton.cdiv(seq_q, tile.block_m) * batch * heads, tile)(
        q, k, v, out, lse, *(q if t is None else t.contiguous() for t in (slopes, bias, sink, factor)),
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], heads, heads // kv_heads, seq_q, seq_kv,
        left or 0, right or 0, scale * LOG2E, soft_cap, **of_head(head_dim, q.dtype.itemsize), BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n, HAS_LEFT=left is not None, HAS_RIGHT=right is not None, **flags,
        LAST=_last(bias, factor, heads=heads),
    )  # fmt: skip
    return out, lse


def _beside(tile: tiles.Tile, *, flags: Set[str], windowed: bool, head_dim: int) -> tiles.Tile:
    """Return the shipped tile, smaller where what modifies the scores takes its part of an SM.

    Tables by relative position are each read through shared memory as a whole tile of scores a stage, and take
    registers, as distances do that are multiplied by a slope: data center Blackwell's tile of the largest heads spills.

    Args:
        flags: words of `MODIFIED` that are compiled in.
        windowed: whether a query sees no further than so far to its left.
    """
    tables, sloped, capped = len(flags & {"BIAS", "FACTOR"}), "ALIBI" in flags, "SOFT_CAP" in flags
    if not tables and not sloped and not capped:
        return tile
    if capped and head_dim <= 64 and tile.stages < 3:
        # With a soft cap 64 keys a step spill on data center Blackwell, whose tile GPUs of 99 KiB a block take too.
        tile = replace(tile, block_n=min(tile.block_n, 32))
    most = 64 if head_dim > 128 and (tables or (sloped and tile.block_n > 16)) else tile.block_m
    queries = min(tile.block_m, most)
    warps = max(tile.warps, queries // 16)
    large = tables > 1 and queries * tile.block_n >= 128 * 64
    # Half as many keys a step on GPUs whose tile is that of an A100: it spills with both tables, and on Hopper with a
    # factor alone in a window.
    crowded = tables > 1 or ("FACTOR" in flags and windowed)
    half = crowded and head_dim > 64 and queries == tile.block_m
    keys = 16 if half and tile.block_n == 32 else tile.block_n
    stages = min(tile.stages, 2) if large else tile.stages
    return replace(tile, block_m=queries, block_n=keys, warps=warps, stages=stages)


def _last(*tables: torch.Tensor | None, heads: int) -> int:
    """Return the largest distance that tables by relative position tell apart; 0 without any."""
    given = [t for t in tables if t is not None]
    for t in given:
        if t.shape != given[0].shape or t.ndim != 2 or t.shape[0] != heads or t.shape[1] % 2 == 0:
            raise KernelError(
                f"bias, factor: expected [{heads}, an odd number], the same for both, found {list(t.shape)}"
            )
    return given[0].shape[1] // 2 if given else 0


def check_factors(*, scale: float, soft_cap: float) -> None:
    """Refuse a scale that is not positive, and a soft cap below 0, which would be none.

    Raises:
        KernelError: one of them, or NaN.
    """
    if not scale > 0:
        raise KernelError(f"scale={scale}: expected a positive number")
    if not soft_cap >= 0:
        raise KernelError(f"soft_cap={soft_cap}: expected a positive number, or 0 for none")


def check_each_head(heads: int, **given: torch.Tensor | None) -> None:
    """Refuse tensors by name that do not hold one number for each head.

    Raises:
        KernelError: another shape, where the kernel would read beside the tensor.
    """
    for name, t in given.items():
        if t is not None and t.shape != (heads,):
            raise KernelError(f"{name}: expected [{heads}], found {list(t.shape)}")


def check_words(**given: torch.Tensor) -> None:
    """Refuse tensors by name that are not all of one type that the kernels take, on one device.

    Raises:
        KernelError: another type, or a mixture.
    """
    (first, like), *_ = given.items()
    for name, t in given.items():
        if t.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise KernelError(f"{name}: expected float32, float16 or bfloat16, found {t.dtype}")
        if t.dtype != like.dtype or t.device != like.device:
            raise KernelError(
                f"{name}: expected {like.dtype} on {like.device} like {first}, found {t.dtype} on {t.device}"
            )


def check_rows(**given: torch.Tensor) -> None:
    """Refuse tensors by name whose rows cannot be read as the kernels read them.

    Raises:
        KernelError: elements of a row that do not follow each other, or rows too far apart for 32 bits inside a tile.
    """
    for name, t in given.items():
        if t.stride(-1) != 1:
            raise KernelError(f"{name}: expected head_dim to be contiguous, found strides {t.stride()}")
        if MOST_ROWS * t.stride(-2) >= 2**31:
            raise KernelError(
                f"{name}: expected rows less than {2**31 // MOST_ROWS} elements apart, found strides {t.stride()}; "
                f"{name}.contiguous() has them"
            )


def checked_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[int, int, int, int, int, int]:
    """Return batch, heads, seq_q, head_dim, kv_heads, seq_kv of legal inputs.

    Raises:
        KernelError: what is wrong with them.
    """
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.ndim != 4:
            raise KernelError(f"{name}: expected [batch, heads, sequence, head_dim], found {list(t.shape)}")
    check_words(q=q, k=k, v=v)
    check_rows(q=q, k=k, v=v)
    batch, heads, seq_q, head_dim = q.shape
    kv_heads, seq_kv = k.shape[1], k.shape[2]
    if k.shape != v.shape or k.shape[0] != batch or k.shape[3] != head_dim:
        found = f"{list(k.shape)}, {list(v.shape)}"
        raise KernelError(f"k, v: expected [{batch}, kv_heads, seq_kv, {head_dim}] twice, found {found}")
    if 0 in q.shape or 0 in k.shape:
        raise KernelError(f"q, k: expected at least one element, found {list(q.shape)}, {list(k.shape)}")
    if not 16 <= head_dim <= 256:
        raise KernelError(f"head_dim={head_dim}: expected 16 to 256")
    if heads % kv_heads:
        raise KernelError(f"heads={heads}: expected a multiple of kv_heads={kv_heads}")
    return batch, heads, seq_q, head_dim, kv_heads, seq_kv


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler.

    Args:
        tile: of windows where scores are modified; made smaller as a launch does.
        variant: "dense", or words of "causal window", then how scores are modified: a word of `MODIFIED`.
    """
    words = variant.split()
    flags = {flag for word in words for flag in MODIFIED.get(word, ())}
    tile = _beside(tile, flags=flags, windowed="window" in words, head_dim=head_dim)
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), POINTER[dtype])
    pointers |= dict.fromkeys(("lse_ptr", "slopes_ptr", "bias_ptr", "sink_ptr", "factor_ptr"), "*fp32")
    strides = tuple(f"{t}_{axis}" for t in "qkvo" for axis in ("batch", "head", "row"))
    constants = {
        **of_head(head_dim, WORD_BYTES[dtype]), "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n, "HAS_LEFT": "window" in words, "HAS_RIGHT": bool({"causal", "window"} & {*words}),
        **{flag: flag in flags for flag in MODIFIED["modified"]}, "LAST": 5,
    }  # fmt: skip
    return Build("flash_attention", variant, head_dim, dtype, tile, flash_forward, pointers, ("scale", "cap"), strides,
                 constants)  # fmt: skip
