"""A traced loop as an iterate block, held against the function itself at another length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..cascade import Cascade
from ..errors import CascadeError
from ..evaluator import difference, evaluate
from ..rolling.plain import with_plain_names
from ..rolling.roll import loops_of
from ..sizes import resolve
from .inputs import Given
from .tracer import read_by_torch, traced
from .values import Builder

# So many more steps than in the example the function is run with.
_MORE = 2
# Some thirty steps in float32, each of a sum of up to some hundred terms, against float64; relative to the largest.
_TOLERANCE = 1e-3


def rolled(
    fn: Callable[..., Any], example_inputs: Sequence[Any], *, held: bool = True
) -> tuple[Cascade, dict[str, int], list[Given]]:
    """Return the cascade of a function with its loop as a block, the sizes of its ranks in the example, its inputs.

    Args:
        held: whether it is held against the function at another length.

    Raises:
        CascadeError: its steps do not repeat, or the function does otherwise at another length; or it is not traced.
    """
    refused: CascadeError | None = None
    name = ""
    # What a first step computes of zeros may be less than what the others do; then the zeros are to be read. And a step
    # may take a tile of the keys, cut out.
    exported = read_by_torch(fn, example_inputs, {})
    for constants, tiles in ((False, False), (True, False), (True, True)):
        builder = Builder(apart=True, constants=constants, tiles=tiles)
        cascade, sizes, given = traced(exported, builder)
        name = cascade.name
        for found in loops_of(cascade, sizes):
            same = {r: n for r, n in sizes.items() if r in found.cascade.free_ranks}
            same |= found.steps
            more = {r: n + _MORE for r, n in found.steps.items()}
            try:
                if held:
                    _compare(fn, example_inputs, found.cascade, same | more, given)
            except CascadeError as reason:
                refused = refused or reason
                continue
            return with_plain_names(found.cascade), resolve(found.cascade, same), given
    raise refused or CascadeError(
        f"{name} does not do the same step again and again along a dimension",
        hint="trace it with at least three steps, better four or five; roll=False gives its steps one by one",
    )


def _compare(
    fn: Callable[..., Any],
    example_inputs: Sequence[Any],
    found: Cascade,
    sizes: dict[str, int],
    given: Sequence[Given],
) -> None:
    """Hold a cascade against the function at other sizes; whole numbers and tables are not made up.

    Raises:
        CascadeError: they differ, or the function does not run.
    """
    import torch

    known = resolve(found, sizes)
    shapes = {s.tensor: tuple(known[r] for r in s.ranks) for s in found.inputs}
    inputs: dict[str, Any] = {}
    fresh = []
    made = torch.Generator().manual_seed(0)
    for s, g in zip(found.inputs, given, strict=True):
        if g.part or g.origin == "table" or not g.held.is_floating_point():
            return  # what else they may be the cascade does not say
        if g.origin == "example":
            fresh.append(torch.rand(shapes[s.tensor], generator=made, dtype=g.held.dtype))
            inputs[s.tensor] = fresh[-1].double().numpy()
        elif tuple(g.held.shape) != shapes[s.tensor]:
            return  # a parameter for each step: the module is made for one length
        else:
            inputs[s.tensor] = g.array()
    if len(fresh) != sum(isinstance(x, torch.Tensor) for x in example_inputs):
        return  # some stand in tuples or dictionaries
    rest = iter(fresh)
    arguments = [next(rest).clone() if isinstance(x, torch.Tensor) else x for x in example_inputs]
    try:
        with torch.no_grad():
            out = fn(*arguments)
    except (RuntimeError, IndexError, ValueError, AssertionError) as reason:
        raise CascadeError(
            f"{found.name} does not run with other lengths than its example's: {reason}"
        ) from None
    results = evaluate(found, sizes, inputs)
    outs = [x for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]
    for s, theirs in zip(found.outputs, outs, strict=True):
        mine, wanted = results[s.tensor], theirs.double().numpy()
        if mine.shape != wanted.shape or difference(mine, wanted) > _TOLERANCE:
            raise CascadeError(
                f"{found.name} does otherwise at other lengths than its example's: its loop is no whole one",
                hint="range(q.shape[0]) holds for any length, range(4) for one alone",
            )
