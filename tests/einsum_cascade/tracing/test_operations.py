"""Operations one by one: equal to PyTorch, also those that torch says by others; or refused by their own name."""

from __future__ import annotations

import linecache

import numpy as np
import pytest

from einsum_cascade import CascadeError, evaluate, from_torch, parse
from einsum_cascade.tracing.decomposed import decomposed
from einsum_cascade.tracing.tracer import trace

torch = pytest.importorskip("torch")
from torch_operations import REFUSED, SAID  # noqa: E402 (it imports torch)


def matrices():
    made = torch.Generator().manual_seed(4)
    return [torch.randn(4, 5, dtype=torch.float64, generator=made) for _ in range(2)]


@pytest.mark.parametrize("name", SAID)
def test_it_is_equal(name: str) -> None:
    args = matrices()
    cascade, sizes, _ = trace(SAID[name], *args)
    assert parse(str(cascade)) == cascade
    inputs = {s.tensor: x.numpy() for s, x in zip(cascade.inputs, args, strict=True)}
    found, wanted = evaluate(cascade, sizes, inputs), SAID[name](*args)
    for s, w in zip(cascade.outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        # 1e-10: the same float64 operations in another order
        np.testing.assert_allclose(found[s.tensor], w.numpy(), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_its_own_name_and_line(name: str) -> None:
    fn, said = REFUSED[name]
    with pytest.raises(CascadeError, match=said) as error:
        from_torch(fn, *matrices())
    file, line, text = str(error.value).split(":", 2)
    assert text.partition("\n")[0].strip() == linecache.getline(file, int(line)).strip()
    assert str(error.value).count(file) == 1


def test_what_torch_says_by_writing_is_not_taken_for_what_stood_there_before() -> None:
    """Found by a fuzzer: torch pads in a circle by writes into parts of an empty tensor, and zeros had been traced."""
    exported = torch.export.export(Padded(), (torch.randn(1, 2, 3),)).graph
    node = next(n for n in exported.nodes if n.op == "call_function")
    assert decomposed(node, (), lambda target: str(target)) is None


class Padded(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.pad(x, (1, 1), mode="circular")
