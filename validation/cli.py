"""The front door: mounts every room's commands and adds validate, reproduce, gallery, demo and doctor."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from einsum_cascade.terminal import (
    OUT_OF_TOLERANCE,
    Commands,
    Json,
    bar,
    emit_json,
    fail,
    guarded,
    note,
    table,
)

if TYPE_CHECKING:
    from einsum_cascade.cascade import Cascade
    from mappings.sources import KernelSource
    from mappings.tiles import KernelResources

# Each room owns its commands; the door only knows where they live.
ROOMS = (
    "einsum_cascade.cli",
    "einsum_cascade.tracing.cli",
    "einsum_cascade.rewrite.cli",
    "einsum_cascade.backward.cli",
    "simulator.spatial.cli",
    "simulator.gpu.gna_cli",
    "simulator.gpu.cli",
    "simulator.dse.cli",
    "kernels.cli",
)

app = typer.Typer(
    name="cascade",
    cls=Commands,
    help="Describe an attention as a cascade of Einsums, bound it, predict it on a machine, and check the answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 110},
    rich_markup_mode=None,  # loading rich's Markdown would take longer than everything else together
)


@guarded
def listing(
    kind: Annotated[
        str, typer.Argument(help="algorithms, hardware, mappings, kernels or models")
    ] = "algorithms",
    json: Json = False,
) -> None:
    """List what can be named: algorithms, hardware, mappings, kernels or models."""
    from .catalogue import catalogue, remark, shown

    rows = catalogue(kind)
    if json:
        emit_json(rows)
    else:
        table(kind, *shown(kind, rows), note=remark(kind))


@guarded
def validate(
    suite: Annotated[str, typer.Argument(help="fusemax, gna, gpu, seeds or all")] = "all",
    published: Annotated[Path | None, typer.Option(help="folder with the artifact's CSV files")] = None,
    measured: Annotated[
        Path | None, typer.Option(help="measured table in the common schema, or aiconfigurator's parquet")
    ] = None,
    calibrate: Annotated[Path | None, typer.Option(help="rows that constants are fitted on")] = None,
    json: Json = False,
) -> None:
    """Hold the models against published tables and measurements; exit code 1 if one is out of tolerance."""
    from .suites import print_result, run, together

    results = run(suite, published=published, measured=measured, calibrate=calibrate)
    if json:
        emit_json(results[0] if len(results) == 1 else together(results))
    else:
        for result in results:
            print_result(result)
    if not all(r["ok"] for r in results):
        raise typer.Exit(OUT_OF_TOLERANCE)


@guarded
def demo(
    out: Annotated[Path, typer.Option(help="folder for report.html, report.md and the tables")] = Path(
        "demo"
    ),
    json: Json = False,
) -> None:
    """Run the whole idea on published data: describe, bound, sweep, predicted against measured."""
    from .demo import run

    result = run(out)
    if json:
        emit_json(result)
    else:
        table(
            "demo",
            ["step", "result", "seconds"],
            [[s["step"], s["result"], s["seconds"]] for s in result["steps"]],
        )
        note(f"report: {result['report']}")


@guarded
def reproduce(
    *,
    subject: Annotated[str, typer.Argument(help="fusemax, gna or gpu")] = "fusemax",
    out: Annotated[Path, typer.Option(help="folder for the figures and tables")],
    json: Json = False,
) -> None:
    """Write all figures and tables of a paper, or of the GPU measurements, from our own simulator."""
    from .reproduce import reproduce as run

    files = run(subject, out)
    if json:
        emit_json({"subject": subject, "files": [str(f) for f in files]})
    else:
        table(f"{subject}: written", ["file"], [[str(f)] for f in files])


@guarded
def gallery(
    out: Annotated[Path, typer.Option(help="folder for index.html")],
    only: Annotated[list[str] | None, typer.Option(help="an entry of the zoo; may be repeated")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="processes; default: one a core")] = None,
    json: Json = False,
) -> None:
    """Write one page over the whole zoo: text, passes, bounds and predicted times at 1K to 1M, to compare."""
    from .gallery.page import gallery as write

    page = write(out, only=only or (), jobs=jobs)
    if json:
        emit_json({"page": str(page), "bytes": page.stat().st_size})
    else:
        note(f"gallery: {page}")


@guarded
def doctor(json: Json = False) -> None:
    """Tell what is installed, whether names clash, and whether there is a compiler, an interpreter and a GPU."""
    from .doctor import examine

    facts = examine()
    if json:
        emit_json(facts)
    else:
        table("doctor", ["what", "found", "ok"], [[f["what"], f["found"], f["ok"]] for f in facts["facts"]])
    if facts["clashes"]:
        fail(
            "; ".join(f"'{name}' is another package, in {where}" for name, where in facts["clashes"].items())
        )


def schedules(cascade: Cascade, sizes: str, word: str) -> Mapping[str, tuple[float, float]]:
    """Return the simulator's schedules that `bounds --plot` draws above its curve."""
    from .schedules import simulated_traffic

    return simulated_traffic(cascade, sizes, word)


def compiled(on: str, sources: Sequence[KernelSource]) -> Sequence[KernelResources | None]:
    """Return what the compiler makes of kernels that `write --compiled` chooses among."""
    from kernels.sources import compiled as compile_all

    return compile_all(sources, on=on, progress=bar("compile"))


app.command("list")(listing)
for _room in ROOMS:
    importlib.import_module(_room).register(app)
importlib.import_module("einsum_cascade.analysis.cli").register(app, schedules)
importlib.import_module("simulator.gpu.writing.cli").register(app, compiled)
for _command in (validate, reproduce, gallery, demo, doctor):
    app.command()(_command)


def main() -> None:
    """Run the command line; what argparse calls a usage error has exit code 2 as well."""
    app()
