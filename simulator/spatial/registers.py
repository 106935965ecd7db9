"""What stays in the registers of one element of an array."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from einsum_cascade.einsum import Einsum

from ..identity import remembered
from .access import words
from .nest import SizeTable
from .operands import operands_of, places_of
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

    One, but for what is made whole at a time, all the indices that a selection keeps, and for what is read at several
    places. The rule is that of the check of capacities.
    """
    table = SizeTable(sizes)
    found: dict[str, dict[Hashable, int]] = {}
    for o, place in reversed(tuple(zip(operands_of(einsum), places_of(einsum), strict=True))):
        found.setdefault(o.tensor, {})[place] = int(words(tile_of(o, {}), table))
    # What an Einsum writes where it reads it, a state, is one word; others at several places are several.
    return {t: max(of.values()) if t == einsum.name else sum(of.values()) for t, of in found.items()}
