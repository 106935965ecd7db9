"""Kernels that compute something again, sums made in parts, running sums worked out many steps at a time."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import Use, uses

from einsum_cascade import evaluate, parse, zoo
from einsum_cascade.analysis.points import known_sizes
from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import ModelError
from mappings.grids import Grid
from simulator.gpu.call import make_call
from simulator.gpu.efficiency import Efficiency, times
from simulator.gpu.fusion.case import Case
from simulator.gpu.fusion.groups import Graph, Group, of_names
from simulator.gpu.fusion.held import held_of
from simulator.gpu.fusion.kernels import Kernel, mapping_of
from simulator.gpu.fusion.plan import Planner
from simulator.gpu.fusion.predict import kernels_of, predict_cascade
from simulator.gpu.fusion.scans import is_running
from simulator.gpu.fusion.structure import structure_of, units_of
from simulator.gpu.fusion.tiling import STEP, Tiling
from simulator.gpu.fusion.work import Work, work_of
from simulator.gpu.loops import TRIP_CYCLES, lay_grids
from simulator.gpu.model import predict
from simulator.hardware.gpu import find_gpu

H100 = find_gpu("h100")
LONG = "E=64,F=64,M=4K,P=4K,H=32"


def check_order(cascade: Cascade, kernels: list[Kernel]) -> None:
    """Run kernels over what is in memory: each has what it reads, and in the end what is asked for is there."""
    there = {s.tensor for s in cascade.inputs}
    for kernel in kernels:
        known = set(there)
        for name in kernel.einsums:
            reads = {a.tensor for a in cascade.einsum(name).reads if not cascade.reads_previous(a)}
            assert reads <= known | {name}
            known.add(name)
        assert kernel.written <= set(kernel.einsums)
        assert not kernel.written & there  # nothing is written twice
        there |= kernel.written
    assert {s.tensor for s in cascade.outputs} <= there


@pytest.mark.parametrize("way", ["fused", "eager"])
@pytest.mark.parametrize("name", zoo.names())
def test_kernels_run_in_an_order_in_which_each_has_what_it_reads(name, way):
    cascade = zoo.load(name)
    sizes = known_sizes(cascade, dict.fromkeys(cascade.free_ranks, 24))
    check_order(cascade, kernels_of(cascade, sizes, H100, implementation=way))


@settings(max_examples=40, deadline=None)
@given(use=uses())
def test_kernels_of_a_random_cascade_have_what_they_read(use: Use) -> None:
    sizes = known_sizes(use.cascade, use.sizes)
    try:
        kernels = kernels_of(use.cascade, sizes, H100)
    except ModelError:
        return
    check_order(use.cascade, kernels)


def test_three_passes_compute_scores_again_in_each_where_they_are_many():
    """Scores that go through memory five times take longer than two more products of 64 columns."""
    text = zoo.load("attention_3pass")
    found = kernels_of(text, LONG, H100)
    assert ["+".join(k.einsums) for k in found] == ["QK+GM", "QK+SN+SD", "QK+SN+A+AV"]
    assert [sorted(k.written) for k in found] == [["GM"], ["SD"], ["AV"]]
    once = predict_cascade(text, LONG, on="h100", kernels=[["QK", "GM"], ["SN", "SD", "A"], ["AV"]])
    again = predict_cascade(text, LONG, on="h100")
    passed = 2.0 * 32 * 4096 * 4096  # bytes of scores, of which QK is written and read, A too
    moved = [sum(each["bytes"] for each in p.launches) for p in (once, again)]
    inputs = 2.0 * 32 * 4096 * 64
    assert moved[0] == 4 * passed + 4 * inputs + 2.0 * 32 * 4096 * 2
    assert (
        moved[1] == 3 * 2 * inputs + 2 * inputs + 2.0 * 32 * 4096 * 5
    )  # GM is written once and read twice, SD once
    assert again.latency_s < once.latency_s


def test_the_first_kernel_that_names_an_einsum_writes_it():
    text = zoo.load("attention_3pass")
    found = kernels_of(text, LONG, H100, kernels=[["QK", "GM"], ["QK", "SN", "SD"]])
    written = {k.einsums: k.written for k in found}
    assert written == {
        ("QK", "GM"): {"GM"},
        ("QK", "SN", "SD"): {"SN", "SD"},
        ("A",): {"A"},
        ("AV",): {"AV"},
    }


def test_what_nobody_reads_any_more_is_not_computed():
    graph = Graph(zoo.load("attention_3pass"))  # QK GM SN SD A AV
    groups = of_names(graph, [["QK"], ["GM"], ["SN", "SD"], ["A", "AV"]])
    no_scores = graph.repeated(groups, 1, frozenset((0,)))
    assert Group(frozenset((0,))) in no_scores  # SN still reads them
    no_scores = graph.repeated(no_scores, no_scores.index(groups[2]), frozenset((0,)))
    # The scores are of two kernels now; the first of them would write them, were there a third that reads them.
    assert set(no_scores) == {
        Group(frozenset((0, 1))),
        Group(frozenset((2, 3)), frozenset((0,))),
        groups[3],
    }
    assert [sorted(w) for w in graph.written(no_scores)] == [["GM"], ["SD", "SN"], ["AV"]]


@pytest.mark.parametrize("on", ["h100", "l40s"])
@pytest.mark.parametrize("name", ["attention_3pass", "attention_2pass", "attention_differential", "eca"])
def test_what_may_compute_again_is_no_slower_than_what_may_not(name, on, monkeypatch):
    text = zoo.load(name)
    sizes = known_sizes(text, dict.fromkeys(text.free_ranks, 512))
    may = kernels_of(text, sizes, find_gpu(on))
    monkeypatch.setattr(Planner, "_repeated", lambda *_: iter(()))
    may_not = kernels_of(text, sizes, find_gpu(on))
    assert sum(len(k.einsums) for k in may_not) == len(text.einsums)
    launch_s = 3e-6
    assert sum(k.busy_s + launch_s for k in may) <= sum(k.busy_s + launch_s for k in may_not) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("name", "units", "parted"),
    [
        ("attention_3pass", ["QK", "GM"], "m"),
        ("attention_3pass", ["SN", "SD"], "m"),
        ("attention_3pass", ["SN", "SD", "A"], ""),  # A waits for the whole sum
        ("attention_3pass", ["QK"], "e"),
        ("attention_3pass", ["A", "AV"], "m"),
        ("gemm", ["C"], "k"),
        ("attention_1pass", ["QK"], ""),  # its steps follow each other
        ("attention_indexed", ["TOP"], ""),  # the best of parts need not be the best of all
    ],
)
def test_sums_that_blocks_may_share(name, units, parted):
    cascade = zoo.load(name)
    found = structure_of(cascade, [u for u in units_of(cascade) if u.names & set(units)])
    assert found.parted == parted


def test_a_sum_that_its_kernel_reads_is_of_one_block():
    text = "cascade c\nrank M P\ninput X[M, P]\noutput R[P]\nS[p] = X[m, p] :: sum(m)\nR[p] = 1 / S[p]\n"
    cascade = parse(text)
    units = units_of(cascade)
    assert structure_of(cascade, units[:1]).parted == "m"
    assert structure_of(cascade, units).walked == ("m",)
    assert structure_of(cascade, units).parted == ""


def works(name: str, sizes: str, units: list[str], parts: int) -> tuple[Tiling, Work]:
    cascade = zoo.load(name)
    known = known_sizes(cascade, sizes)
    found = structure_of(cascade, [u for u in units_of(cascade) if u.names & set(units)])
    tiling = Tiling(Case(cascade, known, 1, 2.0, True), found, {"m": 16, "n": 16, "p": 16}, parts=parts)
    written = frozenset(units[-1:])
    return tiling, work_of(tiling, H100, held=held_of(tiling, H100), group_rows=16, written=written)


@pytest.mark.parametrize("parts", [2, 8, 5])
def test_parts_of_a_sum_are_all_of_it(parts):
    """A product of 16 x 16 over 640: ten steps of 64, dealt out; what a block holds and asks for is its own part."""
    _, whole = works("gemm", "M=16,N=16,K=640", ["C"], 1)
    tiling, cut = works("gemm", "M=16,N=16,K=640", ["C"], parts)
    assert (whole.blocks, whole.steps, whole.partial) == (1, 10, 0.0)
    assert (cut.blocks, cut.steps, cut.partial) == (parts, -(-10 // parts), 256.0)
    assert cut.tensor * cut.blocks == whole.tensor == 2.0 * 16 * 16 * 640
    assert cut.loads * cut.blocks >= whole.loads == 2.0 * 2 * 16 * 640
    assert (cut.reads, cut.writes, cut.held) == (whole.reads, whole.writes, whole.held)
    assert tiling.most_parts == 10


def test_parts_are_added_up_by_a_second_kernel():
    """Three microseconds, and eight bytes for each element: written and read in fp32."""
    fixed = Efficiency(scalar=1.0, launch_s=0.0, block_cycles=0.0, memory=1.0, source="ideal")
    (kernel,) = kernels_of(zoo.load("gemm"), "M=16,N=4096,K=64K", H100)
    assert kernel.work.parts > 1
    laid = [
        lay_grids(
            [make_call(batch=1, heads=1, seq_q=1, head_dim=128)],
            H100,
            mapping=mapping_of([grid], [kernel.tile]),
            tile=kernel.tile,
        )
        for grid in (kernel.grid, _alone(kernel))
    ]
    cut, whole = (float(times(each, fixed).latency_s[0]) for each in laid)
    combine = 3e-6 + 8.0 * 16 * 4096 / H100.memory_bandwidth_bytes_per_s
    assert cut - whole == pytest.approx(combine, rel=1e-9)


def _alone(kernel: Kernel) -> Grid:
    return replace(kernel.grid, parts=1.0, partial=0.0)


def test_one_query_fills_the_chip_as_split_keys_do():
    """Decoding over 128K keys takes what memory does, from the text as from a kernel that splits keys."""
    text = predict_cascade(zoo.load("attention_3pass"), "E=128,F=128,M=128K,P=1,H=8", on="h100")
    read = 2 * 2.0 * 8 * 131072 * 128
    assert text.latency_s < 1.5 * read / H100.memory_bandwidth_bytes_per_s
    split = predict(
        "decode_attention", on="h100", batch=1, heads=8, kv_heads=8, seq_q=1, seq_kv=131072, head_dim=128
    )
    assert text.latency_s == pytest.approx(split.latency_s, rel=0.5)  # two reading kernels beside one


def after_steps(cascade: Cascade, sizes: dict[str, int], inputs: dict, first: dict) -> dict[str, np.ndarray]:
    """Return all generations of the states, from given first values: the text with those as inputs."""
    text = str(cascade)
    for state in first:
        signature = cascade.signatures[state]
        ranks = ", ".join(r for i, r in enumerate(signature.ranks) if i != signature.state)
        line = re.compile(rf"(?m)^({state}\[[^\]]*\])( *)= .*$")
        target = line.search(text).group(1)
        places = ", ".join(
            part.strip() for part in target[target.index("[") + 1 : -1].split(",") if part.strip() != "0"
        )
        text = line.sub(rf"\1\2= FIRST{state}[{places}]", text, count=1)
        text = re.sub(r"(?m)^(input .*)$", rf"\1  FIRST{state}[{ranks}]", text, count=1)
    given = inputs | {f"FIRST{name}": value for name, value in first.items()}
    return evaluate(parse(text), sizes, given, keep_all=True)


def steps_of(name: str) -> dict[str, bool]:
    """Tell of each state of a loop, by numbers, whether its last generation follows element by element from its first.

    With all else equal, changing an element changes no other, and what comes of the mean of two beginnings is the mean
    of what comes of each, or of their maximum the maximum.
    """
    cascade = zoo.load(name)
    sizes = known_sizes(cascade, dict.fromkeys(cascade.free_ranks, 3))
    numbers = np.random.default_rng(5)
    inputs = {s.tensor: numbers.uniform(0.2, 0.9, [sizes[r] for r in s.ranks]) for s in cascade.inputs}
    states = [e.name for u in units_of(cascade) for e in u.first]
    shape = {
        s: [sizes[r] for i, r in enumerate(cascade.signatures[s].ranks) if i != cascade.signatures[s].state]
        for s in states
    }
    base = {s: numbers.uniform(0.1, 1.0, shape[s]) for s in states}
    out = {}
    for state in states:
        axis = cascade.signatures[state].state

        def last(value, state=state, axis=axis):
            return np.take(after_steps(cascade, sizes, inputs, base | {state: value})[state], -1, axis=axis)

        a, b = base[state], numbers.uniform(0.1, 1.0, shape[state])
        found = last(a), last(b)
        mean = np.allclose(last((a + b) / 2), (found[0] + found[1]) / 2, rtol=1e-9)
        larger = np.allclose(last(np.maximum(a, b)), np.maximum(*found), rtol=1e-9)
        one = a.copy()
        one.flat[0] += 0.37
        others = (last(one) != found[0]).reshape(-1)[1:]
        out[state] = (mean or larger) and not others.any()
    return out


LOOPS = [n for n in zoo.names() if any(u.first for u in units_of(zoo.load(n)))]


@pytest.mark.parametrize("name", [n for n in LOOPS if n not in ("semantic_encoder", "ipot")])
def test_running_sums_follow_element_by_element(name):
    cascade = zoo.load(name)
    running = all(is_running(cascade, u.einsums) for u in units_of(cascade) if u.first)
    if running:
        assert all(steps_of(name).values())


@pytest.mark.parametrize("name", ["deltanet", "lstm", "rwkv7", "titans", "gated_deltanet"])
def test_what_mixes_its_elements_is_no_running_sum(name):
    cascade = zoo.load(name)
    assert not all(steps_of(name).values())
    assert not any(is_running(cascade, u.einsums) for u in units_of(cascade) if u.loop)


@pytest.mark.parametrize(
    ("step", "running"),
    [
        ("S[t, f] + X[t, f]", True),
        ("X[t, f] - S[t, f] * X[t, f]", True),
        ("max(S[t, f], X[t, f])", True),
        ("S[t, f] / X[t, f]", True),
        ("X[t, f] / S[t, f]", False),
        ("S[t, f] * S[t, f]", False),
        ("exp(S[t, f])", False),
        ("max(S[t, f], X[t, f]) + X[t, f]", False),
        ("max(2 * S[t, f], X[t, f])", False),
        ("S[t, F - 1 - f] + X[t, f]", False),
    ],
)
def test_steps_of_first_order(step, running):
    text = f"cascade c\nrank F T\ninput X[T, F]\noutput S[F]\nS[0, f] = 0\niterate t {{\n  S[t + 1, f] = {step}\n}}\n"
    text = text.replace("output S[F]", "output Y[F]") + "Y[f] = S[T, f]\n"
    cascade = parse(text)
    (loop,) = (u for u in units_of(cascade) if u.loop)
    assert is_running(cascade, loop.einsums) is running


def test_a_loop_that_is_none_waits_for_memory_in_each_step():
    sizes = "E=64,F=64,T=4K,H=32"
    (step,) = kernels_of(zoo.load("deltanet"), sizes, H100)
    assert step.busy_s >= 4096 * TRIP_CYCLES / H100.clock_hz
    (running,) = kernels_of(zoo.load("gated_linear"), sizes, H100)
    assert running.work.steps == 4096 // STEP
    assert running.busy_s < step.busy_s
    # What is held of 64 steps is 64 times as much: a tile of fewer columns.
    assert running.work.held.fits(H100)


def test_what_is_computed_again_may_take_the_place_of_something_else():
    """Twice the SMs made scores go through memory: a maximum that each pass computed again kept it from making them."""
    text = zoo.load("attention_sink_logit")
    sizes = {"E": 64, "F": 64, "H": 64, "M": 1024, "P": 1536}
    gpu = find_gpu("l40s")
    few, many = (
        sum(k.busy_s + 3e-6 for k in kernels_of(text, sizes, each))
        for each in (gpu, replace(gpu, sms=2 * gpu.sms))
    )
    assert many <= few * 1.003
