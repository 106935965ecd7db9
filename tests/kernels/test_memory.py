"""What only an interpreter forgives: memory beside a tensor, programs that meet, offsets beyond 32 bits."""

from __future__ import annotations

import os
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import GridExecutor
from watching import watching

from einsum_cascade.errors import KernelError
from kernels import check, primitives, registry
from kernels.attention import flash_attention
from kernels.decode import decode_attention
from kernels.interpreter import interpreting
from kernels.tiles import Tile


def smallest(name):
    """The check of a kernel with the fewest elements whose sizes still are odd."""
    cases = list(registry.load(f"cases:{name}")())
    return min(cases, key=lambda c: np.prod([n for n in c.sizes.values() if isinstance(n, int)]))


@pytest.mark.parametrize("name", [e.name for e in registry.entries()])
def test_programs_stay_inside_their_tensors_and_out_of_each_other_s_way_in_any_order(name):
    entry, case = registry.find(name), smallest(name)
    inputs = registry.load(entry.inputs)(**case.sizes, dtype=case.dtype, extras=case.extras, seed=0)
    results = []
    for backwards in (False, True):
        with watching(backwards=backwards) as watch:
            results.append(registry.load(entry.launcher)(**inputs, **case.options, empty=check.poisoned))
        assert watch.launches
        assert not watch.faults
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def copy_rows(x_ptr, out_ptr, n, ahead: tl.constexpr, MEET: tl.constexpr):
    """Each of so many programs writes one number, read `ahead` of its place; MEET: all of them to one place."""
    i = tl.program_id(0)
    tl.store(out_ptr + (0 if MEET else i), tl.load(x_ptr + i + ahead))


@pytest.mark.parametrize(
    ("ahead", "meet", "own", "fault"),
    [
        (0, False, False, None),
        (1, False, False, "reads beside every tensor"),
        (0, True, False, "two programs write one place"),
        (1, False, True, "a program reads what another writes"),
    ],
)
def test_the_watch_sees_what_it_is_for(ahead, meet, own, fault):
    # A tensor of its own before and behind, so that one place further is nobody's.
    x = torch.arange(8.0)
    x = torch.arange(9.0) if own else x
    with interpreting(), watching() as watch:
        kernel = triton.runtime.interpreter.InterpretedFunction(copy_rows)
        kernel[(8,)](x, x if own else torch.zeros(8), 8, ahead, meet)
    assert watch.faults == ([] if fault is None else [f for f in watch.faults if fault in f])
    assert bool(watch.faults) == (fault is not None)


# What a far row or head is read by: each kernel that takes strides.
CALLS = {
    "flash_attention": {"causal": True, "tile": Tile(128, 64)},
    "unfused_attention": {"tile": Tile(128, 64)},
    "linear_attention": {"tile": Tile(128, 32)},
    "prefix_attention": {"tile": Tile(16, 64)},
    "softplus_attention": {"tile": Tile(128, 64)},
    "landmark_attention": {"tile": Tile(128, 64)},
    "neural_memory": {"chunk": 64, "tile": Tile(64, 32)},
    "decode_attention": {"splits": 2, "tile": Tile(16, 64)},
    "selected_attention": {"block": 64},
}


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """Half words beyond 2^32 of them, of which a few pages are ever written; not copied where a launch ends."""
    path = tmp_path_factory.mktemp("far") / "words"
    path.touch()
    os.truncate(path, 2 * 3 * 2**31)
    words = torch.from_numpy(np.memmap(path, dtype=np.float16, mode="r+"))
    with mock.patch.object(GridExecutor, "_restore_args_dev", lambda *_: None):
        yield words
    path.unlink()


@pytest.mark.parametrize(
    ("row", "head", "tokens"), [(16, 2**31 + 64, 40), (2**23 - 64, 64, 290)], ids=["far heads", "far rows"]
)
@pytest.mark.parametrize("name", CALLS)
def test_rows_and_heads_may_lie_further_apart_than_32_bits_reach(name, row, head, tokens, far):
    entry = registry.find(name)
    few = {"decode_attention": 3, "selected_attention": 5}.get(name, tokens)
    extras = ("eta", "theta", "alpha") if name == "neural_memory" else ()
    sizes = {"heads": 2 if row == 16 else 1, "seq_q": few, "seq_kv": tokens, "head_dim": 16}
    inputs = registry.load(entry.inputs)(**sizes, dtype="fp16", extras=extras)
    launcher = partial(registry.load(entry.launcher), **CALLS[name])
    near = launcher(**inputs)
    for i, key in enumerate("qkv"):
        t = inputs[key]
        if t.ndim == 4:
            inputs[key] = torch.as_strided(
                far, t.shape, (2**32, head, row, 1), 2**14 * i if row == 16 else 16 * i
            )
            inputs[key].copy_(t)
    for a, b in zip(near, launcher(**inputs), strict=True):
        assert torch.equal(a, b)


def test_rows_too_far_apart_for_32_bits_inside_a_tile_are_refused(far):
    q = torch.as_strided(far, (1, 1, 200, 16), (2**32, 2**32, 2**23, 1))
    with pytest.raises(KernelError, match=r"q: expected rows less than 8388608 elements apart.*q.contiguous"):
        flash_attention(q, q, q)
    near = torch.zeros(1, 1, 300, 16, dtype=torch.float16)
    q = torch.as_strided(far, near.shape, (2**32, 2**32, 2**23 - 64, 1))
    with pytest.raises(KernelError, match="expected few queries"):
        decode_attention(q, near, near)


def test_more_programs_than_a_launch_may_have_are_refused():
    with pytest.raises(KernelError, match="2147483648 thread blocks, more than the 2147483647 of a launch"):
        primitives.launch(primitives.fold, 2**31, Tile(16, 16))()
