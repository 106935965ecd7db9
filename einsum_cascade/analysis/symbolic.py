"""The bounds as formulas in the ranks, for people to read; sympy is imported here and only when asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from ..cascade import Cascade
from ..declarations import rank_of
from ..expr import variables
from ..sizes import BATCH_RANKS
from .fibers import Choice, fibers_per_word, times
from .footprint import Boundary, boundaries
from .traffic import compulsory_words, cost_of_moving, ranks_with_passes, traffic

Formula = Any


def formulas(cascade: Cascade, sizes: Mapping[str, int]) -> dict[str, str]:
    """Return each bound as a formula in bytes.

    Where a bound is the least of several cuts, the formula is that of the cut which is least at these sizes; where a
    predicate removes points, the number of them stands as a number.

    Args:
        sizes: of every rank, as `bounds` completes them.
    """
    out = {"compulsory_bytes": str(_compulsory(cascade, sizes) * symbol("word"))}
    cuts = []
    for rank in ranks_with_passes(cascade):
        between = boundaries(cascade, rank, sizes)
        cuts += [_cut(b, sizes) for b in between]
        extra = sum(
            _moved(cascade, b, sizes, sum(x.countable for x in between)) for b in between if b.countable
        )
        if extra != 0:
            out[f"pass_forced_bytes[{rank}]"] = str(extra * symbol("word"))
    if cuts:
        import sympy

        out["free_pass_buffer_bytes"] = str(sympy.Max(*cuts) * symbol("word"))
    for c in traffic(cascade, sizes).contractions:
        out[f"contraction_bytes[{c.einsum}]"] = _contraction(cascade, c.einsum, kept=c.kept, depth=c.depth)
    return out


def symbol(name: str) -> Formula:
    """Return a positive whole symbol."""
    import sympy

    return sympy.Symbol(name, positive=True, integer=True)


def _product(ranks: Choice) -> Formula:
    return math.prod(symbol(r) if isinstance(r, str) else r for r in ranks)


def _batch(cascade: Cascade, sizes: Mapping[str, int]) -> Formula:
    return _product(tuple(r for r in BATCH_RANKS if r in sizes and r not in cascade.rank_names))


def _compulsory(cascade: Cascade, sizes: Mapping[str, int]) -> Formula:
    batch = _batch(cascade, sizes)
    number = math.prod(sizes[r] for r in BATCH_RANKS if r in sizes and r not in cascade.rank_names)
    total: Formula = 0
    given = {s.tensor: s for s in (*cascade.inputs, *cascade.outputs)}
    for tensor, words in compulsory_words(cascade, sizes).items():
        ranks = given[tensor].ranks
        whole = words == number * math.prod(sizes[r] for r in ranks)
        total += batch * (_product(ranks) if whole else words // number)
    return total


def _words(boundary: Boundary, node: str, sizes: Mapping[str, int]) -> Formula:
    def least(axis: tuple[Choice, ...]) -> Choice:
        return min(axis, key=lambda choice: times(choice, sizes))

    return math.prod(_product(least(axis)) for axis in boundary.nodes[node].per_fiber)


def _cut(boundary: Boundary, sizes: Mapping[str, int]) -> Formula:
    return sum(_words(boundary, n, sizes) for n in boundary.cut(sizes)[1])


def _moved(cascade: Cascade, boundary: Boundary, sizes: Mapping[str, int], ended: int) -> Formula:
    """Return the words moved at one boundary when all words of the least cut that are not kept are moved."""
    import sympy

    if boundary.coarser is not None:
        fine = replace(boundary, coarser=None)
        return sympy.Max(*(_moved(cascade, b, sizes, ended) for b in (fine, boundary.coarser)))
    names = boundary.cut(sizes)[1]
    kept = symbol("buffer") / symbol("word")
    fibers = _product(tuple(rank_of(v) for v in boundary.outer)) * _batch(cascade, sizes)
    cut = _cut(boundary, sizes)
    # Elements that a predicate removes need not wait; their share has no formula in the ranks.
    existing, pairs = (Fraction(f).limit_denominator(10**12) for f in boundary.live(cascade, sizes))
    if not names or cut == 0 or pairs == 0:
        return 0
    live = pairs / existing
    cost = min(cost_of_moving(boundary.nodes[n], ended) for n in names)
    supply = {
        n: cost_of_moving(node, ended) * boundary.distinct(cascade, n, sizes)
        for n, node in boundary.nodes.items()
        if node.cuttable
    }
    each = sum(
        sympy.nsimplify(cost_of_moving(boundary.nodes[n], ended)) * _distinct(cascade, boundary, n, sizes)
        for n in boundary.least_cut(supply)[1]
    )
    per_word = sympy.Min(sympy.nsimplify(cost) * fibers, each * _batch(cascade, sizes) / cut)
    left = sympy.Max(0, sympy.Rational(live.numerator, live.denominator) * cut - kept)
    return sympy.Rational(existing.numerator, existing.denominator) * per_word * left


def _distinct(cascade: Cascade, boundary: Boundary, node: str, sizes: Mapping[str, int]) -> Formula:
    """Return the words of a tensor in all fibers when those that fibers share are counted once."""
    import sympy

    reads = boundary.nodes[node].reads
    told = {v for a in reads for i in a.indices for v in variables(i)}
    apart = tuple(rank_of(v) for v in boundary.outer if v in told)
    all_apart = math.prod(sizes[r] for r in apart)
    # Fibers that no index tells apart share every word; how many others share one is a number.
    shared = fibers_per_word(cascade, reads, boundary.outer, sizes) * all_apart // boundary.fibers(sizes)
    return _words(boundary, node, sizes) * _product(apart) / sympy.Integer(shared)


def _contraction(cascade: Cascade, name: str, *, kept: bool, depth: int | None) -> str:
    einsum = cascade.einsum(name)
    products = "*".join(rank_of(v) for v in einsum.variables)
    if kept:
        return f"word*(2*{products}/sqrt(buffer/word) - 2*buffer/word)"
    return f"word*max over T of T*({products}/(((2*S + T)/3)**1.5 + (S + T)**2/(4*{depth})) - 1), S = buffer/word"
