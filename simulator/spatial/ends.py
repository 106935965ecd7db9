"""Masks over ranks that their tiles do not divide: the loops run beyond the end, where there is no point.

Which steps and tiles have a point left is counted over full tiles, with the end of the rank as one predicate more. A
tile that is brought counts in full, the part beyond the end included: with a mask, how often a tile is brought depends
on where it lies, so that a mean says nothing about the shorter one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from einsum_cascade.declarations import rank_of, variable_of
from einsum_cascade.errors import MappingError

from .live import Live, Mask, settings
from .nest import Nest, SizeTable

# A rank that its parts do not divide, and those parts, outermost first.
Ends = Mapping[str, Sequence[str]]


def with_ends(live: Mapping[str, Live], nests: Iterable[Nest], ends: Ends, where: str) -> dict[str, Live]:
    """Return the masks of Einsums, with the ends of ranks that their parts do not divide.

    Args:
        live: masks by Einsum.
        nests: the loops of all Einsums.
        ends: the ranks.
        where: what stands before an error.

    Raises:
        MappingError: an inner part of a rank that the cascade itself splits is cut so.
    """
    found = dict(live)
    for nest in nests:
        of = live.get(nest.einsum)
        if of is None or of.whole is None:
            continue
        found[nest.einsum] = of.changed(functools.partial(_ended, nest=nest, ends=ends, where=where))
    return found


def _ended(mask: Mask, *, nest: Nest, ends: Ends, where: str) -> Mask:
    found = []
    for variable, loops in mask.loops:
        for whole, cut in ends.items():
            if set(cut).isdisjoint(loops):
                continue
            if loops[0] not in cut and variable_of(whole) != variable:
                raise MappingError(
                    f"{where}: {' * '.join(cut)} do not divide {whole}, over which {nest.einsum} has a `where`: here "
                    "they have to"
                )
            found.append((variable, rank_of(variable)))
    return replace(mask, ends=tuple(dict.fromkeys(found)))


def removes(live: Live, sizes: SizeTable) -> bool:
    """Tell whether the mask of an iteration space removes any point.

    Raises:
        CascadeError: there are too many points to look at.
    """
    if live.whole is None:
        return False
    every = math.prod(sizes[rank_of(v)] for v, _ in live.whole.loops)
    return bool(np.any(settings(live.whole, live.whole.own, sizes) < every))
