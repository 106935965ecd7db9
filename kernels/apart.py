"""Run jobs in a process of their own, so that a kernel that faults or hangs takes no other along.

After a fault every later call of a process fails with the same error, and a kernel that never ends waits for ever. The
process sends each outcome when it has it; where it dies or falls silent, the check in progress has failed and a new
process goes on behind it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from einsum_cascade.errors import KernelError

from . import registry, unattended
from .beforehand import Job

# Sent before each check: what dies without it has no check in progress.
READY = "ready"

Serve = Callable[[Any, Sequence[Any]], None]


def outcomes(
    jobs: Sequence[Any],
    *,
    failed: Callable[[Any, str], Any],
    serve: Serve,
    case_limit_s: float = unattended.CASE_LIMIT_S,
) -> Iterator[Any]:
    """Yield the outcome of every job, in order.

    Args:
        failed: makes the outcome of a job that was never answered, from the reason.
        serve: a function of a module, called in the other process with a pipe and jobs: sends `READY` and an outcome
            for each job.
        case_limit_s: a job that runs longer is given up.

    Raises:
        KernelError: the process dies before its first job.
    """
    left = list(jobs)
    context = multiprocessing.get_context("spawn")
    while left:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=unattended.attended, args=(serve, there, left))
        process.start()
        there.close()
        try:
            begun = False
            while left:
                # Until the first check it loads torch, which no check is blamed for.
                word = _received(here, case_limit_s if begun else unattended.CASE_LIMIT_S)
                if word != READY and not begun:
                    raise KernelError(f"{word} before its first check; what it wrote is above")
                if word != READY:
                    break
                begun = True
                answer = _received(here, case_limit_s)
                job = left.pop(0)
                yield failed(job, answer) if isinstance(answer, str) else answer
                if isinstance(answer, str):
                    break
        finally:
            process.kill()
            process.join()
            here.close()


def _received(pipe: Any, limit_s: float) -> Any:
    """Return what a process sends next; as a text, `READY`, or why nothing comes."""
    if not pipe.poll(limit_s):
        return f"given up after {limit_s:g} s"
    try:
        return pipe.recv()
    except EOFError:
        return "the process died"


def on_gpu(pipe: Any, jobs: Sequence[Job]) -> None:
    """Send the outcome of each check on the GPU; a fault of the device ends the process."""
    import torch

    from .check import attempt

    for name, case in jobs:
        pipe.send(READY)
        outcome = attempt(registry.find(name), case, "cuda")
        pipe.send(outcome)
        if not outcome.ok:
            # Raises where the fault has taken the device from this process.
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
