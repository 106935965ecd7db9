"""The command `cascade gradients`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..outputs import check_writable
from ..rewrite.cli import names_in, tell
from ..terminal import Json, guarded, note


@guarded
def gradients(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A zoo entry or a path to a .cascade file.")],
    wrt: Annotated[
        str,
        typer.Option("--wrt", help="Inputs whose gradients are asked for, such as Q,K,V; all unless given."),
    ] = "",
    saved: Annotated[
        str,
        typer.Option(
            "--saved",
            help="What the forward pass keeps, such as GM,SD,AV; or 'small': all no larger than an input or output.",
        ),
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Write the cascade that was found here.")] = None,
    json: Json = False,
) -> None:
    """The backward pass of a cascade, as a cascade: gradients to its inputs from those of its outputs."""
    from .. import zoo
    from .gradients import gradients as gradients_of

    if out is not None:
        check_writable(out)
    kept: str | list[str] = saved if saved == "small" else names_in(saved)
    found = gradients_of(zoo.find(name), names_in(wrt) or None, saved=kept)
    tell(found, f"gradients of {name}", out, json)
    for tensor, why in found.none.items() if not json else ():
        note(f"no gradient to {tensor}: {why}")


def register(app: typer.Typer) -> None:
    """Mount the command on an app."""
    app.command("gradients")(gradients)
