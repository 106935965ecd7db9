"""Split a rank, M -> M1 * M0, in a whole cascade."""

from __future__ import annotations

from dataclasses import replace

from ..cascade import Cascade
from ..declarations import Iterate, Rank, Signature, variable_of
from ..einsum import Einsum, Reduction
from ..errors import CascadeError
from ..expr import Access, Apply, Expr, Size, Var, substitute, transform
from .elements import is_flat


def partition(cascade: Cascade, rank: str, settled: frozenset[str] = frozenset()) -> Cascade:
    """Return an equal cascade in which a rank is the product of two, outer and inner.

    Inputs keep the rank and are read at `m1*M0 + m0`, and so do the places that `topk` makes; what else the cascade
    defines gets both parts as axes.

    Args:
        rank: a free rank, walked by its own variable. One that is a product already is left as it is.
        settled: Einsums that stay as they are; their tensors are read as inputs are.

    Raises:
        CascadeError: the rank is derived, iterated, or an intermediate is read along it by more than its variable.

    >>> from einsum_cascade import zoo
    >>> partition(zoo.load("gemm"), "K").splits
    {'K': ('K1', 'K0')}
    """
    if rank in cascade.splits:
        parts = cascade.splits[rank]
        walked = any(variable_of(rank) in e.variables for e in cascade.einsums if e.name not in settled)
        if not walked or len(parts) != 2 or not is_flat(cascade, settled):
            return cascade
        return _walked_by_parts(cascade, rank, *parts, settled=settled)
    if rank not in cascade.free_ranks and rank not in cascade.aliases:
        raise CascadeError(f"{cascade.name}: the rank {rank} follows from others and cannot be split")
    if not is_flat(cascade, settled):
        raise CascadeError(f"{cascade.name}: a cascade with an iterate block is not split further")
    outer, inner = part_names(cascade, rank)
    ranks = split_ranks(cascade, rank, outer, inner)
    return _walked_by_parts(cascade, rank, outer, inner, ranks=ranks, settled=settled)


def _walked_by_parts(
    cascade: Cascade,
    rank: str,
    outer: str,
    inner: str,
    *,
    ranks: tuple[Rank, ...] | None = None,
    settled: frozenset[str],
) -> Cascade:
    """Return the cascade with the variables of two parts in the place of the variable of the whole."""
    keeping = settled | {s.tensor for s in cascade.inputs} | _places(cascade, rank)
    body = tuple(
        item
        if isinstance(item, Iterate) or item.name in settled
        else split_once(cascade, item, (rank, outer, inner), keeping)
        for item in cascade.body
    )
    outputs = tuple(
        s if s.tensor in keeping else split_signature(s, rank, outer, inner) for s in cascade.outputs
    )
    return replace(cascade, ranks=ranks or cascade.ranks, body=body, outputs=outputs)


def _places(cascade: Cascade, rank: str) -> set[str]:
    """Return the tensors whose axis along a rank `topk` makes: their elements are found together."""
    made = variable_of(rank)
    return {e.name for e in cascade.einsums if any(r.into == made for r in e.reductions)}


def blocks(
    cascade: Cascade, rank: str, settled: frozenset[str] = frozenset()
) -> tuple[Cascade, str, tuple[str, ...]]:
    """Return a cascade that can be walked block by block: itself split, the rank of blocks, those inside a block.

    A rank whose size follows from others (a window of I + 2*H keys, a second name of one) is walked element by element.

    Raises:
        CascadeError: neither is possible.
    """
    if rank not in cascade.splits and cascade.aliases.get(rank, rank) not in cascade.free_ranks:
        return cascade, rank, ()
    split = partition(cascade, rank, settled)
    outer, *inner = split.splits[rank]
    return split, outer, tuple(inner)


def split_ranks(cascade: Cascade, rank: str, outer: str, inner: str) -> tuple[Rank, ...]:
    """Return the ranks with one split; of two names for one rank the other then follows from the split one."""
    other = cascade.aliases.get(rank)
    parts = cascade.splits.get(other or "", ())
    if len(parts) == 2:
        # The parts of a second name are second names of the parts.
        own = (Rank(outer, Size(parts[0])), Rank(inner, Size(parts[1])))
        return tuple(
            p
            for r in cascade.ranks
            for p in ((*own, _product(r.name, outer, inner)) if r.name == rank else (r,))
        )
    if other is not None and other not in cascade.free_ranks:
        raise CascadeError(f"{cascade.name}: the rank {rank} follows from {other} and cannot be split")
    split = _product(rank, outer, inner)
    out = []
    for r in cascade.ranks:
        if r.name == rank:
            out.append(split)
        else:
            out.append(replace(r, size=Size(rank)) if r.name == other else r)
    return tuple(out)


def _product(rank: str, outer: str, inner: str) -> Rank:
    return Rank(rank, Apply("*", (Size(outer), Size(inner))))


def part_names(cascade: Cascade, rank: str) -> tuple[str, str]:
    """Return the names of the parts: M1 and M0, or the next that are free."""
    used = {*cascade.rank_names, *cascade.signatures, *(c.name for c in cascade.constants)}
    middle = ""
    while f"{rank}{middle}1" in used or f"{rank}{middle}0" in used:
        middle += "_"
    return f"{rank}{middle}1", f"{rank}{middle}0"


def split_signature(s: Signature, rank: str, outer: str, inner: str) -> Signature:
    """Return a signature with both parts of a rank in its place."""
    ranks = tuple(part for r in s.ranks for part in ((outer, inner) if r == rank else (r,)))
    return replace(s, ranks=ranks)


def split_once(
    cascade: Cascade, einsum: Einsum, split: tuple[str, str, str], keeping: frozenset[str]
) -> Einsum:
    """Return what `_split_einsum` does: the same for all cascades in which the Einsum meets the same tensors."""
    met = (einsum.name, *sorted(einsum.sources))
    key = ("split", split, tuple((t in keeping, cascade.signatures[t].ranks) for t in met))
    if key not in einsum.derived:
        einsum.derived[key] = _split_einsum(cascade, einsum, *split, keeping)
    found: Einsum = einsum.derived[key]
    return found


def _split_einsum(
    cascade: Cascade, einsum: Einsum, rank: str, outer: str, inner: str, keeping: frozenset[str]
) -> Einsum:
    variable = variable_of(rank)
    if variable not in einsum.variables and not _touches(cascade, einsum, rank, keeping):
        return einsum
    parts = (Var(variable_of(outer)), Var(variable_of(inner)))
    offset = Apply("+", (Apply("*", (parts[0], Size(inner))), parts[1]))

    def axes(access: Access) -> Access:
        if access.tensor in keeping:
            return access
        indices: list[Expr] = []
        for r, index in zip(cascade.signatures[access.tensor].ranks, access.indices, strict=True):
            if r == rank and index != Var(variable):
                raise CascadeError(
                    f"{einsum.name} reads {access.tensor} along {rank} by more than {variable}; it is not split"
                )
            indices += parts if r == rank else (index,)
        return replace(access, indices=tuple(indices))

    def change(node: Expr) -> Expr:
        return axes(node) if isinstance(node, Access) else node

    def whole(node: Expr) -> Expr:
        return substitute(transform(node, change), {variable: offset})

    target = axes(einsum.target)
    reductions = tuple(_split_reduction(r, variable, parts) for r in einsum.reductions)
    where = None if einsum.where is None else whole(einsum.where)
    return Einsum(target, whole(einsum.value), reductions, where)


def _split_reduction(r: Reduction, variable: str, parts: tuple[Var, Var]) -> Reduction:
    if variable not in r.variables:
        return r
    if r.into is not None or r.op == "argmax":
        raise CascadeError(f"{r.op} over {variable} gives positions; a split rank has none")
    names = tuple(n for v in r.variables for n in ((parts[0].name, parts[1].name) if v == variable else (v,)))
    return replace(r, variables=names)


def _touches(cascade: Cascade, einsum: Einsum, rank: str, keeping: frozenset[str]) -> bool:
    """Tell whether an Einsum reads a split tensor, though not by the variable of the rank."""
    return any(rank in cascade.signatures[a.tensor].ranks for a in einsum.reads if a.tensor not in keeping)
