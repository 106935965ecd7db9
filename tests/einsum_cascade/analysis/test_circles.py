"""Indices that go round a rank, as in rotary embeddings and shifted windows: what is read, and what passes move."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import bounds, evaluate, parse

HALF = "select(e < E // 2, -1, 1) * {t}[(e + E // 2) % E, {v}]"
PAIRS = "select(e % 2 == 0, -1, 1) * {t}[e + 1 - 2*(e % 2), {v}]"
ROTARY = """cascade rotary
rank E F M P
input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QR[e, p] = Q[e, p] * cos(p * 10000 ** (-e / E)) + {q} * sin(p * 10000 ** (-e / E))
KR[e, m] = K[e, m] * cos(m * 10000 ** (-e / E)) + {k} * sin(m * 10000 ** (-e / E))
QK[m, p] = QR[e, p] * KR[e, m]
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p] :: sum(m)
A[m, p] = SN[m, p] / SD[p]
AV[f, p] = A[m, p] * V[f, m]
"""


@pytest.mark.parametrize("other", [HALF, PAIRS], ids=["halves", "pairs"])
def test_rotary_keys_are_read_again_in_each_pass(other: str) -> None:
    rotary = ROTARY.format(q=other.format(t="Q", v="p"), k=other.format(t="K", v="m"))
    found = bounds(parse(rotary), {"E": 32, "F": 32, "M": 4096, "P": 64}, buffer="4 KiB")
    # When a pass has ended for the first query, what the others need of the keys is on chip (2,048 words of 2 bytes)
    # or read again; so it is at the end of two passes.
    assert found.traffic_bytes == found.compulsory_bytes + 2 * (32 * 4096 - 2048) * 2
    assert found.free_pass_buffer_bytes == 2 * 4096  # a query's scores


def test_an_odd_width_has_no_pairs() -> None:
    # The last element's other half does not exist, so no score has all its terms; nothing more is claimed.
    rotary = parse(ROTARY.format(q=PAIRS.format(t="Q", v="p"), k=PAIRS.format(t="K", v="m")))
    found = bounds(rotary, {"E": 31, "F": 32, "M": 4096, "P": 64}, buffer="4 KiB")
    assert found.compulsory_bytes == 2 * (30 * (4096 + 64) + 32 * (4096 + 64))


SHIFTED = [
    (
        "rank E\ninput A[E]\noutput B[E]\nT[e] = A[(e + 2) % E] * 2 where e < 3\nB[e] = T[(e - 1) % E] where e > 0",
        "E",
    ),
    (
        "rank E F\ninput A[E, F]\noutput B[E]\nT[e, f] = A[(e + E // 2) % E, f] where f <= e\n"
        "B[e] = T[(e + 3) % E, f] where e < 2",
        "EF",
    ),
    (
        "rank I J\nrank Y = I * J\ninput A[Y]\noutput B[I, J]\nT[y] = A[(y + 1) % Y] * 2 where y < 4\n"
        "B[i, j] = T[(i * J + j + J // 2) % Y] where j > 0",
        "IJ",
    ),
    (
        "rank I J\nrank Y = I * J\ninput A[Y] W[I]\noutput B[Y]\nT[i, j] = A[(i * J + j - 1) % Y] * W[i] where i > 0\n"
        "B[y] = T[(y + 1) % Y // J, (y + 1) % Y % J] where y > 1",
        "IJ",
    ),
]


@pytest.mark.parametrize(("lines", "ranks"), SHIFTED)
@pytest.mark.parametrize("extents", [(3, 3), (2, 4), (5, 2), (6, 1)])
def test_words_read_and_written_are_those_that_matter(
    lines: str, ranks: str, extents: tuple[int, ...]
) -> None:
    """The oracle: an input element is needed if another value of it changes an output."""
    sizes = dict(zip(ranks, extents, strict=False))
    cascade = parse(f"cascade shifted\n{lines}")
    whole = {**sizes, "Y": sizes.get("I", 1) * sizes.get("J", 1)}
    made = np.random.default_rng(0)
    inputs = {s.tensor: made.uniform(1, 2, [whole[r] for r in s.ranks]) for s in cascade.inputs}
    before = evaluate(cascade, sizes, inputs)
    needed = sum(int(np.count_nonzero(v)) for v in before.values())
    for name, values in inputs.items():
        for place in np.ndindex(values.shape):
            other = {n: v.copy() for n, v in inputs.items()}
            other[name][place] += 1
            after = evaluate(cascade, sizes, other)
            needed += any(not np.array_equal(after[t], before[t]) for t in before)
    found = bounds(cascade, sizes, word="1 B").compulsory_bytes
    assert found <= needed
    if len(inputs) == 1:  # the last cascade reads W beside, of which less is claimed
        assert found == needed


def test_windows_that_are_rolled_read_all_of_an_image() -> None:
    text = """cascade rolled
rank E N I
rank Y = N * I
rank U = I
input Q[E, Y] K[E, Y] V[E, Y]
output O[E, Y]
QK[n, i, u] = Q[e, (n*I + i + I // 2) % Y] * K[e, (n*I + u + I // 2) % Y]
OW[e, n, i] = QK[n, i, u] * V[e, (n*I + u + I // 2) % Y]
O[e, y] = OW[e, (y + Y - I // 2) % Y // I, (y + Y - I // 2) % Y % I]
"""
    assert bounds(parse(text), {"E": 8, "Y": 24, "I": 6}, word="1 B").compulsory_bytes == 4 * 8 * 24


def test_levels_of_powers_of_two_are_counted() -> None:
    """Log-linear attention: a key lies in one bucket of each query, whose level is the bit length of t xor s."""
    text = """cascade levels
rank L T
rank S = T
input A[L, T]
output W[S, T]
W[s, t] = A[l, t] :: sum(l) where s <= t and s // 2**l == t // 2**l and (l == 0 or s // 2**(l - 1) != t // 2**(l - 1))
"""
    used = {((s ^ t).bit_length(), t) for t in range(8) for s in range(t + 1)}
    found = bounds(parse(text), {"L": 4, "T": 8}, word="1 B")
    assert found.compulsory_bytes <= len(used) + 36
