"""What can be named in a command: algorithms, hardware, mappings, kernels, models."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from einsum_cascade.errors import ModelError, nearest

Row = dict[str, Any]

# What a table for people shows of each kind; the rest is in the JSON.
COLUMNS = {"algorithms": ("name", "class", "passes", "ops/byte")}


def catalogue(kind: str) -> list[Row]:
    """Return name, summary and source of everything of one kind; of an algorithm also its class and stored facts.

    Raises:
        ModelError: an unknown kind.
    """
    if kind not in _KINDS:
        raise ModelError(f"cannot list '{kind}'; {nearest(kind, _KINDS)}")
    return _KINDS[kind]()


def shown(kind: str, rows: list[Row]) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and cells of a table for people."""
    columns = list(COLUMNS.get(kind, ("name", "summary", "source")))
    return columns, [[_cell(row, column) for column in columns] for row in rows]


def remark(kind: str) -> str:
    """Return what a reader of the table must know of its columns."""
    if kind != "algorithms":
        return ""
    from einsum_cascade.zoo.entries import STATED_LENGTH

    return (
        "passes: over a rank, as written -> after `cascade reduce`; ops/byte: operations (a multiply-accumulate "
        f"is two) per compulsory byte at {STATED_LENGTH // 1024}K elements, 2-byte words, indices at their "
        "kindest. --json: titles, sources."
    )


def _cell(row: Row, column: str) -> Any:
    if column == "passes":
        return ", ".join(_arrow(rank, c["naive"], c["best"]) for rank, c in row["passes"].items())
    return row["intensity"] if column == "ops/byte" else row[column]


def _arrow(rank: str, naive: int, best: int) -> str:
    return f"{rank} {naive}" if naive == best else f"{rank} {naive} -> {best}"


def _algorithms() -> list[Row]:
    """Return what is stored of the zoo: no cascade is parsed, nothing is analysed."""
    from einsum_cascade.zoo.entries import STATED_LENGTH, table

    return [
        {
            "name": e.name,
            "summary": e.summary,
            "source": e.source,
            "title": e.title,
            "class": e.kind,
            "passes": {rank: {"naive": c.naive, "best": c.best} for rank, c in e.passes.items()},
            "intensity": e.intensity,
            "intensity_length": STATED_LENGTH,
        }
        for e in table().values()
    ]


def _models() -> list[Row]:
    import csv
    from importlib import resources

    text = resources.files("einsum_cascade").joinpath("zoo/workloads.csv").read_text(encoding="utf-8")
    return [
        {
            "name": r["model"],
            "summary": ", ".join(f"{k}={v}" for k, v in r.items() if k not in ("model", "source")),
            "source": r["source"],
        }
        for r in csv.DictReader(text.splitlines())
    ]


def _kernels() -> list[Row]:
    from kernels import registry

    return [{"name": k.name, "summary": k.summary, "source": k.source} for k in registry.entries()]


def _described(module: str) -> Callable[[], list[Row]]:
    """Return a lister for a package whose `descriptions()` gives (name, summary, source) rows."""

    def rows() -> list[Row]:
        found = importlib.import_module(module).descriptions()
        return [{"name": n, "summary": s, "source": p} for n, s, p in found]

    return rows


_KINDS: dict[str, Callable[[], list[Row]]] = {
    "algorithms": _algorithms,
    "hardware": _described("simulator.hardware.reader"),
    "mappings": _described("mappings.files"),
    "kernels": _kernels,
    "models": _models,
}
