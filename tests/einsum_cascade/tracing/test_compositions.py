"""Random compositions of PyTorch operations: traced, evaluated, and held against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade import evaluate, parse
from einsum_cascade.tracing.tracer import trace

torch = pytest.importorskip("torch")
F = torch.nn.functional

# Maps of a matrix of N rows and columns on one of the same shape, so that any of them may follow any other and every
# result may meet every earlier one: dimensions are joined, and walked twice, in all ways.
SIDE = 3
STEPS = {
    "transpose": lambda x, y, d: x.transpose(0, -1),
    "flip": lambda x, y, d: x.flip(d),
    "roll": lambda x, y, d: x.roll(1, d),
    "sort": lambda x, y, d: x.sort(d).values,
    "order": lambda x, y, d: y.gather(d, x.argsort(d)),
    "largest": lambda x, y, d: y * x.max(d, keepdim=True)[1],
    "running": lambda x, y, d: x.cumsum(d),
    "extremes": lambda x, y, d: x.cummax(d).values,
    "softmax": lambda x, y, d: x.softmax(d),
    "causal": lambda x, y, d: x.masked_fill(torch.ones(SIDE, SIDE).triu(1).bool(), -torch.inf).softmax(d),
    "selected": lambda x, y, d: torch.where(x > y, x, 0.5 * y),
    "product": lambda x, y, d: x @ y,
    "beside": lambda x, y, d: x * y - x,
    "normed": lambda x, y, d: F.layer_norm(x, (SIDE,)) + y,
    "circle": lambda x, y, d: F.pad(x[None], (2, 0), mode="circular")[0, :, :SIDE],
    "padded": lambda x, y, d: F.pad(x, (1, -1)) + y,
    "joined": lambda x, y, d: torch.cat([x, y], d).chunk(2, d)[1] + torch.stack([x, y], d).select(d, 0),
    "mean": lambda x, y, d: x - x.mean(d, keepdim=True),
    "written": lambda x, y, d: _written(x, y, d),
    "windows": lambda x, y, d: F.pad(x, (1, 1)).unfold(-1, 3, 1).amax(-1) + y,
    "attention": lambda x, y, d: F.scaled_dot_product_attention(x, y, y, is_causal=d == 0),
    "fold": lambda x, y, d: x.reshape(-1).view(SIDE, SIDE).mT.reshape(1, -1).expand(2, -1)[1].view_as(x),
}


def _written(x, y, d):
    out = x.clone()
    out.select(d, 0).add_(1)
    out[..., 1:] *= y[..., :1]
    return out


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.sampled_from([0, 1, -1]), st.integers(0, 9)),
        min_size=2,
        max_size=4,
    ),
    st.integers(0, 2**31),
)
def test_any_operations_after_each_other(steps: list[tuple[str, int, int]], seed: int) -> None:
    def composed(a, b):
        made = [a, b]
        for name, dim, other in steps:
            made.append(STEPS[name](made[-1], made[other % len(made)], dim))
        return made[-1]

    made = torch.Generator().manual_seed(seed)
    args = [torch.randn(SIDE, SIDE, dtype=torch.float64, generator=made) for _ in range(2)]
    wanted = composed(*args).numpy()
    cascade, sizes, _ = trace(composed, *args)
    assert parse(str(cascade)) == cascade
    given_arrays = {"A": args[0].numpy(), "B": args[1].numpy()}
    inputs = {s.tensor: given_arrays[s.tensor] for s in cascade.inputs}
    (found,) = evaluate(cascade, sizes, inputs).values()
    # 1e-9: the same float64 operations in another order, a few after each other
    np.testing.assert_allclose(found, wanted, atol=1e-9, rtol=1e-9)
