"""Names that a backward pass adds to a cascade."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..cascade import Cascade
from ..declarations import Rank, free_name
from ..expr import Size


@dataclass
class Names:
    """Names that are taken, and ranks that get a second one; local to one backward pass."""

    taken: set[str]
    ranks: list[Rank] = field(default_factory=list)

    @classmethod
    def of(cls, cascade: Cascade) -> Names:
        """Return the names of a cascade: of its tensors, ranks and constants."""
        return cls({*cascade.signatures, *cascade.rank_names, *(c.name for c in cascade.constants)})

    def free(self, wanted: str) -> str:
        """Return a free name like a wanted one, which is then taken."""
        name = free_name(wanted, self.taken)
        self.taken.add(name)
        return name

    def meant(self, rank: str) -> str:
        """Return the rank of a second name, or the rank itself."""
        sizes = {r.name: r.size for r in self.ranks}
        found = sizes.get(rank)
        return found.name if isinstance(found, Size) else rank

    def second(self, rank: str, wanted: str) -> str:
        """Return a second name for a rank."""
        name = self.free(wanted)
        self.ranks.append(Rank(name, Size(rank)))
        return name
