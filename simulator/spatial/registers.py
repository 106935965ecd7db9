"""What stays in the registers of one element of an array."""

from __future__ import annotations

from collections.abc import Mapping

from einsum_cascade.einsum import Einsum

from ..identity import remembered
from .access import words
from .nest import SizeTable
from .operands import operands_of
from .programs import tile_of


def registers(einsum: Einsum, sizes: Mapping[str, int], room: int) -> tuple[str, ...]:
    """Return the operands that have a register: the result first, then the others as far as they fit."""
    taken = 0
    kept = []
    for tensor, many in register_words(einsum, sizes).items():
        if taken + many <= room:
            kept.append(tensor)
            taken += many
    return tuple(kept)


@remembered(maxsize=4096)
def register_words(einsum: Einsum, sizes: Mapping[str, int]) -> Mapping[str, int]:
    """Return the words of each operand that one element of an array works on, the result first.

    One, but for what is made whole at a time: all the indices that a selection keeps. The rule is that of the check
    of capacities.
    """
    table = SizeTable(sizes)
    out: dict[str, int] = {}
    for o in reversed(operands_of(einsum)):
        out[o.tensor] = max(out.get(o.tensor, 0), int(words(tile_of(o, {}), table)))
    return out
