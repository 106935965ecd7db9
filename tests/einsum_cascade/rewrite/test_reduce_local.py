"""Reductions inside a recurrence that wait for each other: taken block by block, and joined by summaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade import evaluate, parse, passes, random_inputs, reduce_passes, render, zoo
from einsum_cascade.sizes import resolve

# A memory of L slots that is read by a softmax and written to in every step.
HEAD = """cascade memory
rank T L E
input Q[T, E] X[L, E] W[T, L] B[L] G[T]
output Y[T, E] M[T, L, E]
M[0, l, e] = X[l, e]
iterate t {
"""
SCORES = ("Q[t, e] * M[t, l, e]", "Q[t, e] * M[t, l, e]", "W[t, l]", "B[l]")
MASKS = ("", "", " where l <= t", " where l % 3 != 1", " where G[t] > 0", " where l >= 5", " where B[l] > 0")
WEIGHTS = (
    "exp(S[t, l] - C[t])",
    "exp(S[t, l] - C[t]) * sigmoid(X[l, 0])",
    "exp(S[t, l] - C2[t])",
    "S[t, l] * C[t]",
)
READS = (
    "Z[t, l] * M[t, l, e]",
    "N[t, l] * X[l, e]",
    "Z[t, l] * M[t, l, e] * l",
    "N[t, l] * M[t, L - 1 - l, e]",
)
WRITES = ("0.2 * Y[t, e] * tanh(Z[t, l])", "0.2 * tanh(Y[t, e])")


@st.composite
def memories(draw: st.DrawFn) -> str:
    """The text of a memory whose weights wait for a maximum or a sum of all slots."""
    lines = [
        f"S[t, l] = {draw(st.sampled_from(SCORES))}{draw(st.sampled_from(MASKS))}",
        f"C[t] = S[t, l] :: {draw(st.sampled_from(('max', 'max', 'logsumexp', 'sum')))}(l)",
        "C2[t] = max(C[t], G[t])",
        f"N[t, l] = {draw(st.sampled_from(WEIGHTS))}",
        f"D[t] = N[t, l] :: {draw(st.sampled_from(('sum', 'sum', 'max')))}(l)",
        "Z[t, l] = N[t, l] / D[t]",
        f"Y[t, e] = {draw(st.sampled_from(READS))}",
        f"M[t+1, l, e] = 0.5 * M[t, l, e] + {draw(st.sampled_from(WRITES))}",
    ]
    return HEAD + "".join(f"  {line}\n" for line in lines) + "}\n"


def with_infinite(inputs: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Return the inputs with scores that remove slots, as masks that are given do, whole blocks of them included."""
    rng = np.random.default_rng(seed)
    odd = {t: np.where(rng.random(inputs[t].shape) < 0.6, -np.inf, inputs[t]) for t in ("W", "B")}
    return inputs | odd


def test_the_semantic_encoder_reads_its_memory_in_one_pass() -> None:
    """Two in all, the fewest that were argued by hand: what is written needs the normalised weights of all slots."""
    cascade = zoo.load("semantic_encoder")
    found = reduce_passes(cascade, "L")
    assert (found.before, found.after) == (4, 2)
    assert [s.rule for s in found.steps] == ["defer", "local"]
    assert [s.einsum for s in found.stuck] == ["MM"]
    levels = dict(passes(found.cascade, "L").levels)
    assert {levels[n] for n in ("LGM", "LSD", "LSNMM")} == {1}
    sizes = {"E": 3, "T": 5, "L": 12}
    inputs = random_inputs(cascade, resolve(cascade, sizes), seed=2)
    left = evaluate(cascade, sizes, inputs)
    for blocks in ((3, 4), (12, 1), (1, 12)):
        parts = dict(zip(found.cascade.splits["L"], blocks, strict=True))
        right = evaluate(found.cascade, resolve(found.cascade, {"E": 3, "T": 5, **parts}), inputs)
        for name, mine in left.items():
            np.testing.assert_allclose(right[name], mine, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    text=memories(),
    blocks=st.sampled_from(((3, 5), (1, 7), (8, 1), (2, 4))),
    steps=st.sampled_from((3, 9)),
    infinite=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_random_memory_is_the_same(
    text: str, blocks: tuple[int, int], steps: int, infinite: bool, seed: int
) -> None:
    cascade = parse(text)
    found = reduce_passes(cascade, "L")
    assert parse(render(found.cascade)) == found.cascade
    assert passes(found.cascade, "L").count == found.after <= found.before
    parts = found.cascade.splits.get("L")
    sizes = {"T": steps, "L": blocks[0] * blocks[1], "E": 2}
    theirs = sizes if parts is None else {"T": steps, "E": 2, **dict(zip(parts, blocks, strict=True))}
    inputs = random_inputs(cascade, resolve(cascade, sizes), seed=seed)
    inputs = with_infinite(inputs, seed) if infinite else inputs
    with np.errstate(all="ignore"):
        left = evaluate(cascade, sizes, inputs)
        right = evaluate(found.cascade, resolve(found.cascade, theirs), inputs)
    for name, mine in left.items():
        finite = np.isfinite(mine)  # what the text itself makes infinite decides nothing
        scale = max(1.0, np.abs(mine[finite]).max(initial=0.0))
        np.testing.assert_allclose(right[name][finite], mine[finite], atol=1e-9 * scale)


def test_rule_local_is_used_by_such_memories() -> None:
    text = HEAD + (
        "  S[t, l] = Q[t, e] * M[t, l, e] where l <= t\n  C[t] = S[t, l] :: max(l)\n"
        "  N[t, l] = exp(S[t, l] - C[t])\n  D[t] = N[t, l] :: sum(l)\n  YN[t, e] = N[t, l] * M[t, l, e]\n"
        "  Y[t, e] = YN[t, e] / D[t]\n  M[t+1, l, e] = 0.5 * M[t, l, e] + 0.2 * Y[t, e]\n}\n"
    )
    found = reduce_passes(parse(text), "L")
    assert [s.rule for s in found.steps] == ["local"]
    # Every slot is written after all were read; one visit more would be one for each wait.
    assert (found.before, found.after) == (3, 2)


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ("sigmoid(S[t, l] + C[t])", "no factor corrects that"),
        ("exp(S[t, l] - C[t]) * R[t, l]", "what it waits for is reduced over another rank"),
    ],
)
def test_what_cannot_be_joined_is_told(weights: str, why: str) -> None:
    text = HEAD + (
        "  S[t, l] = Q[t, e] * M[t, l, e]\n  C[t] = S[t, l] :: max(l)\n"
        "  RE[t, l, e] = M[t, l, e] * C[t]\n  R[t, l] = RE[t, l, e] :: max(e)\n"
        f"  N[t, l] = {weights}\n  Y[t, e] = N[t, l] * X[l, e]\n  M[t+1, l, e] = X[l, e] * Q[t, e]\n}}\n"
    )
    found = reduce_passes(parse(text), "L")
    assert found.after == 2
    assert any(why in s.why for s in found.stuck), [s.why for s in found.stuck]
