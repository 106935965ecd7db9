"""How frameworks copy new keys and values into their caches: a habit of the framework, in a table of its own."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parent / "library" / "gpu" / "cache_copies.csv"

COPIED = ("keys", "queries", "all", "none")


@dataclass(frozen=True, slots=True)
class CacheCopy:
    """How new keys and values get into a cache before attention reads them.

    Attributes:
        works_on: what it costs an SM for: elements of the "keys" and values; of the "queries", which it brings into
            place with them; of "all" three; of "none", where the timed call leaves the cache alone.
        least, most: elements of a token's keys, and as many of its values, below which a token costs no less, above
            which it costs no more: a warp or a block of threads a token; 0 for no limit.
        converts: a cache narrower than the queries is written out in their type before attention reads it.
        targets: where this holds; everywhere if empty.
    """

    works_on: str = "keys"
    least: int = 0
    most: int = 0
    converts: bool = False
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.works_on not in COPIED:
            raise ValueError(f"works_on: expected one of {', '.join(COPIED)}, found {self.works_on}")
        if min(self.least, self.most) < 0:
            raise ValueError("least, most: expected numbers of at least 0")


@functools.cache
def cache_copies() -> tuple[tuple[str, CacheCopy], ...]:
    """Return, by pattern of implementations, how frameworks copy keys and values into their caches."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple((row["implementation"], _cache_copy(row)) for row in csv.DictReader(file))


def _cache_copy(row: dict[str, str]) -> CacheCopy:
    least, most = int(row["least"]), int(row["most"])
    targets = tuple(row["targets"].split())
    return CacheCopy(row["works_on"], least, most, row["converts"] == "1", targets)
