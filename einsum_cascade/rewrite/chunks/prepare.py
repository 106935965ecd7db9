"""The Einsums of a recurrence made ready: each linear in the states it reads, what is added a product of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from ...cascade import Cascade, fresh_name
from ...einsum import Einsum, is_map, places_of, plain_target
from ...expr import Access, Apply, Expr, Var, accesses, substitute, transform, variables
from .linear import NotLinearError, Product, holds, products, summands, total


@dataclass
class Preparing:
    """The Einsums of a block as they are rewritten one by one.

    Attributes:
        step: the variable of the recurrence.
        states: those that the block itself moves on.
        original: the Einsums as they came, without copies of states.
        out: those that are done, in an order in which each reads only what stands before it.
        copies: of each read of a state at a step that is no sum of products, the tensor that holds it.
        passing: of each state those that it is passed on from, directly or not.
    """

    cascade: Cascade
    step: str
    states: frozenset[str]
    original: list[Einsum] = field(default_factory=list)
    out: list[Einsum] = field(default_factory=list)
    copies: dict[Access, Access] = field(default_factory=dict)
    passing: dict[str, set[str]] = field(default_factory=dict)

    def prepared(self, einsums: Iterable[Einsum]) -> list[Einsum]:
        """Return Einsums with the same results."""
        self.original = _without_scaled_states(self.states, einsums)
        for einsum in self.original:
            self.out.append(self._update(einsum) if einsum.name in self.states else self._other(einsum))
        return self.out

    def _is_state(self, access: Access) -> bool:
        return access.tensor in self.states

    def _is_extreme(self, access: Access) -> bool:
        """Tell whether an access reads a state that keeps the largest or smallest so far."""
        if not self._is_state(access):
            return False
        return extreme_of(self._with_own_state(self.cascade.einsum(access.tensor))) is not None

    def _other(self, einsum: Einsum) -> Einsum:
        """Return an Einsum that is linear in states; a state that stands elsewhere is copied at each step."""
        for access in dict.fromkeys(a for a in einsum.reads if self._is_extreme(a)):
            einsum = _replaced(einsum, access, self._copy(access))
        states = dict.fromkeys(a for a in einsum.reads if self._is_state(a))
        for access in sorted(states, key=lambda a: len(a.indices)):
            if _is_linear(einsum, self._is_state):
                break
            einsum = _replaced(einsum, access, self._copy(access))
        return einsum

    def _update(self, einsum: Einsum) -> Einsum:
        """Return the update of a state in which what is added is a sum of products of tensors."""
        own = einsum.name
        einsum = self._with_own_state(einsum)
        for access in dict.fromkeys(a for a in einsum.reads if self._is_state(a) and a.tensor != own):
            # States that pass on to each other wait for each other: one of them does by a tensor of its own.
            circular = own in self.passing.get(access.tensor, set())
            if circular or self._is_extreme(access) or not self._passes_on(einsum, access):
                einsum = _replaced(einsum, access, self._copy(access))
            else:
                self._pass_on(access.tensor, own)
        if extreme_of(einsum) is not None:
            return einsum
        try:
            # What other states pass on stands apart from what is added beside it.
            parts = products(einsum.value, self._is_state)
        except NotLinearError:
            return einsum  # told where it is read as a state
        kept = [p for p in parts if _mentions(p, own)]
        terms = [t for p in parts if p not in kept for t in summands(p)]
        return replace(einsum, value=total(kept + [self._lifted(own, t) for t in terms]))

    def _with_own_state(self, einsum: Einsum) -> Einsum:
        """Return the update of a state with what is made of that state, element by element, written into it."""
        if einsum.name in einsum.sources:
            return einsum
        own: dict[str, Einsum] = {}
        for e in self.original:
            if is_map(e) and e.name not in self.states:
                e = replace(e, value=opened(e.value, own))
                if any(a.tensor == einsum.name for a in accesses(e.value)):
                    own[e.name] = e
        value = opened(einsum.value, own)
        return replace(einsum, value=value) if holds(value, lambda a: a.tensor == einsum.name) else einsum

    def _passes_on(self, einsum: Einsum, access: Access) -> bool:
        """Tell whether a state enters another one element by element, as a factor of what is added to it."""
        mine = set(einsum.output_variables)
        plain = [i for i in access.indices if isinstance(i, Var) and i.name != self.step]
        if {i.name for i in plain} != mine - {self.step} or len(plain) != len(access.indices) - 1:
            return False
        try:
            parts = products(einsum.value, lambda a: a.tensor in (access.tensor, einsum.name))
        except NotLinearError:
            return False
        return any(access in p.above for p in parts)

    def _pass_on(self, source: str, state: str) -> None:
        """Note that a state is passed on to another."""
        more = {source, *self.passing.get(source, set())}
        for name in [state, *(n for n, known in self.passing.items() if state in known)]:
            self.passing.setdefault(name, set()).update(more)

    def _lifted(self, state: str, term: Product) -> Product:
        """Return a product with the sums and functions in it that read the block written as Einsums of their own."""

        def lift(node: Expr) -> Expr:
            inside = any(self.cascade.block_of(a.tensor) == self.step for a in accesses(node))
            if isinstance(node, Access) or not inside:
                return node
            name = self._fresh(f"{state}A")
            names = dict.fromkeys((*variables(node), self.step))
            target = Access(name, tuple(map(Var, names)))
            self.out.append(self._other(Einsum(target, node)))
            return target

        return term.map(lift)

    def _copy(self, access: Access) -> Access:
        """Return the access to a copy of a state at each step, which is written the first time."""
        if access not in self.copies:
            slot = self.cascade.signatures[access.tensor].state
            assert slot is not None
            rest = tuple(i for at, i in enumerate(access.indices) if at != slot)
            names = [v for v in dict.fromkeys(v for i in rest for v in variables(i)) if v != self.step]
            target = Access(self._fresh(f"{access.tensor}A"), (Var(self.step), *map(Var, names)))
            self.out.append(Einsum(target, access))
            self.copies[access] = target
        return self.copies[access]

    def _fresh(self, wanted: str) -> str:
        return fresh_name(self.cascade, wanted, [e.name for e in self.out])


def extreme_of(einsum: Einsum) -> str | None:
    """Return max or min where a state keeps the larger or smaller of what it was, moved on, and of what comes in."""
    value = einsum.value
    if not isinstance(value, Apply) or value.op not in ("max", "min"):
        return None
    own = [a for a in value.args if holds(a, lambda x: x.tensor == einsum.name)]
    return value.op if len(own) == 1 else None


def _mentions(product: Product, tensor: str) -> bool:
    return any(a.tensor == tensor for f in (*product.above, *product.below) for a in accesses(f))


def _is_linear(einsum: Einsum, wanted: Callable[[Access], bool]) -> bool:
    if einsum.where is not None and holds(einsum.where, wanted):
        return False
    if any(holds(i, wanted) for a in einsum.reads for i in a.indices):
        return False
    if any(r.op != "sum" for r in einsum.all_reductions) and holds(einsum.value, wanted):
        return False
    try:
        parts = products(einsum.value, wanted)
    except NotLinearError:
        return False
    # A sum over a state's own axis with a condition would have to keep the condition in every part.
    return einsum.where is None or not any(holds(p.value, wanted) for p in parts)


def _replaced(einsum: Einsum, access: Access, other: Access) -> Einsum:
    def change(node: Expr) -> Expr:
        return other if node == access else node

    where = None if einsum.where is None else transform(einsum.where, change)
    return replace(einsum, value=transform(einsum.value, change), where=where)


def _without_scaled_states(of: frozenset[str], einsums: Iterable[Einsum]) -> list[Einsum]:
    """Return the Einsums with those that only scale a state, element by element, written into what reads them."""
    einsums = list(einsums)
    known = scaled_states(of, einsums)
    return [e if e.sources.isdisjoint(known) else replace(e, value=opened(e.value, known)) for e in einsums]


def scaled_states(of: frozenset[str], einsums: Iterable[Einsum]) -> dict[str, Einsum]:
    """Return the Einsums that only scale states, or add to them, element by element; each by states alone."""
    known: dict[str, Einsum] = {}
    for einsum in einsums:
        now = replace(einsum, value=opened(einsum.value, known))
        if _scales_a_state(of, now):
            known[now.name] = now
    return known


def _scales_a_state(of: frozenset[str], einsum: Einsum) -> bool:
    states = [a for a in einsum.reads if a.tensor in of]
    if len(states) > 1 and not _is_linear(einsum, lambda a: a.tensor in of):
        return False  # how far two of them lie apart is a gate, to be computed once
    if not states or einsum.name in of or einsum.all_reductions or einsum.where is not None:
        return False
    if not plain_target(einsum):
        return False
    # A number for each step is no state: opening it would only compute it again.
    mine = set(einsum.output_variables)
    return all(len(a.indices) > 1 and mine <= set(variables(a)) for a in states)


def opened(node: Expr, known: dict[str, Einsum]) -> Expr:
    """Return an expression with the values of some Einsums in the place of their names."""

    def change(n: Expr) -> Expr:
        if not isinstance(n, Access) or n.tensor not in known:
            return n
        source = known[n.tensor]
        return substitute(source.value, places_of(source, n))

    return transform(node, change)
