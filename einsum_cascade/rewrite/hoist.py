"""Rule hoist: in a sum over another rank, a factor that waits for the fiber is applied after the sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import sympy

from ..cascade import Cascade, fresh_name
from ..einsum import Einsum, plain_target
from ..expr import Access, Var, accesses, variables
from .algebra import Formula, Symbols
from .elements import Along, along, spliced, sum_over
from .separate import Rewritten


def hoists(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    """Yield the cascades in which one sum over another rank no longer waits for the fiber.

    Pattern: `G[m] = sum_f c * a(x_m, f)` with c a value of the whole fiber that has no index of f. Rewrite:
    `Z[m] = sum_f a(x_m, f)`, `G[m] = c * Z[m]`; then Z streams with the elements, and what reads G can be taken apart.
    """
    seen = along(cascade, rank)
    for einsum in waiting_sums(cascade, seen):
        found = _hoisted(cascade, seen, einsum)
        if found is not None:
            yield found


def mixing(cascade: Cascade, rank: str) -> int:
    """Return how many sums over another rank wait for the fiber, element by element."""
    return sum(1 for _ in waiting_sums(cascade, along(cascade, rank)))


def waiting_sums(cascade: Cascade, seen: Along) -> Iterator[Einsum]:
    """Yield the sums over another rank that wait for the fiber, element by element."""
    for einsum in (item for item in cascade.body if isinstance(item, Einsum)):
        kinds = {r.op for r in einsum.all_reductions}
        streams = seen.streams(einsum.name) and einsum.name not in seen.whole
        if streams and einsum.name in seen.waiting and kinds == {"sum"} and plain_target(einsum):
            yield einsum


def _hoisted(cascade: Cascade, seen: Along, einsum: Einsum) -> Rewritten | None:
    symbols = Symbols()
    gone = set(einsum.reduced)
    outside: list[Formula] = []
    inside: list[Formula] = []
    for factor in sympy.Mul.make_args(symbols.formula(einsum.value)):
        atoms = symbols.atoms(factor)
        moves = any(set(variables(a)) & gone for a in atoms)
        (inside if moves or not _waits(seen, atoms) else outside).append(factor)
    within = symbols.expression(sympy.Mul(*inside))
    if not outside or not gone <= set(variables(within)) or einsum.where is not None:
        return None
    name = fresh_name(cascade, f"S{einsum.name}")
    kept = tuple(Var(v) for v in einsum.output_variables if v in variables(within))
    summed = Einsum(Access(name, kept), within, sum_over(einsum, within))
    factor = sympy.Mul(*outside)
    applied = Einsum(einsum.target, symbols.expression(symbols.formula(summed.target) * factor))
    body = spliced(cascade.body, einsum, (summed, applied))
    over = ", ".join(einsum.reduced)
    why = f"what waits for {seen.rank} does not depend on {over}: the sum over {over} need not wait"
    return Rewritten("hoist", einsum.name, why, replace(cascade, body=body))


def _waits(seen: Along, atoms: tuple[object, ...]) -> bool:
    names = {a.tensor for atom in atoms if isinstance(atom, Access) for a in accesses(atom)}
    return bool(names & (seen.whole | seen.waiting))
