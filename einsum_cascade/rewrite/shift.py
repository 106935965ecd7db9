"""Rule shift: what is added alike to every score of a fiber cancels where the scores meet their own maximum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import sympy

from ..analysis.needed import without_unused
from ..cascade import Cascade
from ..declarations import Iterate
from ..einsum import Einsum, places_of, plain_target
from ..expr import Access, Apply, Expr, Var, accesses, substitute, transform, transform_bare, variables
from .algebra import Formula, Symbols, expanded
from .elements import Along, Writing, along
from .separate import Rewritten

# Reductions that a summand common to all terms passes through.
_MOVES_ALONG = ("max", "min", "logsumexp")
# No tensor has such a name: the summand that has to vanish.
_SHIFT = "shift'"


def shifts(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    """Yield the cascades in which scores lack a summand that waits for the fiber, where nothing can tell.

    Pattern: `X[m, p] = a(x_m) + c(p)` with c a value of whole fibers, and all that reads X either moves along with c,
    as a maximum of X does and the larger of it and of another value less c (a learned sink), or is a function of
    differences of such values alone: softmax of keys that are centred by their mean. Rewrite: X, and such other
    values, without c.
    """
    seen = along(cascade, rank)
    for item in cascade.body:
        if not isinstance(item, Einsum) or item.name in cascade.states or item.name not in seen.waiting:
            continue
        if not seen.streams(item.name) or not plain_target(item):
            continue
        left, common = _without_common(seen, item)
        if left is None:
            continue
        others = _others_with(seen, item, common)
        for given in dict.fromkeys((frozenset(others), frozenset[str]())):
            moving = _moved_along(seen, {item.name, *given})
            tops = [n for n in moving or () if seen.cascade.einsum(n).all_reductions]
            if not tops:
                continue
            inside = {n: others[n] for n in given}
            body = tuple(
                _without(replace(each, value=left) if each is item else each, inside)
                for each in cascade.body
                if not isinstance(each, Einsum) or each.name not in inside
            )
            why = (
                f"what does not depend on the element of {rank} cancels where {item.name} meets "
                f"{', '.join(sorted(tops))}"
            )
            yield Rewritten("shift", item.name, why, without_unused(replace(cascade, body=body)))
            break


def _without(item: Einsum | Iterate, inside: Mapping[str, Einsum]) -> Einsum | Iterate:
    """Return an Einsum in which some others are written out where they are read."""
    if isinstance(item, Iterate) or not inside.keys() & item.sources:
        return item

    def opened(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in inside:
            return node
        source = inside[node.tensor]
        return substitute(source.value, places_of(source, node))

    return replace(item, value=transform(item.value, opened))


def _others_with(seen: Along, scores: Einsum, common: frozenset[Expr]) -> dict[str, Einsum]:
    """Return the other maps of whole-fiber values to which the same is added, without it."""
    found = {}
    for item in seen.cascade.body:
        if not isinstance(item, Einsum) or item.all_reductions or item.where is not None:
            continue
        if item is scores or item.name in seen.cascade.states or not plain_target(item):
            continue
        terms, symbols = _terms(item.value)
        mine = {symbols.expression(t): t for t in terms}
        if common <= mine.keys() and len(mine) > len(common):
            left = symbols.expression(sympy.Add(*(t for e, t in mine.items() if e not in common)))
            found[item.name] = replace(item, value=left)
    return found


def _terms(value: Expr) -> tuple[tuple[Formula, ...], Symbols]:
    symbols = Symbols()
    return sympy.Add.make_args(expanded(symbols.formula(value))), symbols


def _without_common(seen: Along, einsum: Einsum) -> tuple[Expr | None, frozenset[Expr]]:
    """Return a value without its summands that wait and are the same for every element, and these summands.

    The value is None where it has none.
    """
    if {r.op for r in einsum.all_reductions} - {"sum"}:
        return None, frozenset()
    walking = seen.walking[einsum.name]
    kept: list[Formula] = []
    common: list[Expr] = []
    terms, symbols = _terms(_opened(seen, einsum.value))
    for term in terms:
        atoms = symbols.atoms(term)
        moves = any(set(variables(a)) & walking for a in atoms)
        waits = any(a.tensor in seen.whole | seen.waiting for atom in atoms for a in accesses(atom))
        if waits and not moves:
            common.append(symbols.expression(term))
        else:
            kept.append(term)
    if not common or not kept:
        return None, frozenset()
    value = symbols.expression(sympy.Add(*kept))
    # A sum has to keep all of its terms, and the result its axes.
    whole = set(einsum.variables) <= set(variables(value))
    return (value if whole else None), frozenset(common)


def _opened(seen: Along, value: Expr) -> Expr:
    """Return a value in which maps of elements that wait are written out: K[e, m] - MK[e] for KC[e, m]."""
    writing = Writing(value)

    def opened(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in seen.waiting or not seen.streams(node.tensor):
            return node
        inner = seen.cascade.einsum(node.tensor)
        if inner.all_reductions or inner.where is not None or not plain_target(inner):
            return node
        return writing.out(inner, node, opened)

    return transform_bare(value, opened)


def _moved_along(seen: Along, given: set[str]) -> set[str] | None:
    """Return the tensors that move with some by the same for each fiber, or None where more than that changes."""
    outputs = {s.tensor for s in seen.cascade.outputs}
    moving = set(given)
    for einsum, block in seen.cascade.statements:
        if einsum.name in given or not moving & einsum.sources:
            continue
        moved = _movement(seen, einsum, moving)
        if moved is None:
            return None
        if moved:
            if block is not None or einsum.name in seen.cascade.states:
                return None
            moving.add(einsum.name)
    return None if moving & outputs else moving


def _movement(seen: Along, einsum: Einsum, moving: set[str]) -> bool | None:
    """Tell whether a value moves along with some tensors (True) or stays (False); None for anything else."""
    if einsum.where is not None and moving & {a.tensor for a in accesses(einsum.where)}:
        return None
    symbols = Symbols()
    moves: dict[Expr, Formula] = {}

    def moved(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in moving:
            return node
        at = _fiber_of(seen, node.tensor)
        shift = Access(_SHIFT, tuple(node.indices[at[v]] for v in sorted(at)))
        moves[shift] = symbols.symbol(shift)
        return Apply("+", (node, shift))

    before, after = symbols.formula(einsum.value), symbols.formula(transform(einsum.value, moved))
    for shift in moves.values():
        after = _pulled_out(after, shift)
    apart = sympy.simplify(expanded(after) - expanded(before))
    if apart == 0:
        return False
    at = plain_target(einsum) and Access(_SHIFT, tuple(map(Var, sorted(_fiber_of(seen, einsum.name)))))
    ops = {r.op for r in einsum.all_reductions}
    return True if at in moves and apart == moves[at] and ops <= set(_MOVES_ALONG) else None


def _pulled_out(formula: Formula, shift: Formula) -> Formula:
    """Return a formula in which what is added to all of which the largest is taken is added to that instead."""

    def pulled(part: Formula) -> Formula:
        less = [sympy.expand(a - shift) for a in part.args]
        return shift + part.func(*less) if all(shift not in a.free_symbols for a in less) else part

    return formula.replace(lambda part: isinstance(part, (sympy.Max, sympy.Min)), pulled)


def _fiber_of(seen: Along, name: str) -> Mapping[str, int]:
    """Return the places of the variables that tell the fibers of a tensor apart."""
    target = seen.cascade.einsum(name).target.indices
    walking = seen.walking.get(name, frozenset())
    return {i.name: place for place, i in enumerate(target) if isinstance(i, Var) and i.name not in walking}
