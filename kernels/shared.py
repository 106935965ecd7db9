"""Shared memory of a tile before it is compiled: the least a thread block holds, so that no tile that fits is left out.

The rule was read off Triton's own intermediate text of attention and is held by the compiled table; it bounds from
below: scratch of layouts and of reductions, and operands split for float32 products, come on top.
"""

from __future__ import annotations

import csv
import functools
from importlib import resources

from .aot import WORD_BYTES
from .tiles import Tile

# Generations whose tensor cores read operands of whole warp groups in shared memory (wgmma, tcgen05).
READ_IN_PLACE = (9, 10)
# Fewer rows than these take mma.sync there too. Source: PTX ISA, wgmma and tcgen05: 64 rows are the least.
ROWS_IN_PLACE = 64


def swept_bytes(tile: Tile, *, head_dim: int, word_bytes: int, target: int) -> int:
    """Return what a block that sweeps keys and values for its queries holds at least.

    Queries stay in shared memory on every generation: the loop loads them into registers again each step. Of keys and
    values, mma.sync copies a step into registers, so that all but one of the stages are buffers; wgmma and tcgen05 read
    them in place, and need the last one too. With a single stage, values take the place of keys.

    Args:
        target: compute capability times ten.

    >>> tile = Tile(128, 64, 8, 3)
    >>> [swept_bytes(tile, head_dim=128, word_bytes=2, target=t) // 1024 for t in (80, 90)]
    [96, 128]
    """
    in_place = target // 10 in READ_IN_PLACE and word_bytes == 2 and tile.block_m >= ROWS_IN_PLACE
    buffers = 2 * (tile.stages if in_place else tile.stages - 1) if tile.stages > 1 else 1
    return (tile.block_m + buffers * tile.block_n) * head_dim * word_bytes


def least_bytes(
    kernel: str, variant: str, tile: Tile, *, head_dim: int, word_bytes: int, target: int
) -> float:
    """Return the least shared memory of a build: what a sweep holds, or less where builds of the variant took less.

    A kernel whose tile has other roles, or that holds one operand only, takes a smaller part of it, the same at any
    size: the smallest part among the builds that were compiled.
    """
    swept = swept_bytes(tile, head_dim=head_dim, word_bytes=word_bytes, target=target)
    return min(1.0, _compiled_parts().get((kernel, variant), 1.0)) * swept


@functools.cache
def _compiled_parts() -> dict[tuple[str, str], float]:
    """Return the smallest part of a sweep's shared memory that the builds of a variant take, by kernel and variant."""
    text = resources.files("mappings").joinpath("library/gpu/resources.csv").read_text(encoding="utf-8")
    parts: dict[tuple[str, str], float] = {}
    for r in csv.DictReader(text.splitlines()):
        tile = Tile(int(r["block_m"]), int(r["block_n"]), int(r["warps"]), int(r["stages"]))
        swept = swept_bytes(
            tile,
            head_dim=int(r["head_dim"]),
            word_bytes=WORD_BYTES[r["dtype"]],
            target=int(r["target"].removeprefix("sm_")),
        )
        # Kernels without heads hold pixels, which no head size counts.
        part = int(r["shared_bytes"]) / swept if swept else 0.0
        key = r["kernel"], r["variant"]
        parts[key] = min(part, parts.get(key, part))
    return parts
