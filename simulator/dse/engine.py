"""Sweep: evaluate every point of a space on any executor, save each batch as it comes, and merge the table."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from einsum_cascade.errors import DataError

from . import store as storage
from .batch import Batch, Evaluate, EvaluateMany, Task, work
from .coded import Coded
from .continuation import check_same_sweep
from .space import Derived, Points, Range, Space
from .tables import fresh, merge, write_table
from .workers import Workers, processes

if TYPE_CHECKING:
    import pandas as pd

# A batch should take about this long: long enough to hide its overhead, short enough to lose little to a kill.
_BATCH_S = 0.5
_MOST_IN_BATCH = 1 << 16
_GROWTH = 32
# Processes take about as long to start, so a small sweep is done before they would be ready.
_ALONE_S = 1.0


class Kept(Protocol):
    """What keeps the points: a folder, or memory."""

    saved: int

    def append(self, data: bytes, count: int) -> None:
        """Keep a batch of points."""

    def parts(self) -> Iterator[bytes]:
        """Yield every batch."""


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
        _compute(space, task, memory, jobs, workers, progress)
        return _usable(merge(memory.parts(), space, context))
    facts = {**(provenance or {}), **described(space)}
    with storage.opened(out) as store:
        if store.saved:
            check_same_sweep(store.folder, storage.manifest_in(store.folder), facts)
        storage.write_manifest(store.folder, {**facts, "status": "running"})
        _compute(space, task, store, jobs, workers, progress)
        table = merge(store.parts(), space, context)
        _write(store.folder, table, facts)
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
    drawn = {} if space.samples is None else {"samples": space.samples, "seed": space.seed}
    return {"axes": axes, "derived": formulas, "where": list(space.where), **drawn, "points": len(space)}


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


class _Pending:
    """The points still to compute, handed out in batches whose size follows the measured speed."""

    def __init__(self, space: Points, done: Any) -> None:
        self._space = space
        # Where nothing is done yet, batches are blocks of the space.
        self._left = np.flatnonzero(~done) if done.any() else None
        self._count = len(space) if self._left is None else len(self._left)
        self._next = 0
        self._size = 1

    def __bool__(self) -> bool:
        return self._next < self._count

    def __len__(self) -> int:
        return self._count - self._next

    def take(self) -> dict[str, Coded]:
        if self._left is None:
            size = self._space.run(self._next, self._size)
            positions: Any = range(self._next, self._next + size)
        else:
            positions = self._left[self._next : self._next + self._size]
        self._next += len(positions)
        return self._space.coded(positions)

    def learn(self, batch: Batch) -> None:
        wanted = int(_BATCH_S * batch.count / max(batch.seconds, 1e-9))
        self._size = max(1, min(wanted, self._size * _GROWTH, _MOST_IN_BATCH))


def _compute(
    space: Points, task: Task, kept: Kept, jobs: int, workers: Workers | None, progress: bool
) -> None:
    """Compute and keep every point that is not kept yet."""
    from tqdm import tqdm

    done = np.zeros(len(space), dtype=bool)
    if kept.saved:
        for _, _, places in fresh(kept.parts(), space, task.context):
            done[places] = True
    pending = _Pending(space, done)
    bar = tqdm(
        total=len(space),
        initial=len(space) - len(pending),
        unit=" points",
        disable=not progress,
        file=sys.stderr,
        mininterval=0.3,
    )
    failed = 0
    try:
        with bar:
            for batch in _batches(task, pending, jobs, workers):
                kept.append(batch.data, batch.count)
                failed += batch.failed
                if failed:
                    bar.set_postfix(failed=failed, refresh=False)
                bar.update(batch.count)
    except KeyboardInterrupt:
        print(
            f"interrupted; {kept.saved:,} points are saved, the same command goes on from there",
            file=sys.stderr,
        )
        raise


def _batches(task: Task, pending: _Pending, jobs: int, workers: Workers | None) -> Iterator[Batch]:
    if workers is None:
        yield from _alone(task, pending, _ALONE_S if jobs > 1 else float("inf"))
        if not pending:
            return
    with nullcontext(workers) if workers else processes(jobs) as found:
        yield from _together(task, pending, found)


def _alone(task: Task, pending: _Pending, seconds: float) -> Iterator[Batch]:
    until = time.monotonic() + seconds
    while pending and time.monotonic() < until:
        batch = work(task, pending.take())
        pending.learn(batch)
        yield batch


def _together(task: Task, pending: _Pending, workers: Workers) -> Iterator[Batch]:
    """Keep the executor busy, two batches a worker, and yield what is done in whatever order it comes."""
    running: set[Future[Batch]] = set()
    try:
        while pending or running:
            while pending and len(running) < 2 * workers.width:
                running.add(workers.executor.submit(work, task, pending.take()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                batch = future.result()
                pending.learn(batch)
                yield batch
    except workers.lost as error:
        reason = " ".join(f"{type(error).__name__} {error}".split()).rstrip(".")
        advice = f"; {workers.advice}" if workers.advice else ""
        raise DataError(
            f"{workers.name} is lost ({reason}); what it had finished is saved, and the same command goes on "
            f"from there{advice}"
        ) from None
    finally:
        for future in running:
            future.cancel()
