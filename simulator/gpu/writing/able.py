"""Which kernels of a plan have a form in Triton."""

from __future__ import annotations

import math
from typing import TypeAlias

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
        """Tell whether a tiling can be written; one of many steps of a scan at a time cannot yet."""
        return tiling.scanned == 1 and self._reason(tiling) is None and _fits(tiling)

    def require(self, unit: Unit) -> None:
        """Refuse a text of which one unit alone has no form in Triton.

        Raises:
            CannotWriteError: naming the Einsum, and what there is no form for.
        """
        structure = structure_of(self._memory.cascade, (unit,))
        if structure is None:
            raise CannotWriteError(f"{', '.join(sorted(unit.names))}: no loops compute it")
        reason = self._reason(Tiling(self._memory.case, structure, {}))
        if reason is not None:
            raise reason

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
    """Tell whether no tile of what a kernel computes has more elements than Triton takes.

    Of a product on tensor cores the terms are nowhere together, of other sums they are.
    """
    lanes = lanes_of(tiling)
    products = {p.einsum.name for p in tiling.structure.products if all(sides(p, lanes.lanes))}
    return all(
        math.prod(lanes.lanes[v] for v in lanes.ordered(e.variables)) <= MOST_ELEMENTS
        for e in tiling.structure.einsums
        if e.name not in products
    )
