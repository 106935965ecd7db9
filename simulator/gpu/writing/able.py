"""Which kernels of a plan have a form in Triton."""

from __future__ import annotations

import math
from typing import TypeAlias

from einsum_cascade.declarations import rank_of

from ..fusion.structure import Structure, Unit, structure_of
from ..fusion.tiling import Tiling
from .lanes import lanes_of, sides
from .memory import Memory
from .nest import write_kernels
from .terms import CannotWriteError

# Elements of a tile that Triton takes, at the most. Source: triton.language.core, TRITON_MAX_TENSOR_NUMEL.
MOST_ELEMENTS = 2**20
# A structure, whether its sums are in parts, along what a block walks, and of what it has more than one value.
_Loops: TypeAlias = tuple[int, bool, tuple[str, ...], frozenset[str]]


class Writable:
    """Tells for a tiling whether its kernel can be written; of tilings with the same loops it is found out once.

    Args:
        word: type of tensors in memory.
    """

    def __init__(self, memory: Memory, word: str) -> None:
        """See the class."""
        self._memory, self._word = memory, word
        self._reasons: dict[_Loops, tuple[Structure, CannotWriteError | None]] = {}

    def __call__(self, tiling: Tiling) -> bool:
        """Tell whether a tiling can be written."""
        return self._reason(tiling) is None and _fits(tiling)

    def require(self, unit: Unit) -> None:
        """Refuse a text of which one unit alone has no form in Triton.

        Raises:
            CannotWriteError: naming the Einsum, and what there is no form for.
        """
        structure = structure_of(self._memory.cascade, (unit,))
        if structure is None:
            raise CannotWriteError(f"{', '.join(sorted(unit.names))}: no loops compute it")
        least = Tiling(self._memory.case, structure, {})
        reason = self._reason(least)
        if reason is not None:
            raise reason
        _require_fit(least)

    def _reason(self, tiling: Tiling) -> CannotWriteError | None:
        """Return why a structure has no form, or None."""
        lanes = lanes_of(tiling)
        key = (id(tiling.structure), tiling.parts > 1, lanes.stepped, frozenset(lanes.lanes))
        if key not in self._reasons:
            names = {e.name for e in tiling.structure.einsums}
            try:
                write_kernels("kernel", tiling, self._memory, names, word=self._word)
                self._reasons[key] = (tiling.structure, None)
            except CannotWriteError as reason:
                self._reasons[key] = (tiling.structure, reason)
        return self._reasons[key][1]


def _fits(tiling: Tiling) -> bool:
    """Tell whether no tile of what a kernel computes has more elements than Triton takes."""
    return all(math.prod(tile.values()) <= MOST_ELEMENTS for tile in _tiles(tiling).values())


def _require_fit(least: Tiling) -> None:
    """Refuse what has more elements before a block than Triton takes, though the block has least of it.

    Raises:
        CannotWriteError: naming the Einsum, and along what it would have how many.
    """
    for name, tile in _tiles(least).items():
        if (elements := math.prod(tile.values())) > MOST_ELEMENTS:
            sides = ", ".join(f"{n} of {rank_of(v)}" for v, n in tile.items())
            raise CannotWriteError(
                f"{name}: a block cannot take less of it at a time than {elements:,} elements ({sides}); Triton takes "
                f"{MOST_ELEMENTS:,} at the most, so write it at smaller sizes"
            )


def _tiles(tiling: Tiling) -> dict[str, dict[str, int]]:
    """Return the lanes of the tile that each Einsum of a kernel is computed in.

    Of a product on tensor cores the terms are nowhere together, of other sums they are.
    """
    lanes = lanes_of(tiling)
    products = {p.einsum.name for p in tiling.structure.products if all(sides(p, lanes.lanes))}
    return {
        e.name: {v: lanes.lanes[v] for v in lanes.ordered(e.variables)}
        for e in tiling.structure.einsums
        if e.name not in products
    }
