"""Command of written kernels: cascade write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from einsum_cascade.outputs import check_writable
from einsum_cascade.terminal import Json, emit_json, guarded, note, table

if TYPE_CHECKING:
    from .program import Program


@guarded
def write(
    cascade: Annotated[str, typer.Argument(help="Cascade, by name or file.")],
    sizes: Annotated[str, typer.Option(help="Sizes of its ranks, for which the kernels are written.")],
    on: Annotated[str, typer.Option(help="GPU for which Einsums are grouped and tiles chosen.")] = "h100",
    dtype: Annotated[str, typer.Option(help="Of all tensors in memory: bf16, fp16 or fp32.")] = "bf16",
    implementation: Annotated[
        str, typer.Option(help="fused: Einsums share a kernel as far as pays; eager: one kernel an Einsum.")
    ] = "fused",
    kernels: Annotated[
        str | None, typer.Option(help="Which Einsums share a kernel: QK/GM+SN+SD+A/AV.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Python file to write; without it, the source is printed.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a cascade as Triton kernels: a Python file that runs by itself.

    `cascade kernels check FILE` compares it with the cascade's meaning, in Triton's interpreter where there is no GPU;
    `cascade kernels compile FILE` says what registers and shared memory it takes.
    """
    from einsum_cascade import zoo

    from ..fusion.predict import named_kernels
    from .program import write_program

    if out is not None:
        check_writable(out)
    program = write_program(
        zoo.find(cascade), sizes, on=on, implementation=implementation, kernels=named_kernels(kernels or ""),
        dtype=dtype,
    )  # fmt: skip
    if out is not None:
        out.write_text(program.text, encoding="utf-8")
        note(f"written: {out}")
    if json:
        emit_json(_document(program, out))
    elif out is None:
        print(program.text, end="")
    else:
        table(
            f"{zoo.find(cascade).name} as kernels, planned for {on}",
            ["kernel", "Einsums", "blocks", "tile", "warps"],
            [
                [w.name, " ".join(k.einsums), w.blocks * program.batch, _tile(w.constants), w.warps]
                for w, k in _pairs(program)
            ],
        )
        found = program.prediction
        low, high = 1e6 * found.low_s, 1e6 * found.high_s
        note(f"predicted: {1e6 * found.latency_s:,.1f} us, {low:,.1f} to {high:,.1f}; nobody has measured it")


def _pairs(program: Program) -> Any:
    """Yield each written kernel with the one of the plan that it belongs to."""
    for group, kernel in zip(program.written, program.kernels, strict=True):
        for written in group:
            yield written, kernel


def _tile(constants: dict[str, int]) -> str:
    return " ".join(f"{n.removeprefix('BLOCK_')}={v}" for n, v in constants.items() if n.startswith("BLOCK_"))


def _document(program: Program, out: Path | None) -> dict[str, Any]:
    kernels = [
        {
            "name": w.name,
            "einsums": list(k.einsums),
            "reads": list(w.reads),
            "writes": list(w.writes),
            "blocks": w.blocks * program.batch,
            "constants": w.constants,
            "warps": w.warps,
        }
        for w, k in _pairs(program)
    ]
    place = {"text": program.text} if out is None else {"file": str(out)}
    return {"kernels": kernels, "prediction": program.prediction.as_dict(), **place}


def register(app: typer.Typer) -> None:
    """Mount the command on the front door."""
    app.command("write")(write)
