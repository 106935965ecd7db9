"""Neighbourhoods, windows, blocks, landmarks and bands."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Arrays, Reference, Sizes
from .softmax import attend, gna_1d, softmax


def _gna_1d_causal(x: Arrays, n: Sizes) -> dict[str, Any]:
    """Every residue class modulo the dilation is a sequence of its own."""
    length, window, stride, dilation = n["M"], n["W"], n["S"], n["D"]
    out = np.zeros((n["F"], length))
    for residue in range(dilation):
        tokens = np.arange(residue, length, dilation)
        for i, p in enumerate(tokens):
            leader = min(i // stride * stride + stride - 1, len(tokens) - 1)
            keys = tokens[max(leader - window + 1, 0) : i + 1]
            out[:, p] = x["V"][:, keys] @ softmax(x["K"][:, keys].T @ x["Q"][:, p], 0)
    return {"AV": out}


def _halo(x: Arrays, n: Sizes) -> dict[str, Any]:
    out = np.zeros((n["F"], n["N1"], n["N0"]))
    for block in range(n["N1"]):
        first = block * n["N0"] - n["R"]
        keys = [k for k in range(first, first + n["W"]) if 0 <= k < n["N"]]
        for i in range(n["N0"]):
            q = x["Q"][:, block * n["N0"] + i]
            bias = np.array([q @ x["RE"][:, k - first - i + n["N0"] - 1] for k in keys])
            out[:, block, i] = x["V"][:, keys] @ softmax(x["K"][:, keys].T @ q + bias, 0)
    return {"AV": out}


def _hat_overlapping(x: Arrays, n: Sizes) -> dict[str, Any]:
    r, y0, x0 = n["R"], n["Y0"], n["X0"]
    pad = ((0, 0), (r, r), (r, r))
    keys, values = np.pad(x["K"], pad), np.pad(x["V"], pad)
    out = np.zeros((n["F"], n["Y1"], n["X1"], y0, x0))
    for b in range(n["Y1"]):
        for c in range(n["X1"]):
            k = keys[:, b * y0 : b * y0 + n["U"], c * x0 : c * x0 + n["W"]]
            v = values[:, b * y0 : b * y0 + n["U"], c * x0 : c * x0 + n["W"]]
            for i in range(y0):
                for j in range(x0):
                    q = x["Q"][:, b * y0 + i, c * x0 + j]
                    bias = x["RB"][y0 - 1 - i : y0 - 1 - i + n["U"], x0 - 1 - j : x0 - 1 - j + n["W"]]
                    a = softmax(np.einsum("e,euw->uw", q, k) + bias, (0, 1))
                    out[:, b, c, i, j] = np.einsum("uw,fuw->f", a, v)
    return {"AV": out}


def _landmark(x: Arrays, n: Sizes) -> dict[str, Any]:
    period, scores = n["T"] + 1, x["Q"].T @ x["K"]
    out = np.zeros((n["F"], n["P"]))
    for p in range(n["P"]):
        block = p // period
        own = [k for k in range(block * period, p + 1) if k % period != n["T"]]
        marks = [g * period + n["T"] for g in range(block)]
        weight = softmax(scores[p, [*marks, *own]], 0)
        for g in range(block):
            inside = slice(g * period, g * period + n["T"])
            out[:, p] += weight[g] * (x["V"][:, inside] @ softmax(scores[p, inside], 0))
        out[:, p] += x["V"][:, own] @ weight[block:]
    return {"AV": out}


def _landmark_retrieval(x: Arrays, n: Sizes) -> dict[str, Any]:
    period, scores = n["T"] + 1, x["Q"].T @ x["K"].reshape(n["E"], -1)
    out = np.zeros((n["P"], n["R"], n["T"]))
    for p in range(n["P"]):
        past = list(range(min(p // period, n["G"])))
        best = sorted(past, key=lambda g: -scores[p, g * period + n["T"]])[: n["R"]]
        for r, g in enumerate(best):
            out[p, r] = scores[p, g * period : g * period + n["T"]]
    return {"GK": out}


def _arrow(x: Arrays, n: Sizes) -> dict[str, Any]:
    p, m = np.arange(n["P"])[:, None], np.arange(n["M"])[None, :]
    scores = x["Q"].T @ x["K"]
    scores[0] *= np.log(n["M"]) / np.log(512.0)
    band = (p == 0) | (m == 0) | (np.abs(p - m) <= n["R"])
    return {"AV": x["V"] @ softmax(scores, 1, band).T}


def _bispa(x: Arrays, n: Sizes) -> dict[str, Any]:
    i = np.arange(n["I"])
    near = np.abs(i[:, None] - i[None, :]) <= n["R"]
    row = softmax(np.einsum("eij,eil->ijl", x["HQ"], x["HY"]), 2, near[:, None, :])
    column = softmax(np.einsum("eij,elj->ijl", x["VQ"], x["VY"]), 2, near[None, :, :])
    across = np.einsum("ijl,fil->fij", row, x["HV"])
    down = np.einsum("ijl,flj->fij", column, x["VV"])
    return {"O": np.einsum("fij,fg->gij", across, x["WH"]) + np.einsum("fij,fg->gij", down, x["WV"])}


def _ring(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"AV": attend(x).reshape(n["F"], n["D"], n["I"])}


def _naavit(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"AV": attend(x, np.arange(n["M"])[None, :] <= x["PT"][:, None])}


def _positions(rng: Any, n: Sizes) -> dict[str, Any]:
    return {"PT": rng.integers(0, n["M"], n["P"])}


TABLE = {
    # Small windows and strides above one: at the border only they tell one clipping from another.
    "gna_1d_gather": Reference(gna_1d, {"M": (8, 14), "P": "M", "W": (2, 5), "S": (2, 2)}),
    "gna_1d_causal": Reference(
        _gna_1d_causal, {"M": (8, 14), "P": "M", "D": (2, 3), "W": (3, 4), "S": (2, 3)}
    ),
    "halo_attention": Reference(_halo, {"R": (1, 3)}),
    "hat_overlapping": Reference(
        _hat_overlapping, {"R": (1, 2), "Y1": (1, 3), "Y0": (1, 3), "X1": (1, 3), "X0": (1, 3)}
    ),
    "landmark": Reference(_landmark, {"G": (1, 4), "T": (1, 4)}),
    "landmark_1pass": Reference(_landmark, {"G": (2, 4), "T": (2, 4)}),
    "landmark_retrieval": Reference(
        _landmark_retrieval, {"G": (1, 4), "P": (1, 12), "T": (1, 4), "R": (1, 3)}
    ),
    "arrow_attention": Reference(_arrow, {"M": (4, 8), "P": (3, 4), "R": (1, 2)}),
    "bispa": Reference(_bispa, {"R": (1, 3)}),
    "ring_attention": Reference(_ring, {"D": (1, 4), "I": (1, 4)}),
    "naavit": Reference(_naavit, {}, _positions),
}
