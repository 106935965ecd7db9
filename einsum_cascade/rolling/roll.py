"""A cascade that does the same again and again, as one with an iterate block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..cascade import Cascade
from ..declarations import Iterate, rank_of
from ..einsum import Einsum
from ..errors import CascadeError
from ..evaluator import difference, evaluate, random_inputs
from ..expr import Apply, Compare
from ..sizes import resolve
from .attempt import USUAL, Roller
from .ends import with_last_step
from .pattern import NoLoopError
from .plain import (
    inlined,
    with_constants_first,
    with_rank_named,
    without_constants,
    without_unit_axes,
)
from .segments import stretches

# Float64 sums in the same order; the rest is room for what a constant is written as.
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Loop:
    """A cascade whose steps are one block; or none, where no step needs another and their rank is as any.

    Attributes:
        steps: of each rank of steps how many the example has.
    """

    cascade: Cascade
    steps: dict[str, int]


def loops_of(cascade: Cascade, sizes: Mapping[str, int]) -> Iterator[Loop]:
    """Yield the equal cascades with an iterate block in the place of steps that repeat each other.

    Steps differ in numbers that count along (indices, mostly) and in what they hand on. What the last step leaves
    and what is gathered from all of them (a stack, or one row written a step) is read from the block. A loop walks
    all of a rank, or the outer part of one, so it can hold for any length; where the steps begin is not always sure
    from one length alone.

    Args:
        cascade: without iterate blocks, as traced.
        sizes: of its ranks, of the example; they tell which ranks have as many elements as there are steps.
    """
    if any(isinstance(item, Iterate) for item in cascade.body):
        return
    cascade = without_unit_axes(cascade, sizes)
    sizes = {r: n for r, n in sizes.items() if r in cascade.rank_names}
    cascade, first = with_constants_first(cascade)
    einsums = _joined_last([item for item in cascade.body if isinstance(item, Einsum)])
    free = {r: n for r, n in sizes.items() if r in cascade.free_ranks}
    inputs = random_inputs(cascade, resolve(cascade, free), seed=0)
    wanted = evaluate(cascade, free, inputs)
    for stretch in stretches(einsums):
        if stretch.start < first:
            continue
        for ends in (lambda e, s: (e, s), with_last_step):
            try:
                whole, longer = ends(einsums, stretch)
                roller = Roller(cascade, whole, longer, dict(sizes))
                found = roller.cascade()
            except (NoLoopError, CascadeError):
                continue
            theirs = {r: free.get(r, longer.count) for r in found.free_ranks}
            if not _same(evaluate(found, theirs, inputs), wanted):
                continue
            if not found.states:
                yield from _side_by_side(found, theirs, roller.rank)
            named = with_rank_named(without_constants(inlined(found)), roller.rank, USUAL)
            (variable,) = {block for _, block in named.statements if block is not None}
            yield Loop(named, {rank_of(variable): longer.count})


def _joined_last(einsums: list[Einsum]) -> list[Einsum]:
    """Return Einsums of which those that join the rows of all steps come last: one of two stands in the last step."""
    read = {t for e in einsums for t in e.sources}

    def joins(einsum: Einsum) -> bool:
        match einsum.value:
            case Apply("select", (Compare(("<",)), *_)):
                return einsum.name not in read
        return False

    return sorted(einsums, key=joins)


def _side_by_side(found: Cascade, sizes: Mapping[str, int], rank: str) -> Iterator[Loop]:
    """Yield the cascades of a loop of which no step needs another: a tile of queries, with a loop of its own inside."""
    body: list[Einsum] = []
    for item in found.body:
        body += item.einsums if isinstance(item, Iterate) else [item]
    for inner in loops_of(replace(found, body=tuple(body)), resolve(found, sizes)):
        yield replace(inner, steps=inner.steps | {rank: sizes[rank]})


def _same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(
        found[t].shape == wanted[t].shape and difference(found[t], wanted[t]) <= TOLERANCE for t in wanted
    )
