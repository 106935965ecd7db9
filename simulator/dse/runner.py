"""The running of a sweep: what is left is handed out in batches, evaluated here or by workers, and kept as it comes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol

import numpy as np

from einsum_cascade.errors import DataError

from .batch import Batch, Task, work
from .coded import Coded
from .space import Points
from .workers import Workers, processes

# A batch should take about this long: long enough to hide its overhead, short enough to lose little to a kill.
_BATCH_S = 0.5
# At the end of a sweep batches get shorter, so that no worker waits long for the last one; but not shorter than this.
_LAST_S = 0.05
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


class Pending:
    """The points still to compute, handed out in batches whose size follows the measured speed."""

    def __init__(self, space: Points, done: Any, size: int = 1) -> None:
        self._space = space
        # Where nothing is done yet, batches are blocks of the space.
        self._left = np.flatnonzero(~done) if done.any() else None
        self._count = len(space) if self._left is None else len(self._left)
        self._next = 0
        self.size = size
        self._least = 1

    def __bool__(self) -> bool:
        return self._next < self._count

    def __len__(self) -> int:
        return self._count - self._next

    def take(self, width: int = 1) -> dict[str, Coded]:
        """Return the next batch; `width` of them run at the same time."""
        share = -(-len(self) // (2 * width)) if width > 1 else len(self)
        most = min(self.size, max(share, self._least))
        if self._left is None:
            size = self._space.run(self._next, most)
            positions: Any = range(self._next, self._next + size)
        else:
            positions = self._left[self._next : self._next + most]
        self._next += len(positions)
        return self._space.coded(positions)

    def learn(self, batch: Batch) -> None:
        """Let the next batches be as long as the speed of this one asks for."""
        per_second = batch.count / max(batch.seconds, 1e-9)
        wanted = int(_BATCH_S * per_second)
        self._least = max(1, int(_LAST_S * per_second))
        self.size = max(1, min(wanted, self.size * _GROWTH, _MOST_IN_BATCH))


class Runner:
    """Evaluates points, here or on workers that are opened when there is enough to do; made by `running`."""

    def __init__(
        self, task: Task, kept: Kept, bar: Any, pool: Callable[[], Workers] | None, alone_s: float
    ) -> None:
        self.task = task
        self.kept = kept
        self.bar = bar
        self._pool = pool
        self._alone_until = time.monotonic() + alone_s
        self._failed = 0

    def resume(self, count: int) -> None:
        """Let the bar begin with the points that are there already."""
        self.bar.initial = self.bar.n = count
        self.bar.refresh()

    def run(self, pending: Pending) -> Iterator[Batch]:
        """Yield every batch once it is kept."""
        for batch in self._batches(pending):
            self.kept.append(batch.data, batch.count)
            self._failed += batch.failed
            if self._failed:
                self.bar.set_postfix(failed=self._failed, refresh=False)
            self.bar.update(batch.count)
            yield batch

    def _batches(self, pending: Pending) -> Iterator[Batch]:
        while pending and (self._pool is None or time.monotonic() < self._alone_until):
            batch = work(self.task, pending.take())
            pending.learn(batch)
            yield batch
        if pending and self._pool is not None:
            yield from _together(self.task, pending, self._pool())


@contextlib.contextmanager
def running(
    task: Task, kept: Kept, *, total: int, jobs: int, workers: Workers | None, progress: bool
) -> Iterator[Runner]:
    """Give a runner, its progress bar and, once they are needed, its worker processes."""
    from tqdm import tqdm

    with contextlib.ExitStack() as stack:
        bar: Any = tqdm(total=total, unit=" points", disable=not progress, file=sys.stderr, mininterval=0.3)
        stack.enter_context(bar)
        opened: list[Workers] = [workers] if workers else []

        def pool() -> Workers:
            if not opened:
                opened.append(stack.enter_context(processes(jobs)))
            return opened[0]

        alone_s = _ALONE_S if workers is None else 0.0
        try:
            yield Runner(task, kept, bar, pool if workers or jobs > 1 else None, alone_s)
        except KeyboardInterrupt:
            message = f"interrupted; {kept.saved:,} points are saved, the same command goes on from there"
            print(message, file=sys.stderr)
            raise


def _together(task: Task, pending: Pending, workers: Workers) -> Iterator[Batch]:
    """Keep the executor busy, two batches a worker, and yield what is done in whatever order it comes."""
    running: set[Future[Batch]] = set()
    try:
        while pending or running:
            while pending and len(running) < 2 * workers.width:
                running.add(workers.executor.submit(work, task, pending.take(workers.width)))
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
