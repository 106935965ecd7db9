"""Tiles that spill: worked by hand, laws, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappings
from einsum_cascade import zoo
from einsum_cascade.errors import MappingError
from mappings.binding import Spill
from mappings.files import load, save
from simulator import load_hardware, simulate

GEMM = zoo.load("gemm")
SIZES = {"K": 1024, "M": 1024, "N": 1024}


def gemm_mapping(tensors=("A", "B"), **spill):
    """C = A * B with all of A and B in the buffer: 2 x 2 MiB; every tile of 256 x 256 of C asks for rows of both."""
    base = mappings.load("gemm")
    nest = replace(base.nest, sizes={**base.nest.sizes, "M1": 4, "N1": 4})
    binding = replace(base.binding, spill={"GlobalBuffer": Spill(tuple(tensors), **spill)})
    return replace(base, nest=nest, binding=binding)


def test_a_spill_by_hand():
    # A and B take 4 MiB of a buffer of 3 MiB: a quarter of each lives outside. What stays is fetched once, what
    # spills is fetched whenever the array asks: A for each of 4 column tiles of C and B for each of 4 row tiles.
    mapping = gemm_mapping()
    found = simulate(GEMM, SIZES, load_hardware("fusemax", L3="3 MiB"), mapping)
    roomy = simulate(GEMM, SIZES, load_hardware("fusemax", L3="4 MiB"), mapping)
    matrix = 1024 * 1024 * 2
    assert roomy.traffic_bytes == 3 * matrix
    assert found.traffic_bytes == (2 * (0.75 + 0.25 * 4) + 1) * matrix
    assert "GlobalBuffer: 0.25 of A, B does not fit" in " ".join(found.assumptions)
    buffer = {m.name: m for m in found.memories}["GlobalBuffer"]
    assert buffer.held_bytes == buffer.capacity_bytes
    assert buffer.read_bytes == {m.name: m for m in roomy.memories}["GlobalBuffer"].read_bytes


def test_only_what_may_spill_does():
    found = simulate(GEMM, SIZES, load_hardware("fusemax", L3="3 MiB"), gemm_mapping(("B",)))
    # the missing MiB is half of B
    assert found.traffic_bytes == (1 + 0.5 + 0.5 * 4 + 1) * 1024 * 1024 * 2


def test_what_is_needed_may_be_stated():
    # a double buffer: 8 MiB are needed, 4 MiB are there
    mapping = gemm_mapping(need="2 * 2 * (M * K + K * N)")
    found = simulate(GEMM, SIZES, load_hardware("fusemax", L3="4 MiB"), mapping)
    assert found.traffic_bytes == (2 * (0.5 + 0.5 * 4) + 1) * 1024 * 1024 * 2


def test_where_everything_fits_nothing_changes():
    chip = load_hardware("fusemax")
    with_spill = gemm_mapping()
    plain = replace(with_spill, binding=replace(with_spill.binding, spill={}))
    assert simulate(GEMM, SIZES, chip, with_spill).to_dict() == simulate(GEMM, SIZES, chip, plain).to_dict()


@settings(max_examples=30, deadline=None)
@given(st.integers(64, 5000), st.integers(64, 5000))
def test_a_larger_buffer_never_moves_more(a, b):
    small, large = (
        simulate(GEMM, SIZES, load_hardware("fusemax", L3=f"{kib} KiB"), gemm_mapping()).traffic_bytes
        for kib in sorted((a, b))
    )
    assert 3 * 1024 * 1024 * 2 <= large <= small * (1 + 1e-12)
    # at worst all of A and B comes from outside for every tile
    assert small <= 9 * 1024 * 1024 * 2


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (gemm_mapping(("C",)), "spill.GlobalBuffer: GlobalBuffer keeps no tensor 'C'"),
        (
            gemm_mapping(("A",)),
            "what may not spill takes 2,097,152 bytes, GlobalBuffer of fusemax holds 1,048,576",
        ),
        (gemm_mapping(need="2 * Z"), "spill.GlobalBuffer.need: unknown name 'Z'"),
        (
            replace(gemm_mapping(), binding=replace(gemm_mapping().binding, spill={"DRAM": Spill(("A",))})),
            "spill.DRAM: nothing stands outside DRAM",
        ),
        (
            replace(gemm_mapping(), binding=replace(gemm_mapping().binding, spill={"L3": Spill(("A",))})),
            "spill.L3: fusemax has no memory 'L3'",
        ),
    ],
)
def test_what_is_refused(mapping, message):
    with pytest.raises(MappingError) as caught:
        simulate(GEMM, SIZES, load_hardware("fusemax", L3="1 MiB"), mapping)
    assert message in str(caught.value)


def test_a_file_says_it(tmp_path):
    mapping, path = gemm_mapping(need="4 * M * K"), tmp_path / "spilling.yaml"
    save(mapping, path)
    assert load(path).binding.spill == mapping.binding.spill
    path.write_text(path.read_text().replace("need:", "ned:"))
    with pytest.raises(MappingError, match="did you mean 'need'"):
        load(path)


def test_many_design_points_at_once_equal_one_by_one():
    import numpy as np

    mapping, chip = gemm_mapping(), load_hardware("fusemax", L3="3 MiB")
    rows = np.array([1024, 2048, 3072])
    many = simulate(GEMM, {**SIZES, "M": rows}, chip, mapping)
    for k, m in enumerate(rows):
        one = simulate(GEMM, {**SIZES, "M": int(m)}, chip, mapping)
        assert many.traffic_bytes[k] == pytest.approx(one.traffic_bytes, rel=1e-12)
        assert many.energy_j[k] == pytest.approx(one.energy_j, rel=1e-12)
