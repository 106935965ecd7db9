"""What a step adds to states, by the tensors of which it is a sum: then these are what earlier steps hand on.

A step that adds K_n D_n for several n at once hands on the D_n, which are few, and not their sum, which is as large as
the state. And where several of what is added are one tensor times known ones, that one alone is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ...einsum import Einsum, places_of, plain_target
from ...expr import Access, Expr, Var, accesses, substitute, variables
from .block import Block, State
from .linear import Product, product_of
from .system import alike, knots, unknowns_of
from .writer import Writer

Opens = Callable[[Einsum], bool]


def opened_block(block: Block, writer: Writer) -> Block:
    """Return a block whose states are fed by fewer, or smaller, of the tensors that wait for each other."""
    sums = _opened(block, writer, lambda e: bool(e.all_reductions))
    while True:
        fewer = _opened(sums, writer, lambda e: not e.all_reductions)
        if _count(fewer) >= _count(sums):
            return sums
        sums = fewer


def _count(block: Block) -> int:
    return sum(len(unknowns_of(block, circle)) for circle in set(knots(block).values()))


def _opened(block: Block, writer: Writer, opens: Opens) -> Block:
    circles = knots(block)

    def fed(state: State) -> State:
        return replace(state, added=tuple(_product(block, writer, circles, p, opens) for p in state.added))

    return replace(block, states={name: fed(state) for name, state in block.states.items()})


def _product(
    block: Block, writer: Writer, circles: dict[str, frozenset[str]], product: Product, opens: Opens
) -> Product:
    """Return what is added to a state with each tensor of a circle written as the product that it is a sum of."""
    for factor in product.above:
        if not isinstance(factor, Access) or factor.tensor not in circles:
            continue
        source = block.others[factor.tensor]
        parts = product_of(source.value)
        if opens(source) and _is_one_times_known(block, circles[factor.tensor], source, parts):
            hidden: dict[str, Expr] = {v: Var(writer.beside(v)) for v in source.reduced}
            there = partial(substitute, values=hidden | places_of(source, factor))
            product = product.without(factor).times(parts.map(there))
    return product


def _is_one_times_known(block: Block, circle: frozenset[str], source: Einsum, parts: Product) -> bool:
    """Tell whether an Einsum is a plain sum of one tensor of its circle times what does not wait for it."""
    if (
        source.where is not None
        or not plain_target(source)
        or any(r.op != "sum" for r in source.all_reductions)
    ):
        return False
    read = [a for f in (*parts.above, *parts.below) for a in accesses(f)]
    waiting = [a for a in read if a.tensor in circle]
    if len(waiting) != 1 or waiting[0] not in parts.above or any(block.is_state(a) for a in read):
        return False
    pairs = places_of(block.others[waiting[0].tensor], waiting[0])
    summed = {own: i for own, i in pairs.items() if set(variables(i)) & set(source.reduced)}
    return all(isinstance(i, Var) and alike(block, own, i.name) for own, i in summed.items())
