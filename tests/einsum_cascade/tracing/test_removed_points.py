"""Points that a mask removes are 0 of a softmax to all that follows, as in PyTorch, and not absent from it."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import evaluate, parse, reduce_passes
from einsum_cascade.tracing.tracer import trace

torch = pytest.importorskip("torch")
F = torch.nn.functional


def random(*sizes, seed=0):
    return torch.randn(*sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def share(x):
    return x.masked_fill(x > 0.8, -torch.inf).softmax(-1)


def later(x):
    return torch.ones(x.shape, dtype=torch.bool).triu(1)


def mixed_with_equal_shares(x, v):
    return (0.9 * share(x) + 0.1 / x.shape[-1]) @ v


def of_two_masks(x, y):
    return x.masked_fill(x > y + 1, -torch.inf).softmax(-1) - y.masked_fill(x < y - 1, -torch.inf).softmax(-1)


def of_columns_afterwards(x, _):
    return share(x).softmax(0)


def normalised(x, _):
    return F.layer_norm(share(x), (x.shape[-1],))


def with_a_residual(x, y):
    return share(x).T + y


def logarithms(x, _):
    log = x.masked_fill(x > 0.8, -torch.inf).log_softmax(-1)
    return log, log.exp(), log.cumsum(-1)


def a_running_sum_of_endless_scores(x, _):
    return x.masked_fill(later(x), -torch.inf).cumsum(-1)


def without_rows_of_nothing(x, v):
    return x.masked_fill(later(x), -torch.inf).softmax(-1).nan_to_num(0.0) @ v


def smoothed(x, w):
    return F.conv1d(share(x)[None], w[None, :1].expand(2, 4, 5)[..., :3], padding=1)


def another_score_for_some(x, y):
    """A product of which a branch is read alone: where it is not taken, the mask is the reader's."""
    scores = torch.where(y > 0, x @ x.mT, -1.0)
    return scores.masked_fill(later(scores), -torch.inf).softmax(-1)


def read_by_two(x, _):
    """Both under one mask, one of them under another too."""
    scores = (x @ x.mT) / 2
    weights = scores.masked_fill(later(scores), -torch.inf).softmax(-1)
    return weights, torch.sigmoid(scores).tril() @ x, (scores * 2).tril(-1) @ x


SAID = [
    (another_score_for_some, (4, 4)),
    (read_by_two, (4, 4)),
    (lambda x, _: 1 - share(x), (4, 5)),
    (lambda x, _: (share(x).min(-1).values, share(x).prod(-1), share(x).std(-1)), (4, 5)),
    (lambda x, _: (share(x).exp(), (share(x) < 0.1).double(), share(x).topk(5, -1).values), (4, 5)),
    (mixed_with_equal_shares, (5, 3)),
    (of_two_masks, (4, 5)),
    (of_columns_afterwards, (4, 5)),
    (normalised, (4, 5)),
    (with_a_residual, (5, 4)),
    (logarithms, (4, 5)),
    (a_running_sum_of_endless_scores, (4, 5)),
    (without_rows_of_nothing, (5, 3)),
    (smoothed, (4, 5)),
]


@pytest.mark.parametrize(("fn", "shape"), SAID)
def test_a_removed_point_is_the_number_that_torch_has_there(fn, shape) -> None:
    args = [random(4, 5), random(*shape, seed=1)]
    cascade, sizes, _ = trace(fn, *args)
    assert parse(str(cascade)) == cascade
    names = [s.tensor for s in cascade.inputs]
    inputs = {n: a.numpy() for n, a in zip(names, args, strict=True)}
    wanted = fn(*args)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    found = evaluate(cascade, sizes, inputs)
    for name, value in zip(found, wanted, strict=True):
        np.testing.assert_allclose(found[name], value.numpy(), atol=1e-12)


def test_a_product_with_what_is_removed_needs_no_padding() -> None:
    def attention(q, k, v):
        scores = q @ k.mT
        return scores.masked_fill(later(scores), -torch.inf).softmax(-1) @ v

    cascade, _, _ = trace(attention, random(4, 3), random(4, 3), random(4, 2))
    assert "pad" not in str(cascade)
    assert reduce_passes(cascade, "M").after == 1


def test_what_is_padded_is_rewritten_as_well() -> None:
    cascade, sizes, _ = trace(mixed_with_equal_shares, random(4, 5), random(5, 3))
    assert "pad(A[p, m], 0)" in str(cascade)
    reduced = reduce_passes(cascade, "M")
    assert reduced.after < reduced.before == 3
    inputs = {"X": random(4, 5).numpy(), "V": random(5, 3).numpy()}
    shown = {n: v for n, v in sizes.items() if n in reduced.cascade.rank_names}
    for name, value in evaluate(cascade, sizes, inputs).items():
        np.testing.assert_allclose(evaluate(reduced.cascade, shown, inputs)[name], value, atol=1e-12)


@pytest.mark.parametrize("lowest", [torch.finfo(torch.float32).min, torch.finfo(torch.float64).min])
def test_a_row_of_lowest_numbers_stays_one_of_equal_shares(lowest) -> None:
    def attention(q, k, v, gone):
        return (q @ k.mT).masked_fill(gone, lowest).softmax(-1) @ v

    gone = torch.zeros(4, 6, dtype=torch.bool)
    gone[1], gone[2, :4] = True, True
    args = [random(4, 3), random(6, 3, seed=1), random(6, 2, seed=2), gone]
    cascade, sizes, _ = trace(attention, *args)
    rank = cascade.signatures["K"].ranks[0]
    reduced = reduce_passes(cascade, rank)
    assert reduced.after == 1
    inputs = {n.tensor: a.double().numpy() for n, a in zip(cascade.inputs, args, strict=True)}
    outer, inner = reduced.cascade.splits[rank]
    given = {n: v for n, v in sizes.items() if n in reduced.cascade.free_ranks} | {outer: 3, inner: 2}
    (found,) = evaluate(reduced.cascade, given, inputs).values()
    np.testing.assert_allclose(found, attention(*args).numpy(), atol=1e-12)
