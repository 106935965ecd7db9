"""The clock's kernel compiles and keeps its loop; it can only run on a GPU."""

from __future__ import annotations

import pytest
import torch

from kernels import aot, ceilings
from kernels.tiles import Tile


def test_the_clock_is_read_before_and_after_a_loop_that_stays():
    build = aot.Build(
        "clock", "spin", 0, "fp32", Tile(16, 16, 1, 1), ceilings.spin, {"out_ptr": "*i64"}, (), (), {}
    )
    found = aot.compile_build(build, "sm_90")
    assert not found.spills
    assert found.totals["fma"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_clock_is_some_gigahertz():
    assert 2e8 < ceilings.clock_hz() < 4e9
