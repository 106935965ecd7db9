"""Small sizes at which a cascade is tried, and its gradient held against differences of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..cascade import Cascade
from ..declarations import rank_of
from ..errors import CascadeError
from ..evaluator import evaluate, random_inputs
from ..rewrite.equality import GROWTH, trial_sizes
from ..sizes import SEQUENCE_RANKS

# Half the step of a central difference: its error is some 1e-10 of the function by curvature, 1e-11 by rounding.
_STEP = 1e-5
# A thousand times that: curvature may be large where a softmax is sharp. A term left out is off by far more.
_TOLERANCE = 1e-6
# A kink (a relu) that lies within a step of a random input is met about once in 1e4 elements; then most others agree.
_SEEDS = (0, 1, 2)
_ENOUGH = 2


def trial_sizes_of(cascade: Cascade) -> Iterator[list[dict[str, int]]]:
    """Yield small sizes of every rank, growing: a text may need larger ones to compute anything.

    Of each pair the second has queries beyond the last key, which masks and windows may leave without any.
    """
    for times in GROWTH:
        try:
            yield [mine for mine, _ in trial_sizes(cascade, cascade, _walked(cascade), times=times)]
        except CascadeError:
            continue


def _walked(cascade: Cascade) -> str:
    """Return the rank of which there are several sizes: one that is reduced, as keys are, or any."""
    reduced = {rank_of(v) for e in cascade.einsums for v in e.reduced}
    free = [r for r in cascade.rank_names if r in cascade.free_ranks or r in cascade.splits]
    keys = [r for r in SEQUENCE_RANKS if r in free and r in reduced]
    return (keys or free or list(cascade.rank_names))[0]


def hold(
    cascade: Cascade, gradient: Cascade, given: Mapping[str, str], wrt: Mapping[str, str]
) -> bool | None:
    """Tell whether a gradient is that of a cascade, or None where no sizes were found at which it can be told.

    Along random directions, how fast the outputs change (by central differences) has to be what the gradient says.

    Args:
        given: of each output the input of the gradient that holds the gradient of it.
        wrt: of each input the output of the gradient that holds the gradient to it, or nothing where that is 0.
    """
    for group in trial_sizes_of(cascade):
        try:
            told = [_told(partial(_agrees, cascade, gradient, given, wrt, sizes)) for sizes in group]
        except CascadeError:
            continue
        if any(t is not None for t in told):
            return all(t is not False for t in told)
    return None


def _told(agrees: Callable[[int], bool | None]) -> bool | None:
    """Tell whether a gradient holds at some sizes, seed by seed, or None where the outputs say nothing there."""
    agreed = [agrees(seed) for seed in _SEEDS]
    told = [a for a in agreed if a is not None]
    return sum(told) >= min(_ENOUGH, len(told)) if told else None


def _agrees(
    cascade: Cascade,
    gradient: Cascade,
    given: Mapping[str, str],
    wrt: Mapping[str, str],
    sizes: Mapping[str, int],
    seed: int,
) -> bool | None:
    inputs = random_inputs(cascade, sizes, seed=seed)
    outputs = seen(cascade, evaluate(cascade, sizes, inputs))
    rng = np.random.default_rng(seed + 100)
    weights = {t: np.where(np.isfinite(x), rng.standard_normal(x.shape), 0.0) for t, x in outputs.items()}
    if not any(w.any() and outputs[t].any() for t, w in weights.items()):
        return None
    asked = {**inputs, **{given[t]: w for t, w in weights.items() if t in given}}
    needed = {s.tensor for s in gradient.inputs}
    known = {r: n for r, n in sizes.items() if r in gradient.rank_names}
    found = evaluate(gradient, known, {t: x for t, x in asked.items() if t in needed})
    for tensor, name in wrt.items():
        way = rng.standard_normal(np.shape(inputs[tensor]))
        up, down = (
            seen(cascade, evaluate(cascade, sizes, {**inputs, tensor: inputs[tensor] + step * way}))
            for step in (_STEP, -_STEP)
        )
        # Difference by difference: an output that the input does not move may be large, and its rounding with it.
        slope = sum(float(np.sum(_apart(up[t], down[t], w) * w)) for t, w in weights.items()) / (2 * _STEP)
        along = found[name] * way if name else np.zeros(1)
        told = float(np.sum(along))
        scale = 1.0 + abs(slope) + float(np.sum(np.abs(along)))
        if not abs(slope - told) <= _TOLERANCE * scale:
            return False
    return True


def seen(cascade: Cascade, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return outputs as gradients are given for them: of a state every generation but the first value."""
    found = {}
    for t, x in outputs.items():
        state = cascade.signatures[t].state
        found[t] = x if state is None else np.take(x, range(1, x.shape[state]), axis=state)
    return found


def _apart(up: Any, down: Any, weights: Any) -> Any:
    """Return how far apart the elements of an output are, 0 where they are not weighed for they are not finite."""
    weighed = weights != 0
    return np.where(weighed, up, 0.0) - np.where(weighed, down, 0.0)
