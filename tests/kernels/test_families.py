"""Properties of the other kernels on random problems, against oracles that are not the kernels' own references."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from einsum_cascade.errors import KernelError
from kernels import neighborhood
from kernels.attention import flash_attention
from kernels.backward import flash_attention_gradients
from kernels.check import poisoned
from kernels.decode import decode_attention, merge_attention
from kernels.linear import linear_attention
from kernels.neighborhood import Axis, neighborhood_attention, permute, unpermute
from kernels.unfused import unfused_attention


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*s, generator=generator) for s in shapes]


def test_two_and_three_passes_agree():
    q, k, v = tensors((1, 2, 20, 16), (1, 2, 33, 16), (1, 2, 33, 16))
    three, two = (unfused_attention(q, k, v, passes=p)[0] for p in (3, 2))
    assert torch.allclose(three, two, atol=1e-6)
    assert torch.allclose(three, scaled_dot_product_attention(q, k, v), atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seq=st.integers(1, 60), cut=st.integers(1, 59), keys=st.integers(16, 60))
def test_merged_parts_are_the_whole(seq, cut, keys):
    q, k, v = tensors((1, 1, seq, 16), (1, 1, keys, 16), (1, 1, keys, 16))
    cut = min(cut, keys - 1)
    parts = [flash_attention(q, k[:, :, s], v[:, :, s]) for s in (slice(0, cut), slice(cut, None))]
    out, lse = merge_attention(*(torch.stack(t) for t in zip(*parts, strict=True)), empty=poisoned)
    whole, whole_lse = flash_attention(q, k, v)
    assert torch.allclose(out, whole, atol=1e-5)
    assert torch.allclose(lse, whole_lse, atol=1e-5)


@pytest.mark.parametrize("splits", [1, 2, 5, 9])
def test_any_number_of_splits_gives_the_same(splits):
    q, k, v = tensors((1, 4, 1, 16), (1, 2, 70, 16), (1, 2, 70, 16))
    expected = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert torch.allclose(decode_attention(q, k, v, splits=splits, empty=poisoned)[0], expected, atol=1e-5)


def test_gradients_are_torch_s():
    q, k, v, grad = tensors((1, 2, 35, 16), (1, 2, 35, 16), (1, 2, 35, 16), (1, 2, 35, 16))
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    expected = torch.autograd.grad(scaled_dot_product_attention(*leaves, is_causal=True), leaves, grad)
    for ours, theirs in zip(
        flash_attention_gradients(q, k, v, grad=grad, causal=True), expected, strict=True
    ):
        assert torch.allclose(ours, theirs, atol=2e-5)


def test_without_decay_the_first_rows_are_plain_sums():
    q, k, v = tensors((1, 1, 20, 16), (1, 1, 20, 16), (1, 1, 20, 16))
    (out,) = linear_attention(q, k, v, decay=torch.zeros(1))
    running = torch.cumsum(k[0, 0, :, :, None] * v[0, 0, :, None, :], 0)
    assert torch.allclose(out[0, 0], torch.einsum("te,tef->tf", q[0, 0], running), atol=1e-4)


def test_a_strong_decay_sees_only_itself():
    q, k, v = tensors((1, 1, 20, 16), (1, 1, 20, 16), (1, 1, 20, 16))
    (out,) = linear_attention(q, k, v, decay=torch.tensor([200.0]))
    assert torch.allclose(out, (q * k).sum(-1, keepdim=True) * v, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_permutation_and_back(data):
    axes, shape = [], []
    for _ in range(3):
        length = data.draw(st.integers(1, 7))
        dilation = data.draw(st.integers(1, length))
        axes.append(Axis(length, 1, dilation=dilation))
        shape.append(data.draw(st.integers(1, 4)))
    layout = [a.length for a in axes]
    tokens = torch.arange(2 * math.prod(layout) * 3.0).reshape(2, 1, *layout, 3)
    tiled = permute(tokens, axes, shape)
    assert tiled.shape[3] == math.prod(shape)
    assert torch.equal(unpermute(tiled, axes, shape, batch=2), tokens)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_dense_means_that_no_visited_pair_is_masked(data):
    """The closed form beside a walk over every query of every tile and every key of every visited tile."""
    length = data.draw(st.integers(2, 24))
    dilation = data.draw(st.integers(1, max(1, length // 2)))
    window = data.draw(st.integers(1, length // dilation))
    axis = Axis(
        length, window, data.draw(st.integers(1, window)), dilation, data.draw(st.booleans()),
        data.draw(st.sampled_from([1, 2, 4, 8])), data.draw(st.sampled_from([1, 2, 4, 8])),
    )  # fmt: skip
    assert neighborhood.dense(axis) == _walked(axis)


def _walked(axis):
    from kernels.reference import neighborhood_axis

    seen = neighborhood_axis(
        axis.length, window=axis.window, stride=axis.stride, dilation=axis.dilation, causal=axis.causal
    )
    for residue in range(axis.dilation):
        mine = seen[residue :: axis.dilation, residue :: axis.dilation]
        n = len(mine)
        for q0 in range(0, n, axis.q_tile):
            rows = mine[q0 : q0 + axis.q_tile]
            touched = {int(m) // axis.k_tile for m in torch.nonzero(rows)[:, 1]}
            for tile in touched:
                keys = rows[:, tile * axis.k_tile : (tile + 1) * axis.k_tile]
                if keys.shape[1] < axis.k_tile or not keys.all():
                    return False
    return True


def test_mask_free_kernel_is_chosen_and_right():
    axes = neighborhood._axes((16, 16), (8, 8), (8, 8), (1, 1), (False, False), (4, 4), (4, 4))
    assert all(map(neighborhood.dense, axes))
    assert not neighborhood.dense(Axis(16, 8, 4, q_tile=4, k_tile=8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": (20,)}, "length"),
        ({"window": (4,), "stride": (5,)}, "stride"),
        ({"window": (4, 4)}, "windows"),
        ({"window": (4,), "q_tile": (12,)}, "power of two"),
        ({"window": (4,), "dilation": (1, 1)}, "one an axis"),
    ],
)
def test_illegal_neighborhoods_are_refused(options, words):
    q, k, v = tensors((1, 1, 16, 16), (1, 1, 16, 16), (1, 1, 16, 16))
    with pytest.raises(KernelError, match=words):
        neighborhood_attention(q, k, v, **options)
