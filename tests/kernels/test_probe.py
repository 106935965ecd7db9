"""A stranger's kernel is compiled and its resources read; a mistake is answered with one line."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from einsum_cascade.errors import KernelError, MappingError
from einsum_cascade.pairs import literal
from kernels.arguments import parse_pairs
from kernels.described import sizes_of
from kernels.probe import assess, probe
from validation.cli import app

KERNEL = """
import triton
import triton.language as tl

@triton.autotune(configs=[triton.Config({"BLOCK": 1024})], key=["n"])
@triton.jit
def tuned(x_ptr, y_ptr, n, scale, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.exp2(tl.load(x_ptr + i, mask=i < n) * scale), mask=i < n)

@triton.jit
def loop(x_ptr, y_ptr, n, BLOCK: tl.constexpr, FLAG: tl.constexpr = False):
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        total += tl.exp2(tl.load(x_ptr + start + tl.arange(0, BLOCK)).to(tl.float32))
    tl.store(y_ptr + tl.arange(0, BLOCK), total)

@triton.jit
def added(total, source, i, n, BLOCK: tl.constexpr):
    for start in range(0, n, BLOCK):
        total += tl.load(source + start + i).to(tl.float32)
    return total

@triton.jit
def through_another(x, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, added(tl.zeros([BLOCK], tl.float32), x, i, n, BLOCK=BLOCK))

@triton.jit
def wrong(x_ptr, BLOCK: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, BLOCK), undefined_name)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(KERNEL)
    return path


def test_loop_of_exponentials(file):
    """512 values on 4 warps: 4 a thread, so 4 exponentials a step."""
    found = probe(
        f"{file}:loop", target="sm_90", constants={"BLOCK": 512}, arguments={"x_ptr": "fp16", "y_ptr": "fp32"}
    )
    assert found.registers > 8
    assert not found.spills
    assert any(loop.pipes["special"] % 4 == 0 and loop.pipes["special"] > 0 for loop in found.loops)


def test_pointers_that_are_handed_to_another_function_are_pointers(file):
    """Kernels in the manner of Triton's tutorial load inside a function of their own: `x` needs no --arg."""
    found = probe(f"{file}:through_another", target="sm_90", constants={"BLOCK": 512})
    assert found.totals["global"] > 1


def test_functions_of_another_file_are_followed_too(tmp_path, monkeypatch):
    (tmp_path / "my_pieces.py").write_text(KERNEL)
    path = tmp_path / "whole.py"
    path.write_text(
        "import triton\nimport triton.language as tl\nimport my_pieces\n@triton.jit\n"
        "def whole(x, y, n, BLOCK: tl.constexpr):\n    i = tl.arange(0, BLOCK)\n"
        "    tl.store(y + i, my_pieces.added(tl.zeros([BLOCK], tl.float32), x, i, n, BLOCK))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert probe(f"{path}:whole", target="sm_90", constants={"BLOCK": 512}).totals["global"] > 1


def test_autotuned_kernel(file):
    found = probe(
        f"{file}:tuned",
        target="sm_80",
        constants={"BLOCK": 256},
        arguments={"x_ptr": "fp32", "y_ptr": "fp32", "scale": "scalar:fp32"},
    )
    assert found.totals["special"] == 2
    assert found.loops == ()


@pytest.mark.parametrize(
    ("place", "options", "words"),
    [
        ("{file}:lop", {}, "did you mean 'loop'"),
        ("{file}", {}, "FILE.py:KERNEL"),
        ("{file}x:loop", {}, "no such file"),
        ("{file}:loop", {}, "BLOCK=... is missing"),
        ("{file}:loop", {"constants": {"BLOK": 1}}, "did you mean 'BLOCK'"),
        ("{file}:loop", {"constants": {"BLOCK": 512}, "arguments": {"n": "fp12"}}, "expected fp16"),
        ("{file}:wrong", {"constants": {"BLOCK": 64}}, "undefined_name"),
        ("{file}:loop", {"constants": {"BLOCK": 100}}, "power of 2"),
    ],
)
def test_mistakes(file, place, options, words):
    with pytest.raises(KernelError, match=words):
        probe(place.format(file=file), **options)


def test_a_file_that_is_no_python(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def (")
    with pytest.raises(KernelError, match="SyntaxError"):
        probe(f"{path}:kernel")


def test_words():
    assert parse_pairs(["A=1"], "--x") == {"A": "1"}
    for words in (["A"], ["=1"], ["A=1", "A=2"]):
        with pytest.raises(KernelError):
            parse_pairs(words, "--x")
    assert literal("1e-3") == 1e-3


FOREIGN = """
import triton
import triton.language as tl


@triton.jit
def matmul(A, B, C, rows, cols, depth, row_a, row_b, row_c, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    across = tl.cdiv(cols, BN)
    i = tl.program_id(0) // across * BM + tl.arange(0, BM)
    j = tl.program_id(0) % across * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    left = A + i[:, None] * row_a + k[None, :]
    right = B + k[:, None] * row_b + j[None, :]
    total = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, depth, BK):
        total = tl.dot(tl.load(left), tl.load(right), total)
        left += BK
        right += BK * row_b
    tl.store(C + i[:, None] * row_c + j[None, :], total.to(C.dtype.element_ty))


@triton.jit
def normalise(X, Y, W, row, width, eps, SIZE: tl.constexpr):
    place = X + tl.program_id(0) * row
    cols = tl.arange(0, SIZE)
    x = tl.load(place + cols, mask=cols < width, other=0.0).to(tl.float32)
    mean = tl.sum(x) / width
    off = tl.where(cols < width, x - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(off * off) / width + eps)
    w = tl.load(W + cols, mask=cols < width, other=0.0).to(tl.float32)
    tl.store(Y + tl.program_id(0) * row + cols, (off * scale * w).to(Y.dtype.element_ty), mask=cols < width)


@triton.jit
def soft(source, target, rows, width, SIZE: tl.constexpr):
    for r in tl.range(tl.program_id(0), rows, tl.num_programs(0)):
        cols = tl.arange(0, SIZE)
        x = tl.load(source + r * width + cols, mask=cols < width, other=-float("inf")).to(tl.float32)
        weights = tl.exp(x - tl.max(x))
        tl.store(target + r * width + cols, weights / tl.sum(weights), mask=cols < width)
"""


@pytest.fixture
def foreign(tmp_path):
    path = tmp_path / "theirs.py"
    path.write_text(FOREIGN)
    return path


def test_a_matrix_product(foreign):
    """128 x 128 x 64 in HMMA of 16 x 8 x 16 is 512 of them, over 8 warps: 64 a step of a warp."""
    constants = {"BM": 128, "BN": 128, "BK": 64}
    found = probe(f"{foreign}:matmul", target="sm_80", constants=constants, warps=8)
    assert [loop.pipes["tensor"] for loop in found.loops] == [64]
    assert found.work.product_flops == 2 * 128 * 128 * 64
    # Both operand tiles in 16-bit words, once a step.
    assert found.work.load_bytes == 2 * (128 * 64 + 64 * 128)
    meaning = assess(found)
    assert meaning.warnings == ()
    assert meaning.blocks_per_sm >= 1
    assert meaning.masked_tile_factor is None


def test_a_tile_that_collapses_is_warned_of(foreign):
    """256 x 256 sums on 4 warps are 512 a thread, where 255 registers are."""
    found = probe(f"{foreign}:matmul", target="sm_80", constants={"BM": 256, "BN": 256, "BK": 64})
    assert found.spills
    assert any("collapse" in w for w in assess(found).warnings)


def test_a_tile_that_cannot_launch_is_warned_of(foreign):
    # Both operand tiles of 128 x 512 words of two bytes are 256 KiB, even if no stage is doubled.
    constants = {"BM": 128, "BN": 128, "BK": 512}
    found = probe(f"{foreign}:matmul", target="sm_90", constants=constants, warps=8, stages=1)
    assert assess(found).blocks_per_sm == 0
    assert any("will not launch" in w for w in assess(found).warnings)


def test_a_normalisation_has_no_loop(foreign):
    found = probe(
        f"{foreign}:normalise", target="sm_90", constants={"SIZE": 1024}, arguments={"eps": "scalar:fp32"}
    )
    assert found.loops == ()
    assert not found.spills
    assert found.totals["tensor"] == 0
    assert found.work.load_bytes == 2 * 2 * 1024
    assert assess(found).bound_by in assess_pipes(found)


def assess_pipes(found):
    from kernels import aot, steps

    return steps.step_cycles(found, steps.rates(aot.TARGETS[found.target]))


def test_a_softmax_over_rows(foreign):
    found = probe(f"{foreign}:soft", target="sm_100", constants={"SIZE": 1024}, arguments={"source": "fp16"})
    # 1024 values on 4 warps: 8 exponentials a thread, and whatever the division takes.
    assert max(loop.pipes["special"] for loop in found.loops) >= 8


def test_the_price_of_a_masked_tile():
    """The flash kernel's own two loops: a masked tile costs some percent more, not twice as much."""
    from kernels import aot, attention
    from kernels.tiles import Tile

    build = attention.build(Tile(128, 64, 4, 3), head_dim=64, dtype="bf16", variant="causal")
    factor = assess(aot.compile_build(build, "sm_90")).masked_tile_factor
    assert 1.0 < factor < 1.5


def test_a_file_that_ends_the_program(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(KernelError, match="exit 3"):
        probe(f"{path}:k")


def test_a_value_of_the_wrong_kind(foreign):
    with pytest.raises(KernelError):
        probe(f"{foreign}:matmul", constants={"BM": "big", "BN": 64, "BK": 64})


def test_a_probed_kernel_is_predicted(foreign, tmp_path):
    """The matrix product of the file: tile counts by hand, and never faster than the machine."""
    from kernels.cli import probe as command
    from simulator.gpu.model import predict

    file = tmp_path / "matmul.yaml"
    command(
        f"{foreign}:matmul", target="sm_80", constexpr=["BM=128,BN=128,BK=64"], warps=8, mapping=file,
        blocks="cdiv(seq_q, BM) * cdiv(seq_kv, BN)", steps="cdiv(head_dim, BK)",
        reads="(seq_q + seq_kv) * head_dim * word", writes="seq_q * seq_kv * word",
    )  # fmt: skip
    sizes = {"batch": 1, "heads": 1, "seq_q": 8192, "seq_kv": 4096, "head_dim": 4096, "dtype": "bf16"}
    p = predict("matmul", on="a100", mapping=file, **sizes)
    assert p.launches[0]["blocks"] == 64 * 32
    assert p.tiles["full"] == 64 * 32 * 64
    assert p.bound_by == "tensor"
    # 2 M N K operations at 312 TFLOPS are 0.88 ms. cuBLAS takes 1.02 ms of an A100 for this shape (269 TFLOPS,
    # LLMCompass); half to twice the time is what nobody's measurement narrows.
    assert p.latency_s > 2 * 8192 * 4096 * 4096 / 312e12
    assert p.low_s < 2 * 8192 * 4096 * 4096 / 269e12 < p.high_s
    # The same build on a card of its generation, and on none of another.
    assert predict("matmul", on="rtx 3090", mapping=file, **sizes).latency_s > p.latency_s
    with pytest.raises(MappingError, match="on sm_90; expected a GPU of sm_80 or sm_86 or sm_87 or sm_89"):
        predict("matmul", on="h100", mapping=file, **sizes)


def test_a_kernel_may_have_sizes_of_its_own(foreign, tmp_path):
    """A product has rows, columns and a depth, and neither heads nor queries; counted by hand."""
    from kernels.cli import probe as command
    from simulator.gpu.model import predict

    file = tmp_path / "matmul.yaml"
    command(
        f"{foreign}:matmul", target="sm_80", constexpr=["BM=128,BN=128,BK=64"], warps=8, mapping=file,
        sizes=["rows=8192,columns=4096", "depth=4096"], blocks="cdiv(rows, BM) * cdiv(columns, BN)",
        steps="cdiv(depth, BK)", reads="(rows + columns) * depth * word", writes="rows * columns * word",
    )  # fmt: skip
    p = predict("matmul", on="a100", mapping=file, seq_q=1)
    assert (p.launches[0]["blocks"], p.tiles["full"]) == (64 * 32, 64 * 32 * 64)
    assert p.launches[0]["bytes"] == 2 * (8192 * 4096 + 4096 * 4096 + 8192 * 4096)
    half = predict("matmul", on="a100", mapping=file, seq_q=1, rows=4096)
    assert half.launches[0]["blocks"] == 32 * 32


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ("seq_q=4", "'seq_q' is a name already"),
        ("BM=4", "'BM' is a name already"),
        ("word=4", "'word' is a name already"),
        ("rows=0", "expected a name and a positive whole number"),
        ("rows=4K", "expected a name and a positive whole number"),
        ("a-b=4", "expected a name and a positive whole number"),
    ],
)
def test_sizes_of_its_own_have_names_and_numbers_of_their_own(sizes, words):
    with pytest.raises(MappingError, match=words):
        sizes_of(parse_pairs([sizes], "--sizes"), {"BM": 64})


def test_a_file_of_a_package_is_loaded_with_its_neighbours(tmp_path):
    package = tmp_path / "ours" / "inner"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package.parent / "sizes.py").write_text("WIDTH = 64\n")
    (package / "kernel.py").write_text("from ..sizes import WIDTH\n" + KERNEL)
    found = probe(f"{package / 'kernel.py'}:loop", target="sm_80", constants={"BLOCK": 512})
    assert found.registers > 8


def test_a_bad_shape_is_told_before_anything_is_written(foreign, tmp_path):
    file = tmp_path / "m.yaml"
    args = ["kernels", "probe", f"{foreign}:matmul", "--constexpr", "BM=64,BN=64,BK=32", "--mapping"]
    found = CliRunner().invoke(app, [*args, str(tmp_path / "m.txt")])
    assert found.exit_code == 2
    assert "expected a file that ends in .yaml, .yml" in found.output
    assert not file.exists()


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("--blocks", "batch * heds", "--blocks: unknown name 'heds'; did you mean 'heads'?"),
        ("--blocks", "batch * i", "--blocks: unknown name 'i'"),
        ("--steps", "cdiv(seq_q, BM", "--steps: 'cdiv(seq_q, BM' is not an expression"),
        ("--reads", "seq_q * WORD", "--reads: unknown name 'WORD'; did you mean 'word'?"),
    ],
)
def test_an_expression_of_a_shape_is_checked_before_anything_is_compiled(
    foreign, tmp_path, monkeypatch, option, text, words
):
    from kernels import aot

    monkeypatch.setattr(aot, "compile_build", lambda *_: pytest.fail("compiled"))
    file = tmp_path / "m.yaml"
    args = [
        "kernels",
        "probe",
        f"{foreign}:matmul",
        "--constexpr",
        "BM=64,BN=64,BK=32",
        "--mapping",
        str(file),
    ]
    found = CliRunner().invoke(app, [*args, option, text])
    assert found.exit_code == 2
    assert words in found.output
    assert not file.exists()
