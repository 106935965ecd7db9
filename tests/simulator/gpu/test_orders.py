"""Orders in which kernels hand out their blocks: each held against a list of blocks scheduled one by one."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mappings.gpu import KernelMapping, find_kernel_mapping
from mappings.grids import ORDERS
from mappings.tiles import TileMapping
from simulator.gpu.calibration import Key
from simulator.gpu.call import make_call
from simulator.gpu.efficiency import _TAIL, Efficiency, scheduled, times
from simulator.gpu.fitting import Group, together
from simulator.gpu.likeness import Joint
from simulator.gpu.model import lay
from simulator.gpu.waves import makespan_one_by_one
from simulator.hardware.gpu import find_gpu

H100 = find_gpu("h100")
TILE = TileMapping(query=128, key=128, warps=8, blocks_per_sm=1)
# Blocks take their tiles and nothing else.
PLAIN = KernelMapping("plain", "flash_attention", ("plain",), "tests", tiles=(TILE,), hides_ends=True)
IDEAL = Efficiency(scalar=1.0, launch_s=1e-9, block_cycles=0.0, memory=1e6)


def greedy(costs, slots):
    """One block after another to the slot that is free first."""
    free = [0.0] * slots
    for cost in costs:
        heapq.heappush(free, heapq.heappop(free) + cost)
    return max(free)


def blocks_of(order, *, batch, heads, query_tiles):
    """Key tiles of every block of a causal call: query tile i sees i + 1 of them. Written out loop by loop."""
    tiles = range(query_tiles)
    if order == "head_by_head":
        return [i + 1 for _, _, i in itertools.product(range(batch), range(heads), tiles)]
    if order == "sequence_by_sequence":
        return [i + 1 for _, i, _ in itertools.product(range(batch), reversed(tiles), range(heads))]
    assert order == "shortest_first"
    return [i + 1 for i, _, _ in itertools.product(tiles, range(batch), range(heads))]


def compute_s(order, *, exact=True, late=False, **sizes):
    call = make_call(seq_q=128 * sizes["query_tiles"], head_dim=128, causal=1, batch=sizes["batch"],
                     heads=sizes["heads"])  # fmt: skip
    laid = lay([call], H100, mapping=replace(PLAIN, order=order))
    laid = scheduled(laid, IDEAL) if late else laid
    return float(times(laid, IDEAL, exact=exact).compute_s[0])


sizes = st.fixed_dictionaries(
    {"batch": st.integers(1, 6), "heads": st.sampled_from([1, 2, 5, 16]), "query_tiles": st.integers(1, 24)}
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=200), st.integers(1, 40))
def test_one_by_one_is_the_event_driven_greedy(costs, slots):
    assert makespan_one_by_one(costs, slots=slots) == greedy(costs, slots)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["head_by_head", "sequence_by_sequence", "shortest_first"]), sizes)
def test_blocks_end_when_their_list_does(order, sizes):
    # A tile of 2048 cycles of products and 1024 of exponentials, two groups of 64 rows in turns.
    expected = greedy(blocks_of(order, **sizes), H100.sms) * (7168 / 3) / H100.clock_hz
    # 2 %: the longest of these calls takes 0.2 ms, in which load pulls the clock down by 0.2 %.
    assert compute_s(order, **sizes) == pytest.approx(expected, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ORDERS), sizes)
def test_a_launch_that_was_scheduled_beforehand_ends_when_its_blocks_do(order, sizes):
    assert compute_s(order, exact=False, late=True, **sizes) == pytest.approx(
        compute_s(order, **sizes), rel=1e-9
    )


def test_no_order_ends_before_the_work_is_done():
    sizes = {"batch": 3, "heads": 16, "query_tiles": 20}
    found = {order: compute_s(order, **sizes) for order in ORDERS}
    work = sum(blocks_of("head_by_head", **sizes)) / H100.sms * 2048 / H100.clock_hz
    assert min(found.values()) >= work
    # The longest first leave the least at the end; the longest last of all, the most.
    assert found["longest_first"] < found["sequence_by_sequence"] < found["shortest_first"]


@pytest.mark.parametrize(
    ("order", "deviation"), [("shortest_first", 0.17), ("head_by_head", 0.14), ("sequence_by_sequence", 0.28)]
)
def test_what_is_idle_at_the_end_of_many_waves_is_the_mean_of_random_launches(order, deviation):
    draw, found = np.random.default_rng(7), []
    while len(found) < 60:
        sizes = {"batch": int(2 ** draw.integers(0, 6)), "heads": int(draw.choice([1, 2, 4, 8, 16, 32])),
                 "query_tiles": int(draw.integers(4, 64))}  # fmt: skip
        slots = int(draw.choice([108, 132, 142, 148]))
        count = sizes["batch"] * sizes["heads"] * sizes["query_tiles"]
        if 16 * slots <= count <= 40 * slots:
            costs = [x + 1.5 for x in blocks_of(order, **sizes)]
            idle = greedy(costs, slots) - sum(costs) / slots
            found.append(idle / (max(costs) - sum(costs) / count))
    # Three standard errors of sixty launches.
    assert np.mean(found) == pytest.approx(_TAIL[order], abs=3 * deviation / 60**0.5)


def test_a_fit_of_many_rows_knows_the_order():
    """35 calls of four sequences: the closed form has them end up to a third too soon, and its fit is 8 % off."""
    mapping = replace(PLAIN, order="sequence_by_sequence")
    calls = [make_call(batch=4, heads=h, seq_q=128 * t, head_dim=128, causal=1) for h in (2, 3, 4, 6, 8)
             for t in range(12, 40, 4)]  # fmt: skip
    laid = lay(calls, H100, mapping=mapping)
    true = replace(IDEAL, scalar=0.6, launch_s=3e-6, block_cycles=1000.0, memory=0.8)
    known = Joint(
        np.log([[0.75, 3e-6, 1000.0, 0.8, 0.5]]), np.array([0.3, 1e-3, 1e-3, 1e-3, 1e-3])[:, None, None] ** 2
    )
    group = Group(
        Key("h100", "sm_90", "plain", "plain", 128, "bf16"), (laid,), (times(laid, true).latency_s,)
    )
    found = together([group], known=known)[0]
    # 1 %: blocks were scheduled with the constants known before.
    assert np.exp(found[0]) == pytest.approx(0.6, rel=0.01)


def test_published_orders_are_those_of_the_sources():
    served = {
        "vllm-0.24.0:vllm_flash_attn_fa3": "sequence_by_sequence",
        "sglang-0.5.14:triton": "shortest_first",
        "trtllm-1.3.0rc20:torch_flow": "head_by_head",
        "vllm-0.24.0:vllm_flash_attn_fa2": "head_by_head",
    }
    assert {n: find_kernel_mapping("flash_attention", n).order for n in served} == served
