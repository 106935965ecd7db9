"""One process interprets and compiles: the swap is complete and is undone; bfloat16 rounds as PyTorch does."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import einsum_cascade as ec
import simulator as sim
from kernels import attention, check, interpreter, primitives, registry
from kernels.interpreter import tf32_product


def language():
    """Everything that Triton's interpreter replaces, and everything that the swap replaces."""
    places = (
        tl,
        tl.core,
        tl.math,
        tl.standard,
        tl.tensor,
        tl.dtype,
        tl.core.tensor_descriptor_base,
        attention,
    )
    return [dict(vars(p)) for p in places]


def test_swap_is_undone_also_after_an_error():
    attention.flash_attention(
        *torch.randn(3, 1, 1, 20, 16)
    )  # Triton adds names to a module that it interprets.
    before = language()
    with pytest.raises(ZeroDivisionError), interpreter.interpreting():
        assert not isinstance(attention.flash_forward, triton.JITFunction)
        attention.flash_attention(*torch.randn(3, 1, 1, 20, 16), causal=True)
        raise ZeroDivisionError
    assert language() == before
    assert isinstance(attention.flash_forward, triton.JITFunction)
    assert not triton.knobs.runtime.interpret


def test_blocks_nest():
    with interpreter.interpreting():
        with interpreter.interpreting():
            pass
        assert not isinstance(attention.flash_forward, triton.JITFunction)


def test_bfloat16_conversion_is_torch_s():
    bits = torch.randint(0, 2**32, (100_000,), generator=torch.Generator().manual_seed(1)).to(torch.uint32)
    values = bits.numpy().view(np.float32)
    values = np.concatenate(
        [values, np.array([0.0, -0.0, np.inf, -np.inf, 1.00390625, 1.01171875], np.float32)]
    )
    ours = interpreter.round_to_bfloat16(values)
    theirs = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    number = ~np.isnan(values)
    assert (ours == theirs)[number].all()
    assert np.isnan(interpreter.widen_bfloat16(ours[~number])).all()
    assert (
        interpreter.widen_bfloat16(ours) == torch.from_numpy(theirs).view(torch.bfloat16).float().numpy()
    )[number].all()


def test_float32_products_are_those_of_tensor_cores():
    """Three TF32 products keep float32's accuracy, one does not: 10 bits of mantissa are left of 23."""
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    three, one = (
        np.abs(tf32_product(a, b, three=t) - exact).max() / np.abs(exact).max() for t in (True, False)
    )
    # Rounding of 64 products and their sum, some of 2^-24 each; of the operands, 2^-11 each.
    assert three < 64 * 2.0**-24
    assert 2.0**-15 < one < 2.0**-10


def test_a_kernel_with_one_tf32_product_would_fail_its_check(monkeypatch):
    entry = registry.find("reversed_attention")
    case = next(c for c in registry.load(entry.cases)() if c.dtype == "fp32")
    assert check.run_case(entry, case).ok
    monkeypatch.setattr(primitives, "precision", lambda word_bytes: "tf32")
    assert not check.run_case(entry, case).ok


def test_kernels_are_right_where_triton_was_told_to_interpret_before(tmp_path):
    """As people do to debug a kernel: the interpreter alone multiplies the bits of bfloat16 as whole numbers."""
    written = tmp_path / "product.py"
    text = ec.parse(
        "cascade product\nrank E M P\ninput Q[E, P]  K[E, M]\noutput S[M, P]\nS[m, p] = Q[e, p] * K[e, m]"
    )
    written.write_text(
        sim.write_program(text, "E=32,M=48,P=40", on="h100", dtype="bf16").text, encoding="utf-8"
    )
    command = [sys.executable, "-m", "validation", "kernels", "check", str(written), "--json"]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
