"""The commands `cascade reduce` and `cascade chunk`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from ..outputs import check_writable, write_text
from ..terminal import Json, emit_json, guarded, note, table

if TYPE_CHECKING:
    from ..cascade import Cascade
    from .reduction import Step


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
    tell(found, f"passes over {rank}: {found.before} -> {found.after}", out, json)
    if found.stuck and not json:
        table("what stays", ["Einsum", "why"], [(s.einsum, s.why) for s in found.stuck])


@guarded
def chunk(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A zoo entry or a path to a .cascade file.")],
    rank: Annotated[
        str, typer.Option("--rank", help="The rank it iterates over, where there are several.")
    ] = "",
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Steps of a chunk; open unless given, but 64 for delta rules."),
    ] = None,
    positive: Annotated[
        str, typer.Option("--positive", help="Inputs that are greater than 0: gates that have logarithms.")
    ] = "",
    apart: Annotated[
        bool,
        typer.Option(
            "--apart", help="Divide gates of a summed rank between both factors: for short chunks, as of 16."
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the cascade that was found here.")] = None,
    json: Json = False,
) -> None:
    """An equal cascade that walks a recurrence chunk by chunk, and what was done to which Einsum."""
    from .. import zoo
    from .chunks.chunk import in_chunks

    if out is not None:
        check_writable(out)
    found = in_chunks(zoo.find(name), rank or None, size=size, positive=names_in(positive), apart=apart)
    tell(found, f"{found.cascade.name} in chunks of {found.rank}", out, json)


def register(app: typer.Typer) -> None:
    """Mount the commands on an app."""
    app.command("reduce")(reduce)
    app.command("chunk")(chunk)


def names_in(text: str) -> list[str]:
    """Return the names that an option lists, commas between them."""
    return [n for n in (part.strip() for part in text.split(",")) if n]


class Told(Protocol):
    """What a command hands back: a cascade, and what was done to which Einsum."""

    @property
    def cascade(self) -> Cascade:
        """The cascade."""
        ...

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was done, in order."""
        ...

    def as_json(self) -> dict[str, object]:
        """Return the fields that the command prints."""
        ...


def tell(found: Told, title: str, out: Path | None, json: bool) -> None:
    """Write the cascade that was found where it is asked for; print it, and what was done to which Einsum."""
    text = str(found.cascade)
    if out is not None:
        write_text(out, text)
        note(f"wrote {out}")
    if json:
        emit_json(found.as_json())
        return
    typer.echo(text)
    if found.steps:
        table(title, ["rule", "Einsum", "why"], [(s.rule, s.einsum, s.why) for s in found.steps])
