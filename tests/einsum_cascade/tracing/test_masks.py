"""Masks of true and false, however they are made: points that do not exist, as torch leaves them out."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import evaluate
from einsum_cascade.expr import accesses
from einsum_cascade.tracing.tracer import trace

torch = pytest.importorskip("torch")
attend = torch.nn.functional.scaled_dot_product_attention
T = 6


def places():
    at = torch.arange(T)
    return at[:, None], at[None]


def lower_triangle(q, k, v):
    return attend(q, k, v, attn_mask=torch.ones(T, T, dtype=torch.bool).tril())


def filled_with_true(q, k, v):
    return attend(q, k, v, attn_mask=torch.full((T, T), True).triu())


def made_like_scores(q, k, v):
    return attend(q, k, v, attn_mask=torch.ones_like(q @ k.mT, dtype=torch.bool).tril(1))


def everything(q, k, v):
    return attend(q, k, v, attn_mask=torch.ones(T, T, dtype=torch.bool))


def two_layers(q, k, v):
    mine, other = places()
    keep = (other <= mine) & (mine - other < 3)
    return attend(q, attend(k, q, v, attn_mask=keep), v, attn_mask=keep)


def given(q, k, v, mask):
    return attend(q, k, v, attn_mask=mask)


def given_for_two_layers(q, k, v, mask):
    return attend(q, attend(k, q, v, attn_mask=mask), v, attn_mask=mask)


def given_inverted(q, k, v, mask):
    return (q @ k.mT).masked_fill(~mask, float("-inf")).softmax(-1) @ v


def given_as_numbers(q, k, v, mask):
    return (q @ k.mT) * mask @ v + mask.sum(-1, keepdim=True)


STATIC = [lower_triangle, filled_with_true, made_like_scores, everything, two_layers]
GIVEN = [given, given_for_two_layers, given_inverted, given_as_numbers]


@pytest.mark.parametrize("fn", STATIC + GIVEN, ids=lambda fn: fn.__name__)
def test_a_mask_of_truth_values_removes_points(fn) -> None:
    made = torch.Generator().manual_seed(3)
    args = [torch.randn(2, T, 4, dtype=torch.float64, generator=made) for _ in range(3)]
    if fn in GIVEN:
        args.append((torch.rand(T, T, generator=made) > 0.4) | torch.eye(T, dtype=torch.bool))
    cascade, sizes, _ = trace(fn, *args)
    inputs = {s.tensor: x.double().numpy() for s, x in zip(cascade.inputs, args, strict=True)}
    (found,) = evaluate(cascade, sizes, inputs).values()
    np.testing.assert_allclose(found, fn(*args).numpy(), atol=1e-10, rtol=1e-10)


def test_the_mask_of_several_layers_is_a_predicate_in_each() -> None:
    """Not a tensor of zeros and ones, which would be read, and from which no tile could be skipped."""
    q = torch.randn(2, T, 4)
    cascade, _, _ = trace(two_layers, q, q, q)
    predicates = [e.where for e in cascade.einsums if e.where is not None]
    assert len(predicates) == 2
    assert not any(accesses(p) for p in predicates)
