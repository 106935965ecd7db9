"""Functions that write to places which data name, walk whole numbers, or are functions of functions: equal to torch."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import CascadeError, evaluate, from_torch, parse, passes, reduce_passes
from einsum_cascade.tracing.tracer import trace

torch = pytest.importorskip("torch")
F = torch.nn.functional


def random(*sizes, seed=0):
    return torch.randn(*sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, Y, PLACES = random(3, 8), random(3, 2), torch.tensor([[0, 1], [2, 2], [1, 0]])
WHOLE = torch.arange(24).reshape(3, 8) - 7
TIES = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999999999999994], dtype=torch.float64)


def check(fn, *args) -> None:
    cascade, sizes, _ = trace(fn, *args)
    assert parse(str(cascade)) == cascade
    values = [a.double().numpy() for a in args]
    inputs = {s.tensor: a for s, a in zip(cascade.inputs, values, strict=True)}
    wanted = fn(*args)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for name, value in zip(found := evaluate(cascade, sizes, inputs), wanted, strict=True):
        np.testing.assert_allclose(found[name], value.double().numpy(), atol=1e-10)


def kept_by_router(x):
    values, places = x.topk(2, -1)
    return torch.zeros_like(x).scatter(-1, places, values.softmax(-1))


def put_over(x):
    values, places = x.topk(2, 0)
    return x.exp().scatter(0, places, values)


def only_the_largest(x):
    mask = torch.full_like(x, -torch.inf).scatter(-1, x.topk(3, -1).indices, 0.0)
    return (x + mask).softmax(-1)


def along(x, i):
    return (
        torch.take_along_dim(x, i, dim=1),
        torch.take_along_dim(x[:1], i, dim=1),
        x.take_along_dim(i[:1], 1),
    )


def doubled_by_hand(x):
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        out[:, i] = 2 * x[:, x.shape[1] - 1 - i]
    return out


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (kept_by_router, (X,)),
        (put_over, (X,)),
        (only_the_largest, (X,)),
        (along, (X, PLACES)),
        (doubled_by_hand, (X,)),
        (lambda x, i: x.scatter(1, i, 7.0), (X, PLACES)),
        (lambda x, i, y: x.scatter_add(1, i, y), (X, PLACES, Y)),
        (lambda x, i, y: x.scatter(1, i[:, :1], y[:, :1]), (X, PLACES, Y)),
        (lambda i, y: torch.zeros(5, 2, dtype=y.dtype).scatter_add(0, i, y), (PLACES, Y)),
        (lambda x, i, y: x.index_add(1, i, y), (X, torch.tensor([5, 5]), Y)),
        (lambda i: F.one_hot(i, 3).sum(1), (PLACES,)),
        (lambda x: (x << 2) + (x >> 1), (WHOLE,)),
        (lambda x: ((x > 0) & (x < 5)) | ~(x > -2) ^ (x > 3), (WHOLE,)),
        (lambda x: (x > 0).square() + (x > 1), (X,)),
        (torch.round, (TIES,)),
        (lambda x: F.pad(x, (-1, 2)) + F.pad(x, (2, -1)), (X,)),
        (lambda x: x.softmax(0), (torch.tensor(2.0),)),
        (lambda x: x.sum(0) + x.logsumexp(0), (torch.tensor(2.0),)),
    ],
)
def test_places_and_whole_numbers(fn, args) -> None:
    check(fn, *args)


@pytest.mark.parametrize("fn", [lambda x: x & 3, lambda x: x | 3, lambda x: x ^ 3, lambda x: ~x])
def test_bits_of_whole_numbers_are_refused(fn) -> None:
    with pytest.raises(CascadeError, match="the bits of whole numbers"):
        from_torch(fn, WHOLE)


def test_a_scatter_to_equal_places_is_refused() -> None:
    with pytest.raises(CascadeError, match="places that may be the same"):
        from_torch(lambda x, i, y: x.scatter(1, i, y), X, PLACES, Y)


def test_an_ellipsis_of_an_einsum_without_an_arrow_stands_first() -> None:
    check(lambda q, k: torch.einsum("b...pe,...me", q, k), random(2, 4, 5, 3), random(4, 7, 3))
    check(lambda q, k: torch.einsum("...e,...e", q, k), random(2, 4, 3), random(4, 3))
    check(lambda q, k: torch.einsum("bij,bjk->bik", q, k), random(1, 2, 3), random(4, 3, 5))


def test_attention_without_its_weights_gives_one_tensor() -> None:
    layer = torch.nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layer

        def forward(self, x):
            return self.inner(x, x, x, need_weights=False)

    assert len(from_torch(Layer(), random(2, 5, 4)).outputs) == 1


def attention(q, k, v):
    return torch.softmax(q @ k.mT, -1) @ v


def by_batch(q, k, v):
    return torch.vmap(torch.vmap(attention))(q, k, v)


def gradient(q, k, v):
    return torch.func.grad(lambda q: attention(q, k, v).pow(2).sum())(q)


def test_vmap_is_a_batch() -> None:
    shapes = random(2, 3, 5, 4), random(2, 3, 6, 4), random(2, 3, 6, 2)
    check(by_batch, *shapes)
    assert reduce_passes(from_torch(by_batch, *shapes), "M").after == 1


def test_a_gradient_is_a_cascade() -> None:
    args = random(5, 4), random(6, 4), random(6, 3)
    check(gradient, *args)
    check(lambda *a: torch.func.vjp(attention, *a)[1](torch.ones(5, 3, dtype=torch.float64)), *args)
    check(lambda x, i: torch.func.grad(lambda x: F.cross_entropy(x, i))(x), X, torch.tensor([1, 2, 3]))
    # The sum of dS * S needs the softmax of the whole row, and dS needs that sum: two passes are left.
    cascade = from_torch(gradient, *args)
    assert passes(cascade, "M").count == 5
    assert reduce_passes(cascade, "M").after == 2


def test_a_derivative_along_a_direction_leaves_torch_as_it_was() -> None:
    def fn(x, w):
        return torch.func.jvp(lambda w: torch.tanh(x @ w), (w,), (w,))[1]

    check(fn, X, random(8))
    with pytest.raises(CascadeError, match="cannot trace"):
        from_torch(lambda x: torch.vmap(lambda v: v if v.sum() > 0 else -v)(x), X)
    check(by_batch, random(2, 3, 5, 4), random(2, 3, 6, 4), random(2, 3, 6, 2))
