"""Files as strangers write them: probed as Python runs them, and stopped where they would need a GPU or raise."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from einsum_cascade.errors import KernelError
from kernels.arguments import pointers_of
from kernels.probe import assumed_types, prepared, probe
from validation.cli import app

HELPERS = """
import triton
import triton.language as tl

@triton.jit
def stored(target, places, value, mask):
    tl.store(target + places, value, mask=mask)
"""
KERNELS = """
import torch
import triton
import triton.language as tl
from neighbours_helpers import stored

DEVICE = triton.runtime.driver.active.get_active_torch_device()

def is_cuda():
    return triton.runtime.driver.active.get_current_target().backend == "cuda"

@triton.autotune(configs=[triton.Config({"BLOCK": 128})] if is_cuda() else [], key=["n"])
@triton.heuristics({"EVEN": lambda given: given["n"] % given["BLOCK"] == 0})
@triton.jit
def scaled(x, y, n, alpha=1.0, BLOCK: tl.constexpr = 128, EVEN: tl.constexpr = False):
    i = tl.arange(0, BLOCK)
    stored(y, i, alpha * tl.load(x + i), i < n)

@triton.jit
def hinted(source: "*fp32", target: "*fp16", count: "i64", share: "fp32", BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(target + i, tl.load(source + i, mask=i < count) * share)

@triton.jit
def gathered(index, x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + tl.load(index + i)))

@triton.jit
def either(first, second, y, flag, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    source = first if flag else second
    tl.store(y + i, tl.load(source + i))
"""
BLOCK = {"BLOCK": 128}


@pytest.fixture
def file(tmp_path):
    (tmp_path / "neighbours_helpers.py").write_text(HELPERS)
    path = tmp_path / "mine.py"
    path.write_text(KERNELS)
    return path


def test_a_file_imports_its_neighbours_and_asks_for_its_device_as_where_it_is_run(file):
    assert probe(f"{file}:scaled").registers > 0


def test_a_number_with_a_fraction_by_default_is_one_and_annotations_are_types(file):
    made = prepared(f"{file}:scaled")
    assert (dict(made.pointers), made.floats) == ({"x": "*bf16", "y": "*bf16"}, ("alpha",))
    made = prepared(f"{file}:hinted", constants=BLOCK)
    assert made.pointers == {"source": "*fp32", "target": "*fp16", "count": "i64"}
    assert made.floats == ("share",)
    told = prepared(f"{file}:hinted", constants=BLOCK, arguments={"source": "bf16", "share": "i32"})
    assert (told.pointers["source"], told.floats) == ("*bf16", ())


def test_an_index_is_a_tensor_of_whole_numbers(file):
    made = probe(f"{file}:gathered", constants=BLOCK, arguments={"index": "*i32"})
    assert made.registers > 0
    with pytest.raises(KernelError, match=r"--arg index=\*i33: expected fp16, bf16, fp32, \*i32"):
        prepared(f"{file}:gathered", constants=BLOCK, arguments={"index": "*i33"})


def test_either_of_two_addresses_is_a_pointer(file):
    assert set(prepared(f"{file}:either", constants=BLOCK).pointers) == {"first", "second", "y"}


def test_a_block_has_no_more_threads_than_a_gpu_takes(file):
    with pytest.raises(KernelError, match="warps=64: a thread block has at most 32"):
        prepared(f"{file}:scaled", warps=64)


def test_what_is_defined_before_a_file_fails_is_found(file, capsys):
    with file.open("a") as text:
        text.write("\nx = torch.zeros(3, device='no such device')\n@triton.jit\ndef later(x):\n    pass\n")
    line = 1 + KERNELS.count("\n") + 1
    assert probe(f"{file}:gathered", constants=BLOCK, arguments={"index": "*i64"}).registers > 0
    assert f"{file}:{line}: RuntimeError: " in capsys.readouterr().err
    with pytest.raises(KernelError, match=rf"mine.py:{line}: RuntimeError: "):
        prepared(f"{file}:later")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n\nraise Exception('own\\nwords')", "mine.py:3: Exception: own words"),
        ("class Mine(Exception): pass\nraise Mine('x')", "mine.py:2: Mine: x"),
        ("import sys\nsys.exit(3)", r"mine.py:2: it ends the program while it is loaded \(exit 3\)"),
        ("def f(:\n  pass", r"mine.py: SyntaxError: .*line 1"),
        (
            "import no_such_module_here",
            "mine.py:1: ModuleNotFoundError: No module named 'no_such_module_here'",
        ),
        ("", "mine.py: no kernel 'k': there is none"),
    ],
)
def test_a_file_that_raises_is_one_line_with_its_place(tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(KernelError, match=words):
        probe(f"{path}:k")


HOST = """
import triton
import triton.language as tl

def block_shapes(given):
    given["a"].block_shape = [given["BM"], given["BK"]]

CONFIGS = [triton.Config({"BM": 128, "BN": n, "BK": 64}, num_warps=8, num_stages=4, pre_hook=block_shapes)
           for n in (128, 256)]

@triton.heuristics({"EVEN": lambda given: True})
@triton.autotune(configs=CONFIGS, key=["depth"])
@triton.jit(do_not_specialize=["depth"])
def product(a, b, c, depth, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr):
    row, col = tl.program_id(0) * BM, tl.program_id(1) * BN
    total = tl.zeros((BM, BN), tl.float32)
    for k in tl.range(tl.cdiv(depth, BK)):
        total = tl.dot(a.load([row, k * BK]), b.load([col, k * BK]).T, total)
    c.store([row, col], total.to(tl.float16))

@triton.jit
def copied(source, target, row_stride: tl.int64, BLOCK: tl.constexpr):
    i = tl.program_id(0) * row_stride + tl.arange(0, BLOCK)
    tl.store(target + i, tl.load(source + i))
"""
TILE = {"BM": 128, "BN": 128, "BK": 64, "EVEN": True}
SHAPES = {"a": "fp16[BM,BK]", "b": "fp16[BN, BK]", "c": "fp16[BM,BN]"}


@pytest.fixture
def host(tmp_path):
    path = tmp_path / "host.py"
    path.write_text(HOST)
    return path


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_descriptors_that_the_host_makes_are_given_by_their_block(host, target):
    found = probe(f"{host}:product", constants=TILE, arguments=SHAPES, target=target, warps=8)
    assert found.work.product_flops == 2 * 128 * 128 * 64
    assert found.work.load_bytes == 2 * (128 * 64 + 128 * 64)
    # Both tiles come through the tensor memory accelerator where there is one: an instruction each.
    assert target == "sm_80" or found.step.pipes["global"] == 2
    with pytest.raises(
        KernelError, match=r"host.py:product: 'b' is a tensor descriptor; .* 'b=fp16\[ROWS,COLUMNS\]'"
    ):
        prepared(f"{host}:product", constants=TILE, arguments={"a": "fp16[128,64]"})


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("fp16[BM,BQ]", "--arg a: unknown name 'BQ'"),
        ("fp16[BM,BK / 128]", "'BK / 128' is 0.5; expected a whole number of elements"),
        ("fp16[BM,0]", "'0' is 0; expected a whole number"),
        ("fp17[BM,BK]", "expected fp16, bf16, fp32"),
        ("fp16[]", "expected fp16, bf16, fp32"),
    ],
)
def test_a_block_that_is_none_is_told(host, block, words):
    with pytest.raises(KernelError) as error:
        prepared(f"{host}:product", constants=TILE, arguments=SHAPES | {"a": block})
    assert words in str(error.value)


def test_all_that_lacks_is_told_at_once_and_what_the_tuner_would_begin_with(host):
    with pytest.raises(KernelError) as error:
        prepared(f"{host}:product", constants={"BK": 32})
    assert str(error.value).endswith(
        "--constexpr BM=...,BN=...,EVEN=... are missing; the first it is tuned over is BM=128,BN=128,BK=64 "
        "with --warps 8 --stages 4"
    )


def test_strides_of_64_bits_are_multiples_too(host):
    """Else a row begins anywhere, and every word is loaded by itself."""
    made = prepared(f"{host}:copied", constants=BLOCK)
    assert (made.pointers["row_stride"], made.aligned) == ("i64", ("row_stride",))
    wide = probe(f"{host}:copied", constants={"BLOCK": 1024})
    narrow = probe(f"{host}:copied", constants={"BLOCK": 1024}, arguments={"row_stride": "i32:16"})
    assert wide.totals["global"] == narrow.totals["global"] == 2


def test_types_that_nobody_tells_are_shown(file):
    assert assumed_types(prepared(f"{file}:hinted", constants=BLOCK)) == {}
    made = prepared(f"{file}:gathered", constants=BLOCK, arguments={"x": "fp16"})
    assert assumed_types(made) == {"index": "*bf16", "y": "*bf16"}
    with pytest.raises(KernelError, match=r"types taken without --arg: index \*bf16, y \*bf16$"):
        probe(f"{file}:gathered", constants=BLOCK, arguments={"x": "fp16"})


@pytest.mark.parametrize(
    ("text", "pointers"),
    [
        ("p, q = X + n, Y + n\n tl.store(q, tl.load(p))", "XY"),
        ("p = q = X + n\n tl.store(Y, tl.load(q))", "XY"),
        ("p: tl.tensor = X + n\n tl.store(Y, tl.load(p))", "XY"),
        ("tl.store(Y, tl.load(tl.where(n > 0, X, Z)))", "XYZ"),
        ("tl.store(Y, tl.load(X.to(tl.pointer_type(tl.float32)) + n))", "XY"),
        ("tl.store(Y + n, tl.load((X + n)[:, None]))", "XY"),
        ("tl.store(Y, tl.load(tl.max_contiguous(tl.multiple_of(X + n, 16), 16)))", "XY"),
        ("o = tl.arange(0, 16)\n tl.store(o + Y, tl.load(n * 16 + X + o))", "XY"),
        ("p = X\n p = p + n\n tl.store(Y, tl.load(p))", "XY"),
        ("r = tl.load(Z + n)\n tl.store(Y + r, tl.load(X + r * n))", "XYZ"),
    ],
)
def test_pointers_are_known_by_what_is_loaded_and_stored_however_they_are_written(text, pointers):
    assert "".join(sorted(pointers_of(f"def kernel(X, Y, Z, n):\n {text}"))) == pointers


LAYER = """
import triton
import triton.language as tl

@triton.jit
def normalised(X, Y, W, n, eps: "fp32", BLOCK: tl.constexpr):
    X += tl.program_id(0) * n
    cols = tl.arange(0, BLOCK)
    total, square = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for off in range(0, n, BLOCK):
        total += tl.load(X + off + cols, mask=off + cols < n, other=0.0).to(tl.float32)
    mean = tl.sum(total) / n
    for off in range(0, n, BLOCK):
        x = tl.load(X + off + cols, mask=off + cols < n, other=0.0).to(tl.float32)
        square += tl.where(off + cols < n, x - mean, 0.0) * (x - mean)
    scale = 1 / tl.sqrt(tl.sum(square) / n + eps)
    for off in range(0, n, BLOCK):
        here = off + cols < n
        x = tl.load(X + off + cols, mask=here).to(tl.float32)
        y = (x - mean) * scale * tl.load(W + off + cols, mask=here)
        tl.store(Y + tl.program_id(0) * n + off + cols, y, mask=here)

@triton.jit
def counted(X, lock, out, BLOCK: tl.constexpr):
    x = tl.sum(tl.load(X + tl.arange(0, BLOCK)).to(tl.float32))
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(out, tl.load(out) + x)
    tl.atomic_xchg(lock, 0)
"""


def test_loops_that_only_load_and_add_are_loops_and_a_pass_goes_through_all_of_them(tmp_path):
    path = tmp_path / "layer.py"
    path.write_text(LAYER)
    found = probe(f"{path}:normalised", constants={"BLOCK": 1024}, arguments={"n": "i32:16"})
    assert len(found.loops) == 3
    # One iteration of each: the first is so short that it is unrolled.
    once = sum(loop.instructions / loop.unrolled for loop in found.loops)
    assert found.step.instructions == pytest.approx(once, abs=1.5)
    assert found.step.instructions < sum(found.totals.values())
    # X in each of them, the weights and what is stored in the last.
    assert found.step.pipes["global"] == 3 + 2
    # Read three times, and the weights once.
    assert found.work.load_bytes == (3 + 1) * 1024 * 2


def test_waiting_for_a_lock_is_no_work(tmp_path):
    path = tmp_path / "layer.py"
    path.write_text(LAYER)
    types = {"lock": "*i32", "out": "fp32"}
    assert probe(f"{path}:counted", constants={"BLOCK": 1024}, arguments=types).loops == ()


def test_a_gluon_kernel_is_refused(tmp_path):
    path = tmp_path / "gluon.py"
    path.write_text(
        "from triton.experimental import gluon\nfrom triton.experimental.gluon import language as gl\n"
        "@gluon.jit\ndef copied(x, y, BLOCK: gl.constexpr):\n    pass\n"
    )
    with pytest.raises(KernelError, match=r"gluon.py:copied: a Gluon kernel, .* expected one of @triton.jit"):
        prepared(f"{path}:copied", constants=BLOCK)


INDUCTOR = """
import triton
import triton.language as tl
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.runtime.hints import DeviceProperties
triton_helpers.set_driver_to_gpu()

@triton_heuristics.pointwise(
    size_hints={"x": 4096}, filename=__file__, inductor_meta={"grid_type": "Grid1D"}, min_elem_per_thread=0,
    triton_meta={
        "signature": {"in_ptr0": "*fp32", "out_ptr0": "*fp16", "xnumel": "i32", "XBLOCK": "constexpr"},
        "device": DeviceProperties(type="cuda", index=0, multi_processor_count=132, cc=90, warp_size=32),
        "constants": {}, "configs": [{}],
    },
)
@triton.jit
def triton_poi_fused_mul_0(in_ptr0, out_ptr0, xnumel, XBLOCK: tl.constexpr):
    x = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)[:]
    tl.store(out_ptr0 + x, tl.load(in_ptr0 + x, x < xnumel) * 2.0, x < xnumel)
"""


def test_a_kernel_that_pytorch_s_compiler_wrote_is_read_with_its_types(tmp_path, capsys):
    path = tmp_path / "output_code.py"
    path.write_text(INDUCTOR)
    made = prepared(f"{path}:triton_poi_fused_mul_0", constants={"XBLOCK": 256})
    assert (made.pointers, made.assumed) == ({"in_ptr0": "*fp32", "out_ptr0": "*fp16"}, ())
    assert probe(f"{path}:triton_poi_fused_mul_0", constants={"XBLOCK": 256}).registers > 0
    assert capsys.readouterr().err == ""  # it came to its end
    with pytest.raises(
        KernelError, match=r"XBLOCK=\.\.\. is missing; the first it is tuned over is XBLOCK=\d+ with"
    ):
        prepared(f"{path}:triton_poi_fused_mul_0")


BODIES = """
import triton
import triton.language as tl

@triton.jit
def summed(X, out, n, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float32)
    for at in range(0, n, BLOCK):
        total += tl.load(X + at + tl.arange(0, BLOCK), mask=at + tl.arange(0, BLOCK) < n, other=0.0).to(tl.float32)
    tl.store(out + tl.arange(0, BLOCK), total)

@triton.jit
def convolved(X, W, out, rows, columns, width, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for r in range(rows):
        for c in range(columns):
            total += tl.load(X + i + r * width + c).to(tl.float32) * tl.load(W + r * columns + c).to(tl.float32)
    tl.store(out + i, total)

@triton.jit
def merged(M, O, out, parts, D: tl.constexpr):
    d = tl.arange(0, D)
    m = -float("inf")
    total = tl.zeros((D,), tl.float32)
    for s in range(parts):
        here = tl.load(M + s)
        new = tl.maximum(m, here)
        total = total * tl.exp(m - new) + tl.exp(here - new) * tl.load(O + s * D + d)
        m = new
    tl.store(out + d, total)
"""


@pytest.fixture
def bodies(tmp_path):
    path = tmp_path / "bodies.py"
    path.write_text(BODIES)
    return path


def test_a_step_of_an_unrolled_loop_is_one_iteration(bodies):
    """A thread of 128 has 8 of 1024 elements: one load and eight sums an iteration, of which the loop holds several."""
    made = probe(f"{bodies}:summed", constants={"BLOCK": 1024}, arguments={"n": "i32:16"})
    (loop,) = made.loops
    assert loop.unrolled == loop.pipes["global"] > 1
    assert loop.pipes["fma"] >= 8 * loop.unrolled
    assert made.step.pipes["global"] == 1
    assert made.step.instructions == pytest.approx(loop.instructions / loop.unrolled, abs=0.5)


def test_what_an_unrolled_loop_leaves_over_is_no_step(bodies):
    """Eight products with a weight an iteration; iterations share what they load of X, of which there is less then."""
    made = probe(f"{bodies}:convolved", constants={"BLOCK": 1024})
    whole, rest = made.loops
    assert whole.unrolled > 1
    assert whole.pipes["global"] < whole.unrolled * rest.pipes["global"]
    assert (rest.unrolled, rest.remainder, whole.remainder) == (1, True, False)
    assert made.step.instructions == pytest.approx(whole.instructions / whole.unrolled, abs=0.5)
    shown = CliRunner().invoke(app, ["kernels", "probe", f"{bodies}:convolved", "--constexpr", "BLOCK=1024"])
    assert f"{whole.unrolled} iterations: " in shown.stdout
    assert "what the loop before leaves over: " in " ".join(shown.stdout.split())


def test_a_loop_with_exponentials_is_no_other_one_with_a_mask(bodies):
    """Two exponentials and two loads an iteration; the unrolled loop had been taken for one over masked tiles."""
    made = probe(
        f"{bodies}:merged", constants={"D": 128}, arguments={"M": "fp32", "O": "fp32", "out": "fp32"}
    )
    assert [loop.remainder for loop in made.loops] == [False, True]
    assert made.step.pipes["special"] == 2
    assert made.step.pipes["global"] == 2
    assert made.full_loop == made.masked_loop
