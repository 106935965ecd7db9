"""Gradients against automatic differentiation of PyTorch's own attention and of a recurrence, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from einsum_cascade.errors import KernelError
from kernels import reference
from kernels.backward import flash_attention_gradients, gradients_from
from kernels.check import poisoned
from kernels.linear import linear_attention_gradients
from kernels.tiles import Tile

# Sums of at most some tens of products of unit variance, in float32.
ATOL = 5e-5


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*s, generator=generator) for s in shapes]


def seen_by(seq_q, seq_kv, causal, window):
    """The mask pair by pair, by the words of the documentation; the last query stands on the last key."""
    rows = []
    for p in range(seq_kv - seq_q, seq_kv):
        if causal:
            rows.append([m <= p and (window is None or m > p - window) for m in range(seq_kv)])
        else:
            rows.append(
                [window is None or -(window // 2) <= m - p <= (window - 1) // 2 for m in range(seq_kv)]
            )
    return torch.tensor(rows)


def exact(q, k, v, grad, mask):
    """Gradients in float64 by autograd; queries without any key take no part, as their result is 0."""
    leaves = [t.double().requires_grad_() for t in (q, k, v)]
    group = q.shape[1] // k.shape[1]
    keys, values = (t.repeat_interleave(group, 1) for t in leaves[1:])
    some = mask.any(1)
    out = scaled_dot_product_attention(leaves[0][:, :, some], keys, values, attn_mask=mask[some])
    return torch.autograd.grad(out, leaves, grad.double()[:, :, some])


@settings(max_examples=10, deadline=None)
@given(
    seq_q=st.integers(1, 40),
    seq_kv=st.integers(1, 40),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 45),
    group=st.sampled_from([1, 2]),
    tile=st.sampled_from([Tile(16, 16), Tile(32, 16), Tile(16, 32)]),
)
def test_flash_gradients_for_any_mask_and_group(seq_q, seq_kv, causal, window, group, tile):
    q, k, v, grad = tensors(
        (1, 2 * group, seq_q, 16), (1, 2, seq_kv, 16), (1, 2, seq_kv, 16), (1, 2 * group, seq_q, 16)
    )
    mask = seen_by(seq_q, seq_kv, causal, window)
    ours = flash_attention_gradients(
        q, k, v, grad=grad, causal=causal, window=window, tile=tile, empty=poisoned
    )
    if not mask.any():
        assert all(bool((t == 0).all()) for t in ours)
        return
    for got, expected in zip(ours, exact(q, k, v, grad, mask), strict=True):
        assert torch.allclose(got.double(), expected, atol=ATOL)


@pytest.mark.parametrize("head_dim", [32, 40, 128])
def test_flash_gradients_for_head_sizes(head_dim):
    q, k, v, grad = tensors(*[(1, 1, 21, head_dim)] * 4)
    ours = flash_attention_gradients(q, k, v, grad=grad, causal=True, empty=poisoned)
    for got, expected in zip(ours, exact(q, k, v, grad, seen_by(21, 21, True, None)), strict=True):
        assert torch.allclose(got.double(), expected, atol=ATOL)


LEARNT = ("slopes", "bias", "sink", "factor")


def modified_exact(tensors, grad, mask, *, scale, soft_cap):
    """Gradients in float64 by autograd of the weights as the forward pass documents them; a sink sees every row."""
    leaves = {name: t.double().requires_grad_() for name, t in tensors.items()}
    q, k, v = (leaves[name] for name in "qkv")
    group, (seq_q, seq_kv) = q.shape[1] // k.shape[1], mask.shape
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = scale * torch.einsum("bhpd,bhmd->bhpm", q, k)
    if soft_cap:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    distance = torch.tensor([[m - p for m in range(seq_kv)] for p in range(seq_kv - seq_q, seq_kv)])
    if "slopes" in leaves:
        scores = scores + leaves["slopes"][:, None, None] * distance
    if "bias" in leaves:
        last = leaves["bias"].shape[1] // 2
        scores = scores + leaves["bias"][:, distance.clamp(-last, last) + last]
    weights = torch.exp(scores) * mask
    total = weights.sum(-1, keepdim=True)
    if "sink" in leaves:
        total = total + torch.exp(leaves["sink"])[:, None, None]
    weights = weights / torch.where(total == 0, 1.0, total)
    if "factor" in leaves:
        last = leaves["factor"].shape[1] // 2
        weights = weights * leaves["factor"][:, distance.clamp(-last, last) + last]
    return torch.autograd.grad(weights @ v, list(leaves.values()), grad.double())


def modified_tensors(group, seq_q, seq_kv, names, last, batch=1):
    heads = 2 * group
    shapes = {"q": (batch, heads, seq_q, 16), "k": (batch, 2, seq_kv, 16), "v": (batch, 2, seq_kv, 16)}
    tables = {
        "slopes": (heads,),
        "sink": (heads,),
        "bias": (heads, 2 * last + 1),
        "factor": (heads, 2 * last + 1),
    }
    shapes |= {name: tables[name] for name in LEARNT if name in names}
    *made, grad = tensors(*shapes.values(), (batch, heads, seq_q, 16))
    return dict(zip(shapes, made, strict=True)), grad


@settings(max_examples=25, deadline=None)
@given(
    seq_q=st.integers(1, 40),
    seq_kv=st.integers(1, 40),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 45),
    group=st.sampled_from([1, 2]),
    batch=st.sampled_from([1, 2]),
    names=st.sets(st.sampled_from(LEARNT)),
    last=st.sampled_from([0, 1, 5, 50]),
    scale=st.sampled_from([None, 0.1]),
    soft_cap=st.sampled_from([0.0, 1.0]),
    tile=st.sampled_from([Tile(16, 16), Tile(32, 16), Tile(32, 32)]),
)
def test_flash_gradients_for_any_modification(
    seq_q, seq_kv, causal, window, group, batch, names, last, scale, soft_cap, tile
):
    given_, grad = modified_tensors(group, seq_q, seq_kv, names, last, batch)
    mask = seen_by(seq_q, seq_kv, causal, window)
    ours = flash_attention_gradients(
        **given_,
        grad=grad,
        causal=causal,
        window=window,
        scale=scale,
        soft_cap=soft_cap,
        tile=tile,
        empty=poisoned,
    )
    expected = modified_exact(given_, grad, mask, scale=scale or 0.25, soft_cap=soft_cap)
    for name, got, want in zip(given_, ours, expected, strict=True):
        assert got.shape == given_[name].shape
        # Sums of up to some thousand such products, of distances up to 40.
        assert torch.allclose(got.double(), want, atol=ATOL * max(1.0, float(want.abs().max()))), name


@pytest.mark.parametrize("options", [{"scale": 0.3}, {"soft_cap": 0.7}, *({name: True} for name in LEARNT)])
def test_each_modification_alone_changes_the_gradients(options):
    """What is compared above is not the same with and without it."""
    names = [name for name in LEARNT if name in options]
    numbers = {name: value for name, value in options.items() if name not in names}
    given_, grad = modified_tensors(2, 21, 37, names, 3)
    plain = flash_attention_gradients(*(given_[n] for n in "qkv"), grad=grad, causal=True)
    ours = flash_attention_gradients(**given_, **numbers, grad=grad, causal=True, empty=poisoned)
    expected = modified_exact(
        given_,
        grad,
        seen_by(21, 37, True, None),
        scale=numbers.get("scale", 0.25),
        soft_cap=numbers.get("soft_cap", 0.0),
    )
    assert len(ours) == 3 + len(names)
    for got, want in zip(ours, expected, strict=True):
        assert torch.allclose(got.double(), want, atol=ATOL)
    for got, without in zip(ours, plain, strict=False):
        assert not torch.allclose(got, without, atol=100 * ATOL)


def test_entries_that_no_pair_reaches_learn_nothing():
    """A causal head sees no key after itself, and none further back than its window."""
    given_, grad = modified_tensors(1, 40, 40, ("bias", "factor"), 20)
    bias, factor = flash_attention_gradients(**given_, grad=grad, causal=True, window=7, empty=poisoned)[3:]
    for table in (bias, factor):
        assert bool((table[:, 21:] == 0).all())
        assert bool((table[:, :14] == 0).all())
        assert bool((table[:, 14:21] != 0).all())


@pytest.mark.parametrize("names", [("slopes",), ("bias",), ("factor",)])
def test_head_sizes_and_types_of_what_is_learnt(names):
    """A table of half words gets its gradient in half words; scores of 128 dimensions take squares of 16."""
    given_, grad = modified_tensors(1, 33, 47, names, 4)
    given_ = {name: t.repeat(1, 1, 1, 8) if name in "qkv" else t.half() for name, t in given_.items()}
    grad = grad.repeat(1, 1, 1, 8)
    *_, got = flash_attention_gradients(**given_, grad=grad, scale=0.05, tile=Tile(64, 64), empty=poisoned)
    *_, want = modified_exact(given_, grad, seen_by(33, 47, False, None), scale=0.05, soft_cap=0.0)
    assert got.dtype == torch.float16
    assert torch.allclose(got.double(), want, rtol=2e-3, atol=2e-3)


def test_what_modifies_scores_is_checked():
    q, k, v, grad = tensors(*[(1, 2, 20, 16)] * 4)
    out, lse = q, q[..., 0]
    for wrong, words in (
        ({"slopes": torch.ones(3)}, "slopes: expected"),
        ({"sink": torch.ones(1, 2)}, "sink: expected"),
        ({"bias": torch.ones(2, 4)}, "bias, factor: expected"),
        ({"scale": 0.0}, "scale=0.0"),
    ):
        with pytest.raises(KernelError, match=words):
            gradients_from(q, k, v, out, lse, grad, **wrong)


def recurrence(q, k, v, decay):
    """Linear attention as its recurrence: S = exp(-decay) S + k v^T, o = q S."""
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    out = []
    for t in range(q.shape[2]):
        state = torch.exp(-decay)[None, :, None, None] * state
        state = state + k[:, :, t, :, None] * v[:, :, t, None, :]
        out.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(out, 2)


@settings(max_examples=6, deadline=None)
@given(
    seq=st.integers(1, 50),
    rates=st.lists(st.sampled_from([0.0, 0.01, 0.3, 5.0]), min_size=2, max_size=2),
    head_dim=st.sampled_from([16, 24]),
    tile=st.sampled_from([Tile(16, 16), Tile(32, 16)]),
)
def test_linear_gradients_for_any_decay(seq, rates, head_dim, tile):
    q, k, v, grad = tensors(*[(1, 2, seq, head_dim)] * 4)
    q, k = q / math.sqrt(head_dim), k / math.sqrt(head_dim)
    decay = torch.tensor(rates)
    leaves = [t.double().requires_grad_() for t in (q, k, v)]
    expected = torch.autograd.grad(recurrence(*leaves, decay.double()), leaves, grad.double())
    ours = linear_attention_gradients(q, k, v, grad=grad, decay=decay, tile=tile, empty=poisoned)
    for got, want in zip(ours, expected, strict=True):
        assert torch.allclose(got.double(), want, atol=ATOL)


@pytest.mark.parametrize(
    ("seq", "rates", "head_dim", "signs"),
    [(1, [0.0, 5.0], 16, 1.0), (33, [0.01, 0.3], 24, -1.0), (20, [0.0, 5.0], 72, 1.0)],
)
def test_gradients_of_the_normalised_form_for_any_decay(seq, rates, head_dim, signs):
    """Quotients of two recurrences; weights that are all negative leave the quotient as it is."""
    q, k, v, grad = tensors(*[(1, 2, seq, head_dim)] * 4)
    q, k = signs * q.abs() / math.sqrt(head_dim), k.abs() / math.sqrt(head_dim)
    decay = torch.tensor(rates)
    leaves = [t.double().requires_grad_() for t in (q, k, v)]
    sums = recurrence(*leaves[:2], torch.ones_like(leaves[2]), decay.double())
    out = recurrence(*leaves, decay.double()) / sums
    expected = torch.autograd.grad(out, leaves, grad.double())
    ours = linear_attention_gradients(q, k, v, grad=grad, decay=decay, normalise=True, empty=poisoned)
    for got, want in zip(ours, expected, strict=True):
        assert float((got - want).abs().max()) <= 2e-5 * max(1.0, float(want.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_of_the_normalised_form_hold_large_sums(dtype):
    """Without decay the sum of the weights grows: 1 / s alone is no normal float16 at the end of this sequence."""
    q, k, v, grad = (t.to(dtype) for t in tensors(*[(1, 1, 100, 16)] * 4))
    q, k = 60 * q.abs(), 60 * k.abs()
    decay = torch.zeros(1)
    leaves = [t.double().requires_grad_() for t in (q, k, v)]
    (out,) = reference.linear_attention(*leaves, decay=decay.double(), normalise=True)
    expected = torch.autograd.grad(out, leaves, grad.double())
    ours = linear_attention_gradients(q, k, v, grad=grad, decay=decay, normalise=True, empty=poisoned)
    limit = {torch.float32: 1e-5, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}[dtype]
    for got, want in zip(ours, expected, strict=True):
        assert float((got - want).abs().max()) <= limit * float(want.abs().max())


def test_the_gradient_of_a_sum_need_not_be_contiguous():
    """`out.sum().backward()` hands over one number, expanded: all its strides are 0."""
    q, k, v = tensors((1, 2, 21, 16), (1, 2, 21, 16), (1, 2, 21, 16))
    decay = torch.tensor([0.1, 0.5])
    one = torch.ones(()).expand(v.shape)
    ours = linear_attention_gradients(q, k, v, grad=one, decay=decay)
    whole = linear_attention_gradients(q, k, v, grad=one.contiguous(), decay=decay)
    assert all(torch.equal(a, b) for a, b in zip(ours, whole, strict=True))
    with pytest.raises(KernelError, match="grad: expected"):
        linear_attention_gradients(q, k, v, grad=one[:, :1], decay=decay)
