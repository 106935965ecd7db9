"""Gradients of cascades: against differences of outputs, against PyTorch, and what kernels of attention do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import typer
from differences import check, computed, drawn, numerical
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrences import TEXTS
from typer.testing import CliRunner

from einsum_cascade import (
    CascadeError,
    bounds,
    evaluate,
    gradients,
    parse,
    passes,
    reduce_passes,
    render,
    zoo,
)
from einsum_cascade.backward.cli import register
from einsum_cascade.backward.trials import hold, trial_sizes_of
from einsum_cascade.evaluator import sizes_of_use
from einsum_cascade.tracing.tracer import trace


@pytest.mark.parametrize("name", zoo.names())
def test_every_entry_of_the_zoo_has_gradients(name: str) -> None:
    """`gradients` itself refuses what does not hold along random directions."""
    cascade = zoo.load(name)
    found = gradients(cascade)
    assert parse(render(found.cascade)) == found.cascade
    shapes = {s.tensor: s.ranks for s in cascade.inputs}
    made = {s.tensor: s for s in found.cascade.outputs}
    sizes = next(trial_sizes_of(cascade))[0]
    known = sizes_of_use(found.cascade, sizes)
    for tensor, d in found.wrt.items():
        assert [known[r] for r in made[d].ranks] == [known[r] for r in shapes[tensor]]
    assert not set(found.none) & set(found.wrt)


HEAD = "cascade mine\nrank I J K\n"
# Every scalar function at inputs where it is smooth, in an Einsum of its own and under a sum.
FUNCTIONS = (
    "exp(X[i, j])", "log(abs(X[i, j]) + 1)", "sqrt(X[i, j]**2 + 1)", "sin(X[i, j])", "cos(X[i, j])", "tanh(X[i, j])",
    "sigmoid(X[i, j])", "softplus(X[i, j])", "relu(X[i, j])", "gelu(X[i, j])", "erf(X[i, j])", "abs(X[i, j])",
    "X[i, j]**3", "X[i, j]**2", "(X[i, j]**2 + 1)**Y[j]", "2**X[i, j]", "X[i, j] / (1 + Y[j]**2)", "-X[i, j] - -Y[j]",
    "min(X[i, j], Y[j], 0.3)", "max(X[i, j], Y[j])", "clamp(X[i, j], -0.5, Y[j]**2)", "X[i, j] % 0.7",
    "select(X[i, j] > Y[j], X[i, j] * Y[j], exp(Y[j]))", "floor(X[i, j]) * Y[j]", "X[i, j] * X[i, j] * X[i, j]",
    "relu(X[i, j])**(Y[j]**2 + 1)", "clamp(X[i, j], -0.5, Y[j])", "clamp(X[i, j], Y[j], 0.2)",
    "clamp(Y[j], X[i, j], 0.2)",
)  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("line", ["Z[i, j] = {}", "Z[i] = {} * (1 + X[i, j]) :: sum(j)"])
def test_functions(function: str, line: str) -> None:
    text = HEAD + f"input X[I, J] Y[J]\noutput Z[{'I, J' if '[i, j] =' in line else 'I'}]\n"
    check(text + line.format(function) + "\n", "I=3,J=4,K=1")


REDUCTIONS = {
    "max": "Z[i] = X[i, j] * Y[j] :: max(j)",
    "min of two": "Z[] = X[i, j] + Y[j] :: min(i, j)",
    "product": "Z[i] = X[i, j] + Y[j] :: prod(j)",
    "product of two": "Z[] = X[i, j] * Y[j] :: prod(i, j)",
    "logsumexp": "Z[i] = X[i, j] * Y[j] :: logsumexp(j)",
    "sum, then max": "Z[] = X[i, j] * Y[j] :: sum(j) :: max(i)",
    "max, then sum": "Z[] = X[i, j] * Y[j] :: max(j) :: sum(i) where j <= i + 1",
    "of what does not move": "Z[i] = X[i, j] + Y[j] + 0 * k :: sum(j, k)",
}


@pytest.mark.parametrize("line", REDUCTIONS.values(), ids=REDUCTIONS.keys())
def test_reductions(line: str) -> None:
    ranks = "I" if line.startswith("Z[i]") else ""
    check(HEAD + f"input X[I, J] Y[J]\noutput Z[{ranks}]\n{line}\n", "I=3,J=4,K=5")


def test_a_factor_of_zero_does_not_spoil_a_product() -> None:
    """Divided by the factor, as 0 / 0, it would."""
    found = gradients(parse(HEAD + "input X[J]\noutput Z[]\nZ[] = X[j] :: prod(j)\n"))
    out = evaluate(found.cascade, "J=3", {"X": [2.0, 0.0, 5.0], "DZ": 1.0})
    assert out["DX"].tolist() == [0.0, 10.0, 0.0]


def test_of_equal_numbers_the_first_is_the_largest() -> None:
    found = gradients(parse(HEAD + "input X[J]\noutput Z[]\nZ[] = X[j] :: max(j)\n"))
    out = evaluate(found.cascade, "J=3", {"X": [1.0, 4.0, 4.0], "DZ": 1.0})
    assert out["DX"].tolist() == [0.0, 1.0, 0.0]


PLACES = {
    "window": "Z[i] = X[i + j - 1] * Y[j]",
    "backwards": "Z[i] = X[I - 1 - i] * Y[i]",
    "padded": "Z[i] = pad(X[i + j - 2], 3) * Y[j] :: sum(j)",
    "diagonal": "Z[i] = X[i] * W[i, i] * Y[i]",
    "twice": "Z[i] = X[i] * X[i] + pad(X[i - 1], 0)",
    "strided": "Z[i] = X[2*i] * Y[2*i + 1]",
    "mirrored by two": "Z[i, j] = X[j - i] * Y[i]",
    "one place": "Z[i] = X[2] * Y[i] + Y[0]",
    "digit": "Z[i] = X[i // 2] * Y[i % 3]",
    "chosen": "T[i] = W[i, j] :: argmax(j)\nZ[i] = X[T[i]] * Y[i]",
    "top": "T[i, k] = W[i, j] :: topk(j -> k)\nZ[i] = X[T[i, k]] * Y[k]",
    "causal": "S[i, j] = X[i] * Y[j] where j <= i\nZ[i] = S[i, j] * W[i, j] + S[i, j]**2",
    "mask of data": "S[i, j] = X[i] * Y[j] where W[i, j] > 0\nZ[i] = exp(S[i, j]) * Y[j]",
    "two masks": "S[i, j] = X[i] * Y[j]\nA[i] = S[i, j] :: sum(j) where j < i\nZ[i] = A[i] + X[i]",
    "added where it exists": "S[i] = X[i] where i > 1\nZ[i] = S[i] + Y[i]",
    "padded where it does not": "S[i] = X[i] where i > 1\nZ[i] = pad(S[i], 2) * Y[i]",
}


@pytest.mark.parametrize("body", PLACES.values(), ids=PLACES.keys())
def test_places_and_masks(body: str) -> None:
    ranks = "I, J" if "Z[i, j]" in body else "I"
    head = f"cascade mine\nrank I J K\ninput X[I] Y[I] W[I, J]\noutput Z[{ranks}]\n"
    check(head + body + "\n", "I=5,J=5,K=2")


def test_heads_that_share_keys_and_blocks_of_a_rank() -> None:
    found = check(
        "cascade mine\nrank E M\nrank H = D*G\ninput Q[H, E] K[D, E, M]\noutput S[H, M]\n"
        "S[h, m] = Q[h, e] * K[h//G, e, m] + 0.1 * K[h//G, e, m]**2 :: sum(e)\n",
        "D=2,G=3,E=2,M=3",
    )
    assert "where" not in str(found.cascade)  # d*G + g in the place of h, not a search over all heads
    check(
        "cascade mine\nrank E P\nrank M = M1*M0\ninput Q[E, P] K[E, M]\noutput S[M1, P]\n"
        "S[m1, p] = Q[e, p] * K[e, m1*M0 + m0]**2\n",
        "M1=2,M0=3,E=2,P=3",
    )


@pytest.mark.parametrize("name", TEXTS)
def test_recurrences(name: str) -> None:
    """`gradients` holds itself against differences; here element by element, for two steps and for four."""
    cascade = parse(TEXTS[name])
    found = gradients(cascade)
    for steps in (2, 4):
        sizes = {**next(trial_sizes_of(cascade))[0], "T": steps}
        known = sizes_of_use(cascade, {r: n for r, n in sizes.items() if r in cascade.free_ranks})
        inputs, weights = drawn(cascade, known)
        for tensor, got in computed(found, known, inputs, weights).items():
            want = numerical(cascade, known, inputs, weights, tensor)
            assert np.allclose(got, want, rtol=1e-5, atol=1e-5), tensor


STATES = {
    "read behind": "A[0, e] = X[e, 0]\niterate t {\n  A[t+1, e] = tanh(A[t, e] * Y[e] + X[e, t])\n}\n"
    "Z[e] = A[T, e] * A[t, e] * A[t + 1, e]",
    "an output": "Z[0, e] = Y[e]\niterate t {\n  Z[t+1, e] = sin(Z[t, e]) + X[e, t]\n}",
    "moved": "A[0, e] = Y[e]\niterate t {\n  A[t+1, e] = pad(A[t, e - 1], 0) * 0.5 + X[e, t]\n}\nZ[e] = A[T, e]",
    "two of them": "A[0, e] = Y[e]\nB[0, e] = 1\niterate t {\n  L[t, e] = B[t, e] * X[e, t]\n"
    "  A[t+1, e] = A[t, e] * L[t, e]\n  B[t+1, e] = A[t+1, e] + B[t, e]\n}\nZ[e] = L[t, e] * (B[T, e] + A[T, e])",
    "a largest": "A[0, e] = -inf\niterate t {\n  A[t+1, e] = max(A[t, e], X[e, t] * Y[e])\n}\nZ[e] = A[T, e]",
}


@pytest.mark.parametrize("body", STATES.values(), ids=STATES.keys())
def test_states(body: str) -> None:
    out = "Z[T, E]" if body.startswith("Z[0") else "Z[E]"
    check(f"cascade mine\nrank E T\ninput X[E, T] Y[E]\noutput {out}\n{body}\n", "E=3,T=4")


def test_the_maximum_of_a_softmax_cancels_and_a_maximum_that_counts_does_not() -> None:
    softmax = gradients(zoo.load("attention_3pass"))
    assert [s.einsum for s in softmax.steps if s.rule == "cancel"] == ["GM"]
    assert "DGM" not in str(softmax.cascade)
    pooled = gradients(
        parse(HEAD + "input X[I, J]\noutput Z[I]\nG[i] = X[i, j] :: max(j)\nZ[i] = exp(G[i])\n")
    )
    assert not pooled.steps


def test_a_maximum_that_another_value_hides_at_most_inputs_counts() -> None:
    """The smallest of X seldom exceeds a logarithm of a sum of exponentials, but where it does it is the output."""
    text = (
        "cascade mine\nrank I J\ninput X[I, J] Y[J]\noutput Z[I]\nC[i] = X[i, j] * Y[j] :: logsumexp(j)\n"
        "D[i] = X[i, j] * Y[j] :: min(j)\nZ[i] = max(C[i], 2 * D[i] - 4)\n"
    )
    check(text, "I=4,J=2")
    found = gradients(parse(text))
    x, y = np.array([[6.0, 5.9]]), np.ones(2)
    made = evaluate(found.cascade, {"I": 1, "J": 2}, {"X": x, "Y": y, "DZ": np.ones(1)})
    # log(e^6 + e^5.9) = 6.64 < 2 * 5.9 - 4: the output is 2 X[0, 1] Y[1] - 4.
    np.testing.assert_allclose(made[found.wrt["X"]], [[0.0, 2.0]])


def test_the_backward_pass_of_flash_attention_is_found() -> None:
    """FlashAttention-2 (2023), algorithm 2: scores again from what is saved of a row, and D = rowsum(dO * O)."""
    found = gradients(zoo.load("attention_causal"), saved="small")
    assert set(found.saved) == {"GM", "SD", "AV"}
    text = str(found.cascade)
    assert "DSD[p]     = -(DAV[f, p] * AV[f, p] / SD[p])" in text
    assert [passes(found.cascade, r).count for r in ("M", "P")] == [1, 1]
    # Five products of matrices, one more than the two of the forward pass times two: the scores are computed again.
    sizes = {"E": 8, "F": 8, "M": 16, "P": 16}
    pairs = 16 * 17 // 2
    assert bounds(found.cascade, sizes).operations["mac"] == 5 * 8 * pairs


def test_without_saving_a_pass_more_is_needed_and_reduce_finds_the_rest() -> None:
    found = gradients(zoo.load("attention_3pass")).cascade
    assert passes(found, "M").count == 3
    assert reduce_passes(found, "M").after == 2


@pytest.mark.parametrize(
    "name",
    ["attention_3pass", "attention_sliding_window", "linear_chunked", "lstm", "landmark", "mamba2_recurrent"],
)
def test_what_is_saved_is_taken_as_it_was(name: str) -> None:
    cascade = zoo.load(name)
    whole, small = gradients(cascade), gradients(cascade, saved="small")
    sizes = next(trial_sizes_of(cascade))[1]
    inputs, weights = drawn(cascade, sizes)
    asked = {**inputs, **{whole.given[t]: w for t, w in weights.items()}}
    every = evaluate(
        whole.cascade, sizes, {s.tensor: asked[s.tensor] for s in whole.cascade.inputs}, keep_all=True
    )
    # What is defined only where divisions come last is not among the forward pass as it was written.
    kept = {**every, **evaluate(cascade, sizes, inputs, keep_all=True)}
    given = {s.tensor: asked.get(s.tensor, kept.get(s.tensor)) for s in small.cascade.inputs}
    outputs = evaluate(small.cascade, sizes, given)
    for d in small.wrt.values():
        assert np.allclose(outputs[d], every[d], rtol=1e-10, atol=1e-12), d
    assert small.saved


def _causal(q: Any, k: Any, v: Any) -> Any:
    scores = q.T @ k
    return (scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf).softmax(-1) @ v.T).T


def _layer(x: Any, w: Any) -> Any:
    return torch.nn.functional.layer_norm(torch.nn.functional.gelu(x @ w), (w.shape[1],))


def _delta(q: Any, k: Any, v: Any, beta: Any) -> Any:
    state, out = q.new_zeros(q.shape[1], v.shape[1]), []
    for t in range(q.shape[0]):
        new = beta[t] * (v[t] - k[t] @ state)
        state = state + k[t][:, None] * new[None, :]
        out.append(q[t] @ state)
    return torch.stack(out)


def _pooled(x: Any) -> Any:
    return torch.nn.functional.max_pool1d(x, 2).cumsum(-1).logsumexp(-1)


TORCH: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], bool]] = {
    "causal": (_causal, [(3, 5), (3, 5), (4, 5)], False),
    "layer": (_layer, [(4, 3), (3, 5)], False),
    "delta rule": (_delta, [(4, 3), (4, 3), (4, 2), (4,)], True),
    "pooled": (_pooled, [(2, 3, 8)], False),
}


@pytest.mark.parametrize("name", TORCH)
def test_as_autograd_has_it(name: str) -> None:
    """Traced from PyTorch, differentiated here and there."""
    function, shapes, roll = TORCH[name]
    torch.manual_seed(3)
    example = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    plain = [x.detach() for x in example]
    cascade, sizes, inputs = trace(function, *plain, roll=roll)
    found = gradients(cascade)
    result = function(*example)
    weights = torch.randn_like(result)
    (result * weights).sum().backward()
    (output,) = cascade.outputs
    free = {r: n for r, n in sizes.items() if r in cascade.free_ranks}
    got = computed(found, free, inputs, {output.tensor: weights.numpy()})
    for s, x in zip(cascade.inputs, example, strict=True):
        assert x.grad is not None
        assert np.allclose(got[s.tensor], x.grad.numpy(), rtol=1e-9, atol=1e-9), s.tensor


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_chains_of_sums_and_functions(data: st.DataObject) -> None:
    """Einsums on top of each other, each of random factors, masks and reductions, hold or are refused in words."""
    lines, known = [], {"X": "ij", "Y": "jk", "W": "k"}
    for n in range(data.draw(st.integers(1, 4))):
        factors = data.draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=3))
        names = sorted({v for t in factors for v in known[t]})
        kept = [v for v in names if data.draw(st.booleans())]
        reads = [f"{t}[{', '.join(known[t])}]" for t in factors]
        shape = data.draw(
            st.sampled_from(["{}", "tanh({})", "exp(0.3 * ({}))", "relu({})", "1 / (2 + ({})**2)"])
        )
        op = data.draw(st.sampled_from(["sum", "sum", "max", "logsumexp", "min"]))
        gone = [v for v in names if v not in kept]
        line = f"T{n}[{', '.join(kept)}] = {shape.format(' * '.join(reads))}"
        line += f" :: {op}({', '.join(gone)})" if gone else ""
        if {"i", "j"} <= set(names) and data.draw(st.booleans()):
            line += " where j <= i"
        lines.append(line)
        known[f"T{n}"] = "".join(kept)
    last = f"T{len(lines) - 1}"
    ranks = ", ".join(v.upper() for v in known[last])
    text = HEAD + f"input X[I, J] Y[J, K] W[K]\noutput {last}[{ranks}]\n" + "\n".join(lines) + "\n"
    check(text, "I=2,J=3,K=2", seed=data.draw(st.integers(0, 5)))


def test_what_is_wrong_is_refused() -> None:
    """One factor too many, a sign, a tensor left out: `hold` sees each."""
    cascade = zoo.load("attention_2pass")
    found = gradients(cascade)
    text = str(found.cascade)
    assert hold(cascade, found.cascade, found.given, found.wrt)
    for old, new in (
        ("DSN2[m, p] + DSD[p]", "DSN2[m, p] - DSD[p]"),
        ("DSN2[m, p] + DSD[p]", "DSN2[m, p]"),
        ("DQK[m, p] * Q[e, p]", "DQK[m, p] * Q[e, p] * 1.01"),
    ):
        assert old in text
        assert hold(cascade, parse(text.replace(old, new)), found.given, found.wrt) is False
    assert hold(cascade, found.cascade, found.given, {**found.wrt, "V": ""}) is False


def test_mistakes_are_told() -> None:
    cascade = zoo.load("attention_3pass")
    with pytest.raises(CascadeError, match="has no input QQ"):
        gradients(cascade, ["QQ"])
    with pytest.raises(CascadeError, match="computes no GMM"):
        gradients(cascade, saved=["GMM"])
    with pytest.raises(CascadeError, match="RM is a state"):
        gradients(zoo.load("attention_1pass"), saved=["RM"])
    with pytest.raises(CascadeError, match="no output of mine moves with X"):
        gradients(parse(HEAD + "input X[I] Y[I]\noutput Z[I]\nZ[i] = floor(X[i]) + Y[i]\n"), ["X"])


def test_the_command() -> None:
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    run = CliRunner().invoke(app, ["gradients", "attention_paged", "--wrt", "Q,K,TB", "--json"])
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)
    assert told["wrt"] == {"Q": "DQ", "K": "DK"}
    assert list(told["none"]) == ["TB"]
    assert parse(told["cascade"]).outputs[0].tensor == "DQ"
    shown = CliRunner().invoke(app, ["gradients", "attention_3pass", "--saved", "GM, SD"])
    assert shown.exit_code == 0
    assert "GM[P]  SD[P]" in shown.output
    assert CliRunner().invoke(app, ["gradients", "gemm", "--wrt", "Z"]).exit_code == 2
