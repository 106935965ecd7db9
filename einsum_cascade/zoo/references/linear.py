"""Linear attention, softplus attention, memories and recurrences."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Arrays, Reference, Sizes
from .softmax import softmax


def decayed(x: Arrays) -> Any:
    """Return causal attention without softmax, weights exp(-D * distance), as O[F, T]."""
    length = x["Q"].shape[1]
    distance = np.arange(length)[:, None] - np.arange(x["K"].shape[1])[None, :]
    weight = np.where(distance >= 0, np.exp(-x["D"] * np.maximum(distance, 0)), 0.0)
    return x["V"] @ (x["Q"].T @ x["K"] * weight).T


def _recurrent(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"O": decayed(x)}


def _chunked(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"O": decayed(x).reshape(n["F"], n["T1"], n["T0"])}


def _tnl(x: Arrays, n: Sizes) -> dict[str, Any]:
    values = decayed(x)
    return {"O": values / np.sqrt((values**2).mean(axis=0) + 1e-6) * x["U"]}


def _prefixes(x: Arrays, n: Sizes) -> dict[str, Any]:
    scores = x["Q"] @ x["K"]
    out = [x["V"][:, : m + 1] @ softmax(scores[: m + 1], 0) for m in range(n["M"])]
    return {"AV": np.stack(out, axis=1)}


def _l2vit(x: Arrays, n: Sizes) -> dict[str, Any]:
    weight = np.maximum(x["Q"], 0).T @ np.maximum(x["K"], 0)
    return {"O": x["V"] @ weight.T * x["TAU"] / np.maximum(weight.sum(axis=1), 100.0)}


def _rotate(a: Any, cosine: Any, sine: Any) -> Any:
    """Rotate the pairs (0, 1), (2, 3), ... of the first axis."""
    even, odd = a[0::2], a[1::2]
    turned = np.empty_like(a)
    turned[0::2], turned[1::2] = -odd, even
    return a * cosine + turned * sine


def _nalaformer(x: Arrays, n: Sizes) -> dict[str, Any]:
    norm = np.linalg.norm(x["Q"], axis=0)
    power = 3 * (0.5 + np.tanh(norm))
    top, bottom = 0.0, 0.0
    for sign in (1, -1):
        q = (np.maximum(sign * x["Q"], 0) / norm) ** power
        k = np.maximum(sign * x["K"] ** 3, 0)
        turned = _rotate(q, x["CQ"], x["SQ"]).T @ _rotate(k, x["CK"], x["SK"])
        top = top + x["V"] @ turned.T / n["M"]
        bottom = bottom + (q.T @ k).sum(axis=1) / n["M"]
    return {"O": top / (bottom + 1e-6)}


def _cosformer(x: Arrays, n: Sizes) -> dict[str, Any]:
    distance = np.arange(n["P"])[:, None] - np.arange(n["M"])[None, :]
    weight = np.maximum(x["Q"], 0).T @ np.maximum(x["K"], 0) * np.cos(np.pi * distance / (2 * n["M"]))
    return {"O": x["V"] @ weight.T / np.maximum(weight.sum(axis=1), 1e-6)}


def _softplus_weights(x: Arrays, n: Sizes) -> Any:
    p, m = np.arange(n["P"])[:, None], np.arange(n["M"])[None, :]
    scores = np.log(n["E"]) * np.log(p + 1) / np.sqrt(n["E"]) * (x["Q"].T @ x["K"])
    return np.where(m <= p, np.log1p(np.exp(scores)), 0.0)


def _lssa(x: Arrays, n: Sizes) -> dict[str, Any]:
    weight = _softplus_weights(x, n)
    return {"AV": x["V"] @ (weight / weight.sum(axis=1, keepdims=True)).T}


def _lssar(x: Arrays, n: Sizes) -> dict[str, Any]:
    weight = _softplus_weights(x, n)
    mean = weight / weight.sum(axis=1, keepdims=True)
    kept = np.maximum(np.arange(1, n["P"] + 1)[:, None] * mean - 1, 0) ** 15
    return {"AV": x["V"] @ (kept / np.maximum(kept.sum(axis=1, keepdims=True), 1e-9)).T}


def _titans(x: Arrays, n: Sizes, *, chunk: int = 1) -> Any:
    """Gradient steps one by one; the error is taken at the memory with which the chunk began."""
    memory = np.zeros((n["F"], n["E"]))
    surprise, out = memory, np.zeros((n["F"], n["T"]))
    for t in range(n["T"]):
        if t % chunk == 0:
            anchor = memory
        gradient = 2 * np.outer(anchor @ x["K"][:, t] - x["V"][:, t], x["K"][:, t])
        surprise = x["ETA"][t] * surprise - x["TH"][t] * gradient
        memory = (1 - x["AL"][t]) * memory + surprise
        out[:, t] = memory @ x["Q"][:, t]
    return out


def _titans_sequential(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"O": _titans(x, n)}


def _titans_chunked(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"O": _titans(x, n, chunk=n["T0"]).reshape(n["F"], n["T1"], n["T0"])}


def _gates(rng: Any, n: Sizes) -> dict[str, Any]:
    return {k: rng.uniform(0.05, 0.95, n["T"]) for k in ("ETA", "TH", "AL")}


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _lstm(x: Arrays, n: Sizes) -> dict[str, Any]:
    hidden, cell = np.zeros((n["T"] + 1, n["K"])), np.zeros(n["K"])
    for t in range(n["T"]):
        i, f, g, o = x["WX"] @ x["X"][t] + x["WH"] @ hidden[t]
        cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
        hidden[t + 1] = _sigmoid(o) * np.tanh(cell)
    return {"HH": hidden}


def _semantic(x: Arrays, n: Sizes) -> dict[str, Any]:
    memory, written = [x["X"]], []
    for t in range(n["T"]):
        z = softmax(memory[t] @ x["OI"][t], 0)
        written.append(np.tanh(x["WC"] @ np.concatenate([x["OI"][t], z @ memory[t]])))
        memory.append(memory[t] * (1 - z)[:, None] + np.outer(z, written[t]))
    return {"HW": np.array(written), "MM": np.array(memory)}


def _scaled(rng: Any, n: Sizes) -> dict[str, Any]:
    """Scores on both sides of the least denominator, 100."""
    return {"Q": 6 * rng.standard_normal((n["E"], n["P"])), "K": 6 * rng.standard_normal((n["E"], n["M"]))}


TABLE = {
    "linear_recurrent": Reference(_recurrent),
    "linear_chunked": Reference(_chunked),
    "tnl_quadratic": Reference(_tnl),
    "aaren_sequential": Reference(_prefixes),
    "aaren_scan": Reference(_prefixes, {"M": (1, 8), "G": (3, 3)}),
    "l2vit": Reference(_l2vit, {}, _scaled),
    "nalaformer": Reference(_nalaformer),
    "cosformer": Reference(_cosformer, {"P": "M"}),
    "lssa": Reference(_lssa, {"E": (2, 7)}),
    "lssar": Reference(_lssar, {"E": (2, 7), "P": "M"}),
    "titans": Reference(_titans_sequential, {}, _gates),
    "titans_chunked": Reference(_titans_chunked, {"T1": (1, 4), "T0": (1, 4)}, _gates),
    "lstm": Reference(_lstm, {"T": (1, 5)}),
    "semantic_encoder": Reference(_semantic, {"L": (2, 5), "T": (2, 4)}),
}
