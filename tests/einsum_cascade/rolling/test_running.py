"""Running sums as recurrences: the same at every place, and only where they are running sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from einsum_cascade import evaluate, parse, random_inputs
from einsum_cascade.analysis.points import operations
from einsum_cascade.declarations import Iterate
from einsum_cascade.rolling.running import with_running_states

ACCUMULATED = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def blocks_of(cascade) -> list[Iterate]:
    return [item for item in cascade.body if isinstance(item, Iterate)]


@given(
    op=st.sampled_from(sorted(ACCUMULATED)),
    term=st.sampled_from(["X[c, p]", "X[C - 1 - c, p]", "X[c, p] * Y[c]", "exp(X[c, p]) / 2", "Y[c]"]),
    asked=st.booleans(),
    first=st.booleans(),
)
def test_each_place_has_what_numpy_accumulates(op: str, term: str, asked: bool, first: bool) -> None:
    """Whether it is a result itself or read by one, its places the first or the last axis."""
    at = "n" if term == "Y[c]" else "n, p" if first else "p, n"
    shape = at.upper()
    rest = "" if asked else f"O[{at}] = 2 * S[{at}]\n"
    cascade = parse(f"""cascade running
rank N P
rank C = N
input X[N, P] Y[N]
output {"S" if asked else "O"}[{shape}]
S[{at}] = {term} :: {op}(c) where c <= n
{rest}""")
    made = with_running_states(cascade)
    assert parse(str(made)) == made
    assert len(blocks_of(made)) == 1
    assert "C" not in made.rank_names
    sizes = {"N": 5, "P": 3}
    x = random_inputs(cascade, sizes, seed=1)
    each = {
        "X[c, p]": x["X"],
        "X[C - 1 - c, p]": x["X"][::-1],
        "X[c, p] * Y[c]": x["X"] * x["Y"][:, None],
        "exp(X[c, p]) / 2": np.exp(x["X"]) / 2,
        "Y[c]": x["Y"],
    }[term]
    wanted = ACCUMULATED[op].accumulate(each, axis=0) * (1 if asked else 2)
    wanted = wanted if first or each.ndim == 1 else wanted.T
    # 1e-14: the same operations, of which the evaluator may take a sum in pairs
    np.testing.assert_allclose(
        evaluate(made, sizes, x)["S" if asked else "O"], wanted, rtol=1e-14, atol=1e-14
    )


def test_absent_terms_add_nothing() -> None:
    text = """cascade masked
rank N P
rank C = N
input X[N, P]
output O[N, P]
S[n, p] = X[n, p] where n <= p
T[n, p] = exp(S[N - 1 - c, p]) :: sum(c) where c <= n
O[n, p] = T[n, p] * X[n, p]
"""
    cascade = parse(text)
    made = with_running_states(cascade)
    assert "pad" in str(made)
    x = random_inputs(cascade, {"N": 6, "P": 4}, seed=2)
    there = np.arange(6)[:, None] <= np.arange(4)
    wanted = np.where(there, np.exp(x["X"]), 0.0)[::-1].cumsum(0) * x["X"]
    np.testing.assert_allclose(evaluate(made, {"N": 6, "P": 4}, x)["O"], wanted, atol=1e-14)


def test_two_sums_share_a_walk_unless_one_waits_for_the_other() -> None:
    text = """cascade two
rank N
rank C = N
input X[N] Y[N]
output O[N]
S[n] = X[c] :: sum(c) where c <= n
T[n] = {term} :: sum(c) where c <= n
O[n] = S[n] * T[n]
"""
    x = {"X": np.arange(5.0) + 1, "Y": np.arange(5.0) - 2}
    for term, blocks, second in (("Y[c]", 1, x["Y"].cumsum()), ("S[c]", 2, x["X"].cumsum().cumsum())):
        made = with_running_states(parse(text.format(term=term)))
        assert len(blocks_of(made)) == blocks
        np.testing.assert_allclose(evaluate(made, {"N": 5}, x)["O"], x["X"].cumsum() * second)


def test_a_place_before_the_first_stays_absent() -> None:
    """An exclusive sum that starts with a number of its own."""
    cascade = parse("""cascade shifted
rank N
rank C = N
input X[N]
output O[N]
S[n] = X[c] :: sum(c) where c <= n
O[n] = pad(S[n - 1], 7) + S[n]
""")
    made = with_running_states(cascade)
    assert len(blocks_of(made)) == 1
    got = evaluate(made, {"N": 4}, {"X": np.arange(4.0)})["O"]
    np.testing.assert_array_equal(got, [7 + 0, 0 + 1, 1 + 3, 3 + 6])


def test_a_sum_takes_a_term_a_place() -> None:
    cascade = parse(
        "cascade s\nrank N\nrank C = N\ninput X[N]\noutput S[N]\nS[n] = X[c] :: sum(c) where c <= n\n"
    )
    sizes = {"N": 100}
    assert operations(cascade, sizes)["add"] > 40 * operations(with_running_states(cascade), sizes)["add"]


@pytest.mark.parametrize(
    "line",
    [
        "S[n] = X[c] :: sum(c) where c < n",
        "S[n] = X[c] :: sum(c) where c >= n",
        "S[n] = X[c] * n :: sum(c) where c <= n",
        "S[n] = X[c] :: logsumexp(c) where c <= n",
        "S[n] = X[c] * Y[m] :: sum(c, m) where c <= n",
    ],
)
def test_what_is_none_stays(line: str) -> None:
    cascade = parse(f"cascade s\nrank N M\nrank C = N\ninput X[N] Y[M]\noutput S[N]\n{line}\n")
    assert with_running_states(cascade) is cascade
