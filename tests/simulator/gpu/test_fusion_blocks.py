"""Blocks and parts of a kernel run one by one, as masks of the text itself, against the text run whole.

A block, or a part of a sum, is what is left of the Einsums of a kernel when each of them keeps to its own coordinates.
What they need of the same kernel and have not made themselves is missing then, and what comes out is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from fused import structures
from hypothesis import given, settings
from strategies import Use, uses

from einsum_cascade import parse, zoo
from einsum_cascade.analysis.points import known_sizes
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate, rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.evaluator import points
from einsum_cascade.expr import Apply, Compare, Num, Var
from einsum_cascade.ops import REDUCTION
from simulator.gpu.fusion.structure import Structure

Span = tuple[int, int]
Values = dict[str, np.ndarray]


def kept_to(einsum: Einsum, spans: Mapping[str, Span]) -> Einsum:
    """Return an Einsum that keeps to spans of its variables."""
    where = einsum.where
    for v, (low, high) in spans.items():
        if v in einsum.variables:
            within = Compare(("<=", "<"), (Num(low), Var(v), Num(high)))
            where = within if where is None else Apply("and", (where, within))
    return replace(einsum, where=where)


def run(cascade: Cascade, kernel: Structure, spans: Mapping[str, Span], sizes, inputs) -> Values:
    """Return what a kernel makes, missing points as nan, when its Einsums keep to spans."""
    names = {e.name for e in kernel.einsums}

    def kept(einsum: Einsum) -> Einsum:
        return kept_to(einsum, spans) if einsum.name in names else einsum

    body = [
        replace(item, einsums=tuple(map(kept, item.einsums))) if isinstance(item, Iterate) else kept(item)
        for item in cascade.body
    ]
    made = points(replace(cascade, body=tuple(body)), sizes, inputs)
    there = {n: True if made[n].present is None else made[n].present for n in names}
    return {n: np.where(there[n], made[n].values, np.nan) for n in names}


def halves(size: int, count: int = 2) -> list[Span]:
    """Return a range in parts, as even as they come."""
    cuts = [size * i // count for i in range(count + 1)]
    return [(a, b) for a, b in itertools.pairwise(cuts) if a < b]


def same(found: np.ndarray, whole: np.ndarray) -> bool:
    """Tell whether values agree, and miss the same points."""
    return np.allclose(found, whole, rtol=1e-9, atol=1e-12, equal_nan=True)


def axes_of(einsum: Einsum, variable: str) -> list[int]:
    """Return the axes of a result that a variable runs along."""
    return [i for i, index in enumerate(einsum.target.indices) if index == Var(variable)]


def check_blocks(cascade: Cascade, kernel: Structure, sizes, inputs) -> None:
    """Each block alone, with tiles of half a rank, makes its own part of what the whole text makes."""
    whole = run(cascade, kernel, {}, sizes, inputs)
    tiles = [[(v, s) for s in halves(sizes[rank_of(v)])] for v in kernel.blocks]
    for block in itertools.product(*tiles):
        made = run(cascade, kernel, dict(block), sizes, inputs)
        for einsum in kernel.einsums:
            own: list = [slice(None)] * len(einsum.target.indices)
            for v, (low, high) in block:
                for axis in axes_of(einsum, v):
                    own[axis] = slice(low, high)
            assert same(made[einsum.name][tuple(own)], whole[einsum.name][tuple(own)]), (einsum.name, block)


COMBINED = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "logsumexp": np.logaddexp,
}


def check_parts(cascade: Cascade, kernel: Structure, sizes, inputs) -> None:
    """Parts of what a kernel walks along, put together by the last reduction of each sum, are what the text makes."""
    if not kernel.parted:
        return
    whole = run(cascade, kernel, {}, sizes, inputs)
    spans = halves(sizes[rank_of(kernel.parted)], 3)
    parts = [run(cascade, kernel, {kernel.parted: s}, sizes, inputs) for s in spans]
    for einsum in kernel.einsums:
        made = [p[einsum.name] for p in parts]
        axes = axes_of(einsum, kernel.parted)
        if kernel.parted in einsum.reduced:
            op = einsum.all_reductions[-1].op
            nothing = np.isnan(made).all(axis=0)
            terms = [np.where(np.isnan(m), REDUCTION[op].identity, m) for m in made]
            found = np.where(nothing, np.nan, COMBINED[op].reduce(terms))
            assert same(found, whole[einsum.name]), einsum.name
        elif axes:
            for (low, high), part in zip(spans, made, strict=True):
                own = tuple(slice(low, high) if i in axes else slice(None) for i in range(part.ndim))
                assert same(part[own], whole[einsum.name][own]), einsum.name
        else:
            assert all(same(m, whole[einsum.name]) for m in made), einsum.name


def some_inputs(cascade: Cascade, sizes: dict[str, int]) -> Values:
    """Return numbers for the inputs of a cascade; one or two, that may be places too."""
    numbers = np.random.default_rng(11)
    return {
        s.tensor: numbers.integers(1, 3, [sizes[r] for r in s.ranks]).astype(float) for s in cascade.inputs
    }


@pytest.mark.parametrize("name", zoo.names())
def test_blocks_and_parts_of_the_zoo_make_what_the_text_makes(name: str) -> None:
    cascade = zoo.load(name)
    sizes = known_sizes(cascade, dict.fromkeys(cascade.free_ranks, 3))
    inputs = some_inputs(cascade, sizes)
    for kernel in structures(cascade):
        check_parts(cascade, kernel, sizes, inputs)
        check_blocks(cascade, kernel, sizes, inputs)


BEGUN = "S[0, p] = {}\niterate t {{\n  S[t + 1, p] = S[t, p] + X[t, p] * U[p]\n}}\nZ[p] = S[T, p]\n"
TEXTS = {
    "begins with another place": "U[p] = Y[p] * 2\n" + BEGUN.format("U[P - 1 - p]"),
    "begins with one place": "U[p] = Y[p] * 2\n" + BEGUN.format("U[0]"),
    "begins with its own": "U[p] = Y[p] * 2\n" + BEGUN.format("U[p]"),
    "two reductions": "U[t, p] = X[t, p] + Y[p]\nZ[p] = U[t, p] * W[q, t] :: max(q) :: sum(t)\n",
    "two at once": "U[t, p] = X[t, p] + Y[p]\nZ[p] = U[t, p] * W[q, t] :: prod(q, t)\n",
    "kept along the parts": "U[t, p] = X[t, p] + Y[p]\nZ[p] = exp(0 - U[t, p]) * U[t, p] :: min(t) where t <= p\n",
    "a factor of the sum": "U[p] = Y[p] * 2\nZ[p] = X[t, p] * U[p] :: sum(t)\n",
    "logarithms": "U[p] = Y[p] * 2\nZ[p] = X[t, p] - U[p] :: logsumexp(t) where t != p\n",
    "read at once": "U[p] = X[t, p] :: sum(t)\nZ[p] = 1 / U[p]\n",
    "read after": "U[p] = X[t, p] :: sum(t)\nZ[p] = X[t, p] - U[p] :: max(t)\n",
}


@pytest.mark.parametrize("body", TEXTS.values(), ids=TEXTS)
def test_blocks_and_parts_of_what_people_write(body: str) -> None:
    cascade = parse(f"cascade c\nrank P Q T\ninput X[T, P] Y[P] W[Q, T]\noutput Z[P]\n{body}")
    sizes = {"P": 4, "Q": 2, "T": 5}
    numbers = np.random.default_rng(7)
    inputs = {s.tensor: numbers.uniform(0.5, 2, [sizes[r] for r in s.ranks]) for s in cascade.inputs}
    for kernel in structures(cascade):
        check_parts(cascade, kernel, sizes, inputs)
        check_blocks(cascade, kernel, sizes, inputs)


@settings(max_examples=60, deadline=None)
@given(use=uses())
def test_blocks_and_parts_of_a_random_cascade_make_what_it_makes(use: Use) -> None:
    sizes = known_sizes(use.cascade, use.sizes)
    for kernel in structures(use.cascade):
        check_parts(use.cascade, kernel, sizes, use.inputs)
        check_blocks(use.cascade, kernel, sizes, use.inputs)
