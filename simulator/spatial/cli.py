"""Commands of the spatial simulator: cascade simulate."""

from __future__ import annotations

from typing import Annotated

import typer

from einsum_cascade.terminal import Json, emit_json, guarded, note, table

Name = Annotated[str, typer.Argument(metavar="NAME", help="A zoo entry or a path to a .cascade file.")]
On = Annotated[str, typer.Option("--on", metavar="HARDWARE", help="A spatial chip, by name or path.")]
Sizes = Annotated[
    str, typer.Option("--sizes", help="E=64,P=1024,M=1024, or a model with a length: BERT/64K.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="hardware.N=128, mapping.P1=4, sizes.B=1; may be repeated.")
]


@guarded
def simulate(
    name: Name,
    on: On,
    sizes: Sizes,
    mapping: Annotated[
        str,
        typer.Option(help="A mapping, by name or path; without it, one made for the cascade and the chip."),
    ] = "",
    settings: Settings = None,
    plot: Annotated[str, typer.Option(help="Write the schedule as a picture: .svg, .png or .pdf.")] = "",
    json: Json = False,
) -> None:
    """Predict latency, energy, traffic and area of a cascade on a spatial chip under a mapping."""
    from .model import simulate as run
    from .request import resolve

    asked = resolve(name, on=on, mapping=mapping, sizes=sizes, settings=settings or ())
    found = run(asked.cascade, asked.sizes, asked.hardware, asked.mapping)
    if plot:
        from ..plots import save_waterfall

        save_waterfall(found, plot)
        note(f"wrote {plot}")
    if json:
        emit_json(found.to_dict())
        return
    table(
        f"{found.cascade} on {found.hardware}, mapped by {found.mapping}",
        ["quantity", "value", "unit"],
        found.rows(),
    )
    columns = ["Einsum", "array", "phase", "cycles", "time [s]", "utilization", "energy [J]", "traffic [B]"]
    table("Einsums", columns, found.einsum_rows())
    for line in found.assumptions:
        note(f"assumed: {line}")


def register(app: typer.Typer) -> None:
    """Mount the commands of this room on the front door."""
    app.command("simulate")(simulate)
