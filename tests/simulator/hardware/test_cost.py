"""Energies and areas against the figures of the artifact, and the interpolation between rows of the table."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import HardwareError
from simulator.hardware.cost import cost, tables
from simulator.hardware.reader import load_hardware
from simulator.spatial.area import area_mm2


@pytest.mark.parametrize(
    ("depth", "write_pj", "read_pj", "area_um2"),
    [(4, 1.894395, 2.182395, 16814.3), (12, 1.902435, 2.190435, 16837.6), (32, 1.906455, 2.194455, 16849.2)],
)
def test_registers(depth, write_pj, read_pj, area_um2):
    # FuseMax artifact, energy reference table of the register files; areas are printed to one decimal
    found = cost("registers", row_bits=16, rows=depth)
    assert found.write_j * 1e12 == pytest.approx(write_pj, rel=1e-12)
    assert found.read_j * 1e12 == pytest.approx(read_pj, rel=1e-12)
    assert found.area_mm2 * 1e6 == pytest.approx(area_um2, abs=0.06)


@pytest.mark.parametrize(
    ("rows", "read_pj", "write_pj"),
    [(32768, 12512.760572, 15751.460572), (65536, 23854.664592, 27097.564592)],
)
def test_buffers_of_16_and_32_mib(rows, read_pj, write_pj):
    found = cost("sram", row_bits=4096, rows=rows)
    assert (found.read_j * 1e12, found.write_j * 1e12) == pytest.approx((read_pj, write_pj), rel=1e-12)
    assert not found.assumption


def test_published_areas():
    # component areas of the artifact, summed: 1391.8 and 1303.0 mm^2
    assert sum(area_mm2(load_hardware("flat")).values()) == pytest.approx(1391.8, abs=0.05)
    assert sum(area_mm2(load_hardware("fusemax")).values()) == pytest.approx(1303.0, abs=0.05)


@settings(max_examples=100, deadline=None)
@given(st.floats(64, 16384).filter(lambda x: not x.is_integer()), st.floats(32, 2**20))
def test_between_rows_is_positive_and_marked(row_bits, rows):
    found = cost("sram", row_bits=row_bits, rows=rows)
    assert found.read_j > 0 and found.write_j > 0 and found.area_mm2 > 0
    assert "interpolated" in found.assumption


def test_interpolation_lies_between_its_neighbours():
    low, mid, high = (cost("sram", row_bits=4096, rows=r) for r in (32768, 50000, 65536))
    assert low.read_j < mid.read_j < high.read_j
    assert low.area_mm2 < mid.area_mm2 < high.area_mm2


def test_a_row_left_out_is_found_again():
    """Each inner row of the 45 nm table against the line between its neighbours, twice the grid's own distance."""
    errors = []
    for width in {r["row_bits"] for r in tables()["sram"]}:
        rows = [r for r in tables()["sram"] if (r["node_nm"], r["row_bits"]) == ("45", width)]
        points = [(float(r["rows"]), float(r["read_pj"])) for r in rows]
        for (x0, y0), (x1, y1), (x2, y2) in zip(points, points[1:], points[2:], strict=False):
            guess = y0 * (y2 / y0) ** (math.log(x1 / x0) / math.log(x2 / x0))
            errors.append(abs(guess / y1 - 1))
    # CACTI jumps where another organisation becomes cheaper; between such jumps the lines are straight.
    assert sorted(errors)[len(errors) // 2] < 0.06
    assert max(errors) < 0.35


def test_every_row_has_a_source():
    for name, rows in tables().items():
        for row in rows:
            assert row["source"], (name, row)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"component": "mack"}, "did you mean 'mac'"),
        ({"component": "mac", "node_nm": 5}, "no energy at 5 nm"),
        ({"component": "dram", "kind": "hbm9"}, "unknown kind of dram 'hbm9'"),
        ({"component": "sram", "row_bits": 64, "rows": 64, "node_nm": 3}, "no energy at 3 nm"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(HardwareError, match=message):
        cost(**call)


@pytest.mark.parametrize("component", ["sram", "registers"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            {"rows": math.inf, "row_bits": 64},
            "no capacity, .* write one, as in 'capacity: 16 MiB', or 'component: wires'",
        ),
        ({"rows": 64, "row_bits": 1e200}, r"expected at most 2\^50 of each"),
    ],
)
def test_a_memory_without_bounds_is_refused(component, shape, message):
    with pytest.raises(HardwareError, match=message):
        cost(component, **shape)
