"""Run jobs in several processes at once, each of which may die or hang without the others."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from einsum_cascade.errors import KernelError

from . import apart, beforehand

# A job; its number among all is given to whoever serves it, and comes back with the answer.
Numbered = tuple[int, Any]


def answers(
    jobs: Sequence[Any],
    *,
    serve: apart.Serve,
    failed: Callable[[Any, str], Any],
    limit_s: float,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[Any]:
    """Return the answer to each job, in order.

    Args:
        serve: a function of a module, called in the other processes with a pipe and numbered jobs: sends `apart.READY`
            and then the number with the answer for each.
        failed: makes the answer to a job that was never answered, from the reason.
        limit_s: a job that runs longer is given up.

    Raises:
        KernelError: a process dies before its first job.
    """
    numbered: list[Numbered] = list(enumerate(jobs))
    done: queue.SimpleQueue[Numbered | KernelError] = queue.SimpleQueue()

    def lane(own: Sequence[Numbered]) -> None:
        try:
            for answer in apart.outcomes(
                own,
                failed=lambda job, reason: (job[0], failed(job[1], reason)),
                serve=serve,
                case_limit_s=limit_s,
            ):
                done.put(answer)
        except KernelError as error:
            done.put(error)

    lanes = min(beforehand.workers(), len(numbered))
    for first in range(lanes):
        threading.Thread(target=lane, args=(numbered[first::lanes],), daemon=True).start()
    found: list[Any] = [None] * len(numbered)
    for _ in progress(range(len(numbered))):
        answer = done.get()
        if isinstance(answer, KernelError):
            raise answer
        found[answer[0]] = answer[1]
    return found
