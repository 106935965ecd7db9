"""What a neighbourhood-attention step gains on a GPU that differs from the one of the library that was measured."""

from __future__ import annotations

import functools
from dataclasses import fields, replace

from einsum_cascade.errors import HardwareError
from mappings.gpu import find_kernel_mapping

from ..hardware.gpu import Gpu, find_gpu
from .gna_backends import Backend, Constants, TilePair, constants
from .tile import tile_time

_KERNEL, _DTYPE = "flash_attention", "fp16"


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
    return _step_s(backend, gpu, pair, head_dim) / _step_s(backend, before, pair, head_dim)


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
        fitted=False,
        source=f"assumed: {gpu.name} with another {changed}, by the tile model; there: {found.source}",
    )


def _step_s(backend: Backend, gpu: Gpu, pair: TilePair, head_dim: int) -> float:
    mapping = find_kernel_mapping(_KERNEL, backend.like)
    tile = mapping.tile(head_dim=head_dim, target=gpu.target, dtype=_DTYPE, causal=False, window=False)
    q, kv = pair.tokens
    shaped = replace(tile, query=q, key=kv, resources=None)
    found = tile_time(gpu, shaped, head_dim=head_dim, dtype=_DTYPE, per_score=mapping.per_score)
    return found.seconds(gpu.clock_hz, 1.0)
