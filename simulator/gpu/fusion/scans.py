"""Which iterate blocks are running sums: of their steps, many can be worked out at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einsum_cascade.cascade import Cascade
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Apply, Expr, Num, accesses

# Places of an operator that may hold a state, for the step to remain a multiple of it plus something.
_LINEAR = {"+": (0, 1), "-": (0, 1), "*": (0, 1), "/": (0,), "neg": (0,)}
_EXTREMES = ("max", "min")


def is_running(cascade: Cascade, einsums: Sequence[Einsum]) -> bool:
    """Tell whether every state of an iterate block can be had for many steps at once, by parallel scans.

    Each has to follow, element by element, from itself as a multiple of what it was plus something (a running sum, one
    that decays), or as the larger or smaller of what it was and something. That may need other states, but none that
    needs this one: the scans follow each other.

    Source: Blelloch, "Prefix sums and their applications" (1990), recurrences of first order.

    >>> from einsum_cascade import zoo
    >>> text = zoo.load("gated_linear")  # KV[t + 1, e, f] = KV[t, e, f] * G[e, t] + K[e, t] * V[f, t]
    >>> is_running(text, text.einsums), is_running(zoo.load("lstm"), zoo.load("lstm").einsums)
    (True, False)
    """
    own = {e.name: e for e in einsums}
    states = [n for n in own if n in cascade.states]
    if not all(_follows(cascade, own[n]) for n in states):
        return False
    needs = {
        n: {a.tensor for a in e.reads if not is_itself(cascade, e, a)} & own.keys() for n, e in own.items()
    }
    return not any(n in _reached(needs, n) for n in states)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a state: the larger (`max`) or smaller of it and a term, or (`sum`) a factor times it plus a term.

    Attributes:
        factor, term: None for 1 and for nothing.
    """

    op: str
    factor: Expr | None = None
    term: Expr | None = None


def step_of(cascade: Cascade, einsum: Einsum) -> Step | None:
    """Return what a step makes of a state; None where it is not of first order in it.

    >>> from einsum_cascade import zoo
    >>> from einsum_cascade.printer import expression
    >>> text = zoo.load("gated_linear")
    >>> step = step_of(text, text.einsum("KV"))
    >>> expression(step.factor), expression(step.term)
    ('G[e, t]', 'K[e, t] * V[f, t]')
    """
    if not _follows(cascade, einsum):
        return None
    state = next(a for a in einsum.reads if is_itself(cascade, einsum, a))
    value = einsum.value
    if isinstance(value, Apply) and value.op in _EXTREMES:
        rest = tuple(part for part in value.args if part != state)
        return Step(value.op, term=rest[0] if len(rest) == 1 else Apply(value.op, rest))
    return _first_order_step(value, state)


def _first_order_step(value: Expr, state: Access) -> Step:
    """Return a value that is of first order in a state as a factor of it and a term."""
    if value == state:
        return Step("sum")
    assert isinstance(value, Apply)
    place = next(i for i, part in enumerate(value.args) if state in accesses(part))
    inner = _first_order_step(value.args[place], state)
    other = value.args[1 - place] if len(value.args) == 2 else None
    one, nothing = inner.factor or Num(1), inner.term or Num(0)
    if other is None:
        return Step("sum", Apply("neg", (one,)), Apply("neg", (nothing,)))
    if value.op == "+" or (value.op == "-" and place == 0):
        plain = value.op == "+" and inner.term is None
        return Step("sum", inner.factor, other if plain else Apply(value.op, (nothing, other)))
    if value.op == "-":
        return Step("sum", Apply("neg", (one,)), Apply("-", (other, nothing)))
    factor = other if value.op == "*" and inner.factor is None else Apply(value.op, (one, other))
    return Step("sum", factor, inner.term and Apply(value.op, (nothing, other)))


def _reached(needs: Mapping[str, set[str]], name: str) -> set[str]:
    """Return what something needs, and what that needs, and so on."""
    found: set[str] = set()
    todo = [name]
    while todo:
        more = needs[todo.pop()] - found
        found |= more
        todo += more
    return found


def is_itself(cascade: Cascade, einsum: Einsum, access: Access) -> bool:
    """Tell whether a state reads its own element of the step before."""
    axis = cascade.signatures[einsum.name].state
    if access.tensor != einsum.name or axis is None or not cascade.reads_previous(access):
        return False
    places = zip(einsum.target.indices, access.indices, strict=True)
    return all(made == read for n, (made, read) in enumerate(places) if n != axis)


def _follows(cascade: Cascade, einsum: Einsum) -> bool:
    found = [a for a in einsum.reads if is_itself(cascade, einsum, a)]
    return not einsum.all_reductions and len(found) == 1 and _carries(einsum.value, found[0])


def _carries(value: Expr, state: Access) -> bool:
    """Tell whether a value is of first order in a state that it reads once, or an extreme of it and something."""
    if value == state:
        return True
    if not isinstance(value, Apply):
        return False
    if value.op in _EXTREMES:
        return state in value.args
    place = next((i for i, part in enumerate(value.args) if state in accesses(part)), -1)
    return place in _LINEAR.get(value.op, ()) and _first_order(value.args[place], state)


def _first_order(value: Expr, state: Access) -> bool:
    return not (isinstance(value, Apply) and value.op in _EXTREMES) and _carries(value, state)
