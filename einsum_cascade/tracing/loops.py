"""A traced loop as an iterate block, held against the function itself at another length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..cascade import Cascade
from ..declarations import rank_of
from ..errors import CascadeError
from ..evaluator import difference, evaluate
from ..rolling.plain import with_plain_names
from ..rolling.roll import loops_of
from ..sizes import resolve

# So many more steps than in the example the function is run with.
_MORE = 2
# Some thirty steps in float32, each of a sum of up to some hundred terms, against float64; relative to the largest.
_TOLERANCE = 1e-3


def rolled_from(
    fn: Callable[..., Any], example_inputs: Sequence[Any], cascade: Cascade, sizes: Mapping[str, int]
) -> Cascade:
    """Return a traced cascade with its loop as a block.

    Args:
        sizes: of the ranks of the cascade, of the example.

    Raises:
        CascadeError: its steps do not repeat, or the function does otherwise at another length.
    """
    refused: CascadeError | None = None
    for found in loops_of(cascade, sizes):
        rank = _rank(found)
        longer = {r: n for r, n in sizes.items() if r in found.free_ranks}
        longer[rank] = _length(cascade, found, sizes, rank) + _MORE
        try:
            _compare(fn, example_inputs, found, longer)
        except CascadeError as reason:
            refused = refused or reason
            continue
        return with_plain_names(found)
    raise refused or CascadeError(
        f"{cascade.name} does not do the same step again and again along a dimension",
        hint="trace it with at least three steps, better four or five; roll=False gives its steps one by one",
    )


def _rank(found: Cascade) -> str:
    (variable,) = {block for _, block in found.statements if block is not None}
    return rank_of(variable)


def _length(cascade: Cascade, found: Cascade, sizes: Mapping[str, int], rank: str) -> int:
    """Return the number of steps of the example: the size of a rank that is now the rank of steps."""
    for before, after in zip(cascade.inputs, found.inputs, strict=True):
        for old, new in zip(before.ranks, after.ranks, strict=True):
            if new == rank or found.aliases.get(new) == rank:
                return sizes[old]
    raise CascadeError(f"{cascade.name}: no input is read along its loop; it would hold for one length alone")


def _compare(
    fn: Callable[..., Any], example_inputs: Sequence[Any], found: Cascade, sizes: dict[str, int]
) -> None:
    """Hold a cascade against the function at other sizes; whole numbers and tables are not made up.

    Raises:
        CascadeError: they differ, or the function does not run.
    """
    import torch

    known = resolve(found, sizes)
    tensors = [x for x in example_inputs if isinstance(x, torch.Tensor)]
    if len(tensors) != len(found.inputs) or not all(x.is_floating_point() for x in tensors):
        return  # parameters of a module, or places: what they may be the cascade does not say
    made = torch.Generator().manual_seed(0)
    shapes = iter([[known[r] for r in s.ranks] for s in found.inputs])
    given = [
        torch.rand(next(shapes), generator=made, dtype=x.dtype) if isinstance(x, torch.Tensor) else x
        for x in example_inputs
    ]
    try:
        with torch.no_grad():
            out = fn(*[x.clone() if isinstance(x, torch.Tensor) else x for x in given])
    except (RuntimeError, IndexError, ValueError, AssertionError) as reason:
        raise CascadeError(
            f"{found.name} does not run with other lengths than its example's: {reason}"
        ) from None
    arrays = [x.double().numpy() for x in given if isinstance(x, torch.Tensor)]
    inputs = {s.tensor: a for s, a in zip(found.inputs, arrays, strict=True)}
    results = evaluate(found, sizes, inputs)
    outs = [x for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]
    for s, theirs in zip(found.outputs, outs, strict=True):
        mine, wanted = results[s.tensor], theirs.double().numpy()
        if mine.shape != wanted.shape or difference(mine, wanted) > _TOLERANCE:
            raise CascadeError(
                f"{found.name} does otherwise at other lengths than its example's: its loop is no whole one"
            )
