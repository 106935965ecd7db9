"""Outcomes and resources as tables, JSON documents and the stored resource table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import sass
from .measurement import OURS

if TYPE_CHECKING:
    import pandas as pd

    from .aot import Resources
    from .check import Outcome
    from .offline import Launch
    from .plans import Plan
    from .probe import Assessment
    from .tuning import Quality, Ranked

KEY = ("kernel", "variant", "target", "dtype", "head_dim", "block_m", "block_n", "warps", "stages")
COLUMNS = (
    *KEY, "registers", "shared_bytes", "stack_bytes", "local_instructions", "loop_instructions",
    "masked_loop_instructions", *(f"loop_{pipe}" for pipe in (*sass.PIPES, "other")), "tensor_memory_columns",
    "step_product_flops", "step_load_bytes", "fingerprint", "source",
)  # fmt: skip


def check_document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the outcomes as one JSON document."""
    return {
        "ok": all(o.ok for o in outcomes),
        "checks": len(outcomes),
        "failed": sum(not o.ok for o in outcomes),
        "cases": [
            {
                "kernel": o.kernel, "case": o.case, "output": o.worst, "error": o.error, "limit": o.limit, "ok": o.ok,
                "how": o.how,
            }
            for o in outcomes
        ],
    }  # fmt: skip


def check_rows(outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[Any]]]:
    """Return column heads and rows of the outcomes, for people."""
    columns = ["case", "error", "limit", "ok"]
    return columns, [[f"{o.kernel} ({o.how}): {o.case}", o.error, o.limit, o.ok] for o in outcomes]


Launched = Sequence[tuple[str, str, Sequence["Launch"]]]


def launch_document(found: Launched) -> dict[str, Any]:
    """Return compiled launches as one JSON document."""
    rows = [
        {
            "kernel": kernel, "case": case, "function": r.function, "registers": r.registers,
            "stack_bytes": r.stack_bytes, "shared_bytes": r.shared_bytes, "ok": r.ok, "slow": r.spills,
        }
        for kernel, case, launches in found
        for r in launches
    ]  # fmt: skip
    every = [r for _, _, launches in found for r in launches]
    failed = sum(not r.ok for r in every)
    slow = sum(r.ok and r.spills for r in every)
    return {"ok": not failed, "launches": len(rows), "failed": failed, "slow": slow, "cases": rows}


def launch_rows(found: Launched) -> tuple[list[str], list[list[Any]]]:
    """Return column heads and rows of compiled launches, for people."""
    columns = ["case", "function", "regs", "KiB", "stack", "ok"]
    rows = [
        [f"{kernel}: {case}", r.function, r.registers, r.shared_bytes // 1024, r.stack_bytes,
         "slow" if r.ok and r.spills else r.ok]
        for kernel, case, launches in found
        for r in launches
    ]  # fmt: skip
    return columns, rows


def slow_lines(found: Launched) -> list[str]:
    """Return a line for each launch that spills as its check says, and for each mark of which nothing is true."""
    lines = []
    for kernel, case, launches in found:
        lines += [
            f"slow but right: {kernel}, {r.function}, {r.stack_bytes} bytes a thread spill: {case}"
            for r in launches
            if r.known and r.spills
        ]
        if any(r.known for r in launches) and not any(r.spills for r in launches):
            lines.append(f"marked as slow but spills nothing: {kernel}: {case}")
    return lines


def too_large(found: Iterable[Resources]) -> list[str]:
    """Return a line for each kernel that asks for more shared memory than a block can have, on the target's own GPU."""
    from .aot import TARGETS
    from .steps import rates

    lines = []
    for r in found:
        gpu = rates(TARGETS[r.target])
        if r.shared_bytes > gpu.shared_bytes_per_block:
            lines.append(
                f"{r.kernel} cannot be launched on {gpu.name}: {r.shared_bytes:,} bytes of shared memory, "
                f"{int(gpu.shared_bytes_per_block):,} at the most"
            )
    return lines


def resource_row(r: Resources) -> dict[str, Any]:
    """Return one row of the stored table; loop counts are those of the loop over unmasked tiles, for one warp."""
    full, masked = r.full_loop, r.masked_loop
    row: dict[str, Any] = {
        "kernel": r.kernel, "variant": r.variant, "target": r.target, "dtype": r.dtype, "head_dim": r.head_dim,
        "block_m": r.tile.block_m, "block_n": r.tile.block_n, "warps": r.tile.warps, "stages": r.tile.stages,
        "registers": r.registers, "shared_bytes": r.shared_bytes, "stack_bytes": r.stack_bytes,
        "local_instructions": r.totals["local"],
        "loop_instructions": full.instructions if full else 0,
        "masked_loop_instructions": masked.instructions if masked else 0,
    }  # fmt: skip
    row |= {f"loop_{pipe}": full.pipes[pipe] if full else 0 for pipe in (*sass.PIPES, "other")}
    row |= {
        "tensor_memory_columns": r.tensor_memory_columns, "step_product_flops": int(r.work.product_flops),
        "step_load_bytes": int(r.work.load_bytes), "fingerprint": r.fingerprint,
    }  # fmt: skip
    return row | {"source": f"cascade kernels compile, {r.compiler}"}


def resource_document(found: Iterable[Resources]) -> list[dict[str, Any]]:
    """Return the resources as one JSON document, every working loop with its pipes."""
    return [
        resource_row(r)
        | {
            "spills": r.spills,
            "loops": [
                {"instructions": loop.instructions, "unrolled": loop.unrolled, "remainder": loop.remainder}
                | dict(loop.pipes)
                for loop in r.loops
            ],
        }
        for r in found
    ]


def resource_rows(found: Iterable[Resources]) -> tuple[list[str], list[list[Any]]]:
    """Return column heads and rows of the resources, for people; counts are of the loop over unmasked tiles."""
    columns = ["build", "regs", "KiB", "stack", "loop", "tensor", "mufu", "fma", "alu"]
    rows = []
    for r in found:
        t = r.tile
        shape = f"{t.block_m}x{t.block_n} w{t.warps} s{t.stages}"
        name = f"{r.kernel} {r.variant}, {r.target} {r.dtype} D{r.head_dim} {shape}"
        pipes = r.full_loop.pipes if r.full_loop else dict.fromkeys(sass.PIPES, 0)
        length = r.full_loop.instructions if r.full_loop else 0
        counts = [pipes[p] for p in ("tensor", "special", "fma", "alu")]
        rows.append([name, r.registers, r.shared_bytes // 1024, r.stack_bytes, length, *counts])
    return columns, rows


def probe_document(r: Resources, meaning: Assessment, assumed: Mapping[str, str]) -> dict[str, Any]:
    """Return the resources of one kernel, what they mean and the types it was taken to have as one JSON document."""
    return resource_document([r])[0] | {
        "blocks_per_sm": meaning.blocks_per_sm, "occupancy": meaning.occupancy, "bound_by": meaning.bound_by,
        "masked_tile_factor": meaning.masked_tile_factor, "warnings": list(meaning.warnings),
        "totals": dict(r.totals), "assumed_types": dict(assumed), "warps_of_block": r.warps,
    }  # fmt: skip


def probe_rows(
    r: Resources, meaning: Assessment, assumed: Mapping[str, str]
) -> tuple[list[str], list[list[Any]]]:
    """Return column heads and rows of one kernel, for people: what it takes, and the instructions of its loops."""
    factor = meaning.masked_tile_factor
    facts = {
        "registers a thread": r.registers,
        "shared memory": f"{r.shared_bytes / 1024:.1f} KiB",
        "stack a thread (spills)": f"{r.stack_bytes} B",
        **({"warps of a block": f"{r.warps}, each with a task of its own"} if r.specialised_warps else {}),
        "blocks an SM holds": meaning.blocks_per_sm,
        "occupancy": f"{meaning.occupancy:.0%}",
        "busiest pipe of a step": meaning.bound_by,
        "masked tile over whole tile": "-" if factor is None else f"{factor:.2f}",
    }
    rows = [[name, value] for name, value in facts.items()]
    counted = [
        (f"loop {i + 1}", loop.instructions, loop.pipes, _unrolled(loop)) for i, loop in enumerate(r.loops)
    ]
    for name, length, pipes, how in [*counted, ("whole kernel", sum(r.totals.values()), r.totals, "")]:
        words = ", ".join(f"{pipe} {count}" for pipe, count in pipes.items() if count)
        rows.append([f"{name}: {length} instructions", how + words])
    if assumed:
        rows.append(["types taken without --arg", ", ".join(f"{n} {t}" for n, t in assumed.items())])
    return ["", "value"], rows


def _unrolled(loop: sass.Loop) -> str:
    """Return how a loop stands to its loop in the source, where they are not the same."""
    if loop.remainder:
        return "what the loop before leaves over: "
    return f"{loop.unrolled} iterations: " if loop.unrolled > 1 else ""


def probe_notes(meaning: Assessment, strides: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """Return the lines below the table of one kernel: warnings, then what was taken for granted of its arguments.

    Args:
        strides: those that are taken to be multiples of 16.
        numbers: other whole numbers, taken to be any.
    """
    lines = [f"warning: {warning}" for warning in meaning.warnings]
    if strides:
        lines.append(
            f"{', '.join(strides)}: taken to be multiples of 16; a launch makes a stride of 1 a constant, along which "
            "it loads vectors, so tell those that are: --constexpr NAME=1"
        )
    if numbers:
        lines.append(
            f"{', '.join(numbers)}: taken to be any whole number; a launch sees which are multiples of 16, as sizes "
            "mostly are, and loads vectors behind a mask made of them, so tell those: --arg NAME=i32:16; and those "
            "with a fraction: --arg NAME=scalar:fp32"
        )
    return lines


def tuning_document(ranked: Sequence[Ranked], quality: Quality | None) -> dict[str, Any]:
    """Return a ranking as one JSON document, and how good it was where its first candidates were measured."""
    rows = [
        resource_row(c.resources)
        | {"cycles_per_kilo_unit": c.cycles_per_kilo_unit, "blocks_per_sm": c.blocks_per_sm, "bound_by": c.bound_by,
           "measured_ms": c.measured_ms}
        for c in ranked
    ]  # fmt: skip
    return {
        "ranking": rows,
        "kendall_tau": quality.kendall_tau if quality else None,
        "regret": quality.regret if quality else None,
    }


def tuning_rows(ranked: Sequence[Ranked]) -> tuple[list[str], list[list[Any]]]:
    """Return column heads and rows of a ranking, for people."""
    columns = ["tile", "warps", "stages", "cycles / 1000 units", "blocks", "bound by", "regs", "KiB", "ms"]
    rows = []
    for c in ranked:
        r, t = c.resources, c.resources.tile
        made = [f"{t.block_m}x{t.block_n}", t.warps, t.stages]
        judged = [c.cycles_per_kilo_unit, c.blocks_per_sm, c.bound_by]
        rows.append([*made, *judged, r.registers, r.shared_bytes // 1024, c.measured_ms])
    return columns, rows


def quality_line(quality: Quality) -> str:
    """Return how good a ranking was, in one line."""
    tau = "-" if quality.kendall_tau is None else f"{quality.kendall_tau:.2f}"
    return f"Kendall's tau {tau}; the first is {quality.regret:.1%} slower than the fastest measured"


def bench_document(measured: pd.DataFrame) -> dict[str, Any]:
    """Return a table of measurements as one JSON document."""
    rows = [{k: None if _missing(v) else v for k, v in row.items()} for row in measured.to_dict("records")]
    return {"rows": rows, "rates": measured.attrs.get("rates", []), "standing": standing(measured)}


_PROBLEM = ("kernel", "direction", "dtype", "batch", "heads", "kv_heads", "seq_q", "seq_kv", "head_dim", "causal",
            "window")  # fmt: skip


def standing(measured: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row a problem that ours and others computed in the same run: where ours stands.

    `speedup` is the time of the best of the others over ours: more than 1 means that ours is faster.
    """
    rows = []
    for key, group in measured.groupby(list(_PROBLEM), dropna=False, sort=False):
        ours = group[group["implementation"] == OURS]
        others = group[group["implementation"] != OURS]
        if ours.empty or others.empty:
            continue
        best = others.iloc[int(others["latency_ms"].argmin())]
        ours_ms = float(ours["latency_ms"].iloc[0])
        problem = {k: None if _missing(v) else v for k, v in zip(_PROBLEM, key, strict=True)}
        rows.append(
            problem
            | {"ours_ms": ours_ms, "best_other": best["implementation"], "best_other_ms": float(best["latency_ms"]),
               "others": len(others), "speedup": float(best["latency_ms"]) / ours_ms}
        )  # fmt: skip
    return rows


def standing_rows(measured: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """Return column heads and rows of where ours stands, for people."""
    columns = ["kernel", "sequence", "D", "mask", "ours ms", "best other", "its ms", "speedup"]
    rows = [
        [r["kernel"], r["seq_q"], r["head_dim"], _mask(r), r["ours_ms"], r["best_other"], r["best_other_ms"],
         r["speedup"]]
        for r in standing(measured)
    ]  # fmt: skip
    return columns, rows


def _mask(row: Mapping[str, Any]) -> str:
    words = ["causal" if row["causal"] else "", f"window {row['window']}" if row["window"] else ""]
    return " ".join(filter(None, words)) or "-"


def plan_rows(chosen: Iterable[tuple[Plan, float]]) -> tuple[list[str], list[list[Any]]]:
    """Return column heads and rows of a campaign's plan with the estimated seconds that have passed after each."""
    columns = ["kernel", "implementation", "direction", "sequence", "D", "mask", "seconds so far"]
    rows = [
        [p.entry, p.variant, p.direction, p.setting.seq, p.setting.head_dim,
         _mask({"causal": p.setting.causal, "window": p.setting.window}), round(passed, 1)]
        for p, passed in chosen
    ]  # fmt: skip
    return columns, rows


def _missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def bench_rows(measured: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """Return column heads and rows of measurements, for people."""
    columns = ["implementation", "sequence", "D", "mask", "threads", "ms", "quartiles", "ratio"]
    rows = []
    for r in bench_document(measured)["rows"]:
        quartiles = f"{r['q25_ms']:.3g} - {r['q75_ms']:.3g}"
        rows.append([r["implementation"], r["seq_q"], r["head_dim"], _mask(r), r["threads"], r["latency_ms"],
                     quartiles, r["ratio"]])  # fmt: skip
    return columns, rows


def store_path() -> Path:
    """Return where the stored resource table of this installation lies."""
    return Path(str(resources.files("mappings"))) / "library" / "gpu" / "resources.csv"


def store_resources(found: Iterable[Resources], path: Path | None = None) -> Path:
    """Write the resources into the stored table and return its path.

    Each takes the place of whatever tile stood for its kernel, variant, target, word and head size; rows of variants
    that no kernel has any more are dropped.
    """
    from . import registry

    path = path or store_path()
    slot = KEY[:5]
    new = [{k: str(v) for k, v in resource_row(r).items()} for r in found]
    replaced = {tuple(row[k] for k in slot) for row in new}
    known = {(e.name, variant) for e in registry.entries() for variant in e.built}
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file) if (r["kernel"], r["variant"]) in known]
        rows = [r for r in rows if tuple(r[k] for k in slot) not in replaced]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows + new, key=lambda r: tuple(r[k] for k in KEY)))
    return path
