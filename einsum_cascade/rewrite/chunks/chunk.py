"""A recurrence rewritten in chunks: the order of its parts, the new cascade, and the check."""

from __future__ import annotations

import html
from collections.abc import Collection
from dataclasses import dataclass, replace

from ...cascade import Cascade, require
from ...declarations import Iterate, Rank, rank_of
from ...errors import CascadeError
from ...expr import Access, Apply, Expr, Num, Size, transform
from ...rolling.plain import in_every
from ..equality import equal
from ..reduction import Step, told_as_html
from .behind import with_reads_by_step
from .block import block_of
from .maker import Maker
from .system import knots
from .writer import Ranks, ranks_of

# What kernels for recurrences in chunks take: 64 rows fill a tensor core's tile.
USUAL = 64
# Larger inputs than in other rewrites would only show what a difference of sums costs: a chunk that decays by
# exp(-1e20) in one step keeps no digits of what it decays by in the next.
LARGE = (5.0,)


@dataclass(frozen=True)
class Chunked:
    """An equal cascade that walks a rank chunk by chunk.

    Attributes:
        steps: what was done to which Einsum, and why it holds.
    """

    rank: str
    cascade: Cascade
    steps: tuple[Step, ...]

    def as_json(self) -> dict[str, object]:
        """Return the fields that the command prints."""
        return {
            "rank": self.rank,
            "steps": [s.as_json() for s in self.steps],
            "cascade": str(self.cascade),
        }

    def __str__(self) -> str:
        lines = [f"{self.cascade.name} in chunks of {self.rank}"]
        lines += [f"  {s.rule} {s.einsum}: {s.why}" for s in self.steps]
        return "\n".join([*lines, "", str(self.cascade)])

    def _repr_html_(self) -> str:
        title = f"{html.escape(self.cascade.name)} in chunks of {html.escape(self.rank)}"
        return told_as_html(title, [(s.rule, s.einsum, s.why) for s in self.steps], self.cascade)


def in_chunks(
    cascade: Cascade,
    rank: str | None = None,
    *,
    size: int | None = None,
    positive: Collection[str] = (),
    apart: bool = False,
) -> Chunked:
    """Return an equal cascade in which a recurrence runs over chunks of its steps.

    Inside a chunk every step reads the state with which the chunk began and, by products of matrices, what earlier
    steps of the chunk added; the state itself moves once a chunk.

    Args:
        rank: the rank over which the cascade iterates; that of its only block unless given.
        size: steps of a chunk; open unless given, but 64 where steps wait for each other.
        positive: inputs that are greater than 0, so that gates made of them have logarithms.
        apart: divide gates on a summed rank between both factors of the sum. It becomes a product of two matrices, but
            one of them grows with the chunk, by the root of what a chunk decays by: for short chunks.

    Raises:
        CascadeError: the cascade has no recurrence over the rank, or one that is not linear in its states; the
            message names the Einsum.

    >>> from einsum_cascade import zoo
    >>> print(in_chunks(zoo.load("linear_recurrent"), "T").cascade.splits)
    {'T': ('T1', 'T0')}
    """
    require(cascade)
    rank = rank or _iterated(cascade)
    if size is not None and size < 1:
        raise CascadeError(f"a chunk of {size} steps: expected at least 1")
    unknown = set(positive) - {s.tensor for s in cascade.inputs}
    if unknown:
        raise CascadeError(f"{cascade.name} has no input {sorted(unknown)[0]}")
    block = block_of(with_reads_by_step(cascade, rank), rank)
    circles = knots(block)
    ranks = ranks_of(cascade, rank)
    steps = size or (USUAL if circles else None)
    longest = steps or USUAL
    maker = Maker(block, ranks, positive=frozenset(positive), apart=apart, size=longest)
    free = maker.made()
    compared = cascade.aliases[rank] if cascade.aliases.get(rank) in cascade.splits else rank
    before, after = (_with_positive(_open(c, compared), positive) for c in (cascade, free))
    if not equal(before, after, compared, large=LARGE, longest=longest if circles else None):
        raise CascadeError(
            f"{cascade.name} in chunks of {rank} would not be the same; it is left as it is",
            hint="divided gates overflow where a chunk decays by much: leave apart out" if apart else "",
        )
    pinned = free if steps is None else _settled(_pinned(free, ranks.inner, steps), cascade, ranks)
    return Chunked(rank, pinned, maker.told())


def _iterated(cascade: Cascade) -> str:
    """Return the rank of the only iterate block.

    Raises:
        CascadeError: there is none, or several.
    """
    found = [rank_of(item.variable) for item in cascade.body if isinstance(item, Iterate)]
    if len(found) != 1:
        said = (
            f"iterates over {' and '.join(found)}; name one"
            if found
            else "has no iterate block: no recurrence"
        )
        raise CascadeError(f"{cascade.name} {said}")
    return found[0]


def _pinned(cascade: Cascade, rank: str, size: int) -> Cascade:
    """Return the cascade with a rank of a fixed size."""
    meant = cascade.aliases.get(rank, rank)
    return replace(
        cascade, ranks=tuple(Rank(r.name, Num(size)) if r.name == meant else r for r in cascade.ranks)
    )


def _settled(chunked: Cascade, cascade: Cascade, ranks: Ranks) -> Cascade:
    """Return the same with the number of chunks by the parts of a product that the steps were."""
    if ranks.whole not in cascade.splits:
        return chunked
    product, *others = map(Size, cascade.splits[ranks.whole])
    count: Expr = product
    for other in others:
        count = Apply("*", (count, other))
    chunks = Rank(ranks.outer, Apply("/", (count, Size(ranks.inner))))
    rest = [r for r in chunked.ranks if r.name != ranks.outer]
    at = next(i for i, r in enumerate(rest) if r.name == ranks.whole)
    return replace(chunked, ranks=(*rest[:at], chunks, *rest[at:]))


def _open(cascade: Cascade, rank: str) -> Cascade:
    """Return a cascade whose rank may be split into parts of any size, also where it has been chunks of a fixed one.

    What was written for chunks of a size holds for shorter ones, and small sizes are tried.
    """
    parts = cascade.splits.get(rank, ())
    fixed = {r.name for r in cascade.ranks if r.name in parts[1:] and isinstance(r.size, Num)}
    return replace(cascade, ranks=tuple(Rank(r.name) if r.name in fixed else r for r in cascade.ranks))


def _with_positive(cascade: Cascade, names: Collection[str]) -> Cascade:
    """Return a cascade that reads some inputs by values in (0, 1]: what random numbers of any sign stand for."""
    if not names:
        return cascade

    def change(node: Expr) -> Expr:
        if isinstance(node, Access) and node.tensor in names:
            return Apply("exp", (Apply("neg", (Apply("abs", (node,)),)),))
        return node

    return replace(cascade, body=in_every(cascade.body, lambda node: transform(node, change)))
