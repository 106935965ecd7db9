"""Command of written kernels: cascade write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from einsum_cascade.errors import MappingError
from einsum_cascade.outputs import check_writable
from einsum_cascade.terminal import Json, emit_json, guarded, note, table

if TYPE_CHECKING:
    from einsum_cascade.cascade import Cascade
    from mappings.sources import KernelSource
    from mappings.tiles import KernelResources

    from ..fusion.held import Held
    from ..fusion.kernels import Kernel
    from .frame import Written
    from .program import Program

    CompilerFor: TypeAlias = Callable[[str, Sequence[KernelSource]], Sequence[KernelResources | None]]


def no_compiler(on: str, sources: Sequence[KernelSource]) -> Sequence[KernelResources | None]:
    """Refuse to compile: this floor has no compiler."""
    raise MappingError("--compiled: expected the command line of the whole package, which has a compiler")


def write_command(compiler: CompilerFor) -> Callable[..., None]:
    """Return the command `write`.

    Args:
        compiler: GPU and kernels -> what a compiler makes of each; a floor that has one gives it.
    """

    @guarded
    def write(
        cascade: Annotated[str, typer.Argument(help="Cascade, by name or file.")],
        sizes: Annotated[str, typer.Option(help="Sizes of its ranks, for which the kernels are written.")],
        on: Annotated[str, typer.Option(help="GPU for which Einsums are grouped and tiles chosen.")] = "h100",
        dtype: Annotated[
            str,
            typer.Option(
                help="Of tensors in memory: bf16, fp16, fp32; what a topk or argmax chooses from is fp32."
            ),
        ] = "bf16",
        implementation: Annotated[
            str,
            typer.Option(help="fused: Einsums share a kernel as far as pays; eager: one kernel an Einsum."),
        ] = "fused",
        kernels: Annotated[
            str | None, typer.Option(help="Which Einsums share a kernel: QK/GM+SN+SD+A/AV.")
        ] = None,
        compiled: Annotated[
            bool,
            typer.Option(
                help="Compile the best tiles of each kernel, and take the fastest of those that spill nothing."
            ),
        ] = False,
        out: Annotated[
            Path | None, typer.Option(help="Python file to write; without it, the source is printed.")
        ] = None,
        json: Json = False,
    ) -> None:
        """Write a cascade as Triton kernels: a Python file that runs by itself.

        `cascade kernels check FILE` compares it with the cascade's meaning, in Triton's interpreter where there is no
        GPU; `cascade kernels compile FILE` says what registers and shared memory it takes.
        """
        from einsum_cascade import zoo

        from ..fusion.predict import named_kernels
        from .program import write_program

        if out is not None:
            check_writable(out)
        text = zoo.find(cascade)
        program = write_program(
            text, sizes, on=on, implementation=implementation, kernels=named_kernels(kernels or ""), dtype=dtype,
            compiler=partial(compiler, on) if compiled else None,
        )  # fmt: skip
        if out is not None:
            out.write_text(program.text, encoding="utf-8")
            note(f"written: {out}")
        _warn(program, on)
        if json:
            emit_json(_document(program, out))
        elif out is None:
            print(program.text, end="")
        else:
            _show(program, text, on)

    return write


def _show(program: Program, cascade: Cascade, on: str) -> None:
    heads = ["kernel", "Einsums", "blocks", "tile", "warps", "registers", "shared", "spilt"]
    rows = [
        [w.name, " ".join(k.einsums), w.blocks * program.batch, _tile(w.constants), w.warps, *_compiled(made)]
        for w, k, made in _each(program)
    ]
    width = len(heads) if any(made for _, _, made in _each(program)) else 5
    table(f"{cascade.name} as kernels, planned for {on}", heads[:width], [row[:width] for row in rows])
    found = program.prediction
    low, high = 1e6 * found.low_s, 1e6 * found.high_s
    note(f"predicted: {1e6 * found.latency_s:,.1f} us, {low:,.1f} to {high:,.1f}; nobody has measured it")


def _each(program: Program) -> Iterator[tuple[Written, Kernel, KernelResources | None]]:
    """Yield each written kernel, the one of the plan that it belongs to, and what was compiled of it.

    What puts parts together takes little, and is not compiled.
    """
    for choice in program.choices:
        for i, written in enumerate(choice.written):
            yield written, choice.kernel, choice.kernel.tile.resources if i == 0 else None


def _compiled(made: KernelResources | None) -> list[Any]:
    if made is None:
        return ["", "", ""]
    return [made.registers, f"{made.shared_bytes / 1024:.0f} KiB", f"{made.stack_bytes} B"]


def _warn(program: Program, on: str) -> None:
    """Tell of kernels that the compiler is likely to spill, or has spilt."""
    from ...hardware.gpu import find_gpu
    from ..fusion.held import registers_of

    gpu = find_gpu(on)
    for choice in program.choices:
        name, made = choice.written[0].name, choice.kernel.tile.resources
        held: Held = choice.kernel.work.held
        if made is not None and made.stack_bytes:
            note(
                f"{name}: all {choice.tried} compiled tiles spill, this one {made.stack_bytes} bytes a thread"
            )
        elif made is None and choice.tried:
            note(f"{name}: none of the {choice.tried} tiles that were compiled can be launched on {on}")
        elif made is None and not held.fits(gpu):
            note(
                f"{name}: a block holds some {held.registers / 1024:,.0f} KiB in registers, of which there are "
                f"{registers_of(gpu, held.warps) / 1024:,.0f}, and {held.shared / 1024:,.0f} KiB in shared memory, of "
                f"{gpu.shared_bytes_per_block / 1024:,.0f}, its largest tile has {held.largest:,} elements: expect "
                "spills, a long time in the compiler, or its refusal"
            )


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
            "resources": _resources(made),
        }
        for w, k, made in _each(program)
    ]
    place = {"text": program.text} if out is None else {"file": str(out)}
    return {"kernels": kernels, "prediction": program.prediction.as_dict(), **place}


def _resources(made: KernelResources | None) -> dict[str, int] | None:
    if made is None:
        return None
    return {
        "registers": made.registers,
        "shared_bytes": made.shared_bytes,
        "stack_bytes": made.stack_bytes,
        "tensor_memory_columns": made.tensor_memory_columns,
    }


def register(app: typer.Typer, compiler: CompilerFor = no_compiler) -> None:
    """Mount the command on the front door."""
    app.command("write")(write_command(compiler))
