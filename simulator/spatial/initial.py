"""The first values of states: what they read and what of them is handed back crosses the outermost memory.

No nest stands for them, since a machine gives its states their first values before the loops begin. Most are numbers
and cost nothing. Those that come from tensors are read there once, and a state that the cascade hands back is written
there with its first generation, too. Their cycles are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of

from ..identity import remembered
from .access import Usage, words
from .lowering import Layout
from .nest import Operand, SizeTable
from .operands import operands_of
from .programs import Tile, tile_of


@dataclass(frozen=True, slots=True)
class FirstValue:
    """Words of one tensor that the first value of a state reads or hands back.

    Attributes:
        einsum: the state.
        tile: all words of the tensor that are touched, batch ranks left out.
    """

    einsum: str
    operand: Operand
    tile: Tile


@remembered(maxsize=256)
def first_values(cascade: Cascade, layout: Layout) -> tuple[FirstValue, ...]:
    """Return what the first values of the states of a cascade exchange with the outermost memory.

    >>> from einsum_cascade.parser import parse
    >>> lines = ["cascade c", "rank I T", "input A[I] B[T]", "output R[T, I]", "R[0, i] = A[i]"]
    >>> cascade = parse(chr(10).join([*lines, "iterate t {", "R[t + 1, i] = R[t, i] * B[t]", "}"]))
    >>> found = first_values(cascade, Layout(None, (), (), {}, {}))
    >>> [(f.operand.tensor, f.operand.output, f.tile.parts) for f in found]
    [('A', False, ('I',)), ('R', True, ('I',))]
    """
    given = {s.tensor for s in cascade.inputs}
    asked = {s.tensor for s in cascade.outputs}
    stored = given | {u.operand.tensor for u in layout.uses if u.operand.output and u.outermost}
    out: list[FirstValue] = []
    for einsum in cascade.initial:
        within = {v: (rank_of(v),) for v in einsum.variables}
        out += [
            FirstValue(einsum.name, operand, tile_of(operand, within))
            for operand in operands_of(einsum)
            if operand.tensor in (asked if operand.output else stored)
        ]
    return tuple(out)


def first_usages(
    found: tuple[FirstValue, ...], outermost: str, batch: tuple[str, ...], sizes: SizeTable
) -> list[Usage]:
    """Return the use of the outermost memory by first values.

    Args:
        outermost: its name.
        batch: ranks around the whole cascade.
        sizes: of all ranks.
    """
    out = []
    for first in found:
        moved = words(first.tile, sizes) * sizes[batch]
        reads, writes = (0, moved) if first.operand.output else (moved, 0)
        out.append(Usage(first.einsum, first.operand, outermost, True, reads, 0, writes, writes, 1))
    return out
