"""The command `cascade trace`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CascadeError
from ..outputs import check_writable, write_text
from ..pairs import pairs_of
from ..terminal import OUT_OF_TOLERANCE, Json, emit_json, guarded, note

if TYPE_CHECKING:
    from .tracer import Trace

# Some hundred float32 operations one after the other, each rounded to 6e-8, against float64; relative to the largest.
_TOLERANCE = 1e-3


@guarded
def trace(
    place: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:FUNCTION", help="A function of tensors, or a module; the file is executed."
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--inputs", help="Example tensors by parameter, such as q=2x8x4,k=2x8x4,mask=8x8:bool,at=8:int<5."
        ),
    ] = None,
    constants: Annotated[
        list[str] | None, typer.Option("--set", help="Other parameters, such as heads=4,causal=True.")
    ] = None,
    roll: Annotated[
        bool, typer.Option("--roll", help="Write a loop over time or tiles as an iterate block.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the cascade here.")] = None,
    json: Json = False,
) -> None:
    """The cascade that a PyTorch function computes, held against the function itself on the example."""
    from .files import example_for, load_function, of_file
    from .tracer import trace as traced

    if out is not None:
        check_writable(out)
    import torch

    function, path = load_function(place)
    torch.manual_seed(0)  # the same example each time
    given, named = example_for(function, pairs_of(inputs or (), "--inputs"), pairs_of(constants or ()))
    if isinstance(function, torch.nn.Module):
        function.eval()
    with of_file(path):
        found = traced(function, *given, roll=roll, **named)
        apart = _difference(found, function, given, named)
    if out is not None:
        write_text(out, str(found.cascade))
        note(f"wrote {out}")
    if json:
        shown = [{"tensor": s.tensor, "ranks": list(s.ranks)} for s in found.cascade.inputs]
        emit_json({"cascade": str(found.cascade), "sizes": found.sizes, "inputs": shown, "difference": apart})
    else:
        typer.echo(str(found.cascade))
        if apart is not None:
            typer.echo(
                f"largest difference from {place} on the example: {apart:.1e} (float32 against float64)"
            )
    if apart is not None and apart > _TOLERANCE:
        note(f"it differs by more than rounding does, {_TOLERANCE:g}; the cascade is not to be trusted")
        raise typer.Exit(OUT_OF_TOLERANCE)


def _difference(found: Trace, function: Any, given: list[Any], named: dict[str, Any]) -> float | None:
    """Return the largest difference of a cascade and its function on the example, None where that is too large."""
    import numpy as np
    import torch

    from ..evaluator import difference, evaluate

    with torch.no_grad():
        results = function(*given, **named)
    tensors = [x for x in torch.utils._pytree.tree_leaves(results) if isinstance(x, torch.Tensor)]
    try:
        mine = evaluate(found.cascade, found.sizes, found.inputs)
    except CascadeError as reason:
        note(f"not held against the function: {reason}")
        return None
    worst = 0.0
    for s, theirs in zip(found.cascade.outputs, tensors, strict=True):
        wanted = theirs.double().numpy()
        # A row that a mask leaves empty is not a number there, and 0 here.
        worst = max(worst, difference(mine[s.tensor], np.where(np.isnan(wanted), mine[s.tensor], wanted)))
    return worst if math.isfinite(worst) else math.inf


def register(app: typer.Typer) -> None:
    """Mount the command on an app."""
    app.command("trace")(trace)
