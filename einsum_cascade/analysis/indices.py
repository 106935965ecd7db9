"""How an index runs over a rank: over just its elements, inside it whatever the sizes, as a whole of parts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..cascade import Cascade
from ..declarations import rank_of, variable_of
from ..einsum import is_constant
from ..expr import Apply, Expr, Num, Size, Var, transform, variables


def fits(cascade: Cascade, rank: str, index: Expr) -> bool:
    """Tell whether an index runs over exactly the elements of a rank.

    A variable of it does, the offset of its parts, and either of them shifted in a circle: `(e + E // 2) % E`.
    """
    if isinstance(index, Var):
        mine = rank_of(index.name)
        return mine == rank or cascade.aliases.get(mine) == rank or cascade.aliases.get(rank) == mine
    if isinstance(index, Apply) and index.op == "%" and _names(cascade, rank, index.args[1]):
        return fits(cascade, rank, unshifted(index)[0])
    names = variables(index)
    parts = cascade.splits.get(rank)
    wanted = _offset(parts, cascade, names) if parts else None
    return wanted is not None and index in _spellings(wanted)


def _names(cascade: Cascade, rank: str, size: Expr) -> bool:
    """Tell whether a size is that of a rank, under whichever of its names."""
    if not isinstance(size, Size):
        return False
    return rank in (size.name, cascade.aliases.get(size.name)) or cascade.aliases.get(rank) == size.name


def unshifted(index: Expr) -> tuple[Expr, Expr]:
    """Return what an index shifts in a circle, and by how much: e and E // 2 for `(e + E // 2) % E`.

    Any other index is itself, shifted by 0.
    """
    shift: Expr = Num(0)
    if not (isinstance(index, Apply) and index.op == "%"):
        return index, shift
    run = index.args[0]
    while isinstance(run, Apply) and run.op in ("+", "-") and is_constant(run.args[1]):
        shift = Apply(run.op, (shift, run.args[1]))
        run = run.args[0]
    return run, shift


def is_digit(cascade: Cascade, rank: str, index: Expr) -> bool:
    """Tell whether an index is the part of a split rank that an axis is: `m // M0` along M1, `m % M0` along M0."""
    if not isinstance(index, Apply) or index.op not in ("//", "%") or not isinstance(index.args[0], Var):
        return False
    parts = cascade.splits.get(rank_of(index.args[0].name), ())
    return len(parts) == 2 and index.args[1] == Size(parts[1]) and rank == parts[index.op == "%"]


def stays_inside(cascade: Cascade, rank: str, index: Expr) -> bool:
    """Tell whether the form of an index keeps it inside a rank whatever the sizes.

    A remainder by its size does, a digit, a clamp, and a place counted from its end.

    >>> from einsum_cascade import zoo
    >>> from einsum_cascade.parser import parse_expression
    >>> gemm = zoo.load("gemm")
    >>> stays_inside(gemm, "K", parse_expression("3 * k % K")), stays_inside(gemm, "K", parse_expression("3 * k"))
    (True, False)
    """
    if is_digit(cascade, rank, index):
        return True
    match index:
        case Apply("%", (_, by)):
            return _names(cascade, rank, by)
        case Apply("-", (end, run)):
            return _is_last(cascade, rank, end) and fits(cascade, rank, run)
        case Apply("clamp", (_, Num(0), most)):
            return _is_last(cascade, rank, most)
        case Apply("//", (place, by)):
            # The first digit of what stays inside the whole: `(y + 3) % Y // I` along Wy of Y = Wy * I.
            whole = next((w for w, p in cascade.splits.items() if len(p) == 2 and p[0] == rank), None)
            if whole is None or by != Size(cascade.splits[whole][1]):
                return False
            return fits(cascade, whole, place) or stays_inside(cascade, whole, place)
    return False


def _is_last(cascade: Cascade, rank: str, index: Expr) -> bool:
    """Tell whether an index is that of the last element of a rank."""
    match index:
        case Apply("-", (size, Num(1))):
            return _names(cascade, rank, size)
    return False


def _offset(parts: tuple[str, ...], cascade: Cascade, names: tuple[str, ...]) -> Expr | None:
    """Return `m1*M0 + m0` for the parts (M1, M0), with the variables (aliases too) that an index uses."""
    chosen: list[str] = []
    for part in parts:
        own = [n for n in names if part in (rank_of(n), cascade.aliases.get(rank_of(n)))]
        if len(own) != 1:
            return None
        chosen.append(own[0])
    out: Expr = Var(chosen[0])
    for part, name in zip(parts[1:], chosen[1:], strict=True):
        out = Apply("+", (Apply("*", (out, Size(part))), Var(name)))
    return out


def _spellings(offset: Expr) -> tuple[Expr, ...]:
    """Return the ways in which people write an offset: factors and summands either way round."""
    if not isinstance(offset, Apply):
        return (offset,)
    left, right = offset.args
    if offset.op == "*":
        return tuple(Apply("*", p) for w in _spellings(left) for p in ((w, right), (right, w)))
    return tuple(Apply("+", p) for w in _spellings(left) for p in ((w, right), (right, w)))


def _with_whole(part: Expr, spelled: tuple[Expr, ...], whole: Var) -> Expr:
    return transform(part, lambda node: whole if node in spelled else node)


def merged_splits(
    cascade: Cascade, parts: list[Expr], space: tuple[str, ...], sizes: Mapping[str, int]
) -> tuple[list[Expr], dict[str, int]]:
    """Return the conditions and extents with `m1*M0 + m0` replaced by one variable m, where m1 and m0 only stand so.

    Two variables are counted by intervals where three would have to be listed.
    """
    extents = {v: sizes[rank_of(v)] for v in space}
    for whole, ranks in cascade.splits.items():
        used = tuple(dict.fromkeys(v for p in parts for v in variables(p)))
        offset = _offset(ranks, cascade, tuple(v for v in used if v in extents))
        if offset is None:
            continue
        inner = variables(offset)
        fresh = Var(variable_of(whole))
        spelled = _spellings(offset)
        merged = [_with_whole(p, spelled, fresh) for p in parts]
        left = {v for p in merged for v in variables(p)}
        if fresh.name in extents or left & set(inner):
            continue
        parts = merged
        extents = {v: n for v, n in extents.items() if v not in inner}
        extents[fresh.name] = math.prod(sizes[r] for r in ranks)
    return parts, extents
