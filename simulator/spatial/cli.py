"""Commands of the spatial simulator: cascade simulate, cascade map."""

from __future__ import annotations

from typing import Annotated

import typer

from einsum_cascade.outputs import PICTURES, check_writable
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
    from .startup import start_up

    if plot:
        check_writable(plot, PICTURES)
    asked = resolve(name, on=on, mapping=mapping, sizes=sizes, settings=settings or ())
    found = run(asked.cascade, asked.sizes, asked.hardware, asked.mapping)
    pipeline = start_up(asked.cascade, asked.sizes, asked.hardware, asked.mapping)
    if plot:
        from ..plots import save_waterfall

        save_waterfall(found, plot)
        note(f"wrote {plot}")
    if json:
        emit_json({**found.to_dict(), "pipeline": pipeline.to_dict()})
        return
    table(
        f"{found.cascade} on {found.hardware}, mapped by {found.mapping}",
        ["quantity", "value", "unit"],
        [*found.rows(), ("start-up and drain, at most", pipeline.fill_s, "s")],
    )
    columns = ["Einsum", "array", "phase", "cycles", "time [s]", "utilization", "energy [J]", "traffic [B]"]
    table("Einsums", columns, found.einsum_rows())
    for line in found.assumptions:
        note(f"assumed: {line}")


@guarded
def map_cascade(
    name: Name,
    on: On,
    sizes: Sizes,
    objective: Annotated[
        str,
        typer.Option(
            help="latency_s, energy_j or traffic_bytes, or a formula over them: 'latency_s * energy_j'."
        ),
    ] = "latency_s",
    effort: Annotated[
        int,
        typer.Option(
            help="Structures of loops without progress after which a block is left; more may find a better mapping."
        ),
    ] = 200,
    slack: Annotated[
        float,
        typer.Option(
            help="Share of the best latency to give up for less energy times delay; only for latency_s. "
            "0 for the fastest mapping."
        ),
    ] = 0.01,
    out: Annotated[str, typer.Option(help="Write the mapping to FILE.yaml, which simulate accepts.")] = "",
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Search the best mapping of a cascade on a spatial chip, and say how far it is from the traffic bound."""
    from mappings.files import ENDINGS, documents_of, save

    from .mapper import find_mapping
    from .request import resolve_without_mapping

    if out:
        check_writable(out, ENDINGS)
    asked = resolve_without_mapping(name, on=on, sizes=sizes, settings=settings or ())
    found = find_mapping(
        asked.cascade, asked.sizes, asked.hardware, objective=objective, effort=effort, slack=slack
    )
    if out:
        save(found.mapping, out)
        note(f"wrote {out}")
    if json:
        nest, binding = documents_of(found.mapping)
        emit_json(
            {
                "mapping": {"nest": nest, "binding": binding},
                "estimate": found.estimate.to_dict(),
                "gap": found.gap,
                "evaluated": found.evaluated,
                "seconds": found.seconds,
            }
        )
        return
    rows = [
        *found.estimate.rows(),
        ("traffic / lower bound", found.gap, "1"),
        ("mappings tried", found.evaluated, ""),
    ]
    table(f"{name} on {on}: best of the search", ["quantity", "value", "unit"], rows)
    for phase, steps in found.mapping.binding.phases.items():
        for step in steps:
            note(f"{phase}: " + "; ".join(f"{lane}: {' '.join(items)}" for lane, items in step.items()))


def register(app: typer.Typer) -> None:
    """Mount the commands of this room on the front door."""
    app.command("map")(map_cascade)
    app.command("simulate")(simulate)
