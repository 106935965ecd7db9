"""Each kernel computes its zoo cascade: the interpreted kernel beside the NumPy evaluator, at random small sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import einsum_cascade as ec
from kernels import registry
from kernels.attention import flash_attention
from kernels.channel import channel_attention
from kernels.check import poisoned
from kernels.decode import decode_attention
from kernels.gates import efficient_channel_gate, efficient_local_gate, squeeze_excite_gate
from kernels.gathered import selected_attention
from kernels.landmark import landmark_attention
from kernels.linear import linear_attention
from kernels.memory import neural_memory
from kernels.neighborhood import neighborhood_attention
from kernels.scan import prefix_attention
from kernels.softplus import reweighted_attention, softplus_attention
from kernels.transposed import reversed_attention
from kernels.unfused import unfused_attention

E, P, M = 16, 13, 24
# float32 kernels against a float64 evaluator: sums of some tens of terms.
ATOL = 2e-5


def drawn(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def tokens(a):
    """[E, ...] of a cascade -> [1, 1, ..., E] of a kernel."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(a, 0, -1)[None, None], np.float32))


def as_cascade(t):
    return np.moveaxis(t[0, 0].double().numpy(), -1, 0)


def evaluated(name, sizes, inputs):
    return ec.evaluate(ec.zoo.load(name), sizes, inputs)


def test_every_kernel_names_a_cascade_of_the_zoo():
    for entry in registry.entries():
        assert entry.cascade in ec.zoo.names(), entry.name


@pytest.mark.parametrize(
    ("name", "sizes", "options"),
    [
        ("attention_1pass", {"M1": 3, "M0": 8}, {}),
        ("attention_1pass_causal", {"M1": 3, "M0": 8}, {"causal": True}),
        ("attention_1pass_sliding_window", {"M1": 3, "M0": 8, "W": 5}, {"causal": True, "window": 5}),
        ("attention_sliding_window", {"W": 7}, {"causal": True, "window": 7}),
    ],
)
def test_flash_attention(name, sizes, options):
    # With as many queries as keys, the last query stands on the last key in both.
    queries = M if options else P
    inputs = drawn(Q=(E, queries), K=(E, M), V=(E, M))
    expected = evaluated(name, {"E": E, "F": E, "P": queries, "M": M} | sizes, inputs)["AV"]
    out, _ = flash_attention(*(tokens(inputs[n]) for n in "QKV"), scale=1.0, **options)
    np.testing.assert_allclose(as_cascade(out), expected, atol=ATOL)


@pytest.mark.parametrize(("name", "passes"), [("attention_3pass", 3), ("attention_2pass", 2)])
def test_unfused_attention(name, passes):
    inputs = drawn(Q=(E, P), K=(E, M), V=(E, M))
    scaled = inputs | {"Q": inputs["Q"] * E**-0.5}
    expected = evaluated(name, {"E": E, "F": E, "P": P, "M": M}, scaled)["AV"]
    out, _ = unfused_attention(*(tokens(inputs[n]) for n in "QKV"), passes=passes)
    np.testing.assert_allclose(as_cascade(out), expected, atol=ATOL)


def test_linear_attention_is_both_forms():
    inputs = drawn(Q=(E, M), K=(E, M), V=(E, M)) | {"D": np.array(0.07)}
    out = as_cascade(linear_attention(*(tokens(inputs[n]) for n in "QKV"), decay=torch.tensor([0.07]))[0])
    recurrent = evaluated("linear_recurrent", {"E": E, "F": E, "T": M}, inputs)["O"]
    chunked = evaluated("linear_chunked", {"E": E, "F": E, "T1": 3, "T0": 8}, inputs)["O"]
    # Sums of 24 products without normaliser are some tens large.
    np.testing.assert_allclose(out, recurrent, atol=10 * ATOL)
    np.testing.assert_allclose(out, chunked.reshape(E, M), atol=10 * ATOL)


def test_neighborhood_attention():
    inputs = drawn(Q=(E, 6, 9), K=(E, 6, 9), V=(E, 6, 9))
    sizes = {"E": E, "F": E, "My": 6, "Mx": 9, "Py": 6, "Px": 9, "Wy": 3, "Wx": 4, "Sy": 2, "Sx": 3}
    expected = evaluated("gna_2d", sizes, inputs | {"Q": inputs["Q"] * E**-0.5})["AV"]
    out, _ = neighborhood_attention(*(tokens(inputs[n]) for n in "QKV"), window=(3, 4), stride=(2, 3))
    np.testing.assert_allclose(as_cascade(out), expected, atol=ATOL)


def test_prefix_attention_is_causal_attention_of_one_query():
    inputs = drawn(K=(E, M), V=(E, M))
    q = np.random.default_rng(9).standard_normal(E)
    sizes = {"E": E, "F": E, "P": M, "M": M, "M1": 3, "M0": 8}
    everywhere = inputs | {"Q": np.repeat(q[:, None] * E**-0.5, M, 1)}
    expected = evaluated("attention_1pass_causal", sizes, everywhere)["AV"]
    query = torch.from_numpy(q[None].astype(np.float32))
    out, _ = prefix_attention(query, tokens(inputs["K"]), tokens(inputs["V"]))
    np.testing.assert_allclose(as_cascade(out), expected, atol=ATOL)


def test_channel_attention():
    inputs = drawn(Q=(16, M), K=(16, M), V=(16, M))
    expected = evaluated("channel_attention", {"C": 16, "T": M}, inputs)["AV"]
    q, k, v = (torch.from_numpy(inputs[n][None, None].astype(np.float32)) for n in "QKV")
    np.testing.assert_allclose(channel_attention(q, k, v)[0][0, 0].numpy(), expected, atol=ATOL)


def heads_first(a):
    """[H, E, P] of a cascade -> [1, H, P, E] of a kernel."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(a, 1, -1)[None], np.float32))


@pytest.mark.parametrize(
    ("name", "extra", "options"),
    [
        ("attention_alibi", "SL", lambda x: {"slopes": x}),
        ("attention_sink_logit", "SK", lambda x: {"sink": x}),
    ],
)
def test_score_modifications_of_a_head(name, extra, options):
    inputs = drawn(Q=(2, E, M), K=(2, E, M), V=(2, E, M)) | {extra: np.array([0.5, 0.25])}
    expected = evaluated(name, {"H": 2, "E": E, "F": E, "P": M, "M": M}, inputs)["AV"]
    extras = options(torch.from_numpy(inputs[extra].astype(np.float32)))
    out, _ = flash_attention(*(heads_first(inputs[n]) for n in "QKV"), scale=1.0, causal=True, **extras)
    np.testing.assert_allclose(np.moveaxis(out[0].numpy(), -1, 1), expected, atol=ATOL)


def test_soft_cap():
    inputs = drawn(Q=(E, M), K=(E, M), V=(E, M)) | {"CAP": np.array(2.0)}
    expected = evaluated("attention_softcap", {"E": E, "F": E, "P": M, "M": M}, inputs)["AV"]
    out, _ = flash_attention(*(tokens(inputs[n]) for n in "QKV"), scale=1.0, causal=True, soft_cap=2.0)
    np.testing.assert_allclose(as_cascade(out), expected, atol=ATOL)


def test_toeplitz_factor_and_relative_bias():
    inputs = drawn(Q=(E, M), K=(E, M), V=(E, M), RB=(2 * M - 1,), CT=(2 * M - 1,))
    expected = evaluated("urpe_2pass", {"E": E, "F": E, "P": M, "M": M}, inputs)["AV"]
    bias, factor = (torch.from_numpy(inputs[n][None].astype(np.float32)) for n in ("RB", "CT"))
    out, _ = flash_attention(*(tokens(inputs[n]) for n in "QKV"), scale=1.0, bias=bias, factor=factor)
    np.testing.assert_allclose(as_cascade(out), expected, atol=ATOL)


def test_grouped_query():
    inputs = drawn(Q=(4, E, M), K=(2, E, M), V=(2, E, M))
    expected = evaluated("attention_grouped_query", {"D": 2, "G": 2, "E": E, "F": E, "P": M, "M": M}, inputs)[
        "AV"
    ]
    out, _ = flash_attention(*(heads_first(inputs[n]) for n in "QKV"), scale=1.0, causal=True)
    np.testing.assert_allclose(np.moveaxis(out[0].numpy(), -1, 1), expected, atol=ATOL)


def test_split_decode():
    inputs = drawn(Q=(2, E), K=(2, E, M), V=(2, E, M))
    scaled = inputs | {"Q": inputs["Q"] * E**-0.5}
    expected = evaluated("attention_split_decode", {"H": 2, "E": E, "F": E, "M1": 3, "M0": 8}, scaled)["AV"]
    query = heads_first(inputs["Q"][:, :, None])
    out, _ = decode_attention(query, heads_first(inputs["K"]), heads_first(inputs["V"]), splits=3)
    np.testing.assert_allclose(out[0, :, 0].numpy(), expected, atol=ATOL)


def test_prefix_scan():
    inputs = drawn(K=(E, M), V=(E, M), Q=(E,))
    scaled = inputs | {"Q": inputs["Q"] * E**-0.5}
    expected = evaluated("aaren_scan", {"E": E, "F": E, "M": M, "G": 5}, scaled)["AV"]
    query = torch.from_numpy(inputs["Q"][None].astype(np.float32))
    out, _ = prefix_attention(query, tokens(inputs["K"]), tokens(inputs["V"]))
    np.testing.assert_allclose(as_cascade(out), expected, atol=ATOL)


def test_reversed_attention():
    inputs = drawn(Q=(E, P), K=(E, M), V=(E, P), PS=(P,), MC=(P,))
    scaled = inputs | {"Q": inputs["Q"] * E**-0.5}
    expected = evaluated("reversed_attention_2pass", {"E": E, "F": E, "P": P, "M": M}, scaled)["O"]
    share = torch.from_numpy((inputs["PS"] * inputs["MC"])[None, None].astype(np.float32))
    (out,) = reversed_attention(*(tokens(inputs[n]) for n in "QKV"), share=share)
    np.testing.assert_allclose(as_cascade(out), expected, atol=ATOL)


def test_channel_groups_of_davit():
    inputs = drawn(Q=(16, M), K=(16, M), V=(16, M))
    expected = evaluated("davit_channel", {"C": 16, "N": M}, inputs)["O"]
    k, v, q = (torch.from_numpy(inputs[n][None, None].astype(np.float32)) for n in "KVQ")
    np.testing.assert_allclose(channel_attention(k, v, q, scale=0.25)[0][0, 0].numpy(), expected, atol=ATOL)


def test_selected_blocks():
    """The cascade selects by the mean key of a block; the same selection is made here in NumPy for the kernel."""
    G, T, R = 3, 16, 2
    inputs = drawn(Q=(E, G * T), K=(E, G, T), V=(E, G, T))
    sizes = {"E": E, "F": E, "P": G * T, "G": G, "T": T, "R": R}
    cascade = ec.zoo.load("attention_selected_blocks")
    expected = ec.evaluate(cascade, sizes, inputs | {"Q": inputs["Q"] * E**-0.5})["AV"]
    scores = np.einsum("ep,eg->pg", inputs["Q"], inputs["K"].mean(2))
    legal = np.arange(G)[None, :] * T <= np.arange(G * T)[:, None]
    order = np.argsort(np.where(legal, -scores, np.inf), axis=1, kind="stable")[:, :R]
    index = np.where(np.take_along_axis(legal, order, 1), order, -1)
    flat = {n: inputs[n].reshape(E, -1) for n in "KV"}
    out, _ = selected_attention(
        tokens(inputs["Q"]),
        tokens(flat["K"]),
        tokens(flat["V"]),
        index=torch.from_numpy(index[None, None]),
        block=T,
    )
    # Queries of the first block have fewer legal blocks than R: the cascade leaves those points out.
    full = legal.sum(1) >= R
    np.testing.assert_allclose(as_cascade(out)[:, full], expected[:, full], atol=ATOL)


@pytest.mark.parametrize("name", ["landmark", "landmark_1pass"])
@pytest.mark.parametrize(("blocks", "tokens_of_a_block"), [(3, 16), (5, 7), (9, 2)])
def test_landmark_attention(name, blocks, tokens_of_a_block):
    seq = blocks * (tokens_of_a_block + 1)
    inputs = drawn(Q=(E, seq), K=(E, seq), V=(E, seq))
    sizes = {"E": E, "F": E, "G": blocks, "T": tokens_of_a_block, "M": seq, "P": seq}
    expected = evaluated(name, sizes, inputs)["AV"]
    (out,) = landmark_attention(
        *(tokens(inputs[n]) for n in "QKV"), period=tokens_of_a_block + 1, scale=1.0, empty=poisoned
    )
    np.testing.assert_allclose(as_cascade(out), expected, atol=ATOL)


@pytest.mark.parametrize(("name", "kernel"), [("lssa", softplus_attention), ("lssar", reweighted_attention)])
def test_softplus_attention(name, kernel):
    inputs = drawn(Q=(E, M), K=(E, M), V=(E, M))
    expected = evaluated(name, {"E": E, "F": E, "P": M, "M": M}, inputs)["AV"]
    (out,) = kernel(*(tokens(inputs[n]) for n in "QKV"), empty=poisoned)
    # A power of 15 makes fifteen times the relative error of its base.
    np.testing.assert_allclose(as_cascade(out), expected, atol=15 * ATOL)


@pytest.mark.parametrize("chunk", [16, 32])
def test_neural_memory(chunk):
    rng = np.random.default_rng(4)
    inputs = drawn(Q=(E, 3 * chunk), K=(E, 3 * chunk), V=(E, 3 * chunk))
    inputs = {n: x / np.linalg.norm(x, axis=0) for n, x in inputs.items()}
    gates = {
        n: rng.uniform(*r, 3 * chunk) for n, r in (("ETA", (0, 0.9)), ("TH", (0, 0.05)), ("AL", (0, 0.2)))
    }
    expected = evaluated("titans_chunked", {"E": E, "F": E, "T1": 3, "T0": chunk}, inputs | gates)["O"]
    named = zip(("eta", "theta", "alpha"), gates.values(), strict=True)
    options = {n: torch.from_numpy(x[None, None].astype(np.float32)) for n, x in named}
    (out,) = neural_memory(*(tokens(inputs[n]) for n in "QKV"), **options, chunk=chunk, empty=poisoned)
    np.testing.assert_allclose(as_cascade(out), expected.reshape(E, -1), atol=ATOL)


def single(a):
    return torch.from_numpy(a.astype(np.float32))


@pytest.mark.parametrize("width", [3, 4, 7])
def test_efficient_channel_gate(width):
    inputs = drawn(IN=(19, 30), WT=(width,))
    expected = evaluated("eca", {"C": 19, "P": 30, "W": width}, inputs)["O"]
    (out,) = efficient_channel_gate(single(inputs["IN"])[None], weights=single(inputs["WT"]), empty=poisoned)
    np.testing.assert_allclose(out[0].numpy(), expected, atol=ATOL)


def test_squeeze_excite_gate():
    inputs = drawn(X=(19, 30), W1=(5, 19), W2=(19, 5))
    expected = evaluated("squeeze_excite", {"C": 19, "P": 30, "R": 5}, inputs)["O"]
    x, reduce, expand = (single(inputs[n]) for n in ("X", "W1", "W2"))
    (out,) = squeeze_excite_gate(x[None], reduce=reduce, expand=expand, empty=poisoned)
    np.testing.assert_allclose(out[0].numpy(), expected, atol=ATOL)


def test_efficient_local_gate():
    inputs = drawn(IN=(6, 11, 18), WT=(6, 5), GA=(6,), BE=(6,))
    sizes = {"G": 2, "R": 3, "C": 6, "Y": 11, "X": 18, "W": 5}
    expected = evaluated("ela", sizes, inputs)["O"]
    x, weights, gain, offset = (single(inputs[n]) for n in ("IN", "WT", "GA", "BE"))
    (out,) = efficient_local_gate(
        x[None], weights=weights, gain=gain, offset=offset, groups=2, empty=poisoned
    )
    np.testing.assert_allclose(out[0].numpy(), expected, atol=ATOL)
