"""Which tiles are tried of a kernel: of its product's rows and columns, of a running sum's steps, in parts or whole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from ...hardware.gpu import Gpu
from .case import Case
from .structure import Structure
from .tiling import STEP, Tiling

# Rows and columns of a product's tile that are tried, and elements of a tile without a product. Assumed: the sizes
# that kernels of this package and of others take.
_SIDES = (256, 128, 64, 32, 16)
_FLAT = (8192, 2048, 512, 128, 32, 8, 1)
# Elements of a tile of terms: of those that are tried flat, the largest.
_TERMS = _FLAT[0]


def tilings(case: Case, structure: Structure, gpu: Gpu) -> Iterator[Tiling]:
    """Yield what to try: tiles, steps of a running sum, and parts of sums where blocks do not fill the SMs."""
    scans = (1, STEP) if structure.running else (1,)
    for tile, scanned in itertools.product(_tiles(case, structure), scans):
        for step in _steps(case, structure, tile):
            whole = Tiling(case, structure, tile, scanned=scanned, step=step)
            yield whole
            most = min(gpu.sms // (whole.blocks * case.batch), whole.most_parts)
            for power in range(1, most.bit_length()):
                yield Tiling(case, structure, tile, parts=2**power, step=step)


def _steps(case: Case, structure: Structure, tile: Mapping[str, int]) -> Iterator[int]:
    """Yield how many terms of a sum without products are tried at a time: the usual ones, and a whole tile of them."""
    yield STEP
    sums = (e for e in structure.einsums if structure.summed_in_products.isdisjoint(e.reduced))
    longest = max(
        (math.prod(case.extents[v] for v in e.reduced if v in structure.walked) for e in sums), default=1
    )
    terms = _TERMS // math.prod(min(n, case.extents[v]) for v, n in tile.items())
    if min(terms, longest) > STEP:
        yield terms


def _tiles(case: Case, structure: Structure) -> Iterator[dict[str, int]]:
    """Yield extents of tiles to try, of the variables that tell blocks apart."""
    seen = set()
    for sides in dict.fromkeys(_sides(structure, first) for first in range(max(1, len(structure.products)))):
        options = _SIDES if any(sides) else _FLAT
        rest = () if any(sides) else structure.blocks
        used = [s for s in (*sides, rest) if s]
        for lengths in itertools.product(options, repeat=len(used)):
            tile: dict[str, int] = {}
            for side, length in zip(used, lengths, strict=True):
                tile |= _spread(case, side, length)
            key = tuple(sorted(tile.items()))
            if key not in seen:
                seen.add(key)
                yield tile


def _spread(case: Case, side: Sequence[str], length: int) -> dict[str, int]:
    """Return a tile of about a length along one side, the last of its variables filled first."""
    tile = {}
    for v in reversed(side):
        tile[v] = min(case.extents[v], max(length, 1))
        length //= tile[v]
    return tile


def _sides(structure: Structure, first: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the variables that tell blocks apart and are rows of a product, and those that are columns.

    Args:
        first: the product that is asked first; the others add what it has not.
    """
    blocks = set(structure.blocks)
    rows: dict[str, None] = {}
    columns: dict[str, None] = {}
    products = structure.products
    for product in (*products[first:], *products[:first]):
        one, other = ([v for v in side if v in blocks] for side in (product.rows, product.columns))
        if set(one) & set(columns) or set(other) & set(rows):
            one, other = other, one  # the transposed product
        rows |= dict.fromkeys(v for v in one if v not in columns)
        columns |= dict.fromkeys(v for v in other if v not in rows)
    return tuple(rows), tuple(columns)
