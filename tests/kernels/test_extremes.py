"""What no table of checks holds: -inf as a bias, tiny weights, other types and shapes, the rounding of a GPU.

Oracles are written here, in float64, from the definitions.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from einsum_cascade.errors import KernelError
from kernels import check, interpreter, registry
from kernels.attention import flash_attention
from kernels.backward import flash_attention_gradients, gradients_from
from kernels.channel import channel_attention
from kernels.decode import merge_attention
from kernels.linear import linear_attention, linear_attention_gradients
from kernels.masks import limits
from kernels.memory import neural_memory
from kernels.neighborhood import neighborhood_attention
from kernels.scan import prefix_attention
from kernels.softplus import reweighted_attention, softplus_attention
from kernels.tiles import Tile

NEVER = float("-inf")
LIMIT = check.LIMITS["fp32"]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def qkv(queries=21, keys=35, heads=2, dim=16):
    return (
        drawn(1, heads, queries, dim),
        drawn(1, heads, keys, dim, seed=1),
        drawn(1, heads, keys, dim, seed=2),
    )


def softmax_attention(q, k, v, bias, *, causal):
    """In float64, by rows: keys at -inf take no part, and a row of no others is 0."""
    queries, keys = q.shape[2], k.shape[2]
    distance = torch.arange(keys)[None, :] - (torch.arange(queries)[:, None] + keys - queries)
    last = bias.shape[1] // 2
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + bias[:, distance.clamp(-last, last) + last]
    scores = scores.masked_fill((distance > 0) & causal, NEVER)
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - torch.where(lse == NEVER, 0.0, lse)[..., None])
    return weights @ v, lse


# Everything further back than two keys, then everything but the key at the query's own place.
BIASES = {
    "far": [NEVER] * 3 + [0.5, -0.25, 0.0, 1.0, 0.5, 0.25, 0.125, 2.0],
    "all but one": [NEVER] * 5 + [0.0] + [NEVER] * 5,
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)
@pytest.mark.parametrize("tile", [Tile(16, 16), Tile(16, 64)], ids=["small", "wide"])
def test_a_bias_of_minus_infinity_hides_keys_in_whole_tiles_too(causal, bias, tile):
    q, k, v = qkv(keys=70)
    bias = torch.tensor([bias, bias])
    out, lse = flash_attention(q, k, v, bias=bias, causal=causal, tile=tile, empty=check.poisoned)
    expected, expected_lse = softmax_attention(*(t.double() for t in (q, k, v, bias)), causal=causal)
    assert check.relative_error(out, expected) < LIMIT
    assert check.relative_error(lse, expected_lse) < LIMIT


def test_a_bias_of_minus_infinity_has_gradients():
    q, k, v = qkv()
    bias, grad = torch.tensor([BIASES["far"]] * 2), drawn(*q.shape, seed=3)
    got = flash_attention_gradients(q, k, v, grad=grad, bias=bias, empty=check.poisoned)
    inputs = [t.double().requires_grad_() for t in (q, k, v, bias)]
    (softmax_attention(*inputs, causal=False)[0] * grad.double()).sum().backward()
    for found, t in zip(got, inputs, strict=True):
        assert check.relative_error(found, t.grad.nan_to_num(0.0)) < LIMIT


def test_a_sink_that_never_counts_has_no_gradient_though_queries_see_nothing():
    q, k, v = qkv(queries=40, keys=20)
    sink = torch.tensor([NEVER, 1.0])
    *_, of_sink = flash_attention_gradients(q, k, v, grad=drawn(*q.shape), sink=sink, causal=True)
    assert of_sink[0] == 0.0
    assert of_sink.isfinite().all()


@pytest.mark.parametrize(
    ("causal", "window"), [(True, 2**31 - 1), (True, 2**40), (False, 2**32), (False, 2**31 + 7)]
)
def test_a_window_wider_than_32_bits_is_none(causal, window):
    q, k, v = qkv(queries=53, keys=20)
    whole = flash_attention(q, k, v, causal=causal, tile=Tile(64, 16))
    wide = flash_attention(q, k, v, causal=causal, window=window, tile=Tile(64, 16))
    for a, b in zip(whole, wide, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert max(limits(causal=causal, window=window, farthest=73)) == 73


@pytest.mark.parametrize("options", [{"scale": float("nan")}, {"soft_cap": -5.0}, {"soft_cap": float("nan")}])
def test_a_scale_or_a_cap_that_is_none_is_refused(options):
    q, k, v = qkv()
    with pytest.raises(KernelError, match="expected a positive number"):
        flash_attention(q, k, v, **options)
    with pytest.raises(KernelError, match="expected a positive number"):
        flash_attention_gradients(q, k, v, grad=q, **options)


def test_what_32_bits_do_not_count_is_refused_before_anything_is_allocated():
    """Of the tensors below only a few words exist; contiguous, they would be 4 GiB and more."""
    wide = torch.empty(1, dtype=torch.bfloat16).expand(1, 1, 128, 2**24)
    with pytest.raises(KernelError, match="less than 16777216 tokens of 128 channels"):
        channel_attention(wide, wide, wide)
    many = torch.empty(16, dtype=torch.bfloat16).as_strided((1, 2**9, 2**20, 16), (0, 0, 0, 1))
    gate = torch.empty(1).expand(1, 2**9, 2**20)
    with pytest.raises(KernelError, match="less than 429496729 tokens of all heads"):
        neural_memory(many, many, many, eta=gate, theta=gate, alpha=gate)


def test_decay_rates_need_not_lie_one_after_the_other():
    q, k, v = qkv(queries=20, keys=20)
    decay = torch.tensor([0.1, 9.0, 0.5, 9.0])
    apart, near = decay[::2], decay[::2].clone()
    assert torch.equal(linear_attention(q, k, v, decay=apart)[0], linear_attention(q, k, v, decay=near)[0])
    one = near[:1].expand(2)
    assert torch.equal(
        linear_attention(q, k, v, decay=one)[0], linear_attention(q, k, v, decay=one.clone())[0]
    )
    pairs = (linear_attention_gradients(q, k, v, grad=v, decay=d) for d in (apart, near))
    for a, b in zip(*pairs, strict=True):
        assert torch.equal(a, b)


def softplus_weights(q, k):
    """In float64, of a causal head with as many queries as keys: log(1 + e^x) by `logaddexp`, and the lengths."""
    length = torch.arange(1, q.shape[2] + 1).double()
    dim = q.shape[-1]
    scores = q @ k.transpose(2, 3) * (np.log(dim) * torch.log(length) * dim**-0.5)[:, None]
    return torch.logaddexp(scores, torch.zeros(())).tril(), length[:, None]


@pytest.mark.parametrize("scale", [0.7, 1.0])
def test_softplus_weights_that_are_all_small_keep_their_shares(scale):
    """A sum with 1 before the logarithm loses them: 2e-4 of their values at a score of -8, all of them at -17."""
    q, k, v = qkv(queries=37, keys=37)
    q, k = q.abs() * scale, -k.abs() * scale
    weights, _ = softplus_weights(q.double(), k.double())
    assert weights[..., 1:, :].sum(-1).min() < 0.01
    expected = weights / weights.sum(-1, keepdim=True) @ v.double()
    (out,) = softplus_attention(q, k, v, empty=check.poisoned)
    assert check.relative_error(out, expected) < LIMIT


def test_softplus_weights_too_small_for_float32_are_nothing_and_not_nan():
    q, k, v = qkv(queries=37, keys=37)
    for attention in (softplus_attention, reweighted_attention):
        (out,) = attention(100.0 * q.abs(), -100.0 * k.abs(), v, empty=check.poisoned)
        assert bool((out[:, :, 1:] == 0.0).all())


def test_the_float64_reference_of_softplus_does_not_overflow():
    q, k, v = (t.double() for t in qkv(queries=20, keys=20))
    q, k = 100.0 * q.abs(), 100.0 * k.abs()
    weights, _ = softplus_weights(q, k)
    (got,) = registry.load("reference:softplus_attention")(q, k, v)
    assert check.relative_error(got, weights / weights.sum(-1, keepdim=True) @ v) < 1e-12


def rounded_to_zero(values):
    """Float64 cut to the 24 bits of float32, as tensor cores cut their sums."""
    return (np.ascontiguousarray(values).view(np.int64) & ~np.int64((1 << 29) - 1)).view(np.float64)


def chained(a, b, total):
    for i in range(0, a.shape[-1], 8):
        total = rounded_to_zero(total + a[:, i : i + 8].astype(np.float64) @ b[i : i + 8].astype(np.float64))
    return total


def cut_product(a, b, *, three):
    large = [interpreter.round_to_tf32(x) for x in (a, b)]
    small = [interpreter.round_to_tf32(x - y) for x, y in zip((a, b), large, strict=True)]
    total = np.zeros((a.shape[0], b.shape[1]))
    if three:
        total = chained(large[0], small[1], chained(small[0], large[1], total))
    return chained(*large, total).astype(np.float32)


@contextmanager
def approximate():
    """The largest errors that the PTX ISA states of what Triton compiles to: exponential and division, 2^-22 and 2 ulp.

    Sums on tensor cores are cut, eight products of TF32 at a time, and results below 2^-126 are 0.
    """
    generator = np.random.default_rng(0)

    def off(values, error):
        wide = values.astype(np.float64) * (1 + error * generator.choice([-1.0, 1.0], size=values.shape))
        return np.where(np.abs(wide) < 2.0**-126, 0.0, wide).astype(np.float32)

    exponential, division = InterpreterBuilder.create_exp2, InterpreterBuilder.create_fdiv

    def exp2(self, x):
        made = exponential(self, x)
        return TensorHandle(off(made.data, 2.0**-22), made.dtype)

    def fdiv(self, x, y):
        made = division(self, x, y)
        return TensorHandle(off(made.data, 2.0**-22.5), made.dtype)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(InterpreterBuilder, "create_exp2", exp2))
        stack.enter_context(mock.patch.object(InterpreterBuilder, "create_fdiv", fdiv))
        stack.enter_context(mock.patch.object(interpreter, "tf32_product", cut_product))
        yield


ROUNDED = (
    "softplus_attention",
    "reweighted_attention",
    "merge_attention",
    "channel_attention",
    "squeeze_excite_gate",
)


@pytest.mark.parametrize("name", ROUNDED)
def test_checks_in_float32_leave_room_for_the_hardware_s_arithmetic(name):
    """What passes here by exact arithmetic would fail on the GPU, where nobody is there to mend it."""
    entry = registry.find(name)
    with approximate():
        outcomes = [check.run_case(entry, c) for c in registry.load(entry.cases)() if c.dtype == "fp32"]
    assert outcomes
    assert max(o.error for o in outcomes) < LIMIT / 2, outcomes


WRONG = {
    "neighborhood": lambda t, u: neighborhood_attention(t, u, t, window=(3,)),
    "channel": lambda t, u: channel_attention(t, u, t),
    "prefix": lambda t, u: prefix_attention(t[0, :, 0], t, u),
    "flash": lambda t, u: flash_attention(t, u, t),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_types_that_the_kernels_do_not_take_and_mixtures_are_refused(call):
    t = torch.ones(1, 2, 20, 16)
    for other in (t.double(), t.int(), t.to(torch.complex64)):
        with pytest.raises(KernelError, match="expected float32, float16 or bfloat16, found"):
            call(other, other)
    with pytest.raises(
        KernelError, match=r"expected torch.float32 on cpu like \w, found torch.float16 on cpu"
    ):
        call(t, t.half())


def test_parts_that_are_not_of_a_type_the_merge_takes_are_refused():
    with pytest.raises(KernelError, match="parts: expected float32"):
        merge_attention(torch.ones(2, 5, 16, dtype=torch.int32), torch.ones(2, 5))


def test_what_a_backward_pass_would_read_beside_is_refused():
    q, k, v = qkv()
    for grad, words in (
        (q[:, :, :5], r"grad: expected \[1, 2, 21, 16\], found \[1, 2, 5, 16\]"),
        (q[..., :1], r"grad: expected \[1, 2, 21, 16\], found \[1, 2, 21, 1\]"),
        (q.half(), "grad: expected torch.float32 on cpu like q, found torch.float16"),
    ):
        with pytest.raises(KernelError, match=words):
            flash_attention_gradients(q, k, v, grad=grad)
    out, lse = flash_attention(q, k, v)
    with pytest.raises(KernelError, match=r"lse: expected torch.float32 on cpu, found torch.float64"):
        gradients_from(q, k, v, out, lse.double(), q)
    with pytest.raises(KernelError, match=r"lse: expected \[1, 2, 21\], found"):
        gradients_from(q, k, v, out, lse[:, :1], q)


def test_a_log_sum_exp_need_not_lie_row_after_row():
    q, k, v = qkv()
    out, lse = flash_attention(q, k, v)
    turned = lse.transpose(1, 2).contiguous().transpose(1, 2)
    for a, b in zip(
        gradients_from(q, k, v, out, lse, q), gradients_from(q, k, v, out, turned, q), strict=True
    ):
        assert torch.equal(a, b)


def test_a_nan_of_a_key_reaches_those_who_see_it_and_one_of_a_value_no_further_than_its_tile():
    q, k, v = qkv(queries=60, keys=60)
    options = {"causal": True, "tile": Tile(16, 16, 4, 1)}
    clean, clean_lse = flash_attention(q, k, v, **options)
    bad = 40  # in the third tile of keys, which queries from 32 on visit
    for name, spared in (("k", bad), ("v", 32)):
        given = {"q": q, "k": k.clone(), "v": v.clone()}
        given[name][..., bad, :] = float("nan")
        out, lse = flash_attention(**given, **options)
        assert torch.equal(out[:, :, :spared], clean[:, :, :spared])
        assert out[:, :, bad:].isnan().all()
        # No value is in a log-sum-exp.
        told = lse.isnan().any(dim=(0, 1)).nonzero().flatten().tolist()
        assert told == (list(range(bad, 60)) if name == "k" else [])
        assert torch.equal(lse[:, :, :bad], clean_lse[:, :, :bad])


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # of NumPy, in the interpreter
def test_a_nan_of_a_query_stays_in_its_row():
    q, k, v = qkv()
    q[0, 1, 5] = float("nan")
    out, _ = flash_attention(q, k, v, causal=True, tile=Tile(16, 16, 4, 1))
    assert out.isnan().any(-1).nonzero().tolist() == [[0, 1, 5]]
