"""Many functions as people write them: each evaluates equal, or is refused with the line that the language lacks."""

from __future__ import annotations

import linecache

import numpy as np
import pytest

from einsum_cascade import CascadeError, evaluate, from_torch, parse, parse_sizes, passes, reduce_passes
from einsum_cascade.tracing.tracer import trace

torch = pytest.importorskip("torch")
import torch_attentions  # noqa: E402 (it imports torch)
import torch_maps  # noqa: E402 (it imports torch)
import torch_sequences  # noqa: E402 (it imports torch)
import torch_written  # noqa: E402 (it imports torch)

SAID = torch_attentions.SAID + torch_maps.SAID + torch_sequences.SAID + torch_written.SAID
REFUSED = torch_attentions.REFUSED + torch_maps.REFUSED + torch_sequences.REFUSED + torch_written.REFUSED


def name_of(fn) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def arguments(shapes):
    made = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(s, dtype=torch.float64, generator=made) for s in shapes]


@pytest.mark.parametrize(("fn", "shapes"), SAID, ids=[name_of(fn) for fn, _ in SAID])
def test_what_is_said_is_equal(fn, shapes) -> None:
    """Of modules too: their parameters are among what is handed back."""
    fn = fn.eval() if isinstance(fn, torch.nn.Module) else fn
    args = arguments(shapes)
    cascade, sizes, inputs = trace(fn, *args)
    assert parse(str(cascade)) == cascade
    # What the summary says is enough to use the cascade as the example did, heads and all.
    told = cascade.summary.removeprefix("Traced from PyTorch at ").removesuffix(".")
    assert parse_sizes(told, cascade) == sizes
    found, wanted = evaluate(cascade, sizes, inputs), fn(*args)
    for s, w in zip(cascade.outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        # 1e-10: the same float64 operations in another order
        np.testing.assert_allclose(found[s.tensor], w.detach().numpy(), atol=1e-10, rtol=1e-10)


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch speaks of its own LSTM
@pytest.mark.parametrize(("fn", "shapes"), REFUSED, ids=[name_of(fn) for fn, _ in REFUSED])
def test_what_is_not_said_is_refused_with_its_line(fn, shapes) -> None:
    with pytest.raises(CascadeError) as error:
        from_torch(fn, *arguments(shapes))
    where, _, rest = str(error.value).partition(": ")
    file, _, line = where.rpartition(":")
    assert file.endswith(("torch_attentions.py", "torch_maps.py", "torch_sequences.py", "torch_written.py"))
    assert rest.startswith(linecache.getline(file, int(line)).strip())
    assert "the language" in rest
    # Another operation of a similar name is no help.
    assert "did you mean" not in rest


@pytest.mark.parametrize(
    "fn",
    [
        torch_attentions.eager_attention,
        torch_attentions.alibi,
        torch_attentions.sliding_window,
        torch_attentions.soft_capped,
        torch_attentions.sdpa_mask,
        torch_attentions.windows,
    ],
)
def test_softmax_in_them_comes_down_to_one_pass(fn) -> None:
    shapes = next(shapes for f, shapes in SAID if f is fn)
    cascade = from_torch(fn, *arguments(shapes))
    rank = next(s.ranks[-1] for s in cascade.inputs)
    top = next(e for e in cascade.einsums if any(r.op == "max" for r in e.reductions))
    rank = next(r for r in cascade.rank_names if r[0].lower() + r[1:] in top.reduced)
    assert passes(cascade, rank).count == 3
    assert reduce_passes(cascade, rank).after == 1


def test_there_are_many() -> None:
    assert len(SAID) >= 60


def test_what_torch_cannot_trace_is_refused_with_its_line() -> None:
    with pytest.raises(
        CascadeError, match=r"torch_written.py:\d+: return x if x.sum\(\) > 0 else -x\n  torch cannot"
    ):
        from_torch(torch_written.decided_by_data, torch.randn(3, 4))
