"""Laws of the search for fewer passes, over random cascades."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Use, uses

from einsum_cascade import evaluate, parse, random_inputs, reduce_passes
from einsum_cascade.analysis.passes import all_passes, passes
from einsum_cascade.evaluator import difference


@st.composite
def chains(draw: st.DrawFn) -> str:
    """Cascades in which reductions wait for each other: every kind of score, statistic, map and mask."""
    first = st.sampled_from(
        ["X[m, p]", "2 * X[m, p]", "tanh(X[m, p])", "X[m, p] + B[m]", "X[m, p] * Y[p]", "p - m"]
    )
    reduction = st.sampled_from(["max", "min", "sum", "logsumexp"])
    maps = st.sampled_from(
        [
            "exp({x}[m, p] - {c}[p])",
            "exp({c}[p] - {x}[m, p])",
            "{x}[m, p] - {c}[p]",
            "({x}[m, p] - {c}[p])**2",
            "{x}[m, p] * {c}[p]",
            "{x}[m, p] / (1 + abs({c}[p]))",
            "relu({x}[m, p] - {c}[p])",
            "{x}[m, p]",
            "{x}[m, p] * B[m] + {c}[p]",
        ]
    )
    mask = draw(st.sampled_from(["", " where m <= p", " where 0 <= p - m < 3", " where (m + p) % 2 == 0"]))
    last = draw(
        st.sampled_from(["R[p] = Z[m, p] * B[m]", "R[p] = Z[m, p] :: max(m)", "R[m, p] = Z[m, p] + D[p]"])
    )
    lines = [
        "cascade chain",
        "rank M P",
        "input X[M, P] B[M] Y[P]",
        f"output R[{'M, ' if last.startswith('R[m') else ''}P]",
        f"H[m, p] = {draw(first)} + 0 * X[m, p]{mask}",
        f"C[p] = H[m, p] :: {draw(reduction)}(m)",
        f"G[m, p] = {draw(maps).format(x='H', c='C')}",
        f"D[p] = G[m, p] :: {draw(reduction)}(m)",
        f"Z[m, p] = {draw(maps).format(x='G', c='D')}",
        last,
    ]
    return "\n".join(lines) + "\n"


@settings(max_examples=25, deadline=None)
@given(text=chains(), seed=st.integers(0, 99), blocks=st.sampled_from([(5, 2), (2, 5), (1, 10), (10, 1)]))
def test_random_chains_keep_their_results(text: str, seed: int, blocks: tuple[int, int]) -> None:
    cascade = parse(text)
    found = reduce_passes(cascade, "M")
    assert passes(found.cascade, "M").count == found.after <= found.before
    assert len(found.steps) == len(found.stages) - 1
    assert bool(found.stuck) <= (found.after > 1)
    sizes = {"M": 10, "P": 10}
    split = {"M1": blocks[0], "M0": blocks[1]} if "M0" in found.cascade.rank_names else {}
    inputs = random_inputs(cascade, sizes, seed=seed)
    left, right = evaluate(cascade, sizes, inputs), evaluate(found.cascade, sizes | split, inputs)
    for t in left:
        assert right[t].shape == left[t].shape
        assert difference(right[t], left[t]) <= 1e-9


@settings(max_examples=40, deadline=None)
@given(use=uses(iterate=False))
def test_random_cascades_keep_their_results(use: Use) -> None:
    """Whatever the search makes of a cascade of every construct is equal, and never takes more passes."""
    ranks = [r for r, p in all_passes(use.cascade).items() if p.count > 1]
    for rank in ranks[:2]:
        found = reduce_passes(use.cascade, rank)
        assert found.after <= found.before
        assert passes(found.cascade, rank).count == found.after
        sizes = {r: n for r, n in use.sizes.items() if r in found.cascade.rank_names}
        parts = found.cascade.splits.get(rank, ())
        sizes |= {p: (use.sizes[rank] if i == 0 else 1) for i, p in enumerate(parts) if p not in use.sizes}
        left, right = evaluate(use.cascade, use.sizes, use.inputs), evaluate(found.cascade, sizes, use.inputs)
        for t in left:
            assert right[t].shape == left[t].shape
            assert difference(right[t], left[t]) <= 1e-9
