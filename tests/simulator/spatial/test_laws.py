"""Laws of the best mapping, whatever the cascade and the chip: bounds hold, and more of anything is never slower."""

from __future__ import annotations

from dataclasses import replace

import strategies
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from einsum_cascade import zoo
from einsum_cascade.declarations import Iterate
from einsum_cascade.errors import MappingError
from simulator import load_hardware, simulate
from simulator.spatial.mapper import find_mapping, least_traffic_bytes

CASCADES = {
    "attention_3pass": {"E": 16, "F": 16, "M": 64, "P": 64},
    "attention_2pass": {"E": 16, "F": 8, "M": 48, "P": 24},
    "attention_1pass": {"E": 16, "F": 16, "M1": 4, "M0": 16, "M": 64, "P": 64},
    "channel_attention": {"C": 16, "D": 16, "T": 64},
    "gemm": {"M": 48, "N": 36, "K": 64},
}
ROUNDING = 1 + 1e-9  # sums of floats in another order


@st.composite
def machines(draw):
    """Settings of a chip: elements of an axis, buffer, bandwidth."""
    return {
        "N": draw(st.sampled_from([4, 8, 16])),
        "L3": draw(st.sampled_from([256, 1024, 4096, 16384])),
        "memories.DRAM.bandwidth": draw(st.sampled_from([2, 20, 200])),
    }


def chip(machine):
    return load_hardware(
        "fusemax",
        {
            "N": machine["N"],
            "L3": f"{machine['L3']} B",
            "memories.DRAM.bandwidth": f"{machine['memories.DRAM.bandwidth']} GiB/s",
        },
    )


def best(name, machine, objective="latency_s"):
    try:
        return find_mapping(zoo.load(name), CASCADES[name], chip(machine), objective=objective).estimate
    except MappingError as e:
        assert "fit" in str(e)
        return None


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(sorted(CASCADES)),
    machines(),
    st.sampled_from(["N", "L3", "memories.DRAM.bandwidth"]),
)
def test_more_is_never_slower(name, machine, what):
    plain = best(name, machine)
    assume(plain is not None)
    more = best(name, {**machine, what: 2 * machine[what]})
    assert more is not None and more.latency_s <= plain.latency_s * ROUNDING


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(sorted(CASCADES)), machines())
def test_no_resource_is_busy_longer_than_the_run(name, machine):
    found = best(name, machine)
    assume(found is not None)
    for m in found.memories:
        assert m.busy <= ROUNDING and m.held_bytes <= m.capacity_bytes
    cycles = {}
    for e in found.einsums:
        cycles[e.array] = cycles.get(e.array, 0.0) + e.time_s
    assert all(seconds <= found.latency_s * ROUNDING for seconds in cycles.values())
    assert sum(found.phases.values()) <= found.latency_s * ROUNDING


def unmasked(cascade):
    """The cascade without its predicates: the bounds of masks have tests of their own."""
    body = tuple(
        replace(item, einsums=tuple(replace(e, where=None) for e in item.einsums))
        if isinstance(item, Iterate)
        else replace(item, where=None)
        for item in cascade.body
    )
    return replace(cascade, body=body)


@settings(max_examples=8, deadline=None)
@given(strategies.uses(), st.sampled_from([2, 4]), st.sampled_from([64, 1024]))
def test_random_cascades_stay_above_the_bound_and_read_back(use, lanes, buffer_bytes):
    cascade, machine = unmasked(use.cascade), load_hardware("fusemax", N=lanes, L3=f"{buffer_bytes} B")
    try:
        found = find_mapping(cascade, use.sizes, machine, objective="traffic_bytes")
    except MappingError as e:
        assert "fit" in str(e) or "can do" in str(e) or "no loops" in str(e)
        return
    again = simulate(cascade, use.sizes, machine, found.mapping)
    assert again.to_dict() == found.estimate.to_dict()
    least = least_traffic_bytes(cascade, use.sizes, machine)
    assert found.estimate.traffic_bytes >= least * (1 - 1e-12)
