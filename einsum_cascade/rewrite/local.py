"""Rule local: inside a recurrence, reductions that wait for each other are taken block by block, and joined at once.

Rule online would carry them from block to block, in an iterate block of its own; blocks do not nest. What every block
of elements gives by itself is a summary, and so is what the blocks give together: summaries add no pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..analysis.needed import without_unused
from ..cascade import Cascade, fresh_name
from ..declarations import Iterate, Signature, rank_of, variable_of
from ..einsum import Einsum, Reduction
from ..errors import CascadeError
from ..expr import Access, Apply, Expr, Size, Var, accesses, substitute, transform, variables
from ..printer import expression
from .corrections import corrections_of
from .elements import along
from .empty import given_by_element, may_be_empty
from .online import nothing_of
from .partition import part_names, split_ranks
from .plan import Obstacle, Plan, Running
from .separate import Rewritten


def locally(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    """Yield the cascades in which the reductions over a rank in one iterate block over another are taken by blocks.

    Pattern: in `iterate t`, `c = red'_m h(x_m)`, then `Y = red_m g(x_m, c)`. Condition: that of rule online, g(x, c') =
    g(x, c) * r(c, c'). Rewrite: split M = M1 * M0; `C[m1] = red'_m0 h`, `Z[m1] = red_m0 g(x, C[m1])`, then over all
    blocks `c = red'_m1 C[m1]` and `Y = red_m1 Z[m1] * r(C[m1], c)`.
    """
    if rank not in cascade.free_ranks:
        return
    for item in cascade.body:
        if isinstance(item, Iterate) and rank_of(item.variable) != rank:
            found = _by_blocks(cascade, item, rank)
            if found is not None:
                yield found


def obstacles_within(cascade: Cascade, block: Iterate, rank: str) -> list[Obstacle]:
    """Return the reductions over a rank in one iterate block that cannot be corrected as what they wait for changes."""
    return _planned(cascade, block, rank)[1]


def _planned(cascade: Cascade, block: Iterate, rank: str) -> tuple[Plan | None, list[Obstacle]]:
    step = _one_step(cascade, block)
    if step is None:
        return None, []
    plan = Plan(step, rank, along(step, rank), rank, ())
    return plan, corrections_of(plan)


def _by_blocks(cascade: Cascade, block: Iterate, rank: str) -> Rewritten | None:
    plan, _ = _planned(cascade, block, rank)
    chain = {} if plan is None else _chain(plan)
    if plan is None or not any(running.correction is not None for running in chain.values()):
        return None
    writing = _Local(plan, chain, part_names(cascade, rank))
    try:
        einsums = tuple(made for e in block.einsums for made in writing.replaced(e))
    except _Elsewhere:
        return None
    body = tuple(replace(block, einsums=einsums) if item is block else item for item in cascade.body)
    ranks = split_ranks(cascade, rank, *writing.parts)
    result = without_unused(replace(cascade, ranks=ranks, body=body))
    moved = [n for n, r in chain.items() if r.correction is not None]
    by = dict.fromkeys(expression(r.correction) for r in chain.values() if r.correction is not None)
    why = (
        f"{' and '.join(moved)} of a block, corrected by {' and '.join(by)} for all (a prime marks their value), "
        f"so one visit of {' * '.join(writing.parts)} gives what every block adds"
    )
    return Rewritten("local", ", ".join(moved), why, result)


def _one_step(cascade: Cascade, block: Iterate) -> Cascade | None:
    """Return what a block computes in one step, the states and all else that it reads given."""
    einsums = tuple(e for e in block.einsums if e.name not in cascade.states)
    made = {e.name for e in einsums}
    read = dict.fromkeys(a.tensor for e in einsums for a in e.reads if a.tensor not in made)
    inputs = tuple(Signature(t, cascade.signatures[t].ranks) for t in read)
    outputs = tuple(Signature(e.name, cascade.signatures[e.name].ranks) for e in einsums)
    try:
        return replace(cascade, body=einsums, inputs=inputs, outputs=outputs)
    except CascadeError:  # what it computes cannot stand alone
        return None


def _chain(plan: Plan) -> dict[str, Running]:
    """Return the reductions that can be corrected by one factor, and those for which they wait."""
    chain: dict[str, Running] = {}
    for name, running in plan.running.items():
        if running.terms or running.value is not None:
            continue
        if len(plan.seen.walking[name]) == 1 and _waits_for(plan, running) <= chain.keys():
            chain[name] = running
    needed: set[str] = set()
    for name, running in reversed(chain.items()):
        if running.correction is not None or name in needed:
            needed |= {name, *_waits_for(plan, running)}
    return {n: r for n, r in chain.items() if n in needed}


def _waits_for(plan: Plan, running: Running) -> set[str]:
    """Return the reductions whose values a correction reads."""
    if running.correction is None:
        return set()
    read = (a.tensor.removesuffix("'") for a in accesses(running.correction))
    return set(read) & plan.running.keys()


class _Elsewhere(Exception):  # noqa: N818 - it ends the attempt and is no error of a user
    """What waits is read at other elements than its own."""


@dataclass
class _Local:
    """The Einsums of one step in which some reductions are taken block by block."""

    plan: Plan
    chain: dict[str, Running]
    parts: tuple[str, str]
    taken: list[str] = field(default_factory=list)
    made: dict[str, Access] = field(default_factory=dict)
    corrections: dict[Expr, Access] = field(default_factory=dict)

    @property
    def block(self) -> Var:
        """The variable of the blocks."""
        return Var(variable_of(self.parts[0]))

    @property
    def element(self) -> Var:
        """The variable of the elements of a block."""
        return Var(variable_of(self.parts[1]))

    def replaced(self, einsum: Einsum) -> Iterator[Einsum]:
        """Yield an Einsum, or what stands in its place."""
        if einsum.name not in self.chain:
            yield einsum
            return
        running, op = self.chain[einsum.name], einsum.all_reductions[0].op
        walked = self._walked(einsum.name)
        yield from self._copies(einsum)
        others = tuple(v for v in einsum.reduced if v != walked)
        value, where = self._moved(einsum, walked)
        local = Access(self._fresh(einsum.name), (*einsum.target.indices, self.block))
        yield Einsum(local, value, (Reduction(op, (*others, self.element.name)),), where)
        if op != "sum" and (may_be_empty(self.plan, einsum) or given_by_element(self.plan, einsum)):
            known = Access(self._fresh(einsum.name), local.indices)
            kept = op if op in ("max", "min") else "max"
            yield Einsum(known, Apply(kept, (local, nothing_of(self.plan, einsum))))
            local = known
        self.made[einsum.name] = local
        joined: Expr = local
        if running.correction is not None:
            if running.correction not in self.corrections:
                yield self._correction(running.correction)
            joined = Apply("*" if op == "sum" else "+", (local, self.corrections[running.correction]))
        yield Einsum(einsum.target, joined, (Reduction(op, (self.block.name,)),))

    def _copies(self, einsum: Einsum) -> Iterator[Einsum]:
        """Yield copies of what an Einsum reads and waits for, by the values of one block."""
        plan = self.plan
        for name in dict.fromkeys(a.tensor for a in einsum.reads):
            if name in self.made or name not in plan.seen.waiting or name in self.chain:
                continue
            source = plan.cascade.einsum(name)
            yield from self._copies(source)
            walked = self._walked(name)
            at = [i for i, index in enumerate(source.target.indices) if index == Var(walked)]
            value, where = self._moved(source, walked)
            indices = [i for n, i in enumerate(source.target.indices) if n not in at]
            own = (self.block, self.element) if at else (self.block,)
            target = Access(self._fresh(name), (*indices, *own))
            yield Einsum(target, value, source.reductions, where)
            self.made[name] = target

    def _moved(self, einsum: Einsum, walked: str) -> tuple[Expr, Expr | None]:
        """Return a value, and a condition, that read what waits as it is for one block."""
        plan, inner = self.plan, Size(self.parts[1])
        place = Apply("+", (Apply("*", (self.block, inner)), self.element))

        def change(node: Expr) -> Expr:
            if not isinstance(node, Access):
                return node
            if node.tensor not in self.made:
                if node.tensor in plan.seen.whole | plan.seen.waiting:
                    raise _Elsewhere
                return node
            source = plan.cascade.einsum(node.tensor)
            own = self._walked(node.tensor)
            pairs = list(zip(source.target.indices, node.indices, strict=True))
            if any((t == Var(own)) != (i == Var(walked)) for t, i in pairs):
                raise _Elsewhere
            kept = [i for t, i in pairs if t != Var(own)]
            many = len(self.made[node.tensor].indices) - len(kept)
            return Access(
                self.made[node.tensor].tensor, (*kept, self.block, self.element)[: len(kept) + many]
            )

        values: dict[str, Expr] = {walked: place}
        value = substitute(transform(einsum.value, change), values)
        return value, None if einsum.where is None else substitute(transform(einsum.where, change), values)

    def _walked(self, name: str) -> str:
        """Return the variable by which an Einsum walks the rank; none that stands anywhere where it does not."""
        found = sorted(self.plan.seen.walking.get(name, ()))
        if len(found) > 1:
            raise _Elsewhere
        return found[0] if found else " "

    def _correction(self, correction: Expr) -> Einsum:
        """Return the Einsum of what turns values of one block into those for all of them."""

        def named(node: Expr) -> Expr:
            if not isinstance(node, Access) or node.tensor.removesuffix("'") not in self.chain:
                return node
            if node.tensor.endswith("'"):
                return replace(node, tensor=node.tensor.removesuffix("'"))
            return Access(self.made[node.tensor].tensor, (*node.indices, self.block))

        value = transform(correction, named)
        used = [Var(v) for v in dict.fromkeys(variables(value)) if v != self.block.name]
        waited = next((a.tensor for a in accesses(correction) if a.tensor in self.chain), "C")
        self.taken.append(fresh_name(self.plan.cascade, f"P{waited}", self.taken))
        self.corrections[correction] = Access(self.taken[-1], (*used, self.block))
        return Einsum(self.corrections[correction], value)

    def _fresh(self, name: str) -> str:
        self.taken.append(fresh_name(self.plan.cascade, f"L{name}", self.taken))
        return self.taken[-1]
