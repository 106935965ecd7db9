"""The parts of a chunk in the order in which they need each other, and the cascade that they make."""

from __future__ import annotations

from dataclasses import replace

from ...cascade import Cascade
from ...declarations import Iterate
from ...einsum import Einsum
from ...errors import CascadeError
from ...expr import Access, Apply, Expr, Size, transform
from ...rolling.plain import in_every
from ..partition import split_once, split_ranks, split_signature
from ..places import Digits
from ..reduction import Step
from .block import Block
from .decay import kind_of
from .fed import opened_block
from .paths import Walker
from .reads import Reader
from .solve import Solver
from .system import knots, unknowns_of
from .writer import Ranks, Writer, fresh_ranks


class Maker:
    """Writes the parts of a chunk in the order in which they need each other."""

    def __init__(
        self,
        block: Block,
        ranks: Ranks,
        *,
        positive: frozenset[str],
        apart: bool,
        size: int,
    ) -> None:
        slots = {n: e.target.indices.index(ranks.step) for n, e in block.others.items()}
        self.ranks = ranks
        self.split = split_ranks(block.cascade, ranks.whole, ranks.outer, ranks.inner)
        self.writer = Writer(block.cascade, ranks, slots, Digits(self.split), apart, names={*slots})
        self.block = block = opened_block(block, self.writer)
        self.circles = knots(block)
        self.walker = Walker(block, self.writer, positive)
        self.reader = Reader(block, self.writer, self.walker)
        self.solver = Solver(self.reader, size)
        self._done: set[str] = set()
        self._solved: list[tuple[str, ...]] = []

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
        while wanted := (asked | set(self.walker.walked)) & set(self.block.states) - written:
            for name in (n for n in self.block.states if n in wanted):
                self._update(name)
            written |= wanted
        return self._assembled(after, written)

    def need(self, name: str) -> None:
        """Write an Einsum of the block, and before it what it reads."""
        if name in self._done:
            return
        circle = self.circles.get(name)
        if circle is not None:
            unknowns = unknowns_of(self.block, circle)
            if not self._done.issuperset(unknowns):
                self._solve(unknowns, circle)
            if name in unknowns:
                return
        self._done.add(name)
        einsum = self.block.others[name]
        for tensor in self._sources(einsum):
            self.need(tensor)
        self.reader.read(einsum)

    def _solve(self, unknowns: tuple[str, ...], circle: frozenset[str]) -> None:
        self._done.update(unknowns)
        self._solved.append(unknowns)
        for member in (n for n in self.block.others if n in circle):
            for tensor in self._sources(self.block.others[member]):
                if tensor not in circle:
                    self.need(tensor)
        self.solver.solve(circle)

    def _sources(self, einsum: Einsum) -> list[str]:
        """Return the tensors of the block that an Einsum needs, those that feed its states included."""
        found: dict[str, None] = {}
        for access in einsum.reads:
            if access.tensor in self.block.others:
                found[access.tensor] = None
            elif self.block.is_state(access):
                found |= dict.fromkeys(self.block.feeding(access.tensor))
        return list(found)

    def _update(self, name: str) -> None:
        for tensor in self.block.feeding(name):
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
        for names in self._solved:
            system = "for what earlier steps added: a triangular system, its inverse by squaring"
            each = "one tensor after the other is put into the equations of those behind it"
            why = f"waits {system}" if len(names) == 1 else f"wait {system}; {each}"
            found.append(Step("solve", " and ".join(names), why))
        return tuple(found)

    def _after(self) -> list[Einsum]:
        """Return the Einsums that stand behind the block, those of other blocks among them.

        Raises:
            CascadeError: one of another block reads a state of this one.
        """
        found: list[Einsum] = []
        behind = False
        for item in self.block.cascade.body:
            if isinstance(item, Iterate) and item.variable == self.block.step:
                behind = True
            elif behind:
                einsums = item.einsums if isinstance(item, Iterate) else (item,)
                found += [e for e in einsums if e.name not in self.block.behind]
        for einsum in found:
            read = einsum.sources & self.block.states.keys()
            if read and self.block.cascade.block_of(einsum.name) is not None:
                raise CascadeError(f"{einsum.name} of another block reads {sorted(read)[0]} at every step")
        return found

    def _assembled(self, after: list[Einsum], states: set[str]) -> Cascade:
        cascade, ranks = self.block.cascade, self.ranks
        later, adopted = {e.name for e in after}, self.block.behind
        before = {e.name for e, b in cascade.statements if b is None and e.name not in later | adopted}
        keeping = frozenset({*before, *(s.tensor for s in cascade.inputs), *cascade.states})
        split = (ranks.whole, ranks.outer, ranks.inner)
        einsums = _needed(self.writer.einsums, {s.tensor for s in cascade.outputs} | states, after)
        ahead, inside, behind = _by_time(einsums, states)
        behind, waiting = self._in_time(behind, after)
        whole = {t for e in waiting for t in e.sources} | self._out_of_step(after)
        body: list[Einsum | Iterate] = []
        for item in cascade.body:
            if isinstance(item, Iterate):
                own = item.variable == self.block.step
                other = replace(item, einsums=tuple(map(self._by_digits, item.einsums)))
                body += [*ahead, Iterate(ranks.chunk.name, inside), *behind] if own else [other]
            elif item.name in adopted:
                body += (e for e in _needed(waiting, {item.name}, []) if e not in body)
            elif item.name in later and (item.name in whole or self._reads_elsewhere(item)):
                body.append(self._by_digits(self._at_the_end(item)))
                keeping |= {item.name}
            elif item.name in later:
                body.append(split_once(cascade, self._at_the_end(item), split, keeping))
            elif item.name not in self.block.states or item.name in states:
                body.append(item)
        outputs = tuple(s if s.tensor in keeping else split_signature(s, *split) for s in cascade.outputs)
        walked = frozenset(v for e in einsums for v in e.variables)
        declared = (*self.split, *fresh_ranks(self.writer, walked))
        plain = in_every(tuple(body), lambda node: transform(node, self.writer.digits.worked_out))
        return replace(cascade, ranks=declared, body=plain, outputs=outputs)

    def _in_time(
        self, einsums: tuple[Einsum, ...], after: list[Einsum]
    ) -> tuple[tuple[Einsum, ...], list[Einsum]]:
        """Return the Einsums that can stand at the end of the block, and those that wait for what stands behind it."""
        late = {e.name for e in after}
        waiting: list[Einsum] = []
        for einsum in einsums:
            if not einsum.sources.isdisjoint(late):
                late.add(einsum.name)
                waiting.append(einsum)
        return tuple(e for e in einsums if e.name not in late), waiting

    def _out_of_step(self, after: list[Einsum]) -> set[str]:
        """Return the tensors that something behind the block reads at other steps than its own."""
        rank, signatures = self.ranks.whole, self.block.cascade.signatures
        return {
            a.tensor
            for e in after
            for a in e.reads
            for r, index in zip(signatures[a.tensor].ranks, a.indices, strict=True)
            if r == rank and index != self.ranks.step
        }

    def _reads_elsewhere(self, einsum: Einsum) -> bool:
        """Tell whether an Einsum behind the block reads what it makes at other steps than its own, as if mirrored."""
        slots, step = self.writer.made, self.ranks.step
        return any(a.tensor in slots and a.indices[slots[a.tensor]] != step for a in einsum.reads)

    def _by_digits(self, einsum: Einsum) -> Einsum:
        """Return an Einsum that runs over all steps and reads what the chunks make at chunk and step of the chunk."""
        inner = Size(self.ranks.inner)

        def change(node: Expr) -> Expr:
            if not isinstance(node, Access) or node.tensor not in self.writer.made:
                return node
            slot = self.writer.made[node.tensor]
            digits = (Apply("//", (node.indices[slot], inner)), Apply("%", (node.indices[slot], inner)))
            return replace(node, indices=(*node.indices[:slot], *digits, *node.indices[slot + 1 :]))

        where = None if einsum.where is None else transform(einsum.where, change)
        return replace(einsum, value=transform(einsum.value, change), where=where)

    def _at_the_end(self, einsum: Einsum) -> Einsum:
        """Return an Einsum behind the block with the last state read at the last chunk."""
        names = self.block.states

        def change(node: Expr) -> Expr:
            if not isinstance(node, Access) or node.tensor not in names:
                return node
            slot = names[node.tensor].slot
            if not self.writer.digits.same(node.indices[slot], Size(self.ranks.whole)):
                raise CascadeError(f"{einsum.name} reads {node.tensor} at a step that need not end a chunk")
            indices = (*node.indices[:slot], Size(self.ranks.outer), *node.indices[slot + 1 :])
            return replace(node, indices=indices)

        return replace(einsum, value=transform(einsum.value, change))


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
    """Return the Einsums that states are fed from at all chunks at once, those from chunk to chunk, and all others.

    Only the second have to wait for the chunk before. The last stand as late as they can: one kernel for all of them
    then holds little at a time.
    """
    waiting: set[str] = set()
    for einsum in einsums:
        if einsum.name in states or not einsum.sources.isdisjoint(states | waiting):
            waiting.add(einsum.name)
    feeding = set(states)
    for einsum in reversed(einsums):
        if einsum.name in feeding:
            feeding |= einsum.sources
    ahead = tuple(e for e in einsums if e.name in feeding - waiting)
    inside = tuple(e for e in einsums if e.name in feeding & waiting)
    return ahead, inside, tuple(e for e in einsums if e.name not in feeding)
