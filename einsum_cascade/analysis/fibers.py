"""What of each tensor one fiber uses: how many words, how many fibers share a word, and what is read when a pass ends.

Everything errs to the side of fewer words, of more sharing and of less that is read, so that a bound stays a bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..cascade import Cascade
from ..declarations import rank_of
from ..einsum import Einsum
from ..expr import Access, Expr, Size, Var, accesses, variables, walk
from ..ops import REDUCTION
from .indices import fits
from .intervals import number, slope
from .points import numbers_of, required
from .reach import existing

# Ranks and numbers whose product is a count of words.
Choice = tuple[str | int, ...]
# Values of an index that are listed to see how often one comes up; beyond it, all are taken as the same.
_MOST_LISTED = 1_000_000


def times(choice: Choice, sizes: Mapping[str, int]) -> int:
    """Return the product of some ranks and numbers.

    >>> times(("M", 2), {"M": 8})
    16
    """
    return math.prod(sizes[r] if isinstance(r, str) else r for r in choice)


def needed_reads(einsum: Einsum) -> tuple[Access, ...]:
    """Return the accesses that every point of an Einsum needs: none of a branch, none that is padded."""
    return tuple(dict.fromkeys(required(einsum.value)))


def independent(cascade: Cascade, einsum: Einsum, variable: str) -> bool:
    """Tell whether an Einsum leaves the fibers along a variable apart.

    Tensors that the cascade computes are read at the place of the fiber alone.
    """
    inputs = {s.tensor for s in cascade.inputs}
    for access in einsum.reads:
        if access.tensor in inputs:
            continue
        ranks = cascade.signatures[access.tensor].ranks
        for rank, index in zip(ranks, access.indices, strict=True):
            if (index == Var(variable)) != (rank == rank_of(variable)) or (
                index != Var(variable) and variable in variables(index)
            ):
                return False
    return True


def axes(
    cascade: Cascade,
    tensor: str,
    readers: Mapping[str, Sequence[Access]],
    fixed: set[str],
    sizes: Mapping[str, int],
) -> tuple[tuple[Choice, ...], ...]:
    """Return what bounds the words of a tensor in one fiber along each axis: the axis, or what the indices can reach.

    `K[h // G, e, m]` has one h // G per fiber h; `X[p + w]` has as many elements as w has values, `A[0, m, p]` and
    `A[1, m, p]` in one Einsum are two along the first axis.

    Args:
        readers: the accesses of each Einsum on the way.
        fixed: variables that stand still within a fiber.
        sizes: of every rank.
    """
    out = []
    for axis, rank in enumerate(cascade.signatures[tensor].ranks):
        choices: list[Choice] = [(rank,)]
        for found in readers.values():
            choices += _reached(cascade, rank, [a.indices[axis] for a in found], fixed, sizes)
        out.append(tuple(dict.fromkeys(choices)))
    return tuple(out)


def _reached(
    cascade: Cascade, rank: str, indices: Sequence[Expr], fixed: set[str], sizes: Mapping[str, int]
) -> list[Choice]:
    """Return upper bounds of the elements along an axis that the indices of one Einsum reach in a fiber."""
    distinct = dict.fromkeys(indices)
    if not any(variables(i) for i in distinct):
        return [(len(distinct),)]
    # The places of several indices may be the same, so the index that reaches fewest speaks for all.
    out: list[Choice] = []
    for index in distinct:
        free = [v for v in dict.fromkeys(variables(index)) if v not in fixed]
        if fits(cascade, rank, index) or (len(free) == 1 and _moves(index, free[0])):
            out.append(tuple(rank_of(v) for v in free))
        elif all(_moves(index, v) for v in free):
            out += [(rank_of(v),) for v in free] or [()]
        else:
            out.append(_listed(cascade, rank, index, free, sizes))
    return out


def _listed(
    cascade: Cascade, rank: str, index: Expr, free: Sequence[str], sizes: Mapping[str, int]
) -> Choice:
    """Return how many elements an index of one variable reaches, by trying all its values; one where it has more."""
    names = variables(index)
    if (
        len(names) != 1
        or list(names) != list(free)
        or accesses(index)
        or sizes[rank_of(names[0])] > _MOST_LISTED
    ):
        return ()
    values = number(index, {names[0]: np.arange(sizes[rank_of(names[0])])}, numbers_of(cascade, sizes))
    places = np.unique(np.floor(values))
    reached = int(np.count_nonzero((places >= 0) & (places < sizes[rank])))
    return (rank_of(names[0]),) if reached == sizes[rank_of(names[0])] else (reached,)


def _moves(index: Expr, variable: str) -> bool:
    """Tell whether other values of a variable give other values of an index, the rest standing still."""
    factors = dict.fromkeys((n.name for n in walk(index) if hasattr(n, "name")), 1.0)
    return bool(slope(index, variable, factors))


def fibers_per_word(
    cascade: Cascade, reads: Iterable[Access], outer: tuple[str, ...], sizes: Mapping[str, int]
) -> int:
    """Return the most fibers that use one word of a tensor.

    Args:
        reads: its accesses on the way.
        outer: the variables that tell fibers apart.
        sizes: of every rank.
    """
    return max((_shared(cascade, r, outer, sizes) for r in reads), default=1)


def _shared(cascade: Cascade, access: Access, outer: tuple[str, ...], sizes: Mapping[str, int]) -> int:
    told: set[str] = set()
    together = 1
    indices = zip(cascade.signatures[access.tensor].ranks, access.indices, strict=True)
    # Indices that run over an axis first: they tell their variables apart whatever the others do with them.
    for rank, index in sorted(indices, key=lambda i: not fits(cascade, *i)):
        fresh = [v for v in dict.fromkeys(variables(index)) if v in outer and v not in told]
        if fresh and not fits(cascade, rank, index):
            together *= _at_one_place(cascade, index, fresh, outer, sizes)
        told |= set(fresh)
    return together * math.prod(sizes[rank_of(v)] for v in outer if v not in told)


def _at_one_place(
    cascade: Cascade, index: Expr, fresh: list[str], outer: tuple[str, ...], sizes: Mapping[str, int]
) -> int:
    """Return for how many values of some variables an index may have the same value."""
    everything = math.prod(sizes[rank_of(v)] for v in fresh)
    numbers = numbers_of(cascade, sizes)
    slopes = {
        v: slope(index, v, numbers) for v in dict.fromkeys(variables(index)) if v in fresh or v not in outer
    }
    if len(fresh) == 1 and slopes[fresh[0]] and None not in slopes.values():
        # The others move the place by at most their span, so that much of it the variable can make up for.
        span = sum(abs(slopes[v] or 0) * (sizes[rank_of(v)] - 1) for v in slopes if v not in fresh)
        return min(everything, int(span // abs(slopes[fresh[0]] or 1)) + 1)
    if set(variables(index)) > set(fresh) or accesses(index) or everything > _MOST_LISTED:
        return everything
    grid = np.meshgrid(*(np.arange(sizes[rank_of(v)]) for v in fresh), indexing="ij")
    values = np.floor(number(index, dict(zip(fresh, grid, strict=True)), numbers))
    return int(np.unique(values, return_counts=True)[1].max())


def read_when_first(
    cascade: Cascade,
    name: str,
    outer: Iterable[str],
    reads: Mapping[str, Sequence[Access]],
    counted: frozenset[Expr],
) -> frozenset[str]:
    """Return the tensors of which all that a fiber uses has been read or made before the first point of an Einsum.

    With one fiber for all queries, the first weight needs every key, but only its own row of a bias: rows that have
    not been read yet are not read again.

    Args:
        name: an Einsum that waits for a value of the whole fiber.
        outer: the variables that tell fibers apart.
        reads: what the fiber uses of each tensor.
        counted: conditions under which what the fiber uses is counted.
    """
    computed = {e.name for e in cascade.einsums}
    still = set(cascade.einsum(name).variables) - set(outer)
    open_names: list[tuple[str, frozenset[str]]] = [(name, frozenset(still))]
    least: dict[str, frozenset[int]] = {}
    while open_names:
        name, single = open_names.pop()
        if drops_terms(cascade, cascade.einsum(name), counted):
            continue  # it need not have read anything
        for access in needed_reads(cascade.einsum(name)):
            ranks = cascade.signatures[access.tensor].ranks
            missing = frozenset(
                i
                for i, (rank, index) in enumerate(zip(ranks, access.indices, strict=True))
                if accesses(index)
                or set(variables(index)) & single
                or not (
                    _whole_axis(cascade, access, i, rank) or _alike(reads.get(access.tensor, ()), i, index)
                )
            )
            before = least.get(access.tensor)
            if access.tensor == name or (before is not None and len(before) <= len(missing)):
                continue
            least[access.tensor] = missing
            if access.tensor in computed:
                open_names.append((access.tensor, _targets(cascade.einsum(access.tensor), missing)))
    return frozenset(t for t, missing in least.items() if not missing)


def drops_terms(cascade: Cascade, einsum: Einsum, counted: frozenset[Expr] = frozenset()) -> bool:
    """Tell whether conditions that are not counted leave terms out of what an Einsum reduces."""
    reduced = set(einsum.reduced)
    return any(set(variables(c)) & reduced for c in existing(cascade, einsum) if c not in counted)


def _alike(reads: Sequence[Access], axis: int, index: Expr) -> bool:
    """Tell whether all that is used of a tensor is found along an axis by the same index."""
    return bool(reads) and all(a.indices[axis] == index for a in reads)


def _whole_axis(cascade: Cascade, access: Access, axis: int, rank: str) -> bool:
    """Tell whether an access moves over all of an axis; the last generation of a state stands for all before it."""
    index = access.indices[axis]
    if axis == cascade.signatures[access.tensor].state:
        return index == Size(rank) or bool(variables(index))
    return fits(cascade, rank, index)


def _targets(einsum: Einsum, places: frozenset[int]) -> frozenset[str]:
    """Return the variables at some places of a target; a selection makes all its places at once."""
    selected = {r.into for r in einsum.all_reductions if REDUCTION[r.op].index and r.into}
    found = {v for i in places for v in variables(einsum.target.indices[i])}
    return frozenset(found - selected)
