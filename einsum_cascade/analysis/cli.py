"""The commands `cascade passes` and `cascade bounds`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..outputs import PICTURES, check_writable
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


Schedules = Callable[["Cascade", str, str], Mapping[str, tuple[float, float]]]


def no_schedules(cascade: Cascade, sizes: str, word: str) -> Mapping[str, tuple[float, float]]:
    """Return no point to draw beside a bound: this floor knows no machine."""
    return {}


def bounds_command(schedules: Schedules) -> Callable[..., None]:
    """Return the command `bounds`.

    Args:
        schedules: cascade, sizes and word -> on-chip bytes and traffic bytes of real schedules, by label; a floor
            that knows machines gives it, so that `--plot` can show them above the curve.
    """

    @guarded
    def bounds(
        name: Name,
        sizes: Annotated[
            str, typer.Option("--sizes", help="E=64,P=1024,M=1024 or MODEL/LENGTH such as BERT/64K.")
        ],
        buffer: Annotated[
            str | None, typer.Option("--buffer", help="On-chip memory, such as '16 MiB'.")
        ] = None,
        word: Annotated[str, typer.Option("--word", help="One element, such as '2 B'.")] = "2 B",
        plot: Annotated[
            Path | None, typer.Option("--plot", help="Draw traffic against buffer size here.")
        ] = None,
        json: Json = False,
    ) -> None:
        """What no machine can avoid: operations, live footprint, off-chip traffic."""
        from .. import zoo
        from .bounds import bounds as bounds_of

        if plot is not None:
            check_writable(plot, PICTURES)
        cascade = zoo.find(name)
        found = bounds_of(cascade, sizes, buffer=buffer, word=word)
        if plot is not None:
            from .bounds import curve_to_draw
            from .plots import save_traffic

            curve = {f"{cascade.name}: bound": curve_to_draw(cascade, sizes, word=word)}
            save_traffic(curve, plot, points=schedules(cascade, sizes, word))
            note(f"wrote {plot}")
        if json:
            emit_json(found.as_json())
            return
        table(f"{cascade.name}: what no machine can avoid", ["bound", "value"], found.rows())
        terms = [(t.name, t.traffic_bytes, t.source) for t in found.terms]
        table("terms of the traffic", ["term", "bytes", "source"], terms)
        table("formulas", ["bound", "formula"], list(found.formulas.items()))

    return bounds


def register(app: typer.Typer, schedules: Schedules = no_schedules) -> None:
    """Mount the commands on an app."""
    app.command("passes")(passes)
    app.command("bounds")(bounds_command(schedules))
