"""Measure the kernels on the device at hand: a gate of correctness, then medians, one row a case."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum_cascade.terminal import note

from . import device as devices
from . import journal
from .measurement import Measurement, Setting, as_table, read_table, write_table

if TYPE_CHECKING:
    import pandas as pd

    from .bench_cpu import Rates

# (heads, sequence, head size): where a CPU leaves its caches, twice over, and one larger head.
CPU_QUICK = ((4, 1024, 64), (2, 2048, 64))
CPU_FULL = ((4, 512, 64), (4, 1024, 64), (4, 2048, 64), (4, 2048, 128), (4, 4096, 64))
WINDOWS = (128, 256)
# No size is begun after this long, so that a busy machine makes the table shorter and not the wait longer.
LIMIT_S = {True: 9.0, False: 32.0}


def run(
    device: str = "cpu",
    quick: bool = True,
    progress: bool = True,
    *,
    flex: bool = False,
    out: Path | None = None,
    minutes: float = 9.0,
) -> pd.DataFrame:
    """Return measured times of attention on this machine, one row a case.

    Every implementation first has to agree with a float64 reference. Times are medians over interleaved rounds.

    Args:
        device: "cpu", or "cuda" where a GPU is.
        quick: fewer sizes; on a CPU under 12 s instead of under 40 s.
        progress: show a bar on stderr.
        flex: on a CPU, measure flex_attention too, at the middle size; compiling it takes minutes.
        out: CSV file for the table. On a GPU it grows while it is measured, and one that is there goes on.
        minutes: on a GPU, time for all problems together.

    Returns:
        The columns of `kernels.measurement.COLUMNS`; on a CPU the rates of the machine are in `attrs["rates"]`, one
        mapping for each size and number of threads.

    Raises:
        KernelError: no such device, or an implementation that is wrong.
    """
    if devices.resolve(device) == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            return _cuda(out or Path(folder) / "bench.csv", quick, progress, minutes)
    table = _with_rates(*_cpu(quick, progress, flex))
    if out is not None:
        write_table(table, out)
    return table


def _cuda(path: Path, quick: bool, progress: bool, minutes: float) -> pd.DataFrame:
    from . import bench_cuda, unattended

    unattended.supervise(bench_cuda.work, path, quick, progress, minutes=minutes)
    failed = journal.failures(path, commit=devices.commit())
    if failed:
        note(f"bench: {len(failed)} problems failed: {'; '.join(dict.fromkeys(failed.values()))}")
    keys = {bench_cuda.key_of(p, "cuda") for p in bench_cuda.settings(quick=quick)}
    if left := len(keys - journal.done(path) - failed.keys()):
        note(f"bench: {left} of {len(keys)} problems are left to another run on the same table")
    return read_table(path)


def _cpu(quick: bool, progress: bool, flex: bool) -> tuple[list[Measurement], list[Rates]]:
    import torch

    from . import bench_cpu

    counts = tuple(dict.fromkeys((1, torch.get_num_threads())))
    budget_s = 1.6 if quick else 3.0
    work: list[Callable[[], Any]] = []
    for heads, seq, head_dim in CPU_QUICK if quick else CPU_FULL:
        setting = Setting(1, heads, seq, head_dim)
        work += [
            functools.partial(bench_cpu.measure, setting, WINDOWS, count=c, budget_s=budget_s) for c in counts
        ]
    results = _within(LIMIT_S[quick], work, progress)
    if flex:
        middle = Setting(1, *CPU_QUICK[-1])
        results.append(bench_cpu.measure(middle, WINDOWS, count=counts[-1], budget_s=budget_s, flex=True))
    return [row for rows, _ in results for row in rows], [rates for _, rates in results]


def _within(limit_s: float, work: list[Callable[[], Any]], progress: bool) -> list[Any]:
    """Return the results of the tasks that were begun in time; half of them are measured anyway."""
    start = time.perf_counter()
    results: list[Any] = []
    for task in _bar(work, progress, "bench cpu"):
        if time.perf_counter() - start > limit_s and len(results) >= len(work) // 2:
            note(
                f"bench: the machine is busy; {len(work) - len(results)} of {len(work)} measurements are left out"
            )
            break
        results.append(task())
    return results


def _with_rates(rows: Iterable[Measurement], rates: Iterable[Rates]) -> pd.DataFrame:
    """Return the table of measurements with the machine's rates in `attrs["rates"]`."""
    table = as_table(rows)
    table.attrs["rates"] = [asdict(r) for r in rates]
    return table


def _bar(items: Iterable[Any], progress: bool, what: str) -> Iterable[Any]:
    from tqdm.auto import tqdm

    shown: Iterable[Any] = tqdm(items, desc=what, disable=not progress, leave=False)
    return shown
