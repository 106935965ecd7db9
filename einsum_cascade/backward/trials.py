"""Small sizes at which a cascade is tried, and its gradient held against differences of its outputs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from ..cascade import Cascade
from ..declarations import Iterate, rank_of
from ..errors import CascadeError
from ..evaluator import compared, evaluate, random_inputs
from ..expr import accesses
from ..rewrite.equality import GROWTH, trial_sizes
from ..sizes import SEQUENCE_RANKS, resolve

# Half the step of a central difference: its error is some 1e-10 of the function by curvature, 1e-11 by rounding.
_STEP = 1e-5
# A thousand times that: curvature may be large where a softmax is sharp. A term left out is off by far more.
_TOLERANCE = 1e-6
# A kink (a relu) that lies within a step of a random input is met about once in 1e4 elements; then most others agree.
_SEEDS = (0, 1, 2)
_ENOUGH = 2
# What inputs are scaled by, one after the other, where the numbers grow so large that differences have no digits.
_SCALES = (1.0, 1 / 4, 1 / 16)
# Steps of a recurrence whose numbers grow at any scale, as exp(exp(exp(...))) does.
_FEW = 3
# Elements that a short rank has at the most, and how many sets of such sizes are tried.
_SHORT, _DRAWS = 4, 8
# A difference tells where others, of a step four times and a quarter of it, are as far off but for a tenth: its own
# error would become 16 or 4 times as large, and smaller.
_OTHER_STEPS = (4.0, 1 / 4)
_STEADY = 0.1


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


@dataclass(frozen=True)
class _Trial:
    """A gradient to hold against differences of the outputs; `given` and `wrt` as in `hold`."""

    cascade: Cascade
    gradient: Cascade
    given: Mapping[str, str]
    wrt: Mapping[str, str]


def hold(
    cascade: Cascade, gradient: Cascade, given: Mapping[str, str], wrt: Mapping[str, str]
) -> bool | None:
    """Tell whether a gradient is that of a cascade, or None where nothing was found at which it can be told.

    Along random directions, how fast the outputs change (by central differences) has to be what the gradient says.
    Where the numbers are so large that differences have no digits, smaller inputs are tried, and then fewer steps.

    Args:
        given: of each output the input of the gradient that holds the gradient of it.
        wrt: of each input the output of the gradient that holds the gradient to it, or nothing where that is 0.
    """
    trial = _Trial(cascade, gradient, given, wrt)
    groups = chain(trial_sizes_of(cascade), _of_few_steps(cascade))
    for group in groups:
        try:
            told = [_told_at(trial, sizes) for sizes in group]
        except CascadeError:
            continue
        if any(t is not None for t in told):
            return all(t is not False for t in (*told, *_told_at_small_sizes(trial)))
    return None


def _told_at_small_sizes(trial: _Trial) -> Iterator[bool | None]:
    """Yield whether a gradient holds where ranks have some few elements, as far as the cascade can be used there.

    Where `e > 1` and `e < E - 1` leave nothing of a state, nothing flows through it.
    """
    ranks = list(trial.cascade.free_ranks)
    drawn = np.random.default_rng(0).integers(1, _SHORT + 1, (_DRAWS, len(ranks)))
    for sizes in drawn.tolist():
        with contextlib.suppress(CascadeError):
            known = resolve(trial.cascade, dict(zip(ranks, sizes, strict=True)))
            agreed = [_agrees(trial, known, seed, 1.0, empty=True) for seed in _SEEDS[:1]]
            # A kink is met now and then: what one input denies, two others have to deny too.
            yield False not in agreed or _told_at(trial, known, empty=True)


def _of_few_steps(cascade: Cascade) -> Iterator[list[dict[str, int]]]:
    """Yield the smallest sizes of a cascade with few steps of its blocks."""
    steps = {rank_of(i.variable) for i in cascade.body if isinstance(i, Iterate)}
    steps = {cascade.aliases.get(r, r) for r in steps} & set(cascade.free_ranks)
    for sizes in next(trial_sizes_of(cascade), [])[:1] if steps else []:
        free = {r: n for r, n in sizes.items() if r in cascade.free_ranks}
        yield [resolve(cascade, free | {r: min(_FEW, free[r]) for r in steps if r in free})]


def _told_at(trial: _Trial, sizes: Mapping[str, int], *, empty: bool = False) -> bool | None:
    """Tell whether a gradient holds at some sizes, by the largest inputs that say so, or None where none do.

    Args:
        empty: outputs of nothing but zeros, or without any element, tell as well: no gradient comes of them.
    """
    for scale in _SCALES:
        agreed = [_agrees(trial, sizes, seed, scale, empty=empty) for seed in _SEEDS]
        told = [a for a in agreed if a is not None]
        if told:
            return sum(told) >= min(_ENOUGH, len(told))
    return None


def _agrees(
    trial: _Trial, sizes: Mapping[str, int], seed: int, scale: float, *, empty: bool = False
) -> bool | None:
    cascade = trial.cascade
    inputs = _scaled(cascade, random_inputs(cascade, sizes, seed=seed), scale)
    outputs = seen(cascade, evaluate(cascade, sizes, inputs))
    rng = np.random.default_rng(seed + 100)
    weights = {t: np.where(np.isfinite(x), rng.standard_normal(x.shape), 0.0) for t, x in outputs.items()}
    if not empty and not any(w.any() and outputs[t].any() for t, w in weights.items()):
        return None
    found = _computed(trial, sizes, inputs, weights)
    agreed: list[bool | None] = []
    for tensor, name in trial.wrt.items():
        way = rng.standard_normal(np.shape(inputs[tensor]))
        along = found[name] * way if name else np.zeros(1)
        slope = partial(_slope, cascade, sizes, inputs, weights, tensor, way)
        agreed.append(_is_slope(along, slope, last=scale == _SCALES[-1]))
    return False if False in agreed else None if None in agreed else True


def _computed(
    trial: _Trial, sizes: Mapping[str, int], inputs: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the gradient gives for outputs that are weighed."""
    asked = {**inputs, **{trial.given[t]: w for t, w in weights.items() if t in trial.given}}
    needed = {s.tensor for s in trial.gradient.inputs}
    known = {r: n for r, n in sizes.items() if r in trial.gradient.rank_names}
    return evaluate(trial.gradient, known, {t: x for t, x in asked.items() if t in needed})


def _scaled(cascade: Cascade, inputs: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Return smaller inputs; those that name places, or are asked what they equal, stay as they are."""
    kept = set(compared(cascade))
    for einsum, _ in cascade.statements:
        kept |= {a.tensor for read in einsum.reads for i in read.indices for a in accesses(i)}
    return {t: x if t in kept else scale * x for t, x in inputs.items()}


def _slope(
    cascade: Cascade,
    sizes: Mapping[str, int],
    inputs: Mapping[str, Any],
    weights: Mapping[str, Any],
    tensor: str,
    way: Any,
    step: float,
) -> float:
    """Return how fast the weighed outputs change along a direction of an input."""
    up, down = (
        seen(cascade, evaluate(cascade, sizes, {**inputs, tensor: inputs[tensor] + much * way}))
        for much in (step, -step)
    )
    # Difference by difference: an output that the input does not move may be large, and its rounding with it.
    return sum(float(np.sum(_apart(up[t], down[t], w) * w)) for t, w in weights.items()) / (2 * step)


def _is_slope(along: Any, slope: Callable[[float], float], *, last: bool) -> bool | None:
    """Tell whether the products with a gradient add up to a slope, or None where the slope cannot be told.

    Args:
        last: that no smaller inputs will be tried, at which a gradient that overflows might not.
    """
    told, found = float(np.sum(along)), slope(_STEP)
    if not math.isfinite(found):
        return None
    if not math.isfinite(told):
        return False if last else None
    apart = abs(found - told)
    if apart <= _TOLERANCE * (1.0 + abs(found) + float(np.sum(np.abs(along)))):
        return True
    others = (slope(much * _STEP) for much in _OTHER_STEPS)
    return False if all(abs(other - found) <= _STEADY * apart for other in others) else None


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
