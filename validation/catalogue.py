"""What can be named in a command: algorithms, hardware, mappings, kernels, models."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from einsum_cascade.errors import ModelError, nearest

Row = dict[str, str]


def catalogue(kind: str) -> list[Row]:
    """Return name, summary and source of everything of one kind.

    Raises:
        ModelError: an unknown kind.
    """
    if kind not in _KINDS:
        raise ModelError(f"cannot list '{kind}'; {nearest(kind, _KINDS)}")
    return _KINDS[kind]()


def _algorithms() -> list[Row]:
    from einsum_cascade import zoo

    loaded = [zoo.load(name) for name in zoo.names()]
    return [{"name": c.name, "summary": c.summary, "source": c.source} for c in loaded]


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
