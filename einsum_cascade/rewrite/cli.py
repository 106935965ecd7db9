"""The command `cascade reduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..outputs import check_writable
from ..terminal import Json, emit_json, guarded, note, table


@guarded
def reduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A zoo entry or a path to a .cascade file.")],
    rank: Annotated[str, typer.Option("--rank", help="The rank that should be visited less often.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the cascade that was found here.")] = None,
    json: Json = False,
) -> None:
    """An equal cascade with the fewest passes over a rank, and the steps that lead there."""
    from .. import zoo
    from .reduce import reduce_passes

    if out is not None:
        check_writable(out)
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
    """Mount the command on an app."""
    app.command("reduce")(reduce)


def _write(path: Path, text: str) -> None:
    from ..errors import DataError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    note(f"wrote {path}")
