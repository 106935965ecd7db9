"""Flash attention against PyTorch's own attention (an oracle that is not ours), and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from einsum_cascade.errors import KernelError
from kernels import reference
from kernels.attention import flash_attention
from kernels.check import poisoned
from kernels.masks import limits
from kernels.tiles import Tile


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*s, generator=generator) for s in shapes]


def test_reference_is_torch_s_attention():
    q, k, v = (t.double() for t in tensors((2, 4, 9, 8), (2, 2, 9, 8), (2, 2, 9, 8)))
    ours = reference.attention(q, k, v, causal=True)[0]
    assert torch.allclose(
        ours, scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), atol=1e-12
    )


@settings(max_examples=25, deadline=None)
@given(
    seq_q=st.integers(1, 50),
    seq_kv=st.integers(1, 50),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 60),
    block_m=st.sampled_from([16, 32]),
    block_n=st.sampled_from([16, 32]),
)
def test_any_band_and_tile(seq_q, seq_kv, causal, window, block_m, block_n):
    """The mask is made here pair by pair, as the definition says, not by the code under test."""
    q, k, v = tensors((1, 1, seq_q, 16), (1, 1, seq_kv, 16), (1, 1, seq_kv, 16))
    left, right = limits(causal=causal, window=window)
    mask = torch.tensor(
        [
            [(left is None or m - p >= -left) and (right is None or m - p <= right) for m in range(seq_kv)]
            for p in range(seq_kv - seq_q, seq_kv)
        ]
    )
    seen = mask.any(1)
    expected = torch.zeros(1, 1, seq_q, 16, dtype=torch.float64)
    if seen.any():
        expected[:, :, seen] = scaled_dot_product_attention(
            q[:, :, seen].double(), k.double(), v.double(), attn_mask=mask[seen]
        )
    out, lse = flash_attention(
        q, k, v, causal=causal, window=window, tile=Tile(block_m, block_n), empty=poisoned
    )
    # float32 sums of 16 terms and at most 50 weights that sum to 1: some tens of 2^-23.
    assert torch.allclose(out.double(), expected, atol=1e-5)
    # A key that two loops visit would leave the average as it is, but not the log-sum-exp.
    scores = (0.25 * q[0, 0].double() @ k[0, 0].double().T).masked_fill(~mask, float("-inf"))
    assert torch.allclose(lse[0, 0].double(), torch.logsumexp(scores, -1), atol=1e-5)


def test_tensors_need_not_be_contiguous():
    """[batch, sequence, heads, head_dim] in memory, as models keep it."""
    q, k, v = (t.transpose(1, 2) for t in tensors((1, 21, 2, 32), (1, 21, 2, 32), (1, 21, 2, 32)))
    expected = scaled_dot_product_attention(q, k, v)
    assert torch.allclose(flash_attention(q, k, v)[0], expected, atol=1e-5)


def test_options_may_stand_before_tensors():
    q, k, v = tensors((1, 1, 8, 16), (1, 1, 8, 16), (1, 1, 8, 16))
    assert torch.equal(
        flash_attention(causal=True, q=q, k=k, v=v)[0], flash_attention(q, k, v, causal=True)[0]
    )


def test_large_scores_do_not_overflow():
    q, k, v = tensors((1, 1, 20, 16), (1, 1, 20, 16), (1, 1, 20, 16))
    out, _ = flash_attention(100 * q, 100 * k, v, causal=True)
    expected = scaled_dot_product_attention(100 * q.double(), 100 * k.double(), v.double(), is_causal=True)
    # Scores of 1e4 carry an error of 1e4 * 2^-24 * a few, which the exponential turns into a relative error of 1e-2.
    assert torch.allclose(out.double(), expected, atol=2e-2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"q": (1, 2, 8)}, "batch, heads"),
        ({"k": (1, 3, 8, 16), "v": (1, 3, 8, 16)}, "multiple of kv_heads"),
        ({"v": (1, 2, 9, 16)}, "twice"),
        ({"q": (1, 2, 8, 300), "k": (1, 2, 8, 300), "v": (1, 2, 8, 300)}, "16 to 256"),
    ],
)
def test_bad_shapes_are_refused(change, words):
    shapes = {"q": (1, 2, 8, 16), "k": (1, 2, 8, 16), "v": (1, 2, 8, 16)} | change
    with pytest.raises(KernelError, match=words):
        flash_attention(*tensors(*shapes.values()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window"),
        ({"scale": -1.0}, "scale"),
        ({"slopes": torch.ones(2)}, "slopes: expected \\[1\\], found \\[2\\]"),
        ({"sink": torch.ones(1, 1)}, "sink: expected"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(KernelError, match=words):
        flash_attention(*tensors((1, 1, 8, 16), (1, 1, 8, 16), (1, 1, 8, 16)), **options)


def test_tiles_must_be_powers_of_two_and_large_enough():
    for shape in ((24, 16), (16, 8)):
        with pytest.raises(KernelError):
            Tile(*shape)


def test_offsets_beyond_two_to_the_31(tmp_path):
    """Rows 2^22 words apart: the last begin beyond what 32 bits count. The file holds nothing but these rows."""
    rows, apart, dim = 520, 2**22, 16
    path = tmp_path / "sparse"
    whole = torch.from_file(str(path), shared=True, size=(rows - 1) * apart + dim, dtype=torch.float16)
    far = whole.as_strided((1, 1, rows, dim), (0, 0, apart, 1))
    (near,) = tensors((1, 1, rows, dim))
    far.copy_(near)
    out, _ = flash_attention(far, far, far, tile=Tile(128, 128), empty=poisoned)
    near = near.half().double()
    expected = scaled_dot_product_attention(near, near, near)
    assert torch.allclose(out.double(), expected, atol=4e-3)


@pytest.mark.parametrize("empty_of", ["queries", "keys"])
def test_nothing_to_attend_is_refused(empty_of):
    shape = (1, 2, 0, 16)
    q, k = tensors(
        shape if empty_of == "queries" else (1, 2, 8, 16), shape if empty_of == "keys" else (1, 2, 8, 16)
    )
    with pytest.raises(KernelError, match="at least one element"):
        flash_attention(q, k, k)
