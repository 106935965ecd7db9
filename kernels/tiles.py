"""Shipped tile shapes: which tile, warps and stages a kernel takes for a head size, word size and GPU generation."""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from einsum_cascade.errors import KernelError, nearest

if TYPE_CHECKING:
    import torch

# In the interpreter a tile is only a loop step: small ones make short sequences take several steps and ragged ends.
INTERPRETED = (16, 16)


@dataclass(frozen=True, slots=True)
class Tile:
    """Work of one thread block and one step.

    Attributes:
        block_m: queries (or rows) of a thread block.
        block_n: keys of a step.
        warps: warps of a thread block.
        stages: depth of the software pipeline over key tiles.
    """

    block_m: int
    block_n: int
    warps: int = 4
    stages: int = 2

    def __post_init__(self) -> None:
        for name in ("block_m", "block_n", "warps"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise KernelError(f"{name}={value}: expected a power of two")
        if not is_legal(self.block_m, self.block_n):
            raise KernelError(
                f"tile {self.block_m}x{self.block_n}: a tile product needs at least 16 each way"
            )


def is_legal(block_m: int, block_n: int) -> bool:
    """Tell whether both sides are as long as a product of tiles on the tensor cores needs.

    >>> is_legal(16, 128), is_legal(8, 128)
    (True, False)
    """
    return min(block_m, block_n) >= 16


def spread(tokens: int, layout: Sequence[int]) -> tuple[int, ...]:
    """Return a tile of that many tokens (a power of two), as near to a cube as powers of two are.

    >>> spread(128, (48, 80)), spread(64, (30, 48, 80))
    ((8, 16), (4, 4, 4))
    """
    bits, rank = tokens.bit_length() - 1, len(layout)
    return tuple(2 ** ((bits + i) // rank) for i in range(rank))


@dataclass(frozen=True, slots=True)
class Shipped:
    """One row of tiles.csv: up to `head_dim`, from compute capability `target` (90 is 9.0) on.

    Attributes:
        window: a row for windows only; where a kernel has none of these, windows take the others.
        compiled: compiled for exactly this head size and target, and found not to spill; the others are guesses.
    """

    kernel: str
    target: int
    head_dim: int
    word_bytes: int
    window: bool
    tile: Tile
    compiled: bool

    @property
    def key(self) -> tuple[object, ...]:
        """What the row is found by; the table holds each once."""
        return self.kernel, self.target, self.head_dim, self.word_bytes, self.window


@functools.cache
def shipped() -> tuple[Shipped, ...]:
    """Return every shipped choice, in the order of the table."""
    text = resources.files(__package__).joinpath("tiles.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(
        Shipped(
            r["kernel"],
            int(r["target"]),
            int(r["head_dim"]),
            int(r["word_bytes"]),
            r["window"] == "1",
            Tile(int(r["block_m"]), int(r["block_n"]), int(r["warps"]), int(r["stages"])),
            r["compiled"] == "1",
        )
        for r in rows
    )


def pick(kernel: str, *, head_dim: int, word_bytes: int, target: int, window: bool = False) -> Tile:
    """Return the shipped tile: of the newest generation not above `target`, the least head size that holds.

    Args:
        target: compute capability times ten; 90 is 9.0.
        window: prefer a row made for windows.

    Raises:
        KernelError: no row fits.

    >>> pick("flash_attention", head_dim=80, word_bytes=2, target=90).block_m
    128
    """
    return row_of(kernel, head_dim=head_dim, word_bytes=word_bytes, target=target, window=window).tile


def row_of(kernel: str, *, head_dim: int, word_bytes: int, target: int, window: bool = False) -> Shipped:
    """Return the whole row of `pick`.

    Raises:
        KernelError: no row fits.
    """
    rows = legal(kernel, word_bytes=word_bytes, target=target, window=window)
    fits = [r for r in rows if r.head_dim >= head_dim]
    if not fits:
        largest = max((r.head_dim for r in rows), default=0)
        raise KernelError(
            f"{kernel}: no tile that spills no registers is known for head_dim={head_dim}, {word_bytes}-byte words, "
            f"sm_{target}; the largest head_dim is {largest}; tile=Tile(...) runs one that spills"
        )
    return min(fits, key=lambda r: r.head_dim)


def alike(target: int) -> int:
    """Return the compute capability, times ten, whose rows serve a GPU that has none of its own: one like it.

    Consumer Blackwell (12.x) multiplies as Ampere does, and has neither tensor memory nor more shared memory than Ada.
    Source: PTX ISA, tcgen05 and wgmma; CUDA C++ Programming Guide, technical specifications per compute capability.

    >>> alike(89), alike(103), alike(120)
    (89, 103, 89)
    """
    return 89 if target >= 120 else target


def legal(kernel: str, *, word_bytes: int, target: int, window: bool) -> list[Shipped]:
    """Return the rows of a kernel and word for one generation; the tile of another one may spill on it.

    Of rows for one head size, that of the nearest target counts: GPUs of one generation differ in shared memory.
    Where a kernel has rows for windows, a window has no other.

    Raises:
        KernelError: no such kernel.
    """
    rows = [r for r in shipped() if r.kernel == kernel]
    if not rows:
        raise KernelError(f"no tiles for kernel '{kernel}': {nearest(kernel, {r.kernel for r in shipped()})}")
    like = alike(target)
    family = max((r.target // 10 for r in rows if r.target <= like), default=0)
    serving = [r for r in rows if r.target <= like and r.target // 10 == family]
    serving += [r for r in rows if like < r.target <= target and r.target // 10 == target // 10]
    nearest_first = sorted((r for r in serving if r.word_bytes == word_bytes), key=lambda r: -r.target)
    found: dict[tuple[int, bool], Shipped] = {}
    for r in nearest_first:
        found.setdefault((r.head_dim, r.window), r)
    windowed = window and any(w for _, w in found)
    return [r for (_, w), r in found.items() if w == windowed]


def choose(
    kernel: str, *, head_dim: int, dtype: torch.dtype, device: torch.device, window: bool = False
) -> Tile:
    """Return the shipped tile for a device, or a small one for the interpreter."""
    if device.type != "cuda":
        return Tile(*INTERPRETED)
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    target = 10 * major + minor
    return fitting(kernel, head_dim=head_dim, word_bytes=dtype.itemsize, target=target, window=window)


def fitting(kernel: str, *, head_dim: int, word_bytes: int, target: int, window: bool = False) -> Tile:
    """Return the tile of `fitting_row`."""
    row = fitting_row(kernel, head_dim=head_dim, word_bytes=word_bytes, target=target, window=window)
    return row.tile


def fitting_row(kernel: str, *, head_dim: int, word_bytes: int, target: int, window: bool = False) -> Shipped:
    """Return the shipped row that serves a head size, whatever it is.

    Rows that are no multiple of 16 words cannot be loaded in vectors, which costs registers: such a head takes the tile
    of the next larger size where there is one, and the one for windows.
    """
    if head_dim % 16:
        window = True
        largest = max(
            (r.head_dim for r in legal(kernel, word_bytes=word_bytes, target=target, window=window)),
            default=0,
        )
        larger = 2 * (1 << (head_dim - 1).bit_length())
        head_dim = max(head_dim, min(larger, largest))
    return row_of(kernel, head_dim=head_dim, word_bytes=word_bytes, target=target, window=window)
