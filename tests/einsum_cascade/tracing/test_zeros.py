"""Masks of 0, as attentions without a softmax have them: points that do not exist where nobody can tell."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import evaluate, parse
from einsum_cascade.analysis.points import operations
from einsum_cascade.tracing.tracer import trace

torch = pytest.importorskip("torch")


def lower(n: int):
    return torch.ones(n, n).tril().bool()


def triangle(q, k, v):
    return (q @ k.T).tril() @ v


def times_a_mask(q, k, v):
    return (q @ k.T * lower(len(q))) @ v


def chosen(q, k, v):
    return torch.where(lower(len(q)), q @ k.T / 2, 0.0) @ v


def filled(q, k, v):
    return (q @ k.T).masked_fill(~lower(len(q)), 0) @ v


def retention(q, k, v):
    """Decay by distance, as a matrix: its upper half is 0."""
    n = torch.arange(len(q), dtype=q.dtype)
    decay = torch.where(lower(len(q)), 0.9 ** (n[:, None] - n), 0.0)
    return (q @ k.T * decay) @ v


def squared(q, k, v):
    """Two maps one after the other, a normaliser of their sizes."""
    a = torch.relu((q @ k.T).tril()) ** 2
    return a @ v / (1 + a.sum(-1, keepdim=True))


def asked_for(q, k, v):
    """The weights are a result too; an element that it lacks is 0."""
    a = (q @ k.T).tril()
    return a @ v, a


SPARSE = [triangle, times_a_mask, chosen, filled, retention, squared, asked_for]


def complement(q, k, v):
    return (1 - (q @ k.T).tril()) @ v


def exponential(q, k, v):
    return (q @ k.T).tril().exp() @ v


def largest(q, k, v):
    return (q @ k.T).tril().amax(-1, keepdim=True) * (q @ v.T)


def average(q, k, v):
    return (q @ k.T).tril().mean(0) * v[:, 0]


def beside(q, k, v):
    return torch.cat([(q @ k.T).tril(), q @ v.T], -1).softmax(-1)


def first_rows(q):
    """A sum of which a mask of rows leaves 0 for the others."""
    return torch.where((torch.arange(len(q)) < 3)[:, None], q, 0.0).sum(-1)


def rows_less(q, k, v):
    return 1 - first_rows(q)


def rows_raised(q, k, v):
    return first_rows(q).exp()[:, None] * (k @ v.T)


def rows_through_a_product(q, k, v):
    """What multiplies a row by 0 is 0 all along it, and its exponential is not."""
    return ((first_rows(q)[:, None] * k) @ v.T).exp()


def rows_compared(q, k, v):
    return (first_rows(q)[:, None] * k).amax(-1).exp()


WHOLE = [
    complement,
    exponential,
    largest,
    average,
    beside,
    rows_less,
    rows_raised,
    rows_through_a_product,
    rows_compared,
]


def traced(fn):
    made = torch.Generator().manual_seed(3)
    args = [torch.randn(6, 4, generator=made, dtype=torch.float64) for _ in range(3)]
    cascade, sizes, inputs = trace(fn, *args)
    assert parse(str(cascade)) == cascade
    wanted = fn(*args)
    found = evaluate(cascade, sizes, inputs)
    for s, w in zip(cascade.outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        # 1e-12: some dozen float64 operations in another order
        np.testing.assert_allclose(found[s.tensor], w.numpy(), atol=1e-12)
    return cascade, sizes


@pytest.mark.parametrize("fn", SPARSE, ids=lambda fn: fn.__name__)
def test_no_product_is_computed_where_the_mask_is_zero(fn) -> None:
    cascade, sizes = traced(fn)
    assert (
        operations(cascade, sizes)["mac"] <= 2 * 4 * 21 + 21
    )  # of 36 scores 21; a sum of them may be products too


@pytest.mark.parametrize("fn", WHOLE, ids=lambda fn: fn.__name__)
def test_a_zero_that_counts_is_there(fn) -> None:
    """Equality is the test; a mean of columns may leave terms out."""
    traced(fn)
