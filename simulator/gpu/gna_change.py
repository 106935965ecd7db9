"""What a neighbourhood-attention step takes where nobody measured it: on a changed GPU, with other heads."""

from __future__ import annotations

import functools
from dataclasses import fields, replace

from einsum_cascade.errors import HardwareError
from mappings.gpu import find_kernel_mapping

from ..hardware.gpu import Gpu, find_gpu
from .gna_backends import Backend, Constants, TilePair, constants
from .tile import TileTime, tile_time

_KERNEL, _DTYPE = "flash_attention", "fp16"
# Of all launches that the constants of the kernels rest on. That a step changes with it as products and exponentials
# one after the other do was chosen after looking at FlashAttention-3's rows of H100 in tables/efficiency.csv.
MEASURED_HEAD_DIM = 128


@functools.cache
def as_described(gpu: Gpu) -> Gpu:
    """Return the GPU of the library that bears this name, which is what was measured; the GPU itself where none does.

    >>> as_described(replace(find_gpu("h100"), exp_per_cycle=32)).exp_per_cycle
    16.0
    """
    try:
        found = find_gpu(gpu.name)
    except HardwareError:
        return gpu
    return found if found.name == gpu.name else gpu


@functools.cache
def step_change(backend: Backend, gpu: Gpu, pair: TilePair, head_dim: int) -> float:
    """Return the time of a KV-tile step / its time on the same GPU as the library describes it.

    The constants of a kernel are measured, and say nothing of what bounds a step. So a changed number counts by what
    it does to the slowest pipe of the tile model, for the attention kernel that this backend is built like.

    Args:
        pair: the tiles; only how many tokens they hold matters.

    >>> from .gna_backends import backends
    >>> h100, pair = find_gpu("h100"), TilePair((16, 8), (16, 8), "example")
    >>> kernel = backends()["hopper-fna"]
    >>> slower = replace(h100, exp_per_cycle=4)
    >>> step_change(kernel, h100, pair, 128), round(step_change(kernel, slower, pair, 128), 1)
    (1.0, 2.0)
    """
    before = as_described(gpu)
    if gpu == before:
        return 1.0
    after, was = (_tile(backend, each, pair, head_dim) for each in (gpu, before))
    return after.seconds(gpu.clock_hz, 1.0) / was.seconds(before.clock_hz, 1.0)


@functools.cache
def head_dim_change(backend: Backend, gpu: Gpu, pair: TilePair, head_dim: int) -> float:
    """Return the time of a KV-tile step / its time with the head dimension that was measured, on the same GPU.

    The products of a step grow with the head dimension, its exponentials do not: in proportion to the head dimension,
    heads of 32 on a B200 would take half the time of the exponentials alone. Both are counted one after the other, as
    if kernels lost as much as they overlap: FlashAttention-3 of vLLM and SGLang on H100 reaches 0.55 to 0.57 of the
    tensor rate with heads of 64, 0.73 to 0.80 of 128 and 0.75 to 0.86 of 256 (tables/efficiency.csv, bf16), so that
    a step takes 0.64 to 0.72, 1, and 1.7 to 2.1 of the time.

    >>> from .gna_backends import backends
    >>> h100, pair = find_gpu("h100"), TilePair((16, 8), (16, 8), "example")
    >>> [round(head_dim_change(backends()["hopper-fna"], h100, pair, n), 2) for n in (32, 64, 128, 256)]
    [0.5, 0.67, 1.0, 1.67]
    """
    asked, measured = (_tile(backend, gpu, pair, n).serial for n in (head_dim, MEASURED_HEAD_DIM))
    return asked / measured


def constants_on(backend: Backend, gpu: Gpu) -> Constants:
    """Return the time constants of a kernel on a GPU, which may differ from the one of the library by that name.

    The start and the rate are those of the library's; `step_change` says what a step gains. Token permutation runs at
    the bandwidth of the memory.
    """
    before = as_described(gpu)
    found = constants(backend, before)
    if gpu == before:
        return found
    wider = gpu.memory_bandwidth_bytes_per_s / before.memory_bandwidth_bytes_per_s
    changed = ", ".join(
        f.name for f in fields(gpu) if f.compare and getattr(gpu, f.name) != getattr(before, f.name)
    )
    return replace(
        found,
        permute_bytes_per_s=found.permute_bytes_per_s * wider,
        baseline_factor=0.0,
        fitted=False,
        source=f"assumed: {gpu.name} with another {changed}, by the tile model; there: {found.source}",
    )


def _tile(backend: Backend, gpu: Gpu, pair: TilePair, head_dim: int) -> TileTime:
    mapping = find_kernel_mapping(_KERNEL, backend.like)
    # Only how often operands are read follows from the head dimension for which that kernel has a tile.
    words = {"target": gpu.target, "dtype": _DTYPE}
    tile = mapping.tile(head_dim=MEASURED_HEAD_DIM, causal=False, window=False, **words)
    q, kv = pair.tokens
    shaped = replace(tile, query=q, key=kv, resources=None)
    return tile_time(gpu, shaped, head_dim=head_dim, dtype=_DTYPE, per_score=mapping.per_score)
