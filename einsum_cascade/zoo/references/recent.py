"""Attentions of 2024 and 2025: differential, forgetting, stick-breaking, indexed, ...; Kimi's delta rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Arrays, Reference, Sizes
from .modern import causal, heads
from .selected import best
from .softmax import softmax


def _differential(x: Arrays, n: Sizes) -> dict[str, Any]:
    p, m = causal(n)
    first, second = (softmax(x["Q"][s].T @ x["K"][s], 1, m <= p) for s in (0, 1))
    out = x["V"] @ (first - x["LAM"] * second).T
    return {"O": (1 - x["INIT"]) * out / np.sqrt(np.mean(out**2, axis=0) + 1e-5)}


def _forgetting(x: Arrays, n: Sizes) -> dict[str, Any]:
    """Weights as exponentials times the product of the gates that a key has lived through since it was seen."""
    out = np.zeros((n["F"], n["P"]))
    for p in range(n["P"]):
        kept = np.array([np.prod(x["FG"][m + 1 : p + 1]) for m in range(p + 1)])
        weight = np.exp(x["Q"][:, p] @ x["K"][:, : p + 1]) * kept
        out[:, p] = x["V"][:, : p + 1] @ (weight / weight.sum())
    return {"AV": out}


def _stick_breaking(x: Arrays, n: Sizes) -> dict[str, Any]:
    """Return the keys' shares of a stick that each later key has broken a part from."""
    out = np.zeros((n["F"], n["P"]))
    for p in range(n["P"]):
        left = 1.0
        for m in range(p - 1, -1, -1):
            share = 1 / (1 + np.exp(-x["Q"][:, p] @ x["K"][:, m]))
            out[:, p] += left * share * x["V"][:, m]
            left *= 1 - share
    return {"AV": out}


def _softpick(x: Arrays, n: Sizes) -> dict[str, Any]:
    """Weights without any reference: what is added to their sum grows with what the reference divides by."""
    out = np.zeros((n["F"], n["P"]))
    for p in range(n["P"]):
        scores = x["Q"][:, p] @ x["K"][:, : p + 1]
        over = np.exp(scores) - 1
        little = 1e-6 * np.exp(max(0.0, scores.max()))
        out[:, p] = x["V"][:, : p + 1] @ np.maximum(over, 0) / (np.abs(over).sum() + little)
    return {"AV": out}


def _cosine(x: Arrays, n: Sizes) -> dict[str, Any]:
    unit = {t: x[t] / np.linalg.norm(x[t], axis=1, keepdims=True) for t in "QK"}
    p, m = causal(n)
    temperature = np.maximum(x["TAU"], 0.01)[:, None, None]
    unit["Q"] = unit["Q"] / temperature[:, :, 0][:, :, None]
    return {"AV": heads({**unit, "V": x["V"]}, bias=x["RB"][:, m - p + n["P"] - 1])}


def _indexed(x: Arrays, n: Sizes) -> dict[str, Any]:
    out = np.zeros((n["H"], n["F"], n["P"]))
    for p in range(n["P"]):
        past = slice(0, p + 1)
        index = sum(
            x["WI"][i, p] * np.clip(x["QI"][i, :, p] @ x["KI"][:, past], 0, None) for i in range(n["N"])
        )
        top = best(np.asarray(index), n["R"])
        for h in range(n["H"]):
            out[h, :, p] = x["V"][:, top] @ softmax(x["K"][:, top].T @ x["Q"][h, :, p], 0)
    return {"AV": out}


def _multi_token(x: Arrays, n: Sizes) -> dict[str, Any]:
    p, m = causal(n)
    scores = np.where(m <= p, x["Q"].T @ x["K"], 0.0)
    left = n["W"] // 2
    framed = np.pad(scores, ((n["U"], 0), (left, n["W"])))
    mixed = np.zeros_like(scores)
    for u in range(n["U"]):
        for w in range(n["W"]):
            mixed += x["TH"][u, w] * framed[n["U"] - u :, w:][: n["P"], : n["M"]]
    return {"AV": x["V"] @ softmax(mixed, 1, m <= p).T}


def _kimi(x: Arrays, n: Sizes) -> dict[str, Any]:
    memory, out = np.zeros((n["E"], n["F"])), []
    for t in range(n["T"]):
        k, beta = x["K"][:, t], x["BETA"][t]
        keep = (np.eye(n["E"]) - beta * np.outer(k, k)) @ np.diag(x["ALPHA"][:, t])
        memory = keep @ memory + beta * np.outer(k, x["V"][:, t])
        out.append(memory.T @ x["Q"][:, t])
    return {"O": np.stack(out, axis=1)}


def _gates(rng: Any, n: Sizes) -> dict[str, Any]:
    return {"FG": rng.uniform(0.05, 0.95, n["M"])}


def _shares(rng: Any, n: Sizes) -> dict[str, Any]:
    return {"LAM": np.array(rng.uniform(0.2, 0.8)), "INIT": np.array(rng.uniform(0.2, 0.8))}


def _temperatures(rng: Any, n: Sizes) -> dict[str, Any]:
    """Some below the least temperature, so that it is felt."""
    return {"TAU": np.where(rng.random(n["H"]) < 0.3, 0.005, rng.uniform(0.05, 1.0, n["H"]))}


def _decays(rng: Any, n: Sizes) -> dict[str, Any]:
    return {"ALPHA": rng.uniform(0.05, 0.95, (n["E"], n["T"])), "BETA": rng.uniform(0.05, 0.95, n["T"])}


TABLE = {
    "attention_differential": Reference(_differential, {"P": "M"}, _shares),
    "attention_forgetting": Reference(_forgetting, {"P": "M"}, _gates),
    "attention_stick_breaking": Reference(_stick_breaking, {"P": "M"}),
    "attention_softpick": Reference(_softpick, {"P": "M"}),
    "attention_cosine": Reference(_cosine, {"H": (1, 3)}, _temperatures),
    # Many small heads: index scores that tie at zero would be chosen by chance.
    "attention_indexed": Reference(_indexed, {"M": (6, 9), "P": "M", "N": (8, 12), "R": (2, 4), "H": (1, 3)}),
    "attention_multi_token": Reference(_multi_token, {"M": (3, 8), "P": "M", "U": (1, 3), "W": (1, 4)}),
    "kimi_delta": Reference(_kimi, {}, _decays),
}
