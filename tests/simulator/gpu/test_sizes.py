"""What a call of a kernel described as grids may say: a size that would change nothing is told, not passed over."""

from __future__ import annotations

import pytest

from einsum_cascade.errors import DataError, MappingError, ModelError
from mappings.gpu import KernelMapping, find_kernel_mapping
from mappings.grids import Grid, StepWork
from mappings.tiles import TileMapping
from simulator.gpu.model import predict
from simulator.gpu.sizes import call_of

OURS = "triton-cascade"
CALL = {"batch": 8, "heads": 16, "seq_q": 4096, "head_dim": 128}


def ours(kernel, **changed):
    return call_of(find_kernel_mapping(kernel, OURS), CALL | changed)


@pytest.mark.parametrize(
    ("kernel", "size", "words"),
    [
        ("channel_attention", {"window": 128}, "window=128: cascade_channel knows window=0 only; leave it out"),
        ("channel_attention", {"causal": 1}, "causal=1: cascade_channel knows causal=0 only; leave it out"),
        ("channel_attention", {"kv_heads": 4}, "kv_heads=4: cascade_channel knows kv_heads=16 only"),
        ("channel_attention", {"direction": "bwd"}, "direction=bwd: cascade_channel knows direction=fwd only"),
        ("channel_attention", {"direction": "fwdbwd"}, "direction=fwdbwd: cascade_channel knows direction=fwd"),
        ("channel_attention", {"kv_dtype": "fp8"}, "kv_dtype=fp8: cascade_channel knows kv_dtype=bf16 only"),
        ("channel_attention", {"seq_kv": 512}, "seq_kv=512: cascade_channel knows seq_kv=4096 only"),
        ("landmark_attention", {"causal": 0}, "causal=0: cascade_landmark knows causal=1 only; leave it out"),
        ("softplus_attention", {"causal": "no"}, "causal=0: cascade_softplus knows causal=1 only; leave it out"),
        ("linear_attention_gradients", {"direction": "fwd"}, "direction=fwd: cascade_linear_gradients knows"),
        ("efficient_channel_gate", {}, "head_dim=128: cascade_channel_gate knows head_dim=1 only; leave it out"),
        ("prefix_attention", {"seq_kv": 512}, "seq_q=4096: cascade_prefix knows seq_q=1 only; leave it out"),
    ],
)  # fmt: skip
def test_a_size_that_changes_nothing_is_told(kernel, size, words):
    with pytest.raises(DataError) as e:
        predict(kernel, on="h100", implementation=OURS, **CALL | size)
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("kernel", "size"),
    [
        ("channel_attention", {"window": 0, "kv_heads": 16, "seq_kv": 4096, "causal": 0, "kv_dtype": "bf16"}),
        ("channel_attention", {"window": 8192, "kv_heads": 0, "direction": "fwd", "causal": "False"}),
        ("landmark_attention", {"causal": 1, "window": None}),
        ("linear_attention_gradients", {"direction": "bwd"}),
        ("selected_attention", {"causal": 0, "kv_heads": 16}),
        ("selected_attention", {"causal": 1}),
    ],
)
def test_what_a_kernel_has_anyway_may_be_said(kernel, size):
    bare = predict(kernel, on="h100", implementation=OURS, **CALL)
    assert predict(kernel, on="h100", implementation=OURS, **CALL | size).latency_s == bare.latency_s


def test_a_gate_needs_no_head_and_a_scan_no_queries():
    gate = {"batch": 2, "heads": 64, "seq_q": 4096}
    assert predict("efficient_channel_gate", on="h100", **gate).latency_s > 0
    assert predict("efficient_channel_gate", on="h100", head_dim=0, **gate).latency_s > 0
    scan = {"batch": 2, "heads": 4, "head_dim": 64}
    keys = predict("prefix_attention", on="h100", seq_kv=4096, **scan)
    assert keys == predict("prefix_attention", on="h100", seq_q=4096, **scan)
    assert keys == predict("prefix_attention", on="h100", seq_q=1, seq_kv=4096, **scan)
    with pytest.raises(DataError, match="a call needs seq_q too"):
        predict("prefix_attention", on="h100", **scan)


@pytest.mark.parametrize(
    ("kernel", "size", "words"),
    [
        ("softplus_attention", {"seq_kv": 512},
         "cascade_softplus: expected at most as many queries as keys; found seq_kv=512, seq_q=4096"),
        ("reweighted_attention", {"seq_kv": 512}, "expected at most as many queries as keys"),
        ("neural_memory", {"chunk": 24}, "expected a chunk that is a power of two from 16; found chunk=24"),
        ("neural_memory", {"chunk": 8}, "expected a chunk that is a power of two from 16; found chunk=8"),
        ("selected_attention", {"block": 0}, "expected a block that is a power of two from 16; found block=0"),
        ("landmark_attention", {"period": 1}, "expected a period of 2 to 256 tokens; found period=1"),
        ("landmark_attention", {"period": "64K"}, "expected a period of 2 to 256 tokens; found period=65536"),
        ("efficient_local_gate", {"groups": 5, "head_dim": 1},
         "expected groups that divide the channels; found groups=5, heads=16"),
        ("efficient_local_gate", {"groups": 0, "head_dim": 1}, "cannot be computed"),
        ("selected_attention", {"picks": -4}, "picks: expected a number of at least 0, found -4"),
        ("selected_attention", {"picks": 1.5}, "picks: expected a whole number, found '1.5'"),
        ("selected_attention", {"picks": 0}, "expected a block that takes a step, found none for these sizes"),
    ],
)  # fmt: skip
def test_what_a_kernel_refuses_is_refused(kernel, size, words):
    with pytest.raises(ModelError) as e:
        predict(kernel, on="h100", implementation=OURS, **CALL | size)
    assert words in str(e.value)


def test_a_row_of_a_table_has_a_cell_for_everything():
    zeros = {"window": "0", "kv_heads": "16", "causal": "0", "direction": "fwd", "kv_dtype": "bf16"}
    scan = find_kernel_mapping("prefix_attention", OURS)
    call = call_of(scan, CALL | zeros | {"seq_kv": 4096}, remarks="clock_mhz=1700")
    assert (call.seq_kv, call.causal, call.window) == (4096, True, 0)
    gate = find_kernel_mapping("efficient_channel_gate", OURS)
    assert call_of(gate, CALL | {"head_dim": "0"}, remarks="taps=7").parameters == (("taps", 7.0),)


def own(**changed):
    grid = {"name": "g", "steps": "seq_q", "step": StepWork(fma="block_m"), "lanes": 1, **changed}
    tiles = (TileMapping(query=8, key=8),)
    return KernelMapping("mine", "mine", ("*",), "", tiles, grids=(Grid(**grid),), parameters={"width": 4})


def test_a_kernel_of_ones_own_that_forgets_a_size_is_told():
    with pytest.raises(DataError, match="batch=16: mine knows batch=1 only; leave it out"):
        predict("mine", on="h100", mapping=own(), batch=16, seq_q=64)
    assert predict("mine", on="h100", mapping=own(lanes="batch"), batch=16, seq_q=64).latency_s > 0
    # Tiles of several head dimensions: it chooses one of them.
    tiles = (TileMapping(query=8, key=8, head_dim=64), TileMapping(query=4, key=8, head_dim=256))
    by_head = KernelMapping("mine", "mine", ("*",), "", tiles, grids=own().grids)
    assert [call_of(by_head, {"seq_q": 64, "head_dim": d}).head_dim for d in (64, 128)] == [64, 128]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("block_m", "'block_m' means something else in an expression"),
        ("word", "'word' means something else"),
        ("i", "'i' means something else"),
        ("my width", "expected names of letters, digits and _, found 'my width'"),
    ],
)
def test_names_that_no_expression_could_tell_apart(name, words):
    with pytest.raises(ValueError, match=words):
        KernelMapping("m", "m", ("*",), "", (TileMapping(8, 8),), parameters={name: 4})


def test_a_need_that_names_nothing_is_told():
    mapping = KernelMapping(
        "m", "m", ("*",), "", (TileMapping(8, 8),), grids=own().grids, needs={"a": "seqq"}
    )
    with pytest.raises(MappingError, match="m: needs: unknown name 'seqq'; did you mean 'seq_q'"):
        call_of(mapping, {"seq_q": 64})
