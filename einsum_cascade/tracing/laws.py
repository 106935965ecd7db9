"""A number that was seen at several sizes, as the expression of sizes that it is: 2.828, 4.0, 4.899 -> sqrt(E)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from ..expr import Apply, Expr, Num, Size, plus
from ..ops import SCALAR

Sizes = Mapping[str, int]

# Python computes such numbers in float64, in a few operations.
_CLOSE = 1e-12
_POWERS = (-0.5, 0.5, -1.0, 1.0, -0.25, 0.25, -2.0, 2.0)
_DIVISORS = (2, 3, 4, 5, 6, 7, 8, 16)


def law(values: Sequence[float], sizes: Sequence[Sizes], *, index: bool = False) -> Expr | None:
    """Return an expression of sizes that has given values at given sizes, the simplest that is known, or None.

    A law has at most two numbers of its own, so that the third value holds it.

    Args:
        values: at least three.
        sizes: of the same ranks, one for each value.
        index: the expression stands in an index, or for a size: nothing else may come near a fraction.

    >>> sizes = [{"E": 8, "P": 5}, {"E": 16, "P": 15}, {"E": 24, "P": 10}]
    >>> law([8**-0.5, 16**-0.5, 24**-0.5], sizes)
    Apply(op='/', args=(Num(value=1), Apply(op='sqrt', args=(Size(name='E'),))))
    >>> law([4, 14, 9], sizes)
    Apply(op='-', args=(Size(name='P'), Num(value=1)))
    >>> law([4, 8, 9], sizes)
    """
    if values[0] < 0:
        found = law([-v for v in values], sizes, index=index)
        return None if found is None else negative(found)
    ranks = [r for r in sizes[0] if len({s[r] for s in sizes}) > 1]
    kinds = [_linear, _divided, _differing]
    if not index:
        kinds += [_powers, _product]
    if not all(isinstance(v, int) for v in values):
        kinds = [_linear, _powers, _logarithms, _scaled, _product]
    for candidate in itertools.chain.from_iterable(kind(ranks, values, sizes) for kind in kinds):
        if all(_same(_value(candidate, s), x) for s, x in zip(sizes, values, strict=True)):
            return candidate
    return None


def negative(node: Expr) -> Expr:
    """Return -x, a difference turned round."""
    match node:
        case Num(c):
            return Num(-c)
        case Apply("-", (a, b)):
            return Apply("-", (b, a))
        case Apply("neg", (a,)):
            return a
    return Apply("neg", (node,))


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_CLOSE, abs_tol=0.0)


def _value(node: Expr, sizes: Sizes) -> float:
    """Return what a law gives."""
    if isinstance(node, Num):
        return node.value
    if isinstance(node, Size):
        return sizes[node.name]
    assert isinstance(node, Apply)
    args = [float(_value(a, sizes)) for a in node.args]
    return -args[0] if node.op == "neg" else float(SCALAR[node.op].function(*args))


def _linear(ranks: Sequence[str], values: Sequence[float], sizes: Sequence[Sizes]) -> Iterator[Expr]:
    """Yield `a*R + b` in whole numbers."""
    for r in ranks:
        first, other = _two_sizes(r, sizes)
        a = (values[other] - values[first]) / (sizes[other][r] - sizes[first][r])
        b = values[first] - a * sizes[first][r]
        if a == int(a) and b == int(b):
            yield plus(_times(int(a), r), int(b))


def _divided(ranks: Sequence[str], values: Sequence[float], sizes: Sequence[Sizes]) -> Iterator[Expr]:
    """Yield `R // k` and `(R + k-1) // k`, and the size of one rank in units of another."""
    for r, k, more in itertools.product(ranks, _DIVISORS, (0, 1)):
        yield Apply("//", (plus(Size(r), more * (k - 1)), Num(k)))
    for r, t in itertools.permutations(ranks, 2):
        yield Apply("//", (Size(r), Size(t)))


def _differing(ranks: Sequence[str], values: Sequence[float], sizes: Sequence[Sizes]) -> Iterator[Expr]:
    """Yield `R - T + b` and `R + T + b` in whole numbers."""
    for r, t in itertools.permutations(ranks, 2):
        for sign in (-1, 1) if r < t else (-1,):
            b = values[0] - sizes[0][r] - sign * sizes[0][t]
            if b == int(b):
                yield plus(Apply("-" if sign < 0 else "+", (Size(r), Size(t))), int(b))


def _powers(ranks: Sequence[str], values: Sequence[float], sizes: Sequence[Sizes]) -> Iterator[Expr]:
    """Yield `R**p`."""
    for p, r in itertools.product(_POWERS, ranks):
        yield _monomial(1, [], [(r, p)])


def _scaled(ranks: Sequence[str], values: Sequence[float], sizes: Sequence[Sizes]) -> Iterator[Expr]:
    """Yield `c * R**p`."""
    for p, r in itertools.product(_POWERS, ranks):
        yield _monomial(_rounded(values[0] / float(sizes[0][r]) ** p), [], [(r, p)])


def _logarithms(ranks: Sequence[str], values: Sequence[float], sizes: Sequence[Sizes]) -> Iterator[Expr]:
    """Yield `c * log(R) * R**p`, of which p may be 0."""
    for p, r in itertools.product((0.0, *_POWERS), ranks):
        if sizes[0][r] > 1:
            c = _rounded(values[0] / (math.log(sizes[0][r]) * float(sizes[0][r]) ** p))
            yield _monomial(c, [Apply("log", (Size(r),))], [(r, p)])


def _rounded(c: float) -> float:
    """Return a factor as somebody would have written it: what rounding has added is left out."""
    return float(f"{c:.12g}")


def _product(ranks: Sequence[str], values: Sequence[float], sizes: Sequence[Sizes]) -> Iterator[Expr]:
    """Yield `R**p * T**q` and `log(R) * T**q`."""
    for (r, t), p, q in itertools.product(itertools.combinations(ranks, 2), _POWERS, _POWERS):
        yield _monomial(1, [], [(r, p), (t, q)])
    for (r, t), q in itertools.product(itertools.permutations(ranks, 2), _POWERS):
        yield _monomial(1, [Apply("log", (Size(r),))], [(t, q)])


def _two_sizes(rank: str, sizes: Sequence[Sizes]) -> tuple[int, int]:
    """Return two places at which a rank is of different size."""
    return 0, next(k for k, s in enumerate(sizes) if s[rank] != sizes[0][rank])


def _times(a: int, rank: str) -> Expr:
    return (
        Size(rank) if a == 1 else Apply("neg", (Size(rank),)) if a == -1 else Apply("*", (Num(a), Size(rank)))
    )


def _monomial(c: float, over: Sequence[Expr], powers: Sequence[tuple[str, float]]) -> Expr:
    """Return `c * over * R**p * ...` as one fraction."""
    under: list[Expr] = []
    over = list(over)
    for rank, p in powers:
        if p:
            (over if p > 0 else under).append(_power(rank, abs(p)))
    if c != 1 or not over:
        over.insert(0, Num(int(c) if c == int(c) else c))
    top, bottom = _all(over), _all(under) if under else None
    return top if bottom is None else Apply("/", (top, bottom))


def _power(rank: str, p: float) -> Expr:
    if p == 0.5:
        return Apply("sqrt", (Size(rank),))
    return Size(rank) if p == 1 else Apply("**", (Size(rank), Num(int(p) if p == int(p) else p)))


def _all(factors: Sequence[Expr]) -> Expr:
    out = factors[0]
    for factor in factors[1:]:
        out = Apply("*", (out, factor))
    return out
