"""PyTorch functions as cascades: equal to the function, named as people name ranks, refused with the user's line."""

from __future__ import annotations

import math

import numpy as np
import pytest

from einsum_cascade import CascadeError, evaluate, from_torch, parse, passes, reduce_passes, render
from einsum_cascade.tracing.tracer import trace

torch = pytest.importorskip("torch")
F = torch.nn.functional


def random(*sizes):
    return torch.randn(*sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(sizes)))


def textbook(q, k, v):
    return torch.softmax(q @ k.T / math.sqrt(q.shape[-1]), dim=-1) @ v


def heads(q, k, v):
    n = q.shape[-2]
    i = torch.arange(n)
    s = torch.einsum("bhpe,bhme->bhpm", q, k) * q.shape[-1] ** -0.5
    s = s.masked_fill(i[None, :] > i[:, None], float("-inf"))
    o = s.softmax(-1) @ v
    return o.transpose(1, 2).reshape(o.shape[0], n, -1)


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def additive_mask(q, k, v):
    n = q.shape[0]
    keep = torch.tril(torch.ones(n, n)).bool()
    mask = torch.zeros(n, n, dtype=q.dtype).masked_fill(~keep, -torch.inf)
    return F.softmax(q @ k.mT + mask, -1) @ v


def window(q, k, v):
    i = torch.arange(q.shape[0])[:, None]
    j = torch.arange(k.shape[0])[None, :]
    scores = torch.where((j <= i) & (i - j < 3), q @ k.T, -torch.inf)
    return torch.softmax(scores, dim=1) @ v


def grouped(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def block(x, wq, wk, wv):
    q = (x @ wq).view(x.shape[0], 2, -1).transpose(0, 1)
    k = (x @ wk).unflatten(-1, (2, -1)).transpose(0, 1)
    v = (x @ wv).view(x.shape[0], 2, -1).transpose(0, 1)
    o = F.softmax(q @ k.mT / 3, -1) @ v
    return x + o.transpose(0, 1).flatten(1)


def capped(q, k, v):
    scores = 20 * torch.tanh(torch.einsum("pe,me->pm", q, k) / 20)
    return (
        torch.softmax(
            scores - 0.1 * (torch.arange(q.shape[0])[:, None] - torch.arange(k.shape[0])).abs().double(), -1
        )
        @ v
    )


def standardised(x):
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, correction=0) + 1e-5)


def layer_norm(x):
    return F.layer_norm(x, (x.shape[-1],))


def statistics(x):
    return (
        torch.logsumexp(x, -1),
        x.amax(0),
        x.sum(),
        F.log_softmax(x, 0),
        x.max(1).values,
        x.std(0),
        x.prod(1),
    )


def elements(x, y):
    return (
        F.gelu(x) * torch.sigmoid(y),
        x.clamp(min=0, max=1),
        torch.tril(x @ y.T),
        x[:, 1],
        x[1:, ::2],
        x**2 - 1 / (1 + y.abs()),
        1 - x,
        F.silu(x),
        torch.maximum(x, y),
        x.repeat_interleave(2, dim=1),
        x.reshape(-1),
        x.unsqueeze(0).expand(2, -1, -1),
    )


def gate(x, w):
    return x * torch.sigmoid(x.mean((1, 2)) @ w)[:, None, None]


CASES = [
    (textbook, [(6, 4), (5, 4), (5, 3)]),
    (heads, [(2, 3, 6, 4), (2, 3, 6, 4), (2, 3, 6, 5)]),
    (causal, [(2, 3, 6, 4), (2, 3, 6, 4), (2, 3, 6, 5)]),
    (additive_mask, [(6, 4), (6, 4), (6, 3)]),
    (window, [(6, 4), (6, 4), (6, 3)]),
    (grouped, [(2, 4, 5, 3), (2, 2, 6, 3), (2, 2, 6, 3)]),
    (block, [(6, 8), (8, 8), (8, 8), (8, 8)]),
    (capped, [(6, 4), (5, 4), (5, 3)]),
    (standardised, [(5, 7)]),
    (layer_norm, [(2, 5, 7)]),
    (statistics, [(4, 5)]),
    (elements, [(4, 5), (4, 5)]),
    (gate, [(3, 4, 5), (3, 3)]),
]


@pytest.mark.parametrize(("fn", "shapes"), CASES, ids=[fn.__name__ for fn, _ in CASES])
def test_a_traced_function_evaluates_equal(fn, shapes) -> None:
    args = [random(*s) for s in shapes]
    cascade, sizes, _ = trace(fn, *args)
    assert parse(str(cascade)) == cascade
    found = evaluate(cascade, sizes, {s.tensor: a.numpy() for s, a in zip(cascade.inputs, args, strict=True)})
    wanted = fn(*args)
    for s, w in zip(cascade.outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        # 1e-10: the same float64 operations in another order
        np.testing.assert_allclose(found[s.tensor], w.numpy(), atol=1e-10, rtol=1e-10)


def test_ranks_have_the_names_of_the_literature() -> None:
    cascade = from_torch(causal, *(random(2, 3, 6, 4) for _ in range(3)))
    assert [s.ranks for s in cascade.inputs] == [
        ("B", "H", "P", "E"),
        ("B", "H", "M", "E"),
        ("B", "H", "M", "F"),
    ]
    assert cascade.inputs[0].tensor == "Q"
    assert cascade.einsum("QK").where is not None  # no score is computed that the mask removes


def test_people_s_code_gets_passes_and_fewer_of_them() -> None:
    cascade = from_torch(heads, *(random(2, 3, 6, 4) for _ in range(3)))
    assert passes(cascade, "M").count == 3
    found = reduce_passes(cascade, "M")
    assert (found.before, found.after) == (3, 1)


def test_sizes_other_than_the_example_s() -> None:
    cascade = from_torch(causal, *(random(1, 1, 3, 2) for _ in range(3)))
    q, k, v = random(2, 2, 7, 5), random(2, 2, 7, 5), random(2, 2, 7, 4)
    sizes = {"B": 2, "H": 2, "P": 7, "M": 7, "E": 5, "F": 4}
    found = evaluate(cascade, sizes, {"Q": q.numpy(), "K": k.numpy(), "V": v.numpy()})
    np.testing.assert_allclose(found[cascade.outputs[0].tensor], causal(q, k, v).numpy(), atol=1e-12)


def test_a_module_brings_its_parameters() -> None:
    class Gate(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Linear(4, 3, dtype=torch.float64)

        def forward(self, x):
            return torch.relu(self.up(x))

    module, x = Gate(), random(5, 4)
    cascade, sizes, _ = trace(module, x)
    given = {s.tensor: p.detach().numpy() for s, p in zip(cascade.inputs, module.parameters(), strict=False)}
    found = evaluate(cascade, sizes, {**given, "X": x.numpy()})
    np.testing.assert_allclose(found[cascade.outputs[0].tensor], module(x).detach().numpy(), atol=1e-12)


def inverse(x):
    y = x + 1
    return torch.linalg.inv(y)


def test_what_the_language_cannot_say_is_refused_with_the_line() -> None:
    with pytest.raises(CascadeError) as error:
        from_torch(inverse, random(3, 3))
    text = str(error.value)
    assert f"test_trace.py:{inverse.__code__.co_firstlineno + 2}" in text
    assert "return torch.linalg.inv(y)" in text
    assert "'linalg_inv'" in text


def test_data_dependent_code_is_refused() -> None:
    with pytest.raises(CascadeError, match="cannot"):
        from_torch(lambda x: x if x.sum() > 0 else -x, random(3))


def test_without_tensors_there_is_nothing_to_trace() -> None:
    with pytest.raises(CascadeError, match="example tensors"):
        from_torch(textbook)


def test_stretches_written_one_after_the_other_are_the_whole() -> None:
    """Nothing is left of what the tensor was before; where a place is left out, it is read."""

    def whole(x):
        out = torch.full_like(x, 7.0)
        out[4:] = x[4:].exp()
        out[:2] = x[:2] + 1
        out[2:4] = 0.0
        return out

    def with_a_hole(x):
        out = torch.full_like(x, 7.0)
        out[4:] = x[4:].exp()
        out[:2] = x[:2] + 1
        return out

    def twice(x):
        out = torch.full_like(x, 7.0)
        out[:4] = x[:4]
        out[2:] = x[2:].exp()
        return out

    for fn in (whole, with_a_hole, twice):
        x = torch.randn(6, 3, dtype=torch.float64)
        cascade, sizes, inputs = trace(fn, x)
        (found,) = evaluate(cascade, sizes, inputs).values()
        np.testing.assert_allclose(found, fn(x).numpy(), atol=1e-12)
        assert ("7" in render(cascade).split("\n", 2)[2]) == (fn is with_a_hole or fn is twice)
