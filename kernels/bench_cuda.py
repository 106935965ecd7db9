"""A GPU measured: our Triton kernels beside their peers, with cold caches and outputs that were checked first."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import triton

from einsum_cascade.errors import KernelError
from einsum_cascade.terminal import note

from . import ceilings, check, device, journal, registry, timing, unattended
from .measurement import OURS, Measurement, Setting
from .peers import Call, Problem, Tensors, peers

# The most valuable first: the length of common models, then longer, then shorter ones.
QUICK = (4096, 1024)
FULL = (4096, 16384, 1024, 8192, 2048)
HEAD_DIMS = (128, 64)
TOKENS = 16384
# Rows of one head that the gate compares.
GATE_ROWS = 256
# Work for 8 and for 34 ms behind which a row of launches gathers where 2 ms were not enough; a call that waits for the
# GPU itself never gathers, and is timed as it is.
LONGER_LEADS = (4 * ceilings.LEAD_SPINS, 16 * ceilings.LEAD_SPINS)
# How another package says that it cannot do what it is asked, or not with these words: a peer is no part of ours, and
# its next version may take other arguments.
PEER_ERRORS = (
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    ImportError,
    AssertionError,
    triton.TritonError,
)


def settings(*, quick: bool) -> Iterator[Problem]:
    """Yield the problems of 16K tokens in all: dense, causal, causal window, linear, neighborhoods.

    All kinds and head sizes appear at the first length: peers that are compiled for each problem take minutes together,
    and what the time does not suffice for should be other lengths.
    """
    for seq, head_dim in itertools.product(QUICK if quick else FULL, HEAD_DIMS):
        dense = Setting(max(1, TOKENS // seq), 2048 // head_dim, seq, head_dim, dtype="bf16")
        yield attention(dense)
        yield attention(replace(dense, causal=True))
        if seq > 1024:
            yield attention(replace(dense, causal=True, window=1024))
        tokens = TOKENS * dense.heads
        linear = 4.0 * tokens * head_dim * (head_dim + 64)
        yield Problem("linear_attention", replace(dense, causal=True), linear, _sizes(dense))
        side = math.isqrt(seq)
        # The whole mask of a layout is materialised for its gate.
        if side * side == seq <= 4096:
            yield neighborhood(dense, layout=(side, side), window=(side // 4 + 1,) * 2)


def attention(s: Setting) -> Problem:
    """Return a problem of softmax attention."""
    return Problem("flash_attention", s, s.flops, _sizes(s), {"causal": s.causal, "window": s.window})


def neighborhood(s: Setting, *, layout: tuple[int, ...], window: tuple[int, ...]) -> Problem:
    """Return a problem of neighborhood attention; every query sees a whole window."""
    flops = 4.0 * s.batch * s.heads * s.head_dim * s.seq * math.prod(window)
    sizes = {"layout": layout, "heads": s.heads, "head_dim": s.head_dim, "batch": s.batch}
    return Problem("neighborhood_attention", s, flops, sizes, {"window": window})


def _sizes(s: Setting) -> dict[str, int | None]:
    return {"batch": s.batch, "heads": s.heads, "kv_heads": s.kv_heads, "seq_q": s.seq, "seq_kv": s.seq,
            "head_dim": s.head_dim}  # fmt: skip


def contenders(problem: Problem) -> Iterator[tuple[str, Call]]:
    """Yield name and call of the implementations that can compute a problem: ours first."""
    yield OURS, ours(problem)
    yield from peers(problem)


def ours(problem: Problem, **more: Any) -> Call:
    """Return the call of our own kernel.

    Args:
        more: arguments beside those of the problem, such as `empty`.
    """
    launcher = registry.load(registry.find(problem.kernel).launcher)
    return lambda tensors: launcher(**tensors, **problem.options, **more)[0]


def run(
    path: Path,
    problems: Iterable[Problem],
    *,
    minutes: float | None = None,
    progress: Callable[[Iterable[Problem]], Iterable[Problem]] = iter,
    on: str = "cuda",
    **measuring: Any,
) -> int:
    """Measure the problems that a table lacks, the rows of each appended when it is done; return the problems added.

    A problem that our kernel fails is recorded beside the table with its error, and the next one follows.

    Args:
        path: CSV file in the schema of `kernels.measurement`; created where absent.
        minutes: no problem is begun after this long.
        measuring: further arguments of `measure`.

    Raises:
        RuntimeError: a fault after which the device answers this process no more; see `kernels.unattended`.
    """
    start, commit = time.monotonic(), device.commit()
    past = journal.done(path) | journal.failures(path, commit=commit).keys()
    todo = [p for p in problems if key_of(p, on) not in past]
    added = 0
    for problem in progress(todo):
        if minutes is not None and time.monotonic() - start > 60.0 * minutes:
            break
        unattended.note_running(path, key_of(problem, on))
        try:
            journal.append(path, measure(problem, on=on, **measuring))
            added += 1
        except (KernelError, RuntimeError) as error:
            if on == "cuda":
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            journal.fail(path, key_of(problem, on), f"{type(error).__name__}: {error}", commit=commit)
        unattended.note_running(path, None)
    return added


def work(path: Path, quick: bool, progress: bool, *, minutes: float) -> int:
    """Run the whole bench with a progress bar: what `kernels.unattended.supervise` calls in its own process."""
    from tqdm.auto import tqdm

    def bar(problems: Iterable[Problem]) -> Iterable[Problem]:
        shown: Iterable[Problem] = tqdm(problems, desc="bench cuda", disable=not progress, leave=False)
        return shown

    return run(path, settings(quick=quick), minutes=minutes, progress=bar)


def key_of(problem: Problem, on: str) -> journal.Key:
    """Return the key of the row that our kernel has in a table."""
    s = problem.setting
    values = (device.measured_name(on), problem.kernel, OURS, "fwd", s.dtype, s.batch, s.heads, s.seq, s.head_dim,
              int(s.causal), "" if s.window is None else s.window)  # fmt: skip
    return tuple(map(str, values))


def measure(
    problem: Problem,
    *,
    budget_s: float = 1.0,
    on: str = "cuda",
    clock: timing.Clock | None = None,
) -> list[Measurement]:
    """Return one row for every implementation that can compute the problem and agrees with float64.

    Args:
        on: "cuda"; "cpu" walks the same way through the interpreter, which measures nothing.
        clock: seconds of one call; GPU events where not given.
    """
    copies = rotating(problem, on)
    truth = _truth(problem, copies[0])
    checked = {OURS: ours(problem, empty=check.poisoned)}
    entered = {
        name: call
        for name, call in contenders(problem)
        if _admitted(name, checked.get(name, call), problem, copies[0], truth)
    }
    before = device.environment(on)
    times = timing.interleaved(
        {name: timing.in_turn(call, copies) for name, call in entered.items()},
        clock=clock or event_clock,
        budget_s=budget_s,
        warm_up=3 if on == "cuda" else 0,
        least_rounds=3 if on == "cuda" else 1,
    )
    state = device.under_load(timing.in_turn(entered[OURS], copies), on) | {
        "sm_clock_before_mhz": before.get("sm_clock_mhz", "")
    }
    over = timing.ratios(times, OURS)
    return [_row(problem, name, timing.spread(times[name]), over[name], state, on) for name in entered]


def rotating(problem: Problem, on: str) -> list[Tensors]:
    """Return copies of the inputs that together are more than twice the L2 cache, so that no launch finds its own."""
    entry = registry.find(problem.kernel)
    first: Tensors = registry.load(entry.inputs)(**problem.sizes, dtype=problem.setting.dtype, device=on)
    size = sum(t.numel() * t.element_size() for t in first.values())
    more = 2 * device.cache_bytes(on) // size + 1 if on == "cuda" else 0
    return [first] + [{n: t.clone() for n, t in first.items()} for _ in range(more)]


def event_clock(call: Callable[[], object], *, repeats: int = 10) -> float:
    """Return seconds of one launch on the GPU, from events around a row of launches.

    The GPU is kept busy while the row is queued, so that short kernels follow each other as fast as it can run them and
    not as fast as Python can launch them. Where it was done before the whole row was queued, it is kept busy longer.
    """
    for spins in (ceilings.LEAD_SPINS, *LONGER_LEADS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        ceilings.keep_busy(spins)
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        gathered = not begin.query()
        torch.cuda.synchronize()
        if gathered:
            break
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def _truth(problem: Problem, tensors: Tensors) -> tuple[slice, torch.Tensor]:
    """Return some rows of the first head, and their float64 result: few rows, so that any length is cheap.

    The last queries of softmax attention see every kind of tile; the first tokens of linear attention need no others.
    """
    exact = {n: (t[:1] if n == "decay" else t[:1, :1]).double().cpu() for n, t in tensors.items()}
    rows = slice(None)
    if problem.kernel == "flash_attention":
        rows = slice(-min(GATE_ROWS, problem.setting.seq), None)
        exact["q"] = exact["q"][:, :, rows]
    elif problem.kernel == "linear_attention":
        rows = slice(0, 4 * GATE_ROWS)
        exact |= {n: exact[n][:, :, rows] for n in "qkv"}
    entry = registry.find(problem.kernel)
    return rows, registry.load(entry.reference)(**exact, **problem.options)[0]


def _admitted(
    name: str, call: Call, problem: Problem, tensors: Tensors, truth: tuple[slice, torch.Tensor]
) -> bool:
    """Tell whether an implementation is there and right; a peer that is not is left out, with a word on stderr.

    Some rows are compared with float64; all others have to be numbers, which what was never written is not.

    Raises:
        KernelError: our own kernel does not run, or disagrees with float64.
    """
    try:
        got = call(tensors)
    except PEER_ERRORS as error:
        if name == OURS and not isinstance(error, RuntimeError):
            raise
        if name == OURS:
            raise KernelError(f"{name}: {error}") from error
        # What PyTorch has not on this device is no news; whatever else keeps a peer out is.
        if "vailable kernel" not in str(error):
            note(f"{name} is left out: {' '.join(str(error).split())[:300]}")
        return False
    rows, expected = truth
    error_found = check.relative_error(got[:1, :1, rows], expected)
    if bool(got.isnan().any()):
        error_found = math.inf
    if error_found <= check.LIMITS[problem.setting.dtype]:
        return True
    wrong = f"{name}: relative error {error_found:.3g} against float64; not timed"
    if name == OURS:
        raise KernelError(wrong)
    note(wrong)
    return False


def _row(
    problem: Problem, name: str, s: timing.Spread, ratio: timing.Spread, state: dict[str, str], on: str
) -> Measurement:
    facts = dict(state)
    power = facts.get("power_w", "")
    setting = problem.setting
    remarks = {n: v for n, v in problem.options.items() if n not in ("causal", "window")}
    if problem.kernel != "flash_attention":
        remarks |= {n: v for n, v in problem.options.items() if n == "window"} | {
            "layout": problem.sizes.get("layout")
        }
    return Measurement(
        source=f"cascade kernels bench, commit {facts.pop('commit')}", device=device.measured_name(on),
        kernel=problem.kernel, implementation=name, direction="fwd", dtype=setting.dtype, batch=setting.batch,
        heads=setting.heads, seq_q=setting.seq, seq_kv=setting.seq, head_dim=setting.head_dim,
        causal=int(setting.causal), extra=device.as_pairs(remarks | facts), latency_ms=s.median * 1e3,
        tflops=problem.flops / s.median / 1e12, kv_heads=setting.kv_heads or setting.heads, window=setting.window,
        kv_dtype=setting.dtype, power_w=float(power) if power.replace(".", "", 1).isdigit() else None,
        q25_ms=s.q25 * 1e3, q75_ms=s.q75 * 1e3, rounds=s.rounds, threads=None, ratio=ratio.median,
        ratio_q25=ratio.q25, ratio_q75=ratio.q75,
    )  # fmt: skip
