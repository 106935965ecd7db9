"""Operators over channels: gates, transposed attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Arrays, Reference, Sizes
from .softmax import softmax


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + np.exp(-x))


def _squeeze_excite(x: Arrays, n: Sizes) -> dict[str, Any]:
    hidden = np.maximum(x["W1"] @ x["X"].mean(axis=1), 0.0)
    return {"O": x["X"] * sigmoid(x["W2"] @ hidden)[:, None]}


def _channel_attention(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"AV": softmax(x["Q"] @ x["K"].T, 1) @ x["V"]}


TABLE = {
    "squeeze_excite": Reference(_squeeze_excite),
    "channel_attention": Reference(_channel_attention),
}
