"""The mapper: never below the bound, at least as good as what the papers found, and files that read back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappings
from einsum_cascade import zoo
from einsum_cascade.errors import MappingError
from einsum_cascade.parser import parse
from simulator import load_hardware, simulate
from simulator.spatial.default import default_mapping
from simulator.spatial.mapper import find_mapping, least_traffic_bytes

BERT = {"B": 64, "H": 12, "E": 64, "F": 64}


def test_no_slower_than_the_published_binding():
    cascade, chip = zoo.load("attention_1pass"), load_hardware("fusemax")
    sizes = {**BERT, "P": 65536, "M": 65536}
    published = simulate(cascade, sizes, chip, mappings.load("fusemax"))
    found = find_mapping(cascade, sizes, chip)
    assert found.estimate.latency_s <= published.latency_s
    assert found.gap >= 1


def test_never_worse_than_the_default():
    cascade, chip = zoo.load("attention_2pass"), load_hardware("fusemax")
    sizes = {**BERT, "B": 1, "P": 4096, "M": 4096}
    plain = simulate(cascade, sizes, chip, default_mapping(cascade, sizes, chip))
    assert find_mapping(cascade, sizes, chip).estimate.latency_s <= plain.latency_s * (1 + 1e-12)


def test_the_file_reads_back(tmp_path):
    cascade, chip = zoo.load("attention_3pass"), load_hardware("flat")
    sizes = {**BERT, "B": 1, "P": 1024, "M": 1024}
    found = find_mapping(cascade, sizes, chip, objective="traffic_bytes")
    mappings.save(found.mapping, tmp_path / "m.yaml")
    again = simulate(cascade, sizes, chip, mappings.load(tmp_path / "m.yaml"))
    assert again.to_dict() | {"mapping": ""} == found.estimate.to_dict() | {"mapping": ""}


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 20), st.sampled_from(["gemm", "attention_3pass", "attention_2pass", "attention_1pass"]))
def test_never_below_the_bound(log_buffer, name):
    cascade = zoo.load(name)
    chip = load_hardware("fusemax", N=16, L3=f"{2**log_buffer} B")
    sizes = {r: 64 for r in ("E", "F", "M", "P", "K", "N") if r in cascade.rank_names}
    if cascade.splits:
        sizes["M1"], sizes["M0"] = 4, 16
    try:
        found = find_mapping(cascade, sizes, chip, objective="traffic_bytes")
    except MappingError as e:
        assert "fit" in str(e)
        return
    assert found.gap >= 1 - 1e-12


def test_a_second_pass_needs_a_row_or_a_second_read():
    """QK; GM = max(QK); SN = QK * GM at M 64, P 32, E 16: a row of scores is 64 words of 16 bits = 1,024 bits."""
    text = "cascade three\nrank E M P\ninput Q[E, P] K[E, M]\noutput SN[M, P]\n"
    text += "QK[m, p] = Q[e, p] * K[e, m]\nGM[p] = QK[m, p] :: max(m)\nSN[m, p] = QK[m, p] * GM[p]\n"
    cascade = parse(text)
    sizes = {"E": 16, "M": 64, "P": 32}
    inputs_and_output = (16 * 32 + 16 * 64 + 64 * 32) * 2
    roomy = find_mapping(
        cascade, sizes, load_hardware("fusemax", N=16, L3="64 KiB"), objective="traffic_bytes"
    )
    assert roomy.estimate.traffic_bytes == inputs_and_output
    # Below a row (128 bytes) the scores cannot stay: they are read, or made, a second time.
    tight = find_mapping(
        cascade, sizes, load_hardware("fusemax", N=16, L3="120 B"), objective="traffic_bytes"
    )
    assert tight.estimate.traffic_bytes > inputs_and_output
    assert tight.gap >= 1 - 1e-12


def test_more_buffer_never_means_more_traffic():
    cascade, sizes = zoo.load("attention_3pass"), {"E": 64, "F": 64, "P": 256, "M": 256}
    chips = [load_hardware("fusemax", N=16, L3=f"{k} KiB") for k in (16, 64, 256, 1024)]
    moved = [find_mapping(cascade, sizes, c, objective="traffic_bytes").estimate.traffic_bytes for c in chips]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] >= least_traffic_bytes(cascade, sizes, chips[-1])


def test_objectives():
    with pytest.raises(MappingError, match="did you mean 'latency_s'"):
        find_mapping(
            zoo.load("gemm"), {"K": 64, "M": 64, "N": 64}, load_hardware("flat"), objective="latency"
        )
