"""What a mask removes and a later Einsum reads as 0 is no term of a sum: masked shares that are scaled and shifted."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import evaluate, parse, passes, reduce_passes, same_result
from einsum_cascade.rewrite.separate import separations

TEXT = """cascade padded
rank E F M P
input Q[E, P] K[E, M] V[F, M] Open[M, P]
output O[F, P]
QK[m, p] = Q[e, p] * K[e, m] where {where}
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p] :: sum(m)
A[m, p] = SN[m, p] / SD[p]
O[f, p] = {value}
"""
SIZES = {"E": 3, "F": 2, "M": 7, "P": 6}
SHARES = [
    "pad(A[m, p], 0) * V[f, m]",
    "V[f, m] * (2 * pad(A[m, p], 0))",
    "(pad(A[m, p], 0) * 0.9 + 0.05) * V[f, m]",
    "(1 - pad(A[m, p], 0)) * V[f, m]",
    "-pad(A[m, p], 0) * V[f, m] / 3",
]


def reduced(where, value):
    cascade = parse(TEXT.format(where=where, value=value))
    return cascade, reduce_passes(cascade, "M")


def by_hand(inputs, here, value):
    """Return the outputs by NumPy alone: shares are 0 where a key is not seen, and in rows that see none."""
    scores = np.where(here, np.einsum("ep,em->mp", inputs["Q"], inputs["K"]), -np.inf)
    top = scores.max(axis=0)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    total = weights.sum(axis=0)
    shares = np.where(total > 0, weights / np.where(total > 0, total, 1.0), 0.0)
    terms = {
        SHARES[0]: shares,
        SHARES[1]: 2 * shares,
        SHARES[2]: 0.9 * shares + 0.05,
        SHARES[3]: 1 - shares,
        SHARES[4]: -shares / 3,
    }[value]
    return np.einsum("mp,fm->fp", terms, inputs["V"])


@pytest.mark.parametrize("value", SHARES)
@pytest.mark.parametrize("where", ["m <= p", "m < p", "0 <= p - m < 3", "Open[m, p] != 0"])
def test_masked_shares_take_one_pass_whatever_is_made_of_them(where, value):
    cascade, found = reduced(where, value)
    assert (found.before, found.after) == (3, 1)
    assert passes(found.cascade, "M").count == 1
    rng = np.random.default_rng(5)
    m, p = np.mgrid[: SIZES["M"], : SIZES["P"]]
    for share in (0.5, 0.1):  # the second leaves rows that see no key at all
        inputs = {
            n: rng.standard_normal((SIZES[a], SIZES[b]))
            for n, a, b in (("Q", "E", "P"), ("K", "E", "M"), ("V", "F", "M"))
        }
        inputs["Open"] = (rng.random((SIZES["M"], SIZES["P"])) < share).astype(float)
        here = {
            "m <= p": m <= p,
            "m < p": m < p,
            "0 <= p - m < 3": (m <= p) & (p - m < 3),
            "Open[m, p] != 0": inputs["Open"] != 0,
        }[where]
        expected = by_hand(inputs, here, value)
        assert evaluate(cascade, SIZES, inputs)["O"] == pytest.approx(expected, abs=1e-12)
        split = {n: k for n, k in SIZES.items() if n != "M"} | {"M1": 7, "M0": 1}
        assert evaluate(found.cascade, split, inputs)["O"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("m <= p", "pad(A[m, p], 1) * V[f, m]"),  # an absent share counts as 1
        ("m <= p", "V[f, m] / pad(A[m, p], 0)"),  # or is divided by
    ],
)
def test_what_is_not_0_times_something_stays_as_it_is(where, value):
    _, found = reduced(where, value)
    assert found.after > 1
    assert "pad(A[" in str(found.cascade)


def test_a_result_stays_where_a_factor_is_gone_for_good():
    """B exists for the first three queries; read as 0 behind them, it leaves results of 0 there and not none."""
    text = TEXT.format(where="m <= p", value="pad(B[p], 0) * pad(A[m, p], 0) * V[f, m]")
    text = text.replace("QK[m, p] =", "B[p] = Q[0, p] where p < 3\nQK[m, p] =").replace(
        "\nO[f, p] =", "\nT[f, p] ="
    )
    cascade = parse(f"{text}O[f, p] = T[f, p] + 1\n")
    candidates = [found.cascade for found in separations(cascade, "M")]
    assert candidates
    assert all(same_result(cascade, c, SIZES) for c in candidates)
    found = reduce_passes(cascade, "M")
    assert (found.before, found.after) == (3, 1)
    rng = np.random.default_rng(5)
    inputs = {
        n: rng.standard_normal((SIZES[a], SIZES[b]))
        for n, a, b in (("Q", "E", "P"), ("K", "E", "M"), ("V", "F", "M"), ("Open", "M", "P"))
    }
    split = {n: k for n, k in SIZES.items() if n != "M"} | {"M1": 7, "M0": 1}
    results = evaluate(cascade, SIZES, inputs)["O"], evaluate(found.cascade, split, inputs)["O"]
    assert results[0] == pytest.approx(results[1], abs=1e-12)
    assert np.all(results[1][:, 3:] == 1) and np.all(results[1][:, :3] != 1)
