"""Published times of kernels beside what the text of their algorithm alone predicts: no tile and no kernel given.

Each row of the table is written as the cascade that its kernel computes, and the cascade is laid out on the row's GPU
by the tool itself. The constants are those that attention in Triton has told of the device; of the rows here, only
those of flash attention have told any, through its description by hand. They show what that description adds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from einsum_cascade import gradients, in_chunks, parse, zoo
from einsum_cascade.cascade import Cascade
from simulator.gpu.fusion.predict import predict_cascade

from .gpu_sets import known_device
from .measured import PUBLISHED, read_measured

SET = ["device", "kernel", "implementation"]
_CHUNK = 64  # of both libraries' kernels
_KEYS = 64  # of a tile of one-pass attention, the commonest
# Two kernels of frameworks as their authors call them: what shares a launch is known and not searched for.
_SOFTMAX = """cascade softmax
rank R C
input X[R, C]
output Y[R, C]
GM[r]    = X[r, c] :: max(c)
SN[r, c] = exp(X[r, c] - GM[r])
SD[r]    = SN[r, c] :: sum(c)
Y[r, c]  = SN[r, c] / SD[r]
"""
_MASKED = """cascade attention_added_mask
rank E F M P
input Q[E, P] K[E, M] V[F, M] MASK[M, P]
output AV[F, P]
QK[m, p] = Q[e, p] * K[e, m]
QM[m, p] = QK[m, p] + MASK[m, p]
GM[p]    = QM[m, p] :: max(m)
SN[m, p] = exp(QM[m, p] - GM[p])
SD[p]    = SN[m, p] :: sum(m)
A[m, p]  = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
"""
# (kernel, device) of sets that are shown and not held to a factor of two.
_HOST = "the times hold some 0.4 ms of the host's work a call, as much as the text takes or more"
NOT_HELD = {
    ("chunk_retention", "GB200"): _HOST,
    ("chunk_gdn", "GB200"): _HOST,
    (
        "lightning_attention2",
        "A100-80G (not stated in README)",
    ): "the device is not stated, and the kernel takes three times what its text needs on an A100",
    (
        "softmax",
        "A100-80G (LLMCompass)",
    ): "the times hold the host's work: 13 us for 4,096 rows of 32 columns",
    (
        "flash_attention backward, heads of 128",
        "A100 (docs CI, inferred)",
    ): "compiled for sm_80 this kernel keeps 32 registers and spills 22 KB a thread: 70 times slower than heads of 64",
}
# A median of one row says nothing.
_LEAST_ROWS = 2


@dataclass(frozen=True, slots=True)
class Text:
    """A row's algorithm: the cascade, the sizes of its ranks, and the kernels where they are known."""

    cascade: Cascade
    sizes: dict[str, int]
    kernels: tuple[tuple[str, ...], ...] | None = None


def text_of(row: Mapping[Any, Any]) -> Text | None:
    """Return what the kernel of a row computes; None where no text is held against it.

    Args:
        row: of `measured.read_measured`.
    """
    kernel, causal = row["kernel"], bool(row["causal"])
    lanes = {"B": int(row["batch"]), "H": int(row["heads"])}
    p, m, e = (0 if pd.isna(row[n]) else int(row[n]) for n in ("seq_q", "seq_kv", "head_dim"))
    width = {"E": e, "F": e}
    if kernel == "softmax":
        return Text(_parsed(_SOFTMAX), {"R": p, "C": m}, (("GM", "SN", "SD", "Y"),))
    if kernel == "matmul":
        return Text(zoo.load("gemm"), {"M": p, "N": m, "K": e})
    if kernel == "standard_attention":
        text, first = (
            (_parsed(_MASKED), (("QK",), ("QM",))) if causal else (zoo.load("attention_3pass"), (("QK",),))
        )
        return Text(text, {**lanes, **width, "M": m, "P": p}, (*first, ("GM", "SN", "SD", "A"), ("AV",)))
    if kernel in ("chunk_retention", "lightning_attention2") and p % _CHUNK == 0:
        return Text(zoo.load("linear_chunked"), {**lanes, **width, "T1": p // _CHUNK, "T0": _CHUNK})
    if kernel == "chunk_gdn" and p % _CHUNK == 0:
        return Text(_gated_delta_in_chunks(), {**lanes, **width, "T1": p // _CHUNK})
    fused = kernel == "flash_attention" and row["implementation"].startswith("triton") and not row["window"]
    if not fused or row["dtype"] not in ("fp16", "bf16") or m % _KEYS or min(p, m) < 1024:
        return None
    if row["direction"] == "bwd":
        return Text(_backward(causal), {**lanes, **width, "P": p, "M": m})
    if row["implementation"] == "triton":
        name = "attention_1pass_causal" if causal else "attention_1pass"
        return Text(zoo.load(name), {**lanes, **width, "P": p, "M1": m // _KEYS, "M0": _KEYS})
    return None


@functools.cache
def _parsed(text: str) -> Cascade:
    return parse(text)


@functools.cache
def _backward(causal: bool) -> Cascade:
    """Return the backward pass that the tool itself finds, what is small saved by the forward pass."""
    return gradients(zoo.load("attention_causal" if causal else "attention_3pass"), saved="small").cascade


@functools.cache
def _gated_delta_in_chunks() -> Cascade:
    """Return what the tool itself makes of the recurrence: nobody has written this text."""
    return in_chunks(zoo.load("gated_deltanet"), size=_CHUNK, positive=("ALPHA",)).cascade


def texts(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each row that has a text, forward or backward.

    Its columns are SET, seconds measured, `got`, `low`, `high` and `roofline`: that of one kernel for the whole text,
    with what no machine can avoid moving.
    """
    from tqdm import tqdm

    rows = table[table["direction"].isin(["fwd", "bwd"])].to_dict("records")
    out = []
    for row in tqdm(rows, desc="validate cascades", leave=False, delay=2.0, disable=None):
        text = text_of(row) if known_device(row["device"]) else None
        if row["direction"] == "bwd":
            row |= {"kernel": f"{row['kernel']} backward, heads of {row['head_dim']:.0f}"}
        if text is None:
            continue
        found = predict_cascade(
            text.cascade, text.sizes, on=row["device"], kernels=text.kernels, dtype=row["dtype"]
        )
        told = {
            "got": found.latency_s,
            "low": found.low_s,
            "high": found.high_s,
            "roofline": found.roofline_s,
        }
        out.append({n: row[n] for n in SET} | {"seconds": row["latency_ms"] * 1e-3, **told})
    return pd.DataFrame(out)


def compare() -> pd.DataFrame:
    """Return one case a set: the median of predicted over measured time, or of its inverse where that is above one."""
    return cases_of(texts(read_measured(PUBLISHED / "gpu_measured.csv")))


def cases_of(found: pd.DataFrame) -> pd.DataFrame:
    """Return one case for each set of at least two rows of `texts`."""
    sets = (group for group in found.groupby(SET, sort=True) if len(group[1]) >= _LEAST_ROWS)
    return pd.DataFrame([_case(keys, rows) for keys, rows in sets])


def _case(keys: tuple[Any, ...], rows: pd.DataFrame) -> dict[str, Any]:
    ratio = float((rows["got"] / rows["seconds"]).median())
    off = max(ratio, 1.0 / ratio) - 1.0
    why = NOT_HELD.get((keys[1], keys[0]))
    return {
        "case": f"{keys[1]} {keys[2]} on {keys[0]}",
        "column": f"predicted / measured, median of {len(rows)}",
        "expected": 1.0,
        "got": ratio,
        "relative_error": off,
        "tolerance": 1.0 if why is None else None,
        "ok": why is not None or off <= 1.0,
        "why": why or "the interval of a kernel that nobody has measured: a factor of two",
        "mean_error": float((rows["got"] / rows["seconds"] - 1.0).abs().mean()),
        "inside": float(rows["seconds"].between(rows["low"], rows["high"]).mean()),
        "n": len(rows),
    }
