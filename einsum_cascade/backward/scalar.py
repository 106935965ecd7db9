"""What a scalar function hands back to its arguments: the gradient of its value, times its own derivative."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from ..expr import Access, Apply, Compare, Expr, Num, is_logical, walk

# What comes back to an argument, from what comes to the value; None where nothing does. Arguments: the gradient of the
# value, the arguments, the value itself as it is best read, and the place of the argument.
Rule = Callable[[Expr, tuple[Expr, ...], Expr, int], Expr | None]


def times(a: Expr, b: Expr) -> Expr:
    """Return a product, signs and choices in front and without factors of 1.

    >>> from ..printer import expression
    >>> expression(times(Apply("neg", (Num(2),)), Num(3)))
    '-(2*3)'
    """
    if isinstance(a, Apply) and a.op == "neg":
        return negative(times(a.args[0], b))
    if isinstance(b, Apply) and b.op == "neg":
        return negative(times(a, b.args[0]))
    if _is_masked(a):
        return _inside(a, lambda part: times(part, b))
    if a == Num(1):
        return b
    return a if b == Num(1) else Apply("*", (a, b))


def negative(a: Expr) -> Expr:
    """Return -a, without a second sign."""
    return a.args[0] if isinstance(a, Apply) and a.op == "neg" else Apply("neg", (a,))


def divided(a: Expr, b: Expr) -> Expr:
    """Return a / b, signs and choices in front."""
    if isinstance(a, Apply) and a.op == "neg":
        return negative(divided(a.args[0], b))
    return _inside(a, lambda part: divided(part, b)) if _is_masked(a) else Apply("/", (a, b))


def _is_masked(node: Expr) -> bool:
    return isinstance(node, Apply) and node.op == "select" and Num(0) in node.args[1:]


def _inside(node: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Return a choice between a value and 0 with the value changed.

    The 0 stays what it is: where nothing comes back, what it would be multiplied with need not be a number.
    """
    assert isinstance(node, Apply)
    test, *branches = node.args
    return Apply("select", (test, *(b if b == Num(0) else change(b) for b in branches)))


def minus(a: Expr, b: Expr) -> Expr:
    """Return a - b."""
    return Apply("-", (a, b))


def squared(a: Expr) -> Expr:
    """Return a squared."""
    return Apply("**", (a, Num(2)))


def only_where(holds: Expr, value: Expr) -> Expr:
    """Return a value where a comparison holds, 0 elsewhere."""
    return Apply("select", (holds, value, Num(0)))


def _compare(a: Expr, op: str, b: Expr) -> Expr:
    return Compare((op,), (a, b))


def _power(seed: Expr, args: tuple[Expr, ...], y: Expr, i: int) -> Expr:
    base, exponent = args
    if i == 1:
        # Of 0 ** x nothing moves with x, and log(0) is not a number to multiply 0 with.
        return only_where(_compare(base, ">", Num(0)), times(times(seed, y), Apply("log", (base,))))
    less = Num(exponent.value - 1) if isinstance(exponent, Num) else minus(exponent, Num(1))
    power = base if less == Num(1) else Num(1) if less == Num(0) else Apply("**", (base, less))
    return times(times(seed, exponent), power)


def _quotient(seed: Expr, args: tuple[Expr, ...], y: Expr, i: int) -> Expr:
    return divided(seed, args[1]) if i == 0 else negative(divided(times(seed, y), args[1]))


def _product(seed: Expr, args: tuple[Expr, ...], _: Expr, i: int) -> Expr:
    return times(seed, args[1 - i])


def _remainder(seed: Expr, args: tuple[Expr, ...], _: Expr, i: int) -> Expr:
    return seed if i == 0 else negative(times(seed, Apply("//", args)))


def _sign(seed: Expr, args: tuple[Expr, ...], _: Expr, __: int) -> Expr:
    below = Apply("select", (_compare(args[0], "<", Num(0)), negative(seed), Num(0)))
    return Apply("select", (_compare(args[0], ">", Num(0)), seed, below))


def _gelu(seed: Expr, args: tuple[Expr, ...], _: Expr, __: int) -> Expr:
    x = args[0]
    share = times(Num(0.5), Apply("+", (Num(1), Apply("erf", (divided(x, Num(math.sqrt(2.0))),)))))
    density = times(Num(1 / math.sqrt(2 * math.pi)), Apply("exp", (negative(times(Num(0.5), squared(x))),)))
    return times(seed, Apply("+", (share, times(x, density))))


def _erf(seed: Expr, args: tuple[Expr, ...], _: Expr, __: int) -> Expr:
    return times(times(seed, Num(2 / math.sqrt(math.pi))), Apply("exp", (negative(squared(args[0])),)))


def _extreme(op: str) -> Rule:
    def rule(seed: Expr, args: tuple[Expr, ...], _: Expr, i: int) -> Expr:
        # Of equal ones the first takes all.
        for j, other in enumerate(args):
            if j != i:
                seed = only_where(_compare(args[i], op if j < i else op + "=", other), seed)
        return seed

    return rule


def _clamp(seed: Expr, args: tuple[Expr, ...], _: Expr, i: int) -> Expr:
    x, low, high = args
    if i == 0:
        return only_where(Compare(("<=", "<="), (low, x, high)), seed)
    if i == 1:
        return only_where(Compare(("<", "<="), (x, low, high)), seed)
    # Where the bounds cross, the upper one is taken.
    return only_where(_compare(Apply("max", (x, low)), ">", high), seed)


def _select(seed: Expr, args: tuple[Expr, ...], _: Expr, i: int) -> Expr | None:
    if i == 0:
        return None
    pair = (seed, Num(0)) if i == 1 else (Num(0), seed)
    return Apply("select", (args[0], *pair))


RULES: Mapping[str, Rule] = {
    "+": lambda s, a, y, i: s,
    "-": lambda s, a, y, i: s if i == 0 else negative(s),
    "*": _product,
    "/": _quotient,
    "//": lambda s, a, y, i: None,
    "%": _remainder,
    "**": _power,
    "neg": lambda s, a, y, i: negative(s),
    "exp": lambda s, a, y, i: times(s, y),
    "log": lambda s, a, y, i: divided(s, a[0]),
    "sqrt": lambda s, a, y, i: divided(s, times(Num(2), y)),
    "abs": _sign,
    "floor": lambda s, a, y, i: None,
    "sin": lambda s, a, y, i: times(s, Apply("cos", a)),
    "cos": lambda s, a, y, i: negative(times(s, Apply("sin", a))),
    "tanh": lambda s, a, y, i: times(s, minus(Num(1), squared(y))),
    "sigmoid": lambda s, a, y, i: times(times(s, y), minus(Num(1), y)),
    "softplus": lambda s, a, y, i: times(s, Apply("sigmoid", a)),
    "relu": lambda s, a, y, i: only_where(_compare(a[0], ">", Num(0)), s),
    "gelu": _gelu,
    "erf": _erf,
    "min": _extreme("<"),
    "max": _extreme(">"),
    "clamp": _clamp,
    "select": _select,
}


def handed_back(node: Expr, seed: Expr, value: Expr, active: frozenset[str]) -> Iterator[tuple[Access, Expr]]:
    """Yield every access of an expression that moves it, with the gradient that comes back to it.

    Args:
        seed: the gradient of the expression.
        value: the expression as it is best read, by the name of the tensor that it defines if it does.
        active: tensors whose gradients are asked for, and those made of them.
    """
    if isinstance(node, Access):
        if node.tensor in active:
            yield node, seed
        return
    if not isinstance(node, Apply) or is_logical(node) or not _moves(node, active):
        return
    if node.op == "pad":
        # What stands in place of an absent element is no data: `with_choices` has made a choice of it if it were.
        yield from handed_back(node.args[0], seed, node.args[0], active)
        return
    for i, part in enumerate(node.args):
        if _moves(part, active):
            mine = RULES[node.op](seed, node.args, value, i)
            if mine is not None:
                # A branch that is taken is the value of the choice, and comes to nothing where it is not.
                yield from handed_back(part, mine, value if node.op == "select" else part, active)


def _moves(node: Expr, active: frozenset[str]) -> bool:
    """Tell whether an expression reads an active tensor, be it in an index."""
    return any(isinstance(n, Access) and n.tensor in active for n in walk(node))
