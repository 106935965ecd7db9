"""The iterate block of a recurrence: its states with their gates and what is added to them, and the other Einsums."""

from __future__ import annotations

from dataclasses import dataclass

from ...cascade import Cascade
from ...declarations import Iterate, variable_of
from ...einsum import Einsum, is_map, places_of
from ...errors import CascadeError
from ...expr import Access, Apply, Expr, Var, accesses, substitute, variables
from .behind import reading
from .linear import NotLinearError, Product, holds, product_of, products, summands, total
from .prepare import Preparing, extreme_of


@dataclass(frozen=True)
class State:
    """A state that a step multiplies by a gate and adds to; or moves on by an addend and keeps the larger of.

    Attributes:
        axes: the variables of its elements, in order, without that of the step.
        slot: where the step stands among the indices.
        op: `sum`, or `max` or `min` for a state that keeps the largest or smallest so far.
        gate: factors by which a step multiplies it, none for 1; of an extreme the product whose value is added.
        added: what a step adds to it; of an extreme what it is compared with.
    """

    name: str
    axes: tuple[str, ...]
    slot: int
    op: str
    gate: Product
    added: tuple[Product, ...]

    def places(self, access: Access) -> dict[str, Expr]:
        """Return what an access reads along each axis."""
        indices = [i for at, i in enumerate(access.indices) if at != self.slot]
        return dict(zip(self.axes, indices, strict=True))

    def at(self, step: Expr) -> Access:
        """Return the access to the elements of the state at a step."""
        indices: list[Expr] = [Var(v) for v in self.axes]
        indices.insert(self.slot, step)
        return Access(self.name, tuple(indices))


@dataclass(frozen=True)
class Block:
    """A recurrence over the steps of one rank.

    Attributes:
        step: the variable of the steps.
        states: by name.
        others: the other Einsums by name, each linear in the states that it reads.
        copies: the tensors among them that hold a state at every step, each with the read of it.
        behind: those of the others that stand behind the block and read its states step by step.
    """

    cascade: Cascade
    step: str
    states: dict[str, State]
    others: dict[str, Einsum]
    copies: dict[str, Access]
    behind: frozenset[str]

    def is_state(self, access: Access) -> bool:
        """Tell whether an access reads a state."""
        return access.tensor in self.states

    def is_before(self, access: Access) -> bool:
        """Tell whether an access reads a state as a step finds it, not as it leaves it."""
        return access.indices[self.states[access.tensor].slot] == Var(self.step)

    def feeding(self, state: str, seen: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """Return the tensors of the block that a state is fed with or decays by, through other states too, in order."""
        mine = self.states[state]
        found: dict[str, None] = {}
        for product in (mine.gate, *mine.added):
            for access in (a for f in (*product.above, *product.below) for a in accesses(f)):
                if access.tensor in self.others:
                    found[access.tensor] = None
                elif self.is_state(access) and access.tensor not in seen:
                    found |= dict.fromkeys(self.feeding(access.tensor, seen | {state}))
        return tuple(found)

    def reads_state(self, einsum: Einsum) -> bool:
        """Tell whether an Einsum reads a state."""
        return any(self.is_state(a) for a in einsum.reads)


def block_of(cascade: Cascade, rank: str) -> Block:
    """Return the recurrence over a rank.

    Raises:
        CascadeError: there is none, or a state does not move by a gate and an addend; it names the Einsum.
    """
    step = variable_of(rank)
    block = next((i for i in cascade.body if isinstance(i, Iterate) and i.variable == step), None)
    if block is None:
        over = [i.variable for i in cascade.body if isinstance(i, Iterate)]
        found = f"it iterates over {', '.join(over)}" if over else "it has no iterate block"
        raise CascadeError(f"{cascade.name} has no recurrence over {rank}: {found}")
    preparing = Preparing(cascade, step, cascade.states & {e.name for e in block.einsums})
    adopted = reading(cascade, rank)
    einsums = preparing.prepared((*block.einsums, *adopted))
    others = {e.name: e for e in einsums if e.name not in cascade.states}
    states = {e.name: _state(cascade, e, step, others) for e in einsums if e.name in cascade.states}
    copies = {copy.tensor: access for access, copy in preparing.copies.items()}
    return Block(cascade, step, states, others, copies, frozenset(e.name for e in adopted))


def _state(cascade: Cascade, einsum: Einsum, step: str, others: dict[str, Einsum]) -> State:
    name = einsum.name
    slot = cascade.signatures[name].state
    assert slot is not None
    axes = [i for at, i in enumerate(einsum.target.indices) if at != slot]
    names = tuple(i.name for i in axes if isinstance(i, Var))
    if einsum.all_reductions or einsum.where is not None:
        raise CascadeError(
            f"{name} is reduced, or has a condition, where it is written; a state in chunks is multiplied and added to"
        )
    if len(set(names)) < len(axes):
        raise CascadeError(f"{name} is written by more than its variables; a state in chunks is not")
    own = (*einsum.target.indices[:slot], Var(step), *einsum.target.indices[slot + 1 :])
    extreme = extreme_of(einsum)
    if extreme is not None:
        assert isinstance(einsum.value, Apply)
        inside = [holds(a, lambda x: x.tensor == name) for a in einsum.value.args]
        moved = einsum.value.args[inside.index(True)]
        others_in = [a for a, mine in zip(einsum.value.args, inside, strict=True) if not mine]
        kept, shift = _kept(name, moved, own)
        if len(kept) != 1 or kept[0] != Product():
            raise CascadeError(
                f"{name} scales the state before it under {extreme}; in chunks it may only add to it"
            )
        gate = Product((total(shift),)) if shift else Product()
        return State(name, names, slot, extreme, gate, tuple(map(product_of, others_in)))
    kept, added = _kept(name, einsum.value, own)
    if not kept:
        raise CascadeError(
            f"{name} keeps nothing of the state before it: no recurrence that chunks would shorten"
        )
    gate = kept[0] if len(kept) == 1 else Product((total(kept),))
    terms = tuple(_outer(t, others) for part in added for t in summands(part))
    return State(name, names, slot, "sum", gate, terms)


def _kept(name: str, value: Expr, own: tuple[Expr, ...]) -> tuple[list[Product], list[Product]]:
    """Return what multiplies the state before a step, and what is added to it."""
    try:
        parts = products(value, lambda a: a.tensor == name)
    except NotLinearError:
        raise CascadeError(f"{name} is no gate times the state before it plus what is added to it") from None
    kept: list[Product] = []
    added: list[Product] = []
    for part in parts:
        mine = next((f for f in part.above if isinstance(f, Access) and f.tensor == name), None)
        if mine is None:
            added.append(part)
        elif mine.indices == own:
            kept.append(part.without(mine))
        else:
            raise CascadeError(
                f"{name} moves its state from element to element; a state in chunks stays in place"
            )
    return kept, added


def _outer(term: Product, others: dict[str, Einsum]) -> Product:
    """Return a product with the outer products among its factors opened: they are as large as the state itself."""
    out = Product(negative=term.negative, below=term.below)
    for factor in term.above:
        out = out.times(outer_product(factor, others) or Product((factor,)))
    return out


def outer_product(node: Expr, others: dict[str, Einsum]) -> Product | None:
    """Return the factors of a tensor that is a product of smaller ones, or None."""
    if not isinstance(node, Access) or node.tensor not in others:
        return None
    einsum = others[node.tensor]
    if not is_map(einsum):
        return None
    parts = product_of(einsum.value)
    size = len(einsum.output_variables)
    if parts.below or any(len(set(variables(f))) >= size for f in parts.above) or not parts.above:
        return None
    places = places_of(einsum, node)
    return parts.map(lambda f: substitute(f, places))
