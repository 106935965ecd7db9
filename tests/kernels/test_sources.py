"""Kernels given as text are compiled in processes of their own: what they take, what is refused, what is given up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from einsum_cascade import zoo
from einsum_cascade.errors import KernelError
from kernels.sources import compiled
from kernels.written import compile_files, compile_written, load_written
from mappings.sources import KernelSource
from simulator.gpu.writing.program import write_program

HEAD = "import triton\nimport triton.language as tl\n\n"
# Each element is doubled; the loop adds tiles of 64.
PLAIN = """@triton.jit
def double(x_ptr, y_ptr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, 2 * tl.load(x_ptr + n))
"""
LOOP = """@triton.jit
def total(x_ptr, y_ptr, N: tl.constexpr, STEPS: tl.constexpr):
    n = tl.arange(0, N)
    out = tl.zeros([N], tl.float32)
    for i in range(0, STEPS):
        out = out + tl.exp(tl.load(x_ptr + i * N + n))
    tl.store(y_ptr + n, out)
"""
WRONG = """@triton.jit
def wrong(x_ptr, N: tl.constexpr):
    tl.store(x_ptr, nobody)
"""
POINTERS = {"x_ptr": "*fp32", "y_ptr": "*fp32"}


def source(text, name, loops, warps=4, **constants):
    return KernelSource(name, HEAD + text, POINTERS, constants, warps, loops)


def test_what_a_kernel_takes_comes_back_in_order_and_a_refused_one_is_none():
    sources = [
        source(PLAIN, "double", 0, N=1024),
        source(WRONG, "wrong", 0, N=16),
        source(LOOP, "total", 1, N=1024, STEPS=4096),
        source(LOOP, "total", -1, N=1024, STEPS=4096),
    ]
    steps = []
    plain, wrong, loop, unknown = compiled(
        sources, on="h100", progress=lambda items: steps.append(len(items)) or items
    )
    assert steps == [4]
    assert wrong is None
    # A thread of 128 has 8 elements of 1,024; without a loop the whole kernel is one step.
    assert plain.registers >= 8 and plain.stack_bytes == 0 and plain.loop.special == 0
    assert loop.loop.special >= 8 and loop.loop.instructions > loop.loop.special
    assert unknown.registers == loop.registers and unknown.loop is None
    assert "sm_90" in plain.made_by


def test_what_spills_says_so():
    (found,) = compiled([source(LOOP, "total", 1, warps=1, N=32768, STEPS=64)], on="sm_80")
    assert found is None or found.stack_bytes > 0


def test_a_kernel_that_the_compiler_does_not_finish_is_given_up_and_the_others_follow():
    sources = [source(PLAIN, "double", 0, N=64), source(PLAIN, "double", 0, N=128)]
    assert compiled(sources, on="h100", limit_s=0.0) == [None, None]


def test_nothing_to_compile_and_a_gpu_that_nobody_knows():
    assert compiled([], on="h100") == []
    with pytest.raises(KernelError, match="machine 'h1000'"):
        compiled([source(PLAIN, "double", 0, N=64)], on="h1000")


def test_files_are_compiled_side_by_side_as_one_after_the_other(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(write_program(zoo.load("attention_3pass"), "E=16,F=16,M=64,P=64").text)
    file = load_written(path)
    found = compile_files([file], ["sm_80", "sm_90"])
    alone = [r for target in ("sm_80", "sm_90") for r in compile_written(file, target)]
    assert len(found) == 2 * len(file.launches)
    assert [replace(r, totals={}, loops=()) for r in found] == [
        replace(r, totals={}, loops=()) for r in alone
    ]
    assert [dict(r.totals) for r in found] == [dict(r.totals) for r in alone]
    with pytest.raises(
        KernelError, match=r"mine\.py: .*: the compiler for sm_90 was given up after 0 s: smaller tiles"
    ):
        compile_files([file], ["sm_90"], limit_s=0.0)
    with pytest.raises(KernelError, match="target 'sm_91'"):
        compile_files([file], ["sm_91"])
