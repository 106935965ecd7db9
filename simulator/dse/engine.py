"""Sweep: evaluate every point of a space on any executor, save each batch as it comes, and merge the table."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from einsum_cascade.errors import DataError

from . import store as storage
from .batch import Batch, Evaluate, EvaluateMany, Task, work
from .continuation import check_same_sweep
from .space import Derived, Range, Space
from .workers import Workers, processes

if TYPE_CHECKING:
    import pandas as pd

# A batch should take about this long: long enough to hide its overhead, short enough to lose little to a kill.
_BATCH_S = 0.5
_MOST_IN_BATCH = 1 << 14
_GROWTH = 8
# Processes take about as long to start, so a small sweep is done before they would be ready.
_ALONE_S = 1.0


class Kept(Protocol):
    """What keeps the points: a folder, or memory."""

    saved: int

    def append(self, lines: bytes) -> None:
        """Keep complete lines."""

    def lines(self) -> Iterator[bytes]:
        """Yield what was kept."""


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
    keys = task.keys(space)
    if out is None:
        memory = Memory()
        _compute(space, task, keys, memory, jobs, workers, progress)
        return _usable(_merged(memory.lines(), keys, space))
    facts = {**(provenance or {}), **described(space)}
    with storage.opened(out) as store:
        if store.saved:
            check_same_sweep(store.folder, storage.manifest_in(store.folder), facts)
        storage.write_manifest(store.folder, {**facts, "status": "running"})
        _compute(space, task, keys, store, jobs, workers, progress)
        table = _merged(store.lines(), keys, space)
        _write(store.folder, table, facts)
    return _usable(table)


class Memory:
    """Keeps the points of a sweep without a folder."""

    def __init__(self) -> None:
        self.saved = 0
        self._parts: list[bytes] = []

    def append(self, lines: bytes) -> None:
        """Keep complete lines."""
        self._parts.append(lines)
        self.saved += lines.count(b"\n")

    def lines(self) -> Iterator[bytes]:
        """Yield what was kept."""
        for part in self._parts:
            yield from part.splitlines(keepends=True)


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


def _merged(lines: Iterable[bytes], keys: list[str], space: Space) -> pd.DataFrame:
    from .tables import merge

    return merge(lines, keys, space.names)


def _write(folder: Path, table: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    from .tables import write_table

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
    """The positions still to compute, handed out in batches whose size follows the measured speed."""

    def __init__(self, positions: list[int]) -> None:
        self._positions = positions
        self._next = 0
        self._size = 1

    def __bool__(self) -> bool:
        return self._next < len(self._positions)

    def take(self) -> list[int]:
        out = self._positions[self._next : self._next + self._size]
        self._next += len(out)
        return out

    def learn(self, batch: Batch) -> None:
        wanted = int(_BATCH_S * batch.count / max(batch.seconds, 1e-9))
        self._size = max(1, min(wanted, self._size * _GROWTH, _MOST_IN_BATCH))


def _compute(
    space: Space, task: Task, keys: list[str], kept: Kept, jobs: int, workers: Workers | None, progress: bool
) -> None:
    """Compute and keep every point that is not kept yet."""
    from tqdm import tqdm

    done = {key for key, _ in storage.records(kept.lines())} if kept.saved else set()
    pending = _Pending(
        [i for i, key in enumerate(keys) if key not in done] if done else list(range(len(keys)))
    )
    before = len(keys) - len(pending._positions)
    bar = tqdm(
        total=len(keys),
        initial=before,
        unit=" points",
        disable=not progress,
        file=sys.stderr,
        mininterval=0.3,
    )
    failed = 0
    try:
        with bar:
            for batch in _batches(space, task, pending, jobs, workers):
                kept.append(batch.lines)
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


def _batches(
    space: Space, task: Task, pending: _Pending, jobs: int, workers: Workers | None
) -> Iterator[Batch]:
    if workers is None:
        yield from _alone(space, task, pending, _ALONE_S if jobs > 1 else float("inf"))
        if not pending:
            return
    with nullcontext(workers) if workers else processes(jobs) as found:
        yield from _together(space, task, pending, found)


def _alone(space: Space, task: Task, pending: _Pending, seconds: float) -> Iterator[Batch]:
    until = time.monotonic() + seconds
    while pending and time.monotonic() < until:
        batch = work(task, space.columns(pending.take()))
        pending.learn(batch)
        yield batch


def _together(space: Space, task: Task, pending: _Pending, workers: Workers) -> Iterator[Batch]:
    """Keep the executor busy, two batches a worker, and yield what is done in whatever order it comes."""
    running: set[Future[Batch]] = set()
    try:
        while pending or running:
            while pending and len(running) < 2 * workers.width:
                running.add(workers.executor.submit(work, task, space.columns(pending.take())))
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
