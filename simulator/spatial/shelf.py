"""Shelves and benches: memories outside the home of a block that keep larger tiles, and inside it smaller ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


def tile_at(memory: str, rank: str) -> str:
    """Return the name of the tile of a rank in a memory outside or inside the home.

    >>> tile_at("HBM", "P")
    'P@HBM'
    """
    return f"{rank}@{memory}"


def is_at(memory: str, tile: str) -> bool:
    """Tell whether a tile is one in a memory, by its name."""
    return tile.endswith(tile_at(memory, ""))


@dataclass(frozen=True, slots=True)
class Shelf:
    """What a memory outside the home of a block keeps meanwhile, tile sizes still open.

    Attributes:
        memory: its name.
        order: ranks of the loops over its tiles, outermost first; they stand at the memory outside it.
        kept: by Einsum, the tensors that have a tile here.
        only: by Einsum, those of them that are exchanged with no memory outside.
        whole: words of the tensors that stay here whole, from one phase to another.
        reserved: words of such tensors that this block does not touch.
    """

    memory: str
    order: tuple[str, ...]
    kept: Mapping[str, tuple[str, ...]]
    only: Mapping[str, Collection[str]] = field(default_factory=dict)
    whole: Mapping[str, float] = field(default_factory=dict)
    reserved: float = 0.0

    def tile(self, rank: str) -> str:
        """Return the name of the tile of a rank here."""
        return tile_at(self.memory, rank)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a memory inside the home of a block, of the whole chip or of one array, keeps meanwhile.

    Attributes:
        memory: its name.
        kept: by Einsum, the tensors that have a tile here.
        only: those of them that pass between Einsums within a step and have none at home.
        order: ranks of the loops around its tiles, outermost first, where they do not stand as they do in a tile.
    """

    memory: str
    kept: Mapping[str, tuple[str, ...]]
    only: Collection[str] = ()
    order: tuple[str, ...] = ()

    def tile(self, rank: str) -> str:
        """Return the name of the tile of a rank here."""
        return tile_at(self.memory, rank)
