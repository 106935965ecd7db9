"""Rule exchange: of a sum over another rank inside a sum over the fiber, the one over the fiber is taken first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import sympy

from ..cascade import Cascade, fresh_name
from ..declarations import rank_of
from ..einsum import Einsum, Reduction, plain_target
from ..expr import Access, Var, substitute
from .algebra import Symbols
from .elements import Along, along, joined, spliced
from .hoist import waiting_sums
from .separate import Rewritten


def exchanges(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    """Yield the cascades in which one sum over another rank follows the sum over the fiber instead of preceding it.

    Pattern: `G[m] = sum_h a(x_m, h)`, waiting for the fiber, then `Y = sum_m G[m] * b(x_m)`. Rewrite: `Z[h] = sum_m
    a(x_m, h) * b(x_m)`, `Y = sum_h Z[h]`: each sum over the fiber then waits for values of its own h alone and can be
    corrected as they change. It takes a Z for each h.
    """
    seen = along(cascade, rank)
    mixing = {e.name: e for e in waiting_sums(cascade, seen)}
    for einsum in (item for item in cascade.body if isinstance(item, Einsum)):
        kinds = {r.op for r in einsum.all_reductions}
        if einsum.name not in seen.whole or kinds != {"sum"} or not plain_target(einsum):
            continue
        for access in dict.fromkeys(a for a in einsum.reads if a.tensor in mixing):
            found = _exchanged(cascade, seen, einsum, mixing[access.tensor], access)
            if found is not None:
                yield found


def _exchanged(
    cascade: Cascade, seen: Along, einsum: Einsum, inner: Einsum, access: Access
) -> Rewritten | None:
    symbols = Symbols()
    here = symbols.symbol(access)
    factors = list(sympy.Mul.make_args(symbols.formula(einsum.value)))
    if here not in factors or any(here in f.free_symbols for f in factors if f != here):
        return None
    if set(inner.reduced) & {*einsum.variables} or einsum.where is not None:
        return None
    pairs = zip(inner.target.indices, access.indices, strict=True)
    values = {t.name: i for t, i in pairs if isinstance(t, Var)}
    opened = symbols.formula(substitute(inner.value, values))
    factors[factors.index(here)] = opened
    where = joined([] if inner.where is None else [substitute(inner.where, values)])
    name = fresh_name(cascade, f"S{einsum.name}")
    target = Access(name, (*einsum.target.indices, *map(Var, inner.reduced)))
    first = Einsum(
        target, symbols.expression(sympy.Mul(*factors)), (Reduction("sum", einsum.reduced),), where
    )
    then = Einsum(einsum.target, target, (Reduction("sum", inner.reduced),))
    body = spliced(cascade.body, einsum, (first, then))
    over = ", ".join(map(rank_of, inner.reduced))
    why = f"the sum over {over} in {inner.name} can follow that over {seen.rank}, at the price of one for each {over}"
    return Rewritten("exchange", einsum.name, why, replace(cascade, body=body))
