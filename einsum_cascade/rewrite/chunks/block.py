"""The iterate block of a recurrence: its states with their gates and what is added to them, and the other Einsums."""

from __future__ import annotations

from dataclasses import dataclass

from ...cascade import Cascade
from ...declarations import Iterate, variable_of
from ...einsum import Einsum
from ...errors import CascadeError
from ...expr import Access, Expr, Var, substitute, variables
from ..elements import places_of
from .linear import NotLinearError, Product, product_of, products, total
from .prepare import Preparing, summands


@dataclass(frozen=True)
class State:
    """A state that a step multiplies by a gate and adds to.

    Attributes:
        axes: the variables of its elements, in order, without that of the step.
        slot: where the step stands among the indices.
        gate: factors by which a step multiplies it; none for 1.
        added: what a step adds to it.
    """

    name: str
    axes: tuple[str, ...]
    slot: int
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
    """

    cascade: Cascade
    step: str
    states: dict[str, State]
    others: dict[str, Einsum]

    def is_state(self, access: Access) -> bool:
        """Tell whether an access reads a state."""
        return access.tensor in self.states

    def is_before(self, access: Access) -> bool:
        """Tell whether an access reads a state as a step finds it, not as it leaves it."""
        return access.indices[self.states[access.tensor].slot] == Var(self.step)

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
    einsums = Preparing(cascade, step).prepared(block.einsums)
    others = {e.name: e for e in einsums if e.name not in cascade.states}
    states = {e.name: _state(cascade, e, step, others) for e in einsums if e.name in cascade.states}
    return Block(cascade, step, states, others)


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
    try:
        parts = products(einsum.value, lambda a: a.tensor == name)
    except NotLinearError:
        raise CascadeError(f"{name} is no gate times the state before it plus what is added to it") from None
    own = (*einsum.target.indices[:slot], Var(step), *einsum.target.indices[slot + 1 :])
    kept: list[Product] = []
    added: list[Product] = []
    for part in parts:
        mine = next((f for f in part.above if isinstance(f, Access) and f.tensor == name), None)
        if mine is None:
            added += [_outer(t, others) for t in summands(part)]
        elif mine.indices == own:
            kept.append(part.without(mine))
        else:
            raise CascadeError(f"{name} moves its state from element to element; a state in chunks stays in place")
    if not kept:
        raise CascadeError(f"{name} keeps nothing of the state before it: no recurrence that chunks would shorten")
    gate = kept[0] if len(kept) == 1 else Product((total(kept),))
    return State(name, names, slot, gate, tuple(added))


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
    plain = all(isinstance(i, Var) for i in einsum.target.indices)
    if einsum.all_reductions or einsum.where is not None or not plain:
        return None
    parts = product_of(einsum.value)
    size = len(einsum.output_variables)
    if parts.below or any(len(set(variables(f))) >= size for f in parts.above) or not parts.above:
        return None
    places = places_of(einsum, node)
    return parts.map(lambda f: substitute(f, places))

