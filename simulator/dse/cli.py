"""cascade sweep | pareto | sensitivity | explore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from einsum_cascade.outputs import PICTURES, check_writable
from einsum_cascade.terminal import Json, emit_json, guarded, note, table

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a sweep.")]
Least = Annotated[
    list[str] | None,
    typer.Option(
        "--min",
        help="A column, or a formula such as 'latency_s * energy_j', of which less is better; repeat it.",
    ),
]
Most = Annotated[
    list[str] | None, typer.Option("--max", help="A column or formula of which more is better; repeat it.")
]
Groups = Annotated[
    list[str] | None, typer.Option("--by", help="A column each of whose values has its own front; repeat it.")
]


_SENSITIVITIES = ("factors with all else equal, share of the variance", "Sobol indices of the logarithm")


@guarded
def sweep(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="What to sweep, over which axes.")],
    out: Annotated[Path, typer.Option("--out", help="Folder that keeps every point; run again to go on.")],
    jobs: Annotated[int | None, typer.Option("--jobs", help="Processes; default: one a core.")] = None,
    scheduler: Annotated[
        str, typer.Option("--scheduler", help="A Dask scheduler, tcp://HOST:PORT, instead of processes.")
    ] = "",
    json: Json = False,
) -> None:
    """Evaluate every point of a design space; interrupted at any instant it goes on and loses nothing."""
    from .commands import run_sweep

    result = run_sweep(spec, out, jobs=jobs, scheduler=scheduler)
    if json:
        emit_json(result)
    else:
        table(f"{result['points']:,} points", ["what", ""], [(k, str(v)) for k, v in result.items()])


@guarded
def pareto(
    folder: Folder,
    minimize: Least = None,
    maximize: Most = None,
    by: Groups = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="What a design has to meet, as in 'area_mm2 <= 500'; repeat it."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write the front as .svg, .png or .pdf.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the designs that no other beats, sorted; without --min and --max those of the sweep file."""
    from .commands import brief, run_pareto, short_names

    if plot is not None:
        check_writable(plot, PICTURES)
    front = run_pareto(
        folder, minimize=minimize or (), maximize=maximize or (), by=by or (), where=where or (), plot=plot
    )
    if json:
        emit_json(front.rows)
    else:
        cells = [
            [brief(v) if isinstance(v := row[c], str) else v for c in front.columns] for row in front.rows
        ]
        table(f"Pareto front, {len(cells)} designs", short_names(front.columns), cells)
    for remark in front.remarks:
        note(remark)


@guarded
def sensitivity(
    folder: Folder,
    of: Annotated[
        list[str] | None, typer.Option("--of", help="A column or formula to explain; repeat it.")
    ] = None,
    json: Json = False,
) -> None:
    """Print which axis moves which objective: by what factor, all else equal, and what share of all variation."""
    from .commands import run_sensitivity, short_names

    rows = run_sensitivity(folder, of or ())
    if json:
        emit_json(rows)
    else:
        short = short_names([row["axis"] for row in rows])
        cells = [list({**row, "axis": name}.values()) for row, name in zip(rows, short, strict=True)]
        title = "Sensitivity: " + _SENSITIVITIES["total" in rows[0]]
        table(title, list(rows[0]), cells)


@guarded
def explore(
    folder: Folder,
    page: Annotated[
        Path | None, typer.Option("--page", help="The file; default: explore.html in DIR.")
    ] = None,
    json: Json = False,
) -> None:
    """Write one self-contained page to explore a sweep: scatter and front, filters, parallel coordinates."""
    from .explorer import explore as write

    written = write(folder, page=page)
    if json:
        emit_json({"page": str(written), "bytes": written.stat().st_size})
    else:
        note(f"wrote {written}")


def register(app: typer.Typer) -> None:
    """Mount the commands of this room."""
    app.command("sweep")(sweep)
    app.command("pareto")(pareto)
    app.command("sensitivity")(sensitivity)
    app.command("explore")(explore)
