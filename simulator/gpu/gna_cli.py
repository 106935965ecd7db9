"""Commands of the GNA room: cascade gna | gna-tune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from einsum_cascade.errors import DataError, MappingError
from einsum_cascade.terminal import Json, emit_json, guarded, note, table

if TYPE_CHECKING:
    from .gna_choice import GnaTuning

PerAxis = "Numbers per axis, such as 30,48,80; one number holds for every axis."


def numbers(name: str, text: str) -> tuple[int, ...]:
    """Return the whole numbers of a comma-separated option.

    >>> numbers("window", "18,24,24"), numbers("window", "30x48x80"), numbers("layout", "32K")
    ((18, 24, 24), (30, 48, 80), (32768,))
    """
    from .call import whole

    try:
        return tuple(whole(name, word) for word in text.lower().replace("x", ",").split(","))
    except DataError as error:
        raise MappingError(f"--{error} in '{text}'; write whole numbers such as 30,48,80") from None


@guarded
def gna(
    layout: Annotated[str, typer.Option(help="Tokens per axis, outermost first; one to three axes.")],
    window: Annotated[str, typer.Option(help="Keys a query sees. " + PerAxis)],
    q_tile: Annotated[str, typer.Option(help="Shape of a Q tile. " + PerAxis)],
    kv_tile: Annotated[str, typer.Option(help="Shape of a KV tile. " + PerAxis)],
    stride: Annotated[str, typer.Option(help="Queries that share a window. " + PerAxis)] = "1",
    dilation: Annotated[str, typer.Option(help="Step between the keys of a window. " + PerAxis)] = "1",
    causal: Annotated[
        str, typer.Option(help="1 for an axis on which nothing behind the query is seen.")
    ] = "0",
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="KV tiles start at the window (cutlass-fna).")
    ] = False,
    on: Annotated[
        str, typer.Option(help="Predict the time on this GPU too: h100, b200, a100, ... or a file.")
    ] = "",
    heads: Annotated[int, typer.Option(help="Query heads, for --on.")] = 24,
    head_dim: Annotated[int, typer.Option(help="Elements of a head, for --on.")] = 128,
    batch: Annotated[int, typer.Option(help="Sequences, for --on.")] = 1,
    backend: Annotated[
        str,
        typer.Option(
            help="The kernel, for --on; NATTEN's choice if left out. It decides whether KV tiles are dynamic."
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Count the tiles of a neighbourhood-attention setting exactly, and bound its speedup over dense attention."""
    from .gna import gna_bounds

    given = {"layout": layout, "window": window, "stride": stride, "dilation": dilation, "causal": causal}
    asked: dict[str, Any] = {name: numbers(name, text) for name, text in given.items()}
    tiles: dict[str, Any] = {"q_tile": numbers("q-tile", q_tile), "kv_tile": numbers("kv-tile", kv_tile)}
    kernel = device = None
    if backend and not on:
        raise MappingError(f"--backend: '{backend}' is a kernel of a GPU; expected --on too")
    if on:
        from ..hardware.gpu import find_gpu
        from .gna_backends import find_backend

        device = find_gpu(on)
        kernel = find_backend(device, backend or None, head_dim=head_dim)
        if dynamic and not kernel.dynamic:
            raise MappingError(
                f"--dynamic: the KV tiles of {kernel.name} lie on a grid; expected another --backend"
            )
        dynamic = kernel.dynamic
    found = gna_bounds(**asked, **tiles, dynamic=dynamic)
    rows, more = found.rows(), {}
    if device and kernel:
        from .gna_time import check_copies, time_of

        time = time_of(found, device, kernel, copies=check_copies(heads, batch), head_dim=head_dim)
        rows, more = rows + time.rows(), {"predicted": time.as_dict()}
        note(f"{kernel.name} on {device.name}: constants {time.constants.source}")
        if not time.compiled:
            note(f"{kernel.name} is not compiled for these tiles; cascade gna-tune lists those that it has")
    if json:
        emit_json(found.as_dict() | more)
    else:
        table(found.title, ["quantity", "value", "meaning"], rows)


@guarded
def gna_tune(
    layout: Annotated[str, typer.Option(help="Tokens per axis, outermost first; one to three axes.")],
    window: Annotated[str, typer.Option(help="Keys a query sees. " + PerAxis)],
    on: Annotated[
        str, typer.Option(help="The GPU: h100, b200, a100, ... (cascade list hardware), or a file.")
    ],
    heads: Annotated[int, typer.Option(help="Query heads.")] = 24,
    head_dim: Annotated[int, typer.Option(help="Elements of a head.")] = 128,
    batch: Annotated[int, typer.Option(help="Sequences.")] = 1,
    stride: Annotated[str, typer.Option(help="Rank the tile pairs of this stride only. " + PerAxis)] = "",
    dilation: Annotated[str, typer.Option(help="Step between the keys of a window. " + PerAxis)] = "1",
    causal: Annotated[
        str, typer.Option(help="1 for an axis on which nothing behind the query is seen.")
    ] = "0",
    backend: Annotated[str, typer.Option(help="The kernel; NATTEN's choice if left out.")] = "",
    top: Annotated[int, typer.Option(help="How many choices to return; 0 for all.")] = 20,
    json: Json = False,
) -> None:
    """Rank every stride and tile pair of a neighbourhood-attention kernel by predicted time."""
    from .gna_tune import tune_gna

    if top < 0:
        raise MappingError(f"--top: expected a number of choices, or 0 for all, found {top}")
    given = {"layout": layout, "window": window, "dilation": dilation, "causal": causal}
    asked: dict[str, Any] = {name: numbers(name, text) for name, text in given.items()}
    sizes: dict[str, Any] = {"heads": heads, "head_dim": head_dim, "batch": batch}
    only = numbers("stride", stride) if stride else None
    found = tune_gna(**asked, **sizes, on=on, stride=only, backend=backend or None, top=top or None)
    if json:
        emit_json(found.as_dict())
    else:
        print_tuning(found)


def print_tuning(found: GnaTuning) -> None:
    """Print a ranking for people: the choices, the stride advice, then what it rests on."""
    table(found.title, list(found.choice_columns()), found.choice_rows())
    table(
        "smallest stride that needs no mask",
        ["tiles Q / KV", "exact", "NATTEN's fast path"],
        found.advice_rows(),
    )
    for line in found.notes():
        note(line)


def register(app: typer.Typer) -> None:
    """Mount the commands of this room on the front door."""
    app.command("gna")(gna)
    app.command("gna-tune")(gna_tune)
