"""Gradients of neighborhood attention against float64 under a mask made pair by pair, and the tiles that are walked."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launches import counting
from torch.nn.functional import scaled_dot_product_attention

from einsum_cascade.errors import KernelError
from kernels import offline, registry
from kernels.check import LIMITS, poisoned
from kernels.neighborhood import neighborhood_attention
from kernels.neighborhood_backward import neighborhood_attention_gradients, neighborhood_gradients_from
from kernels.reference import neighborhood_axis
from kernels.tiles import Tile, fitting

# Sums of at most some tens of products of unit variance, in float32.
ATOL = 5e-5


def tensors(layout, *, heads=1, head_dim=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, heads, *layout, head_dim, generator=generator) for _ in range(4)]


def seen_axes(layout, options):
    """The mask of each axis, pair by pair, by the rule of NATTEN."""
    rank = len(layout)
    columns = [options.get(n) or (1,) * rank for n in ("window", "stride", "dilation")]
    columns.append(options.get("causal") or (False,) * rank)
    return [
        neighborhood_axis(n, window=w, stride=s, dilation=d, causal=c)
        for n, w, s, d, c in zip(layout, *columns, strict=True)
    ]


def result(q, k, v, options):
    """Attention of PyTorch under the whole mask."""
    mask = torch.ones(1, 1, dtype=torch.bool)
    for axis in seen_axes(q.shape[2:-1], options):
        mask = torch.kron(mask, axis)
    flat = (t.reshape(*t.shape[:2], -1, t.shape[-1]) for t in (q, k, v))
    return scaled_dot_product_attention(*flat, attn_mask=mask).reshape(q.shape)


def exact(q, k, v, grad, options):
    leaves = [t.double().requires_grad_() for t in (q, k, v)]
    return torch.autograd.grad(result(*leaves, options), leaves, grad.double())


@st.composite
def neighborhoods(draw, ranks=(1, 2, 3)):
    """A layout and everything that a call may say of it, tiles included."""
    rank = draw(st.sampled_from(ranks))
    layout = [draw(st.integers(1, {1: 50, 2: 11, 3: 6}[rank])) for _ in range(rank)]
    dilation = [draw(st.integers(1, min(4, n))) for n in layout]
    window = [draw(st.integers(1, n // d)) for n, d in zip(layout, dilation, strict=True)]
    stride = [draw(st.integers(1, w)) for w in window]
    causal = [draw(st.booleans()) for _ in layout]
    tile = st.sampled_from(
        [t for t in itertools.product((1, 2, 4, 8, 16, 32), repeat=rank) if 16 <= math.prod(t) <= 32]
    )
    options = {"window": window, "stride": stride, "dilation": dilation, "causal": causal}
    return layout, options, {"q_tile": draw(tile), "k_tile": draw(tile)}


@settings(max_examples=12, deadline=None)
@given(neighborhoods())
def test_gradients_of_any_neighborhood_in_any_tiles(drawn):
    layout, options, shapes = drawn
    q, k, v, grad = tensors(layout)
    ours = neighborhood_attention_gradients(q, k, v, grad=grad, empty=poisoned, **options, **shapes)
    for got, expected in zip(ours, exact(q, k, v, grad, options), strict=True):
        assert torch.allclose(got.double(), expected, atol=ATOL)


def visits(seen, dilation, own, other):
    """For each dilation class and each own tile of the rows, how many of the other's tiles they see anything of."""
    longest = -(-len(seen) // dilation)
    counts = []
    for residue in range(dilation):
        mine = seen[residue::dilation, residue::dilation]
        tiles = (mine[start : start + own] for start in range(0, own * -(-longest // own), own))
        counts.append([len({int(j) // other for j in torch.nonzero(tile)[:, 1]}) for tile in tiles])
    return counts


def whole(classes):
    return list(itertools.chain.from_iterable(classes))


@settings(max_examples=15, deadline=None)
@given(neighborhoods(ranks=(1,)))
def test_a_tile_walks_those_of_which_a_pair_is_visible_and_no_other(drawn):
    """Windows at the borders, strides, dilations and causal axes: neither a tile too few nor one too many."""
    layout, options, shapes = drawn
    q, k, v, grad = tensors(layout)
    with counting() as made:
        neighborhood_attention_gradients(q, k, v, grad=grad, **options, **shapes)
    (seen,), (dilation,) = seen_axes(layout, options), options["dilation"]
    (queries,), (keys,) = shapes["q_tile"], shapes["k_tile"]
    steps = {x.name: x.steps.tolist() for x in made}
    assert steps["neighborhood_gradients_kv"] == whole(visits(seen.T, dilation, keys, queries))
    assert steps["neighborhood_gradients_q"] == whole(visits(seen, dilation, queries, keys))


def test_a_box_of_tiles_is_walked_in_three_dimensions():
    """Without dilation the visits of a box are those of its axes, multiplied: the last axis runs fastest."""
    layout, options = (3, 5, 7), {"window": (2, 3, 4), "stride": (1, 3, 2), "causal": (True, False, False)}
    q_tile, k_tile = (2, 2, 4), (1, 4, 4)
    q, k, v, grad = tensors(layout)
    with counting() as made:
        neighborhood_attention_gradients(
            q, k, v, grad=grad, **options, q_tile=q_tile, k_tile=k_tile, empty=poisoned
        )
    axes = seen_axes(layout, options)
    keys = [visits(a.T, 1, k, q)[0] for a, q, k in zip(axes, q_tile, k_tile, strict=True)]
    queries = [visits(a, 1, q, k)[0] for a, q, k in zip(axes, q_tile, k_tile, strict=True)]
    steps = {x.name: x.steps.tolist() for x in made}
    assert steps["neighborhood_gradients_kv"] == [math.prod(c) for c in itertools.product(*keys)]
    assert steps["neighborhood_gradients_q"] == [math.prod(c) for c in itertools.product(*queries)]


@pytest.mark.parametrize("which", range(3))
def test_a_small_step_changes_the_result_as_the_gradient_says(which):
    """The slope of float64 sums at both sides of the inputs: no automatic differentiation takes part."""
    options = {"window": (3, 4), "stride": (2, 3), "dilation": (2, 1), "causal": (False, True)}
    *inputs, grad = tensors((7, 9), heads=2)
    ours = neighborhood_attention_gradients(*inputs, grad=grad, **options)
    (step,) = tensors((7, 9), heads=2, seed=1)[:1]

    def loss(by):
        moved = [t.double() + by * step.double() * (i == which) for i, t in enumerate(inputs)]
        return (result(*moved, options) * grad.double()).sum()

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert float((ours[which] * step).double().sum()) == pytest.approx(float(slope), abs=1e-3)


def test_all_weights_of_a_query_sum_to_one_in_the_gradients_too():
    """So all of its gradient reaches the values, and keys that are alike leave it no gradient."""
    q, k, v, grad = tensors((6, 10))
    options = {"window": (3, 5), "stride": (1, 2)}
    *_, dv = neighborhood_attention_gradients(q, k, v, grad=grad, **options)
    assert torch.allclose(dv.sum((2, 3)), grad.sum((2, 3)), atol=ATOL)
    same = k[:, :, :1, :1].expand(k.shape)
    dq, *_ = neighborhood_attention_gradients(q, same, v, grad=grad, **options)
    assert float(dq.abs().max()) < ATOL


@pytest.mark.parametrize("head_dim", [24, 64, 200, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_words_and_odd_heads(head_dim, dtype):
    options = {"window": (5, 6), "stride": (2, 3)}
    words = [t.to(dtype) for t in tensors((7, 11), head_dim=head_dim)]
    q, k, v, grad = words
    ours = neighborhood_attention_gradients(q, k, v, grad=grad, empty=poisoned, **options)
    for got, expected in zip(ours, exact(q, k, v, grad, options), strict=True):
        assert got.dtype == dtype
        error = (got.double() - expected).abs().max() / expected.abs().max()
        assert error <= 2 * torch.finfo(dtype).eps


def test_the_largest_heads_in_single_words_are_right_where_a_tile_is_given():
    """No tile of theirs holds its registers, so that none is shipped: a GPU spills what the interpreter computes."""
    options = {"window": (5, 6), "stride": (2, 3), "dilation": (1, 2), "causal": (True, False)}
    q, k, v, grad = tensors((7, 12), head_dim=256)
    ours = neighborhood_attention_gradients(
        q, k, v, grad=grad, tile=Tile(16, 16, 8, 1), empty=poisoned, **options
    )
    for got, expected in zip(ours, exact(q, k, v, grad, options), strict=True):
        assert (got.double() - expected).abs().max() / expected.abs().max() <= LIMITS["fp32"]
    with pytest.raises(KernelError, match=r"no tile that spills no registers.*largest head_dim is 128"):
        fitting("neighborhood_attention_gradients", head_dim=256, word_bytes=4, target=90)


@pytest.mark.parametrize("target", ["sm_89", "sm_100"])
def test_the_largest_heads_in_half_words_are_compiled_without_spills(target):
    """Given a tile of their own: that of 128 dimensions would need more shared memory than a block may have."""
    entry = registry.find("neighborhood_attention_gradients")
    case = next(c for c in registry.load(entry.cases)() if c.sizes["head_dim"] == 256)
    found = offline.launches(entry, case, target=target)
    assert {x.function for x in found} >= {"neighborhood_gradients_kv", "neighborhood_gradients_q"}
    assert [x for x in found if not x.ok] == []


def test_what_a_forward_pass_saved_is_enough_and_nothing_need_be_contiguous():
    q, k, v, _ = tensors((13,), heads=2)
    one = torch.ones(()).expand(q.shape)
    out, lse = neighborhood_attention(q, k, v, window=(5,))
    ours = neighborhood_gradients_from(q, k, v, out, lse, one, window=(5,))
    whole = neighborhood_attention_gradients(q.mT.contiguous().mT, k, v, grad=one.contiguous(), window=(5,))
    assert all(torch.equal(a, b) for a, b in zip(ours, whole, strict=True))


def test_what_does_not_fit_is_refused():
    q, k, v, grad = tensors((13,))
    with pytest.raises(KernelError, match="its gradient like q"):
        neighborhood_attention_gradients(q, k, v, grad=grad[:, :, :5], window=(5,))
    with pytest.raises(KernelError, match="length"):
        neighborhood_attention_gradients(q, k, v, grad=grad, window=(14,))
    with pytest.raises(KernelError, match="power of two"):
        neighborhood_attention_gradients(q, k, v, grad=grad, window=(5,), q_tile=(12,))
