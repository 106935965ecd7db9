"""What stands behind a recurrence and reads its states step by step, as the gradient to a key does: put in its chunks.

A read of a state at every step asks for all of them to be kept. In chunks it is taken apart as a read inside the block
is: the state with which the chunk began, and what the steps of the chunk added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ...cascade import Cascade, fresh_name
from ...declarations import Iterate, rank_of, variable_of
from ...einsum import Einsum, Reduction, plain_target
from ...expr import Access, Apply, Expr, Num, Size, Var, substitute, transform, variables, walk
from ...rolling.plain import with_each
from ..places import Digits, worked_out
from .linear import NotLinearError, products
from .prepare import opened, scaled_states

# What stands for the step, before it and after it, while other variables are replaced by it.
_BEFORE, _AFTER = Var("before the step"), Var("after the step")


def with_reads_by_step(cascade: Cascade, rank: str) -> Cascade:
    """Return an equal cascade in which what stands behind a block reads its states by the variable of the steps.

    What reads them mirrored, as `S[T - t]`, is laid out by their steps first; a sum over steps becomes a sum of what
    each step gives; and what the block makes of a state, element by element, is read as the state itself. What is no
    sum of products of states, or stands in another block, reads a copy of the state at every step.
    """
    turning = _Turning(cascade, rank)
    body: list[Einsum | Iterate] = []
    for item in cascade.body:
        body += (item,) if isinstance(item, Iterate) else turning.by_step(item)
    laid = replace(cascade, body=tuple(body))
    by_step = {e.name for e in reading(laid, rank)}

    def copying(einsum: Einsum, block: str | None) -> tuple[Einsum, ...]:
        return (einsum if block == turning.step or einsum.name in by_step else turning.copying(einsum),)

    copied = with_each(laid.body, copying)
    at = next((i for i, x in enumerate(copied) if isinstance(x, Iterate) and x.variable == turning.step), 0)
    return replace(laid, body=(*copied[: at + 1], *turning.copies.values(), *copied[at + 1 :]))


def reading(cascade: Cascade, rank: str) -> tuple[Einsum, ...]:
    """Return the Einsums behind a block that read its states step by step, and define an element for each step."""
    step = variable_of(rank)
    by_step = Var(step), Apply("+", (Var(step), Num(1)))
    found = []
    for einsum, block in cascade.statements:
        slots = [_slot(cascade, a) for a in einsum.reads if _is_state(cascade, a, step)]
        if block is None and slots and step in einsum.output_variables and plain_target(einsum):
            found += [einsum] if all(s in by_step for s in slots) else []
    return tuple(found)


def _is_state(cascade: Cascade, access: Access, step: str) -> bool:
    return access.tensor in cascade.states and cascade.block_of(access.tensor) == step


def _slot(cascade: Cascade, access: Access) -> Expr:
    """Return at which step a state is read."""
    slot = cascade.signatures[access.tensor].state
    assert slot is not None
    return access.indices[slot]


@dataclass(frozen=True)
class _Turn:
    """How the steps of an Einsum are those of the block: the same, or the last one first.

    Attributes:
        walked: the variable of the steps of the Einsum, or those of their blocks and inside a block.
        steps: the same as an index.
        mirrored: whether the last step comes first.
        size: how many steps there are, by the name that they have where a state is read.
        every: of how many steps one is met, as of the steps of a token its last; all of them unless given.
    """

    walked: tuple[str, ...]
    steps: Expr
    mirrored: bool
    size: Size = field(compare=False)
    every: Expr | None = None

    def place(self, step: Expr) -> Expr:
        """Return the step that another one is, either way."""
        return Apply("-", (Apply("-", (self.size, step)), Num(1))) if self.mirrored else step

    def values(self, step: str) -> dict[str, Expr]:
        """Return what the variables of the steps are by the step of the block."""
        place = self.place(Var(step))
        if self.every is not None:
            return {self.walked[0]: Apply("//", (place, self.every))}
        if len(self.walked) == 1:
            return {self.walked[0]: place}
        inner = Size(rank_of(self.walked[1]))
        return dict(zip(self.walked, (Apply("//", (place, inner)), Apply("%", (place, inner))), strict=True))


class _Turning:
    """The Einsums behind one block, laid out by its steps where they read its states."""

    def __init__(self, cascade: Cascade, rank: str) -> None:
        self.cascade, self.rank, self.step = cascade, rank, variable_of(rank)
        blocks = (i.einsums for i in cascade.body if isinstance(i, Iterate) and i.variable == self.step)
        inside = next(blocks, ())
        self.scaled = scaled_states(cascade.states & {e.name for e in inside}, inside)
        self.digits = Digits(cascade.ranks)
        self.taken: list[str] = []
        self.copies: dict[tuple[str, bool], Einsum] = {}

    def by_step(self, einsum: Einsum) -> Iterator[Einsum]:
        """Yield an Einsum, and before it what it is a sum or another order of, where it reads states at every step."""
        read = replace(einsum, value=opened(einsum.value, self.scaled))
        turn = self._turn(read) if self._is_linear(read) else None
        if turn is None:
            yield einsum
            return
        as_it_is = turn == _Turn((self.step,), Var(self.step), False, Size(self.rank)) and read.where is None
        if as_it_is and self.step in read.output_variables:
            yield replace(read, value=_tidied(read.value))
            return
        values, marked = turn.values(self.step), self._marked(read.value)
        value = _tidied(transform(substitute(marked, values), self.digits.worked_out))
        now: Expr = Var(self.step)
        value = substitute(value, {_BEFORE.name: now, _AFTER.name: Apply("+", (now, Num(1)))})
        others = tuple(v for v in read.reduced if v not in values)
        kept = [v for v in read.output_variables if v not in values]
        self.taken.append(fresh_name(self.cascade, f"{einsum.name}P", self.taken))
        each = Access(self.taken[-1], (Var(self.step), *map(Var, kept)))
        yield Einsum(each, value, (Reduction("sum", others),) if others else ())
        if set(values) <= set(read.reduced):
            yield Einsum(einsum.target, each, (Reduction("sum", (self.step,)),))
        else:
            back = {self.step: worked_out(turn.place(turn.steps))}
            laid = substitute(each, back)
            yield Einsum(einsum.target, laid, (), einsum.where)

    def _is_linear(self, einsum: Einsum) -> bool:
        """Tell whether an Einsum is a sum of products of states, under no condition but of what it defines."""
        if any(r.op != "sum" for r in einsum.all_reductions) or not plain_target(einsum):
            return False
        if einsum.where is not None and not set(variables(einsum.where)) <= set(einsum.output_variables):
            return False
        try:
            products(einsum.value, lambda a: _is_state(self.cascade, a, self.step))
        except NotLinearError:
            return False
        return True

    def _turn(self, einsum: Einsum) -> _Turn | None:
        """Return how an Einsum walks the steps at which it reads states; None where it walks them otherwise."""
        slots = [_slot(self.cascade, a) for a in einsum.reads if _is_state(self.cascade, a, self.step)]
        found = {self._turned(slot) for slot in slots}
        if len(found) != 1:
            return None
        turn = found.pop()
        if turn is None:
            return None
        outside = set(turn.walked) <= set(einsum.output_variables)
        summed = set(turn.walked) <= set(einsum.reduced) and turn.every is None
        return turn if outside or summed else None

    def _turned(self, slot: Expr) -> _Turn | None:
        names = variables(slot)
        named = (n for n in walk(slot) if isinstance(n, Size) and self.digits.same(n, Size(self.rank)))
        size = next(named, Size(self.rank))
        assert isinstance(size, Size)
        for steps in self._walks(names):
            for mirrored in (False, True):
                turn = _Turn(variables(steps), steps, mirrored, size)
                place = turn.place(steps)
                if self._is_met(slot, place):
                    return turn
        for outer, inner in self._thin_walks(names):
            start = Apply("*", (outer, inner))
            for steps in (start, Apply("-", (Apply("+", (start, inner)), Num(1)))):
                if self._is_met(slot, steps):
                    return _Turn((outer.name,), steps, False, size, every=inner)
        return None

    def _is_met(self, slot: Expr, place: Expr) -> bool:
        """Tell whether a state is read as a step finds it or leaves it."""
        return any(self.digits.same(slot, s) for s in (place, Apply("+", (place, Num(1)))))

    def _thin_walks(self, names: tuple[str, ...]) -> Iterator[tuple[Var, Size]]:
        """Yield the variable that walks one step out of several, and out of how many."""
        parts = self.cascade.splits.get(self.rank, ())
        if len(names) == 1 and len(parts) == 2 and self.digits.same(Size(rank_of(names[0])), Size(parts[0])):
            yield Var(names[0]), Size(parts[1])

    def _walks(self, names: tuple[str, ...]) -> Iterator[Expr]:
        """Yield the indices by which variables walk as many steps as the block has."""
        if len(names) == 1 and self.digits.same(Size(rank_of(names[0])), Size(self.rank)):
            yield Var(names[0])
        if len(names) == 2:
            for outer, inner in (names, names[::-1]):
                size = Size(rank_of(inner))
                if self.digits.same(Apply("*", (Size(rank_of(outer)), size)), Size(self.rank)):
                    yield Apply("+", (Apply("*", (Var(outer), size)), Var(inner)))

    def copying(self, einsum: Einsum) -> Einsum:
        """Return an Einsum that reads a copy of a state at every step where it read the state at one of them."""

        def change(node: Expr) -> Expr:
            if not isinstance(node, Access) or not _is_state(self.cascade, node, self.step):
                return node
            ranks = self.cascade.signatures[node.tensor].ranks
            turn = self._turned(_slot(self.cascade, node))
            if turn is None or len(set(ranks)) < len(ranks):
                return node
            place = turn.place(turn.steps)
            before = self.digits.same(_slot(self.cascade, node), place)
            slot = self.cascade.signatures[node.tensor].state
            assert slot is not None
            made = self._copy(node.tensor, ranks, slot, before=before)
            return Access(made, (*node.indices[:slot], worked_out(place), *node.indices[slot + 1 :]))

        where = None if einsum.where is None else transform(einsum.where, change)
        return replace(einsum, value=transform(einsum.value, change), where=where)

    def _copy(self, state: str, ranks: tuple[str, ...], slot: int, *, before: bool) -> str:
        """Return the name of a copy of a state, as each step finds it or leaves it."""
        if (state, before) not in self.copies:
            self.taken.append(fresh_name(self.cascade, f"{state}A", self.taken))
            own: tuple[Expr, ...] = tuple(Var(variable_of(r)) for r in ranks)
            step: Expr = Var(self.step) if before else Apply("+", (Var(self.step), Num(1)))
            held = Access(state, (*own[:slot], step, *own[slot + 1 :]))
            target = Access(self.taken[-1], (*own[:slot], Var(self.step), *own[slot + 1 :]))
            self.copies[state, before] = Einsum(target, held)
        return self.copies[state, before].name

    def _marked(self, value: Expr) -> Expr:
        """Return a value that reads states at a mark, before the step or after it."""

        def change(node: Expr) -> Expr:
            if not isinstance(node, Access) or not _is_state(self.cascade, node, self.step):
                return node
            slot = self.cascade.signatures[node.tensor].state
            assert slot is not None
            index = node.indices[slot]
            turn = self._turned(index)
            assert turn is not None
            before = self.digits.same(index, turn.place(turn.steps))
            mark = _BEFORE if before else _AFTER
            return replace(node, indices=(*node.indices[:slot], mark, *node.indices[slot + 1 :]))

        return transform(value, change)


def _tidied(node: Expr) -> Expr:
    """Return an expression with its indices worked out."""

    def change(part: Expr) -> Expr:
        return (
            replace(part, indices=tuple(map(worked_out, part.indices))) if isinstance(part, Access) else part
        )

    return transform(node, change)
