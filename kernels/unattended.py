"""Run measuring work in a process of its own, so that nothing that a kernel does to it ends a campaign.

A fault on a GPU takes the whole process with it, a kernel may never end, a compiler may crash. The work notes the case
that it is about to run in `NAME.running`; where its process dies or hangs, that case is recorded as failed and a new
process goes on behind it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from einsum_cascade.errors import KernelError

from . import device, journal

# Longer than any case takes: tens of seconds are for compiling, one for measuring.
CASE_LIMIT_S = 120.0
POLL_S = 0.2
# How it is told that a case took its process along, or never ended.
GIVEN_UP, DIED = "given up after", "the process died"


def marker(path: Path) -> Path:
    """Return the file that names the case in progress."""
    return path.with_suffix(".running")


def note_running(path: Path, key: journal.Key | None) -> None:
    """Note the case that is about to run, or that none is."""
    if key is None:
        marker(path).unlink(missing_ok=True)
    else:
        marker(path).write_text("\n".join(key), encoding="utf-8")


def is_fatal(error: str) -> bool:
    """Tell whether a recorded error is one that took the process along.

    >>> is_fatal("the process died with exit code -11"), is_fatal("KernelError: out of resource")
    (True, False)
    """
    return error.startswith((GIVEN_UP, DIED))


def supervise(
    work: Callable[..., int],
    path: Path,
    *arguments: Any,
    minutes: float,
    case_limit_s: float = CASE_LIMIT_S,
) -> None:
    """Call work(path, *arguments, minutes=what is left) in a fresh process, and again after each that died.

    Args:
        work: a function of a module, as it is looked up by name in the other process.
        minutes: of all processes together.
        case_limit_s: a case that runs longer is given up.

    Raises:
        KernelError: the process dies before it begins a case.
    """
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    note_running(path, None)
    while (left := minutes - (time.monotonic() - start) / 60.0) > 0:
        process = context.Process(target=attended, args=(work, path, *arguments), kwargs={"minutes": left})
        process.start()
        try:
            reason = _watch(process, path, case_limit_s, time.monotonic() + 60.0 * left + case_limit_s)
        finally:
            # After an interrupt nothing may go on measuring unseen.
            process.kill()
            process.join()
        if reason is None:
            return
        _blame(path, reason)


def attended(work: Callable[..., object], *arguments: Any, **named: Any) -> None:
    """Run the work in its own process, and end with the process that started it, however that one ends.

    A campaign that is killed and started again would otherwise share device and table with what the kill left over.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a process of its own only"

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
    work(*arguments, **named)


def _watch(process: Any, path: Path, case_limit_s: float, deadline: float) -> str | None:
    """Return None when a process has ended well, or else what became of it."""
    while process.is_alive():
        process.join(POLL_S)
        if _age_s(path) > case_limit_s or time.monotonic() > deadline:
            process.kill()
            process.join()
            return f"{GIVEN_UP} {case_limit_s:g} s"
    return None if process.exitcode == 0 else f"{DIED} with exit code {process.exitcode}"


def _age_s(path: Path) -> float:
    """Return how long the case in progress has been running; 0 where none is."""
    try:
        return time.time() - marker(path).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _blame(path: Path, reason: str) -> None:
    if not marker(path).exists():
        raise KernelError(f"{reason} before its first case; what it wrote is above")
    key = tuple(marker(path).read_text(encoding="utf-8").split("\n"))
    journal.fail(path, key, reason, commit=device.commit())
    note_running(path, None)
