"""Softmax attention and its masks, score functions and biases."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Arrays, Formula, Reference, Sizes


def softmax(x: Any, axis: int | tuple[int, ...], mask: Any = True) -> Any:
    """Return the softmax over the entries where the mask holds; 0 elsewhere."""
    kept = np.where(mask, x, -np.inf)
    e = np.where(mask, np.exp(kept - kept.max(axis=axis, keepdims=True)), 0.0)
    return e / e.sum(axis=axis, keepdims=True)


def attend(x: Arrays, mask: Any = True) -> Any:
    """Return attention of Q[E, P], K[E, M], V[F, M] as AV[F, P]; the mask is [P, M]."""
    return x["V"] @ softmax(x["Q"].T @ x["K"], 1, mask).T


def _masked(rule: Any) -> Formula:
    def formula(x: Arrays, n: Sizes) -> dict[str, Any]:
        p, m = np.arange(x["Q"].shape[1])[:, None], np.arange(x["K"].shape[1])[None, :]
        return {"AV": attend(x, rule(p, m, n))}

    return formula


def neighbourhood(length: int, window: int, stride: int, query: int) -> range:
    """Return the keys of one query along one axis, as NATTEN's reference mask counts them."""
    leader = min(query // stride * stride + stride // 2, length - 1)
    left, right = window // 2, window // 2 + (window % 2 - 1)
    start = max(leader - left, 0)
    if leader + right >= length:
        start += length - right - leader - 1
    return range(start, start + window)


def gna_1d(x: Arrays, n: Sizes) -> dict[str, Any]:
    """Return the neighbourhood attention of each query, one by one."""
    out = np.zeros((n["F"], n["P"]))
    for p in range(n["P"]):
        keys = list(neighbourhood(n["M"], n["W"], n["S"], p))
        out[:, p] = x["V"][:, keys] @ softmax(x["K"][:, keys].T @ x["Q"][:, p], 0)
    return {"AV": out}


def _gna_2d(x: Arrays, n: Sizes) -> dict[str, Any]:
    out = np.zeros((n["F"], n["Py"], n["Px"]))
    for y in range(n["Py"]):
        for c in range(n["Px"]):
            rows = list(neighbourhood(n["My"], n["Wy"], n["Sy"], y))
            columns = list(neighbourhood(n["Mx"], n["Wx"], n["Sx"], c))
            k = x["K"][:, rows][:, :, columns].reshape(n["E"], -1)
            v = x["V"][:, rows][:, :, columns].reshape(n["F"], -1)
            out[:, y, c] = v @ softmax(k.T @ x["Q"][:, y, c], 0)
    return {"AV": out}


_FULL = _masked(lambda p, m, n: np.ones((p.size, m.size), dtype=bool))
_CAUSAL = _masked(lambda p, m, n: m <= p)
_WINDOW = _masked(lambda p, m, n: (m <= p) & (m > p - n["W"]))
# Every query must see a key, so there are at most as many queries as keys (causal: position 0 always sees key 0).
_SELF = {"P": "M"}

TABLE = {
    "attention_3pass": Reference(_FULL),
    "attention_2pass": Reference(_FULL),
    "attention_2pass_local": Reference(_FULL),
    "attention_1pass": Reference(_FULL),
    "attention_causal": Reference(_CAUSAL),
    "attention_1pass_causal": Reference(_CAUSAL),
    "attention_sliding_window": Reference(_WINDOW, {"M": (1, 12), **_SELF}),
    "attention_1pass_sliding_window": Reference(_WINDOW, {"M1": (2, 4), "P": (1, 4)}),
    "gna_1d": Reference(gna_1d, {"M": (8, 14), **_SELF, "W": (2, 5), "S": (2, 2)}),
    "gna_2d": Reference(
        _gna_2d,
        {
            "My": (5, 9),
            "Mx": (5, 9),
            "Py": "My",
            "Px": "Mx",
            "Wy": (2, 5),
            "Wx": (2, 5),
            "Sy": "<=Wy",
            "Sx": "<=Wx",
        },
    ),
}
