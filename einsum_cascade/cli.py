"""cascade show | check | evaluate."""

from __future__ import annotations

from typing import Annotated

import typer

from .outputs import check_writable
from .terminal import Json, emit_json, guarded, note, table

Name = Annotated[str, typer.Argument(metavar="NAME", help="A zoo entry or a path to a .cascade file.")]
Sizes = Annotated[
    str, typer.Option("--sizes", help="E=64,P=1024,M=1024, or a model with a length: BERT/64K.")
]


@guarded
def show(
    name: Name,
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX instead of text.")] = False,
    graph: Annotated[
        str, typer.Option("--graph", help="Write the dependency graph: .svg, .png, .pdf or .dot.")
    ] = "",
    json: Json = False,
) -> None:
    """Print a cascade in its canonical text, or as LaTeX; draw its dependency graph."""
    from . import printer, zoo

    cascade = zoo.find(name)
    if graph:
        from .draw import save_graph

        save_graph(cascade, graph)
        note(f"wrote {graph}")
    text = printer.latex(cascade) if latex else printer.render(cascade)
    if json:
        emit_json({"name": cascade.name, "text": text, "graph": graph or None})
    else:
        typer.echo(text, nl=False)


@guarded
def check(name: Name, json: Json = False) -> None:
    """Check a cascade; a bad one leaves with file:line:column, the line, a caret and a hint."""
    from . import zoo
    from .printer import signature

    cascade = zoo.find(name)
    found = {
        "ranks": list(cascade.rank_names),
        "inputs": [signature(s) for s in cascade.inputs],
        "outputs": [signature(s) for s in cascade.outputs],
        "einsums": [e.name for e in cascade.einsums],
    }
    if json:
        emit_json({"ok": True, "name": cascade.name, **found})
    else:
        table(f"{cascade.name} is a legal cascade", ["", ""], [(k, "  ".join(v)) for k, v in found.items()])


@guarded
def evaluate(
    name: Name,
    sizes: Sizes,
    out: Annotated[str, typer.Option("--out", help="The .npz file to write, one array per output.")],
    inputs: Annotated[str, typer.Option("--inputs", help="An .npz file with one array per input.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random inputs.")] = 0,
    json: Json = False,
) -> None:
    """Evaluate a cascade in NumPy (float64) and write every output."""
    from . import arrays, evaluator, zoo

    cascade = zoo.find(name)
    check_writable(out)
    known = evaluator.sizes_of_use(cascade, sizes)
    given = arrays.read_arrays(inputs) if inputs else evaluator.random_inputs(cascade, known, seed=seed)
    found = evaluator.evaluate(cascade, known, given)
    arrays.write_arrays(out, found)
    rows = [
        (t, "x".join(map(str, a.shape)) or "scalar", float(a.min()), float(a.max())) for t, a in found.items()
    ]
    if json:
        emit_json({t: {"shape": a.shape, "min": a.min(), "max": a.max()} for t, a in found.items()})
    else:
        table(f"{cascade.name}: wrote {out}", ["output", "shape", "min", "max"], rows)


def register(app: typer.Typer) -> None:
    """Mount the commands of this file."""
    for command in (show, check, evaluate):
        app.command(command.__name__)(command)
