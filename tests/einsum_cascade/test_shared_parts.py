"""Ranks whose parts are shared, as heads are: their sizes from those of the wholes, and what reads them by places."""

from __future__ import annotations

import pytest

from einsum_cascade import bounds, parse
from einsum_cascade.sizes import parse_sizes, stated_parts

HEADS = parse(
    "cascade heads\nrank D P\nrank R = N*E\nrank J = I*N*E\ninput X[P, D] W[J, D] Z[R, D]\noutput O[P, D]\n"
    "C[p, j] = X[p, d] * W[j, d]\nU[i, n, p, e] = C[p, (i*N + n)*E + e]\n"
    "O[p, d] = U[1, r//E, p, r%E] * Z[r, d]\n"
)
NESTED = parse(
    "cascade nested\nrank D\nrank N = G*I\nrank J = N*E\ninput X[J, D]\noutput O[G, I, E]\n"
    "S[j] = X[j, d] :: sum(d)\nO[g, i, e] = S[(g*I + i)*E + e] + 0*g\n"
)


@pytest.mark.parametrize(
    "text", ["D=8,P=4,R=8,J=24", "D=8,P=4,R=6,J=12", "D=8,P=4,R=7,J=7", "D=8,P=4,J=24,R=8,N=2"]
)
def test_shared_parts_multiply_to_every_whole(text: str) -> None:
    sizes = parse_sizes(text, HEADS)
    assert sizes["N"] * sizes["E"] == sizes["R"]
    assert sizes["I"] * sizes["N"] * sizes["E"] == sizes["J"]


def test_a_part_that_is_split_itself_gets_its_size_first() -> None:
    sizes = parse_sizes("D=2,J=24,E=4", NESTED)
    assert sizes["N"] == 6
    assert sizes["G"] * sizes["I"] == 6


def test_parts_that_no_guess_could_give_are_stated() -> None:
    cascade = parse(
        "cascade shared\nrank D\nrank J = I*F\nrank P = H*I\nrank W = B*H\ninput X[J, D] Y[P, D] Z[W, D]\n"
        "output O[I, F, H, B]\nO[i, f, h, b] = X[i*F + f, d] * Y[h*I + i, d] * Z[b*H + h, d]\n"
    )
    given = {"D": 2, "J": 8, "P": 4, "W": 6, "I": 2, "F": 4, "H": 2, "B": 3}
    assert stated_parts(cascade, given) == {"I": 2, "F": 4, "H": 2, "B": 3}


@pytest.mark.parametrize("sizes", [(2, 8, 8, 2), (3, 5, 6, 2), (2, 9, 4, 2), (2, 3, 9, 3)])
def test_what_clamped_distances_read_is_counted(sizes: tuple[int, int, int, int]) -> None:
    e, t, m, m0 = sizes
    cascade = parse(
        "cascade apart\nrank E T\nrank P = M\nrank M = M1*M0\ninput Q[P, E] K[P, E] R[E, T]\noutput O[P]\n"
        "UU[p, t] = Q[p, e] * R[e, t]\nVV[p, t] = K[p, e] * R[e, t]\nRG[0, p] = 0\niterate m1 {\n"
        "S[p, m1, m0] = UU[p, min(max(p - (m1*M0 + m0) + 4, 0), 7)]"
        " + VV[m1*M0 + m0, min(max(-(m1*M0 + m0 - p) + 4, 0), 7)]\n"
        "L[m1, p] = S[p, m1, m0] :: sum(m0)\nRG[m1 + 1, p] = RG[m1, p] + L[m1, p]\n}\nO[p] = RG[M1, p]\n"
    )
    pairs = [(p, k, min(max(p - k + 4, 0), 7)) for p in range(m) for k in range(m)]
    read = [(p, k, place) for p, k, place in pairs if place < t]
    queries, keys, places = (len({r[i] for r in read}) for i in range(3))
    words = e * (queries + keys + places) + m
    found = bounds(cascade, {"E": e, "T": t, "M": m, "M0": m0}).compulsory_bytes
    assert 2 * (e * places + m) <= found <= 2 * words
    assert found == 2 * words
