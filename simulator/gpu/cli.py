"""Commands of the tile simulator: cascade predict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from einsum_cascade.errors import DataError
from einsum_cascade.terminal import Json, emit_json, guarded, note, table

if TYPE_CHECKING:
    from .prediction import Prediction

_SIZES = "Sizes and words of the call, such as batch=4,heads=32,seq_q=8192,head_dim=128,causal=1,dtype=bf16."


@guarded
def predict(
    kernel: Annotated[
        str, typer.Argument(help="Kernel, for example flash_attention; with --sizes, a cascade.")
    ],
    on: Annotated[str, typer.Option(help="GPU by name, alias or path, for example h100.")],
    sizes: Annotated[list[str] | None, typer.Option("--set", help=_SIZES)] = None,
    implementation: Annotated[
        str | None,
        typer.Option(
            help="Name that measured tables use (triton); of a cascade: fused (as far as pays) or eager.",
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Measured table that calibrates the constants.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="Kernel mapping file in place of the library's.")
    ] = None,
    cascade: Annotated[
        str | None,
        typer.Option(help="Cascade, by name or file, whose `where` masks the scores; --set its ranks too."),
    ] = None,
    ranks: Annotated[
        str | None,
        typer.Option(
            "--sizes", help="Sizes of a cascade, by name or file: it is laid out as kernels and predicted."
        ),
    ] = None,
    kernels: Annotated[
        str | None, typer.Option(help="Which Einsums of the cascade share a kernel: QK/GM+SN+SD+A/AV.")
    ] = None,
    json: Json = False,
) -> None:
    """Predict one kernel call, or any cascade, on a GPU: tiles, waves, bottleneck, and the interval of all that."""
    from einsum_cascade import zoo
    from einsum_cascade.pairs import pairs_of

    from .model import predict as run

    given = pairs_of(sizes or [])
    if ranks is None:
        _check_kernel(kernel, kernels)
        implementation = implementation or "triton"
        found = run(
            kernel,
            on=on,
            implementation=implementation,
            calibration=calibrate,
            mapping=mapping,
            cascade=zoo.find(cascade) if cascade else None,
            **given,
        )
    else:
        needless = {"--calibrate": calibrate, "--mapping": mapping, "--cascade": cascade}
        implementation = implementation or ("fused" if kernels is None else "given")
        found = _of_cascade(kernel, ranks, on, implementation, kernels, given, needless)
    for warning in found.warnings:
        note(f"warning: {warning}")
    if ranks is not None and found.bound_by == "chain":
        note(f"its steps wait for each other; of a recurrence, `cascade chunk {kernel}` takes many at once")
    if json:
        emit_json(found.as_dict())
    else:
        table(f"{kernel} on {on} ({implementation})", ["quantity", "value"], found.rows())


def _of_cascade(
    name: str,
    sizes: str,
    on: str,
    implementation: str,
    kernels: str | None,
    given: Mapping[str, Any],
    needless: Mapping[str, object],
) -> Prediction:
    """Return the prediction of a cascade as kernels of its own."""
    from einsum_cascade import zoo

    from .fusion.predict import named_kernels, predict_cascade

    for option, value in needless.items():
        if value is not None:
            raise DataError(
                f"{option} goes with a kernel; a cascade with --sizes is laid out from its text alone"
            )
    if rest := sorted(given.keys() - {"dtype"}):
        raise DataError(f"--set: '{rest[0]}' is no word of a cascade; expected dtype, and sizes in --sizes")
    groups = named_kernels(kernels or "")
    if groups is not None and implementation != "given":
        raise DataError("--kernels says which Einsums share a kernel; leave --implementation out")
    return predict_cascade(
        zoo.find(name),
        sizes,
        on=on,
        implementation="fused" if groups else implementation,
        kernels=groups,
        dtype=given.get("dtype", "bf16"),
    )


def _check_kernel(kernel: str, kernels: str | None) -> None:
    """Refuse a cascade without its sizes: the names of kernels say nothing of it."""
    from einsum_cascade import zoo
    from mappings.gpu import kernel_names

    if kernels is not None:
        raise DataError("--kernels goes with a cascade and its --sizes")
    if kernel not in kernel_names() and (kernel in zoo.names() or kernel.endswith(".cascade")):
        raise DataError(f"'{kernel}' is a cascade: give the sizes of its ranks, --sizes E=128,M=8K,...")


def register(app: typer.Typer) -> None:
    """Mount the commands of this room on the front door."""
    app.command("predict")(predict)
