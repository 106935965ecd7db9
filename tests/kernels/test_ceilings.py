"""The clock's kernel compiles and keeps its loop; it can only run on a GPU."""

from __future__ import annotations

import re

import pytest
import torch

from kernels import aot, ceilings
from kernels.tiles import Tile


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_between_the_readings_of_the_clock_a_loop_is_walked(target):
    """A loop that the compiler folds away leaves two readings in a row: no time passes, and nothing is kept busy."""
    build = aot.Build(
        "clock", "spin", 0, "fp32", Tile(16, 16, 1, 1), ceilings.spin, {"out_ptr": "*i64"}, (), (), {}
    )
    assert not aot.compile_build(build, target).spills
    cubin = aot._compiled(build, aot.TARGETS[target])[0].asm["cubin"]
    text = aot._read(cubin, "nvdisasm", "-c")
    readings = [m.start() for m in re.finditer("SR_CLOCK", text)]
    between = text[readings[0] : readings[-1]]
    # A branch to a label that stands before it, and multiplications on the way.
    loops = [
        m for m in re.finditer(r"BRA\S* .*`\((\.L_\w+)\)", between) if f"{m[1]}:" in between[: m.start()]
    ]
    assert loops, between
    assert "FFMA" in between[between.index(f"{loops[0][1]}:") : loops[0].start()]


def test_a_timer_that_stands_still_is_no_division_by_zero(monkeypatch):
    """The global timer of some devices moves in steps; no clock is better than no campaign."""

    class Spin:
        def __getitem__(self, grid):
            return lambda out, spins, num_warps: out.copy_(torch.tensor([5_000_000, 0, 1]))

    monkeypatch.setattr(ceilings, "spin", Spin())
    monkeypatch.setattr(ceilings, "SIDE", 16)
    for name in ("randn", "zeros"):
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, plain=plain, device, **k: plain(*a, **k))
    assert ceilings.clock_hz() == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_clock_is_some_gigahertz():
    assert 2e8 < ceilings.clock_hz() < 4e9
