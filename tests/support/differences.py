"""Gradients held against differences of the outputs, element by element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from einsum_cascade import evaluate, gradients, parse, random_inputs
from einsum_cascade.backward.gradients import Gradients
from einsum_cascade.backward.trials import seen
from einsum_cascade.cascade import Cascade
from einsum_cascade.evaluator import sizes_of_use

Sizes = Mapping[str, int]
Arrays = Mapping[str, Any]
# Half a step of 1e-6: rounding of the outputs leaves some 1e-9, curvature 1e-12 of them.
STEP = 1e-6
TOLERANCE = 1e-6


def numerical(
    cascade: Cascade,
    sizes: Mapping[str, int],
    inputs: Mapping[str, Any],
    weights: Mapping[str, Any],
    tensor: str,
) -> Any:
    """Return the gradient to an input, element by element, from differences of the outputs."""
    found = np.zeros(np.shape(inputs[tensor]))
    for place in np.ndindex(found.shape):
        ends = []
        for sign in (1, -1):
            moved = np.array(inputs[tensor], dtype=float)
            moved[place] += sign * STEP
            outputs = seen(cascade, evaluate(cascade, sizes, {**inputs, tensor: moved}))
            ends.append(sum(float(np.sum(outputs[t] * w)) for t, w in weights.items()))
        found[place] = (ends[0] - ends[1]) / (2 * STEP)
    return found


def drawn(cascade: Cascade, sizes: Mapping[str, int], seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return random inputs, and what the outputs are weighed with."""
    inputs = random_inputs(cascade, sizes, seed=seed)
    rng = np.random.default_rng(seed + 7)
    outputs = seen(cascade, evaluate(cascade, sizes, inputs))
    return inputs, {t: rng.standard_normal(x.shape) for t, x in outputs.items()}


def computed(
    found: Gradients, sizes: Mapping[str, int], inputs: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the gradient to each input."""
    given = {**inputs, **{found.given[t]: w for t, w in weights.items()}}
    needed = {s.tensor: given[s.tensor] for s in found.cascade.inputs}
    outputs = evaluate(
        found.cascade, {r: n for r, n in sizes.items() if r in found.cascade.rank_names}, needed
    )
    return {t: outputs[d] for t, d in found.wrt.items()}


def check(text: str, sizes: str, *, wrt: list[str] | None = None, seed: int = 0) -> Gradients:
    """Hold the gradients of a text against differences, element by element."""
    cascade = parse(text)
    found = gradients(cascade, wrt)
    known = sizes_of_use(cascade, sizes)
    inputs, weights = drawn(cascade, known, seed)
    for tensor, got in computed(found, known, inputs, weights).items():
        want = numerical(cascade, known, inputs, weights, tensor)
        assert np.allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE), (tensor, got, want)
    return found
