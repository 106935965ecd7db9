"""States that are read out of turn from outside of their block: a copy of every generation is read instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..analysis.indices import fits
from ..cascade import Cascade
from ..declarations import Iterate, Rank, rank_of, variable_of
from ..einsum import Einsum
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, transform
from .names import Names


@dataclass(frozen=True)
class _Copies:
    """The names of what a state is copied to: every generation, what each step left, and its first value."""

    every: str
    left: str
    first: str


def with_generations(cascade: Cascade, active: frozenset[str]) -> Cascade:
    """Return an equal cascade in which no active state is read out of turn from outside of its block.

    From there a state is read step by step, as `S[t]` or `S[t + 1]`, or as the last step left it. What reads it at
    another place, as `S[T - p]` or `S[0]`, reads a copy of it by its generations.
    """
    names, copies = Names.of(cascade), dict[str, _Copies]()
    for einsum, block in cascade.statements:
        for name in (a.tensor for a in accesses(einsum.value) if _is_out_of_turn(cascade, a, block)):
            if name in active and name not in copies:
                copies[name] = _Copies(*(names.free(f"{name}{end}") for end in ("G", "N", "F")))
    if not copies:
        return cascade
    ranks, body = list(cascade.ranks), list[Einsum | Iterate]()
    for item in cascade.body:
        if isinstance(item, Einsum):
            known = copies.get(item.name) if item.name in cascade.states else None
            read = _reading(cascade, item, None, copies)
            body += [read] if known is None else _with_first(cascade, read, known)
            continue
        body.append(
            replace(item, einsums=tuple(_reading(cascade, e, item.variable, copies) for e in item.einsums))
        )
        for name in (e.name for e in item.einsums if e.name in copies):
            rank = rank_of(item.variable)
            generations = Rank(names.free(f"{rank}G"), Apply("+", (Size(rank), Num(1))))
            ranks.append(generations)
            body += _copied(cascade, name, copies[name], generations.name)
    return replace(cascade, ranks=tuple(ranks), body=tuple(body))


def _is_out_of_turn(cascade: Cascade, access: Access, block: str | None) -> bool:
    """Tell whether a state is read from outside of its block otherwise than step by step or at its end."""
    signature = cascade.signatures[access.tensor]
    if signature.state is None or cascade.block_of(access.tensor) == block:
        return False
    if len(set(signature.ranks)) < len(signature.ranks):
        return False  # a second name for one axis would be needed
    rank, index = signature.ranks[signature.state], access.indices[signature.state]
    if index == Size(rank):
        return False
    if isinstance(index, Apply) and index.op == "+" and index.args[1] == Num(1):
        index = index.args[0]
    return not (isinstance(index, Var) and fits(cascade, rank, index))


def _reading(cascade: Cascade, einsum: Einsum, block: str | None, copies: Mapping[str, _Copies]) -> Einsum:
    """Return an Einsum that reads copies where it read states out of turn."""

    def change(node: Expr) -> Expr:
        known = isinstance(node, Access) and node.tensor in copies
        if known and isinstance(node, Access) and _is_out_of_turn(cascade, node, block):
            return replace(node, tensor=copies[node.tensor].every)
        return node

    return replace(einsum, value=transform(einsum.value, change))


def _with_first(cascade: Cascade, einsum: Einsum, copies: _Copies) -> list[Einsum]:
    """Return the first value of a state as a tensor, and the state that begins with it."""
    slot = cascade.signatures[einsum.name].state
    first = Access(copies.first, tuple(i for k, i in enumerate(einsum.target.indices) if k != slot))
    return [replace(einsum, target=first), Einsum(einsum.target, first)]


def _copied(cascade: Cascade, name: str, copies: _Copies, generations: str) -> list[Einsum]:
    """Return what a state was before every step and after the last, along a rank of one element more."""
    signature = cascade.signatures[name]
    slot, step = signature.state, Var(variable_of(generations))
    assert slot is not None
    own: list[Expr] = [Var(variable_of(r)) for r in signature.ranks]

    def read(tensor: str, *generation: Expr) -> Access:
        return Access(tensor, (*own[:slot], *generation, *own[slot + 1 :]))

    later = Apply("+", (own[slot], Num(1)))
    before = Apply("-", (step, Num(1)))
    begins = Compare(("==",), (step, Num(0)))
    value = Apply("select", (begins, read(copies.first), read(copies.left, before)))
    return [
        Einsum(read(copies.left, own[slot]), read(name, later)),
        Einsum(read(copies.every, step), value),
    ]
