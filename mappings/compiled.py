"""Compiled resources looked up for a tile: what the compiler made of a kernel, where somebody has compiled it."""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .gpu import LIBRARY, KernelMapping
from .tiles import KernelResources, LoopWork, TileMapping

TABLES = ("resources.csv", "tutorial_resources.csv")

# Both 16-bit types compile to the same loops.
_COMPILED_ALIKE = {"fp16": "bf16", "bf16": "fp16"}


def with_compiled(
    mapping: KernelMapping,
    tile: TileMapping,
    *,
    head_dim: int,
    target: str,
    dtype: str,
    causal: bool,
    window: bool,
    direction: str = "fwd",
) -> TileMapping:
    """Return the tile with its compiled resources, or as it is where nobody compiled it or its file states them.

    The tables hold builds by kernel, target, operand type, head dimension and tile. A mapping names the kernels that
    are its own; the first of them with a build of the tile tells.

    Args:
        target: the device's architecture; a build for an older one of its generation runs on it as it is.

    Source: CUDA C++ Programming Guide, "Binary Compatibility": a build for X.y runs on X.z with z >= y.

    >>> from .gpu import find_kernel_mapping
    >>> triton = find_kernel_mapping("flash_attention", "triton")
    >>> like = {"head_dim": 128, "target": "sm_90", "dtype": "bf16", "causal": True, "window": False}
    >>> with_compiled(triton, triton.tile(**like), **like).resources.registers
    215
    >>> with_compiled(triton, TileMapping(query=80, key=48), **like).resources is None
    True
    """
    names = mapping.compiled if direction == "fwd" else mapping.compiled_backward
    if tile.resources is not None or not names:
        return tile
    mask = "causal window" if window else "causal" if causal else "dense"
    wide = mapping.width(head_dim)
    found = _found(names, mask, wide, target, dtype, (tile.query, tile.key, tile.warps, tile.stages))
    return tile if found is None else replace(tile, resources=found)


@functools.lru_cache(maxsize=4096)
def _found(
    names: tuple[str, ...], mask: str, head_dim: int, target: str, dtype: str, shape: tuple[int, ...]
) -> KernelResources | None:
    builds = _builds()
    keys = (
        (name, variant, made_for, types, head_dim, *shape)
        for name in names
        for made_for in builds_for(target)
        for types in (dtype, _COMPILED_ALIKE.get(dtype, dtype))
        for variant in (mask, "")
    )
    return next((builds[key] for key in keys if key in builds), None)


def compiled_tile(name: str, *, head_dim: int, target: str, dtype: str) -> TileMapping | None:
    """Return the tile with which a kernel is built for a device, and its resources; None where nobody compiled it.

    Args:
        name: "kernel" or "kernel/variant" in the tables.
        head_dim: the build of the next larger one serves, or else of the largest.

    >>> tile = compiled_tile("channel_attention/weights", head_dim=96, target="sm_90", dtype="fp16")
    >>> tile.query, tile.key, tile.warps, tile.resources.registers
    (16, 64, 8, 95)
    """
    for made_for in builds_for(target):
        for types in (dtype, _COMPILED_ALIKE.get(dtype, dtype)):
            builds = _tiles_built().get((name, made_for, types))
            if builds:
                return builds[min(builds, key=lambda d: (d < head_dim, abs(d - head_dim)))]
    return None


def with_modified(mapping: KernelMapping, word: str) -> KernelMapping:
    """Return the mapping with the tiles, in a forward pass, of its kernel under modified scores.

    They are those of windows, or smaller, and loops that do more: what nobody compiled keeps the tile of plain scores.

    >>> from .gpu import find_kernel_mapping
    >>> plain, alibi = (
    ...     find_kernel_mapping("flash_attention", f"triton-cascade{word}")
    ...     .tile(head_dim=256, target="sm_100", dtype="bf16", causal=True, window=False)
    ...     for word in ("", " alibi")
    ... )
    >>> plain.query, alibi.query, alibi.resources.loop.fma > 0
    (128, 64, True)
    """
    own = []
    for tile in (t for t in mapping.tiles if t.window is not False and t.direction in ("", "fwd")):
        for target, dtype in itertools.product(tile.targets, tile.dtypes):
            kind: dict[str, Any] = {"head_dim": tile.head_dim, "target": target, "dtype": dtype}
            for name in mapping.compiled:
                found = _built_for(f"{name}/causal {word}", **kind)
                if found is not None:
                    shape: dict[str, Any] = {
                        n: getattr(found, n) for n in ("query", "key", "warps", "stages", "resources")
                    }
                    only: dict[str, Any] = {
                        "targets": (target,),
                        "dtypes": (dtype,),
                        "window": None,
                        "direction": "fwd",
                    }
                    own.append(replace(tile, **shape, **only))
    return replace(mapping, tiles=(*own, *mapping.tiles))


def _built_for(name: str, *, head_dim: int, target: str, dtype: str) -> TileMapping | None:
    """Return the tile and resources of a kernel for exactly this head dimension."""
    for made_for in builds_for(target):
        for types in (dtype, _COMPILED_ALIKE.get(dtype, dtype)):
            found = _tiles_built().get((name, made_for, types), {}).get(head_dim)
            if found is not None:
                return found
    return None


def compiled_targets(name: str) -> dict[str, tuple[str, ...]]:
    """Return the types that a kernel is built for, by target.

    >>> compiled_targets("channel_attention/weights")["sm_90"]
    ('bf16', 'fp16', 'fp32')
    """
    found: dict[str, set[str]] = {}
    for built, target, dtype in _tiles_built():
        if built == name:
            found.setdefault(target, set()).update(
                (dtype, *(t for t, as_ in _COMPILED_ALIKE.items() if as_ == dtype))
            )
    return {target: tuple(sorted(types)) for target, types in sorted(found.items())}


@functools.cache
def _tiles_built() -> dict[tuple[str, str, str], dict[int, TileMapping]]:
    """Return the tiles of the tables by kernel, target and type, and by head dimension."""
    out: dict[tuple[str, str, str], dict[int, TileMapping]] = {}
    for (name, _, target, dtype, head_dim, *shape), resources in _builds().items():
        query, key, warps, stages = shape
        tile = TileMapping(query, key, warps, stages, resources=resources)
        out.setdefault((name, target, dtype), {}).setdefault(head_dim, tile)
    return out


def builds_for(target: str) -> Iterator[str]:
    """Yield the targets whose builds run on a device, its own first.

    >>> list(builds_for("sm_103"))
    ['sm_103', 'sm_102', 'sm_101', 'sm_100']
    """
    generation, minor = target[:-1], target[-1]
    return (f"{generation}{n}" for n in range(int(minor), -1, -1))


@functools.cache
def _builds() -> dict[tuple[Any, ...], KernelResources]:
    """Return every build of the tables by kernel, mask, target, type, head dimension, tile, warps and stages."""
    out: dict[tuple[object, ...], KernelResources] = {}
    for table in TABLES:
        with (LIBRARY / table).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                name, mask = _name_and_mask(row["kernel"], row["variant"])
                shape = (int(row[n]) for n in ("head_dim", "block_m", "block_n", "warps", "stages"))
                out[(name, mask, row["target"], row["dtype"], *shape)] = _resources(row)
    return out


def _name_and_mask(kernel: str, variant: str) -> tuple[str, str]:
    """Return what mappings call a build, and the mask that it is for.

    >>> _name_and_mask("flash_attention", "causal window"), _name_and_mask("decode_attention", "split")
    (('flash_attention', 'causal window'), ('decode_attention/split', ''))
    >>> _name_and_mask("flash_attention_gradients", "queries, dense")
    ('flash_attention_gradients/queries', 'dense')
    """
    part, _, mask = variant.rpartition(", ")
    if mask in ("dense", "causal", "causal window"):
        return f"{kernel}/{part}" if part else kernel, mask
    return f"{kernel}/{variant}", ""


def _resources(row: dict[str, str]) -> KernelResources:
    loop = LoopWork(
        instructions=int(row["loop_instructions"]),
        tensor=int(row["loop_tensor"]),
        special=int(row["loop_special"]),
        fma=int(row["loop_fma"]),
        alu=int(row["loop_alu"]) + int(row["loop_convert"]),
        local=int(row["loop_local"]),
        masked_instructions=int(row["masked_loop_instructions"] or 0),
    )
    return KernelResources(
        registers=int(row["registers"]),
        shared_bytes=int(row["shared_bytes"]),
        stack_bytes=int(row["stack_bytes"]),
        tensor_memory_columns=int(row["tensor_memory_columns"]),
        loop=loop if loop.instructions else None,
        made_by=f"{row['target']} {row['source']}",
    )
