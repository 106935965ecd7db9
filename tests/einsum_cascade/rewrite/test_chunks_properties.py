"""Random recurrences are the same in chunks of any shape, by the evaluator's own walk step by step."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_recurrences import recurrences

from einsum_cascade import evaluate, in_chunks, parse, random_inputs, render
from einsum_cascade.sizes import resolve


@settings(deadline=None, max_examples=40)
@given(
    text=recurrences(),
    shape=st.sampled_from(((1, 5), (5, 1), (3, 4), (2, 8))),
    torn=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_random_recurrence_is_the_same_in_chunks(
    text: str, shape: tuple[int, int], torn: bool, seed: int
) -> None:
    cascade = parse(text)
    chunks, steps = shape
    found = in_chunks(cascade, size=steps, apart=torn).cascade
    assert parse(render(found)) == found
    sizes = {"E": 2, "F": 3, "T": chunks * steps}
    inputs = random_inputs(cascade, resolve(cascade, sizes), seed=seed)
    left = evaluate(cascade, sizes, inputs)
    right = evaluate(found, resolve(found, {"E": 2, "F": 3, "T1": chunks}), inputs)
    for name, mine in left.items():
        # Sixteen steps that double what they hold leave eleven of sixteen digits to sums in another order.
        np.testing.assert_allclose(
            right[name].reshape(mine.shape), mine, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(mine).max())
        )
