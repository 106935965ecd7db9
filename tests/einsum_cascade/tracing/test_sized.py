"""Numbers that follow from sizes: a traced function holds at sizes that it was not traced with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from einsum_cascade import evaluate, from_torch, parse, render, trace
from einsum_cascade.sizes import size_value
from einsum_cascade.tracing.laws import law

torch = pytest.importorskip("torch")
Tensor = Any


def scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def scaled_by_power(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def aligned_at_the_end(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, m = q.shape[0], k.shape[0]
    hidden = ~torch.ones(n, m, dtype=torch.bool).tril(m - n)
    return (q @ k.mT).masked_fill(hidden, -math.inf).softmax(-1) @ v


def biased_by_distance(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    places = torch.arange(q.shape[0])
    return (q @ k.mT - (places[:, None] - places).abs() / q.shape[0]).softmax(-1) @ v


def entropy_scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT * (math.log(k.shape[0]) / math.sqrt(q.shape[1]))).softmax(-1) @ v


def rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    table = torch.outer(torch.arange(x.shape[0]), 0.1 ** (torch.arange(half) / half))
    a, b = x[:, :half], x[:, half:]
    return torch.cat([a * table.cos() - b * table.sin(), a * table.sin() + b * table.cos()], -1)


def averaged(x: Tensor) -> Tensor:
    return x.sum((0, 1)) / (x.shape[0] * x.shape[1])


def in_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, c = q.shape
    q, k, v = (x.view(-1, 2, c // 2).transpose(0, 1) for x in (q, k, v))
    out = (q @ k.mT / math.sqrt(c // 2)).softmax(-1) @ v
    return out.transpose(0, 1).reshape(n, c)


# Function, shapes of the example, shapes to hold it at.
CASES: list[tuple[Callable[..., Tensor], list[tuple[int, ...]], list[tuple[int, ...]]]] = [
    (scaled, [(5, 8), (7, 8), (7, 6)], [(4, 3), (9, 3), (9, 2)]),
    (scaled, [(4, 4), (4, 4), (4, 4)], [(3, 5), (7, 5), (7, 2)]),
    (scaled_by_power, [(5, 8), (7, 8), (7, 6)], [(4, 3), (9, 3), (9, 2)]),
    (aligned_at_the_end, [(3, 4), (5, 4), (5, 2)], [(4, 3), (11, 3), (11, 5)]),
    (biased_by_distance, [(6, 4), (6, 4), (6, 2)], [(9, 5), (9, 5), (9, 3)]),
    (entropy_scaled, [(5, 8), (7, 8), (7, 6)], [(4, 3), (9, 3), (9, 2)]),
    (rotated, [(5, 8)], [(3, 12)]),
    (averaged, [(3, 4, 2)], [(5, 2, 7)]),
    (in_heads, [(5, 12), (5, 12), (5, 12)], [(4, 6), (4, 6), (4, 6)]),
]


@pytest.mark.parametrize(("fn", "shapes", "others"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_function_holds_at_other_sizes(
    fn: Callable[..., Tensor], shapes: list[tuple[int, ...]], others: list[tuple[int, ...]]
) -> None:
    cascade, sizes, _ = trace(fn, *(torch.ones(s) for s in shapes))
    made = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=made, dtype=torch.float64) for s in others]
    arrays = {s.tensor: x.numpy() for s, x in zip(cascade.inputs, tensors, strict=True)}
    known = {r: n for s in cascade.inputs for r, n in zip(s.ranks, arrays[s.tensor].shape, strict=True)}
    heads = {r: sizes[r] for parts in cascade.splits.values() for r in parts[:1]}
    (found,) = evaluate(cascade, known | heads, arrays).values()
    # PyTorch keeps tables of whole numbers that are divided in float32, of seven digits
    np.testing.assert_allclose(found, fn(*tensors).numpy(), rtol=1e-5, atol=1e-6)
    assert parse(render(cascade)) == cascade


@pytest.mark.parametrize(
    ("fn", "shapes", "written"),
    [
        (scaled, [(4, 8), (4, 8), (4, 8)], "/ sqrt(E)"),
        (scaled_by_power, [(4, 8), (4, 8), (4, 8)], "/ sqrt(E)"),
        (aligned_at_the_end, [(3, 4), (5, 4), (5, 2)], "where m <= p + M - P"),
        (entropy_scaled, [(5, 8), (7, 8), (7, 6)], "* (log(M) / sqrt(E))"),
        (averaged, [(3, 4, 2)], "/ (N*D)"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_size_is_written_as_one(
    fn: Callable[..., Tensor], shapes: list[tuple[int, ...]], written: str
) -> None:
    assert written in render(from_torch(fn, *(torch.ones(s) for s in shapes)))


def test_a_number_of_the_function_stays() -> None:
    def fn(q: Tensor, k: Tensor) -> Tensor:
        return torch.relu(q @ k.mT / 8.0 + 0.5)

    assert "/ 8" in render(from_torch(fn, torch.ones(4, 64), torch.ones(6, 64)))


def test_one_tensor_given_three_times_is_three_inputs() -> None:
    x = torch.ones(4, 8)
    cascade = from_torch(scaled, x, x, x)
    assert {a.tensor for e in cascade.einsums for a in e.reads} >= {"Q", "K", "V"}


def test_the_summary_tells_along_what_a_loop_runs() -> None:
    def decayed(x: Tensor) -> Tensor:
        state = x[0]
        for t in range(1, x.shape[0]):
            state = torch.tanh(state) + x[t]
        return state

    assert "A loop has the steps of this size of N alone." in from_torch(decayed, torch.ones(6, 3)).summary
    assert "A loop" not in from_torch(scaled, *(torch.ones(4, 8),) * 3).summary


def test_what_a_function_prints_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        print("read")
        return scaled(q, k, v)

    from_torch(fn, torch.ones(4, 8), torch.ones(4, 8), torch.ones(4, 8))
    assert capsys.readouterr().out == "read\n"


SIZES = [
    {"E": 6, "P": 5, "M": 9},
    {"E": 12, "P": 15, "M": 18},
    {"E": 18, "P": 10, "M": 18},
    {"E": 12, "P": 10, "M": 27},
]
BEYOND = {"E": 20, "P": 33, "M": 64}


@given(
    which=st.sampled_from(["linear", "power", "logarithm", "difference", "part", "product"]),
    ranks=st.permutations(["E", "P", "M"]),
    a=st.integers(1, 4),
    b=st.integers(-3, 7),
    p=st.sampled_from([-2, -1, -0.5, -0.25, 0.25, 0.5, 1, 2]),
    c=st.sampled_from([0.5, 1.0, 1.7, 10.0]),
)
def test_a_law_holds_beyond_the_sizes_it_was_found_at(
    which: str, ranks: list[str], a: int, b: int, p: float, c: float
) -> None:
    r, t = ranks[:2]

    def value(s: dict[str, int]) -> float:
        return {
            "linear": lambda: a * s[r] + b,
            "power": lambda: c * s[r] ** p + 0.0,
            "logarithm": lambda: c * math.log(s[r]) * s[r] ** min(p, 1),
            "difference": lambda: s[r] - s[t] + b,
            "part": lambda: s[r] // (a + 1),
            "product": lambda: float(s[r]) ** p * float(s[t]) ** -0.5,
        }[which]()

    values = [value(s) for s in SIZES]
    found = law(values, SIZES)
    assert found is not None or 0 in values
    if found is not None:
        names = "".join(f" {x}" for x in ranks)
        anything = parse(f"cascade any\nrank{names}\ninput X[E, P, M]\noutput Y[E]\nY[e] = X[e, p, m]\n")
        # twelve digits are asked of a law, of which a power or two take one
        assert math.isclose(size_value(found, anything, BEYOND), value(BEYOND), rel_tol=1e-10)


def test_numbers_without_a_law_are_left_alone() -> None:
    assert law([4, 8, 9, 31], SIZES) is None
    assert law([0.3, 0.7, 0.11, 0.5], SIZES) is None
