"""The simulator as a whole: worked examples, what it refuses, and laws that hold for every mapping."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappings
from einsum_cascade import zoo
from einsum_cascade.errors import HardwareError, MappingError
from einsum_cascade.parser import parse
from einsum_cascade.sizes import parse_sizes
from simulator import load_hardware, simulate
from simulator.spatial.energy import actions, summed
from simulator.spatial.model import assemble, count_all, gathered, plan

ATTENTION = zoo.load("attention_1pass")
GEMM = zoo.load("gemm")
BERT = {"B": 64, "H": 12, "E": 64, "F": 64}
ON = {"fusemax": "fusemax", "fusemax_stalled": "fusemax", "fusemax_cascade": "flat"}


def at(length, **more):
    return {**BERT, "P": length, "M": length, **more}


def test_binding_by_hand():
    # FuseMax +Binding at 4K, E = F = 64, 16 key blocks: the 1-D array needs 2E + 10 + E/16 cycles for each of
    # 64 * 12 * 16 * 16 tiles of 256 x 256.
    found = simulate(ATTENTION, at(4096), load_hardware("fusemax"), mappings.load("fusemax"))
    assert found.latency_s == pytest.approx((128 + 10 + 4) * 64 * 12 * 16**2 / 940e6, rel=1e-12)
    assert found.traffic_bytes == 4 * 64 * 12 * 4096 * 64 * 2
    assert found.utilization["PE1D"] == pytest.approx(1, abs=1e-12)
    assert found.bound_by == "PE1D"
    assert found.tiles["P1"] == 16


def test_gemm_by_hand():
    # 1024^3 on 256 x 256: 16 tiles of 1024 cycles; A, B, C move once.
    found = simulate(GEMM, {"K": 1024, "M": 1024, "N": 1024}, load_hardware("fusemax"), mappings.load("gemm"))
    assert found.latency_s == pytest.approx(16 * 1024 / 940e6, rel=1e-12)
    assert found.traffic_bytes == 3 * 1024**2 * 2


def test_memory_bound_when_bandwidth_is_small():
    chip = load_hardware("fusemax", {"memories.DRAM.bandwidth": "1 GiB/s"})
    found = simulate(ATTENTION, at(4096), chip, mappings.load("fusemax"))
    assert found.bound_by == "DRAM"
    assert found.latency_s == pytest.approx(found.traffic_bytes / 2**30, rel=1e-12)


def test_static_power_is_energy_over_time():
    plain, leaky = load_hardware("fusemax"), load_hardware("fusemax", {"static_power": "10 W"})
    a, b = (simulate(ATTENTION, at(4096), c, mappings.load("fusemax")) for c in (plain, leaky))
    assert b.energy_j - a.energy_j == pytest.approx(10 * a.latency_s, rel=1e-9)


@pytest.mark.parametrize("mapping", ON)
@settings(max_examples=25, deadline=None)
@given(
    length=st.sampled_from([256, 512, 768, 1000, 1024, 4096, 65536]),
    width=st.sampled_from([32, 64, 80, 128]),
    heads=st.integers(1, 20),
)
def test_laws(mapping, length, width, heads):
    sizes = {"B": 1, "H": heads, "E": width, "F": width, "P": length, "M": length}
    chip = load_hardware(ON[mapping])
    found = simulate(ATTENTION, sizes, chip, mappings.load(mapping))
    compulsory = 4 * heads * length * width * chip.word_bytes
    assert found.traffic_bytes >= compulsory * (1 - 1e-12)
    assert all(0 <= u <= 1 + 1e-12 for u in found.utilization.values())
    assert all(m.busy <= 1 + 1e-12 for m in found.memories)
    assert sum(found.energy_by_component.values()) == pytest.approx(found.energy_j, rel=1e-12)
    assert sum(e.energy_j for e in found.einsums) == pytest.approx(found.energy_j, rel=1e-12)
    assert sum(found.area_by_component.values()) == pytest.approx(found.area_mm2, rel=1e-12)
    assert all(m.held_bytes <= m.capacity_bytes for m in found.memories)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1024, 4096, 16384]), st.sampled_from(["100 GiB/s", "400 GiB/s", "2 TiB/s"]))
def test_more_is_never_slower(length, bandwidth):
    def latency(**changes):
        chip = load_hardware("fusemax", {"memories.DRAM.bandwidth": bandwidth, **changes})
        return simulate(ATTENTION, at(length), chip, mappings.load("fusemax")).latency_s

    base = latency()
    assert latency(**{"memories.DRAM.bandwidth": "4 TiB/s"}) <= base
    assert latency(L3="64 MiB") <= base * (1 + 1e-12)
    assert latency(clock="1880 MHz") <= base


def test_energy_is_additive_over_actions():
    settled = plan(ATTENTION, at(1024), load_hardware("fusemax"), mappings.load("fusemax"))
    usages = count_all(settled)
    acts = actions(settled.chip, settled.layout.nests, usages, settled.sizes)
    moved = gathered(usages)
    whole = assemble(settled, moved, summed(acts))
    assert sum(a.energy_j for a in acts) == pytest.approx(whole.energy_j, rel=1e-12)
    without = assemble(settled, moved, summed(a for a in acts if a.component != "DRAM"))
    assert whole.energy_j - without.energy_j == pytest.approx(whole.energy_by_component["DRAM"], rel=1e-9)


def test_many_design_points_at_once_equal_one_by_one():
    heads = np.array([1.0, 3.0, 12.0])
    width = np.array([32.0, 64.0, 128.0])
    mapping = mappings.load("fusemax", {"P1": 2})
    chip = load_hardware("fusemax")
    many = simulate(ATTENTION, at(4096, H=heads, E=width, F=width), chip, mapping)
    for k in range(3):
        one = simulate(ATTENTION, at(4096, H=int(heads[k]), E=int(width[k]), F=int(width[k])), chip, mapping)
        for name in ("latency_s", "energy_j", "traffic_bytes"):
            assert getattr(many, name)[k] == pytest.approx(getattr(one, name), rel=1e-12)
        assert many.bound_by[k] == one.bound_by
        assert many.utilization["PE2D"][k] == pytest.approx(one.utilization["PE2D"], rel=1e-12)


def test_any_rank_names_work():
    """No name of an Einsum, tensor or rank means anything to the simulator."""
    text = zoo.load("gemm")
    renamed = parse(
        "cascade x\nrank U W Y\ninput L[U, W] R[U, Y]\noutput S[W, Y]\nS[w, y] = L[u, w] * R[u, y]\n"
    )
    mapping = mappings.load("gemm")
    nest = replace(
        mapping.nest,
        split={"W": ("W2", "W1", "W0"), "Y": ("Y2", "Y1", "Y0")},
        sizes={"W0": 256, "Y0": 256, "W1": "search(GlobalBuffer)", "Y1": "search(GlobalBuffer)"},
        nests={
            "S": replace(
                mapping.nest.nests["C"],
                time={"DRAM": ("W2", "Y2"), "GlobalBuffer": ("W1", "Y1", "U")},
                space=("W0", "Y0"),
            )
        },
    )
    binding = replace(
        mapping.binding,
        keep={**mapping.binding.keep, "GlobalBuffer": ("L", "R")},
        phases={"p": ({"PE2D": ("S",)},)},
    )
    chip = load_hardware("fusemax")
    a = simulate(text, {"K": 512, "M": 2048, "N": 1024}, chip, mapping)
    b = simulate(
        renamed, {"U": 512, "W": 2048, "Y": 1024}, chip, replace(mapping, nest=nest, binding=binding)
    )
    assert (a.latency_s, a.energy_j, a.traffic_bytes) == (b.latency_s, b.energy_j, b.traffic_bytes)


def changed(**fields):
    base = mappings.load("fusemax")
    nest = {k: v for k, v in fields.items() if hasattr(base.nest, k)}
    rest = {k: v for k, v in fields.items() if k not in nest}
    return replace(base, nest=replace(base.nest, **nest), binding=replace(base.binding, **rest))


BASE = mappings.load("fusemax")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": {**BASE.binding.keep, "L3": "all"}}, "fusemax has no memory 'L3'"),
        ({"keep": {**BASE.binding.keep, "DRAM": ("Q", "KK")}}, "attention_1pass has no tensor 'KK'"),
        ({"keep": {k: v for k, v in BASE.binding.keep.items() if k != "RF1D"}}, "no memory keeps"),
        ({"phases": {"p": ({"PE3D": ("QK",)},)}}, "fusemax has no array 'PE3D'; did you mean"),
        ({"phases": {"p": ({"PE2D": ("QQ",)},)}}, "attention_1pass has no Einsum 'QQ'"),
        ({"phases": {"p": ({"PE2D": ("QK",)},)}}, "no array does LM, RM"),
        ({"split": {"Z": ("Z1", "Z0")}}, "attention_1pass has no rank 'Z'"),
        ({"split": {"P": ("P2", "P1", "P0"), "M": ("A", "B")}}, "itself splits M into M1, M0"),
        ({"sizes": {"M0": 256, "P2": 3, "P0": 256}}, "P2 * P0 = 768 does not divide P = 4096"),
        ({"sizes": {**BASE.nest.sizes, "P0": 512}}, "P0 = 512 does not fit axis 0 of PE2D, 256 long"),
        ({"sizes": {**BASE.nest.sizes, "P1": "fit(L3)"}}, "fusemax has no memory 'L3'"),
        ({"sizes": {**BASE.nest.sizes, "P0": "256 / 3"}}, "a size is a whole number"),
        ({"sizes": {"M0": 256, "P1": 1}}, "give all parts of P but one; open are P2, P0"),
        ({"outer": ("B", "H", "P2")}, "rank M1: the loops run over none of it"),
        ({"outer": ("B", "H", "P2", "M1", "P1")}, "rank P: the loops run over P0, P1, P1, P2; expected"),
        ({"outer": ("B", "H", "P2", "M1", "X")}, "no rank or part 'X'"),
        (
            {"nests": {"QK": BASE.nest.nests["QK LM SLN SLD SLNV"]}},
            "nests has no loops for it, and no 'others'",
        ),
    ],
)
def test_what_is_refused(fields, message):
    with pytest.raises(MappingError) as caught:
        simulate(ATTENTION, at(4096), load_hardware("fusemax"), changed(**fields))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tile_that_does_not_fit():
    small = load_hardware("fusemax", L3="64 KiB")
    with pytest.raises(MappingError, match="no tile fits GlobalBuffer: the smallest"):
        simulate(ATTENTION, at(4096), small, mappings.load("fusemax"))
    with pytest.raises(MappingError, match="the tiles kept in GlobalBuffer take"):
        simulate(ATTENTION, at(65536), load_hardware("fusemax"), mappings.load("fusemax", {"P1": 256}))
    with pytest.raises(MappingError, match="the tiles kept in RF2D take"):
        simulate(ATTENTION, at(4096), load_hardware("fusemax", depth2=2), mappings.load("fusemax"))
    with pytest.raises(MappingError, match="no tile fits GlobalBuffer"):
        tiny = load_hardware("fusemax", L3="1 KiB")
        simulate(GEMM, {"K": 1024, "M": 1024, "N": 1024}, tiny, mappings.load("gemm"))


def test_wrong_kinds():
    with pytest.raises(MappingError, match="needs a spatial chip"):
        simulate(ATTENTION, at(4096), load_hardware("h100"), mappings.load("fusemax"))
    with pytest.raises(MappingError, match="needs a spatial mapping"):
        simulate(ATTENTION, at(4096), load_hardware("fusemax"), None)
    with pytest.raises(HardwareError, match="no energy at 5 nm"):
        simulate(ATTENTION, at(4096), load_hardware("fusemax", node_nm=5), mappings.load("fusemax"))


@pytest.mark.parametrize("wait", ["-5", "1 - QK", "1 / (QK - QK)", "1e400"])
def test_no_wait_below_zero_or_without_end(wait):
    base = mappings.load("gemm")
    mapping = replace(
        base,
        binding=replace(base.binding, phases={"all": ({"wait": (wait.replace("QK", "C"),)}, *_steps(base))}),
    )
    with pytest.raises(MappingError, match="wait: "):
        simulate(zoo.load("gemm"), {"K": 64, "M": 64, "N": 64}, load_hardware("fusemax"), mapping)


def test_words_that_would_say_nothing_are_refused():
    base, sizes = mappings.load("gemm"), {"K": 64, "M": 64, "N": 64}
    loops = replace(base.nest, nests={**base.nest.nests, "D": base.nest.nests["C"]})
    held = replace(base.binding, hold={"product": {"GlobalBuffer": {"X": ("K",)}}})
    for mapping, message in (
        (replace(base, nest=loops), "nests.D: gemm has no Einsum 'D'"),
        (replace(base, binding=held), "hold.product.GlobalBuffer: gemm has no tensor 'X'"),
    ):
        with pytest.raises(MappingError, match=message):
            simulate(zoo.load("gemm"), sizes, load_hardware("fusemax"), mapping)


def _steps(mapping):
    (steps,) = mapping.binding.phases.values()
    return steps


def test_an_array_without_the_operation():
    moved = {
        "p": (
            {"PE2D": ("QK", "SLN", "SLNV", "LM", "SLD")},
            {"PE1D": ("RM", "PRM", "SPD", "RD", "SPNV", "RNV", "AV")},
        )
    }
    with pytest.raises(MappingError, match="LM: PE2D cannot do 'max'"):
        simulate(
            ATTENTION,
            at(4096),
            load_hardware("flat"),
            changed(
                phases={
                    "p": (
                        {
                            "PE2D": ("QK", "LM"),
                            "PE1D": tuple(e.name for e in ATTENTION.einsums if e.name not in ("QK", "LM")),
                        },
                    )
                }
            ),
        )
    assert simulate(ATTENTION, at(4096), load_hardware("fusemax"), changed(phases=moved)).latency_s > 0


def test_sizes_of_a_user():
    sizes = parse_sizes("BERT/4K", ATTENTION)  # M0 is 64 there; the mapping's 256 wins
    found = simulate(ATTENTION, sizes, load_hardware("fusemax"), mappings.load("fusemax"))
    assert found.tiles["M0"] == 256
    assert (
        found.latency_s
        == simulate(ATTENTION, at(4096), load_hardware("fusemax"), mappings.load("fusemax")).latency_s
    )


def test_a_tile_that_a_user_states():
    machine, mapping = load_hardware("fusemax"), mappings.load("fusemax")
    plain = simulate(ATTENTION, "BERT/1K", machine, mapping)
    wanted = simulate(ATTENTION, "BERT/1K", machine, mappings.load("fusemax", {"M0": 128}))
    for stated in ("BERT/1K,M0=128", "BERT/1K,M1=8"):
        for sizes in (stated, parse_sizes(stated, ATTENTION)):
            found = simulate(ATTENTION, sizes, machine, mapping)
            assert found.tiles["M0"] == 128
            assert found.latency_s == wanted.latency_s > plain.latency_s


def test_printing():
    found = simulate(ATTENTION, at(4096), load_hardware("fusemax"), mappings.load("fusemax"))
    assert "bound by" in str(found)
    assert "SLNV" in found._repr_html_()
    fields = {
        "latency_s",
        "energy_j",
        "traffic_bytes",
        "area_mm2",
        "utilization",
        "bound_by",
        "einsums",
        "memories",
        "assumptions",
    }
    assert fields <= set(found.to_dict())
