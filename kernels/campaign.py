"""A measuring campaign: every kernel, length, head size and mask, one CSV row at a time, resumable after any stop.

On a GPU the ceilings of the device come first (clock, copy, matrix product), then the cases, the most valuable first:
one length at which every kernel appears, then longer and shorter ones. The time of every case is estimated, so that a
budget of minutes is kept. A case is measured once its kernel has agreed with float64 on few tokens; a kernel that takes
the process along is not tried again, as every new process costs some ten seconds. Without a GPU, the same plan is
walked at tiny sizes through the interpreter, which shows that the script is ready and measures nothing. Inputs are
larger than any L2 cache, so that no launch finds its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch

from einsum_cascade.errors import KernelError
from einsum_cascade.terminal import bar, note

from . import beforehand, ceilings, check, device, journal, registry, timing, unattended
from .ceilings import Ceilings
from .measurement import Measurement, Setting
from .plans import Plan, case_of, gate_of, plan

__all__ = ["Plan", "case_of", "estimate_s", "plan", "run", "within", "work"]

# Of a measured case: inputs are drawn and checked, and the device's state is read while it is busy.
SETUP_S = 0.4
# Of a kernel's check before its first case: a small float64 reference, and functions are loaded from Triton's cache.
CHECK_S = 0.5
# A case that runs longer hangs: what it launches is compiled before, and it is measured in a second or two.
CASE_LIMIT_S = 60.0
# A kernel of which so many forms have taken their process along is not tried in any other form.
MOST_FATAL = 2
# What a tile kernel reaches of a plain matrix product, for a budget only. Source: Triton's forward pass on A100, H100
# and B200 lies between 0.4 and 0.65 of it in the published tables.
SHARE_OF_GEMM = 0.5
LEAST_ROUNDS = 5
LAUNCH_S = 5e-6


def call_s(p: Plan, rates: Ceilings) -> float:
    """Return the estimated time of one call, in seconds: products or memory, whichever takes longer."""
    products = p.flops / (SHARE_OF_GEMM * rates.gemm_flops_per_s)
    return max(products, p.bytes / rates.copy_bytes_per_s) + LAUNCH_S


def repeats_of(one_s: float) -> int:
    """Return launches a round: about 20 ms of them, from 1 to 10.

    >>> repeats_of(1e-3), repeats_of(0.005), repeats_of(0.1)
    (10, 4, 1)
    """
    return max(1, min(10, int(0.02 / one_s)))


def estimate_s(p: Plan, *, budget_s: float, rates: Ceilings) -> float:
    """Return the estimated time of a whole case whose kernel is compiled, in seconds.

    Args:
        budget_s: rounds are made while this lasts.
    """
    one = call_s(p, rates)
    rounds = max(budget_s, LEAST_ROUNDS * repeats_of(one) * one)
    return SETUP_S + 4 * one + rounds


def within(
    plans: Iterable[Plan],
    *,
    minutes: float | None,
    budget_s: float = 0.25,
    rates: Ceilings = ceilings.ASSUMED,
    compilers: int = 1,
) -> Iterator[tuple[Plan, float]]:
    """Yield the plans that fit in a budget, in order, each with the estimated seconds that it and those before it take.

    What they have to compile is done before the first of them is measured, and counts; a check takes the kernel of its
    case.
    A plan too long for what is left is passed over; shorter ones behind it may still fit.

    Args:
        compilers: processes that compile side by side.
    """
    measuring = 0.0
    seen: set[object] = set()
    for p in plans:
        new = {p.specialisation} - seen
        more = estimate_s(p, budget_s=budget_s, rates=rates) + (CHECK_S if new else 0.0)
        passed = measuring + more + beforehand.estimate_s(len(seen | new), among=compilers)
        if minutes is not None and passed > 60.0 * minutes:
            continue
        measuring += more
        seen |= new
        yield p, passed


def run(
    path: Path,
    plans: Iterable[Plan],
    *,
    on: str,
    minutes: float | None = None,
    progress: Callable[[Iterable[Plan]], Iterable[Plan]] = iter,
    budget_s: float = 0.25,
) -> int:
    """Measure the plans that the file lacks, each appended when it is done, and return how many were added.

    A case that cannot be measured (a wrong kernel, no memory left) is recorded beside the file with its error, and the
    next one follows.

    Args:
        path: CSV file in the schema of `kernels.measurement`; created where absent.
        on: "cuda", or "cpu" to walk the plan through the interpreter.
        minutes: plans that by their estimate do not fit are left to a later run; so is what the clock leaves no time
            for.

    Raises:
        DataError: the file holds something else.
        RuntimeError: a fault after which the device answers this process no more; see `kernels.unattended`.
    """
    start = time.monotonic()
    commit = device.commit()
    failed = journal.failures(path, commit=commit)
    past = journal.done(path) | failed.keys()
    name = device.measured_name(on)
    rates = _ceilings(path, past, budget_s) if on == "cuda" else ceilings.ASSUMED
    keyed = [(p, _key_of(p, name)) for p in plans]
    fatal = [p for p, key in keyed if unattended.is_fatal(failed.get(key, ""))]
    todo = _trusted([p for p, key in keyed if key not in past], fatal)
    compilers = beforehand.workers()
    fitting = within(todo, minutes=minutes, budget_s=budget_s, rates=rates, compilers=compilers)
    chosen = [p for p, _ in fitting]
    if on == "cuda":
        _compile(chosen, compilers)
    wrong: dict[object, str] = {}
    added = 0
    for p in progress(chosen):
        if minutes is not None and time.monotonic() - start > 60.0 * minutes:
            break
        key = _key_of(p, name)
        unattended.note_running(path, key)
        error = _attempt(p, path, on, wrong, budget_s, repeats_of(call_s(p, rates)))
        if error is not None:
            journal.fail(path, key, error, commit=commit)
        unattended.note_running(path, None)
        added += error is None
    return added


def _trusted(todo: list[Plan], fatal: Iterable[Plan]) -> list[Plan]:
    """Return the plans without those of a kernel that has taken its process along, and tell of them.

    The same form of it would do so again at every length; where several forms have, so would the others.

    Args:
        fatal: the cases that did.
    """
    forms = {p.specialisation: p.entry for p in fatal}
    count = Counter(forms.values())
    kept = [p for p in todo if p.specialisation not in forms and count[p.entry] < MOST_FATAL]
    if lost := len(todo) - len(kept):
        note(f"{lost} cases are left out: of {', '.join(count)}, which took the process along before")
    return kept


def work(path: Path, plans: Iterable[Plan], on: str, *, minutes: float) -> int:
    """Run a campaign with a progress bar: what `kernels.unattended.supervise` calls in its own process."""
    return run(path, plans, on=on, minutes=minutes, progress=bar("campaign"))


def _attempt(
    p: Plan, path: Path, on: str, wrong: dict[object, str], budget_s: float, repeats: int
) -> str | None:
    """Measure one case and append its row; return the error where it fails.

    Args:
        wrong: error of each compiled kernel that has failed its check, empty where it passed; kept between the cases.
    """
    try:
        if on == "cuda" and p.specialisation not in wrong:
            wrong[p.specialisation] = _check(p)
        if wrong.get(p.specialisation):
            return wrong[p.specialisation]
        journal.append(path, [_measured(p, on, budget_s, repeats)])
    except (KernelError, RuntimeError) as error:
        if on == "cuda":
            # Raises again where the fault was not the kernel's alone but has taken the device from this process.
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        return f"{type(error).__name__}: {error}"
    return None


def _compile(plans: Iterable[Plan], compilers: int) -> None:
    """Compile what the plans launch on the present GPU, side by side."""
    beforehand.compile_here(beforehand.jobs_of(plans), among=compilers)


def _ceilings(path: Path, past: set[journal.Key], budget_s: float) -> Ceilings:
    """Return the ceilings of the GPU, measured now; their rows are appended where the file lacks them."""
    rates, spreads = ceilings.measure(budget_s=budget_s)
    journal.append(path, [r for r in _ceiling_rows(rates, spreads) if journal.key_of(r) not in past])
    return rates


def _check(p: Plan) -> str:
    """Return what is wrong where the kernel of a case, compiled and tiled as it is measured, disagrees with float64."""
    case = gate_of(p)
    outcome = check.run_case(registry.find(p.entry), case, device="cuda")
    return (
        "" if outcome.ok else f"relative error {outcome.error:.3g} against float64 ({case.label}); not timed"
    )


def _ceiling_rows(rates: Ceilings, spreads: Mapping[str, timing.Spread]) -> Iterator[Measurement]:
    for name, flops in (("copy", 0.0), ("gemm", 2.0 * ceilings.SIDE**3)):
        setting = Setting(1, 1, ceilings.SIDE, ceilings.SIDE, dtype="bf16")
        facts = {"clock_mhz": f"{rates.clock_hz / 1e6:.0f}"} | (
            {"bytes": 2 * ceilings.COPY_BYTES} if name == "copy" else {}
        )
        yield _row(
            Plan(name, "torch", "probe", setting, flops, 0.0, facts),
            spreads[name],
            "cuda",
            device.environment("cuda"),
        )


def _key_of(p: Plan, device_name: str) -> tuple[str, ...]:
    s = p.setting
    values = (device_name, p.entry, p.variant, p.direction, s.dtype, s.batch, s.heads, s.seq, s.head_dim, int(s.causal),
              "" if s.window is None else s.window)  # fmt: skip
    return tuple(map(str, values))


def _measured(p: Plan, on: str, budget_s: float, repeats: int) -> Measurement:
    entry = registry.find(p.entry)
    launcher = registry.load(entry.launcher)
    tensors = registry.load(entry.inputs)(**p.sizes, dtype=p.setting.dtype, extras=p.extras, device=on)
    _gate(p, launcher(**tensors, **p.options, empty=check.poisoned))
    calls = {"it": lambda: launcher(**tensors, **p.options)}
    if on == "cuda":
        from .bench_cuda import event_clock

        def clock(call: Callable[[], object]) -> float:
            return event_clock(call, repeats=repeats)

        times = timing.interleaved(
            calls, clock=clock, budget_s=budget_s, least_rounds=LEAST_ROUNDS, warm_up=3
        )
    else:
        times = timing.interleaved(calls, least_rounds=1, most_rounds=1, warm_up=0)
    return _row(p, timing.spread(times["it"]), on, device.under_load(calls["it"], on))


def _gate(p: Plan, results: tuple[torch.Tensor, ...]) -> None:
    """Raise where a result was not written everywhere; the numbers themselves are compared at fewer tokens."""
    for result, name in zip(results, registry.find(p.entry).outputs, strict=True):
        if bool(result.isnan().any()):
            raise KernelError(f"{p.entry} ({p.variant}, {dict(p.sizes)}): {name} holds NaN; not timed")


def _row(p: Plan, s: timing.Spread, on: str, facts: dict[str, str]) -> Measurement:
    power = facts.get("power_w", "")
    setting = p.setting
    source = f"cascade kernels campaign, commit {facts.pop('commit')}"
    extra = device.as_pairs({**p.sizes} | {**p.options} | facts)
    return Measurement(
        source=source, device=device.measured_name(on), kernel=p.entry,
        implementation=p.variant, direction=p.direction, dtype=setting.dtype, batch=setting.batch, heads=setting.heads,
        seq_q=p.sizes.get("seq_q", setting.seq), seq_kv=setting.seq, head_dim=setting.head_dim,
        causal=int(setting.causal), extra=extra, latency_ms=s.median * 1e3,
        tflops=p.flops / s.median / 1e12 if p.flops else None, kv_heads=setting.kv_heads or setting.heads,
        window=setting.window,
        kv_dtype=setting.dtype, power_w=float(power) if power.replace(".", "", 1).isdigit() else None,
        q25_ms=s.q25 * 1e3, q75_ms=s.q75 * 1e3, rounds=s.rounds, threads=None, ratio=None, ratio_q25=None,
        ratio_q75=None,
    )  # fmt: skip
