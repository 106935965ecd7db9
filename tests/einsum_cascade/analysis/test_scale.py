"""What scores are scaled by is known before the data: however it is written, it costs one product per score."""

from __future__ import annotations

import pytest

import simulator as sim
from einsum_cascade import bounds, parse, reduce_passes
from einsum_cascade.analysis.points import operations_by_einsum

SIZES = {"E": 64, "F": 64, "M": 1024, "P": 512}
TEXT = """cascade scaled
rank E F M P
{let}input Q[E, P] K[E, M] V[F, M]
output AV[F, P]
QK[m, p] = {scores}
GM[p] = QK[m, p] :: max(m)
SN[m, p] = exp(QK[m, p] - GM[p])
SD[p] = SN[m, p] :: sum(m)
NV[f, p] = SN[m, p] * V[f, m]
AV[f, p] = NV[f, p] / SD[p]
"""
SPELLINGS = {
    "divided": ("Q[e, p] * K[e, m] / sqrt(E)", ""),
    "in front": ("E ** -0.5 * Q[e, p] * K[e, m]", ""),
    "between": ("Q[e, p] / sqrt(E) * K[e, m]", ""),
    "bracket": ("Q[e, p] * (K[e, m] / (2 * sqrt(E) / 2))", ""),
    "named": ("Q[e, p] * K[e, m] * S", "let S = E ** -0.5\n"),
}


def cascade(spelling: str):
    scores, let = SPELLINGS[spelling]
    return parse(TEXT.format(scores=scores, let=let))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_scale_costs_one_product_per_score(spelling: str) -> None:
    # 64 products and sums per score, and one by the scale
    scores = SIZES["M"] * SIZES["P"]
    found = operations_by_einsum(cascade(spelling), SIZES)["QK"]
    assert found == {"mac": 64 * scores, "mul": scores}


def test_a_mean_divides_once_and_constants_are_free() -> None:
    text = "cascade mean\nrank I J\ninput A[I, J]\noutput B[J]\nB[j] = 3 * A[i, j] / (I * sqrt(2)) :: sum(i)"
    assert bounds(parse(text), {"I": 7, "J": 5}).operations == {"add": 35, "mul": 5}


def test_a_factor_of_data_is_no_scale_and_max_has_none() -> None:
    head = "cascade other\nrank I J\ninput A[I, J] B[J]\noutput C[J]\n"
    by_data = parse(head + "C[j] = A[i, j] / B[j] :: sum(i)")
    assert bounds(by_data, {"I": 7, "J": 5}).operations == {"divide": 35, "add": 35}
    largest = parse(head.replace(" B[J]", "") + "C[j] = A[i, j] / 2 :: max(i)")
    assert bounds(largest, {"I": 7, "J": 5}).operations == {"mul": 35, "max": 35}


def test_machines_take_the_same_time_however_the_scale_is_written() -> None:
    chip = sim.load_hardware("fusemax", N=64)
    times, gpu = set(), set()
    for spelling in SPELLINGS:
        flash = reduce_passes(cascade(spelling), "M").cascade
        estimate = sim.simulate(cascade(spelling), SIZES, chip, _mapping(cascade(spelling)))
        times.add(round(float(estimate.latency_s) * 1e12))
        gpu.add(round(sim.predict_cascade(flash, {**SIZES, "B": 4, "H": 8}, on="h100").latency_s * 1e12))
    assert len(times) == 1 and len(gpu) == 1


def _mapping(c):
    from simulator.spatial.mapper import find_mapping

    return find_mapping(c, SIZES, sim.load_hardware("fusemax", N=64), effort=5).mapping
