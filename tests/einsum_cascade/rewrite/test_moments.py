"""Moments in one pass that keep their digits where sums of squares have none left: against two passes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literature import REDUCED

from einsum_cascade import evaluate, parse, random_inputs, reduce_passes
from einsum_cascade.evaluator import difference
from einsum_cascade.rewrite.reduction import Reduction

MEAN = "MU[p] = X[m, p] :: sum(m)\nMEAN[p] = MU[p] / M\n"
HEAD = "rank M P\ninput X[M, P]\n"
TEXTS = {
    "variance": REDUCED["variance"],
    "attention variance": REDUCED["attention_variance"],
    "Pearson": REDUCED["pearson"],
    "layer norm": REDUCED["layer_norm_statistics"],
    "a mean divided after its sum": f"cascade c\n{HEAD}output O[P]\n{MEAN}O[p] = (X[m, p] - MEAN[p]) ** 2 :: sum(m)\n",
    "third moment": f"cascade c\n{HEAD}output O[P]\n{MEAN}O[p] = (X[m, p] - MEAN[p]) ** 3 :: sum(m)\n",
    "fourth moment": f"cascade c\n{HEAD}output O[P]\n{MEAN}O[p] = (X[m, p] - MEAN[p]) ** 4 :: sum(m)\n",
    "a power written out": f"""cascade c
{HEAD}output O[P]
{MEAN}D[m, p] = X[m, p] - MEAN[p]
O[p] = D[m, p] * D[m, p] :: sum(m)
""",
    "a covariance matrix": f"""cascade c
rank M P
rank R = P
input X[M, P]
output O[P, R]
{MEAN}O[p, r] = (X[m, p] - MEAN[p]) * (X[m, r] - MEAN[r]) :: sum(m)
""",
    "a weighted covariance": """cascade c
rank M
input X[M] Y[M] W[M]
output O[]
G[] = W[m] :: max(m)
S[m] = exp(W[m] - G[])
D[] = S[m] :: sum(m)
MX[] = S[m] * X[m] / D[]
MY[] = S[m] * Y[m] / D[]
O[] = S[m] / D[] * (X[m] - MX[]) * (Y[m] - MY[])
""",
    "a window": f"""cascade c
{HEAD}output O[P]
N[p] = 1 :: sum(m) where m <= p
MU[p] = X[m, p] / N[p] :: sum(m) where m <= p
O[p] = (X[m, p] - MU[p]) ** 2 / N[p] :: sum(m) where m <= p
""",
}
SIZES = {"E": 3, "F": 2, "P": 4, "M": 24}


@functools.cache
def found(name: str) -> Reduction:
    return reduce_passes(parse(TEXTS[name]), "M")


def far_off(name: str, seed: int, offset: float) -> tuple[dict[str, int], dict[str, Any]]:
    """Values of size 1 about an offset; what weighs or scores them stays as it is."""
    cascade = parse(TEXTS[name])
    sizes = {r: n for r, n in SIZES.items() if r in cascade.free_ranks}
    inputs = random_inputs(cascade, sizes, seed=seed)
    return sizes, {t: x + offset if t in ("X", "Y", "V") else x for t, x in inputs.items()}


def split(result: Reduction, blocks: int) -> dict[str, int]:
    parts = result.cascade.splits["M"]
    return dict(zip(parts, (blocks, SIZES["M"] // blocks), strict=True))


@pytest.mark.parametrize("name", TEXTS)
def test_one_pass_subtracts_no_large_sums(name: str) -> None:
    result = found(name)
    assert result.before > 1
    assert result.after == 1
    assert not any("loses digits" in step.why for step in result.steps)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("blocks", [1, 4, 24])
def test_digits_are_kept_far_from_zero(name: str, blocks: int) -> None:
    """1e8 is 2**26.6, so the square of it has no digit for what is of size 1, and a difference from it has 26 bits."""
    sizes, inputs = far_off(name, 5, 1e8)
    left = evaluate(parse(TEXTS[name]), sizes, inputs)
    here = {r: n for r, n in sizes.items() if r != "M"} | split(found(name), blocks)
    right = evaluate(found(name).cascade, here, inputs)
    for t in left:
        # Both round sums about 1e8, so that their means are some 1e-7 apart; powers of up to four multiply that.
        assert difference(right[t], left[t]) <= 2e-6


def test_sums_of_squares_have_no_digits_there() -> None:
    sizes, inputs = far_off("variance", 5, 1e8)
    x = inputs["X"]
    exact = np.var(x.astype(np.longdouble), axis=0).astype(float)
    squares = (x**2).mean(axis=0) - x.mean(axis=0) ** 2
    assert difference(squares, exact) > 0.1
    here = {"P": sizes["P"]} | split(found("variance"), 24)
    assert difference(evaluate(found("variance").cascade, here, inputs)["VA"], exact) <= 1e-7


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(TEXTS)),
    seed=st.integers(0, 999),
    offset=st.sampled_from([0.0, 1.0, -1e3, 1e6]),
    blocks=st.sampled_from([1, 2, 3, 6, 24]),
)
def test_any_blocks_and_offsets(name: str, seed: int, offset: float, blocks: int) -> None:
    sizes, inputs = far_off(name, seed, offset)
    left = evaluate(parse(TEXTS[name]), sizes, inputs)
    here = {r: n for r, n in sizes.items() if r != "M"} | split(found(name), blocks)
    right = evaluate(found(name).cascade, here, inputs)
    for t in left:
        # A few hundred roundings, and those of the mean of 1e6, which is some 1e-9 off in either; third moments and
        # correlations may be small beside their terms. Squares of 1e6 would be off by 1e-3.
        both = np.isfinite(left[t])
        allowed = 1e-11 + 1e-12 * abs(offset)
        assert difference(right[t][both], left[t][both]) <= allowed


def test_welford_is_what_is_written() -> None:
    """Chan, Golub and LeVeque's update: the old sum, and the number of elements before times the step squared."""
    text = str(found("variance").cascade)
    assert "RVA[m1, p] + 1 / M * (m1*M0 * PRCMU[m1, p]**2)" in text


def test_what_is_no_polynomial_stays() -> None:
    """exp(-|x - mean|) has no finite series: the reason says so, and the passes stay."""
    text = f"cascade c\n{HEAD}output O[P]\n{MEAN}O[p] = exp(0 - abs(X[m, p] - MEAN[p])) :: sum(m)\n"
    result = reduce_passes(parse(text), "M")
    assert result.after == 2
    assert "no factor corrects that" in result.stuck[0].why
