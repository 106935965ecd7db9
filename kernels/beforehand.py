"""Compile what a campaign launches before it measures, on all CPUs at once: a GPU that waits for a compiler is lost.

Each kernel is launched as the campaign will launch it, in processes that never touch the GPU; what they compile they
leave in Triton's cache on disk, where the campaign finds it. One sequence stands for a batch, as the number of them is
no argument of a kernel.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence

from einsum_cascade.errors import KernelError
from einsum_cascade.machine import cpus
from einsum_cascade.terminal import note

from . import offline, registry, unattended
from .plans import Plan, gate_of
from .registry import Case

# One kernel, on one CPU. Source: `kernels check --target sm_90` compiled its first 287 launches in 255 s on a busy CPU,
# some of which are the same; the largest take 5 s.
COMPILE_S = 2.5
# A process of its own loads torch and Triton first.
START_S = 5.0
# More processes than this wait for each other: there are some 60 kernels, the longest of which take twice the mean.
MOST_WORKERS = 16

Job = tuple[str, Case]


def workers() -> int:
    """Return how many processes compile side by side here."""
    return min(MOST_WORKERS, cpus())


def jobs_of(plans: Iterable[Plan]) -> list[Job]:
    """Return what the plans launch, each kernel once, in their order, and then the checks before them.

    A check launches the kernel of its case, so that most of them find it compiled.
    """
    cases: dict[object, Job] = {}
    gates: dict[object, Job] = {}
    for p in plans:
        cases.setdefault(p.specialisation, (p.entry, p.alone))
        gates.setdefault(p.specialisation, (p.entry, gate_of(p)))
    return [*cases.values(), *gates.values()]


def estimate_s(jobs: int, *, among: int) -> float:
    """Return the estimated seconds of so many jobs among so many processes.

    >>> estimate_s(0, among=4), estimate_s(8, among=4), estimate_s(9, among=4)
    (0.0, 10.0, 12.5)
    """
    return START_S + COMPILE_S * -(-jobs // among) if jobs else 0.0


def compile_here(jobs: Sequence[Job], *, among: int | None = None) -> None:
    """Compile the jobs for the present GPU, and tell how long it took; what takes thrice its time is left for later.

    Args:
        among: processes side by side; as many as there are CPUs where not given.
    """
    if not jobs:
        return
    import torch

    among = among or workers()
    major, minor = torch.cuda.get_device_capability()
    limit_s = 3.0 * estimate_s(len(jobs), among=among)
    start = time.monotonic()
    whole = compile_all(jobs, capability=10 * major + minor, among=among, limit_s=limit_s)
    note(
        f"{len(jobs)} launches compiled in {time.monotonic() - start:.0f} s on {among} CPUs"
        + ("" if whole else ", not all of them: the others are compiled when they are launched")
    )


def compile_all(
    jobs: Sequence[Job],
    *,
    capability: int,
    among: int,
    limit_s: float,
    work: Callable[[Sequence[Job], int], None] | None = None,
) -> bool:
    """Compile the jobs for a GPU of a compute capability (times ten); return whether all was tried in time.

    What a compiler refuses, or does not come to, is compiled when its case is measured, and is told there.

    Args:
        limit_s: the processes are ended after this long.
        work: what each process does with its jobs.
    """
    context = multiprocessing.get_context("spawn")
    # Neighbours in the plan are alike in size: dealing them out in turn gives every process its share.
    shares = [share for i in range(among) if (share := jobs[i::among])]
    processes = [
        context.Process(target=unattended.attended, args=(work or compile_share, share, capability))
        for share in shares
    ]
    deadline = time.monotonic() + limit_s
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return all(process.exitcode == 0 for process in processes)
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def compile_share(jobs: Sequence[Job], capability: int) -> None:
    """Compile the jobs of one process, one after another."""
    for name, case in jobs:
        try:
            with offline.launching_on(capability):
                offline.call(registry.find(name), case)
        except (KernelError, RuntimeError):
            # The campaign records it, with its error, when the case's turn has come.
            continue
