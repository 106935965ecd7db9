"""Commands of the kernels: list, check, compile, bench, probe, tune, campaign."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from einsum_cascade.errors import KernelError
from einsum_cascade.outputs import check_writable
from einsum_cascade.terminal import OUT_OF_TOLERANCE, Json, bar, emit_json, guarded, note, table

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Kernels, or files that `cascade write` has made; all kernels if none is named."),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; the GPU where there is one.")]

TARGETS = "sm_80, sm_86, sm_89, sm_90, sm_100, sm_120"


@guarded
def list_kernels(*, json: Json = False) -> None:
    """List the Triton kernels and the cascades they compute."""
    from .registry import entries

    rows = [
        {"name": e.name, "summary": e.summary, "source": e.source, "cascade": e.cascade} for e in entries()
    ]
    if json:
        emit_json(rows)
    else:
        table(
            "Kernels", ["name", "cascade", "summary"], [[r["name"], r["cascade"], r["summary"]] for r in rows]
        )


@guarded
def check(
    names: Names = None,
    *,
    device: Device = None,
    target: Annotated[
        str | None,
        typer.Option(help=f"Compile each check and campaign launch instead, and run none: {TARGETS}."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare every kernel with its float64 reference; in Triton's interpreter where there is no GPU."""
    from .check import run
    from .report import check_document, check_rows

    if target is not None:
        _check_offline(names, target, json=json)
        return
    own, files = _parted(names)
    outcomes = run(own or None, device=device, progress=bar("check")) if own or not files else []
    if files:
        from .device import resolve
        from .written import check_written, load_written

        on = resolve(device)
        outcomes = [
            *outcomes,
            *(check_written(load_written(f), device=on) for f in bar("check")(files)),
        ]
    if json:
        emit_json(check_document(outcomes))
    else:
        table("Kernels against float64", *check_rows(outcomes))
    if not all(o.ok for o in outcomes):
        raise typer.Exit(OUT_OF_TOLERANCE)


def _parted(names: list[str] | None) -> tuple[list[str], list[Path]]:
    """Return kernels by name, and files of written ones: no kernel's name has a suffix."""
    every = names or []
    return [n for n in every if not Path(n).suffix], [Path(n) for n in every if Path(n).suffix]


def _check_offline(names: list[str] | None, target: str, *, json: bool) -> None:
    from .offline import run
    from .report import launch_document, launch_rows, slow_lines

    if files := _parted(names)[1]:
        raise KernelError(
            f"{files[0]}: --target takes kernels by name; `cascade kernels compile {files[0]} --target {target}` "
            "compiles a file"
        )
    found = run(names or None, target=target, progress=bar(target))
    if json:
        emit_json(launch_document(found))
    else:
        table(f"Launches compiled for {target}", *launch_rows(found))
        for line in slow_lines(found):
            note(line)
    if not all(launch.ok for _, _, launches in found for launch in launches):
        raise typer.Exit(OUT_OF_TOLERANCE)


@guarded
def compile_kernels(
    names: Names = None,
    *,
    target: Annotated[str, typer.Option(help=f"{TARGETS}, or all.")] = "sm_90",
    write: Annotated[
        bool, typer.Option(help="Store the result in mappings/library/gpu/resources.csv.")
    ] = False,
    json: Json = False,
) -> None:
    """Compile for a GPU generation without having one: registers, shared memory, spills, instruction mix.

    All kernels for one generation take some minutes; name the kernels that matter, or let the bar run.
    """
    from . import aot
    from .report import resource_document, resource_rows, store_path, store_resources, too_large

    if write:
        check_writable(store_path())
    whole = target == "all"
    own, files = _parted(names)
    targets = list(aot.TARGETS) if whole else [target]
    found = [
        r
        for t in targets if own or not files
        for r in aot.compile_shipped(t, kernels=own or None, own=whole or write, progress=bar(t))
    ]  # fmt: skip
    if files:
        from .written import compile_files, load_written

        if write:
            raise KernelError("--write stores the kernels of this package; a file's are not among them")
        found += compile_files([load_written(f) for f in files], targets, progress=bar("compile"))
    if write:
        note(f"written: {store_resources(found)}")
    if json:
        emit_json(resource_document(found))
    else:
        table("Compiled kernels", *resource_rows(found))
    for line in too_large(found):
        note(line)


@guarded
def time_file(
    file: Annotated[Path, typer.Argument(help="File that `cascade write` has made.")],
    *,
    json: Json = False,
) -> None:
    """Time the kernels of a written file on this machine's GPU, beside what was predicted; correctness first."""
    from .device import name, resolve
    from .written import load_written, time_written

    on = resolve("cuda", instead="`cascade kernels check FILE` runs it in the interpreter")
    from .bench_cuda import event_clock

    found = time_written(load_written(file), clock=event_clock, device=on)
    rows = [
        {
            "kernel": t.kernel, "blocks": t.blocks, "us": t.measured.median, "q25_us": t.measured.q25,
            "q75_us": t.measured.q75, "predicted_us": t.predicted,
        }
        for t in found
    ]  # fmt: skip
    if json:
        emit_json(rows)
    else:
        table(f"{file} on {name(on)}", list(rows[0]), [list(r.values()) for r in rows])


@guarded
def bench(
    *,
    out: Annotated[Path | None, typer.Option(help="Write the table to this CSV file.")] = None,
    device: Device = None,
    quick: Annotated[bool, typer.Option(help="Fewer sizes: under 12 s on a CPU.")] = False,
    flex: Annotated[
        bool, typer.Option(help="flex_attention on a CPU too; compiling it takes minutes.")
    ] = False,
    minutes: Annotated[
        float, typer.Option(help="On a GPU: time for all; a table goes on where it was.")
    ] = 9.0,
    json: Json = False,
) -> None:
    """Measure the kernels here: a gate of correctness first, then medians over interleaved rounds."""
    from .bench import run
    from .device import resolve
    from .report import bench_document, bench_rows, standing_rows

    if out is not None:
        check_writable(out)
    _check_minutes(minutes)
    measured = run(resolve(device), quick=quick, flex=flex, out=out, minutes=minutes)
    if out is not None:
        note(f"written: {out}")
    if json:
        emit_json(bench_document(measured))
    else:
        table("Measured", *bench_rows(measured))
        if (columns_and_rows := standing_rows(measured))[1]:
            table("Ours beside the best of the others", *columns_and_rows)


def _check_minutes(minutes: float) -> None:
    """Refuse a time in which nothing can be measured."""
    if not minutes > 0:
        raise KernelError(f"--minutes {minutes:g}: expected more than 0")


@guarded
def probe(
    place: Annotated[
        str, typer.Argument(metavar="FILE.py:KERNEL", help="The file is executed to load the kernel.")
    ],
    *,
    target: Annotated[str, typer.Option(help=f"{TARGETS}.")] = "sm_90",
    constexpr: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of compile-time arguments, parted by commas; tl.float16 is a type."),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=TYPE: fp16, bf16, fp32, *i32, i32, i64, i32:16, scalar:fp32; fp16[BM,BK] is a descriptor."
        ),
    ] = None,
    warps: Annotated[int, typer.Option(help="Warps of a thread block.")] = 4,
    stages: Annotated[int, typer.Option(help="Depth of the software pipeline.")] = 3,
    mapping: Annotated[
        Path | None, typer.Option(help="Write what was found as a file for `predict --mapping`.")
    ] = None,
    blocks: Annotated[str, typer.Option(help="Thread blocks, such as 'batch * cdiv(seq_q, BM)'.")] = "1",
    steps: Annotated[str, typer.Option(help="Passes of block i through the main loop.")] = "1",
    reads: Annotated[str, typer.Option(help="Bytes read, each once; word is those of an element.")] = "0",
    writes: Annotated[str, typer.Option(help="Bytes written, each once.")] = "0",
    sizes: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of sizes beside those of attention, such as rows=4096,columns=4096."),
    ] = None,
    json: Json = False,
) -> None:
    """Compile your own Triton kernel for a GPU generation without having one.

    With --mapping, `cascade predict NAME --mapping FILE --on h100 --set ...` tells how long a call takes: the compiler
    knows what a step of the kernel does, --blocks and --steps say how many there are. Both are expressions over the
    sizes of the call (batch, heads, seq_q, ..., and those of --sizes), the compile-time numbers and the number i of a
    block.
    """
    from einsum_cascade.pairs import literal

    from .arguments import parse_pairs
    from .described import Shape, check_shape, description, sizes_of, write
    from .probe import assess, assumed_numbers, assumed_strides, assumed_types, compiled, prepared
    from .report import probe_document, probe_notes, probe_rows

    if mapping:
        check_writable(mapping, (".yaml", ".yml"))
    constants = {n: literal(v) for n, v in parse_pairs(constexpr or [], "--constexpr").items()}
    arguments = parse_pairs(arg or [], "--arg")
    build = prepared(place, constants=constants, arguments=arguments, warps=warps, stages=stages)
    shape = Shape(blocks, steps, reads, writes)
    own = sizes_of(parse_pairs(sizes or [], "--sizes"), build.constants)
    if mapping:
        check_shape(shape, build.constants, own)
    found = compiled(build, target)
    meaning, taken = assess(found), assumed_types(build)
    strides, numbers = assumed_strides(build), assumed_numbers(build)
    if mapping:
        given = {"constants": build.constants, "pointers": build.pointers, "sizes": own}
        write(mapping, description(found, place=place, shape=shape, **given))
        note(f"wrote {mapping}")
    if json:
        assumed = {"strides_taken_as_multiples_of_16": strides, "numbers_taken_as_any": numbers}
        emit_json(probe_document(found, meaning, taken) | assumed)
        return
    table(f"{place} for {target}", *probe_rows(found, meaning, taken))
    for line in probe_notes(meaning, strides, numbers):
        note(line)


@guarded
def tune(
    kernel: Annotated[
        str, typer.Argument(help="A kernel of `kernels list` that is compiled.")
    ] = "flash_attention",
    *,
    on: Annotated[
        str, typer.Option(help=f"A GPU of `cascade list hardware`, by name or alias, or {TARGETS}.")
    ] = "h100",
    head_dim: Annotated[
        int | None, typer.Option(help="Head size; 128 where the kernel is shipped for it.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    variant: Annotated[
        str | None, typer.Option(help="As `kernels compile` lists them; causal or the first.")
    ] = None,
    measure: Annotated[bool, typer.Option(help="Measure the best five on the GPU here.")] = False,
    json: Json = False,
) -> None:
    """Rank tiles, warps and stages by compiled resources, without a GPU; with one, measure the best five."""
    from .device import resolve
    from .report import quality_line, tuning_document, tuning_rows
    from .tuning import measured
    from .tuning import tune as ranking

    if measure:
        resolve("cuda", instead="without --measure, tiles are ranked by what the compiler says")
    progress = bar("tune")
    ranked = ranking(kernel, on=on, head_dim=head_dim, dtype=dtype, variant=variant, progress=progress)
    ranked, quality = measured(ranked) if measure else (ranked, None)
    if json:
        emit_json(tuning_document(ranked, quality))
        return
    table(f"{kernel} on {on}, best first", *tuning_rows(ranked))
    if quality:
        note(quality_line(quality))


@guarded
def campaign(
    out: Annotated[Path, typer.Option(help="CSV file; a stopped campaign goes on where it was.")],
    *,
    minutes: Annotated[
        float, typer.Option(help="Device time; what does not fit is left to the next run.")
    ] = 8.0,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Show the cases and their estimated time, and measure nothing.")
    ] = False,
    tiny: Annotated[
        bool, typer.Option(help="Walk the plan at tiny sizes in the interpreter, without a GPU.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure every kernel, length, head size and mask on the GPU, the most valuable first; resumable."""
    check_writable(out)
    _check_minutes(minutes)

    from .beforehand import workers
    from .campaign import CASE_LIMIT_S, plan, run, within, work
    from .device import commit, resolve
    from .journal import done, failed_path, failures
    from .report import plan_rows
    from .unattended import supervise

    plans = list(plan(lengths=(64,), head_dims=(16,), tokens=64) if tiny else plan())
    if plan_only:
        chosen = list(within(plans, minutes=minutes, compilers=workers()))
        columns, rows = plan_rows(chosen)
        if json:
            fields = ("kernel", "implementation", "direction", "seq_q", "head_dim", "mask", "elapsed_s")
            emit_json({"cases": len(plans), "chosen": [dict(zip(fields, r, strict=True)) for r in rows]})
        else:
            table(f"{len(chosen)} of {len(plans)} cases in {minutes:g} minutes", columns, rows)
        return
    before = len(done(out))
    if tiny:
        run(out, plans, on="cpu", progress=bar("campaign"))
    else:
        resolve("cuda", instead="--plan shows the cases, --tiny walks them in the interpreter")
        supervise(work, out, plans, "cuda", minutes=minutes, case_limit_s=CASE_LIMIT_S)
    added, failed = len(done(out)) - before, failures(out, commit=commit())
    if json:
        emit_json({"out": str(out), "added": added, "failed": len(failed)})
    note(f"{added} rows added: {out}")
    if failed:
        note(
            f"{len(failed)} cases failed, see {failed_path(out)}; they are left out until the commit changes"
        )


def register(app: typer.Typer) -> None:
    """Mount the commands as `cascade kernels ...`."""
    sub = typer.Typer(
        help="The Triton kernels: list, check, compile, measure, probe, tune.", no_args_is_help=True
    )
    sub.command("list")(list_kernels)
    sub.command("check")(check)
    sub.command("compile")(compile_kernels)
    sub.command("time")(time_file)
    sub.command("bench")(bench)
    sub.command("probe")(probe)
    sub.command("tune")(tune)
    sub.command("campaign")(campaign)
    app.add_typer(sub, name="kernels")
