"""Causal linear attention with exponential decay, chunked: a product inside each chunk, a carried state between.

Cascade: `linear_chunked`, and `linear_recurrent`, which it equals. Its gradients are the same operator with the roles
of the tensors exchanged and, for keys and values, with time reversed, so that one kernel is forward and backward; what
a normaliser adds to them is in `linear_sums`.
Tiling: a thread block walks all chunks of block_m tokens of one head, for block_n value columns.
Exact: the state is kept in float32; half types round it, and the scores, once before each product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from einsum_cascade.errors import KernelError

from . import linear_sums, tiles
from .aot import POINTER, WORD_BYTES, Build
from .attention import checked_shapes
from .interpreter import interpreted_on_cpu
from .primitives import block_of, launch, of_head, tile_and_lane


@triton.jit
def linear_chunks(q_ptr, k_ptr, v_ptr, decay_ptr, out_ptr, q_batch, q_head, q_row, k_batch, k_head, k_row,
                  v_batch, v_head, v_row, heads, seq,
                  HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, VALUE_DIM: tl.constexpr, BLOCK_V: tl.constexpr,
                  CHUNK: tl.constexpr, REVERSE: tl.constexpr, NORMALISE: tl.constexpr,
                  PRECISION: tl.constexpr):  # fmt: skip
    """All chunks of one head, for one block of value columns; the state stays in registers."""
    tile, lane = tile_and_lane(tl.cdiv(VALUE_DIM, BLOCK_V))
    batch = lane // heads
    head = lane % heads
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head * k_head
    v_ptr += batch * v_batch + head * v_head
    out_ptr += lane * seq * VALUE_DIM
    # Natural decay rate per token, in base 2.
    rate = tl.load(decay_ptr + head).to(tl.float32) * 1.4426950408889634

    step = tl.arange(0, CHUNK)
    dims = tl.arange(0, BLOCK_D)
    columns = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    distance = (step[:, None] - step[None, :]).to(tl.float32)
    # The masked half would overflow for a large rate: its distance is set to 0 before the exponential.
    inside = tl.where(distance >= 0, tl.exp2(-rate * tl.maximum(distance, 0.0)), 0.0)
    since_start = tl.exp2(-rate * (step + 1).to(tl.float32))
    until_end = tl.exp2(-rate * (CHUNK - 1 - step).to(tl.float32))
    whole = tl.exp2(-rate * CHUNK)

    state = tl.zeros([BLOCK_D, BLOCK_V], tl.float32)
    key_sum = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, seq, CHUNK):
        there = start + step < seq
        # The offset of a chunk needs 64 bits in a long sequence; those inside a chunk do not.
        base = tl.cast(seq - 1 - start if REVERSE else start, tl.int64)
        place = -step if REVERSE else step
        row_mask = there[:, None] & (dims[None, :] < HEAD_DIM)
        value_mask = there[:, None] & (columns[None, :] < VALUE_DIM)
        q = tl.load(q_ptr + base * q_row + (place[:, None] * q_row + dims[None, :]), mask=row_mask, other=0.0)
        k = tl.load(k_ptr + base * k_row + (place[:, None] * k_row + dims[None, :]), mask=row_mask, other=0.0)
        v = tl.load(
            v_ptr + base * v_row + (place[:, None] * v_row + columns[None, :]), mask=value_mask, other=0.0
        )
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * inside
        out = tl.dot(scores.to(v.dtype), v, input_precision=PRECISION)
        carried = tl.dot(q, state.to(q.dtype), input_precision=PRECISION)
        out += carried * since_start[:, None]
        if NORMALISE:
            across = tl.sum(q.to(tl.float32) * key_sum[None, :], 1) * since_start
            out = out / (tl.sum(scores, 1) + across)[:, None]
            key_sum = key_sum * whole + tl.sum(k.to(tl.float32) * until_end[:, None], 0)
        late = (k.to(tl.float32) * until_end[:, None]).to(k.dtype)
        state = state * whole + tl.dot(tl.trans(late), v, input_precision=PRECISION)
        o_ptrs = out_ptr + base * VALUE_DIM + (place[:, None] * VALUE_DIM + columns[None, :])
        tl.store(o_ptrs, out.to(out_ptr.dtype.element_ty), mask=value_mask)


def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    decay: torch.Tensor,
    *,
    reverse: bool,
    normalise: bool,
    tile: tiles.Tile | None,
    empty: Callable[..., torch.Tensor],
) -> torch.Tensor:
    batch, heads, seq, head_dim = q.shape
    value_dim = v.shape[-1]
    tile = tile or tiles.choose("linear_attention", head_dim=head_dim, dtype=q.dtype, device=q.device)
    out = empty((batch, heads, seq, value_dim), dtype=q.dtype, device=q.device)
    launch(linear_chunks, triton.cdiv(value_dim, tile.block_n) * batch * heads, tile)(
        q, k, v, decay, out, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], heads, seq,
        **of_head(head_dim, q.dtype.itemsize), VALUE_DIM=value_dim, BLOCK_V=tile.block_n, CHUNK=tile.block_m,
        REVERSE=reverse, NORMALISE=normalise,
    )  # fmt: skip
    return out


def _checked_decay(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
    """Return the rates one after the other, as the kernels read them, of tensors that belong together."""
    _, heads, seq, _, kv_heads, seq_kv = checked_shapes(q, k, v)
    if kv_heads != heads or seq_kv != seq or decay.shape != (heads,):
        raise KernelError(
            f"expected k, v like q {list(q.shape)} and decay [{heads}], found {list(k.shape)} and {list(decay.shape)}"
        )
    return decay.contiguous()


@interpreted_on_cpu
def linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    decay: torch.Tensor,
    normalise: bool = False,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor]:
    """Return the sum over m <= p of exp(-decay * (p - m)) (q_p . k_m) v_m, in time linear in the sequence.

    Args:
        q: [batch, heads, sequence, head_dim].
        k: like q.
        v: like q.
        decay: [heads] float32, natural rate per token, 0 or more; 0 is plain linear attention. The state, a sum over
            tokens that little decay leaves long, is given to products in the words of q: float16 holds 65504.
        normalise: divide by the sum of the weights; they must be positive, as with a positive feature map.
        tile: block_m is the chunk, block_n the block of value columns.
        empty: makes the output; the checker passes one that fills it with NaN.
    """
    decay = _checked_decay(q, k, v, decay)
    return (_run(q, k, v, decay, reverse=False, normalise=normalise, tile=tile, empty=empty),)


@interpreted_on_cpu
def linear_attention_gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    grad: torch.Tensor,
    decay: torch.Tensor,
    normalise: bool = False,
    tile: tiles.Tile | None = None,
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients for q, k and v of `linear_attention`.

    Args:
        grad: gradient of the result, like q.

    The other arguments are those of `linear_attention`.
    """
    decay = _checked_decay(q, k, v, decay)
    if grad.shape != v.shape or grad.dtype != q.dtype:
        raise KernelError(
            f"grad: expected {q.dtype} {list(v.shape)} like v, found {grad.dtype} {list(grad.shape)}"
        )
    # The gradient of a sum is one number seen everywhere: its rows are not contiguous.
    grad = grad.contiguous()

    def run(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, reverse: bool) -> torch.Tensor:
        return _run(a, b, c, decay, reverse=reverse, normalise=False, tile=tile, empty=empty)

    if not normalise:
        return run(grad, v, k, False), run(v, grad, q, True), run(k, q, grad, True)
    shared_q, shared_grad, root = _shared(q, k, grad, decay, empty)
    # g . o / s: the result without its sum of weights, times what each of its factors lacks.
    product = (shared_grad.float() * run(shared_q, k, v, False).float()).sum(-1) * root * root.abs()
    grad_q = _less_sums(k, run(shared_grad, v, k, False), root, product, decay, False, empty)
    grad_k = _less_sums(q, run(v, shared_grad, shared_q, True), root, product, decay, True, empty)
    return grad_q, grad_k, run(k, shared_q, shared_grad, True)


def _shared(
    q: torch.Tensor,
    k: torch.Tensor,
    grad: torch.Tensor,
    decay: torch.Tensor,
    empty: Callable[..., torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return q and the gradient times the root of 1 / s, and that root."""
    batch, heads, seq, head_dim = q.shape
    value_dim = grad.shape[-1]
    shared_q, shared_grad = (empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, grad))
    root = empty(q.shape[:3], dtype=torch.float32, device=q.device)
    launch(linear_sums.share_weights, batch * heads, linear_sums.WHOLE)(
        q, k, grad, decay, shared_q, shared_grad, root, *q.stride()[:3], *k.stride()[:3], heads, seq,
        **of_head(head_dim, q.dtype.itemsize), VALUE_DIM=value_dim, BLOCK_V=block_of(value_dim),
        CHUNK=linear_sums.CHUNK,
    )  # fmt: skip
    return shared_q, shared_grad, root


def _less_sums(
    x: torch.Tensor,
    base: torch.Tensor,
    root: torch.Tensor,
    product: torch.Tensor,
    decay: torch.Tensor,
    reverse: bool,
    empty: Callable[..., torch.Tensor],
) -> torch.Tensor:
    batch, heads, seq, head_dim = x.shape
    columns = min(block_of(head_dim), linear_sums.COLUMNS)
    out = empty(x.shape, dtype=x.dtype, device=x.device)
    launch(linear_sums.less_sums, triton.cdiv(head_dim, columns) * batch * heads, linear_sums.PART)(
        x, base, root, product, decay, out, *x.stride()[:3], heads, seq, HEAD_DIM=head_dim, BLOCK_D=columns,
        CHUNK=linear_sums.CHUNK, REVERSE=reverse,
    )  # fmt: skip
    return out


def build(tile: tiles.Tile, *, head_dim: int, dtype: str, variant: str) -> Build:
    """Return one specialisation, for the compiler.

    Args:
        variant: "forward", "normalised" or "reversed", as the gradients need it.
    """
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), POINTER[dtype]) | {"decay_ptr": "*fp32"}
    strides = tuple(f"{t}_{axis}" for t in "qkv" for axis in ("batch", "head", "row"))
    constants = {
        **of_head(head_dim, WORD_BYTES[dtype]), "VALUE_DIM": head_dim, "BLOCK_V": tile.block_n,
        "CHUNK": tile.block_m, "REVERSE": variant == "reversed", "NORMALISE": variant == "normalised",
    }  # fmt: skip
    return Build("linear_attention", variant, head_dim, dtype, tile, linear_chunks, pointers, (), strides,
                 constants)  # fmt: skip
