"""Attention on the CPU that runs this: measured ratios beside ratios predicted from the CPU's own measured rates.

Predicted time = products / product rate (of batches, or of the fused kernel's tile with its softmax) + scores of a
softmax / softmax rate + masked scores / mask rate + swept bytes / copy rate (of the caches, of memory, or of newly
allocated memory) + calls of operators / call rate. The rates are measured in the same rounds as what is predicted, on
tensors of the same size where these do not fit the caches, and no constant is fitted to the timings. Which tiles and
sweeps an implementation makes was read off its source. After looking at timings it was decided that large tensors pay
for new pages, that the softmax is timed as a whole and not its exponentials alone, that a mask has a rate, that
products are timed in batches of blocks and the fused kernel in tiles of its own, and that what a call touches, not one
tensor, has to fit the caches. The class of error is 30 %: a CPU's caches, vector width, allocator and thread start-up
are not modelled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from einsum_cascade.errors import DataError

_RATE = re.compile(r"(\w+_per_s|cpu_share)=([-+.\de]+)")
_NEEDED = {
    "fused_flops_per_s", "bmm_flops_per_s", "softmax_per_s", "masked_per_s", "calls_per_s", "copy_bytes_per_s",
    "cached_copy_bytes_per_s", "fresh_bytes_per_s", "cpu_share",
}  # fmt: skip

WORD_BYTES = 4  # float32
# The class of error: the median of a table's ratios is held against it, and a single row is named where it is beyond.
CLASS = 0.3


@dataclass(frozen=True, slots=True)
class Problem:
    """One timed case: sizes of one call."""

    heads: int
    seq: int
    head_dim: int
    causal: bool
    window: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """A tensor that passes through memory: read or written `times` times, `fresh` of them into new memory."""

    tensor_bytes: float
    times: int
    fresh: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an implementation executes.

    Attributes:
        fused, batched: operations of products, in tiles of the fused kernel and in batches, a call each.
        softmaxed, masked: scores.
        sweeps: over tensors.
        calls: of operators.
    """

    fused: float = 0.0
    batched: float = 0.0
    softmaxed: float = 0.0
    masked: float = 0.0
    sweeps: tuple[Sweep, ...] = ()
    calls: int = 1


# What a call touches stays in the caches of a server's core between two sweeps if it is less than this, and a smaller
# tensor in the allocator's heap between calls.
CACHED_BYTES = 8 * 2**20
# Several threads are judged where they had their CPUs for this part of the time: what waits for a thread that others
# keep from its CPU is no property of an algorithm. A single thread is timed by its own processor time.
LEAST_SHARE = 0.8


# Operators that `kernels.bench_cpu` calls, views included: for a whole call, or for each further chunk.
EAGER_CALLS, BLOCKED_CALLS, CHUNKED_CALLS, CHUNK_CALLS = 5, 31, 38, 6


def _query_tile(seq: int) -> int:
    # Source: PyTorch, aten/src/ATen/native/cpu/FlashAttentionKernel.cpp (tile of the query by its length).
    return 256 if seq >= 768 else 64 if seq >= 192 else 32


# Source: the same file (tile of the keys).
KEY_TILE = 512


def fused(p: Problem) -> Work:
    """Return the work of torch's fused attention: whole query tiles by the key tiles that they reach."""
    tile = min(_query_tile(p.seq), p.seq)
    reached = (min(s + tile, p.seq) if p.causal else p.seq for s in range(0, p.seq, tile))
    pairs = sum(tile * min(-(-keys // KEY_TILE) * KEY_TILE, p.seq) for keys in reached)
    tensors = Sweep(p.heads * p.seq * p.head_dim * WORD_BYTES, 4)
    return Work(fused=4.0 * p.heads * p.head_dim * pairs, sweeps=(tensors,))


def materialised(p: Problem) -> Work:
    """Return the work of eager attention: every score, and each of its elementwise steps through memory."""
    pairs = p.heads * p.seq**2
    # Scores are written by the product, read and written by the scaling and by the softmax, read by the second
    # product; three of the writes go to a new tensor.
    scores = Sweep(pairs * WORD_BYTES, 6, fresh=3)
    return Work(
        batched=4.0 * p.head_dim * pairs,
        softmaxed=float(pairs),
        masked=float(pairs * p.causal),
        sweeps=(scores,),
        calls=EAGER_CALLS + p.causal,
    )


def blocked(p: Problem) -> Work:
    """Return the work of blocks of queries against all keys that their rows can see, masked inside."""
    block = p.window
    reach = block + p.window
    pairs = p.heads * -(-p.seq // block) * block * reach
    patches = p.heads * -(-p.seq // block) * reach * p.head_dim * WORD_BYTES  # of K, and of V
    # The mask is applied into a new tensor: one more read and write of the scores than eager attention.
    sweeps = (Sweep(pairs * WORD_BYTES, 8, fresh=4), Sweep(patches, 4, fresh=2))
    return Work(
        batched=4.0 * p.head_dim * pairs,
        softmaxed=float(pairs),
        masked=float(pairs),
        sweeps=sweeps,
        calls=BLOCKED_CALLS,
    )


def chunked(p: Problem, *, chunk: int = 64) -> Work:
    """Return the work of chunked linear attention: products inside a chunk and with a carried state."""
    tokens = p.heads * -(-p.seq // chunk) * chunk
    flops = 4.0 * tokens * p.head_dim * (p.head_dim + chunk)
    scores, states = tokens * chunk, tokens // chunk * p.head_dim**2
    # Scores: written, decayed (read, write), read; states: written, accumulated (two reads, a write), read; tokens:
    # three inputs, two scaled copies (read, write), two partial outputs (written, read) and their sum.
    sweeps = (Sweep(scores, 4), Sweep(states, 5), Sweep(tokens * p.head_dim, 12))
    return Work(
        batched=flops,
        sweeps=tuple(Sweep(s.tensor_bytes * WORD_BYTES, s.times) for s in sweeps),
        calls=CHUNKED_CALLS + CHUNK_CALLS * (-(-p.seq // chunk) - 1),
    )


def flexible(p: Problem) -> Work:
    """Return the work of compiled flex_attention: every block of 128 queries and 128 keys that the mask leaves."""
    # Source: PyTorch, torch/_inductor/codegen/cpp_flex_attention_template.py, and create_block_mask's blocks. Its
    # tiles are taken to run as those of the fused kernel. That partly masked blocks test their scores is not counted.
    side = 128
    blocks = -(-p.seq // side)
    last = [m if p.causal else blocks - 1 for m in range(blocks)]
    first = [max(0, (m * side - p.window + 1) // side) if p.window else 0 for m in range(blocks)]
    visited = sum(b - a + 1 for a, b in zip(first, last, strict=True))
    pairs = visited * min(side, p.seq) ** 2 if p.causal or p.window else p.seq**2
    tensors = Sweep(p.heads * p.seq * p.head_dim * WORD_BYTES, 4)
    return Work(fused=4.0 * p.heads * p.head_dim * pairs, sweeps=(tensors,))


WORK: Mapping[str, Callable[[Problem], Work]] = {
    "torch-sdpa": fused,
    "torch-eager": materialised,
    "torch-blocked-window": blocked,
    "torch-chunked": chunked,
    "torch-flex": flexible,
}


def predicted_s(work: Work, rates: Mapping[str, float]) -> float:
    """Return the predicted time in seconds from the rates of `kernels.bench`."""
    products = work.fused / rates["fused_flops_per_s"] + work.batched / rates["bmm_flops_per_s"]
    scores = work.softmaxed / rates["softmax_per_s"] + work.masked / rates["masked_per_s"]
    # What is written is read once: half of the sweeps are over one and the same tensor.
    touched = sum(s.tensor_bytes * s.times for s in work.sweeps) / 2
    copy_rate = rates["cached_copy_bytes_per_s" if touched < CACHED_BYTES else "copy_bytes_per_s"]
    return (
        products
        + scores
        + sum(_sweep_s(s, rates, copy_rate) for s in work.sweeps)
        + work.calls / rates["calls_per_s"]
    )


def _sweep_s(sweep: Sweep, rates: Mapping[str, float], rate: float) -> float:
    fresh = 0 if sweep.tensor_bytes < CACHED_BYTES else sweep.fresh
    through = (sweep.times - fresh) * sweep.tensor_bytes / rate
    return through + fresh * sweep.tensor_bytes / rates["fresh_bytes_per_s"]


def measure_and_predict(*, quick: bool = True) -> pd.DataFrame:
    """Return one row a timed variant with its measured and predicted ratio to dense fused attention.

    Raises:
        KernelError: an implementation disagrees with its float64 reference; then nothing is timed.
    """
    from kernels import bench

    measured = bench.run(device="cpu", quick=quick)
    return with_predictions(measured, measured.attrs["rates"])


def with_predictions(measured: pd.DataFrame, rates: list[Mapping[str, float]]) -> pd.DataFrame:
    """Return measured rows of known implementations with predicted times and both ratios.

    Args:
        measured: rows of `kernels.bench.run`.
        rates: this machine's rates, one mapping for each size and number of threads.
    """
    known = {(r["threads"], r["batch"], r["heads"], r["seq"], r["head_dim"]): r for r in rates}
    rows = []
    for row in measured.to_dict("records"):
        work = WORK.get(row["implementation"])
        constants = known.get((row["threads"], row["batch"], row["heads"], row["seq_q"], row["head_dim"]))
        if work is None or constants is None:
            continue
        window = 0 if pd.isna(row["window"]) else int(row["window"])
        problem = Problem(
            row["batch"] * row["heads"], row["seq_q"], row["head_dim"], bool(row["causal"]), window
        )
        dense = Problem(problem.heads, problem.seq, problem.head_dim, False, 0)
        time_s = predicted_s(work(problem), constants)
        words = [
            row["implementation"].removeprefix("torch-"),
            "causal" * problem.causal,
            f"w{window}" if window else "",
        ]
        rows.append(
            {
                "variant": " ".join(filter(None, words)),
                "heads": problem.heads,
                "seq": problem.seq,
                "head_dim": problem.head_dim,
                "threads": row["threads"],
                "measured [ms]": row["latency_ms"],
                "predicted [ms]": time_s * 1e3,
                "measured ratio": row["ratio"],
                "predicted ratio": time_s / predicted_s(fused(dense), constants),
                "cpu share": constants["cpu_share"],
                "judged": row["threads"] == 1 or constants["cpu_share"] >= LEAST_SHARE,
            }
        )
    return pd.DataFrame(rows)


def errors(table: pd.DataFrame) -> pd.Series:
    """Return the relative errors of the predicted ratios of the rows that are judged, the baseline's left out.

    Args:
        table: of `with_predictions`.
    """
    rows = table[table["judged"] & (table["measured ratio"] != 1.0)]
    return (rows["predicted ratio"] / rows["measured ratio"] - 1.0).abs()


def is_of_cpus(measured: pd.DataFrame) -> bool:
    """Tell whether all rows of a table were measured on threads of a CPU."""
    return "threads" in measured and bool(len(measured)) and bool((measured["threads"].fillna(0) > 0).all())


def rates_of(measured: pd.DataFrame) -> list[dict[str, float]]:
    """Return the rates that the rows of `kernels bench` carry, one mapping for each size and number of threads."""
    found: dict[tuple[int, ...], dict[str, float]] = {}
    for row in measured.to_dict("records"):
        said = {name: float(value) for name, value in _RATE.findall(str(row["extra"]))}
        sizes = {"threads": row["threads"], "batch": row["batch"], "heads": row["heads"], "seq": row["seq_q"],
                 "head_dim": row["head_dim"]}  # fmt: skip
        if said.keys() >= _NEEDED:
            found.setdefault(tuple(sizes.values()), sizes | said)
    return list(found.values())


def compare(measured: pd.DataFrame, *, origin: object) -> dict[str, Any]:
    """Return measured ratios to dense fused attention beside predicted ones, as a suite of `cascade validate`.

    The suite holds where the median error is within the class of error; rows beyond it are off one by one.

    Args:
        measured: a table of `kernels bench --device cpu`; its rows carry the rates of their rounds.
        origin: the file, for messages.

    Raises:
        DataError: no row carries its rates, or none is left to judge.
    """
    from .suites import summarise

    rates = rates_of(measured)
    if not rates:
        raise DataError(
            f"{origin}: its rows carry no rates of their CPU in 'extra', from which ratios are predicted; write it "
            "again by cascade kernels bench --device cpu"
        )
    table = with_predictions(measured, rates)
    left = errors(table)
    if not len(left):
        raise DataError(f"{origin}: none of its {len(measured)} rows is left to judge beside a baseline")
    judged = table.loc[left.index]
    cases = pd.DataFrame(
        {
            "case": [
                f"{r['variant']}, {r['heads']} heads of {r['head_dim']:g}, {r['seq']} tokens, {r['threads']:g} threads"
                for r in judged.to_dict("records")
            ],
            "column": "ratio to dense fused attention",
            "expected": judged["measured ratio"],
            "got": judged["predicted ratio"],
            "relative_error": left,
            "ok": left <= CLASS,
            "tolerance": CLASS,
            "why": "caches, vector width, allocator and thread start-up of a CPU are not modelled",
        }
    )
    unknown = measured[~measured["implementation"].isin(WORK)]
    notes = [
        f"median error of the predicted ratios {left.median():.1%}, worst {left.max():.1%}, {len(left)} rows; rates "
        "measured in the same rounds, nothing fitted to the timings",
        *_left_out(
            len(table[~table["judged"]]), f"others had their CPUs for over {1 - LEAST_SHARE:.0%} of the time"
        ),
        *_left_out(len(unknown), f"no work is known of {', '.join(sorted(set(unknown['implementation'])))}"),
        *_left_out(len(measured) - len(unknown) - len(table), "they carry no rates"),
    ]
    result = summarise("cpu", cases, median_relative_error=float(left.median()), notes=notes)
    return result | {"ok": bool(left.median() <= CLASS)}


def _left_out(count: int, why: str) -> list[str]:
    return [f"{count} rows are not judged: {why}"] if count else []
