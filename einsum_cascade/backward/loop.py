"""An iterate block walked backwards: its states' gradients are states of a block that runs the other way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..declarations import Iterate, rank_of, variable_of
from ..einsum import Einsum
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, from_end, variables
from ..rewrite.places import at, replaced, worked_out
from .parts import Part, total
from .walk import Backward, Key


class Loop:
    """One block. What its Einsums hand back to each other is gathered in a block of its own; all else behind it.

    A generation t of the block is generation u = T - 1 - t of the other one.
    """

    def __init__(self, backward: Backward, block: Iterate) -> None:
        self.back, self.block = backward, block
        self.cascade = backward.cascade
        self.step = block.variable
        self.rank = rank_of(block.variable)
        self.names = {e.name for e in block.einsums}
        self.states = [e.name for e in block.einsums if e.name in self.cascade.states]
        self.inner: dict[Key, list[Part]] = {}
        self.inside: list[Einsum] = []
        self.late: list[tuple[Einsum, Access, Expr, tuple[Expr, ...]]] = []
        self.turn = ""
        self.mirror: dict[str, Expr] = {}
        self.carried: dict[str, str] = {}
        self.turned_states: set[str] = set()

    def run(self) -> None:
        """Walk the block's Einsums from the last to the first."""
        live = [e for e in self.block.einsums if e.name in self.back.active]
        if not any(self._asked(e.name) for e in live):
            return
        self.turn = variable_of(self.back.names.second(self.rank, "U"))
        self.mirror = {self.step: from_end(Size(self.rank), Var(self.turn))}
        self.carried = self._carried(live)
        self.turned_states.update(self.carried.values())
        starts = [self._start(name) for name in self.carried]
        for einsum in reversed(live):
            self._one(einsum)
        for name in self.carried:
            self._update(name)
        behind = [self._placed(key, part) for key, part in self._late_parts()]
        if self.inside:
            self.back.after += [*starts, Iterate(self.turn, tuple(self.inside))]
        for name in self.states:
            self._first(name)
        for key, part in behind:
            self.back.parts.setdefault(key, []).append(part)

    def _late_parts(self) -> Iterator[tuple[Key, Part]]:
        for einsum, access, value, extra in self.late:
            yield self.back.received(einsum, access, value, extra)

    def _placed(self, key: Key, part: Part) -> tuple[Key, Part]:
        """Return what comes back to a tensor from before the block, gathered where the states that it reads are made.

        Behind the block the states of all steps would have to be kept for it.
        """
        read = {a.tensor for a in accesses(part.value)}
        if self.step not in part.target:
            return key, part
        if read & set(self.states) and read <= self.back.known_in(self.block):
            made = part.named(self.back.names.free(f"D{key[0]}"))
            self.back.add_beside(self.block.einsums[-1].name, made)
            return key, replace(part, value=made.target, summed=(), conditions=())
        turned = read & self.turned_states
        if not turned or read & set(self.states):
            return key, part
        places = {i for a in accesses(part.value) if a.tensor in turned for i in a.indices}
        places = {i for i in places if self.step in variables(i)}
        # The element of the last step comes first, but where the block has read from the end: there in its own place.
        straight = places == {Var(self.step)}
        if not straight and places != {worked_out(self._back_turned())}:
            return key, part
        turns = {self.step: Var(self.turn)} if straight else self.mirror
        name = self.back.names.free(f"D{key[0]}T")
        mirrored = replace(
            part,
            target=tuple(self.turn if v == self.step else v for v in part.target),
            value=replaced(part.value, turns),
            conditions=tuple(replaced(c, turns) for c in part.conditions),
        )
        made = mirrored.named(name)
        self.inside.append(made)
        read_at = at(made.target, {self.turn: Var(self.step) if straight else self._back_turned()})
        return key, replace(part, value=read_at, summed=(), conditions=())

    def _asked(self, name: str) -> bool:
        return any(self.back.parts.get((name, form)) for form in ("", "last", "old", "new"))

    def _carried(self, live: list[Einsum]) -> dict[str, str]:
        """Return the states whose gradients go from step to step, with the names of these."""
        found = {}
        for name in self.states:
            slot = self.cascade.signatures[name].state
            assert slot is not None
            reads = (a for e in live for a in accesses(e.value) if a.tensor == name)
            old = any(self._form(a, slot)[0] == "old" for a in reads)
            if name in self.back.active and (old or self.back.parts.get((name, "last"))):
                found[name] = self.back.names.free(f"D{name}")
        return found

    def _slot(self, name: str) -> int:
        slot = self.cascade.signatures[name].state
        assert slot is not None
        return slot

    def _at(self, name: str, tensor: str, index: Expr) -> Access:
        """Return a tensor with the axes of a state, read at a generation."""
        own, slot = self.back.own(name), self._slot(name)
        return Access(tensor, tuple(index if k == slot else Var(v) for k, v in enumerate(own)))

    def _start(self, name: str) -> Einsum:
        """Return what comes back to the last generation from behind the block."""
        own, slot = self.back.own(name), self._slot(name)
        rest = [v for k, v in enumerate(own) if k != slot]
        parts = self.back.parts.get((name, "last"))
        target = self._at(name, self.carried[name], Num(0))
        if not parts:
            return Einsum(target, Num(0))
        made = total(parts, rest, self.back.names.free, f"D{name}")
        self.back.after += made.einsums
        return Einsum(target, made.access)

    def _one(self, einsum: Einsum) -> None:
        """Sum what comes back to what an Einsum defines, and hand it back."""
        name = einsum.name
        parts = self._to_state(name) if name in self.states else list(self.inner.get((name, ""), ()))
        if not parts and name not in self.states and self.back.parts.get((name, "")):
            # Only what stands behind the block reads it: its gradient is no matter of the block.
            self._hand_back(einsum, self.back.total_of(name).access)
            return
        parts += [] if name in self.states else self._from_behind(name, "")
        if not parts:
            return
        turned = self._turned(self.back.own(name))
        made = total(parts, turned, self.back.names.free, f"D{name}", exists=self._exists(name))
        self.inside += made.einsums
        self.back.know(made)
        if name in self.states:
            self.turned_states.add(made.access.tensor)
        self._hand_back(einsum, at(made.access, {self.turn: self._back_turned()}))

    def _to_state(self, name: str) -> list[Part]:
        """Return what comes back to a state as a step leaves it."""
        found = []
        if name in self.carried:
            here = self._at(name, self.carried[name], Var(self.turn))
            found.append(self._inner_part(name, here))
        found += self.inner.get((name, "new"), ())
        return found + self._from_behind(name, "new") + self._from_behind(name, "old", later=True)

    def _exists(self, name: str) -> frozenset[Expr]:
        return frozenset(replaced(c, self.mirror) for c in self.back.exists(name))

    def _turned(self, own: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.turn if v == self.step else v for v in own)

    def _back_turned(self) -> Expr:
        return from_end(Size(self.rank), Var(self.step))

    def _inner_part(self, name: str, access: Access) -> Part:
        own = self._turned(self.back.own(name))
        return Part(own, tuple(map(Var, own)), access)

    def _from_behind(self, name: str, form: str, *, later: bool = False) -> list[Part]:
        """Return what comes back to each generation from behind the block, read at the turn of it.

        Args:
            later: what was handed to S[t] is taken by the generation that made it, t - 1.
        """
        key = name, form
        parts = self.back.parts.get(key)
        if not parts:
            return []
        own = self.back.own(name)
        made = total(parts, own, self.back.names.free, f"D{name}")
        self.back.after += made.einsums
        self.back.know(made)
        self.back.totals[key] = made
        step = self.mirror[self.step]
        access = at(made.access, {self.step: Apply("+", (step, Num(1))) if later else step})
        value: Expr = Apply("pad", (access, Num(0))) if later or made.carried else access
        turned = self._turned(own)
        return [Part(turned, tuple(map(Var, turned)), value)]

    def _hand_back(self, einsum: Einsum, seed: Access) -> None:
        """Hand back from an Einsum of the block, to it and to what stands before it."""
        slot = None if einsum.name not in self.states else self._slot(einsum.name)
        own = self.back.own(einsum.name)
        places = {
            v: (Var(self.step) if k == slot else i)
            for k, (v, i) in enumerate(zip(own, einsum.target.indices, strict=True))
        }
        for access, value, extra in self.back.came_back(einsum, at(seed, places)):
            self.take(einsum, access, value, extra)

    def take(self, einsum: Einsum, access: Access, value: Expr, extra: tuple[Expr, ...]) -> None:
        """Add what comes back to one access of an Einsum of the block."""
        if access.tensor not in self.names:
            self.late.append((einsum, access, value, extra))
            return
        signature = self.cascade.signatures[access.tensor]
        axis = signature.ranks.index(self.rank) if signature.state is None else signature.state
        form, step = self._form(access, axis)
        if step == Var(self.step):
            reading = self.back.reading(access).without(axis)
            part = self._mirrored(
                self.back.part(einsum, reading, value, extra, frozenset((self.step,))), axis
            )
        else:
            part = self._from_later(einsum, access, step, value, extra)
        self.inner.setdefault((access.tensor, form), []).append(part)

    def _form(self, access: Access, axis: int) -> tuple[str, Expr]:
        """Return whether a state is read as a step finds it or leaves it, nothing of others; and at which step."""
        index = access.indices[axis]
        if self.cascade.signatures[access.tensor].state is None:
            return "", index
        if isinstance(index, Apply) and index.op == "+" and Num(1) in index.args:
            step = index.args[1 if index.args[0] == Num(1) else 0]
            if isinstance(step, Var):
                return "new", step
        return "old", index

    def _from_later(
        self, einsum: Einsum, access: Access, step: Expr, value: Expr, extra: tuple[Expr, ...]
    ) -> Part:
        """Return what comes back to a step from later ones, gathered at their turns, which come before its own.

        Args:
            step: at which the Einsum reads, by its own step: `t - 1`, or any index where it looks back further.
        """
        reading, fixed = self.back.reading(access), frozenset((self.step,))
        axis = reading.own.index(self.step)
        lag = worked_out(Apply("-", (Var(self.step), step)))
        own = self._turned(reading.own)
        plain = tuple(map(Var, own))
        if not variables(lag) and not accesses(lag):
            part = self._mirrored(self.back.part(einsum, reading.without(axis), value, extra, fixed), axis)
            made = self._gathered(access.tensor, part)
            earlier = at(made.target, {self.turn: Apply("-", (Var(self.turn), lag))})
            return Part(part.target, part.readback, Apply("pad", (earlier, Num(0))), exact=part.exact)
        place = variable_of(self.back.names.second(self.rank, f"{self.rank}2"))
        reading = reading.at(axis, step, place)
        part = self._mirrored(self.back.part(einsum, reading, value, extra, fixed), 0)
        made = self._gathered(access.tensor, part)
        turns = variable_of(self.back.names.second(rank_of(self.turn), f"{rank_of(self.turn)}2"))
        here = {place: self.mirror[self.step], self.turn: Var(turns)}
        found = Access(made.name, tuple(replaced(i, here) for i in part.readback))
        reached = Compare(("<=",), (Var(turns), Var(self.turn)))
        return Part(own, plain, Apply("pad", (found, Num(0))), (turns,), (reached,))

    def _gathered(self, tensor: str, part: Part) -> Einsum:
        """Compute what comes back from a step at the turn of it."""
        made = part.named(self.back.names.free(f"D{tensor}"))
        self.inside.append(made)
        return made

    def _mirrored(self, part: Part, axis: int) -> Part:
        """Return a part by the turns of the other block, its own axis put in where that of the steps was."""

        def changed(node: Expr) -> Expr:
            return replaced(node, self.mirror)

        # An axis that was split makes two of one: the generation stands in front of all where that is so.
        place = axis if len(part.readback) >= axis else len(part.readback)
        target = (*part.target[:place], self.turn, *part.target[place:])
        readback = (*part.readback[:place], Var(self.turn), *part.readback[place:])
        return Part(
            target,
            readback,
            changed(part.value),
            part.summed,
            tuple(map(changed, part.conditions)),
            frozenset(map(changed, part.carried)),
            part.exact,
        )

    def _first(self, name: str) -> None:
        """Tell what comes back to the first value of a state: what is left after the last turn."""
        own, slot = self.back.own(name), self._slot(name)
        rest = tuple(v for k, v in enumerate(own) if k != slot)
        found: list[Expr] = []
        if name in self.carried:
            found.append(self._at(name, self.carried[name], Size(self.rank)))
        behind = self.back.totals.get((name, "old"))
        if behind is not None:
            found.append(Apply("pad", (replaced(behind.access, {self.step: Num(0)}), Num(0))))
        self.back.parts[name, "first"] = [Part(rest, tuple(map(Var, rest)), value) for value in found]

    def _update(self, name: str) -> None:
        """Write what comes back to the generation before."""
        parts = self.inner.get((name, "old"), [])
        target = self._at(name, self.carried[name], Apply("+", (Var(self.turn), Num(1))))
        if not parts:
            self.inside.append(Einsum(target, Num(0)))
            return
        made = total(
            parts, self._turned(self.back.own(name)), self.back.names.free, f"D{name}", target=target
        )
        self.inside += made.einsums
