"""Kernels described as grids: every number of the description against what the interpreter counts the kernel do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from examples import MORE
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import registry
from kernels.registry import Case
from mappings.gpu import find_kernel_mapping
from mappings.tiles import TileMapping
from simulator.gpu.loops import lay_grids
from simulator.gpu.model import predict
from simulator.gpu.sizes import call_of
from simulator.hardware.gpu import find_gpu
from tests.support.described import CALL, DESCRIBED, OURS
from tests.support.launches import launches_of

H100 = find_gpu("h100")
TILE = TileMapping(query=16, key=16)  # of a kernel in the interpreter
# What is another mapping of the kernel's name, and tiles other than those that the kernel chooses.
ELSEWHERE = {"normalise", "q_tile", "k_tile"}


def sizes_of(kernel: str, case: Case) -> dict[str, object]:
    """Return the sizes of a check as a call names them."""
    found = {"dtype": case.dtype, "batch": 1, **case.sizes}
    found |= {n: v for n, v in case.options.items() if n in ("chunk", "period", "block", "groups")}
    if kernel == "selected_attention":
        found = {"picks": 2, "block": 16} | found
        found["picks"] = min(found["picks"], -(-found["seq_kv"] // found["block"]))
    if kernel == "reversed_attention":
        found["share"] = 1
    if "channels" in found:
        pixels = found["height"] * found["width"]
        found = {"taps": 3} | found | {"heads": found.pop("channels"), "seq_q": pixels}
    if "rows" in found:
        word = {"fp32": 4, "fp16": 2, "bf16": 2}[case.dtype]
        found |= {"heads": 1, "seq_q": found.pop("rows"), "part_word": word}
    if "layout" in found:
        found |= sides_of(found.pop("layout"), case.options)
    known = {*find_kernel_mapping(kernel, OURS).parameters, "batch", "heads", "kv_heads", "seq_q", "seq_kv"}
    return {n: v for n, v in found.items() if n in known | {"head_dim", "dtype"}}


def sides_of(layout, options):
    """Return the axes of a neighborhood as a call names them: those that are not there have one token."""
    found = dict(zip(("width", "height", "depth"), (*layout[::-1], 1, 1), strict=False))
    for name, absent in (("window", 1), ("stride", 1), ("dilation", 1), ("causal", 0)):
        given = options.get(name) or (absent,) * len(layout)
        axes = zip("xyz", (*given[::-1], absent, absent), strict=False)
        found |= {f"{name}_{axis}": int(value) for axis, value in axes}
    return found | {"seq_q": math.prod(layout)}


def laid(kernel: str, case: Case, implementation: str = OURS):
    """Return the described launches of a check, in the interpreter's tile."""
    mapping = find_kernel_mapping(kernel, implementation)
    first = lay_grids([call_of(mapping, sizes_of(kernel, case))], H100, mapping=mapping, tile=TILE)
    return [first, *first.then]


def checks():
    """Yield two checks of every kernel that is described, one of them of halves where there is one."""
    for kernel in DESCRIBED:
        cases = [c for c in registry.load(registry.find(kernel).cases)() if not {*c.options} & ELSEWHERE]
        half = next(c for c in [*cases, cases[0]] if c.dtype != "fp32" or c is cases[-1])
        for case in {id(c): c for c in (cases[0], half, cases[-1])}.values():
            yield pytest.param(
                kernel, case, id=f"{kernel}-{case.dtype}-{'-'.join(map(str, case.sizes.values()))}"
            )


@pytest.mark.parametrize(("kernel", "case"), list(checks()))
def test_description_is_what_the_kernel_does(kernel, case):
    check_description(kernel, case, OURS)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_gradients_of_a_normaliser_are_described_too(dtype):
    """Under a name of their own, as they are more launches: weights shared, two sums taken off."""
    kernel, ours = "linear_attention_gradients", f"{OURS} normalised"
    cases = [c for c in registry.load(registry.find(kernel).cases)() if "normalise" in c.options]
    check_description(kernel, next(c for c in cases if c.dtype == dtype), ours)
    plain, normalised = (predict(kernel, on="h100", implementation=i, **CALL) for i in (OURS, ours))
    assert [len(p.launches) for p in (plain, normalised)] == [3, 7]
    assert normalised.latency_s > plain.latency_s


def check_description(kernel, case, implementation):
    """Hold every number of a description against what the interpreter counts."""
    described, counted = laid(kernel, case, implementation), launches_of(kernel, case)
    assert len(described) == len(counted) == described[0].mapping.launches
    for model, real in zip(described, counted, strict=True):
        # A kernel without a loop takes one step; a block of nothing but padding none, and is no block to the model.
        taken = real.steps if real.steps.any() else np.ones(real.programs)
        padding = (taken == 0).sum()
        assert model.blocks[0] == real.programs - padding, model.name
        assert padding == 0 or kernel.startswith("neighborhood_"), model.name
        steps = np.repeat(model.full[0] + model.masked[0], (model.runs[0] * model.copies[0]).astype(int))
        assert sorted(steps) == sorted(taken[taken > 0]), model.name
        products = dict(model.tile_times.pipes)["tensor"] * H100.tensor.of(case.dtype)
        assert products * steps.sum() == pytest.approx(real.product_flops.sum(), rel=1e-12), model.name
        moved = real.distinct_loaded_bytes + real.distinct_stored_bytes
        if kernel == "selected_attention":
            # What nobody picks is not read; the description says at most.
            assert moved <= model.bytes_moved[0] <= 1.5 * moved
        else:
            assert model.bytes_moved[0] == moved, model.name
            assert model.bytes_of_queries[0] == real.distinct_stored_bytes, model.name


@st.composite
def neighborhoods(draw):
    """A layout of one to three axes and everything that a call may say of it."""
    rank = draw(st.integers(1, 3))
    layout = tuple(draw(st.integers(2, {1: 40, 2: 11, 3: 6}[rank])) for _ in range(rank))
    dilation = tuple(draw(st.integers(1, min(3, n))) for n in layout)
    window = tuple(draw(st.integers(1, n // d)) for n, d in zip(layout, dilation, strict=True))
    stride = tuple(draw(st.integers(1, w)) for w in window)
    causal = tuple(draw(st.booleans()) for _ in layout)
    sizes = {"layout": layout, "heads": 2, "head_dim": 16}
    return Case(
        "fp32", sizes, {"window": window, "stride": stride, "dilation": dilation, "causal": causal}, ("grad",)
    )


@settings(max_examples=6 * MORE, deadline=None)
@given(neighborhoods())
def test_any_neighborhood_is_described_as_its_gradients_walk_it(case):
    check_description("neighborhood_attention_gradients", case, OURS)


WHOLE = [
    ("prefix_attention", {"heads": 2, "seq_q": 1, "seq_kv": 64, "head_dim": 32}, {}),
    ("channel_attention", {"heads": 2, "seq_q": 64, "seq_kv": 64, "head_dim": 32}, {}),
    ("reversed_attention", {"heads": 2, "seq_q": 32, "seq_kv": 64, "head_dim": 32}, {}),
    ("landmark_attention", {"heads": 2, "seq_q": 64, "seq_kv": 64, "head_dim": 32}, {"period": 16}),
    ("softplus_attention", {"heads": 2, "seq_q": 32, "seq_kv": 64, "head_dim": 32, "kv_heads": 1}, {}),
    ("reweighted_attention", {"heads": 2, "seq_q": 32, "seq_kv": 64, "head_dim": 32}, {}),
    ("neural_memory", {"heads": 2, "seq_q": 64, "seq_kv": 64, "head_dim": 32}, {"chunk": 16}),
    ("linear_attention", {"heads": 2, "seq_q": 64, "seq_kv": 64, "head_dim": 32}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "sizes", "options"), WHOLE, ids=[w[0] for w in WHOLE])
def test_steps_load_what_the_kernel_loads(kernel, sizes, options):
    # Sizes that tiles divide: elsewhere a cut tile loads less, and steps are described as whole.
    case = Case("bf16", sizes, options)
    for model, real in zip(laid(kernel, case), launches_of(kernel, case), strict=True):
        per_step = dict(model.tile_times.pipes)["l2"]
        rate = H100.l2_bandwidth_bytes_per_s / (H100.sms * H100.clock_hz) * 2.5
        asked = per_step * rate * model.counts[:2, 0].sum()
        # Queries and whatever else a block loads once stand outside its steps.
        once = real.loaded_bytes.sum() - asked
        assert -1e-6 <= once <= real.programs * 16 * (32 * 2 + 8), model.name
