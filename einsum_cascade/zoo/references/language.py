"""Operators of the language, multimodal and analysis papers, and plain tensor operators."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..reference import Arrays, Reference, Sizes
from .softmax import softmax


def _reversed(x: Arrays, n: Sizes) -> dict[str, Any]:
    weight = softmax(x["Q"].T @ x["K"], 1) * (x["PS"] * x["MC"])[:, None]
    return {"O": x["V"] @ weight}


def _toeplitz(values: Any, n: Sizes) -> Any:
    p, m = np.arange(n["P"])[:, None], np.arange(n["M"])[None, :]
    return values[m - p + n["P"] - 1]


def _urpe(x: Arrays, n: Sizes) -> dict[str, Any]:
    weight = softmax(x["Q"].T @ x["K"] + _toeplitz(x["RB"], n), 1) * _toeplitz(x["CT"], n)
    return {"AV": x["V"] @ weight.T}


def _causal_convolution(signal: Any, weight: Any) -> Any:
    width = weight.shape[1]
    padded = np.pad(signal, ((0, 0), (width - 1, 0)))
    return np.stack([(padded[:, t : t + width] * weight).sum(axis=1) for t in range(signal.shape[1])], axis=1)


def _rcmha(x: Arrays, n: Sizes) -> dict[str, Any]:
    q, k, v = (_causal_convolution(x[t], x["W" + t]) for t in "QKV")
    out = np.zeros((n["E"], n["M"]))
    for p in range(n["M"]):
        keys = np.arange(p + 1)
        relative = n["M"] + keys - p
        scores = (q[:, p] + x["BQ"]) @ k[:, keys] + q[:, p] @ x["RE"][:, relative] + x["BK"][relative]
        out[:, p] = v[:, keys] @ softmax(scores / np.sqrt(n["E"]), 0)
    return {"AV": out}


def _ipot(x: Arrays, n: Sizes) -> dict[str, Any]:
    kernel, plan = np.exp(-x["CO"] / x["BETA"]), np.ones((n["I"], n["J"]))
    sigma = np.full(n["J"], 1 / n["J"])
    for _ in range(n["T"]):
        q = kernel * plan
        delta = 1 / (n["I"] * (q @ sigma))
        sigma = 1 / (n["J"] * (q.T @ delta))
        plan = delta[:, None] * q * sigma[None, :]
    return {"DIST": (x["CO"] * plan).sum()}


def _costs(rng: Any, n: Sizes) -> dict[str, Any]:
    return {"CO": rng.uniform(0, 2, (n["I"], n["J"])), "BETA": np.array(0.5)}


def _additive_loss(scores: Any, x: Arrays) -> float:
    """Binary cross-entropy of the classifier behind the attention, as a function of the scores."""
    logit = x["WO"] @ (softmax(scores, 0) @ x["HS"])
    return float(np.log1p(np.exp(-abs(logit))) + max(logit, 0) - x["YL"] * logit)


def _adversarial(x: Arrays, n: Sizes) -> dict[str, Any]:
    """The gradient by the chain rule through the softmax Jacobian, written as matrices."""
    scores = np.tanh(x["HS"] @ x["WH"] + x["BK"]) @ x["VA"]
    a = softmax(scores, 0)
    logit = x["WO"] @ (a @ x["HS"])
    jacobian = np.diag(a) - np.outer(a, a)
    gradient = jacobian @ (x["HS"] @ x["WO"]) * (1 / (1 + np.exp(-logit)) - x["YL"])
    moved = scores + x["EPS"] * gradient / np.linalg.norm(gradient)
    return {"HA2": softmax(moved, 0) @ x["HS"]}


def _label(rng: Any, n: Sizes) -> dict[str, Any]:
    return {"YL": np.array(float(rng.integers(0, 2))), "EPS": np.array(0.3)}


def _crf(x: Arrays, n: Sizes) -> dict[str, Any]:
    """Sum over every path of labels."""
    total = -np.inf
    for path in itertools.product(range(n["Y"]), repeat=n["N"]):
        score = sum(x["EM"][t, y] for t, y in enumerate(path))
        score += sum(x["TR"][a, b] for a, b in itertools.pairwise(path))
        total = np.logaddexp(total, score)
    return {"Z": total}


def _pointer(x: Arrays, n: Sizes) -> dict[str, Any]:
    out = 0.0
    for h in range(n["H"]):
        out = out + x["WR"][h] * (x["DE"] @ x["WD"][h]) @ (x["EN"] @ x["WE"][h]).T / np.sqrt(n["E"])
    return {"PR": softmax(out, 1)}


def _mean_pool(x: Arrays, n: Sizes) -> dict[str, Any]:
    kept = x["PM"] > 0
    values = x["V"][:, kept] @ softmax(x["Q"].T @ x["K"][:, kept], 1).T
    u = values[:, kept].mean(axis=1)
    return {"CO": u @ x["WT"] / (np.linalg.norm(u) * np.linalg.norm(x["WT"]))}


def _padding(rng: Any, n: Sizes) -> dict[str, Any]:
    return {"PM": (np.arange(n["M"]) <= rng.integers(0, n["M"])).astype(float)}


def _head_distance(x: Arrays, n: Sizes) -> dict[str, Any]:
    a = softmax(np.einsum("hep,hem->hpm", x["Q"], x["K"]), 2)
    distance = np.einsum("hpm,mp->hp", a, x["DS"]).mean(axis=1)
    return {"MD": distance, "AV": np.einsum("hpm,hfm->hfp", a, x["V"]) * x["GH"][:, None, None]}


def _gemm(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"C": x["A"].T @ x["B"]}


TABLE = {
    "gemm": Reference(_gemm),
    "reversed_attention": Reference(_reversed),
    "reversed_attention_2pass": Reference(_reversed),
    "urpe": Reference(_urpe),
    "urpe_2pass": Reference(_urpe),
    "rcmha": Reference(_rcmha, {"W": (1, 4), "P": "M"}),
    "ipot": Reference(_ipot, {}, _costs),
    "additive_adversarial": Reference(_adversarial, {"M": (2, 7)}, _label),
    "additive_adversarial_2pass": Reference(_adversarial, {"M": (2, 7)}, _label),
    "crf": Reference(_crf, {"T": (1, 4), "Y": (1, 4)}),
    "object_pointer": Reference(_pointer, {"H": (1, 3)}),
    "masked_mean_pool": Reference(_mean_pool, {"P": "M"}, _padding),
    "head_distance": Reference(_head_distance, {"H": (1, 3)}),
}
