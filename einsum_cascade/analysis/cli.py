"""The commands `cascade passes`, `cascade bounds` and `cascade reduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import Json, emit_json, guarded, note, table

if TYPE_CHECKING:
    from ..cascade import Cascade

Name = Annotated[str, typer.Argument(metavar="NAME", help="A zoo entry or a path to a .cascade file.")]


@guarded
def passes(
    name: Name,
    rank: Annotated[
        str | None, typer.Option("--rank", help="One rank; else every rank that is reduced.")
    ] = None,
    json: Json = False,
) -> None:
    """How often each rank must be visited, and the chain of Einsums that forces it."""
    from .. import zoo
    from .passes import all_passes
    from .passes import passes as passes_over

    cascade = zoo.find(name)
    found = all_passes(cascade) if rank is None else {rank: passes_over(cascade, rank)}
    if json:
        emit_json({r: p.as_json() for r, p in found.items()})
        return
    for r, p in found.items():
        title = f"{cascade.name}: passes over {r}: {p.count}"
        table(
            title, ["Einsum", "when"], p.rows(), note=f"forced by {' -> '.join(p.chain)}" if p.chain else ""
        )


@guarded
def bounds(
    name: Name,
    sizes: Annotated[
        str, typer.Option("--sizes", help="E=64,P=1024,M=1024 or MODEL/LENGTH such as BERT/64K.")
    ],
    buffer: Annotated[str | None, typer.Option("--buffer", help="On-chip memory, such as '16 MiB'.")] = None,
    word: Annotated[str, typer.Option("--word", help="One element, such as '2 B'.")] = "2 B",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw traffic against buffer size here.")
    ] = None,
    json: Json = False,
) -> None:
    """What no machine can avoid: operations, live footprint, off-chip traffic."""
    from .. import zoo
    from .bounds import bounds as bounds_of

    cascade = zoo.find(name)
    found = bounds_of(cascade, sizes, buffer=buffer, word=word)
    if plot is not None:
        _draw(cascade, sizes, word, plot)
    if json:
        emit_json(found.as_json())
        return
    table(f"{cascade.name}: what no machine can avoid", ["bound", "value"], found.rows())
    terms = [(t.name, t.traffic_bytes, t.source) for t in found.terms]
    table("terms of the traffic", ["term", "bytes", "source"], terms)
    table("formulas", ["bound", "formula"], list(found.formulas.items()))


@guarded
def reduce(
    name: Name,
    rank: Annotated[str, typer.Option("--rank", help="The rank that should be visited less often.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the cascade that was found here.")] = None,
    json: Json = False,
) -> None:
    """An equal cascade with the fewest passes over a rank, and the steps that lead there."""
    from .. import zoo
    from ..rewrite.reduce import reduce_passes

    found = reduce_passes(zoo.find(name), rank)
    text = str(found.cascade)
    if out is not None:
        _write(out, text)
    if json:
        emit_json(found.as_json())
        return
    typer.echo(text)
    steps = [(s.rule, s.einsum, s.why) for s in found.steps]
    table(f"passes over {rank}: {found.before} -> {found.after}", ["rule", "Einsum", "why"], steps)
    if found.stuck:
        table("what stays", ["Einsum", "why"], [(s.einsum, s.why) for s in found.stuck])


def register(app: typer.Typer) -> None:
    """Mount the commands on an app."""
    app.command("passes")(passes)
    app.command("bounds")(bounds)
    app.command("reduce")(reduce)


def _draw(cascade: Cascade, sizes: str, word: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from .bounds import curve_to_draw
    from .plots import plot_traffic

    axes = plot_traffic({f"{cascade.name}: bound": curve_to_draw(cascade, sizes, word=word)})
    try:
        axes.figure.savefig(path)
    except (OSError, ValueError) as error:
        _refuse(path, error)
    note(f"wrote {path}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        _refuse(path, error)
    note(f"wrote {path}")


def _refuse(path: Path, error: Exception) -> None:
    from ..errors import DataError

    raise DataError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
