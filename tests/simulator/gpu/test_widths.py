"""Head dimensions that a kernel's tiles are not made for: padded to the next one, as the kernels pad them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import MappingError
from kernels.registry import Case
from mappings.gpu import KernelMapping, kernel_mappings
from mappings.tiles import TileMapping
from simulator.gpu.grid import predict_grid
from simulator.gpu.model import predict
from tests.support.launches import launches_of

SIZES = {"batch": 2, "heads": 8, "seq_q": 2048, "seq_kv": 2048, "dtype": "bf16"}
PADDED = sorted({(m.kernel, m.name) for m in kernel_mappings() if m.widths and m.kernel == "flash_attention"})


def counted(head_dim: int) -> float:
    """Operations of the products of our kernel, as Triton's interpreter counts them."""
    sizes = {"heads": 1, "seq_q": 32, "seq_kv": 32, "head_dim": head_dim}
    (launch,) = launches_of("flash_attention", Case("bf16", sizes, {}))
    return float(launch.product_flops.sum())


@pytest.mark.parametrize("head_dim", [24, 40, 72])
def test_products_are_as_wide_as_the_kernel_makes_them(head_dim):
    """What the interpreter counts for this head dimension and for 64 has the ratio of the predicted cycles."""
    cycles = [
        predict(
            "flash_attention",
            on="h100",
            implementation="triton-cascade",
            tile=TileMapping(query=64, key=64),
            head_dim=d,
            **SIZES,
        ).pipes_cycles["tensor"]
        for d in (head_dim, 64)
    ]
    assert cycles[0] / cycles[1] == counted(head_dim) / counted(64)


@pytest.mark.parametrize("name", [name for _, name in PADDED])
@settings(max_examples=6, deadline=None)
@given(st.data())
def test_a_padded_head_takes_the_pipes_of_the_wide_one_and_fewer_bytes(name, data):
    mapping = next(m for m in kernel_mappings() if m.name == name)
    below, width = data.draw(
        st.sampled_from(list(zip((0, *mapping.widths), mapping.widths[:4], strict=False)))
    )
    head_dim = data.draw(st.integers(below + 1, width))
    narrow, wide = (
        predict("flash_attention", on="h100", mapping=mapping, head_dim=d, **SIZES) for d in (head_dim, width)
    )
    assert narrow.pipes_cycles == wide.pipes_cycles
    assert narrow.scalar == wide.scalar
    assert narrow.latency_s <= wide.latency_s
    assert narrow.roofline_s * width >= wide.roofline_s * head_dim * (
        1 - 1e-12
    )  # the work asked for is the head's


def test_a_grid_pads_too():
    narrow, wide = (
        predict_grid("flash_attention", on="h100", seq=[4096], heads=[64], head_dim=d, causal=1)
        for d in (80, 128)
    )
    # Both are bound by products; what remains is the launch and the bytes, some percent.
    assert 0.97 * wide.latency_s[0] < narrow.latency_s[0] <= wide.latency_s[0]


def test_widths_rise():
    with pytest.raises(ValueError, match="widths: expected numbers from 1 that rise"):
        KernelMapping("k", "k", ("*",), "mine", tiles=(TileMapping(query=64, key=64),), widths=(64, 32))


def test_a_head_beyond_the_widest_stays_as_it_is():
    mapping = next(m for m in kernel_mappings() if m.name == "flash_attention_3")
    assert mapping.width(300) == 300
    with pytest.raises(MappingError, match="head_dim 2048"):
        predict("flash_attention", on="h100", mapping=mapping, head_dim=2048, **SIZES)
