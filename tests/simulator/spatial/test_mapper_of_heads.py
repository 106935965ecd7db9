"""Searches for cascades of traced models: heads that share parts of ranks, ranks under two names, parts of parts."""

from __future__ import annotations

import pytest

from einsum_cascade import parse
from einsum_cascade.expr import Apply, Size
from simulator import find_mapping, load_hardware
from simulator.spatial.nest import Dimension, Operand
from simulator.spatial.programs import tile_of

HEADS = (
    "cascade heads\nrank D P\nrank R = N*E\nrank J = I*N*E\nrank M = P\ninput X[P, D] W[J, D] Z[R, D]\noutput O[P, D]\n"
    "C[p, j] = X[p, d] * W[j, d]\nU[i, n, p, e] = C[p, (i*N + n)*E + e]\n"
    "S[n, p, m] = U[0, n, p, e] * U[1, n, m, e]\nA[n, p, e] = S[n, p, m] * U[2, n, m, e]\n"
    "O[p, d] = A[r//E, p, r%E] * Z[r, d]\n"
)
NESTED = (
    "cascade nested\nrank P E\nrank M = M1*M0\nrank D = M*N\ninput Q[P, E] K[D, E]\noutput O[P]\n"
    "S[p, m1, m0, n] = Q[p, e] * K[(m1*M0 + m0)*N + n, e] where (m1*M0 + m0)*N + n <= p\n"
    "O[p] = S[p, m1, m0, n] :: max(m1, m0, n)\n"
)
CASES = {
    "heads": (HEADS, {"D": 8, "P": 6, "N": 2, "E": 4, "I": 3}),
    "heads, all sizes": (HEADS, {"D": 8, "P": 6, "M": 6, "N": 2, "E": 4, "I": 3, "R": 8, "J": 24}),
    "parts of parts": (NESTED, {"P": 8, "E": 4, "D": 8, "M": 4, "N": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mapping_is_found_and_no_better_than_the_bound(case: str) -> None:
    text, sizes = CASES[case]
    cascade, chip = parse(text), load_hardware("fusemax")
    found = find_mapping(cascade, sizes, chip, effort=20)
    by_text = ",".join(f"{r}={n}" for r, n in sizes.items())
    again = find_mapping(cascade, by_text, chip, effort=20)
    assert found.estimate.latency_s == again.estimate.latency_s > 0
    assert found.gap >= 1


def test_digits_without_a_loop_add_no_elements() -> None:
    strides = {"i": Apply("*", (Size("N"), Size("E"))), "n": Size("E"), "e": 1}
    operand = Operand("C", (Dimension(tuple(strides.items())),), ())
    assert tile_of(operand, {"i": ("I",), "e": ("E1", "E0")}).parts == ("I", "E1", "E0")
    assert tile_of(operand, {"i": ("I",), "n": ("N",), "e": ("E",)}).parts == ("I", "N", "E")
