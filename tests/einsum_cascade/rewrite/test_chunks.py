"""Recurrences in chunks: the same results, products of matrices inside, and reasons where there are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from recurrences import TEXTS
from typer.testing import CliRunner

from einsum_cascade import (
    CascadeError,
    evaluate,
    in_chunks,
    load,
    parse,
    random_inputs,
    render,
    zoo,
)
from einsum_cascade.analysis.passes import passes
from einsum_cascade.analysis.points import operations
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Rank
from einsum_cascade.rewrite.cli import register
from einsum_cascade.sizes import parse_sizes, resolve, settled_parts, stated_parts

# Name in the zoo, and the inputs that its source takes from (0, 1].
RECURRENCES = (
    ("linear_recurrent", ()),
    ("mamba2_recurrent", ()),
    ("rwkv6", ("W",)),
    ("gated_linear", ("G",)),
    ("deltanet", ()),
    ("gated_deltanet", ("ALPHA",)),
    ("kimi_delta", ("ALPHA",)),
    ("rwkv7", ("W",)),
    ("titans", ("ETA",)),
    ("aaren_sequential", ()),
)
# xLSTM's matrix memory (arXiv 2405.04517): exponential gates held in range by a running maximum.
MLSTM = """cascade mlstm
rank E F T
input Q[E, T] K[E, T] V[F, T] IG[T] FG[T]
output H[F, T]
C[0, e, f] = 0
N[0, e] = 0
M[0] = -inf
iterate t {
  LF[t] = -softplus(-FG[t])
  M[t+1] = max(M[t] + LF[t], IG[t])
  FP[t] = exp(LF[t] + M[t] - M[t+1])
  IP[t] = exp(IG[t] - M[t+1])
  C[t+1, e, f] = C[t, e, f] * FP[t] + IP[t] * K[e, t] * V[f, t]
  N[t+1, e] = N[t, e] * FP[t] + IP[t] * K[e, t]
  QN[t] = Q[e, t] * N[t+1, e]
  NUM[f, t] = Q[e, t] * C[t+1, e, f]
  H[f, t] = NUM[f, t] / max(abs(QN[t]), exp(-M[t+1]))
}
"""
# Sums of some hundred float64 products in another order.
TOLERANCE = 1e-11


def apart(cascade: Cascade, chunked: Cascade, rank: str, shape: tuple[int, int], **changes: Any) -> float:
    """Largest difference of two cascades, relative to the largest value, the second walked in chunks of a shape."""
    chunks, steps = shape
    sizes = {r: 2 + i % 3 for i, r in enumerate(cascade.free_ranks)} | {rank: chunks * steps}
    known = resolve(cascade, sizes)
    inputs = random_inputs(cascade, known, seed=7)
    inputs |= {t: change(inputs[t]) for t, change in changes.items()}
    theirs = {r: n for r, n in known.items() if r in chunked.free_ranks}
    outer, inner = chunked.splits[rank]
    theirs |= {r: n for r, n in ((outer, chunks), (inner, steps)) if r in chunked.free_ranks}
    left, right = evaluate(cascade, known, inputs), evaluate(chunked, resolve(chunked, theirs), inputs)
    assert left.keys() == right.keys()
    worst = 0.0
    for name, mine in left.items():
        other = right[name].reshape(mine.shape)  # chunk and step stand side by side
        assert np.isfinite(mine).all()
        worst = max(worst, float(np.abs(mine - other).max() / max(1.0, np.abs(mine).max())))
    return worst


def unit(x: np.ndarray) -> np.ndarray:
    """Keys of length one: what a delta rule's layers make of them, and without which its state grows beyond bounds."""
    return x / np.linalg.norm(x, axis=0)


@pytest.mark.parametrize(("name", "positive"), RECURRENCES)
@pytest.mark.parametrize("torn", [False, True])
def test_every_recurrence_of_the_zoo_is_the_same_in_chunks(
    name: str, positive: tuple[str, ...], torn: bool
) -> None:
    cascade = zoo.load(name)
    rank = "M" if name == "aaren_sequential" else "T"
    changes = {t: lambda x: 1 / (1 + np.exp(-x)) for t in positive}
    if "K" in {s.tensor for s in cascade.inputs}:
        changes["K"] = unit
    # Chunks of a number of steps that need not be 16: the powers of what steps hand on end at 8.
    for size, shapes in ((8, ((1, 8), (5, 8))), (1, ((6, 1),))):
        found = in_chunks(cascade, rank, size=size, positive=positive, apart=torn)
        assert parse(render(found.cascade)) == found.cascade
        assert found.steps
        for shape in shapes:
            assert apart(cascade, found.cascade, rank, shape, **changes) < TOLERANCE


@pytest.mark.parametrize("name", TEXTS)
def test_recurrences_as_people_write_them_are_the_same_in_chunks(name: str) -> None:
    cascade = parse(TEXTS[name])
    found = in_chunks(cascade).cascade
    assert parse(render(found)) == found
    for shape in ((1, 7), (5, 1), (3, 4)):
        free = replace(found, ranks=tuple(Rank(r.name) if r.name == "T0" else r for r in found.ranks))
        assert apart(cascade, free, "T", shape) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "known"), [("linear_recurrent", "linear_chunked"), ("mamba2_recurrent", "mamba2_ssd")]
)
def test_it_finds_the_chunks_of_the_literature(name: str, known: str) -> None:
    """As many multiply-accumulates as the text that a person wrote, and no more of anything costly."""
    found = in_chunks(zoo.load(name)).cascade
    sizes = {"E": 64, "F": 64, "T1": 4, "T0": 32}
    mine, theirs = operations(found, sizes), operations(zoo.load(known), sizes)
    # A gate that is summed by hand is a product with -LA, which the text of the zoo counts as a multiply-accumulate.
    assert mine["mac"] == pytest.approx(theirs["mac"], rel=1e-3)
    for kind in ("exp", "divide", "log", "sqrt"):
        assert mine.get(kind, 0) <= 1.05 * theirs.get(kind, 0)


@pytest.mark.parametrize(("name", "positive"), RECURRENCES)
def test_chunks_add_no_pass(name: str, positive: tuple[str, ...]) -> None:
    cascade = zoo.load(name)
    rank = "M" if name == "aaren_sequential" else "T"
    found = in_chunks(cascade, positive=positive).cascade
    assert passes(found, rank).count <= passes(cascade, rank).count


def test_a_delta_rule_needs_products_of_matrices_alone() -> None:
    """In chunks of 64 no multiply-accumulate runs over single steps: each sums over a rank or over earlier steps."""
    found = in_chunks(zoo.load("deltanet")).cascade
    assert parse_sizes("E=8,F=8,T=256", found)["T1"] == 4
    state = found.einsum("MEM")
    assert state.reduced == ()
    assert apart(zoo.load("deltanet"), found, "T", (3, 64), K=unit) < TOLERANCE


def test_a_gate_that_may_be_zero_or_negative_is_multiplied_up() -> None:
    cascade = zoo.load("gated_linear")
    found = in_chunks(cascade).cascade
    assert "prod" in {r.op for e in found.einsums for r in e.reductions}

    def holed(x: np.ndarray) -> np.ndarray:
        return np.where(np.arange(x.size).reshape(x.shape) % 3 == 0, 0.0, x)

    assert apart(cascade, found, "T", (3, 5), G=holed) < TOLERANCE
    told = in_chunks(cascade).steps[0].why
    assert "G" in told
    assert "positive" in told
    summed = in_chunks(cascade, positive=["G"]).cascade
    assert "prod" not in {r.op for e in summed.einsums for r in e.reductions}


def test_exponential_gates_stay_in_range() -> None:
    """Of xLSTM's gates alone exp would overflow; their running maximum is carried through the chunks."""
    cascade = parse(MLSTM)
    found = in_chunks(cascade)
    assert [s.einsum for s in found.steps if s.rule == "extreme"] == ["M"]
    assert apart(cascade, found.cascade, "T", (4, 6)) < TOLERANCE
    large = {t: lambda x: 400.0 * x for t in ("IG", "FG")}
    assert (
        apart(cascade, found.cascade, "T", (4, 6), **large) < 1e-9
    )  # sums of some 1e3 lose three digits in exp


def test_flash_attention_is_a_recurrence_too() -> None:
    """Its blocks of keys can be taken in chunks: the maximum of a chunk first, one change of the state a chunk."""
    cascade = zoo.load("attention_1pass")
    found = in_chunks(cascade, "M1").cascade
    sizes = {"E": 4, "F": 3, "P": 5, "M1": 6, "M0": 2}
    inputs = random_inputs(cascade, resolve(cascade, sizes), seed=1)
    theirs = {r: n for r, n in sizes.items() if r in found.free_ranks} | {"M11": 2, "M10": 3}
    left, right = evaluate(cascade, sizes, inputs), evaluate(found, resolve(found, theirs), inputs)
    np.testing.assert_allclose(right["AV"], left["AV"], atol=1e-12)


def test_what_stands_around_the_block_stays() -> None:
    cascade = parse(
        "cascade around\nrank C E F T\ninput Q[E, T] K[E, T] V[F, T] S[E, F] W[C, F] X[T]\noutput Y[C, T] LAST[E, F]\n"
        "G[t] = sigmoid(X[t])\nKV[0, e, f] = S[e, f]\niterate t {\n"
        "  KV[t+1, e, f] = KV[t, e, f] * G[t] + K[e, t] * V[f, t]\n  O[f, t] = Q[e, t] * KV[t+1, e, f]\n}\n"
        "Y[c, t] = W[c, f] * O[f, t]\nLAST[e, f] = KV[T, e, f]\n"
    )
    found = in_chunks(cascade).cascade
    assert apart(cascade, found, "T", (4, 3)) < TOLERANCE
    assert {r.op for e in found.einsums for r in e.reductions} == {"sum"}  # the gate was looked through


def test_a_part_that_is_a_number_settles_the_other() -> None:
    cascade = in_chunks(zoo.load("linear_recurrent"), size=16).cascade
    assert parse_sizes("E=4,F=4,T=64", cascade)["T1"] == 4
    sizes = parse_sizes("E=4,F=4,T=64", cascade)
    assert stated_parts(cascade, sizes) == {"T1": 4, "T0": 16}  # no mapping takes other tiles
    assert settled_parts(cascade, ()) == {"T1", "T0"}
    with pytest.raises(CascadeError, match="T0=16 does not divide T=40"):
        parse_sizes("E=4,F=4,T=40", cascade)
    with pytest.raises(CascadeError, match="T0=8 contradicts T0 = 16"):
        parse_sizes("E=4,F=4,T0=8,T1=8", cascade)


REFUSED = {
    "has no iterate block": "cascade a\nrank T\ninput X[T]\noutput Y[T]\nY[t] = X[t]\n",
    "S is no gate times": (
        "cascade a\nrank T\ninput X[T]\noutput Y[T]\nS[0] = 0\niterate t {\n"
        "  S[t+1] = tanh(S[t] + X[t])\n  Y[t] = S[t+1]\n}\n"
    ),
    "G depends on earlier steps other than by a sum": (
        "cascade a\nrank E F T\ninput K[E, T] V[F, T]\noutput P[F, T]\nM[0, e, f] = 0\niterate t {\n"
        "  P[f, t] = K[e, t] * M[t, e, f]\n  G[f, t] = tanh(P[f, t]) - V[f, t]\n"
        "  M[t+1, e, f] = M[t, e, f] - K[e, t] * G[f, t]\n}\n"
    ),
    "the gate of S reads": (
        "cascade a\nrank T\ninput X[T]\noutput Y[T]\nS[0] = 0\niterate t {\n"
        "  G[t] = sigmoid(S[t])\n  S[t+1] = G[t] * S[t] + X[t]\n  Y[t] = S[t+1]\n}\n"
    ),
    "S moves its state from element to element": (
        "cascade a\nrank E T\ninput X[E, T]\noutput Y[E, T]\nS[0, e] = 0\niterate t {\n"
        "  S[t+1, e] = S[t, (e + 1) % E] + X[e, t]\n  Y[e, t] = S[t+1, e]\n}\n"
    ),
    "A is read at another step": (
        "cascade a\nrank T\ninput X[T]\noutput Y[T]\nS[0] = 0\niterate t {\n"
        "  A[t] = X[t] * 2\n  S[t+1] = S[t] + pad(A[t - 1], 0)\n  Y[t] = S[t+1]\n}\n"
    ),
    "A adds B times P, which depends on earlier": (
        "cascade a\nrank E F T\ninput K[E, T]\noutput P[T]\nA[0, e] = 1\nB[0, e] = 1\n"
        "iterate t {\n  P[t] = K[e, t] * A[t, e]\n  B[t+1, e] = 0.5 * B[t, e] + K[e, t]\n"
        "  A[t+1, e] = A[t, e] + P[t] * B[t, e]\n}\n"
    ),
    "what a step adds is no sum of products of": (
        "cascade a\nrank E F T\ninput K[E, T] L[E, T]\noutput P[T]\nA[0, e] = 1\n"
        "iterate t {\n  P[t] = K[e, t] * A[t, e]\n  R[t] = L[e, t] * A[t, e]\n"
        "  A[t+1, e] = A[t, e] + P[t] * R[t] * K[e, t]\n}\n"
    ),
    "Z reduces what depends on earlier steps": (
        "cascade a\nrank E F T\ninput K[E, T]\noutput Z[T]\nA[0, e, f] = 1\n"
        "iterate t {\n  P[f, t] = K[e, t] * A[t, e, f]\n  Z[t] = P[f, t] :: max(f)\n"
        "  A[t+1, e, f] = A[t, e, f] + Z[t] * K[e, t]\n}\n"
    ),
    "keeps nothing of the state before": (
        "cascade a\nrank T\ninput X[T]\noutput Y[T]\nS[0] = 0\niterate t {\n"
        "  S[t+1] = X[t]\n  Y[t] = S[t]\n}\n"
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_done_in_chunks_is_told(reason: str) -> None:
    with pytest.raises(CascadeError, match=reason):
        in_chunks(parse(REFUSED[reason]))


def test_bad_arguments_are_told() -> None:
    cascade = zoo.load("gated_linear")
    with pytest.raises(CascadeError, match="no input X"):
        in_chunks(cascade, positive=["X"])
    with pytest.raises(CascadeError, match="chunk of 0 steps"):
        in_chunks(cascade, size=0)
    with pytest.raises(CascadeError, match="no recurrence over E"):
        in_chunks(cascade, "E")


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    own = typer.Typer()
    register(own)
    own.command("other")(lambda: None)
    file = tmp_path / "chunked.cascade"
    said = CliRunner().invoke(own, ["chunk", "deltanet", "--size", "16", "--json", "--out", str(file)])
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    assert set(found) == {"rank", "steps", "cascade"}
    assert {s["rule"] for s in found["steps"]} == {"gate", "split", "solve"}
    assert load(file) == parse(found["cascade"])
    shown = CliRunner().invoke(own, ["chunk", "gated_linear", "--positive", "G", "--apart"])
    assert shown.exit_code == 0, shown.stderr
    assert "T0//2" in shown.stdout  # gates are taken from the middle of the chunk
    refused = CliRunner().invoke(own, ["chunk", "lstm"])
    assert refused.exit_code == 2
    assert "HH" in refused.stderr


# DeltaProduct (arXiv 2502.10297): several Householder steps a token, as one longer sequence of which every N-th step is
# read, and with two steps written out.
LONG = """cascade long
rank E F T N
rank U = T * N
input Q[E, T] K[E, U] V[F, U] B[U]
output O[F, T]
M[0, e, f] = 0
iterate u {
  P[f, u] = K[e, u] * M[u, e, f]
  D[f, u] = B[u] * (V[f, u] - P[f, u])
  M[u+1, e, f] = M[u, e, f] + K[e, u] * D[f, u]
}
O[f, t] = Q[e, t] * M[t*N + N, e, f]
"""


def householder(q: np.ndarray, k: np.ndarray, v: np.ndarray, b: np.ndarray, many: int) -> np.ndarray:
    """DeltaProduct as its paper has it: S = S (1 - b k k^T) + b v k^T, so many times a token."""
    state = np.zeros((v.shape[0], k.shape[0]))
    out = []
    for t in range(q.shape[1]):
        for i in range(t * many, (t + 1) * many):
            state = state @ (np.eye(k.shape[0]) - b[i] * np.outer(k[:, i], k[:, i]))
            state = state + b[i] * np.outer(v[:, i], k[:, i])
        out.append(state @ q[:, t])
    return np.stack(out, axis=1)


@pytest.mark.parametrize("size", [3, 6, 8])
def test_several_householder_steps_a_token(size: int) -> None:
    """Chunks need not hold whole tokens: 3 and 8 steps of 2 a token."""
    tokens = 12
    rng = np.random.default_rng(size)
    q, k = rng.standard_normal((4, tokens)), unit(rng.standard_normal((4, 2 * tokens)))
    v, b = rng.standard_normal((3, 2 * tokens)), rng.uniform(0, 2, 2 * tokens)
    expected = householder(q, k, v, b, 2)
    long = in_chunks(parse(LONG), size=size).cascade
    sizes = parse_sizes(f"E=4,F=3,T={tokens},N=2", long)
    found = evaluate(long, sizes, {"Q": q, "K": k, "V": v, "B": b})["O"]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)

    # The gate of the text before both steps is off where its logit is large.
    two = in_chunks(parse(TEXTS["deltaproduct"]), size=size).cascade
    halves = {f"{n}{'AB'[i]}": x[..., i::2] for n, x in (("K", k), ("V", v), ("B", b)) for i in (0, 1)}
    sizes = parse_sizes(f"E=4,F=3,T={tokens // size * size}", two)
    inputs = {n: x[..., : sizes["T"]] for n, x in {"Q": q, "G": np.full(tokens, 50.0), **halves}.items()}
    found = evaluate(two, sizes, inputs)["O"].reshape(3, -1)
    np.testing.assert_allclose(found, expected[:, : sizes["T"]], atol=TOLERANCE)


def test_the_steps_of_tokens_say_how_many_chunks_there_are() -> None:
    long = in_chunks(parse(LONG), size=8).cascade
    assert parse_sizes("E=4,F=4,T=16,N=3", long)["U1"] == 6
    with pytest.raises(CascadeError, match=r"U1 would be 3\.75"):
        parse_sizes("E=4,F=4,T=15,N=2", long)


def test_a_short_chunk_of_a_text_that_names_a_late_step() -> None:
    """More chunks are compared then, not longer ones, for which what is written for this size does not hold."""
    text = TEXTS["longhorn"].replace("D[f, t] * (V", "select(t == 17, 0.5, 1) * D[f, t] * (V")
    found = in_chunks(parse(text), size=4).cascade
    assert apart(parse(text), found, "T", (6, 4), K=unit) < TOLERANCE


def test_chunks_of_chunks() -> None:
    """Titans in chunks again in chunks: the errors of a chunk alone are unknown, not what they add to both states."""
    cascade = zoo.load("titans_chunked")
    found = in_chunks(cascade, "T1", size=4, positive=["ETA"])
    assert [s.einsum for s in found.steps if s.rule == "solve"] == ["ER"]
    gates = dict.fromkeys(("ETA", "AL", "TH"), lambda x: 1 / (1 + np.exp(-x)))
    sizes = {"E": 4, "F": 3, "T0": 3, "T1": 8}
    inputs = random_inputs(cascade, resolve(cascade, sizes), seed=3)
    inputs |= {t: change(inputs[t]) for t, change in gates.items()} | {"K": unit(inputs["K"])}
    left = evaluate(cascade, sizes, inputs)["O"]
    right = evaluate(found.cascade, resolve(found.cascade, {"E": 4, "F": 3, "T0": 3, "T11": 2}), inputs)["O"]
    np.testing.assert_allclose(right.reshape(left.shape), left, atol=TOLERANCE)
    assert passes(found.cascade, "T1").count <= passes(cascade, "T1").count


def test_what_a_step_adds_for_several_keys_is_solved_for_by_key() -> None:
    """A matrix over pairs of keys of pairs of steps, not over pairs of elements of the state."""
    found = in_chunks(parse(TEXTS["several"]), size=4).cascade
    assert found.aliases["N_1"] == "N"
    assert not {"E_1", "F_1"} & set(found.rank_names)


def test_tensors_that_wait_for_each_other_take_few_products() -> None:
    """Two unknowns cost two inverses and some products, not an inverse of twice the size, which is eight times one."""
    sizes = {"E": 4, "F": 4, "T1": 1}
    one, two = (in_chunks(c, size=64).cascade for c in (zoo.load("deltanet"), parse(TEXTS["mutual"])))
    assert operations(two, sizes)["mac"] < 4 * operations(one, sizes)["mac"]
