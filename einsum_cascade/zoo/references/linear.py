"""Linear attention, recurrences and plain tensor operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Arrays, Reference, Sizes


def decayed(x: Arrays) -> Any:
    """Return causal attention without softmax, weights exp(-D * distance), as O[F, T]."""
    length = x["Q"].shape[1]
    distance = np.arange(length)[:, None] - np.arange(length)[None, :]
    weight = np.where(distance >= 0, np.exp(-x["D"] * np.maximum(distance, 0)), 0.0)
    return x["V"] @ (x["Q"].T @ x["K"] * weight).T


def _recurrent(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"O": decayed(x)}


def _chunked(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"O": decayed(x).reshape(n["F"], n["T1"], n["T0"])}


def _gemm(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"C": x["A"].T @ x["B"]}


TABLE = {
    "linear_recurrent": Reference(_recurrent),
    "linear_chunked": Reference(_chunked),
    "gemm": Reference(_gemm),
}
