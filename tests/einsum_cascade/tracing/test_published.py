"""Attentions of published models, as their code is written: equal to PyTorch, and reduced as the literature does."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import (
    CascadeError,
    bounds,
    evaluate,
    from_torch,
    parse,
    passes,
    reduce_passes,
    same_result,
)
from einsum_cascade.tracing.tracer import trace

torch = pytest.importorskip("torch")
from torch_published import PUBLISHED, SAID  # noqa: E402 (it imports torch)


def name_of(fn) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def arguments(shapes, whole):
    made = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [
        torch.randperm(whole[i], generator=made)[: s[0]]
        if i in whole
        else torch.randn(s, dtype=torch.float64, generator=made)
        for i, s in enumerate(shapes)
    ]


def copies(given):
    return [x.detach().clone() for x in given]


@pytest.mark.parametrize(
    ("fn", "shapes", "whole"),
    [(*row[:3],) for row in (*PUBLISHED, *SAID)],
    ids=[name_of(r[0]) for r in (*PUBLISHED, *SAID)],
)
def test_it_is_equal(fn, shapes, whole) -> None:
    args = arguments(shapes, whole)
    # Some write into what they are given.
    cascade, sizes, inputs = trace(fn.eval() if isinstance(fn, torch.nn.Module) else fn, *copies(args))
    assert parse(str(cascade)) == cascade
    found, wanted = evaluate(cascade, sizes, inputs), fn(*copies(args))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for s, w in zip(cascade.outputs, wanted, strict=True):
        # 1e-10: the same float64 operations in another order
        np.testing.assert_allclose(found[s.tensor], w.detach().numpy(), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("fn", "shapes", "whole", "before", "after"), PUBLISHED, ids=[name_of(r[0]) for r in PUBLISHED]
)
def test_its_passes_come_down_as_published(fn, shapes, whole, before, after) -> None:
    cascade, sizes, _ = trace(fn, *arguments(shapes, whole))
    # The keys: what the last maximum of all is taken over, or the whole that it is a part of.
    top = [e for e in cascade.einsums if any(r.op == "max" for r in e.reductions)][-1]
    rank = next(r for r in cascade.rank_names if r[0].lower() + r[1:] in top.reduced)
    assert passes(cascade, rank).count == before
    found = reduce_passes(cascade, rank)
    assert found.after == after
    assert same_result(cascade, found.cascade, sizes)
    of_found = {r: n for r, n in sizes.items() if r in (*found.cascade.free_ranks, *found.cascade.splits)}
    assert bounds(found.cascade, of_found).compulsory_bytes <= bounds(cascade, sizes).compulsory_bytes


def test_scores_beside_a_sink_keep_the_rank_of_the_keys() -> None:
    fn, shapes, *_ = PUBLISHED[0]
    cascade = from_torch(fn, *arguments(shapes, {}))
    assert cascade.aliases["M"] == "P"
    assert not any("Sinks" in e.sources and e.all_reductions for e in cascade.einsums)


def test_what_is_joined_for_good_stays_one() -> None:
    def cached(q, k, v, pk, pv):
        k, v = torch.cat([pk, k]), torch.cat([pv, v])
        return torch.softmax(q @ k.T, -1) @ v

    cascade, sizes, _ = trace(cached, *(torch.randn(n, 4) for n in (3, 2, 2, 5, 5)))
    assert sizes["M"] == 7
    assert reduce_passes(cascade, "M").after == 1


def test_examples_may_be_nested_and_named() -> None:
    def attend(q, cache, *, options):
        return torch.softmax(q @ cache[0].T * options["scale"], -1) @ cache[1]

    q, k, v = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5, 2)
    cascade, sizes, _ = trace(attend, q, (k, v), options={"scale": torch.tensor(0.5)})
    assert [s.tensor for s in cascade.inputs] == ["Q", "Cache_0", "Cache_1", "Options_scale"]
    given = dict(zip(("Q", "Cache_0", "Cache_1", "Options_scale"), (q, k, v, torch.tensor(0.5)), strict=True))
    found = evaluate(cascade, sizes, {n: x.numpy() for n, x in given.items()})
    wanted = attend(q, (k, v), options={"scale": 0.5})
    # 1e-6: torch works in float32 here
    np.testing.assert_allclose(next(iter(found.values())), wanted.numpy(), atol=1e-6)


def test_a_complex_input_is_two_real_ones() -> None:
    def turned(x, turn):
        return torch.view_as_real(torch.view_as_complex(x.reshape(5, 2, 2)) * turn).flatten(1)

    x, angle = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    cascade, sizes, _ = trace(turned, x, torch.polar(torch.ones_like(angle), angle))
    inputs = {"X": x.numpy(), "Turn_re": angle.cos().numpy(), "Turn_im": angle.sin().numpy()}
    even, odd, cos, sin = x[:, ::2], x[:, 1::2], angle.cos(), angle.sin()
    wanted = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(1)
    # 1e-12: a few float64 operations
    np.testing.assert_allclose(evaluate(cascade, sizes, inputs)["O"], wanted.numpy(), atol=1e-12)


def test_what_has_no_elements_is_refused_in_words() -> None:
    with pytest.raises(CascadeError, match="X has no elements in the example"):
        from_torch(lambda x, y: torch.cat([x, y]), torch.randn(0, 3), torch.randn(2, 3))
    with pytest.raises(CascadeError, match="a result of the traced function has no elements"):
        from_torch(lambda x: x[:0], torch.randn(2, 3))
    with pytest.raises(CascadeError, match="a tensor without elements"):
        from_torch(lambda x: x[:0].sum(), torch.randn(2, 3))
    with pytest.raises(CascadeError, match="a tensor without elements"):
        from_torch(lambda x: x[:0] @ x.T, torch.randn(2, 3))


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (lambda x: torch.complex(x, x), "view_as_real"),
        (lambda x: torch.angle(torch.complex(x, x)), "'angle' of complex numbers"),
        (lambda x: torch.fft.rfft(x).abs(), "conv1d"),
        (lambda x: torch.linalg.solve_triangular(x, x, upper=False), "row by row"),
    ],
)
def test_what_has_no_words_is_refused_with_what_is_possible(fn, said) -> None:
    with pytest.raises(CascadeError, match=said):
        from_torch(fn, torch.randn(4, 4))
