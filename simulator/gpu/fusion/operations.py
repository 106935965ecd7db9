"""What a good kernel computes of an Einsum: each part once for the ranks that it depends on, sums of products apart.

The language counts operations at every point of an Einsum. A kernel does not: what does not change along a rank is
worked out before the loop over it, a factor that the terms of a sum share multiplies the sum, and what many elements
are divided by is inverted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from einsum_cascade.einsum import Action, Einsum, factors, is_constant, map_costs
from einsum_cascade.expr import Apply, Expr, Num, variables
from einsum_cascade.ops import REDUCTION

_ONE = Num(1)


@dataclass(frozen=True, slots=True)
class Product:
    """An Einsum that is a sum of products of two sides, as tensor cores compute it.

    Attributes:
        rows, columns: variables of one side alone, and of the other; `inner`: those that are summed.
        joined: variables of the factors that are multiplied into one side before.
        alone: the place of the factor that is the other side, among those of `sum_of_products`.
    """

    einsum: Einsum
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    inner: tuple[str, ...]
    joined: tuple[str, ...]
    alone: int = 0


def product_of(einsum: Einsum) -> Product | None:
    """Return an Einsum as a product of two sides; None where one side has no variable of its own.

    Of more than two factors one stands alone, and the others are multiplied into the other side as it is loaded.

    >>> from einsum_cascade import zoo
    >>> found = product_of(zoo.load("gemm").einsums[0])
    >>> found.rows, found.columns, found.inner
    (('m',), ('n',), ('k',))
    """
    inside, _ = sum_of_products(einsum)
    kept = einsum.output_variables
    for i, factor in enumerate(inside):
        own = set(variables(factor))
        others = {v for j, f in enumerate(inside) if j != i for v in variables(f)}
        rows = tuple(v for v in kept if v in own - others)
        columns = tuple(v for v in kept if v in others - own)
        inner = tuple(v for v in einsum.all_reductions[0].variables if v in own & others)
        if rows and columns and inner:
            return Product(einsum, rows, columns, inner, _ordered(einsum, others), i)
    return None


def actions_of(einsum: Einsum) -> Iterator[Action]:
    """Yield the scalar operations of an Einsum by cost class, each with the variables along which it is repeated.

    >>> from einsum_cascade import zoo
    >>> weighted = zoo.load("landmark").einsum("NL")  # NL[f, p] = LN[p, g] * BP[p, g, t] * V[f, ..] :: sum(g, t)
    >>> [(a.op, a.count, "".join(a.variables)) for a in actions_of(weighted)]
    [('mac', 1, 'fpgt'), ('mul', 1, 'pgt')]
    """
    inside, outside = sum_of_products(einsum)
    space = einsum.variables
    for part in (*inside, *outside) or (einsum.value,):
        for op, n, node in map_costs(part):
            own = _ordered(einsum, variables(node))
            if op == "divide" and isinstance(node, Apply) and node.op == "/":
                # A reciprocal for each divisor, by which all that it divides is multiplied.
                yield Action("divide", n, _ordered(einsum, variables(node.args[1])))
                if node.args[0] != _ONE:
                    yield Action("mul", n, own)
            else:
                yield Action(op, n, own)
    for position, reduction in enumerate(einsum.all_reductions):
        left = tuple(v for v in space if v not in reduction.variables)
        if position == 0 and inside:
            yield Action("mac" if len(inside) > 1 else "add", 1, space)
            product = product_of(einsum)
            for count, where in (
                (len(inside) - 2, product.joined if product else space),
                (_multiplications(outside), left),
            ):
                if count > 0:
                    yield Action("mul", count, where)
        else:
            yield from (Action(op, n, space) for op, n in REDUCTION[reduction.op].cost.items())
        space = (*left, reduction.into) if reduction.into else left


def sum_of_products(einsum: Einsum) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    """Return the factors of a sum of products that are multiplied in each term, and those of the sum; else nothing."""
    first = einsum.all_reductions[:1]
    found = tuple(Apply("/", (_ONE, f)) if under else f for f, under in factors(einsum.value))
    if not first or first[0].op != "sum" or len(found) < 2:
        return (), ()
    inside = [f for f in found if set(variables(f)) & set(first[0].variables)]
    outside = [f for f in found if f not in inside]
    if not inside:
        return (), ()
    if len(inside) == 1:  # the addition of a term multiplies it for nothing
        inside.append(outside.pop(0))
    return tuple(inside), tuple(outside)


def _multiplications(shared: Sequence[Expr]) -> int:
    """Return by how much a sum is multiplied; numbers that are known before the data are one."""
    known = sum(map(is_constant, shared))
    return len(shared) - known + min(known, 1)


def _ordered(einsum: Einsum, names: Iterable[str]) -> tuple[str, ...]:
    """Return variables in the order of an Einsum's iteration space."""
    some = set(names)
    return tuple(v for v in einsum.variables if v in some)
