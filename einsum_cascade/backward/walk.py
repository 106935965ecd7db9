"""What comes back to each tensor on the walk from the outputs to the inputs, Einsum by Einsum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..analysis.points import conditions_of, conditions_of_access
from ..cascade import Cascade
from ..declarations import Iterate, rank_of, variable_of
from ..einsum import Einsum, Reduction
from ..errors import CascadeError
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, variables
from ..rewrite.places import replaced
from .inverse import inside, inverse
from .names import Names
from .parts import Part, Total, counted, total
from .scalar import handed_back, times
from .tidy import unsaid


@dataclass(frozen=True)
class Reading:
    """What an access asks for, of a state without the axis of its generations where one of them is named.

    Attributes:
        indices: with the variable by which the tensor itself names each axis, and its rank.
    """

    indices: tuple[Expr, ...]
    own: tuple[str, ...]
    ranks: tuple[str, ...]

    def without(self, axis: int) -> Reading:
        """Return it without an axis."""
        kept = [k for k in range(len(self.own)) if k != axis]
        names = (tuple(row[k] for k in kept) for row in (self.own, self.ranks))
        return Reading(tuple(self.indices[k] for k in kept), *names)

    def at(self, axis: int, index: Expr, own: str) -> Reading:
        """Return it with another index along an axis, and another name of what that axis tells apart."""
        indices = (*self.indices[:axis], index, *self.indices[axis + 1 :])
        return Reading(indices, (*self.own[:axis], own, *self.own[axis + 1 :]), self.ranks)


# A tensor, and of a state whether what it was before a step (`old`), what it is after it (`new`), the `last` or the
# `first` of its values is meant; of any other tensor nothing more.
Key = tuple[str, str]


class Backward:
    """What comes back to every tensor, gathered while its readers are met from the last one on.

    Attributes:
        active: the tensors through which gradients come.
        after: what is computed behind the cascade, in order.
        beside: Einsums that stand behind one of the cascade: the place of a maximum, what is gathered in a block.
        parts: what comes back to a tensor, as far as its readers have been met.
        totals: the sums of it, of the tensors whose readers all have.
        carrying: the variables of each gradient, and the conditions under which its elements exist.
    """

    def __init__(
        self, cascade: Cascade, active: frozenset[str], given: Mapping[str, str], names: Names
    ) -> None:
        self.cascade, self.active, self.names = cascade, active, names
        self.after: list[Einsum | Iterate] = []
        self.given = frozenset(given.values())
        self.placed: set[Expr] = set()
        self.beside: dict[str, tuple[Einsum, ...]] = {}
        self.parts: dict[Key, list[Part]] = {}
        self.totals: dict[Key, Total] = {}
        self.carrying: dict[str, tuple[list[str], frozenset[Expr]]] = {}
        self._own: dict[str, tuple[str, ...]] = {}
        for s in cascade.outputs:
            own = self.own(s.tensor)
            self.carrying[given[s.tensor]] = list(own), frozenset()
            seed = Access(given[s.tensor], tuple(map(Var, own)))
            form = "new" if s.tensor in cascade.states else ""
            self.parts[s.tensor, form] = [Part(own, seed.indices, seed)]

    def own(self, tensor: str) -> tuple[str, ...]:
        """Return the variables by which a tensor's elements are named: those of its ranks, each once."""
        if tensor not in self._own:
            found: list[str] = []
            for rank in self.cascade.signatures[tensor].ranks:
                v = variable_of(rank)
                found.append(v if v not in found else variable_of(self.names.second(rank, f"{rank}2")))
            self._own[tensor] = tuple(found)
        return self._own[tensor]

    def hand_back_first(self, einsum: Einsum) -> None:
        """Hand back from the first value of a state."""
        parts = self.parts.get((einsum.name, "first"))
        if not parts or einsum.name not in self.active:
            return
        made = total(parts, parts[0].target, self.names.free, f"D{einsum.name}")
        self.after += made.einsums
        self.hand_back(einsum, made.access)

    def total_of(self, tensor: str, *, must_name: bool = False) -> Total:
        """Return the gradient of a tensor, all of whose readers have been met, and compute it."""
        key = tensor, ""
        if key not in self.totals:
            own = self.own(tensor)
            (first, *others) = self.parts[key]
            alone = must_name and not others and first.in_place(own) is not None
            if alone and isinstance(first.value, Access) and first.value in self.placed:
                return Total(first.value, (), first.carried)
            made = total(
                self.parts[key],
                own,
                self.names.free,
                f"D{tensor}",
                exists=self.exists(tensor),
                must_name=must_name,
            )
            self.after += made.einsums
            self.totals[key] = made
            self.know(made)
        return self.totals[key]

    def know(self, made: Total) -> None:
        """Remember under which conditions the elements of a gradient exist."""
        if made.einsums:
            self.carrying[made.access.tensor] = (
                [v for i in made.access.indices for v in variables(i)],
                made.carried,
            )

    def exists(self, tensor: str) -> frozenset[Expr]:
        """Return the conditions under which an element of a tensor exists, by its own variables."""
        if not self.cascade.defines(tensor) or tensor in self.cascade.states:
            return frozenset()
        writer = self.cascade.einsum(tensor)
        mine = set(writer.output_variables)
        return frozenset(c.holds for c in conditions_of(self.cascade, writer) if c.names <= mine)

    def hand_back(self, einsum: Einsum, seed: Access) -> None:
        """Add what comes back from an Einsum, by the gradient of what it defines, to what it reads."""
        for access, value, extra in self.came_back(einsum, seed):
            self.receive(einsum, access, value, extra)

    def came_back(self, einsum: Einsum, seed: Access) -> Iterator[tuple[Access, Expr, tuple[Expr, ...]]]:
        """Yield what comes back to each access of an Einsum, and under which conditions of a maximum."""
        came, extra = self._through_reduction(einsum, seed)
        value = einsum.value if einsum.all_reductions else einsum.target
        for access, back in handed_back(einsum.value, came, value, self.active):
            yield access, back, extra

    def receive(self, einsum: Einsum, access: Access, back: Expr, extra: tuple[Expr, ...]) -> None:
        """Add what comes back to one access that is read from outside of the block that makes it, if any does."""
        key, part = self.received(einsum, access, back, extra)
        self.parts.setdefault(key, []).append(part)

    def received(
        self, einsum: Einsum, access: Access, back: Expr, extra: tuple[Expr, ...]
    ) -> tuple[Key, Part]:
        """Return what comes back to one access, and to what: of a state to which of its generations."""
        reading, form = self.place(access)
        return (access.tensor, form), self.part(einsum, reading, back, extra)

    def known_in(self, block: Iterate) -> frozenset[str]:
        """Return the tensors that can be read at the end of a block of the cascade."""
        found = {*self.given, *(s.tensor for s in self.cascade.inputs)}
        for item in self.cascade.body:
            found |= {e.name for e in item.einsums} if isinstance(item, Iterate) else {item.name}
            if item is block:
                break
        return frozenset(found)

    def add_beside(self, name: str, made: Einsum) -> None:
        """Put an Einsum behind one of the cascade, in its block if it has one."""
        self.placed.add(made.target)
        self.beside[name] = (*self.beside.get(name, ()), made)

    def reading(self, access: Access) -> Reading:
        """Return what an access asks for."""
        tensor = access.tensor
        return Reading(access.indices, self.own(tensor), self.cascade.signatures[tensor].ranks)

    def place(self, access: Access) -> tuple[Reading, str]:
        """Return what an access asks for, and of a state from behind its block which of its generations it names."""
        reading, slot = self.reading(access), self.cascade.signatures[access.tensor].state
        if slot is None:
            return reading, ""
        index = access.indices[slot]
        if index == Size(reading.ranks[slot]):
            return reading.without(slot), "last"
        if isinstance(index, Var):
            return reading, "old"
        step, one = index.args if isinstance(index, Apply) and index.op == "+" else (index, Num(0))
        if one == Num(1) and isinstance(step, Var):
            indices = (*access.indices[:slot], step, *access.indices[slot + 1 :])
            return Reading(indices, reading.own, reading.ranks), "new"
        raise CascadeError(
            f"{access.tensor} is a state that is read at another place than t, t + 1 or the last",
            at=access.at,
        )

    def part(
        self,
        einsum: Einsum,
        reading: Reading,
        back: Expr,
        extra: tuple[Expr, ...],
        fixed: frozenset[str] = frozenset(),
    ) -> Part:
        """Return what comes back by one access, gathered for the elements of what is read.

        Args:
            extra: conditions besides those of the Einsum's points.
            fixed: the variable of the block that both stand in.
        """
        solved = inverse(self.cascade, reading.indices, reading.ranks, reading.own, einsum, fixed)
        self.names.ranks += [r for r in solved.ranks if r not in self.names.ranks]
        self.names.taken |= {r.name for r in solved.ranks}
        value = replaced(back, solved.values)
        known = [c.holds for c in conditions_of(self.cascade, einsum)]
        needed = [replaced(c, solved.values) for c in (*known, *extra, *solved.conditions)] + solved.inside
        carried = self.carried_by(value)
        conditions = tuple(unsaid(needed, carried, self.cascade))
        walked = {*variables(value), *(v for c in conditions for v in variables(c))}
        every = [v for v in einsum.variables if v not in solved.values and v not in fixed]
        every += [v for e in solved.values.values() for v in variables(e)]
        over = [v for v in dict.fromkeys((*every, *walked)) if v not in solved.target and v not in fixed]
        value = counted(value, over, walked)
        over = [v for v in over if v in walked]
        mine = frozenset(
            c
            for c in unsaid((*conditions, *carried), (), self.cascade)
            if set(variables(c)) <= {*solved.target, *fixed}
        )
        return Part(
            tuple(solved.target), tuple(solved.readback), value, tuple(over), conditions, mine, solved.exact
        )

    def carried_by(self, value: Expr) -> list[Expr]:
        """Return the conditions under which all that an expression reads exists."""
        found: list[Expr] = []
        for access in accesses(value):
            if access.tensor in self.carrying:
                names, conditions = self.carrying[access.tensor]
                at = dict(zip(names, access.indices, strict=True))
                found += [replaced(c, at) for c in conditions]
                found += [
                    inside(index, self.names.meant(rank_of(v)))
                    for v, index in at.items()
                    if not isinstance(index, Var)
                ]
            elif access.tensor in self.cascade.signatures:
                found += [c.holds for c in conditions_of_access(self.cascade, access)]
        return found

    def _through_reduction(self, einsum: Einsum, seed: Access) -> tuple[Expr, tuple[Expr, ...]]:
        """Return what comes to a term of a reduction, and under which conditions it does."""
        if not einsum.all_reductions:
            return seed, ()
        (step,) = einsum.all_reductions
        if step.op == "sum":
            return seed, ()
        if step.op == "logsumexp":
            share = Apply("exp", (Apply("-", (einsum.value, einsum.target)),))
            return times(seed, share), ()
        (variable,) = step.variables
        if step.op in ("max", "min"):
            chosen = Access(self.names.free(f"{einsum.name}P"), einsum.target.indices)
            value = einsum.value if step.op == "max" else Apply("neg", (einsum.value,))
            self.add_beside(
                einsum.name, Einsum(chosen, value, (Reduction("argmax", (variable,)),), einsum.where)
            )
            return seed, (Compare(("==",), (chosen, Var(variable))),)
        second = variable_of(self.names.second(rank_of(variable), f"{rank_of(variable)}2"))
        others = Access(self.names.free(f"{einsum.name}P"), (*einsum.target.indices, Var(second)))
        apart = Compare(("!=",), (Var(variable), Var(second)))
        where = apart if einsum.where is None else Apply("and", (einsum.where, apart))
        self.add_beside(einsum.name, Einsum(others, einsum.value, (step,), where))
        return times(seed, Access(others.tensor, (*einsum.target.indices, Var(variable)))), ()
