"""Channels, gates, convolutions, norms: operators of the vision papers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import Arrays, Reference, Sizes
from .softmax import softmax


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + np.exp(-x))


def convolve(image: Any, weight: Any, *, dilation: int = 1) -> Any:
    """Return the zero-padded 3 x 3 correlation of image[C, Y, X] with weight[K, C, 3, 3]."""
    rows, columns = image.shape[1:]
    padded = np.pad(image, ((0, 0), (dilation, dilation), (dilation, dilation)))
    out = np.zeros((weight.shape[0], rows, columns))
    for u in range(3):
        for w in range(3):
            part = padded[:, u * dilation : u * dilation + rows, w * dilation : w * dilation + columns]
            out += np.einsum("kc,cyx->kyx", weight[:, :, u, w], part)
    return out


def slide(lines: Any, weight: Any) -> Any:
    """Return the zero-padded correlation of each line[C, N] with its own weight[C, W], the centre at W // 2."""
    width, length = weight.shape[1], lines.shape[1]
    padded = np.pad(lines, ((0, 0), (width, width)))
    first = width - width // 2
    return sum(weight[:, w : w + 1] * padded[:, first + w : first + w + length] for w in range(width))


def _squeeze_excite(x: Arrays, n: Sizes) -> dict[str, Any]:
    hidden = np.maximum(x["W1"] @ x["X"].mean(axis=1), 0.0)
    return {"O": x["X"] * sigmoid(x["W2"] @ hidden)[:, None]}


def _channel_attention(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"AV": softmax(x["Q"] @ x["K"].T, 1) @ x["V"]}


def _maniqa(x: Arrays, n: Sizes) -> dict[str, Any]:
    q, k, v = x["X"] @ x["WQ"], x["X"] @ x["WK"], x["X"] @ x["WV"]
    mixed = softmax(q @ k.T / np.sqrt(n["N"]), 1) @ v
    return {"O": mixed.T.reshape(n["C"], n["N"]) + x["X"]}


def _davit(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"O": softmax(x["K"] @ x["V"].T / np.sqrt(n["C"]), 1) @ x["Q"]}


def _danet_channel(x: Arrays, n: Sizes) -> dict[str, Any]:
    energy = x["X"] @ x["X"].T
    return {"O": x["GAM"] * (softmax(-energy, 1) @ x["X"]) + x["X"]}


def _danet_position(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"O": x["GAM"] * (x["V"] @ softmax(x["Q"].T @ x["K"], 1).T) + x["X"]}


def _aspp(x: Arrays, n: Sizes) -> dict[str, Any]:
    return {"O": convolve(x["IN"], x["WT"], dilation=n["D"])}


def _eca(x: Arrays, n: Sizes) -> dict[str, Any]:
    mixed = slide(x["IN"].mean(axis=1)[None, :], x["WT"][None, :])[0]
    return {"O": x["IN"] * sigmoid(mixed)[:, None]}


def _ela(x: Arrays, n: Sizes) -> dict[str, Any]:
    def gate(pooled: Any) -> Any:
        mixed = slide(pooled, x["WT"]).reshape(n["G"], -1)
        normal = (mixed - mixed.mean(axis=1, keepdims=True)) / np.sqrt(
            mixed.var(axis=1, keepdims=True) + 1e-5
        )
        return sigmoid(normal.reshape(n["C"], -1) * x["GA"][:, None] + x["BE"][:, None])

    return {"O": x["IN"] * gate(x["IN"].mean(axis=2))[:, :, None] * gate(x["IN"].mean(axis=1))[:, None, :]}


def _attention_gate(x: Arrays, n: Sizes) -> dict[str, Any]:
    hidden = np.maximum(x["WX"] @ x["X"] + x["WG"] @ x["G"] + x["BI"][:, None], 0)
    return {"O": x["X"] * sigmoid(x["PSI"] @ hidden + x["B0"])}


def _layer_norm(x: Any, axis: int | tuple[int, ...]) -> Any:
    return (x - x.mean(axis=axis, keepdims=True)) / np.sqrt(x.var(axis=axis, keepdims=True) + 1e-5)


def _shvit(x: Arrays, n: Sizes) -> dict[str, Any]:
    normal = _layer_norm(x["X"], (0, 1)) * x["GA"][:, None] + x["BE"][:, None]
    q, k, v = x["WQ"].T @ normal, x["WK"].T @ normal, x["WV"].T @ normal
    mixed = v @ softmax(q.T @ k / np.sqrt(n["E"]), 1).T
    return {"O": x["WA"].T @ np.maximum(mixed, 0) + x["WB"].T @ np.maximum(x["XR"], 0)}


def _ninformer(x: Arrays, n: Sizes) -> dict[str, Any]:
    from math import erf

    gelu = np.vectorize(lambda v: v * 0.5 * (1 + erf(v / 2**0.5)), otypes=[float])
    mixed = x["X"] + x["W2"] @ gelu(x["W1"] @ _layer_norm(x["X"], 1))
    mixed = mixed + gelu(_layer_norm(mixed, 1) @ x["W3"]) @ x["W4"]
    return {"O": x["X"] @ x["WP"] * mixed}


def _medusa(x: Arrays, n: Sizes) -> dict[str, Any]:
    pooled = np.maximum(x["GX"], 0).reshape(n["K"], n["Y"], 2, n["X"], 2).max(axis=(2, 4))
    resized = pooled.repeat(2, axis=1).repeat(2, axis=2)
    return {"O": x["FX"] * sigmoid(convolve(resized, x["WL"]))}


def _residual_reduction(x: Arrays, n: Sizes) -> dict[str, Any]:
    tiles = x["LN"].reshape(n["C"], n["Y"], 2, n["X"], 2)
    out = np.einsum("cyuxw,kcuw->kyx", tiles, x["WT"])
    pooled = x["IN"].reshape(n["C"], n["Y"], 2, n["X"], 2).mean(axis=(2, 4))
    both = min(n["C"], n["K"])
    out[:both] += pooled[:both]
    return {"O": out}


def _rim(x: Arrays, n: Sizes) -> dict[str, Any]:
    misfit = x["MK"] * (np.fft.fft(x["ER"] + 1j * x["EI"]) - (x["YR"] + 1j * x["YI"]))
    gradient = np.fft.ifft(misfit)
    mixed = sum(
        np.stack([slide(x["XI"][i : i + 1], x["WT"][c, i][None, :])[0] for c in range(n["C"])])
        for i in range(n["I"])
    )
    return {"GR": gradient.real, "GI": gradient.imag, "HN": np.maximum(mixed + x["UU"][:, None] * x["HO"], 0)}


_IMAGE = {"X": (1, 4), "Y": (1, 4), "C": (1, 4), "K": (1, 4)}

TABLE = {
    "squeeze_excite": Reference(_squeeze_excite),
    "channel_attention": Reference(_channel_attention),
    "maniqa_transposed": Reference(_maniqa),
    "davit_channel": Reference(_davit),
    "danet_channel": Reference(_danet_channel),
    "position_attention": Reference(_danet_position),
    "aspp": Reference(_aspp, {**_IMAGE, "D": (1, 3)}),
    "eca": Reference(_eca),
    "ela": Reference(_ela, {"G": (1, 3), "R": (2, 3), "X": (2, 5), "Y": (2, 5)}),
    "attention_gate": Reference(_attention_gate),
    "shvit": Reference(_shvit, {"C": (2, 5), "N": (2, 6), "P": "N"}),
    "ninformer": Reference(_ninformer, {"D": (2, 6)}),
    "medusa_gate": Reference(_medusa, _IMAGE),
    "residual_reduction": Reference(_residual_reduction, _IMAGE),
    "rim": Reference(_rim, {"N": (2, 7)}),
}
