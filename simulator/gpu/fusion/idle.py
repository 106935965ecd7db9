"""Steps of an iterate block that change nothing, because a `where` leaves them no point: a kernel skips them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from einsum_cascade.analysis.points import live_parts
from einsum_cascade.cascade import Cascade
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Apply, Expr, Num, Var, transform, variables
from einsum_cascade.ops import REDUCTION

# What a value is beside a number, on the right of an operator and, of those that may be turned round, on the left.
_NEUTRAL = {
    ("max", -math.inf),
    ("min", math.inf),
    ("+", 0.0),
    ("-", 0.0),
    ("*", 1.0),
    ("/", 1.0),
}
_TURNED = ("max", "min", "+", "*")


def masked_of(cascade: Cascade, einsums: Sequence[Einsum], loop: str) -> frozenset[str]:
    """Return the Einsums of a loop of which coordinates decide in which steps they have points."""
    return frozenset(e.name for e in einsums if any(loop in variables(p) for p in live_parts(cascade, e)))


def idle_of(cascade: Cascade, einsums: Sequence[Einsum], loop: str) -> frozenset[str]:
    """Return the Einsums of a loop that a kernel leaves out of steps in which no masked one has a point.

    Those are all that are not masked themselves if such a step leaves every state as it was, else none.

    The step is worked out in symbols: a sum over no points is zero, a maximum minus infinity, and so on from there.
    What it is to leave alone are the states, and what is summed along the loop; of nothing else may somebody outside
    the loop read what a step made.

    Args:
        einsums: of an iterate block, and what else a kernel computes in its steps, in their order.

    >>> from einsum_cascade import zoo
    >>> flash = zoo.load("attention_1pass_causal")
    >>> block = flash.body[3]
    >>> sorted(idle_of(flash, block.einsums, block.variable))
    ['PRM', 'RD', 'RM', 'RNV', 'SPD', 'SPNV']
    """
    names = frozenset(e.name for e in einsums)
    masked = masked_of(cascade, einsums, loop)
    return names - masked if masked and _leaves_alone(cascade, einsums, loop, masked) else frozenset()


def _leaves_alone(cascade: Cascade, einsums: Sequence[Einsum], loop: str, masked: frozenset[str]) -> bool:
    names = frozenset(e.name for e in einsums)
    outside = {s.tensor for s in cascade.outputs} | {
        a.tensor for e in cascade.einsums if e.name not in names for a in e.reads
    }
    states = names & cascade.states
    gathered = {e.name for e in einsums if loop in e.reduced and e.name in masked}
    if outside & (names - states - gathered):
        return False
    known: dict[Access, Expr] = {}
    for einsum in einsums:
        value = _value(einsum, known, masked)
        if value is not None:
            known[einsum.target] = value
        if einsum.name in states and value != _before(cascade, einsum, loop):
            return False
    return True


def _value(einsum: Einsum, known: Mapping[Access, Expr], masked: frozenset[str]) -> Expr | None:
    """Return what an Einsum is in such a step, at each of its points; None where that is not known, or nothing."""
    reductions = einsum.all_reductions
    if einsum.name in masked:
        alone = len(reductions) == 1 and not REDUCTION[reductions[0].op].index
        return Num(REDUCTION[reductions[0].op].identity) if alone else None
    if reductions or einsum.where is not None:
        return None

    def now(node: Expr) -> Expr:
        match node:
            case Access():
                return known.get(node, node)
            case Apply("pad", (Access() as read, other)) if read.tensor in masked and read not in known:
                return other
        return _simple(node)

    return transform(einsum.value, now)


def _before(cascade: Cascade, state: Einsum, loop: str) -> Access:
    """Return what a state was before a step, at the element that the step makes."""
    axis = cascade.signatures[state.name].state
    return Access(
        state.name, tuple(Var(loop) if n == axis else i for n, i in enumerate(state.target.indices))
    )


def _simple(node: Expr) -> Expr:
    """Return an operation on what is known as what it comes to, one step."""
    if not isinstance(node, Apply) or len(node.args) > 2:
        return node
    one, other = node.args[0], node.args[-1]
    if node.op == "exp" and one == Num(0):
        return Num(1)
    if len(node.args) < 2:
        return node
    if node.op == "-" and one == other:
        return Num(0)
    for kept, number in ((one, other), (other, one)) if node.op in _TURNED else ((one, other),):
        if isinstance(number, Num) and (node.op, float(number.value)) in _NEUTRAL:
            return kept
        if node.op == "*" and number == Num(0):
            return Num(0)
    return node
