"""Choose the tiles that are shipped: the largest that a generation's compiler fits into registers and shared memory.

What is shipped already stays where it still fits, so that a change of a kernel changes no more tiles than it must.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import registry
from .aot import SHIPPED_DTYPES, TARGETS, WORD_BYTES, Resources, compile_build
from .offline import Launch, of_row
from .registry import KernelEntry
from .steps import blocks_per_sm, rates
from .tiles import Shipped, Tile, shipped

SIDES = (128, 64, 32, 16)
# A float32 product is three TF32 products with twice as long operands each: operands of more words spill.
MOST_FLOAT32_WORDS = 4096
COLUMNS = (
    "kernel", "target", "head_dim", "word_bytes", "window", "block_m", "block_n", "warps", "stages", "compiled",
    "source",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """One row that the table of tiles should have."""

    kernel: str
    target: str
    head_dim: int
    dtype: str
    window: bool

    @property
    def key(self) -> tuple[object, ...]:
        """What the row is found by."""
        return self.kernel, TARGETS[self.target], self.head_dim, WORD_BYTES[self.dtype], self.window

    def row(self, tile: Tile) -> Shipped:
        """Return the row with a tile."""
        kernel, target, head_dim, word_bytes = (
            self.kernel,
            TARGETS[self.target],
            self.head_dim,
            WORD_BYTES[self.dtype],
        )
        return Shipped(kernel, target, head_dim, word_bytes, self.window, tile, compiled=True)


def wanted(targets: Iterable[str], *, kernels: Iterable[str] | None = None) -> Iterator[Wanted]:
    """Yield the rows of the named kernels, or of all: each head size and word, and windows where a kernel has them."""
    for entry, dtype, target in itertools.product(registry.chosen(kernels), SHIPPED_DTYPES, targets):
        if entry.build:
            windows = sorted({"window" in variant for variant in entry.variants})
            yield from (Wanted(entry.name, target, d, dtype, w) for d in entry.head_dims for w in windows)


def ladder(entry: KernelEntry, *, head_dim: int, dtype: str) -> Iterator[Tile]:
    """Yield the tiles that are tried, the largest first; a side with one choice keeps it."""
    sides = []
    for choice in (entry.choices.block_m, entry.choices.block_n):
        fits = max(16, min(32, MOST_FLOAT32_WORDS // max(head_dim, 1))) if dtype == "fp32" else SIDES[0]
        most = min(max(choice), fits)
        sides.append(choice if len(choice) == 1 else [s for s in SIDES if s <= most])
    for m, n in sorted(itertools.product(*sides), key=lambda mn: (-mn[0] * mn[1], -mn[0])):
        few = max(m, n) * max(head_dim, 16) <= 2048
        for warps, stages in ((8, 2), (8, 1), *(((4, 1),) if few else ())):
            yield Tile(m, n, warps, stages)


def choose(
    want: Wanted,
    *,
    compiled: Callable[[Any, str], Resources] = compile_build,
    launched: Callable[..., Iterable[Launch]] = of_row,
) -> tuple[Tile, int, tuple[Resources, ...]] | None:
    """Return the tile for a row, how many were refused before it, and its builds; None where every tile spills.

    Args:
        compiled: what compiles a build for a target.
        launched: what compiles the launches that take a row. They know more than the builds, of which some need more
            registers: one head a group becomes a constant, a short or odd head is loaded otherwise.
    """
    entry = registry.find(want.kernel)
    make = registry.load(entry.build)
    # What needs most registers comes last in the registry: a spill shows soonest there.
    variants = [v for v in reversed(list(entry.variants)) if ("window" in v) == want.window]
    now = (r.tile for r in shipped() if r.key == want.key and r.compiled)
    tried = dict.fromkeys([*now, *ladder(entry, head_dim=want.head_dim, dtype=want.dtype)])
    for refused, tile in enumerate(tried):
        found: list[Resources] = []
        for variant in variants:
            build = make(tile, head_dim=want.head_dim, dtype=want.dtype, variant=variant)
            found.append(compiled(build, want.target))
            if found[-1].spills or not blocks_per_sm(found[-1], rates(TARGETS[want.target])):
                break
        else:
            if all(launch.ok for launch in launched(want.row(tile), target=want.target)):
                return tile, refused, tuple(found)
    return None


def row_text(want: Wanted, tile: Tile, refused: int, version: str) -> dict[str, str]:
    """Return a row of the table of tiles."""
    larger = f"; {refused} larger or shipped before that spill" if refused else ""
    values = (*want.key[:-1], int(want.window), tile.block_m, tile.block_n, tile.warps, tile.stages, 1,
              f"no spill on {want.target} ({version}){larger}")  # fmt: skip
    return dict(zip(COLUMNS, map(str, values), strict=True))


def store(path: Path, want: Wanted, row: dict[str, str] | None) -> None:
    """Put a row into the table in place of the one of the same key, in the order of the registry; None removes it."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    key = [str(part) for part in (*want.key[:-1], int(want.window))]
    rows = [r for r in rows if [r[c] for c in COLUMNS[:5]] != key] + ([row] if row else [])
    order = {e.name: i for i, e in enumerate(registry.entries())}
    rows.sort(key=lambda r: (order[r["kernel"]], int(r["word_bytes"]), int(r["head_dim"]), r["window"],
                             int(r["target"])))  # fmt: skip
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def ship(
    path: Path,
    wants: Iterable[Wanted],
    *,
    progress: Callable[[Iterable[Wanted]], Iterable[Wanted]] = iter,
) -> tuple[list[Resources], list[Wanted]]:
    """Write the chosen tile of every row into a table of tiles; return the builds, and the rows that every tile spills.

    Each row is written when it is found, so that a stop loses one.
    """
    made: list[Resources] = []
    refused: list[Wanted] = []
    for want in progress(list(wants)):
        found = choose(want)
        if found is None:
            refused.append(want)
            store(path, want, None)
            continue
        tile, larger, builds = found
        store(path, want, row_text(want, tile, larger, builds[0].compiler))
        made += builds
    return made, refused
