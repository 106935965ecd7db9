"""Kernels given as text are compiled in processes of their own: what they take, what is refused, what is given up."""

from __future__ import annotations

import pytest

from einsum_cascade.errors import KernelError
from kernels.sources import compiled
from mappings.sources import KernelSource

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
