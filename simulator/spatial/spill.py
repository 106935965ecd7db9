"""Tiles that do not fit: where a mapping allows it, a share of them lives in the next memory outside.

Of every tensor that may spill the same share s lives outside: the bytes that do not fit over the bytes of the tensors
that may. A word of that share is fetched from outside whenever the memory is asked for it, and written there whenever
the memory is to take it; it passes through the memory, whose accesses stay what they were. What the memory would
have fetched once to hold is fetched for the rest only. Where the last tile of a rank is shorter, s is that of full
tiles, all through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from einsum_cascade.errors import MappingError, nearest
from mappings.binding import SpatialMapping, Spill

from ..hardware.model import SpatialChip
from .access import Usage
from .lowering import Layout
from .nest import Count, SizeTable, anywhere
from .tiles import held_together, of_chip
from .work import greatest

# (memory, tensor) -> the share of its words there that lives in the next memory outside.
Shares = Mapping[tuple[str, str], Count]


def shares(
    layout: Layout, sizes: SizeTable, chip: SpatialChip, mapping: SpatialMapping
) -> dict[tuple[str, str], Count]:
    """Return what spills, by memory and tensor; empty where everything fits.

    Raises:
        MappingError: a memory or tensor that is not there, or what may not spill does not fit either.
    """
    out: dict[tuple[str, str], Count] = {}
    for memory, of in mapping.binding.spill.items():
        where = f"{mapping.name or 'mapping'}: spill.{memory}"
        _check(memory, of, layout, chip, where)
        share = greatest(
            _share_of(*g, memory, chip, where) for g in _groups(memory, of, layout, sizes, chip, where)
        )
        if anywhere(share > 0):
            out |= {(memory, tensor): share for tensor in of.tensors}
    return out


def _groups(
    memory: str, of: Spill, layout: Layout, sizes: SizeTable, chip: SpatialChip, where: str
) -> Iterable[tuple[Count, Count]]:
    """Return the bytes to be held and the bytes that may spill, for each group of what lives at the same time."""
    if of.need:
        need = of_chip(of.need, chip, sizes, f"{where}.need")
        return [(need, need)]
    both = (held_together(groups[memory], sizes) for groups in (layout.held, layout.loose))
    return [(held * chip.word_bytes, loose * chip.word_bytes) for held, loose in zip(*both, strict=True)]


def _share_of(need: Count, loose: Count, memory: str, chip: SpatialChip, where: str) -> Count:
    capacity = chip.memories[memory].capacity_bytes
    excess = greatest((need - capacity, 0))
    if anywhere(excess > loose):
        raise MappingError(
            f"{where}: what may not spill takes {np.max(need - loose):,.0f} bytes, "
            f"{memory} of {chip.name} holds {np.min(capacity):,.0f}"
        )
    return excess / greatest((loose, 1))


def _check(memory: str, of: Spill, layout: Layout, chip: SpatialChip, where: str) -> None:
    if memory not in chip.memories:
        raise MappingError(f"{where}: {chip.name} has no memory '{memory}'; {nearest(memory, chip.memories)}")
    if memory == chip.outermost:
        raise MappingError(f"{where}: nothing stands outside {memory}")
    kept = {use.operand.tensor for use in layout.uses if use.memory == memory}
    for tensor in of.tensors:
        if tensor not in kept:
            raise MappingError(f"{where}: {memory} keeps no tensor '{tensor}'; {nearest(tensor, kept)}")


def spilled(usages: Iterable[Usage], chip: SpatialChip, found: Shares) -> list[Usage]:
    """Return usages with what spills put where it goes.

    Args:
        usages: as if everything fitted.
        chip: the order of its memories.
        found: see `shares`.
    """
    outside_of = {memory: _outside(memory, chip) for memory, _ in found}
    usages = list(usages)
    partly = {
        (u.einsum, u.operand, outside_of[u.memory]): found[u.memory, u.operand.tensor]
        for u in usages
        if (u.memory, u.operand.tensor) in found
    }
    out = []
    for u in usages:
        outside = partly.get((u.einsum, u.operand, u.memory))
        out.append(u if outside is None else _scaled(u, 1 - outside))
        share = found.get((u.memory, u.operand.tensor))
        if share is not None:
            there = u._replace(memory=outside_of[u.memory], fills=0, instances=1, spilled_from=u.memory)
            out.append(_scaled(there, share * u.instances))
    return out


def _scaled(usage: Usage, factor: Count) -> Usage:
    return usage._replace(reads=usage.reads * factor, updates=usage.updates * factor)


def _outside(memory: str, chip: SpatialChip) -> str:
    """Return the next memory outside, of those that serve the same array or the whole chip."""
    names = list(chip.memories)
    of = chip.memories[memory].of
    before = [n for n in names[: names.index(memory)] if chip.memories[n].of in ("", of)]
    return before[-1]
