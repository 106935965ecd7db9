"""A recurrence rewritten in chunks: the order of its parts, the new cascade, and the check."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ...cascade import Cascade
from ...declarations import Iterate, Rank, rank_of
from ...einsum import Einsum
from ...errors import CascadeError
from ...expr import Access, Apply, Expr, Num, Size, accesses, transform
from ..equality import equal
from ..partition import split_once, split_ranks, split_signature
from ..reduction import Step
from .block import Block, block_of
from .decay import kind_of
from .paths import Walker
from .reads import Reader
from .solve import Solver, knots, unknown_of
from .writer import Ranks, Writer, fresh_ranks, ranks_of

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
            "steps": [{"rule": s.rule, "einsum": s.einsum, "why": s.why} for s in self.steps],
            "cascade": str(self.cascade),
        }


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
    rank = rank or _iterated(cascade)
    if size is not None and size < 1:
        raise CascadeError(f"a chunk of {size} steps: expected at least 1")
    unknown = set(positive) - {s.tensor for s in cascade.inputs}
    if unknown:
        raise CascadeError(f"{cascade.name} has no input {sorted(unknown)[0]}")
    block = block_of(cascade, rank)
    circles = knots(block)
    ranks = ranks_of(cascade, rank)
    steps = size or (USUAL if circles else None)
    maker = _Maker(block, ranks, circles, positive=frozenset(positive), apart=apart, size=steps or USUAL)
    free = maker.made()
    if not equal(_with_positive(cascade, positive), _with_positive(free, positive), rank, large=LARGE):
        raise CascadeError(f"{cascade.name} in chunks of {rank} would not be the same; it is left as it is")
    pinned = free if steps is None else _pinned(free, ranks.inner, steps)
    return Chunked(rank, pinned, maker.told())


class _Maker:
    """Writes the parts of a chunk in the order in which they need each other."""

    def __init__(
        self,
        block: Block,
        ranks: Ranks,
        circles: dict[str, frozenset[str]],
        *,
        positive: frozenset[str],
        apart: bool,
        size: int,
    ) -> None:
        self.block, self.ranks, self.circles = block, ranks, circles
        slots = {n: e.target.indices.index(ranks.step) for n, e in block.others.items()}
        self.writer = Writer(block.cascade, ranks, slots, apart, names={*slots})
        self.walker = Walker(block, self.writer, positive)
        self.reader = Reader(block, self.writer, self.walker)
        self.solver = Solver(self.reader, size)
        self._done: set[str] = set()
        self._solved: list[str] = []

    def made(self) -> Cascade:
        """Return the cascade in chunks, the size of a chunk left open."""
        cascade = self.block.cascade
        asked = {s.tensor for s in cascade.outputs}
        after = self._after()
        asked |= {a.tensor for e in after for a in e.reads}
        for name in self.block.others:
            if name in asked:
                self.need(name)
        written: set[str] = set()
        # Writing one state may show that it is fed by another.
        while wanted := [
            s for s in (*asked, *self.walker.walked) if s in self.block.states and s not in written
        ]:
            for name in dict.fromkeys(wanted):
                self._update(name)
                written.add(name)
        return self._assembled(after, written)

    def need(self, name: str) -> None:
        """Write an Einsum of the block, and before it what it reads."""
        if name in self._done:
            return
        circle = self.circles.get(name)
        if circle is not None:
            unknown = unknown_of(self.block, circle)
            if unknown not in self._done:
                self._solve(unknown, circle)
            if name == unknown:
                return
        self._done.add(name)
        einsum = self.block.others[name]
        for tensor in self._sources(einsum):
            self.need(tensor)
        self.reader.read(einsum)

    def _solve(self, unknown: str, circle: frozenset[str]) -> None:
        self._done.add(unknown)
        self._solved.append(unknown)
        for member in circle:
            for tensor in self._sources(self.block.others[member]):
                if tensor not in circle:
                    self.need(tensor)
        self.solver.solve(unknown, circle)

    def _sources(self, einsum: Einsum) -> list[str]:
        """Return the tensors of the block that an Einsum needs, those that feed its states included."""
        found: dict[str, None] = {}
        for access in einsum.reads:
            if access.tensor in self.block.others:
                found[access.tensor] = None
            elif self.block.is_state(access):
                found |= dict.fromkeys(self._feeding(access.tensor))
        return list(found)

    def _feeding(self, name: str) -> list[str]:
        state = self.block.states[name]
        found: list[str] = []
        for product in (state.gate, *state.added):
            for access in (a for f in (*product.above, *product.below) for a in accesses(f)):
                if self.block.is_state(access) and access.tensor != name:
                    found += self._feeding(access.tensor)
                elif access.tensor in self.block.others:
                    found.append(access.tensor)
        return found

    def _update(self, name: str) -> None:
        for tensor in self._feeding(name):
            self.need(tensor)
        self.reader.update(self.block.states[name])

    def told(self) -> tuple[Step, ...]:
        """Return what was done, to be called after `made`."""
        found = []
        for name in self.walker.walked:
            state = self.block.states[name]
            if state.op == "sum":
                found.append(Step("gate", name, kind_of(self.block, state, self.walker.positive)))
            else:
                found.append(
                    Step("extreme", name, f"the {state.op} of what the chunk began with and of its own steps")
                )
        for name, einsum in self.block.others.items():
            states = dict.fromkeys(a.tensor for a in einsum.reads if self.block.is_state(a))
            sums = [s for s in states if self.block.states[s].op == "sum"]
            if name in self._done and sums:
                why = f"reads {' and '.join(sums)} as the chunk found it, and what the steps of the chunk added, apart"
                found.append(Step("split", name, why))
        for name in self._solved:
            why = "waits for what earlier steps added: a triangular system, its inverse by squaring"
            found.append(Step("solve", name, why))
        return tuple(found)

    def _after(self) -> list[Einsum]:
        """Return the Einsums that stand behind the block."""
        items = self.block.cascade.body
        at = next(
            i
            for i, item in enumerate(items)
            if isinstance(item, Iterate) and item.variable == self.block.step
        )
        return [item for item in items[at + 1 :] if isinstance(item, Einsum)]

    def _assembled(self, after: list[Einsum], states: set[str]) -> Cascade:
        cascade, ranks = self.block.cascade, self.ranks
        later = {e.name for e in after}
        before = {e.name for e, block in cascade.statements if block is None and e.name not in later}
        keeping = frozenset({*before, *(s.tensor for s in cascade.inputs), *cascade.states})
        split = (ranks.whole, ranks.outer, ranks.inner)
        einsums = _needed(self.writer.einsums, {s.tensor for s in cascade.outputs} | states, after)
        ahead, inside, behind = _by_time(einsums, states)
        body: list[Einsum | Iterate] = []
        for item in cascade.body:
            if isinstance(item, Iterate):
                if item.variable != self.block.step:
                    raise CascadeError(f"{cascade.name} has a second iterate block, over {item.variable}")
                body += [*ahead, Iterate(ranks.chunk.name, inside), *behind]
            elif item.name in later:
                body.append(split_once(cascade, self._at_the_end(item), split, keeping))
            elif item.name not in cascade.states or item.name in states:
                body.append(item)
        outputs = tuple(s if s.tensor in keeping else split_signature(s, *split) for s in cascade.outputs)
        walked = frozenset(v for e in einsums for v in e.variables)
        declared = (*split_ranks(cascade, *split), *fresh_ranks(ranks, walked))
        return replace(cascade, ranks=declared, body=tuple(body), outputs=outputs)

    def _at_the_end(self, einsum: Einsum) -> Einsum:
        """Return an Einsum behind the block with the last state read at the last chunk."""
        names = self.block.states

        def change(node: Expr) -> Expr:
            if not isinstance(node, Access) or node.tensor not in names:
                return node
            slot = names[node.tensor].slot
            if node.indices[slot] != Size(self.ranks.whole):
                raise CascadeError(f"{einsum.name} reads {node.tensor} at a step that need not end a chunk")
            indices = (*node.indices[:slot], Size(self.ranks.outer), *node.indices[slot + 1 :])
            return replace(node, indices=indices)

        return replace(einsum, value=transform(einsum.value, change))


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


def _needed(einsums: list[Einsum], asked: set[str], after: list[Einsum]) -> tuple[Einsum, ...]:
    """Return the Einsums of a block that anything reads in the end."""
    wanted = asked | {tensor for e in after for tensor in e.sources}
    kept = []
    for einsum in reversed(einsums):
        if einsum.name in wanted:
            kept.append(einsum)
            wanted |= einsum.sources
    return tuple(reversed(kept))


def _by_time(einsums: tuple[Einsum, ...], states: set[str]) -> tuple[tuple[Einsum, ...], ...]:
    """Return the Einsums of all chunks at once, those that go from chunk to chunk, and those that only read states.

    Only the second have to wait for the chunk before.
    """
    waiting: set[str] = set()
    for einsum in einsums:
        if einsum.name in states or not einsum.sources.isdisjoint(states | waiting):
            waiting.add(einsum.name)
    moving = set(states)
    for einsum in reversed(einsums):
        if einsum.name in moving:
            moving |= einsum.sources & waiting
    ahead = tuple(e for e in einsums if e.name not in waiting)
    inside = tuple(e for e in einsums if e.name in waiting and e.name in moving)
    return ahead, inside, tuple(e for e in einsums if e.name in waiting and e.name not in moving)


def _pinned(cascade: Cascade, rank: str, size: int) -> Cascade:
    """Return the cascade with a rank of a fixed size."""
    return replace(
        cascade, ranks=tuple(Rank(r.name, Num(size)) if r.name == rank else r for r in cascade.ranks)
    )


def _with_positive(cascade: Cascade, names: Collection[str]) -> Cascade:
    """Return a cascade that reads some inputs by values in (0, 1]: what random numbers of any sign stand for."""
    if not names:
        return cascade

    def change(node: Expr) -> Expr:
        if isinstance(node, Access) and node.tensor in names:
            return Apply("exp", (Apply("neg", (Apply("abs", (node,)),)),))
        return node

    def changed(einsum: Einsum) -> Einsum:
        return replace(einsum, value=transform(einsum.value, change))

    body = tuple(
        replace(item, einsums=tuple(map(changed, item.einsums)))
        if isinstance(item, Iterate)
        else changed(item)
        for item in cascade.body
    )
    return replace(cascade, body=body)
