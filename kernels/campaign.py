"""A measuring campaign: every kernel, length, head size and mask, one CSV row at a time, resumable after any stop.

On a GPU the ceilings of the device come first (copy, matrix product), then the cases in an order that covers all
kernels early. Without one, the same plan is walked at tiny sizes through the interpreter, which shows that the script
is ready and measures nothing. Inputs are larger than any L2 cache, so that no launch finds its own.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from einsum_cascade.errors import DataError, KernelError

from . import check, device, registry, timing
from .measurement import COLUMNS, Measurement, Setting

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
TOKENS = 65536
# Beyond this the scores of the unfused baseline alone would fill most cards.
MOST_UNFUSED = 8192
KEY = (
    "device", "kernel", "implementation", "direction", "dtype", "batch", "heads", "seq_kv", "head_dim", "causal",
    "window",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """One case of the campaign.

    Attributes:
        entry: name in the registry.
        variant: the implementation column: "triton" and what distinguishes it.
        direction: "fwd" or "bwd".
        flops: useful operations of one call.
        sizes, extras: arguments of the entry's input maker.
        options: keyword arguments of the launcher.
    """

    entry: str
    variant: str
    direction: str
    setting: Setting
    flops: float
    sizes: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    extras: tuple[str, ...] = ()


def plan(
    *, lengths: Iterable[int] = LENGTHS, head_dims: Iterable[int] = (64, 128), tokens: int = TOKENS
) -> Iterator[Plan]:
    """Yield every case: shorter lengths first, so that an early stop still leaves all kernels covered.

    Args:
        tokens: of a batch; longer sequences come in smaller batches.
    """
    for seq, head_dim in itertools.product(lengths, head_dims):
        heads = max(1, 2048 // head_dim) if tokens == TOKENS else 2
        dense = Setting(max(1, tokens // seq), heads, seq, head_dim, dtype="bf16")
        yield from _attention_plans(dense)
        yield from _other_plans(dense)


def _attention_plans(dense: Setting) -> Iterator[Plan]:
    sizes = _sizes(dense)
    for causal, window in ((False, None), (True, None), (True, 128), (True, 1024)):
        if window is not None and window >= dense.seq:
            continue
        setting = replace(dense, causal=causal, window=window)
        options: dict[str, Any] = {"causal": causal, "window": window}
        yield Plan("flash_attention", "triton", "fwd", setting, setting.flops, sizes, options)
        # Five products of the size of the forward pass's two, and two more to have the weights again.
        yield Plan(
            "flash_attention_gradients",
            "triton",
            "bwd",
            setting,
            2.5 * setting.flops,
            sizes,
            options,
            ("grad",),
        )
    causal_setting = replace(dense, causal=True)
    for words, options, extras in (
        ("soft-cap", {"soft_cap": 30.0}, ()),
        ("alibi", {}, ("slopes",)),
        ("relative-bias", {}, ("bias",)),
        ("sink", {}, ("sink",)),
        ("toeplitz", {}, ("bias", "factor")),
    ):
        yield Plan("flash_attention", f"triton {words}", "fwd", causal_setting, causal_setting.flops, sizes,
                   {"causal": True} | options, extras)  # fmt: skip
    grouped = replace(causal_setting, kv_heads=max(1, dense.heads // 4))
    yield Plan(
        "flash_attention",
        "triton grouped-query",
        "fwd",
        grouped,
        grouped.flops,
        _sizes(grouped),
        {"causal": True},
    )
    if dense.seq <= MOST_UNFUSED:
        for passes in (3, 2):
            yield Plan(
                "unfused_attention",
                f"triton {passes}-pass",
                "fwd",
                dense,
                dense.flops,
                sizes,
                {"passes": passes},
            )


def _other_plans(dense: Setting) -> Iterator[Plan]:
    sizes = _sizes(dense)
    tokens = dense.batch * dense.heads * dense.seq
    chunk = 64
    flops = 4.0 * tokens * dense.head_dim * (dense.head_dim + chunk)
    causal = replace(dense, causal=True)
    yield Plan("linear_attention", "triton", "fwd", causal, flops, sizes)
    yield Plan("linear_attention_gradients", "triton", "bwd", causal, 3 * flops, sizes, {}, ("grad",))
    yield Plan("prefix_attention", "triton", "fwd", causal, 4.0 * tokens * dense.head_dim, sizes)
    one = replace(dense, kv_heads=max(1, dense.heads // 4), causal=True)
    yield Plan("decode_attention", "triton split-kv", "fwd", one, 4.0 * tokens * dense.head_dim,
               _sizes(one) | {"seq_q": 1}, {"splits": 16})  # fmt: skip
    for rank in (1, 2, 3):
        layout = _layout(dense.seq, rank)
        window = tuple(max(1, n // 4) for n in layout)
        pairs = dense.seq * math.prod(window)
        yield Plan("neighborhood_attention", f"triton {rank}-D", "fwd", dense,
                   4.0 * dense.batch * dense.heads * dense.head_dim * pairs,
                   {"layout": layout, "heads": dense.heads, "head_dim": dense.head_dim, "batch": dense.batch},
                   {"window": window})  # fmt: skip


def _layout(seq: int, rank: int) -> tuple[int, ...]:
    """Return a layout of `seq` tokens with axes as equal as powers of two allow; seq is a power of two.

    >>> _layout(4096, 2), _layout(2048, 3)
    ((64, 64), (8, 16, 16))
    """
    bits = seq.bit_length() - 1
    return tuple(2 ** ((bits + i) // rank) for i in range(rank))


def _sizes(s: Setting) -> dict[str, Any]:
    sizes = {"batch": s.batch, "heads": s.heads, "seq_q": s.seq, "seq_kv": s.seq, "head_dim": s.head_dim}
    return sizes | ({"kv_heads": s.kv_heads} if s.kv_heads else {})


def run(
    path: Path,
    plans: Iterable[Plan],
    *,
    on: str,
    progress: Callable[[Iterable[Plan]], Iterable[Plan]] = iter,
    budget_s: float = 0.5,
) -> int:
    """Measure the plans that the file lacks, each appended when it is done, and return how many were added.

    Args:
        path: CSV file in the schema of `kernels.measurement`; created where absent.
        on: "cuda", or "cpu" to walk the plan through the interpreter.

    Raises:
        KernelError: a kernel that fails its check is not timed, and stops the campaign.
        DataError: the file holds something else.
    """
    done = _done(path)
    name = _device_name(on)
    if on == "cuda" and not any("gemm" in key for key in done):
        for row in ceilings(budget_s=budget_s):
            _append(path, row)
    todo = [p for p in plans if _key_of(p, name) not in done]
    for p in progress(todo):
        _append(path, _measured(p, on, budget_s))
    return len(todo)


def _device_name(on: str) -> str:
    # A time of the interpreter says nothing of the machine: it must not pass for one.
    return device.name(on) if on == "cuda" else f"Triton interpreter on {device.name(on)}"


def ceilings(*, budget_s: float) -> Iterator[Measurement]:
    """Yield what the GPU reaches at most here: a copy of 1 GiB and a bfloat16 product of 8192 x 8192 matrices."""
    from .bench_cuda import event_clock

    source = torch.empty(2**29, dtype=torch.bfloat16, device="cuda").normal_()
    target = torch.empty_like(source)
    side = 8192
    a, b = (torch.randn(side, side, device="cuda").bfloat16() for _ in range(2))
    calls = {"copy": lambda: target.copy_(source), "gemm": lambda: a @ b}
    times = timing.interleaved(calls, clock=event_clock, budget_s=budget_s)
    for name, flops in (("copy", 0.0), ("gemm", 2.0 * side**3)):
        setting = Setting(1, 1, side, side, dtype="bf16")
        one = Plan(name, "torch", "probe", setting, flops, {"bytes": 2**31} if name == "copy" else {})
        yield _row(one, timing.spread(times[name]), "cuda")


def _key_of(p: Plan, device_name: str) -> tuple[str, ...]:
    s = p.setting
    values = (device_name, p.entry, p.variant, p.direction, s.dtype, s.batch, s.heads, s.seq, s.head_dim, int(s.causal),
              "" if s.window is None else s.window)  # fmt: skip
    return tuple(map(str, values))


def _done(path: Path) -> set[tuple[str, ...]]:
    if not path.exists() or path.stat().st_size == 0:
        return set()
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        # The last row was cut off by the stop: it is measured again.
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    reader = csv.DictReader(text.splitlines())
    missing = set(KEY) - set(reader.fieldnames or ())
    if missing:
        raise DataError(
            f"{path}: columns {', '.join(sorted(missing))} are missing; expected a table of measurements"
        )
    return {tuple(row[k] for k in KEY) for row in reader}


def _append(path: Path, row: Measurement) -> None:
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(["" if (v := getattr(row, c)) is None else v for c in COLUMNS])


def _measured(p: Plan, on: str, budget_s: float) -> Measurement:
    entry = registry.find(p.entry)
    launcher = registry.load(entry.launcher)
    tensors = registry.load(entry.inputs)(**p.sizes, dtype=p.setting.dtype, extras=p.extras, device=on)
    _gate(p, launcher(**tensors, **p.options, empty=check.poisoned))
    calls = {"it": lambda: launcher(**tensors, **p.options)}
    if on == "cuda":
        from .bench_cuda import event_clock

        times = timing.interleaved(calls, clock=event_clock, budget_s=budget_s, least_rounds=5, warm_up=3)
    else:
        times = timing.interleaved(calls, least_rounds=1, most_rounds=1, warm_up=0)
    return _row(p, timing.spread(times["it"]), on)


def _gate(p: Plan, results: tuple[torch.Tensor, ...]) -> None:
    """Raise where a result was not written everywhere; the numbers themselves are the affair of `kernels check`."""
    for result, name in zip(results, registry.find(p.entry).outputs, strict=True):
        if bool(result.isnan().any()):
            raise KernelError(f"{p.entry} ({p.variant}, {dict(p.sizes)}): {name} holds NaN; not timed")


def _row(p: Plan, s: timing.Spread, on: str) -> Measurement:
    facts = device.environment(on)
    power = facts.get("power_w", "")
    setting = p.setting
    source = f"cascade kernels campaign, commit {facts.pop('commit')}"
    extra = device.as_pairs({**p.sizes} | {**p.options} | facts)
    return Measurement(
        source=source, device=_device_name(on), kernel=p.entry,
        implementation=p.variant, direction=p.direction, dtype=setting.dtype, batch=setting.batch, heads=setting.heads,
        seq_q=p.sizes.get("seq_q", setting.seq), seq_kv=setting.seq, head_dim=setting.head_dim,
        causal=int(setting.causal), extra=extra, latency_ms=s.median * 1e3,
        tflops=p.flops / s.median / 1e12 if p.flops else None, kv_heads=setting.kv_heads or setting.heads,
        window=setting.window,
        kv_dtype=setting.dtype, power_w=float(power) if power.replace(".", "", 1).isdigit() else None,
        q25_ms=s.q25 * 1e3, q75_ms=s.q75 * 1e3, rounds=s.rounds, threads=None, ratio=None, ratio_q25=None,
        ratio_q75=None,
    )  # fmt: skip
