"""A stranger's kernel is compiled and its resources read; a mistake is answered with one line."""

from __future__ import annotations

import pytest

from einsum_cascade.errors import KernelError
from kernels.probe import literal, parse_pairs, probe

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
