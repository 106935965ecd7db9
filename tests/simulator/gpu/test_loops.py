"""Kernels described as grids: every number of the description against what the interpreter counts the kernel do."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import DataError, MappingError
from kernels import registry
from kernels.registry import Case
from mappings.gpu import KernelMapping, find_kernel_mapping, kernel_mappings
from mappings.grids import Grid, StepWork, padded, value_of
from mappings.tiles import TileMapping
from simulator.gpu.efficiency import Efficiency, times
from simulator.gpu.grid import predict_grid
from simulator.gpu.loops import lay_grids
from simulator.gpu.model import predict
from simulator.gpu.sizes import call_of
from simulator.hardware.gpu import find_gpu
from tests.support.launches import launches_of

H100 = find_gpu("h100")
TILE = TileMapping(query=16, key=16)  # of a kernel in the interpreter
OURS = "triton-cascade"
# Of this package; those of other people cannot be watched in the interpreter.
DESCRIBED = sorted({m.kernel for m in kernel_mappings() if m.grids and m.name.startswith("cascade_")})

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


@settings(max_examples=12, deadline=None)
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


CALL = {"batch": 8, "heads": 16, "seq_q": 4096, "head_dim": 128, "dtype": "bf16"}


def usual(kernel):
    """Return a call of a kernel; a gate has no heads, only channels."""
    return {n: v for n, v in CALL.items() if n != "head_dim" or not kernel.endswith("_gate")}


@pytest.mark.parametrize("kernel", DESCRIBED)
@pytest.mark.parametrize("on", ["a100", "l40s", "h100", "b200", "b300", "rtx pro 6000"])
def test_every_described_kernel_is_predicted_everywhere(kernel, on):
    p = predict(kernel, on=on, implementation=OURS, **usual(kernel))
    assert 0.5 * p.latency_s >= p.low_s > 0 and p.high_s >= 2.0 * p.latency_s
    assert p.latency_s > p.roofline_s
    assert p.latency_s == pytest.approx(p.parts_s["launch"] + sum(each["latency_s"] for each in p.launches))
    assert len(p.launches) == len(find_kernel_mapping(kernel, OURS).grids)
    assert p.resources["resources"].startswith("compiled")
    assert "of another kernel" in p.scalar_source


@pytest.mark.parametrize("kernel", DESCRIBED)
def test_more_work_takes_longer(kernel):
    call = usual(kernel)
    once = predict(kernel, on="h100", implementation=OURS, **call).latency_s
    for size in ("batch", "heads", "seq_q"):
        more = predict(kernel, on="h100", implementation=OURS, **call | {size: 2 * call[size]}).latency_s
        assert more > once, size


def test_parameters_change_what_they_should():
    few = predict("selected_attention", on="h100", picks=4, **CALL)
    many = predict("selected_attention", on="h100", picks=16, **CALL)
    assert many.tiles["full"] == 4 * few.tiles["full"]
    short = predict("neural_memory", on="h100", chunk=16, **CALL)
    assert short.launches[0]["blocks"] == 8 * 16 * 4096 // 16
    # A size that the mapping derives from others where it is not given.
    square = predict("efficient_local_gate", on="h100", batch=2, heads=64, seq_q=4096)
    assert square == predict("efficient_local_gate", on="h100", batch=2, heads=64, seq_q=4096, height=64)


def test_products_that_wait_set_the_time_of_few_blocks():
    mapping = find_kernel_mapping("neural_memory", OURS)
    alone = lay_grids([call_of(mapping, CALL | {"batch": 1, "heads": 1})], H100, mapping=mapping)
    memory = alone.then[0]
    assert memory.chain_cycles == 2 * 93.0
    steps_s = 4096 / 32 * 186.0 / H100.clock_hz
    constants = Efficiency(1e6, launch_s=0.0, block_cycles=0.0, memory=1e6)
    assert float(times(memory, constants).latency_s[0]) >= steps_s


OWN = """
kind: gpu
name: mine
kernel: row_sums
source: "my kernel, read by hand"
implementations: ["*"]
parameters: {columns: 1024}
tiles: [{query: 8, key: 256, warps: 4, blocks_per_sm: 8}]
grids:
  - name: sums
    blocks: cdiv(seq_q, block_m)
    lanes: batch
    steps: cdiv(columns, block_n)
    step: {fma: block_m * block_n, loads: block_m * block_n * word}
    reads: batch * seq_q * columns * word
    writes: batch * seq_q * word
"""


def test_a_kernel_of_the_users_own_is_predicted_from_its_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(OWN)
    sizes = {"batch": 64, "heads": 1, "seq_q": 65536, "head_dim": 1, "columns": 4096, "dtype": "fp16"}
    p = predict("row_sums", on="h100", mapping=file, **sizes)
    assert p.bound_by == "memory"
    # 2^34 elements of 2 bytes at 3.35 TB/s.
    assert p.roofline_s == pytest.approx((2**34 * 2 + 2**22 * 2) / 3.35e12, rel=1e-3)
    assert p.roofline_s < p.latency_s < 2 * p.roofline_s
    assert p.launches[0]["blocks"] == 64 * 8192


def test_parts_of_an_expression_have_names(tmp_path):
    """Of a triangle of tiles: block i takes i + 1 steps, as with the expression written out."""
    plain, named = tmp_path / "plain.yaml", tmp_path / "named.yaml"
    cells = "    steps: cdiv(columns, block_n)\n"
    plain.write_text(OWN.replace(cells, "    steps: min(i, cdiv(columns, block_n)) + 1\n"))
    parts = "    let: {most: 'cdiv(columns, block_n)', mine: 'min(i, most)'}\n"
    named.write_text(OWN.replace(cells, f"{parts}    steps: mine + 1\n    masked: min(most, 1)\n"))
    sizes = {"batch": 64, "heads": 1, "seq_q": 1024, "head_dim": 1, "dtype": "fp16"}
    first, second = (predict("row_sums", on="h100", mapping=file, **sizes) for file in (plain, named))
    assert sum(second.tiles.values()) == sum(first.tiles.values()) == 64 * (1 + 2 + 3 + 4 + 5 * 124)
    assert second.tiles["masked"] == 64 * 128
    for name, told in (("word", "let: 'word' means something else"), ("heads", "'heads' is a size of every")):
        plain.write_text(OWN.replace(cells, f"    let: {{{name}: 2}}\n{cells}"))
        with pytest.raises(MappingError, match=told):
            predict("row_sums", on="h100", mapping=plain, **sizes)
    plain.write_text(OWN.replace(cells, "    let: {most: 'cdiv(colums, block_n)'}\n    steps: most\n"))
    with pytest.raises(MappingError, match=r"let.most: unknown name 'colums'"):
        predict("row_sums", on="h100", mapping=plain, **sizes)


def test_rows_of_its_own_calibrate_a_described_kernel(tmp_path):
    sizes = {
        "batch": 16,
        "heads": 16,
        "seq_q": 4096,
        "seq_kv": 4096,
        "head_dim": 128,
        "causal": 1,
        "dtype": "bf16",
    }
    guess = predict("landmark_attention", on="h100", implementation=OURS, period=32, **sizes)
    names = "source,device,kernel,implementation,direction,dtype,batch,heads,seq_q,seq_kv,head_dim,causal"
    row = f"test,H100 SXM,landmark_attention,{OURS},fwd,bf16,16,16,4096,4096,128,1,"
    file = tmp_path / "rows.csv"
    file.write_text(f"{names},extra,latency_ms\n{row}period=32; clock_mhz=1700,{guess.latency_s * 1.5e3}\n")
    p = predict("landmark_attention", on="h100", implementation=OURS, calibration=file, period=32, **sizes)
    # One row and what was known before: nearly all of the way.
    assert p.latency_s == pytest.approx(1.5 * guess.latency_s, rel=0.05)
    assert p.high_s / p.latency_s < guess.high_s / guess.latency_s
    # The row is of blocks of 32: of other blocks it says what it says of the constants.
    other = predict(
        "landmark_attention", on="h100", implementation=OURS, calibration=file, period=64, **sizes
    )
    assert other.latency_s > predict("landmark_attention", on="h100", implementation=OURS, **sizes).latency_s


def described(**changed):
    grid = {"name": "g", "steps": "seq_q", "step": StepWork(fma="block_m"), "lanes": 1} | changed
    return KernelMapping("m", "k", ("*",), "", (TileMapping(query=8, key=8),), grids=(Grid(**grid),))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": "seqq"}, "m: grids.g: steps: unknown name 'seqq'; did you mean 'seq_q'"),
        ({"steps": "seq_q -"}, "steps: 'seq_q -' is not an expression"),
        ({"steps": "2 - seq_q"}, "steps: '2 - seq_q' is -14; expected a finite number of at least zero"),
        ({"steps": "seq_q / 0"}, "steps: 'seq_q / 0' cannot be computed"),
        ({"masked": "seq_q + i + 1"}, "masked: expected no more than steps"),
        ({"blocks": "2 ** 40"}, "blocks: expected at most 2,147,483,647, found 1,099,511,627,776"),
        ({"blocks": "i + 2 ** 23", "steps": "i"}, "blocks: unknown name 'i'"),
        ({"blocks": "2 ** 23", "steps": "i"}, "blocks: expected at most 4,194,304, found 8,388,608"),
        ({"blocks": 0}, "m: grids.g: expected a block that takes a step, found none for these sizes"),
        ({"lanes": 0}, "m: grids.g: expected a block that takes a step, found none for these sizes"),
        ({"steps": "i * 0"}, "m: grids.g: expected a block that takes a step, found none for these sizes"),
        ({"blocks": "seq_q / 64"}, "blocks: 'seq_q / 64' is 0.25; expected whole numbers, as of cdiv(a, b)"),
        ({"steps": "seq_q / 64"}, "steps: 'seq_q / 64' is 0.25; expected whole numbers"),
        ({"lanes": 1.5}, "lanes: '1.5' is 1.5; expected whole numbers"),
        ({"steps": "cdiv(seq_q)"}, "steps: 'cdiv' takes 2 value(s), found 1"),
        ({"steps": "ceil(seq_q, 2)"}, "steps: 'ceil' takes 1 value(s), found 2"),
        ({"steps": "floor(seq_q, 2)"}, "steps: 'floor' takes 1 value(s), found 2"),
        ({"steps": "(0 - seq_q) ** 0.5"}, "is nan; expected a finite number"),
        (
            {"reads": "10 ** 64 * 10 ** 64 * 10 ** 64 * 10 ** 64 * 10 ** 64"},
            "is inf; expected a finite number",
        ),
        ({"reads": "max(1e308 * 10, 1)"}, "is inf; expected a finite number"),
        ({"step": StepWork(fma="seq_q")}, "step: expected calls whose steps are alike; found different ones"),
        ({"compiled": "nobody/knows"}, ""),
    ],
)
def test_what_a_description_gets_wrong_is_told(changed, words):
    mapping = described(**changed)

    def lay():
        calls = [call_of(mapping, {"batch": 1, "heads": 1, "seq_q": n}) for n in (16, 32)]
        return lay_grids(calls, H100, mapping=mapping)

    if not words:  # the mapping's own tile serves
        assert lay().tile.query == 8
        return
    with pytest.raises(MappingError) as e:
        lay()
    assert words in str(e.value)


def test_any_whole_number_is_read():
    mapping = described(reads="10 ** 40", blocks="2 ** 31 - 1")
    (bytes_moved,) = lay_grids([call_of(mapping, {"seq_q": 16})], H100, mapping=mapping).bytes_moved
    assert bytes_moved == 1e40


def test_steps_that_do_nothing_cost_nothing():
    """A kernel that only stores has blocks, and steps without work."""
    p = predict("k", on="h100", mapping=described(step=StepWork(), blocks=1024, writes=1e9), seq_q=1)
    assert p.bound_by == "memory"
    assert p.latency_s < 2 * p.roofline_s


def test_as_many_blocks_as_a_grid_holds_take_no_room():
    call = {"batch": 1, "heads": 1, "seq_q": 2**26, "head_dim": 64}
    mapping = find_kernel_mapping("selected_attention", OURS)
    tracemalloc.start()
    laid = lay_grids([call_of(mapping, call)], H100, mapping=mapping)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20
    assert laid.blocks[0] == 2**26


def test_calls_laid_together_are_those_laid_alone():
    mapping = find_kernel_mapping("softplus_attention", OURS)
    calls = [call_of(mapping, CALL | {"seq_q": n, "batch": b}) for n, b in ((1, 1), (5000, 2), (30_000, 64))]
    together = times(lay_grids(calls, H100, mapping=mapping), Efficiency(0.6)).latency_s
    for call, found in zip(calls, together, strict=True):
        (alone,) = times(lay_grids([call], H100, mapping=mapping), Efficiency(0.6)).latency_s
        assert found == pytest.approx(alone, rel=1e-12)


def test_a_launch_is_bound_by_what_binds_it():
    # Each byte is read once: memory, whatever pipe is the busiest of an SM.
    scan = predict("prefix_attention", on="h100", batch=64, heads=16, seq_kv=8192, head_dim=128)
    assert (scan.bound_by, scan.launches[0]["bound_by"]) == ("memory", "memory")
    # A chain of products on a chip that is full and has little else to do.
    for chain, bound in ((0, "fma"), (4, "chain")):
        mapping = described(step=StepWork(fma=1280, chain=chain), blocks=2**16)
        assert predict("k", on="h100", mapping=mapping, seq_q=4096).launches[0]["bound_by"] == bound
    few = predict("k", on="h100", mapping=described(step=StepWork(chain=4)), seq_q=4096)
    assert few.launches[0]["bound_by"] == "waves"


def test_gradients_described_as_forward_launches_cost_what_those_cost():
    """Blocks of the gradients of attention cost far more than a block's tiles; those of a grid say what they do."""
    one = {"batch": 8, "heads": 16, "seq_q": 1, "head_dim": 128}
    forward = predict("linear_attention", on="h100", implementation=OURS, **one).latency_s
    gradients = predict("linear_attention_gradients", on="h100", implementation=OURS, **one).latency_s
    assert gradients == pytest.approx(3 * forward, rel=0.1)


@pytest.mark.parametrize("kernel", ["squeeze_excite_gate", "efficient_local_gate", "prefix_attention"])
def test_a_grid_of_predictions_is_the_single_ones(kernel):
    extra = {"head_dim": 64} if kernel == "prefix_attention" else {}
    table = predict_grid(
        kernel, on="h100", implementation=OURS, seq=[256, 4096], heads=[16, 512, 4096], **extra
    )
    for row in table.to_dict("records"):
        sizes = {"batch": 1, "heads": row["heads"], "seq_q": row["seq"], **extra}
        alone = predict(kernel, on="h100", implementation=OURS, **sizes)
        assert 0.8 * alone.latency_s <= row["latency_s"] <= alone.latency_s * (1 + 1e-9)
        assert row["roofline_s"] == pytest.approx(alone.roofline_s)


def test_rows_whose_steps_differ_calibrate_together(tmp_path):
    names = "source,device,kernel,implementation,direction,dtype,batch,heads,kv_heads,seq_q,seq_kv,head_dim,causal"
    file = tmp_path / "rows.csv"
    call = CALL | {"batch": 16, "heads": 64}
    rows = [f"t,H100 SXM,selected_attention,{OURS},fwd,bf16,16,64,{h},4096,4096,128,1" for h in (2, 64)]
    found = [
        predict("selected_attention", on="h100", implementation=OURS, **call, kv_heads=h) for h in (2, 64)
    ]
    lines = [f"{r},picks=16; block=64,{1.3e3 * p.latency_s}" for r, p in zip(rows, found, strict=True)]
    file.write_text("\n".join([f"{names},extra,latency_ms", *lines]) + "\n")
    p = predict("selected_attention", on="h100", implementation=OURS, calibration=file, **call)
    assert p.latency_s == pytest.approx(1.3 * found[1].latency_s, rel=0.1)
    assert "calibrated on 2 row(s)" in p.scalar_source


def test_what_was_not_compiled_is_told():
    with pytest.raises(
        MappingError,
        match=r"grids\.weights: 'channel_attention/weights' was not compiled for fp8 on sm_90; "
        "expected bf16 or fp16 or fp32, or a mapping with tiles",
    ):
        predict("channel_attention", on="h100", **CALL | {"dtype": "fp8"})
    turing = replace(H100, name="old", target="sm_75")
    with pytest.raises(
        MappingError, match="for bf16 on sm_75; expected a GPU of sm_100, sm_120, sm_80, sm_90"
    ):
        predict("channel_attention", on=turing, **CALL)
    with pytest.raises(DataError, match="unknown size 'picked' of a call; did you mean 'picks'"):
        predict("selected_attention", on="h100", picked=3, **CALL)
    with pytest.raises(ValueError, match="order: expected one of"):
        described(order="random")


def test_functions_of_expressions():
    assert padded(np.array([1, 16, 17, 100])).tolist() == [16, 16, 32, 128]
    names = {"a": np.arange(1, 5), "b": 3}
    assert value_of("cdiv(a, b)", names, where="x").tolist() == [1, 1, 1, 2]
    assert value_of("min(a, b, 2)", names, where="x").tolist() == [1, 2, 2, 2]
    assert value_of("ceil(a / b) + max(a, b)", names, where="x").tolist() == [4, 4, 4, 6]


def test_what_is_assumed_of_waiting_products_is_said():
    told = predict("neural_memory", on="h100", **CALL).assumptions
    assert any("186 cycles at the least, 93 for each product" in text for text in told)
    assert not any(
        "cycles at the least" in text for text in predict("reversed_attention", on="h100", **CALL).assumptions
    )
