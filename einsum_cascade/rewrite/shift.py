"""Rule shift: what is added alike to every score of a fiber cancels where the scores meet their own maximum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import sympy

from ..analysis.needed import without_unused
from ..cascade import Cascade
from ..einsum import Einsum
from ..expr import Access, Apply, Expr, Var, accesses, transform, transform_bare, variables
from .algebra import Formula, Symbols, expanded
from .elements import Along, Writing, along, plain_target
from .separate import Rewritten

# Reductions that a summand common to all terms passes through.
_MOVES_ALONG = ("max", "min", "logsumexp")
# No tensor has such a name: the summand that has to vanish.
_SHIFT = "shift'"


def shifts(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    """Yield the cascades in which scores lack a summand that waits for the fiber, where nothing can tell.

    Pattern: `X[m, p] = a(x_m) + c(p)` with c a value of whole fibers, `G[p] = max_m X[m, p]`, and every other reader of
    X or G a function of X - G alone: softmax of keys that are centred by their mean. Rewrite: X without c.
    """
    seen = along(cascade, rank)
    outputs = {s.tensor for s in cascade.outputs}
    for item in cascade.body:
        if not isinstance(item, Einsum) or item.name in outputs or item.name in cascade.states:
            continue
        if item.name not in seen.waiting or not seen.streams(item.name) or not plain_target(item):
            continue
        tops = _tops(seen, item)
        if not tops or outputs & tops:
            continue
        left = _without_common(seen, item)
        if left is None or not _nothing_can_tell(seen, item, tops):
            continue
        changed = replace(item, value=left)
        body = tuple(changed if other is item else other for other in cascade.body)
        why = f"what does not depend on the element of {rank} cancels where {item.name} meets {', '.join(sorted(tops))}"
        yield Rewritten("shift", item.name, why, without_unused(replace(cascade, body=body)))


def _without_common(seen: Along, einsum: Einsum) -> Expr | None:
    """Return a value without its summands that wait and are the same for every element, or None if it has none."""
    if {r.op for r in einsum.all_reductions} - {"sum"}:
        return None
    symbols = Symbols()
    walking = seen.walking[einsum.name]
    kept: list[Formula] = []
    common = False
    for term in sympy.Add.make_args(expanded(symbols.formula(_opened(seen, einsum.value)))):
        atoms = symbols.atoms(term)
        moves = any(set(variables(a)) & walking for a in atoms)
        waits = any(a.tensor in seen.whole | seen.waiting for atom in atoms for a in accesses(atom))
        if waits and not moves:
            common = True
        else:
            kept.append(term)
    if not common or not kept:
        return None
    value = symbols.expression(sympy.Add(*kept))
    # A sum has to keep all of its terms, and the result its axes.
    return value if set(einsum.variables) <= set(variables(value)) else None


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


def _tops(seen: Along, scores: Einsum) -> set[str]:
    """Return the Einsums that reduce the scores over the fiber and move with what is added to all of them."""
    found = set()
    for einsum in seen.cascade.readers.get(scores.name, ()):
        whole = set(einsum.reduced) == set(seen.walking.get(einsum.name, ()))
        alone = einsum.value == Access(scores.name, scores.target.indices)
        if (
            alone
            and whole
            and plain_target(einsum)
            and {r.op for r in einsum.all_reductions} <= set(_MOVES_ALONG)
        ):
            found.add(einsum.name)
    return found


def _nothing_can_tell(seen: Along, scores: Einsum, tops: set[str]) -> bool:
    """Tell whether no reader changes when the scores and their maxima all move by the same."""
    moving = {scores.name, *tops}
    readers = [
        e for e, _ in seen.cascade.statements if e.name not in tops and moving & {a.tensor for a in e.reads}
    ]
    return bool(tops) and bool(readers) and all(_unmoved(seen, e, moving) for e in readers)


def _unmoved(seen: Along, einsum: Einsum, moving: set[str]) -> bool:
    """Tell whether a value stays as it is when some tensors move by a value that the fiber has."""
    symbols = Symbols()
    places = {n: _fiber_of(seen, n) for n in moving}

    def moved(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in places:
            return node
        at = places[node.tensor]
        shift = Access(_SHIFT, tuple(node.indices[at[v]] for v in sorted(at)))
        return Apply("+", (node, shift))

    if einsum.where is not None and moving & {a.tensor for a in accesses(einsum.where)}:
        return False
    before, after = symbols.formula(einsum.value), symbols.formula(transform(einsum.value, moved))
    return bool(sympy.simplify(expanded(after) - expanded(before)) == 0)


def _fiber_of(seen: Along, name: str) -> Mapping[str, int]:
    """Return the places of the variables that tell the fibers of a tensor apart."""
    target = seen.cascade.einsum(name).target.indices
    walking = seen.walking[name]
    return {i.name: place for place, i in enumerate(target) if isinstance(i, Var) and i.name not in walking}
