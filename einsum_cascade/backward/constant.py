"""Tensors through which no gradient comes, for the outputs do not change with them: the maximum of a softmax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..cascade import Cascade
from ..declarations import Signature, free_name, variable_of
from ..einsum import Einsum
from ..errors import CascadeError
from ..evaluator import difference, evaluate, random_inputs
from ..expr import Access, Apply, Num, Var, walk
from ..rolling.plain import with_each
from .trials import trial_sizes_of

# How far a reference is moved: less and more than the scores of random inputs lie apart; and, both ways, further than a
# larger of two values at random inputs hides the smaller. Shares about a reference that far off keep their digits.
_MOVES = (0.3, -2.0, 16.0, -16.0)
# Softmax about another reference gives the same but for rounding, some 1e-15 of the largest number.
_ALIKE = 1e-10
_KINKS = frozenset({"max", "min"})


def cancelling(cascade: Cascade, active: frozenset[str]) -> tuple[str, ...]:
    """Return the active tensors that take the largest of something and that the outputs do not change with.

    What is subtracted from every score of a softmax cancels; so it has no part in the gradient, although the scores
    move it. Told by moving it, by random amounts, at random inputs.
    """
    return tuple(e.name for e in _references(cascade, active) if _is_free(cascade, e))


def _references(cascade: Cascade, active: frozenset[str]) -> Iterator[Einsum]:
    """Yield the Einsums that single out an extreme, each in turn."""
    asked = {s.tensor for s in cascade.outputs}
    for einsum in cascade.einsums:
        reduces = einsum.all_reductions[:1] and einsum.all_reductions[0].op in (*_KINKS, "logsumexp")
        chooses = any(isinstance(n, Apply) and n.op in _KINKS for n in walk(einsum.value))
        if einsum.name in active - asked and (reduces or chooses):
            yield einsum


def _is_free(cascade: Cascade, einsum: Einsum) -> bool:
    moved, name = _moved(cascade, einsum)
    for group in trial_sizes_of(cascade):
        try:
            return all(_stays(cascade, moved, name, sizes) for sizes in group)
        except CascadeError:
            continue
    return False


def _stays(cascade: Cascade, moved: Cascade, name: str, sizes: dict[str, int]) -> bool:
    """Tell whether the outputs stay the same at random inputs, however another input moves a tensor."""
    inputs = random_inputs(cascade, sizes)
    before = evaluate(cascade, sizes, inputs)
    rng = np.random.default_rng(1)
    shape = tuple(sizes[r] for r in moved.inputs[-1].ranks)
    for much in _MOVES:
        after = evaluate(moved, sizes, {**inputs, name: much * rng.uniform(0.5, 1.5, shape)})
        if any(difference(after[t], before[t]) > _ALIKE for t in before):
            return False
    return True


def _first_moved(einsum: Einsum, by: Access, signature: Signature) -> Einsum:
    """Return the first value of a state moved too."""
    indices = tuple(Num(0) if k == signature.state else i for k, i in enumerate(by.indices))
    return replace(einsum, value=Apply("+", (einsum.value, Access(by.tensor, indices))))


def _moved(cascade: Cascade, einsum: Einsum) -> tuple[Cascade, str]:
    """Return a cascade in which another input is added to what an Einsum defines, and the name of that input."""
    signature = cascade.signatures[einsum.name]
    name = free_name("MOVED", {*cascade.signatures, *cascade.rank_names})
    by = Access(name, tuple(Var(variable_of(r)) for r in signature.ranks))
    raw = Access(free_name(f"{einsum.name}R", {*cascade.signatures, name}), by.indices)
    made: tuple[Einsum, ...]
    if einsum.all_reductions:
        made = (replace(einsum, target=raw), Einsum(einsum.target, Apply("+", (raw, by))))
    else:
        made = (replace(einsum, value=Apply("+", (einsum.value, by))),)

    def change(e: Einsum, _: str | None) -> tuple[Einsum, ...]:
        if e is einsum:
            return made
        return (_first_moved(e, by, signature) if e.name == einsum.name else e,)

    return replace(
        cascade,
        inputs=(*cascade.inputs, Signature(name, signature.ranks)),
        body=with_each(cascade.body, change),
    ), name
