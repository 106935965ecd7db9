"""Other nodes, other libraries, leakage and interfaces: against the published figures they are made from."""

from __future__ import annotations

import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappings
from einsum_cascade import zoo
from einsum_cascade.errors import HardwareError
from simulator import load_hardware, simulate
from simulator.hardware import scaling
from simulator.hardware.cost import cost, libraries
from simulator.hardware.reader import names
from simulator.spatial.area import area_mm2, assumptions, static_power_w

COMPONENTS = (
    ("mac", {}), ("add", {}), ("max", {}), ("divide", {}), ("exp", {}),
    ("registers", {"row_bits": 16, "rows": 12}), ("sram", {"row_bits": 4096, "rows": 32768}),
    ("sram", {"row_bits": 512, "rows": 5000}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("unit", "node_nm", "pj"),
    [
        # Jouppi et al., ISCA 2021, table 2, and Horowitz, ISSCC 2014: bfloat16 (16-bit) product and 32-bit sum
        ("mac", 7, 0.21 + 0.38),
        ("mul", 7, 0.21),
        ("add", 7, 0.11),
        ("mac", 45, 1.1 + 0.9),
        ("mul", 45, 1.1),
        ("add", 45, 0.4),
    ],
)
def test_published_operations(unit, node_nm, pj):
    found = cost(unit, node_nm=node_nm, library="horowitz")
    assert found.read_j * 1e12 == pytest.approx(pj, rel=1e-9)
    assert not found.assumption


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(COMPONENTS),
    st.tuples(st.integers(7, 45), st.integers(7, 45)),
    st.sampled_from(["accelergy", "horowitz"]),
)
def test_a_finer_node_never_costs_more(component, nodes, library):
    name, attributes = component
    if name == "sram" and 22 in nodes:
        return  # 22 nm has rows of its own from CACTI, beside the scaling of the others
    fine, coarse = (cost(name, node_nm=n, library=library, **attributes) for n in sorted(nodes))
    # energies are kept to 1e-6 pJ
    assert fine.read_j <= coarse.read_j + 1e-18 and fine.write_j <= coarse.write_j + 1e-18
    assert fine.area_mm2 <= coarse.area_mm2 * (1 + 1e-12)


def test_scaling_meets_the_published_ends():
    ratios = [
        0.007 / 0.03,
        0.03 / 0.1,
        0.16 / 0.4,
        0.38 / 0.9,
        0.07 / 0.2,
        1.48 / 3.1,
        0.34 / 1.1,
        1.31 / 3.7,
    ]
    product = 1.0
    for ratio in ratios:
        product *= ratio
    assert scaling.logic_energy(7) == pytest.approx(product ** (1 / 8), rel=1e-12)
    assert [scaling.sram_energy(size, 7) for size in (2**13, 2**15, 2**20)] == pytest.approx(
        [0.75, 0.425, 0.14]
    )
    assert scaling.sram_energy(2**24, 7) == scaling.sram_energy(2**20, 7)
    assert scaling.logic_energy(45) == scaling.sram_energy(2**15, 45) == scaling.area(45) == 1


def test_areas_agree_with_bit_cells():
    # 6T cells of foundries at IEDM: 0.346 um^2 at 45 nm (2007), 0.07 at 16 nm (2013), 0.027 at 7 nm (2016);
    # cells shrink a little less than logic, hence a quarter
    assert scaling.area(16) == pytest.approx(0.07 / 0.346, rel=0.25)
    assert scaling.area(7) == pytest.approx(0.027 / 0.346, rel=0.25)


def test_what_is_scaled_or_assumed_says_so():
    assert "scaled from 45 nm" in cost("mac", node_nm=16).assumption
    assert "scaled from 45 nm" in cost("sram", row_bits=4096, rows=32768, node_nm=16).assumption
    assert not cost("sram", row_bits=4096, rows=32768, node_nm=22).assumption
    assert "assumed" in cost("max", node_nm=7, library="horowitz").assumption
    assert "30 %" in cost("dram", row_bits=64, kind="lpddr5").assumption


@pytest.mark.parametrize("kind", ["hbm2", "hbm2e", "hbm3", "lpddr4", "lpddr5", "ddr4", "gddr6"])
def test_kinds_of_dram(kind):
    found = load_hardware("fusemax", {"memories.DRAM.kind": kind})
    cascade, mapping = zoo.load("gemm"), mappings.load("gemm")
    moved = simulate(cascade, {"K": 1024, "M": 1024, "N": 1024}, found, mapping)
    each = cost("dram", row_bits=8, kind=kind).read_j
    # counted in rows of 8 bytes, whose energy is kept to 1e-6 pJ
    assert moved.energy_by_component["DRAM"] == pytest.approx(moved.traffic_bytes * each, rel=1e-6)


@pytest.mark.parametrize("node_nm", [45, 22, 16, 7])
@pytest.mark.parametrize("name", names("spatial"))
def test_every_chip_at_every_node(name, node_nm):
    chip = load_hardware(name, node_nm=node_nm)
    assert sum(area_mm2(chip).values()) > 0


def test_leakage_is_a_switch():
    off, on = load_hardware("fusemax"), load_hardware("fusemax", leakage=True)
    # 4096 bits x 32768 rows at 45 nm; registers and units have no figure
    leak = cost("sram", row_bits=4096, rows=32768).leakage_w
    assert static_power_w(off) == 0
    assert static_power_w(on) == pytest.approx(leak) and leak > 0


def test_an_interface_costs_area_and_power_by_its_bandwidth():
    cascade, mapping = zoo.load("attention_1pass"), mappings.load("fusemax")
    sizes = {"B": 1, "H": 12, "E": 64, "F": 64, "P": 4096, "M": 4096}
    interface = {
        "memories.DRAM.interface_area": "0.1 mm^2*s/GB",
        "memories.DRAM.interface_power": "5 mW*s/GB",
        "memories.DRAM.bandwidth": "400 GB/s",
    }
    plain = simulate(
        cascade, sizes, load_hardware("fusemax", {"memories.DRAM.bandwidth": "400 GB/s"}), mapping
    )
    paid = simulate(cascade, sizes, load_hardware("fusemax", interface), mapping)
    twice = load_hardware("fusemax", {**interface, "memories.DRAM.bandwidth": "800 GB/s"})
    assert paid.area_mm2 - plain.area_mm2 == pytest.approx(40, rel=1e-9)
    assert paid.energy_j - plain.energy_j == pytest.approx(2 * paid.latency_s, rel=1e-6)
    assert area_mm2(twice)["DRAM"] == pytest.approx(80) and static_power_w(twice) == pytest.approx(4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memories.DRAM.interface_area": "-1 mm^2*s/GB"}, "expected zero or more"),
        ({"memories.GlobalBuffer.interface_area": "1 mm^2*s/GB"}, "need a bandwidth"),
        ({"memories.DRAM.interface_area": "1 mm^2"}, "expected a quantity like"),
    ],
)
def test_interfaces_that_are_refused(changes, message):
    with pytest.raises(HardwareError, match=message):
        load_hardware("fusemax", changes)


def test_power_and_area_of_a_real_chip_stay_within_what_is_published():
    """TPUv4i: 55 W idle, 175 W thermal design power, a die below 400 mm^2 (Jouppi et al., ISCA 2021, table 1)."""
    found = simulate(
        zoo.load("gemm"), {"K": 8192, "M": 8192, "N": 8192}, load_hardware("tpu_v4i"), mappings.load("gemm")
    )
    assert 2 * 8192**3 / found.latency_s == pytest.approx(138e12, rel=0.005)  # the paper rounds
    assert 55 < found.energy_j / found.latency_s < 175
    assert found.area_mm2 < 400


class _StandIn:
    """The public face of `hwcomponents_cacti.SRAM` and its DRAM classes, release 1.0.40: energies in J, area in m^2."""

    def __init__(self, tech_node=None, width=64, depth=None, size=None, n_rw_ports=1, n_banks=1):
        if tech_node is not None and depth is not None and size is None:
            raise TypeError(
                "must be real number, not NoneType"
            )  # as the release does: a depth asks for the size too
        self.tech_node, self.width, self.depth = tech_node, width, depth
        self.area, self.leak_power = 2e-6, 0.25

    def read(self):
        return types.SimpleNamespace(energy=self.width * 1e-15, latency=1e-9, throughput=1e9)

    def write(self):
        return types.SimpleNamespace(energy=self.width * 2e-15, latency=1e-9, throughput=1e9)


@pytest.fixture
def fresh():
    cost.cache_clear()
    yield
    cost.cache_clear()


def test_the_external_library_is_asked_for_memories(monkeypatch, fresh):
    module = types.ModuleType("hwcomponents_cacti")
    module.SRAM, module.HBM2 = _StandIn, _StandIn
    monkeypatch.setitem(sys.modules, "hwcomponents_cacti", module)
    found = cost("sram", row_bits=4096, rows=32768, node_nm=16, library="hwcomponents")
    assert (found.read_j, found.write_j) == pytest.approx((4096e-15, 8192e-15))
    assert (found.area_mm2, found.leakage_w) == pytest.approx((2.0, 0.25))
    assert "hwcomponents" in found.assumption
    assert cost("dram", row_bits=128, kind="hbm2", library="hwcomponents").write_j == pytest.approx(256e-15)
    # what the library lacks, and functional units, come from the tables
    assert cost("dram", row_bits=64, kind="ddr4", library="hwcomponents") == cost(
        "dram", row_bits=64, kind="ddr4"
    )
    assert cost("mac", library="hwcomponents") == cost("mac")


def test_the_external_library_itself(fresh):
    """Its CACTI made the rows of the table of 16 MiB, and the table was printed with six digits."""
    pytest.importorskip("hwcomponents_cacti", reason="needs Python 3.12 and hwcomponents-cacti")
    theirs = cost("sram", row_bits=4096, rows=32768, library="hwcomponents")
    ours = cost("sram", row_bits=4096, rows=32768)
    assert theirs.read_j == pytest.approx(ours.read_j, rel=1e-5)
    assert theirs.write_j == pytest.approx(ours.write_j, rel=1e-5)
    assert theirs.area_mm2 == pytest.approx(ours.area_mm2, rel=1e-5)
    assert theirs.leakage_w == pytest.approx(ours.leakage_w, rel=1e-5)
    smaller = cost("sram", row_bits=4096, rows=32768, node_nm=16, library="hwcomponents")
    assert smaller.read_j < theirs.read_j and smaller.area_mm2 < theirs.area_mm2
    for kind in ("lpddr4", "ddr3", "hbm3"):
        assert cost("dram", row_bits=64, kind=kind, library="hwcomponents").read_j == pytest.approx(
            cost("dram", row_bits=64, kind=kind).read_j
        )
    asked = simulate(
        zoo.load("gemm"),
        {"K": 512, "M": 512, "N": 512},
        load_hardware("fusemax", {"library": "hwcomponents"}),
        mappings.load("gemm"),
    )
    assert any("hwcomponents" in line for line in asked.assumptions)


def test_without_the_external_library(monkeypatch, fresh):
    monkeypatch.setitem(sys.modules, "hwcomponents_cacti", None)
    with pytest.raises(HardwareError, match="hwcomponents is not installed"):
        cost("sram", row_bits=64, rows=64, library="hwcomponents")
    with pytest.raises(HardwareError, match="unknown library 'horowtz'; did you mean 'horowitz'"):
        cost("mac", library="horowtz")
    assert libraries()[-1] == "hwcomponents"


def test_words_of_another_width_are_said():
    def said(word):
        found = assumptions(load_hardware("fusemax", word=word))
        return any("those of 16-bit words" in line for line in found)

    assert said("1 B") and said("4 B") and not said("2 B")
