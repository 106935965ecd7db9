"""Select, then attend: top-k, clusters, tokens kept and scattered back, sampling points."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Arrays, Reference, Sizes
from .softmax import softmax


def best(scores: Any, count: int) -> Any:
    """Return the indices of the largest scores along the last axis."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :count]


def _routing(x: Arrays, n: Sizes) -> dict[str, Any]:
    q, k = x["Q"] / np.linalg.norm(x["Q"], axis=0), x["K"] / np.linalg.norm(x["K"], axis=0)
    queries, keys = np.sort(best(x["MU"] @ q, n["I"])), np.sort(best(x["MU"] @ k, n["I"]))
    total, count = np.zeros((n["F"], n["P"])), np.zeros(n["P"])
    for c in range(n["C"]):
        for p in queries[c]:
            seen = keys[c][keys[c] <= p]
            count[p] += 1
            if len(seen):
                total[:, p] += x["V"][:, seen] @ softmax(x["K"][:, seen].T @ x["Q"][:, p], 0)
    return {"O": total / (count + 1e-5)}


def _sparsifiner(x: Arrays, n: Sizes) -> dict[str, Any]:
    low = x["Q"].T @ x["WQ"] @ ((x["K"].T @ x["WK"]).T @ x["PN"])
    basis = softmax(low, 1)
    top = best(np.where(basis > 0.1, basis, 0.0) @ x["BS"], n["J"])
    out = np.zeros((n["F"], n["P"]))
    for p in range(n["P"]):
        out[:, p] = x["V"][:, top[p]] @ softmax(x["K"][:, top[p]].T @ x["Q"][:, p], 0)
    return {"AV": out}


def _evit(x: Arrays, n: Sizes) -> dict[str, Any]:
    a = softmax(np.einsum("hep,hem->hpm", x["Q"], x["K"]), 2)
    cls = a[:, 0, :].mean(axis=0)
    top = 1 + best(cls[1:], n["J"])
    rest = np.setdiff1d(np.arange(1, n["M"]), top)
    return {
        "AV": np.einsum("hpm,hfm->hfp", a, x["V"]),
        "KP": x["X"][:, top],
        "FU": x["X"][:, rest] @ cls[rest],
    }


def _focus(x: Arrays, n: Sizes) -> dict[str, Any]:
    top = best(x["CL"] * x["FG"], n["J"])
    out = x["X"].copy()
    out[:, top] = x["V"][:, top] @ softmax(x["Q"][:, top].T @ x["K"][:, top], 1).T
    return {"O": out}


def bilinear(image: Any, y: float, x: float) -> Any:
    """Return a point of image[F, Y, X] between four pixels; pixels outside are zero."""
    total = np.zeros(image.shape[0])
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def _deformable(x: Arrays, n: Sizes) -> dict[str, Any]:
    out = np.zeros((n["F"], n["P"]))
    for p in range(n["P"]):
        weight = softmax(x["LG"][p], (0, 1))
        for level in range(n["L"]):
            for k in range(n["K"]):
                row = (x["RY"][p] + x["OY"][p, level, k] / n["Y"]) * n["Y"] - 0.5
                column = (x["RX"][p] + x["OX"][p, level, k] / n["X"]) * n["X"] - 0.5
                out[:, p] += weight[level, k] * bilinear(x["V"][level], row, column)
    return {"O": out}


def _centres(rng: Any, n: Sizes) -> dict[str, Any]:
    return {"RX": rng.uniform(0, 1, n["P"]), "RY": rng.uniform(0, 1, n["P"])}


TABLE = {
    "routing": Reference(_routing, {"E": (3, 7), "P": (8, 12), "M": (8, 12), "I": (3, 4), "C": (2, 4)}),
    "sparsifiner": Reference(
        _sparsifiner, {"E": (2, 7), "R": (2, 7), "M": (6, 9), "P": (2, 7), "J": (2, 4), "N": (3, 6)}
    ),
    "evit": Reference(_evit, {"M": (4, 9), "J": (1, 3), "H": (1, 3)}),
    "focus_detr": Reference(_focus, {"N": (3, 9), "J": (1, 3)}),
    "deformable_attention": Reference(_deformable, {"K": (1, 3), "L": (1, 3), "F": (1, 4)}, _centres),
}
