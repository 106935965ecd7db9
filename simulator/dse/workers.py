"""Who runs the batches: processes of this machine, or a Dask cluster; both as a plain Executor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait


@dataclass(frozen=True, slots=True)
class Workers:
    """An executor, how many batches it runs at a time, and what it raises when it is lost.

    Attributes:
        executor: any `concurrent.futures.Executor`.
        width: batches that run at the same time.
        lost: errors that speak of the workers, not of the points.
        name: for people.
        advice: what to look at when it is lost.
    """

    executor: Executor
    width: int
    lost: tuple[type[BaseException], ...] = (BrokenExecutor, CancelledError)
    name: str = "the executor"
    advice: str = ""


_ADVICE = (
    "was it short of memory? A script that sweeps with processes begins with: if __name__ == '__main__':"
)


@contextlib.contextmanager
def processes(count: int) -> Iterator[Workers]:
    """Give a pool of processes, which end with this one however it ends, and at once where it is interrupted."""
    # A forked child would inherit the lock of the folder and hold it as an orphan; a spawned one starts clean.
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_follow_parent, initargs=(reader,))
    try:
        yield Workers(pool, count, name="the pool of worker processes", advice=_ADVICE)
    except BaseException:
        # What they work at is lost, and may take them long.
        writer.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        writer.close()
        reader.close()


def _follow_parent(open_while_wanted: Connection) -> None:
    """Leave Ctrl-C to the parent, and end when it does or wants no more: an orphan would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        wait([open_while_wanted, *([parent.sentinel] if parent is not None else [])])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
