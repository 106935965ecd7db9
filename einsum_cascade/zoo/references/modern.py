"""Attentions of the models of today: shared heads, latents, caches, sinks, state spaces and delta rules."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Arrays, Reference, Sizes
from .softmax import attend, softmax


def heads(x: Arrays, *, bias: Any = 0.0, mask: Any = True, scale: float = 1.0) -> Any:
    """Return attention head by head; fewer key heads than query heads are shared by neighbours."""
    share = x["Q"].shape[0] // x["K"].shape[0]
    k, v = np.repeat(x["K"], share, axis=0), np.repeat(x["V"], share, axis=0)
    scores = np.einsum("hep,hem->hpm", x["Q"], k) * scale + bias
    return np.einsum("hpm,hfm->hfp", softmax(scores, 2, mask), v)


def causal(n: Sizes) -> tuple[Any, Any]:
    """Return the positions of queries and keys, ready to be compared."""
    return np.arange(n["P"])[:, None], np.arange(n["M"])[None, :]


def _grouped(x: Arrays, n: Sizes) -> dict[str, Any]:
    p, m = causal(n)
    return {"AV": heads(x, mask=m <= p)}


def _latent(x: Arrays, n: Sizes) -> dict[str, Any]:
    """Keys and values of every head are made from the latent first: the form that is not absorbed."""
    p, m = causal(n)
    out = []
    for h in range(n["H"]):
        key, value = x["WK"][h] @ x["C"], x["WV"][h] @ x["C"]
        query = np.concatenate([x["Q"][h], x["QR"][h]])
        scores = query.T @ np.concatenate([key, x["KR"]]) / np.sqrt(n["E"] + n["R"])
        out.append(value @ softmax(scores, 1, m <= p).T)
    return {"AV": np.stack(out)}


def _sigmoid(x: Arrays, n: Sizes) -> dict[str, Any]:
    weight = 1 / (1 + n["M"] * np.exp(-(x["Q"].T @ x["K"])))
    return {"AV": x["V"] @ weight.T}


def _alibi(x: Arrays, n: Sizes) -> dict[str, Any]:
    p, m = causal(n)
    return {"AV": heads(x, bias=-x["SL"][:, None, None] * (p - m), mask=m <= p)}


def _softcap(x: Arrays, n: Sizes) -> dict[str, Any]:
    p, m = causal(n)
    scores = np.tanh(x["Q"].T @ x["K"] / x["CAP"]) * x["CAP"]
    return {"AV": x["V"] @ softmax(scores, 1, m <= p).T}


def _sink(x: Arrays, n: Sizes) -> dict[str, Any]:
    p, m = causal(n)
    return {"AV": attend(x, (m <= p) & ((m < n["S"]) | (p - m < n["W"])))}


def _sink_logit(x: Arrays, n: Sizes) -> dict[str, Any]:
    """The sink as one more key whose value is zero."""
    p, m = causal(n)
    scores = np.where(m <= p, np.einsum("hep,hem->hpm", x["Q"], x["K"]), -np.inf)
    sink = np.broadcast_to(x["SK"][:, None, None], (n["H"], n["P"], 1))
    weight = softmax(np.concatenate([scores, sink], axis=2), 2)[:, :, :-1]
    return {"AV": np.einsum("hpm,hfm->hfp", weight, x["V"])}


def _cross(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"AV": heads(x, mask=x["PM"][None, None, :] > 0, scale=1 / np.sqrt(n["E"]))}


def _decode(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"AV": heads({**x, "Q": x["Q"][:, :, None]})[:, :, 0]}


def _paged(x: Arrays, n: Sizes) -> dict[str, Any]:
    pages = x["TB"].astype(int)
    used = slice(0, int(x["SL"]))
    k = np.concatenate([x["K"][:, page] for page in pages], axis=1)[:, used]
    v = np.concatenate([x["V"][:, page] for page in pages], axis=1)[:, used]
    return {"AV": v @ softmax(x["Q"] @ k, 0)}


def _selected(x: Arrays, n: Sizes) -> dict[str, Any]:
    out = np.zeros((n["F"], n["P"]))
    k, v = x["K"].reshape(n["E"], -1), x["V"].reshape(n["F"], -1)
    for p in range(n["P"]):
        past = [g for g in range(n["G"]) if g * n["T"] <= p]
        scores = {g: x["Q"][:, p] @ x["K"][:, g].mean(axis=1) for g in past}
        chosen = sorted(past, key=lambda g: -scores[g])[: n["R"]]
        keys = [g * n["T"] + t for g in chosen for t in range(n["T"]) if g * n["T"] + t <= p]
        out[:, p] = v[:, keys] @ softmax(k[:, keys].T @ x["Q"][:, p], 0)
    return {"AV": out}


def _scan(x: Arrays, n: Sizes, step: Any, *, read: str = "Q") -> Any:
    """Run a memory [E, F] through time; it is read after each step."""
    memory, out = np.zeros((n["E"], n["F"])), []
    for t in range(n["T"]):
        memory = step(memory, t)
        out.append(memory.T @ x[read][:, t])
    return np.stack(out, axis=1)


def _gated_linear(x: Arrays, n: Sizes) -> dict[str, Any]:
    def step(memory: Any, t: int) -> Any:
        return np.diag(x["G"][:, t]) @ memory + np.outer(x["K"][:, t], x["V"][:, t])

    return {"O": _scan(x, n, step)}


def _delta(x: Arrays, n: Sizes) -> dict[str, Any]:
    """The closed form: the memory times (1 - beta k k^T), plus beta k v^T; a decay, where there is one, first."""

    def step(memory: Any, t: int) -> Any:
        k, beta = x["K"][:, t], x["BETA"][t]
        decay = x["ALPHA"][t] if "ALPHA" in x else 1.0
        return decay * (np.eye(n["E"]) - beta * np.outer(k, k)) @ memory + beta * np.outer(k, x["V"][:, t])

    return {"O": _scan(x, n, step)}


def _state_space(x: Arrays, n: Sizes) -> Any:
    """The whole sequence as one masked matrix."""
    since = np.cumsum(-x["LA"] * x["DT"])
    t = np.arange(n["T"])
    decay = np.where(t[:, None] >= t[None, :], np.exp(since[:, None] - since[None, :]), 0.0)
    mixing = x["C"].T @ x["B"] * decay * x["DT"][None, :]
    return x["X"] @ mixing.T + x["SK"] * x["X"]


def _mamba(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"Y": _state_space(x, n)}


def _mamba_chunked(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"Y": _state_space(x, n).reshape(n["F"], n["T1"], n["T0"])}


def _rwkv6(x: Arrays, n: Sizes) -> dict[str, Any]:
    """Every pair of times by itself: the decay between them is a product."""
    out = np.zeros((n["F"], n["T"]))
    for t in range(n["T"]):
        for s in range(t + 1):
            weight = x["U"] if s == t else np.prod(x["W"][:, s + 1 : t], axis=1)
            out[:, t] += (x["R"][:, t] * weight * x["K"][:, s]).sum() * x["V"][:, s]
    return {"O": out}


def _rwkv7(x: Arrays, n: Sizes) -> dict[str, Any]:
    def step(memory: Any, t: int) -> Any:
        move = np.diag(x["W"][:, t]) + np.outer(x["KB"][:, t], x["KA"][:, t])
        return move @ memory + np.outer(x["K"][:, t], x["V"][:, t])

    return {"O": _scan(x, n, step, read="R")}


def _padding(rng: Any, n: Sizes) -> dict[str, Any]:
    return {"PM": (np.arange(n["M"]) <= rng.integers(0, n["M"])).astype(float)}


def _cache(rng: Any, n: Sizes) -> dict[str, Any]:
    return {"TB": rng.permutation(n["G"])[: n["N"]], "SL": np.array(rng.integers(1, n["M"] + 1))}


def _decays(*names: str) -> Any:
    def draw(rng: Any, n: Sizes) -> dict[str, Any]:
        shape = {"G": (n["E"], n["T"]), "W": (n["E"], n["T"])}
        return {k: rng.uniform(0.05, 0.95, shape.get(k, () if k == "LA" else (n["T"],))) for k in names}

    return draw


_SHORT = {"H": (1, 3), "P": (1, 7)}
TABLE = {
    "attention_grouped_query": Reference(_grouped, {"D": (1, 3), "G": (1, 3)}),
    "attention_latent": Reference(_latent, _SHORT),
    "attention_sigmoid": Reference(_sigmoid),
    "attention_alibi": Reference(_alibi, _SHORT),
    "attention_softcap": Reference(_softcap),
    "attention_sink": Reference(_sink, {"M": (1, 12), "P": "M", "S": (1, 3), "W": (1, 4)}),
    "attention_sink_logit": Reference(_sink_logit, _SHORT),
    "attention_cross": Reference(_cross, _SHORT, _padding),
    "attention_decode": Reference(_decode, {"D": (1, 3), "G": (1, 3)}),
    "attention_split_decode": Reference(_decode, {"H": (2, 4), "M1": (2, 4)}),
    "attention_paged": Reference(_paged, {"G": (4, 7), "N": (1, 4), "T": (1, 4)}, _cache),
    "attention_selected_blocks": Reference(_selected, {"G": (3, 6), "T": (2, 4), "P": (9, 18), "R": (1, 2)}),
    "gated_linear": Reference(_gated_linear, {}, _decays("G")),
    "deltanet": Reference(_delta, {}, _decays("BETA")),
    "gated_deltanet": Reference(_delta, {}, _decays("ALPHA", "BETA")),
    "mamba2_recurrent": Reference(_mamba, {}, _decays("DT", "LA")),
    "mamba2_ssd": Reference(_mamba_chunked, {"T1": (1, 4), "T0": (1, 4)}, _decays("DT", "LA")),
    "rwkv6": Reference(_rwkv6, {}, _decays("W")),
    "rwkv7": Reference(_rwkv7, {}, _decays("W")),
}
