"""Outcomes and resources as tables, JSON documents and the stored resource table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import sass

if TYPE_CHECKING:
    import pandas as pd

    from .aot import Resources
    from .check import Outcome
    from .tuning import Ranked

KEY = ("kernel", "variant", "target", "dtype", "head_dim", "block_m", "block_n", "warps", "stages")
COLUMNS = (
    *KEY, "registers", "shared_bytes", "stack_bytes", "local_instructions", "loop_instructions",
    "masked_loop_instructions", *(f"loop_{pipe}" for pipe in (*sass.PIPES, "other")), "source",
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
    return row | {"source": f"cascade kernels compile, {r.compiler}"}


def resource_document(found: Iterable[Resources]) -> list[dict[str, Any]]:
    """Return the resources as one JSON document, every working loop with its pipes."""
    return [
        resource_row(r)
        | {
            "spills": r.spills,
            "loops": [{"instructions": loop.instructions} | dict(loop.pipes) for loop in r.loops],
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


def tuning_document(ranked: Sequence[Ranked], tau: float | None) -> dict[str, Any]:
    """Return a ranking as one JSON document; tau is Kendall's of prediction and measurement where there was one."""
    rows = [
        resource_row(c.resources)
        | {"cycles_per_kilo_score": c.cycles_per_kilo_score, "blocks_per_sm": c.blocks_per_sm, "bound_by": c.bound_by,
           "measured_ms": c.measured_ms}
        for c in ranked
    ]  # fmt: skip
    return {"ranking": rows, "kendall_tau": tau}


def tuning_rows(ranked: Sequence[Ranked]) -> tuple[list[str], list[list[Any]]]:
    """Return column heads and rows of a ranking, for people."""
    columns = ["tile", "warps", "stages", "cycles / 1000 scores", "blocks", "bound by", "regs", "KiB", "ms"]
    rows = []
    for c in ranked:
        r, t = c.resources, c.resources.tile
        made = [f"{t.block_m}x{t.block_n}", t.warps, t.stages]
        judged = [c.cycles_per_kilo_score, c.blocks_per_sm, c.bound_by]
        rows.append([*made, *judged, r.registers, r.shared_bytes // 1024, c.measured_ms])
    return columns, rows


def bench_document(measured: pd.DataFrame) -> dict[str, Any]:
    """Return a table of measurements as one JSON document."""
    rows = [{k: None if _missing(v) else v for k, v in row.items()} for row in measured.to_dict("records")]
    return {"rows": rows, "rates": measured.attrs.get("rates", [])}


def _missing(value: Any) -> bool:
    return value is None or value != value or str(value) == "<NA>"


def bench_rows(measured: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """Return column heads and rows of measurements, for people."""
    columns = ["implementation", "sequence", "D", "mask", "threads", "ms", "quartiles", "ratio"]
    rows = []
    for r in bench_document(measured)["rows"]:
        mask = " ".join(
            filter(None, ["causal" if r["causal"] else "", f"window {r['window']}" if r["window"] else ""])
        )
        quartiles = f"{r['q25_ms']:.3g} - {r['q75_ms']:.3g}"
        rows.append([r["implementation"], r["seq_q"], r["head_dim"], mask or "-", r["threads"], r["latency_ms"],
                     quartiles, r["ratio"]])  # fmt: skip
    return columns, rows


def store_path() -> Path:
    """Return where the stored resource table of this installation lies."""
    return Path(str(resources.files("mappings"))) / "library" / "gpu" / "resources.csv"


def store_resources(found: Iterable[Resources], path: Path | None = None) -> Path:
    """Write the resources into the stored table and return its path.

    They take the place of all older rows of the same kernels and targets, so that no tile lingers that is no longer
    shipped.
    """
    path = path or store_path()
    new = [{k: str(v) for k, v in resource_row(r).items()} for r in found]
    replaced = {(row["kernel"], row["target"]) for row in new}
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [r for r in csv.DictReader(file) if (r["kernel"], r["target"]) not in replaced]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows + new, key=lambda r: tuple(r[k] for k in KEY)))
    return path
