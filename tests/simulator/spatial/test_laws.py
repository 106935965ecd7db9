"""Laws of the best mapping, whatever the cascade and the chip: bounds hold, and more of anything is never slower."""

from __future__ import annotations

import warnings

import mapping_walk
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from spatial_cascades import CASCADES
from strategies import Use, uses

import mappings
from einsum_cascade import zoo
from einsum_cascade.errors import MappingError
from einsum_cascade.parser import parse
from simulator import load_hardware, simulate
from simulator.spatial.mapper import find_mapping, least_traffic_bytes

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
        return find_mapping(
            zoo.load(name), CASCADES[name], chip(machine), objective=objective, slack=0.0
        ).estimate
    except MappingError as e:
        assert "fit" in str(e)
        return None


@settings(max_examples=4, deadline=None)
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


@settings(max_examples=4, deadline=None)
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


@st.composite
def chains(draw):
    """Products, sums and maxima of a few tensors, each read at the place where it was written."""
    shapes = {"A": "IJ", "B": "JK", "C": "I"}
    lines, read = [], set()
    for i in range(draw(st.integers(2, 5))):
        sources = draw(st.lists(st.sampled_from(sorted(shapes)), min_size=1, max_size=2, unique=True))
        space = "".join(sorted(set("".join(shapes[s] for s in sources))))
        result = "".join(r for r in space if draw(st.booleans()))
        reduced = ", ".join(r.lower() for r in space if r not in result)
        factors = " * ".join(f"{s}[{', '.join(shapes[s].lower())}]" for s in sources)
        how = f" :: {draw(st.sampled_from(['sum', 'max']))}({reduced})" if reduced else " + 1"
        lines.append(f"T{i}[{', '.join(result.lower())}] = {factors}{how}")
        shapes[f"T{i}"] = result
        read |= set(sources)
    given_ = " ".join(f"{t}[{', '.join(shapes[t])}]" for t in "ABC" if t in read)
    asked = " ".join(f"{t}[{', '.join(r)}]" for t, r in shapes.items() if t[0] == "T" and t not in read)
    head = f"cascade chain\nrank I J K\ninput {given_}\noutput {asked}\n"
    return parse(head + "\n".join(lines) + "\n")


@settings(max_examples=12, deadline=None)
@given(chains(), st.sampled_from([2, 4]), st.sampled_from([16, 64, 256]))
def test_random_cascades_stay_above_the_bound_and_read_back(cascade, lanes, buffer_bytes):
    machine, sizes = load_hardware("fusemax", N=lanes, L3=f"{buffer_bytes} B"), {"I": 8, "J": 6, "K": 4}
    try:
        found = find_mapping(cascade, sizes, machine, objective="traffic_bytes")
    except MappingError as e:
        assert "fit" in str(e)
        return
    again = simulate(cascade, sizes, machine, found.mapping)
    assert again.to_dict() == found.estimate.to_dict()
    least = least_traffic_bytes(cascade, sizes, machine)
    assert found.estimate.traffic_bytes >= least * (1 - 1e-12)
    walk = mapping_walk.Walk(cascade, sizes, machine, found.mapping)
    moved = sum(walk.reads.values()) + sum(walk.writes.values())
    assert moved * machine.word_bytes <= found.estimate.traffic_bytes


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(uses(), st.sampled_from([64, 256, 2**20]), st.sampled_from(["latency_s", "traffic_bytes"]))
def test_any_cascade_stays_above_its_bound(use: Use, buffer_bytes: int, objective: str) -> None:
    """Gathers, pads that leave the tensor, masks that leave nothing, states that are handed back."""
    machine = load_hardware("fusemax", N=2, L3=f"{buffer_bytes} B")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = find_mapping(use.cascade, use.sizes, machine, objective=objective)
    except MappingError as e:
        assert "fit" in str(e) or "nothing to do" in str(e)
        return
    assert found.gap >= 1 - 1e-12
    assert all(e.utilization >= 0 for e in found.estimate.einsums)  # 0 without points, never not-a-number


def moved_words(text, sizes):
    """Words through the outermost memory with a roomy buffer."""
    machine = load_hardware("fusemax", N=2, L3="1 MiB")
    found = find_mapping(parse(text), sizes, machine, objective="traffic_bytes")
    return found.estimate.traffic_bytes / machine.word_bytes


def test_a_sum_of_nothing_is_written():
    text = "cascade c\nrank M P\ninput K[M, P]\noutput O[P]\nO[p] = K[m, p] :: sum(m) where m < p - 2\n"
    # Rows 3 and 4 have one and two terms; rows 0 to 2 have none and are written as 0.
    assert moved_words(text, {"M": 4, "P": 5}) >= 3 + 5
    only = text.replace("m < p - 2", "m < 0")
    assert moved_words(only, {"M": 4, "P": 5}) == 5


def test_a_reader_that_skips_points_brings_nothing_for_others():
    text = "cascade c\nrank P\ninput K[P]\noutput O[P] U[P]\nO[p] = K[p] + 1 where p < 0\nU[p] = K[p] * 2\n"
    assert moved_words(text, {"P": 6}) == 6 + 6


def test_first_values_cross_the_boundary():
    text = (
        "cascade c\nrank I T\ninput A[I] B[T]\noutput R[T, I]\n"
        "R[0, i] = A[i]\niterate t {\nR[t + 1, i] = R[t, i] * B[t]\n}\n"
    )
    numbers = text.replace("= A[i]", "= 1").replace("A[I] ", "")
    sizes = {"I": 3, "T": 5}
    assert moved_words(text, sizes) == moved_words(numbers, sizes) + 3  # A is read
    # B once; five generations and the first value of three elements are handed back.
    assert moved_words(numbers, sizes) >= 5 + 3 * (5 + 1)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["fusemax", "fusemax_cascade", "unfused", "flat"]),
    st.integers(1, 3000),
    st.integers(1, 600),
)
def test_a_longer_rank_is_never_faster(mapping, length, more):
    """Whatever divides the number of queries: an axis takes them in as few steps as it can."""
    laid = mappings.load(mapping)
    machine = load_hardware(laid.binding.hardware)
    sizes = {"B": 1, "H": 2, "E": 64, "F": 64, "M": 1024}
    short, long = (
        simulate(zoo.load(laid.nest.cascade), {**sizes, "P": p}, machine, laid)
        for p in (length, length + more)
    )
    assert short.latency_s <= long.latency_s * (1 + 1e-12)
    assert short.energy_j <= long.energy_j * (1 + 1e-12)
