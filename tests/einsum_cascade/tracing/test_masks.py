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


LEAST = torch.finfo(torch.float32).min
INF = float("inf")


def later():
    mine, other = places()
    return other > mine


# The causal mask as code of the world has it: what it does to scores before the softmax.
CAUSAL = {
    "added triangle": lambda s: s + torch.full((T, T), -INF).triu(1),
    "in float32": lambda s: (s + torch.full((T, T), -INF).triu(1)).float().to(s.dtype),
    "filled zeros": lambda s: s + torch.zeros(T, T).masked_fill(later(), -INF),
    "least number": lambda s: s.masked_fill(later(), LEAST),
    "least number, written": lambda s: s + torch.full((T, T), LEAST).masked_fill(~later(), 0),
    "least number times true": lambda s: s + torch.full((T, T), LEAST).triu(1) * later(),
    "least number, scaled later": lambda s: torch.where(~later(), s, torch.full([], LEAST)) / 2,
    "a thousand million": lambda s: s - 1e9 * later(),
    "ten thousand": lambda s: s + (1.0 - torch.ones(T, T).tril()) * -10000.0,
    "a buffer of ones": lambda s: s.masked_fill(torch.ones(T, T).tril().view(1, T, T) == 0, -INF),
    "ones above a half": lambda s: torch.where(torch.ones(T, T).tril() > 0.5, s, -INF),
    "two masks": lambda s: (s + torch.full((T, T), -INF).triu(1)).masked_fill(
        places()[0] - places()[1] > 2, -1e9
    ),
}


def softmax(scores):
    return scores.softmax(-1)


def by_hand(scores):
    e = torch.exp(scores - scores.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("weights", [softmax, by_hand])
def test_a_causal_mask_is_a_predicate_however_it_is_written(name, weights) -> None:
    """So that its tiles are skipped: of a mask that is added, all would be computed."""
    made = torch.Generator().manual_seed(4)
    args = [torch.randn(2, T, 4, dtype=torch.float64, generator=made) for _ in range(3)]

    def attention(q, k, v):
        return weights(CAUSAL[name](q @ k.mT / 2)) @ v

    cascade, sizes, inputs = trace(attention, *args)
    (found,) = evaluate(cascade, sizes, inputs).values()
    # 1e-6 where the scores were float32 for a while
    atol = 1e-6 if name == "in float32" else 1e-10
    np.testing.assert_allclose(found, attention(*args).numpy(), atol=atol, rtol=atol)
    finite = not any(word in name for word in ("triangle", "float32", "zeros", "ones"))
    if weights is softmax or not finite:
        (predicate,) = [e.where for e in cascade.einsums if e.where is not None]
        assert not accesses(predicate)


def test_a_finite_mask_that_leaves_a_row_empty_stays_a_number() -> None:
    """Equal shares of -1e9: torch gives the mean of the values there, not 0."""

    def attention(q, k, v):
        mine, other = places()
        return (q @ k.mT).masked_fill(other >= mine, -1e9).softmax(-1) @ v

    args = [torch.randn(2, T, 4, dtype=torch.float64) for _ in range(3)]
    cascade, sizes, inputs = trace(attention, *args)
    (found,) = evaluate(cascade, sizes, inputs).values()
    np.testing.assert_allclose(found, attention(*args).numpy(), atol=1e-10)


def test_masked_scores_that_are_handed_back_are_minus_infinity() -> None:
    def attention(q, k, v):
        scores = (q @ k.mT).masked_fill(later(), -INF)
        return scores.softmax(-1) @ v, scores, torch.sigmoid(scores) + scores.isinf()

    args = [torch.randn(2, T, 4, dtype=torch.float64) for _ in range(3)]
    cascade, sizes, inputs = trace(attention, *args)
    for found, wanted in zip(evaluate(cascade, sizes, inputs).values(), attention(*args), strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-10)


def test_a_mask_of_windows_that_are_cut_out_does_not_reach_into_their_sums() -> None:
    """Where all of a window's keys are absent their sum would be a score of 0, not a score that is absent."""

    def attention(q, k, v):
        w = 2
        keys, values = (torch.nn.functional.pad(x, (0, 0, w, w)).unfold(1, 2 * w + 1, 1) for x in (k, v))
        place = torch.arange(T)[:, None] + torch.arange(-w, w + 1)
        scores = torch.einsum("btd,btdw->btw", q, keys).masked_fill((place < 0) | (place >= T), -INF)
        return torch.einsum("btw,btdw->btd", scores.softmax(-1), values)

    args = [torch.randn(2, T, 4, dtype=torch.float64) for _ in range(3)]
    cascade, sizes, inputs = trace(attention, *args)
    (found,) = evaluate(cascade, sizes, inputs).values()
    np.testing.assert_allclose(found, attention(*args).numpy(), atol=1e-10)
