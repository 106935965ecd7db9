"""Every feature of the language that the papers need, through grammar, evaluator, printer, LaTeX, passes and counts.

One row a feature: a small text, what NumPy says that it computes, a piece of its canonical text and of its LaTeX, its
passes over a rank argued by hand, and its scalar operations counted by hand (the sums stand beside them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from einsum_cascade import evaluate, latex, parse, passes, random_inputs, render
from einsum_cascade.analysis.points import operations
from einsum_cascade.declarations import Iterate
from einsum_cascade.mathml import mathml
from einsum_cascade.sizes import resolve

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Feature:
    """One row of the table; sizes are those of the free ranks."""

    code: str
    text: str
    sizes: Mapping[str, int]
    meaning: Callable[[Inputs], Any]
    printed: str
    latex: str
    passes: tuple[str, int]
    operations: Mapping[str, int]


def _softmax(a: Any) -> Any:
    e = np.exp(a - a.max())
    return e / e.sum()


def _best(a: Any, count: int) -> Any:
    return np.argsort(-a, kind="stable")[:count]


def _scattered(x: Inputs) -> Any:
    out = np.zeros_like(x["A"])
    out[_best(x["A"], 2)] = 2 * x["A"][_best(x["A"], 2)]
    return out


def _recurrence(x: Inputs) -> Any:
    state = 0.0
    for a in x["A"]:
        state = state * x["D"] + a
    return state


def _halo(x: Inputs) -> Any:
    return np.convolve(x["A"], x["B"][::-1], mode="full")[1:-1]


FEATURES = (
    Feature(
        "E: plain Einsum",
        "rank I K\ninput A[I, K]  B[K]\noutput O[I]\nO[i] = A[i, k] * B[k]",
        {"I": 2, "K": 3},
        lambda x: x["A"] @ x["B"],
        "O[i] = A[i, k] * B[k]",
        r"O_{i} &= \sum_{k} A_{i, k} \, B_{k}",
        ("K", 1),
        {"mac": 6},
    ),
    Feature(
        "U: maps",  # per point: sigmoid exp add divide, exp, +, /; softplus exp add log, relu max; select max
        "rank I\ninput A[I]  B[I]\noutput O[I]\n"
        "O[i] = select(A[i] > 0, sigmoid(A[i]) / (1 + exp(-B[i])), softplus(relu(B[i])))",
        {"I": 4},
        lambda x: np.where(
            x["A"] > 0,
            1 / (1 + np.exp(-x["A"])) / (1 + np.exp(-x["B"])),
            np.log1p(np.exp(np.maximum(x["B"], 0))),
        ),
        "sigmoid(A[i]) / (1 + exp(-B[i]))",
        r"\frac{\sigma\left(A_{i}\right)}{1 + e^{-B_{i}}}",
        ("I", 1),
        {"exp": 12, "add": 12, "divide": 8, "log": 4, "max": 8},
    ),
    Feature(
        "X: maximum",
        "rank I\ninput A[I]\noutput O[]\nO[] = A[i] :: max(i)",
        {"I": 5},
        lambda x: x["A"].max(),
        ":: max(i)",
        r"\max_{i} A_{i}",
        ("I", 1),
        {"max": 5},
    ),
    Feature(
        "Io: online softmax",  # per step: max; RD * exp(-) + exp(-): mul, 3 add, 2 exp; at the end log and +
        "rank M\ninput A[M]\noutput O[]\nRM[0] = -inf\nRD[0] = 0\niterate m {\n"
        "RM[m + 1] = max(RM[m], A[m])\n"
        "RD[m + 1] = RD[m] * exp(RM[m] - RM[m + 1]) + exp(A[m] - RM[m + 1])\n}\nO[] = log(RD[M]) + RM[M]",
        {"M": 5},
        lambda x: np.log(np.exp(x["A"]).sum()),
        "iterate m {",
        r"\text{for } m = 0, 1, \dots",
        ("M", 1),
        {"max": 5, "mul": 5, "add": 16, "exp": 10, "log": 1},
    ),
    Feature(
        "M: predicate",  # 1 + 2 + 3 + 4 terms
        "rank M P\ninput A[M]\noutput O[P]\nO[p] = A[m] :: sum(m) where m <= p",
        {"M": 4, "P": 4},
        lambda x: np.cumsum(x["A"]),
        "where m <= p",
        r"\text{where } m \le p",
        ("M", 1),
        {"add": 10},
    ),
    Feature(
        "A: shifted index",  # 5 x 3 products less one at each border
        "rank P W\ninput A[P]  B[W]\noutput O[P]\nO[p] = A[p + w - 1] * B[w]",
        {"P": 5, "W": 3},
        _halo,
        "A[p + w - 1] * B[w]",
        r"A_{p + w - 1}",
        ("W", 1),
        {"mac": 13},
    ),
    Feature(
        "A: padded, not absent",
        "rank P W\ninput A[P]  B[W]\noutput O[P]\nO[p] = pad(A[p + w - 1], 1) * B[w]",
        {"P": 5, "W": 3},
        lambda x: np.lib.stride_tricks.sliding_window_view(np.pad(x["A"], 1, constant_values=1), 3) @ x["B"],
        "pad(A[p + w - 1], 1)",
        r"\operatorname{pad}",
        ("W", 1),
        {"mac": 15},
    ),
    Feature(
        "S: split",
        "rank M = M1*M0\ninput A[M]\noutput O[M1]\nO[m1] = A[m1*M0 + m0] :: sum(m0)",
        {"M1": 2, "M0": 3},
        lambda x: x["A"].reshape(2, 3).sum(axis=1),
        "rank   M = M1*M0",
        r"A_{m_{1} \, \mathit{M}_{0} + m_{0}}".replace(r"\mathit{M}", "M"),
        ("M", 1),
        {"add": 6},
    ),
    Feature(
        "S: merged by division",
        "rank N\ninput A[N, N]\noutput O[N, N]\nO[n, m] = A[(n*N + m) % N, (n*N + m) // N]\n".replace(
            "rank N", "rank N\nrank M = N"
        ).replace("O[N, N]", "O[N, M]"),
        {"N": 3},
        lambda x: x["A"].T,
        "(n*N + m)//N",
        r"\left\lfloor\frac{n \, N + m}{N}\right\rfloor",
        ("N", 1),
        {},
    ),
    Feature(
        "Ir: recurrence",
        "rank T\ninput A[T]  D[]\noutput O[]\nST[0] = 0\niterate t {\nST[t + 1] = ST[t] * D[] + A[t]\n}\nO[] = ST[T]",
        {"T": 6},
        _recurrence,
        "ST[t + 1] = ST[t] * D[] + A[t]",
        r"\mathit{ST}_{t + 1} &= \mathit{ST}_{t} \, D + A_{t}",
        ("T", 1),
        {"mul": 6, "add": 6},
    ),
    Feature(
        "P: coordinate as a value",
        "rank I\ninput A[I]\noutput O[I]\nO[i] = A[i] * cos(i / I)",
        {"I": 4},
        lambda x: x["A"] * np.cos(np.arange(4) / 4),
        "cos(i / I)",
        r"\cos\left(\frac{i}{I}\right)",
        ("I", 1),
        {"mul": 8, "sin": 4},  # by 1 / I, which is known before
    ),
    Feature(
        "B: norm statistics",  # mean: sum, scale; variance: -, square, sum, scale; scaled: -, +, sqrt, /
        "rank I\ninput A[I]\noutput O[I]\nMU[] = A[i] / I\nVA[] = (A[i] - MU[])**2 / I\n"
        "O[i] = (A[i] - MU[]) / sqrt(VA[] + 1e-05)",
        {"I": 5},
        lambda x: (x["A"] - x["A"].mean()) / np.sqrt(x["A"].var() + 1e-5),
        "(A[i] - MU[])**2 / I",
        r"\sqrt{\mathit{VA} + 1e-05}",
        ("I", 3),
        {"divide": 5, "add": 25, "mul": 7, "sqrt": 5},
    ),
    Feature(
        "K: top-k",
        "rank I J\ninput A[I]\noutput O[J]\nO[j] = A[i] :: topk(i -> j)",
        {"I": 6, "J": 2},
        lambda x: _best(x["A"], 2),
        ":: topk(i -> j)",
        r"\operatorname{topk}_{i \to j} A_{i}",
        ("I", 1),
        {"max": 6},
    ),
    Feature(
        "K: top-k in ascending order",
        "rank I J\ninput A[I]\noutput O[J]\nO[j] = A[i] :: topk(i -> j, sorted)",
        {"I": 6, "J": 3},
        lambda x: np.sort(_best(x["A"], 3)),
        "topk(i -> j, sorted)",
        r"\text{ sorted}",
        ("I", 1),
        {"max": 6},
    ),
    Feature(
        "K: argmax",
        "rank I\ninput A[I]\noutput O[]\nO[] = A[i] :: argmax(i)",
        {"I": 6},
        lambda x: np.argmax(x["A"]),
        ":: argmax(i)",
        r"\operatorname{argmax}_{i}",
        ("I", 1),
        {"max": 6},
    ),
    Feature(
        "G: gather",  # selected after every element was seen, fetched in a second visit
        "rank F I J\ninput A[I]  V[F, I]\noutput O[F, J]\nT[j] = A[i] :: topk(i -> j)\nO[f, j] = V[f, T[j]]",
        {"F": 2, "I": 6, "J": 2},
        lambda x: x["V"][:, _best(x["A"], 2)],
        "V[f, T[j]]",
        r"V_{f, T_{j}}",
        ("I", 2),
        {"max": 6},
    ),
    Feature(
        "N: clamped, wrapped and halved index",
        "rank I\ninput A[I]\noutput O[I]\nO[i] = A[clamp(i - 1, 0, I - 1)] + A[(i + 1) % I] + A[min(i // 2, I - 1)]",
        {"I": 5},
        lambda x: x["A"][[0, 0, 1, 2, 3]] + np.roll(x["A"], -1) + x["A"][[0, 0, 1, 1, 2]],
        "A[clamp(i - 1, 0, I - 1)]",
        r"\left(i + 1\right) \bmod I",
        ("I", 1),
        {"add": 10},
    ),
    Feature(
        "L: log-sum-exp",
        "rank I\ninput A[I]\noutput O[]\nO[] = A[i] :: logsumexp(i)",
        {"I": 5},
        lambda x: np.log(np.exp(x["A"]).sum()),
        ":: logsumexp(i)",
        r"\operatorname{logsumexp}_{i}",
        ("I", 1),
        {"max": 5, "exp": 5, "add": 10},
    ),
    Feature(
        "T: gradient of a softmax",  # the maximum, the sum, the weights and their mean, the gradient
        "rank M\ninput S[M]  W[M]\noutput O[M]\nGM[] = S[m] :: max(m)\nSN[m] = exp(S[m] - GM[])\n"
        "SD[] = SN[m] :: sum(m)\nA[m] = SN[m] / SD[]\nDW[] = A[m] * W[m]\nO[m] = A[m] * (W[m] - DW[])",
        {"M": 5},
        lambda x: (np.diag(_softmax(x["S"])) - np.outer(_softmax(x["S"]), _softmax(x["S"]))) @ x["W"],
        "A[m] * (W[m] - DW[])",
        r"A_{m} \, \left(W_{m} - \mathit{DW}\right)",
        ("M", 4),
        {"max": 5, "exp": 5, "add": 15, "divide": 5, "mac": 5, "mul": 5},
    ),
    Feature(
        "W: scatter",  # select, fetch, write what was fetched: three visits; 2 maps; 6 x 2 points with an addition
        "rank I J\ninput A[I]\noutput O[I]\nT[j] = A[i] :: topk(i -> j)\nB[j] = 2*A[T[j]]\n"
        "O[i] = B[j] :: sum(j) where T[j] == i",
        {"I": 6, "J": 2},
        _scattered,
        ":: sum(j) where T[j] == i",
        r"\text{where } T_{j} = i",
        ("I", 3),
        {"max": 6, "mul": 2, "add": 12},
    ),
    Feature(
        "D: devices in a ring",
        "rank D\nrank S = D\ninput A[D]\noutput O[D]\nO[d] = (s + 1) * A[(d + s) % D]",
        {"D": 4},
        lambda x: np.array([sum((s + 1) * x["A"][(d + s) % 4] for s in range(4)) for d in range(4)]),
        "A[(d + s)%D]",
        r"A_{\left(d + s\right) \bmod D}",
        ("S", 1),
        {"mac": 16, "add": 16},
    ),
    Feature(
        "R: reduced over the queries",  # normalised over m for each p, then summed over p: the weights wait for m
        "rank M P\ninput S[M, P]\noutput O[M]\nSD[p] = exp(S[m, p])\nO[m] = exp(S[m, p]) / SD[p]",
        {"M": 3, "P": 4},
        lambda x: (np.exp(x["S"]) / np.exp(x["S"]).sum(axis=0)).sum(axis=1),
        "O[m]  = exp(S[m, p]) / SD[p]",
        r"O_{m} &= \sum_{p} \frac{e^{S_{m, p}}}{\mathit{SD}_{p}}",
        ("M", 2),
        {"exp": 24, "add": 24, "divide": 12},
    ),
    Feature(
        "C: complex values as pairs",  # per point and part: by k, n and 1 / N in the angle, cos, and one mac
        "rank N\nrank K = N\nlet PI = 3.141592653589793\ninput A[N]\noutput RE[K]  IM[K]\n"
        "TC[k, n] = cos(2*PI*k*n / N)\nTS[k, n] = -sin(2*PI*k*n / N)\nRE[k] = TC[k, n] * A[n]\nIM[k] = TS[k, n] * A[n]",
        {"N": 4},
        lambda x: np.fft.fft(x["A"]),
        "let    PI = 3.141592653589793",
        r"\cos\left(\frac{2 \, \mathit{PI} \, k \, n}{N}\right)",
        ("N", 1),
        {"mul": 96, "sin": 32, "mac": 32},
    ),
)


@pytest.mark.parametrize("row", FEATURES, ids=lambda row: row.code)
def test_a_feature_in_every_room(row: Feature) -> None:
    cascade = parse(f"cascade c\n{row.text}\n")
    assert parse(render(cascade)) == cascade
    assert row.printed in render(cascade)
    assert row.latex in latex(cascade)
    blocks = sum(isinstance(item, Iterate) for item in cascade.body)
    assert mathml(cascade).count("<mtr>") == len(list(cascade.statements)) + blocks
    inputs = random_inputs(cascade, row.sizes, seed=3)
    found = evaluate(cascade, row.sizes, inputs)
    value = found["O"] if "O" in found else found["RE"] + 1j * found["IM"]
    np.testing.assert_allclose(value, row.meaning(inputs), rtol=1e-12, atol=1e-12)  # sums of at most 16 terms
    rank, count = row.passes
    assert passes(cascade, rank).count == count
    assert {
        op: n for op, n in operations(cascade, resolve(cascade, row.sizes)).items() if n
    } == row.operations


def test_every_feature_of_the_papers_has_its_row() -> None:
    codes = {row.code.split(":")[0] for row in FEATURES}
    features = "E U X Io M A S Ir P B K G N L T W D R C"
    assert codes == set(features.split())
