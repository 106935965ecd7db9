"""What a probe says of a kernel is a description that predictions take, as they take the library's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from einsum_cascade.errors import MappingError

LOWER = """
import triton
import triton.language as tl

@triton.jit
def doubled(x_ptr, out_ptr, n, block_m: tl.constexpr = 64, TWICE: tl.constexpr = True):
    at = tl.program_id(0) * block_m + tl.arange(0, block_m)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0.0) * 2, mask=at < n)
"""


def test_defaults_and_types_of_a_kernel_are_in_its_description(tmp_path):
    from kernels.cli import probe as command
    from kernels.described import Shape, check_shape
    from kernels.probe import prepared
    from simulator.gpu.model import predict

    source, file = tmp_path / "doubled.py", tmp_path / "doubled.yaml"
    source.write_text(LOWER)
    shape = {"blocks": "cdiv(seq_q, 64)", "reads": "seq_q * word * TWICE", "writes": "seq_q * word"}
    command(f"{source}:doubled", target="sm_90", mapping=file, arg=["x_ptr=fp32,out_ptr=fp32"], **shape)
    p = predict("doubled", on="h100", mapping=file, seq_q="64M")
    assert p.roofline_s == pytest.approx(2 * 2**26 * 4 / 3.35e12)
    # The build is of four-byte words, and of no other.
    with pytest.raises(MappingError, match="no tile for head_dim 1, bf16 on sm_90; expected fp32"):
        predict("doubled", on="h100", mapping=file, seq_q="64M", dtype="bf16")
    with pytest.raises(
        MappingError, match="--blocks: 'block_m' is not the kernel's here; write its value, 64"
    ):
        check_shape(Shape(blocks="cdiv(seq_q, block_m)"), prepared(f"{source}:doubled").constants)


def test_a_probe_of_ours_is_predicted_as_the_library_predicts_it(tmp_path):
    """The library knows our kernel's tile, resources and grid: found again from its source alone."""
    from kernels import channel
    from kernels.cli import probe as command
    from simulator.gpu.model import predict

    file = tmp_path / "weights.yaml"
    command(
        f"{channel.__file__}:channel_weights", target="sm_90", warps=8, stages=2, mapping=file,
        constexpr=["CHANNELS=128,BLOCK_C=128,BLOCK_N=64,PRECISION=tf32"], arg=["scale=scalar:fp32", "tokens=i32:16"],
        blocks="batch * heads", steps="cdiv(seq_q, BLOCK_N)", reads="2 * batch * heads * seq_q * CHANNELS * word",
        writes="batch * heads * CHANNELS ** 2 * word",
    )  # fmt: skip
    sizes = {"batch": 16, "heads": 16, "seq_q": 65536, "dtype": "bf16"}
    found = predict("channel_weights", on="h100", mapping=file, **sizes)
    known = predict("channel_attention", on="h100", head_dim=128, **sizes).launches[0]
    assert {n: found.launches[0][n] for n in ("blocks", "steps", "waves")} == {
        n: known[n] for n in ("blocks", "steps", "waves")
    }
    # The constants are looked up for a head_dim of 1 there and of 128 here.
    assert found.launches[0]["latency_s"] == pytest.approx(known["latency_s"], rel=0.1)


PRODUCT = """
import triton
import triton.language as tl

@triton.jit
def product(a, b, c, stride_a, stride_b, size: tl.int32, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows, columns, inner = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    left = a + (tl.program_id(0) * BM + rows)[:, None] * stride_a + inner[None, :]
    right = b + (tl.program_id(1) * BN + columns)[None, :] * stride_b + inner[:, None]
    total = tl.zeros((BM, BN), tl.float32)
    for k in range(0, size, BK):
        total = tl.dot(tl.load(left + k), tl.load(right + k), total)
    at = c + (tl.program_id(0) * BM + rows)[:, None] * stride_a + (tl.program_id(1) * BN + columns)[None, :]
    tl.store(at, total.to(c.dtype.element_ty))
"""


def test_products_are_counted_and_priced_by_the_type_of_their_operands(tmp_path):
    from kernels.cli import probe as command
    from simulator.gpu.model import predict
    from simulator.hardware.gpu import find_gpu

    h100 = find_gpu("h100")
    # Tensor cores a hundred times as slow decide alone; of the datasheet, 495, 989 and 1979 TFLOPS, that is how they
    # stand to each other.
    rates = replace(h100.tensor, fp16=40.96, bf16=40.96, fp8=81.92, tf32=20.48)
    source, file = tmp_path / "product.py", tmp_path / "product.yaml"
    source.write_text(PRODUCT)
    times = []
    for words in ("a=*fp8e4nv,b=*fp8e4nv,c=bf16", "a=bf16,b=bf16,c=bf16", "a=fp32,b=fp32,c=fp32"):
        command(
            f"{source}:product", target="sm_90", mapping=file, arg=[words], constexpr=["BM=128,BN=128,BK=64"], warps=8,
            blocks="m // BM * (m // BN)", steps="m // BK", sizes=["m=4096"],
        )  # fmt: skip
        found = predict("product", on=replace(h100, tensor=rates), mapping=file)
        assert found.tflops * 1e12 * found.latency_s == pytest.approx(2 * 4096**3)
        assert found.bound_by == "tensor"
        times.append(found.latency_s * found.scalar)
    # Their scalars, of other kernels, differ; launching and filling a pipeline take a thousandth.
    assert times[1] / times[0] == pytest.approx(2.0, rel=0.02)
    assert times[2] / times[1] == pytest.approx(2.0, rel=0.02)
