"""Commands of the tile simulator: cascade predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from einsum_cascade.terminal import Json, emit_json, guarded, note, table

_SIZES = "Sizes and words of the call, such as batch=4,heads=32,seq_q=8192,head_dim=128,causal=1,dtype=bf16."


@guarded
def predict(
    kernel: Annotated[str, typer.Argument(help="Kernel, for example flash_attention.")],
    on: Annotated[str, typer.Option(help="GPU by name or alias, for example h100.")],
    sizes: Annotated[list[str] | None, typer.Option("--set", help=_SIZES)] = None,
    implementation: Annotated[str, typer.Option(help="Name that measured tables use.")] = "triton",
    calibrate: Annotated[
        Path | None, typer.Option(help="Measured table that calibrates the constants.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="Kernel mapping file in place of the library's.")
    ] = None,
    cascade: Annotated[
        str | None,
        typer.Option(help="Cascade, by name or file, whose `where` masks the scores; --set its ranks too."),
    ] = None,
    json: Json = False,
) -> None:
    """Predict one kernel call on a GPU: tiles, waves, bottleneck, and the interval that goes with the constants."""
    from einsum_cascade import zoo

    from .call import pairs_of
    from .model import predict as run

    found = run(
        kernel,
        on=on,
        implementation=implementation,
        calibration=calibrate,
        mapping=mapping,
        cascade=zoo.find(cascade) if cascade else None,
        **pairs_of(sizes or []),
    )
    for warning in found.warnings:
        note(f"warning: {warning}")
    if json:
        emit_json(found.as_dict())
    else:
        table(f"{kernel} on {on} ({implementation})", ["quantity", "value"], found.rows())


def register(app: typer.Typer) -> None:
    """Mount the commands of this room on the front door."""
    app.command("predict")(predict)
