"""Which of two Einsums that do not need each other a text has first says nothing about what a GPU takes."""

from __future__ import annotations

import random

import pytest
from reordered import reordered

from einsum_cascade import parse, zoo
from einsum_cascade.zoo.entries import sizes_at
from simulator import predict_cascade
from simulator.gpu.fusion.orders import Node, depth_first, least_first, orders_of
from simulator.gpu.fusion.structure import units_of

# Kernels are searched for step by step, so that another order may end at others that take as long, or nearly.
NEARLY = 1e-3
# Of these an order by chance took 2 to 24 % more or less than that of the text: what a block had to hold at a time,
# which product's rows its tiles were laid along, and what stood beside each other in the text depended on it.
CHANGED = [
    "mamba2_ssd",
    "rim",
    "l2vit",
    "cosformer",
    "halo_attention",
    "attention_latent",
    "shvit",
    "head_distance",
]


@pytest.mark.parametrize("name", CHANGED)
def test_the_order_of_a_text_changes_no_prediction(name: str) -> None:
    cascade, sizes = zoo.load(name), sizes_at(name, 1024) | {"H": 8}
    expected = predict_cascade(cascade, sizes, on="h100").latency_s
    every = (reordered(cascade, random.Random(seed)) for seed in range(6))
    others = list({other.einsums: other for other in every if other.einsums != cascade.einsums}.values())
    assert others
    for other in others[:2]:
        assert predict_cascade(other, sizes, on="h100").latency_s == pytest.approx(expected, rel=NEARLY)


TWO = """cascade two
rank I J
input A[J, I]  B[J, I]
output S[]  T[]  Y[J, I]
{}
U[]     = max(S[] * B[j, i], S[]) :: logsumexp(j, i)
Y[j, i] = select((j + 2) % 2 == 0, U[] + S[], S[])
"""
LINES = (
    "S[]     = (B[j, i] * A[j, clamp(i - 2, 0, I - 1)]) :: sum(j, i) where j > 3",
    "T[]     = (A[j - 1, i] - B[j, i]) * (1 + 0.01 * j) :: sum(j) :: min(i)",
)


def test_what_reads_nothing_of_each_other_may_share_a_kernel_wherever_it_stands() -> None:
    """T had been put beside what follows it in the text, S or U; a kernel with S took 22 % more."""
    found = [
        predict_cascade(parse(TWO.format("\n".join(lines))), "I=528,J=512", on="l40s", dtype="fp32").latency_s
        for lines in (LINES, LINES[::-1])
    ]
    assert found[0] == pytest.approx(found[1], rel=NEARLY)


@pytest.mark.parametrize("name", zoo.names())
def test_every_order_is_one_in_which_units_and_einsums_can_run(name: str) -> None:
    cascade = zoo.load(name)
    units = units_of(cascade)
    every = orders_of(cascade, units)
    assert every[0] == units
    for order in every:
        assert {u.names for u in order} == {u.names for u in units}
        made = {s.tensor for s in cascade.inputs}
        for unit in order:
            made |= {e.name for e in unit.first}
            for einsum in unit.einsums:
                assert {a.tensor for a in einsum.reads if not cascade.reads_previous(a)} <= made
                made.add(einsum.name)


def test_orders_hold_little() -> None:
    """Four numbers, each a sum of a vector; then what makes room stands before what takes it."""
    vectors = [Node(frozenset((f"v{i}",)), frozenset(), 64.0) for i in range(4)]
    sums = [Node(frozenset((f"s{i}",)), frozenset((f"v{i}",)), 1.0) for i in range(4)]
    last = Node(frozenset(("y",)), frozenset(f"s{i}" for i in range(4)), 1.0)
    for order in (depth_first, least_first):
        assert order([*vectors, *sums, last]) == [0, 4, 1, 5, 2, 6, 3, 7, 8]
    # Sethi and Ullman: of two sides, that first which needs more room while it is made.
    small, large = Node(frozenset("a"), frozenset(), 1.0), Node(frozenset("b"), frozenset(), 64.0)
    total = Node(frozenset("c"), frozenset("b"), 1.0)
    assert depth_first([small, large, total, Node(frozenset("d"), frozenset("ac"), 1.0)]) == [1, 2, 0, 3]
