"""Kernels whose loops are hard to find: specialised warps, tiles dealt out in a loop, products of four bits."""

from __future__ import annotations

import re

import pytest

from kernels import aot, sass, tileir
from kernels.described import Shape, description
from kernels.probe import assess, compiled, prepared, probe

SOURCE = """
import triton
import triton.language as tl

@triton.jit
def walked(acc, l, m, q, k_desc, v_desc, row, scale, lo, hi, start, BM: tl.constexpr, BN: tl.constexpr,
           MASK: tl.constexpr):
    rows, columns = start * BM + tl.arange(0, BM), tl.arange(0, BN)
    for n in tl.range(lo, hi, BN, warp_specialize=True):
        s = tl.dot(q, k_desc.load([row + n, 0]).T) * scale
        if MASK:
            s = tl.where(rows[:, None] >= (n + columns)[None, :], s, -1e6)
        new = tl.maximum(m, tl.max(s, 1))
        p = tl.math.exp2(s - new[:, None])
        shrunk = tl.math.exp2(m - new)
        l = l * shrunk + tl.sum(p, 1)
        acc = tl.dot(p.to(tl.bfloat16), v_desc.load([row + n, 0]), acc * shrunk[:, None])
        m = new
    return acc, l, m

@triton.jit
def attention(q_desc, k_desc, v_desc, o_desc, scale: "fp32", N, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    start, row = tl.program_id(0), tl.program_id(1) * N
    q = q_desc.load([row + start * BM, 0])
    acc, l = tl.zeros((BM, D), dtype=tl.float32), tl.zeros((BM,), dtype=tl.float32)
    m = tl.full((BM,), -1e30, dtype=tl.float32)
    acc, l, m = walked(acc, l, m, q, k_desc, v_desc, row, scale, 0, start * BM, start, BM, BN, False)
    acc, l, m = walked(acc, l, m, q, k_desc, v_desc, row, scale, start * BM, (start + 1) * BM, start, BM, BN, True)
    o_desc.store([row + start * BM, 0], (acc / l[:, None]).to(tl.bfloat16))

@triton.jit
def dealt(A, B, C, M, N, K, stride_am, stride_bk, stride_cm, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
          SMS: tl.constexpr):
    columns, inner = tl.cdiv(N, BN), tl.arange(0, BK)
    for tile in tl.range(tl.program_id(0), tl.cdiv(M, BM) * columns, SMS, flatten=True):
        rows = (tile // columns * BM + tl.arange(0, BM)) % M
        cols = (tile % columns * BN + tl.arange(0, BN)) % N
        acc = tl.zeros((BM, BN), dtype=tl.float32)
        for k in range(tl.cdiv(K, BK)):
            at = k * BK + inner
            a = tl.load(A + rows[:, None] * stride_am + at[None, :], mask=at[None, :] < K, other=0.0)
            b = tl.load(B + at[:, None] * stride_bk + cols[None, :], mask=at[:, None] < K, other=0.0)
            acc = tl.dot(a, b, acc)
        tl.store(C + stride_cm * rows[:, None] + cols[None, :], acc.to(tl.bfloat16))

@triton.jit
def four_bits(A, a_scale, B, b_scale, C, K, sa, sb, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows, cols = tl.arange(0, BM), tl.arange(0, BN)
    packed, scales = tl.arange(0, BK // 2), tl.arange(0, BK // 16)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, tl.cdiv(K, BK)):
        a = tl.load(A + rows[:, None] * sa + packed[None, :] + k * BK // 2)
        b = tl.load(B + cols[None, :] * sb + packed[:, None] + k * BK // 2)
        at = scales[None, :] + k * (BK // 16)
        xa = tl.load(a_scale + rows[:, None] * (K // 16) + at)
        xb = tl.load(b_scale + cols[:, None] * (K // 16) + at)
        acc = tl.dot_scaled(a, xa, "e2m1", b, xb, "e2m1", acc)
    tl.store(C + rows[:, None] * BN + cols[None, :], acc)
"""
DESCRIBED = {"q_desc": "bf16[BM,D]", "k_desc": "bf16[BN,D]", "v_desc": "bf16[BN,D]", "o_desc": "bf16[BM,D]"}
TILE = {"D": 128, "BM": 128, "BN": 64}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("specialised") / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def attention(file):
    arguments = DESCRIBED | {"N": "i32:16"}
    return prepared(f"{file}:attention", constants=TILE, arguments=arguments, warps=4)


@pytest.fixture(scope="module")
def specialised(attention):
    return compiled(attention, "sm_100")


def test_all_warps_of_a_block_are_counted(attention, specialised):
    """As many as the compiled kernel says itself that a launch has to bring."""
    done, _ = aot._compiled(attention, 100)
    threads = int(re.search(r"\.reqntid (\d+)", done.asm["ptx"])[1])
    assert specialised.warps == threads // 32 > specialised.tile.warps
    # One block fits, for tensor memory: so many of the 64 warps of an SM.
    assert assess(specialised).occupancy == specialised.warps / 64
    # A block takes all registers that its warps have together, in units of 256 a warp.
    assert specialised.registers * threads <= 65536


def test_a_step_is_made_by_all_kinds_of_warps_together(specialised):
    """A step of the source: 12 products of 128 x N x 16, and for each row of a thread 64 exponentials and one more.

    Each kind of warps has a loop of its own, twice: over whole and over masked tiles. The third kind scales what was
    summed, with the factor, which is an exponential, too.
    """
    assert specialised.source_loops == 2
    assert specialised.step.pipes["tensor"] == 128 // 16 + 64 // 16
    assert 64 + 1 <= specialised.step.pipes["special"] <= 64 + 2
    assert {loop.pipes["tensor"] for loop in specialised.loops} == {0, 12}
    assert assess(specialised).masked_tile_factor is None


def test_a_description_spreads_a_step_over_all_warps(specialised):
    made = description(specialised, place="mine.py:attention", shape=Shape(), constants=TILE)
    (tile,) = made["tiles"]
    assert tile["warps"] == specialised.warps
    among = specialised.warps // 4
    assert tile["resources"]["loop"]["special"] == round(specialised.step.pipes["special"] / among)


def test_integer_divisions_are_no_step(file):
    """The walk over tiles divides to find its tile, which the special units do; only the walk over K multiplies."""
    told = {"M": "i32:16", "N": "i32:16", "K": "i32:16"}
    constants = {"BM": 128, "BN": 128, "BK": 64, "SMS": 132}
    made = probe(f"{file}:dealt", constants=constants, arguments=told, warps=8, target="sm_90")
    assert made.step.pipes["tensor"] == 64 // 16  # of 64 x 128 x 16, in each of two groups of four warps
    assert all(loop.pipes["tensor"] for loop in made.loops)


def test_products_of_four_bits_are_products(file):
    words = {"A": "*u8", "B": "*u8", "a_scale": "*fp8e4nv", "b_scale": "*fp8e4nv", "C": "fp32"}
    told = words | dict.fromkeys(("K", "sa", "sb"), "i32:16")
    constants = {"BM": 128, "BN": 128, "BK": 128}
    made = probe(f"{file}:four_bits", constants=constants, arguments=told, target="sm_100")
    assert made.step.pipes["tensor"] == 128 // 64  # tcgen05 multiplies 64 elements of four bits at a time


def test_a_jump_through_a_table_is_followed():
    text = """
        /*0000*/                   BRX R2 -0x10 (*"BRANCH_TARGETS .L_a,.L_b"*);
.L_a:
        /*0010*/                   MUFU.EX2 R5, R6 ;
        /*0020*/               @P0 BRA `(.L_a) ;
        /*0030*/                   EXIT ;
.L_b:
        /*0040*/                   UTCHMMA gdesc[UR4], gdesc[UR6], tmem[UR8] ;
        /*0050*/               @P0 BRA `(.L_b) ;
        /*0060*/                   EXIT ;
"""
    exponentials, products = sass.loops(text)
    assert (exponentials.pipes["special"], products.pipes["tensor"]) == (1, 1)


@pytest.mark.parametrize(("target", "narrow"), [("sm_89", 2), ("sm_90", 2), ("sm_120", 2)])
def test_products_of_eight_bits_are_products_at_twice_the_rate(tmp_path, target, narrow):
    path = tmp_path / "eight.py"
    path.write_text(
        "import triton\nimport triton.language as tl\n\n@triton.jit\n"
        "def eight(A: '*fp8e4nv', B: '*fp8e4nv', C: '*fp32', K, stride_a, stride_b, N: tl.constexpr):\n"
        "    i = tl.arange(0, N)\n"
        "    acc = tl.zeros((N, N), tl.float32)\n"
        "    for k in range(0, K, N):\n"
        "        a = tl.load(A + i[:, None] * stride_a + k + i[None, :])\n"
        "        acc = tl.dot(a, tl.load(B + i[None, :] * stride_b + k + i[:, None]), acc)\n"
        "    tl.store(C + i[:, None] * N + i[None, :], acc)\n"
    )
    made = probe(f"{path}:eight", constants={"N": 128}, target=target)
    assert made.work.product_flops * narrow == 2 * 128**3
    # mma.sync multiplies 16 x 8 x 32 elements of eight bits, wgmma of a group of four warps 64 x 128 x 32.
    each = 64 * 128 * 32 if target == "sm_90" else 4 * 16 * 8 * 32
    assert made.step.pipes["tensor"] == 128**3 / each


@pytest.mark.parametrize(
    ("form", "packed"),
    # As Triton 3.9 writes them; the shapes are of what lies in memory, four bits two in a byte.
    [("e4m3", 1), ("e2m1", 2)],
)
def test_scaled_products_are_counted(form, packed):
    line = (
        f"%acc = tt.dot_scaled %a scale %x, %b scale %y, %c lhs = {form} rhs = {form} {{fastMath = false}} : "
        f"tensor<128x{64 // packed}xi8>, tensor<128x2xi8> * tensor<{64 // packed}x32xi8>, tensor<32x2xi8> "
        "-> tensor<128x32xf32> loc(#loc61)"
    )
    (work,) = tileir.steps(f"scf.for %i = %a to %b step %c : i32 {{\n{line}\n}}")
    assert work.product_flops == 2 * 128 * 32 * 64
