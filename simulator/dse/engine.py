"""Sweep: evaluate every point of a space on any executor, save each batch as it comes, and merge the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.errors import DataError

from . import store as storage
from .batch import Evaluate, EvaluateMany, Task
from .continuation import check_same_sweep
from .runner import Kept, Pending, running
from .space import Derived, Points, Range, Space
from .tables import fresh, merge, write_table
from .workers import Workers

if TYPE_CHECKING:
    import pandas as pd

    from .search import Search


def sweep(
    space: Space,
    *,
    evaluate: Evaluate,
    evaluate_many: EvaluateMany | None = None,
    out: str | Path | None = None,
    jobs: int = 1,
    workers: Workers | None = None,
    context: str = "",
    provenance: Mapping[str, Any] | None = None,
    progress: bool = False,
    search: Search | None = None,
) -> pd.DataFrame:
    """Return one row a point, in the order of the space; a point that cannot be had says why in `error`.

    Args:
        space: the points.
        evaluate: one point -> its results. Has to be picklable unless `jobs` is 1.
        evaluate_many: columns of points -> columns of results, when that is faster; a row that cannot be had
            has its message in a column `error`, and None where only others have a result. Where it raises, the
            points are tried one by one.
        out: the folder that keeps every point as soon as it is computed; None keeps them in memory only.
        jobs: processes; 1 stays in this one.
        workers: any other executor, for example that of a cluster.
        context: what the results depend on besides the point, for example inputs and model version.
        provenance: written into the manifest and the Parquet file.
        progress: whether to show a bar on stderr.
        search: tries `space.samples` points of the space, where its results so far let it hope for better ones; rows
            are in the order in which it asked for them.

    Raises:
        DataError: the folder cannot be written or holds another sweep, workers die, or every point fails.

    >>> sweep(Space({"x": [1, 2]}), evaluate=lambda point: {"y": point["x"] ** 2})["y"].tolist()
    [1, 4]
    """
    if jobs < 1:
        raise DataError(f"jobs: expected a whole number from 1, found {jobs}")
    task = Task(evaluate, evaluate_many, context)
    if out is None:
        memory = Memory()
        points = _computed(space, task, memory, jobs=jobs, workers=workers, progress=progress, search=search)
        return _usable(merge(memory.parts(), points, context))
    facts = {**(provenance or {}), **described(space), **({"search": search.method} if search else {})}
    with storage.opened(out) as store:
        if store.saved:
            check_same_sweep(store.folder, storage.manifest_in(store.folder), facts)
        storage.write_manifest(store.folder, {**facts, "status": "running"})
        points = _computed(space, task, store, jobs=jobs, workers=workers, progress=progress, search=search)
        table = merge(store.parts(), points, context)
        _write(store.folder, table, {**facts, "points": len(points)})
    return _usable(table)


class Memory:
    """Keeps the points of a sweep without a folder."""

    def __init__(self) -> None:
        self.saved = 0
        self._parts: list[bytes] = []

    def append(self, data: bytes, count: int) -> None:
        """Keep a batch of points."""
        self._parts.append(data)
        self.saved += count

    def parts(self) -> Iterator[bytes]:
        """Yield every batch."""
        yield from self._parts


def described(space: Space) -> dict[str, Any]:
    """Return what the manifest says of a space."""
    axes = {
        name: {"from": v.low, "to": v.high, "log": v.log, "whole": v.whole, "unit": v.unit}
        if isinstance(v, Range)
        else list(v)
        for name, v in space.axes.items()
    }
    formulas = {
        n: {"formula": d.formula, "unit": d.unit} if isinstance(d, Derived) else {"formula": d, "unit": ""}
        for n, d in space.derived.items()
    }
    drawn: dict[str, Any] = {}
    if space.samples is not None:
        drawn = {"samples": space.samples, "seed": space.seed, "design": space.design}
    return {"axes": axes, "derived": formulas, "where": list(space.where), **drawn, "points": len(space)}


def space_of(manifest: Mapping[str, Any]) -> Space:
    """Return the space that a manifest describes.

    >>> space = Space({"x": [1, 2]}, where=("x > 1",))
    >>> space_of(described(space)) == space
    True
    """

    def axis(given: Any) -> Any:
        if isinstance(given, list):
            return tuple(given)
        return Range(given["from"], given["to"], given["log"], given["whole"], given["unit"])

    return Space(
        {name: axis(given) for name, given in manifest["axes"].items()},
        where=tuple(manifest["where"]),
        derived={name: Derived(d["formula"], d["unit"]) for name, d in manifest["derived"].items()},
        **{name: manifest[name] for name in ("samples", "seed", "design") if name in manifest},
    )


def _write(folder: Path, table: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    write_table(folder, table, facts)
    failed = int(table["error"].notna().sum())
    columns = [c for c in table.columns if c != "error"]
    storage.write_manifest(folder, {**facts, "status": "complete", "failed": failed, "columns": columns})


def _usable(table: pd.DataFrame) -> pd.DataFrame:
    if table["error"].notna().all():
        reasons = table["error"].value_counts()
        raise DataError(f"all {len(table):,} points fail; most often: {reasons.index[0]}")
    return table


def _computed(
    space: Space,
    task: Task,
    kept: Kept,
    *,
    jobs: int,
    workers: Workers | None,
    progress: bool,
    search: Search | None,
) -> Points:
    """Compute and keep every point that is not kept yet; return the points of the table."""
    total = (space.samples or 0) if search else len(space)
    with running(task, kept, total=total, jobs=jobs, workers=workers, progress=progress) as runner:
        if search:
            from .search import searched

            return searched(space, search, runner)
        done = np.zeros(len(space), dtype=bool)
        if kept.saved:
            for _, _, places in fresh(kept.parts(), space, task.context):
                done[places] = True
        runner.resume(int(done.sum()))
        for _ in runner.run(Pending(space, done)):
            pass
    return space
