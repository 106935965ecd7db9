"""Rewrites: fewer passes, equal results, and a reason where it stays."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
from literature import REDUCED, STUCK

from einsum_cascade import (
    CascadeError,
    evaluate,
    parse,
    random_inputs,
    reduce_passes,
    render,
    same_result,
    zoo,
)
from einsum_cascade.analysis.passes import passes
from einsum_cascade.cascade import Cascade
from einsum_cascade.evaluator import difference
from einsum_cascade.expr import Access, Expr, transform
from einsum_cascade.rewrite.algebra import difference as difference_of
from einsum_cascade.rewrite.algebra import quotient
from einsum_cascade.rewrite.partition import partition


def trial(cascade: Cascade, reduced: Cascade, *, scale: float, seed: int) -> float:
    """Largest difference of two cascades, on inputs of the first times a scale, at sizes of the test's own."""
    sizes = dict.fromkeys(cascade.free_ranks, 3) | {"M": 12}
    sizes |= {r: 12 for r in ("P",) if r in cascade.free_ranks}
    sizes |= {r: 2 for r in ("G", "J", "W") if r in cascade.free_ranks}
    inputs = random_inputs(cascade, sizes, seed=seed)
    labels = {"Y"} if cascade.name == "ce" else set()
    inputs = {t: x if t in labels else x * scale for t, x in inputs.items()}
    other = {r: n for r, n in sizes.items() if r in reduced.rank_names} | {"M": 12}
    if "M0" in reduced.rank_names:
        other |= {"M1": 4, "M0": 3}
    left = evaluate(cascade, sizes, inputs)
    right = evaluate(reduced, other, inputs)
    assert {t: a.shape for t, a in left.items()} == {t: a.shape for t, a in right.items()}
    return max(difference(right[t], left[t]) for t in left if np.isfinite(left[t]).all())


@pytest.mark.parametrize("name", REDUCED)
def test_the_literature_comes_down_to_one_pass(name: str) -> None:
    cascade = parse(REDUCED[name])
    found = reduce_passes(cascade, "M")
    assert found.after == passes(found.cascade, "M").count == 1
    assert found.before > 1
    assert found.steps
    assert not found.stuck
    assert parse(str(found.cascade)) == found.cascade
    # 1e-9: sums in another order, and squares from which a variance is taken
    assert trial(cascade, found.cascade, scale=1.0, seed=5) <= 1e-9


@pytest.mark.parametrize("name", [n for n in REDUCED if n not in ("entropy_log", "lssa")])
def test_the_result_is_as_stable_as_the_original(name: str) -> None:
    """Logits beyond 1e3: exp without a maximum would overflow."""
    cascade = parse(REDUCED[name])
    found = reduce_passes(cascade, "M")
    assert trial(cascade, found.cascade, scale=40.0, seed=6) <= 1e-9


@pytest.mark.parametrize("name", STUCK)
def test_what_stays_has_its_reason(name: str) -> None:
    text, einsum, why = STUCK[name]
    found = reduce_passes(parse(text), "M")
    assert found.after > 1
    assert {s.einsum: s.why for s in found.stuck}[einsum].find(why) >= 0
    assert trial(parse(text), found.cascade, scale=1.0, seed=7) <= 1e-9


@pytest.mark.parametrize(
    ("name", "rank", "einsum", "why"),
    [("squeeze_excite", "P", "O", "keeps P"), ("channel_attention", "T", "AV", "another rank (D)")],
)
def test_gates_and_channel_attention_stay_at_two(name: str, rank: str, einsum: str, why: str) -> None:
    found = reduce_passes(zoo.load(name), rank)
    assert (found.before, found.after) == (2, 2)
    assert {s.einsum: s.why for s in found.stuck}[einsum].find(why) >= 0


def canonical(cascade: Cascade) -> tuple[object, ...]:
    """A cascade without names: tensors by the order in which they are defined, reductions written out."""
    names = {s.tensor: s.tensor for s in (*cascade.inputs, *cascade.outputs)}
    for i, (e, _) in enumerate(cascade.statements):
        names.setdefault(e.name, f"T{i}")

    def renamed(node: Expr) -> Expr:
        return Access(names[node.tensor], node.indices) if isinstance(node, Access) else node

    return tuple(
        (block, transform(e.target, renamed), transform(e.value, renamed), e.all_reductions, e.where)
        for e, block in cascade.statements
    )


def test_flash_attention_2_is_found_in_the_textbook() -> None:
    found = reduce_passes(zoo.load("attention_3pass"), "M")
    assert (found.before, found.after) == (3, 1)
    assert [s.rule for s in found.steps] == ["defer", "online"]
    assert canonical(found.cascade) == canonical(zoo.load("attention_1pass"))
    assert len(found.stages) == 3
    assert found.cascade.splits == {"M": ("M1", "M0")}
    assert "softmax" not in str(found.steps)
    assert set(found.as_json()) == {"before", "after", "steps", "stuck", "cascade"}


def test_masked_blocks_stay_finite() -> None:
    """A window of 2 leaves most blocks without any key."""
    cascade = zoo.load("attention_sliding_window")
    found = reduce_passes(cascade, "M")
    sizes = {"E": 2, "F": 2, "M": 12, "P": 12, "W": 2}
    assert same_result(cascade, found.cascade, sizes | {"M1": 6, "M0": 2})


def test_a_wrong_rewrite_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluator stands between a rule and the user: a rule that drops the correction finds no way out."""
    from einsum_cascade.rewrite import plan

    monkeypatch.setattr(plan, "quotient", lambda above, below, gone: above * 0 + 1)
    # A copy: what was found of an Einsum, wrong or right, is kept with it.
    found = reduce_passes(parse(str(zoo.load("attention_2pass"))), "M")
    assert found.after == 2
    assert found.cascade == zoo.load("attention_2pass")


def test_splitting_a_rank_keeps_the_result() -> None:
    cascade = zoo.load("attention_causal")
    sizes = {"E": 2, "F": 3, "M": 12, "P": 12, "M1": 4, "M0": 3}
    assert same_result(cascade, partition(cascade, "M"), sizes)
    with pytest.raises(CascadeError, match="follows from others"):
        partition(parse(REDUCED["relbias"]), "L")


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("attention_alibi", "M"),
        ("attention_grouped_query", "M"),
        ("attention_softcap", "M"),
        ("attention_sink", "M"),
        ("attention_sink_logit", "M"),
        ("attention_paged", "M"),
        ("arrow_attention", "M"),
        ("davit_channel", "D"),
        ("gna_1d_gather", "W"),
        ("halo_attention", "W"),
        ("head_distance", "M"),
        ("naavit", "M"),
        ("urpe", "M"),
    ],
)
def test_zoo_entries_come_down_to_one_pass(name: str, rank: str) -> None:
    if name not in zoo.names():
        pytest.skip(f"the zoo has no {name}")
    found = reduce_passes(zoo.load(name), rank)
    assert (found.before, found.after) == (3, 1)


FETCHED_BEYOND = """cascade beyond
rank I J M
input A[I, J] P[]
output U[I, M] O[]
U[i, m] = A[i, j]
O[] = A[i, i] * pad(U[i, P[]], 7) * (m + 1) :: sum(i, m)
"""


@pytest.mark.parametrize("place", [0, 2, 5, -1])
def test_what_is_fetched_ends_where_its_rank_does(place: int) -> None:
    """Found by hypothesis: computed anew at its place, an element beyond the rank existed all of a sudden."""
    cascade = parse(FETCHED_BEYOND)
    found = reduce_passes(cascade, "M")
    assert [s.rule for s in found.steps] == ["fetch"]
    a = np.arange(9.0).reshape(3, 3)
    sizes, inputs = {"I": 3, "J": 3, "M": 3}, {"A": a, "P": np.array(place)}
    inside = a.sum(axis=1) if 0 <= place < 3 else np.full(3, 7.0)
    assert evaluate(cascade, sizes, inputs)["O"] == (np.diagonal(a) * inside).sum() * 6
    assert evaluate(found.cascade, sizes, inputs)["O"] == (np.diagonal(a) * inside).sum() * 6


@pytest.mark.parametrize("place", [0, 2, 3, -1])
def test_a_gather_that_finds_nothing_finds_nothing_when_it_is_computed_at_its_place(place: int) -> None:
    """Found by a fuzzer: the index names p alone, so that O[p] is absent, and not a sum of nothing over f."""
    cascade = parse(
        "cascade c\nrank M F P E\ninput A[M, E] B[F, E] J[P] W[F]\noutput O[P]\n"
        "U[m, f] = A[m, e] * B[f, e]\nS[p] = U[J[p], f] * W[f] * (m + 1) :: sum(f, m)\n"
        "O[p] = pad(S[p], -5)\n"
    )
    found = reduce_passes(cascade, "M")
    assert ("fetch", "S") in [(s.rule, s.einsum) for s in found.steps]
    sizes = {"M": 3, "F": 2, "P": 2, "E": 2}
    inputs = random_inputs(cascade, sizes) | {"J": np.array([1, place])}
    left, right = evaluate(cascade, sizes, inputs), evaluate(found.cascade, sizes, inputs)
    by_hand = 6 * inputs["W"] @ (inputs["B"] @ inputs["A"][place]) if 0 <= place < 3 else -5.0
    np.testing.assert_allclose(left["O"][1], by_hand, atol=1e-12)
    np.testing.assert_allclose(right["O"], left["O"], atol=1e-12)


def test_a_sum_that_no_generation_changes_is_made_in_front_of_the_block() -> None:
    """Found by a fuzzer: what is deferred out of a block has no index of its generations, and was refused there."""
    cascade = parse(
        "cascade c\nrank I T\ninput W[I] X[T]\noutput O[T]\nN[] = W[i] :: max(i)\nR[0] = 1\niterate t {\n"
        "  O[t] = R[t] * X[t] * N[] * (W[i] + 1)\n  R[t + 1] = 0.5 * R[t]\n}\n"
    )
    found = reduce_passes(cascade, "I")
    assert (found.before, found.after) == (2, 1)
    inputs = random_inputs(cascade, {"I": 3, "T": 4})
    left, right = (evaluate(c, {"I": 3, "T": 4}, inputs)["O"] for c in (cascade, found.cascade))
    np.testing.assert_allclose(right, left, atol=1e-12)


def test_what_no_number_says_corrects_nothing() -> None:
    """Found by a fuzzer: X - X is 0 whatever X is, and 0 / 0 was written as a variable `nan`."""
    nothing = sympy.Integer(0)
    assert quotient(nothing, nothing, ()) is None
    assert difference_of(sympy.oo, sympy.oo, ()) is None
    assert quotient(sympy.Integer(6), sympy.Integer(3), ()) == 2


@pytest.mark.parametrize(
    "lines",
    [
        # the place moves by a variable that the definition reduces by itself
        "U[i, m] = A[i, j] * A[i, j] :: sum(j)\nO[] = A[j, j] * U[j, P[]] * (m + 1) :: sum(j, m)",
        # one element of a selection has no definition of its own
        "U[m, s] = A[i, m] :: topk(i -> s)\nO[] = A[m, A[m, U[0, 0]]]",
        # the sum that a hoist leaves has two terms, and so is named
        "V[m] = A[i, m]\nW[] = V[m]\nU[m, i] = W[] * (j + i)\nO[] = U[m, i]",
    ],
)
def test_rules_leave_what_they_cannot_write(lines: str) -> None:
    cascade = parse(f"cascade c\nrank I J M S\ninput A[I, J] B[I] P[]\noutput O[]\n{lines}\n")
    for rank in ("I", "J", "M"):
        assert reduce_passes(cascade, rank).after <= passes(cascade, rank).count


def test_what_meets_the_rank_under_its_second_name_stands_before_the_walk() -> None:
    """Attention along columns, then along rows whose scores read K at the place of the query."""
    cascade = parse(
        "cascade axial\nrank E F\nrank M = P\nrank N = H\n"
        "input Q[P, H, E]  K[M, H, E]  V[M, H, F]\noutput O[P, H, F]\n"
        "QK[p, h, m] = Q[p, h, e] * K[m, h, e]\nGM[p, h] = QK[p, h, m] :: max(m)\n"
        "SN[p, h, m] = exp(QK[p, h, m] - GM[p, h])\nSD[p, h] = SN[p, h, m]\nA[p, h, m] = SN[p, h, m] / SD[p, h]\n"
        "AV[p, h, f] = A[p, h, m] * V[m, h, f]\n"
        "RW[p, h, n] = Q[p, h, e] * K[p, n, e]\nRG[p, h] = RW[p, h, n] :: max(n)\n"
        "RN[p, h, n] = exp(RW[p, h, n] - RG[p, h])\nRD[p, h] = RN[p, h, n]\nB[p, h, n] = RN[p, h, n] / RD[p, h]\n"
        "O[p, h, f] = B[p, h, n] * AV[p, n, f]\n"
    )
    found = reduce_passes(cascade, "M")
    assert (found.before, found.after) == (3, 1)
    sizes = {"E": 2, "F": 3, "P": 12, "H": 4}
    inputs = random_inputs(cascade, sizes, seed=5)
    made = evaluate(found.cascade, {**sizes, "M1": 4, "M0": 3}, inputs)["O"]
    q, k, v = (inputs[t] for t in "QKV")
    columns = np.exp(np.einsum("phe,mhe->phm", q, k))
    rows = np.exp(np.einsum("phe,pne->phn", q, k))
    mixed = np.einsum("phm,mhf->phf", columns / columns.sum(-1, keepdims=True), v)
    wanted = np.einsum("phn,pnf->phf", rows / rows.sum(-1, keepdims=True), mixed)
    np.testing.assert_allclose(made, wanted, rtol=1e-12)


LAYER_NORM = """cascade layernorm
rank D T
input X[D, T] W[D] B[D]
output Y[D, T]
MU[t] = X[d, t] / D :: sum(d)
VA[t] = (X[d, t] - MU[t])**2 / D :: sum(d)
Y[d, t] = (X[d, t] - MU[t]) / sqrt(VA[t] + 1e-5) * W[d] + B[d]
"""
# The output is made where the fiber is walked, or reads by the parts what is made there.
BACKWARD = """cascade backward
rank E M P
input Q[E, P] K[E, M] V[M, P]
output DS[M, P] W[M]
S[m, p] = Q[e, p] * K[e, m]
GM[p] = S[m, p] :: max(m)
SN[m, p] = exp(S[m, p] - GM[p])
SD[p] = SN[m, p]
A[m, p] = SN[m, p] / SD[p]
D[p] = A[m, p] * V[m, p]
DS[m, p] = A[m, p] * (V[m, p] - D[p])
W[m] = A[m, p] * V[m, p]
"""


@pytest.mark.parametrize(("text", "rank", "after"), [(LAYER_NORM, "D", 2), (BACKWARD, "M", 2)])
def test_outputs_keep_their_shapes(text: str, rank: str, after: int) -> None:
    cascade = parse(text)
    found = reduce_passes(cascade, rank)
    assert found.after == after < found.before
    for stage in found.stages:
        assert {s.tensor: s.ranks for s in stage.outputs} == {s.tensor: s.ranks for s in cascade.outputs}
        assert parse(render(stage)) == stage
    assert f"{rank}1" in found.cascade.rank_names
    sizes = dict.fromkeys(cascade.free_ranks, 3) | {rank: 12}
    inputs = random_inputs(cascade, sizes, seed=0)
    split = {r: n for r, n in sizes.items() if r != rank} | {f"{rank}1": 4, f"{rank}0": 3}
    left, right = evaluate(cascade, sizes, inputs), evaluate(found.cascade, split, inputs)
    assert {t: a.shape for t, a in left.items()} == {t: a.shape for t, a in right.items()}
    assert max(difference(right[t], left[t]) for t in left) <= 1e-9


CENTRED = """cascade centred
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
MK[e] = K[e, m] / M :: sum(m)
{scores}
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = {sum} :: sum(m)
AV[f, p] = SN[m, p] / SD[p] * V[f, m]
"""


@pytest.mark.parametrize(
    ("scores", "total", "after"),
    [
        ("QK[m, p] = Q[e, p] * (K[e, m] - MK[e])", "SN[m, p]", 1),
        ("KC[e, m] = K[e, m] - MK[e]\nQK[m, p] = Q[e, p] * KC[e, m] where m <= p", "SN[m, p]", 1),
        # The summand differs from key to key, or the sum sees the scores themselves.
        ("QK[m, p] = Q[e, p] * K[e, m] * (1 - MK[e])", "SN[m, p]", 2),
        ("QK[m, p] = Q[e, p] * (K[e, m] - MK[e])", "SN[m, p] * QK[m, p]", 2),
    ],
)
def test_what_all_scores_have_in_common_cancels(scores: str, total: str, after: int) -> None:
    cascade = parse(CENTRED.replace("{scores}", scores).replace("{sum}", total))
    found = reduce_passes(cascade, "M")
    assert (found.before, found.after) == (4, after)
    assert ("shift" in [s.rule for s in found.steps]) == (after == 1)
    assert trial(cascade, found.cascade, scale=1.0, seed=3) <= 1e-9
