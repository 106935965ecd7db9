"""Exact numbers of iteration points under a `where`, and the scalar operations that they cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..cascade import Cascade
from ..declarations import rank_of, variable_of
from ..einsum import Einsum, is_constant
from ..errors import CascadeError, nearest
from ..expr import (
    Access,
    Apply,
    Compare,
    Expr,
    Num,
    Size,
    Var,
    accesses,
    children,
    substitute,
    transform,
    variables,
)
from ..iteration import conjuncts_of
from ..sizes import BATCH_RANKS, parse_sizes, resolve, size_value
from .predicates import conjuncts, count, is_static, joined


@dataclass(frozen=True, slots=True)
class Condition:
    """What has to hold for a point to exist, and the variables that it is said to name.

    Those of a conjunct are its own, those of an index that may leave its tensor the index's; an element that does not
    exist names all variables of its access. Where one of them is reduced, terms are removed, else points of the output.
    """

    holds: Expr
    names: frozenset[str]


def known_sizes(cascade: Cascade, sizes: Mapping[str, int] | str) -> dict[str, int]:
    """Return the size of every rank of a cascade, from a text or from the sizes of some ranks."""
    if isinstance(sizes, str):
        return parse_sizes(sizes, cascade)
    return resolve(cascade, sizes)


def batch_of(cascade: Cascade, sizes: Mapping[str, int]) -> int:
    """Return by how much batch ranks that the text leaves out (B, H) multiply all counts."""
    return math.prod(sizes[r] for r in BATCH_RANKS if r in sizes and r not in cascade.rank_names)


def points(cascade: Cascade, einsum: str, sizes: Mapping[str, int] | str) -> int:
    """Return the exact number of iteration points of an Einsum, batch ranks left out.

    Points removed by a `where`, here or in what is read, and points that read outside a tensor do not count. A
    predicate that reads data removes nothing, for which points it removes is known to the data alone.

    Args:
        einsum: the name of the tensor that it defines.
        sizes: as for `evaluate`; any size, for points are counted by intervals.

    Raises:
        CascadeError: an unknown Einsum, or missing sizes.

    >>> from einsum_cascade import zoo
    >>> points(zoo.load("attention_causal"), "QK", "E=2,F=2,M=1M,P=1M") == 2 * (2**20 * (2**20 + 1) // 2)
    True
    """
    known = known_sizes(cascade, sizes)
    try:
        found = cascade.einsum(einsum)
    except KeyError:
        names = [e.name for e in cascade.einsums]
        raise CascadeError(f"{cascade.name} has no Einsum {einsum}", hint=nearest(einsum, names)) from None
    return space_points(cascade, found, found.variables, known)


def operations(cascade: Cascade, sizes: Mapping[str, int] | str) -> dict[str, int]:
    """Return how many scalar operations of each cost class a cascade takes, batch ranks included.

    Per point of the iteration space the maps, per reduced term one operation of the reduction.

    >>> from einsum_cascade import zoo
    >>> operations(zoo.load("attention_3pass"), "E=4,F=4,M=8,P=2")
    {'mac': 128, 'max': 16, 'exp': 16, 'add': 32, 'divide': 16}
    """
    known = known_sizes(cascade, sizes)
    total: Counter[str] = Counter()
    for per_einsum in operations_by_einsum(cascade, known).values():
        total.update(per_einsum)
    return dict(total)


def operations_by_einsum(cascade: Cascade, sizes: Mapping[str, int] | str) -> dict[str, dict[str, int]]:
    """Return the scalar operations of each Einsum by cost class, batch ranks included."""
    known = known_sizes(cascade, sizes)
    batch = batch_of(cascade, known)
    out: dict[str, dict[str, int]] = {}
    counted: dict[tuple[str, tuple[str, ...]], int] = {}
    for einsum in cascade.einsums:
        mine: Counter[str] = Counter()
        for action in einsum.actions:
            key = (einsum.name, action.variables)
            if key not in counted:
                counted[key] = space_points(cascade, einsum, action.variables, known)
            mine[action.op] += action.count * counted[key] * batch
        out[einsum.name] = dict(mine)
    return out


def space_points(cascade: Cascade, einsum: Einsum, space: tuple[str, ...], sizes: Mapping[str, int]) -> int:
    """Return the number of points of the space of some variables; what is left without terms still has its identity."""
    merged, extents = merged_splits(cascade, list(live_parts(cascade, einsum, within=space)), space, sizes)
    return count(merged, extents, numbers_of(cascade, sizes))


def numbers_of(cascade: Cascade, sizes: Mapping[str, int]) -> dict[str, float]:
    """Return sizes and named constants by name."""
    return {**sizes, **{c.name: size_value(c.value, cascade, sizes) for c in cascade.constants}}


def live_parts(
    cascade: Cascade,
    einsum: Einsum,
    *,
    branches: bool = False,
    outputs: bool = False,
    within: tuple[str, ...] | None = None,
) -> tuple[Expr, ...]:
    """Return the static conditions under which a point of an Einsum exists.

    These are its own `where`, the conditions of the points it reads, and that each index lies inside its tensor.

    Args:
        branches: whether what a branch reads where coordinates take it has to exist too; simulators take it as there.
        outputs: of points of what it defines: what removes all terms of a sum does not remove the sum.
        within: of points of the space of these variables alone.
    """
    if within is None:
        within = einsum.output_variables if outputs else einsum.variables
    key = ("live_parts", einsum, branches, within)
    if key not in cascade.derived:
        known = _known(cascade, einsum.sources, branches=branches)
        conditions = _conditions(cascade, einsum, known, branches=branches)
        found = dict.fromkeys(c.holds for c in conditions if c.names <= set(within))
        cascade.derived[key] = tuple(p for p in found if is_static(p))
    parts: tuple[Expr, ...] = cascade.derived[key]
    return parts


def conditions_of(cascade: Cascade, einsum: Einsum) -> tuple[Condition, ...]:
    """Return every condition under which a point of an Einsum exists, those that read data among them."""
    known = _known(cascade, einsum.sources, branches=True, data=True)
    return _conditions(cascade, einsum, known, branches=True, data=True)


def conditions_of_access(cascade: Cascade, access: Access) -> tuple[Condition, ...]:
    """Return the conditions under which an element that is read exists, in the variables of its reader."""
    known = _known(cascade, (a.tensor for a in accesses(access)), branches=True, data=True)
    inherited = _inherited(cascade, access, known)
    return tuple(dict.fromkeys((*inside(cascade, access), *inherited)))


def _known(
    cascade: Cascade, reads: Iterable[str], *, branches: bool, data: bool = False
) -> dict[str, tuple[Condition, ...]]:
    """Return the conditions of the tensors that are read and of all they are made of, each worked out once.

    One after the other from the first on, for a long cascade would nest too deep.
    """
    found: dict[str, tuple[Condition, ...]] = cascade.derived.setdefault(("conditions", branches, data), {})
    open_names = list(reads)
    while open_names:
        name = open_names[-1]
        if name in found or not cascade.defines(name) or name in cascade.states:
            open_names.pop()
            continue
        writer = cascade.einsum(name)
        before = [
            t for t in writer.sources if t not in found and t not in cascade.states and cascade.defines(t)
        ]
        if before:
            open_names += before
        else:
            found[name] = _conditions(cascade, writer, found, branches=branches, data=data)
    return found


def _conditions(
    cascade: Cascade,
    einsum: Einsum,
    known: dict[str, tuple[Condition, ...]],
    *,
    branches: bool,
    data: bool = False,
) -> tuple[Condition, ...]:
    """Return the conditions under which a point exists.

    Args:
        known: of the Einsums that have been looked at.
        branches: whether what a branch of `select` reads has to exist where it is taken, as what stands in place of
            an absent element always has to; `data`: also where data decides that.
    """
    found: list[Condition] = []
    for whole in conjuncts_of(einsum.where):
        # A conjunct, a chain (0 <= p - m < W) too, removes what its variables name, with the elements that it reads.
        held = [Condition(p, frozenset()) for p in conjuncts(whole)]
        for access in required(whole):
            held += inside(cascade, access)
            held += _inherited(cascade, access, known)
        found += [Condition(c.holds, frozenset(variables(whole))) for c in held]
    for access in required(einsum.value):
        found += inside(cascade, access)
        found += _inherited(cascade, access, known)
    for node in _choices(einsum.value):
        for taken, branch in _branches(cascade, node) if branches or node.op == "pad" else ():
            under = _conditions(
                cascade, replace(einsum, value=branch, where=None), known, branches=branches, data=data
            )
            exist = [c.holds for c in under if data or is_static(c.holds)]
            if exist and (data or is_static(taken)):
                either = Apply("or", (Apply("not", (taken,)), joined("and", exist)))
                found.append(Condition(either, frozenset(variables(node))))
    return tuple(dict.fromkeys(found))


def _branches(cascade: Cascade, node: Apply) -> Iterator[tuple[Expr, Expr]]:
    """Yield the branches of a choice that may be absent, each with when it is taken: of `pad`, what stands instead."""
    if node.op == "select":
        test, yes, no = node.args
        yield from ((test, yes), (Apply("not", (test,)), no))
        return
    access, instead = node.args
    assert isinstance(access, Access)
    exists = [c.holds for c in conditions_of_access(cascade, access)]
    if exists:
        yield Apply("not", (joined("and", exists),)), instead


def _choices(node: Expr) -> Iterator[Apply]:
    """Yield each choice between two branches that is not made inside another one."""
    if isinstance(node, Apply) and node.op in ("pad", "select"):
        yield node
    elif isinstance(node, Apply):
        for part in node.args:
            yield from _choices(part)


def required(node: Expr) -> list[Access]:
    """Return the accesses without which a point does not exist: all but those of `pad` and of one branch."""
    if isinstance(node, Apply) and node.op == "pad":
        return []
    if isinstance(node, Apply) and node.op == "select":
        return required(node.args[0])
    if isinstance(node, Access):
        return [node, *(a for i in node.indices for a in required(i))]
    parts = node.args if isinstance(node, (Apply, Compare)) else ()
    return [a for p in parts for a in required(p)]


def _inherited(cascade: Cascade, access: Access, known: dict[str, tuple[Condition, ...]]) -> list[Condition]:
    """Return the conditions of the element read, in the variables of the reader.

    What removes terms of a sum that has made the element does not remove the element.
    """
    signature = cascade.signatures[access.tensor]
    if signature.state is not None or not cascade.defines(access.tensor):
        return []
    writer = cascade.einsum(access.tensor)
    own = set(writer.output_variables)
    renamed = {
        t.name: i for t, i in zip(writer.target.indices, access.indices, strict=True) if isinstance(t, Var)
    }
    names = frozenset(variables(access))
    return [Condition(substitute(c.holds, renamed), names) for c in known[access.tensor] if c.names <= own]


def inside(cascade: Cascade, access: Access) -> list[Condition]:
    """Return the conditions that keep an access inside its tensor, where they do not hold by themselves."""
    signature = cascade.signatures[access.tensor]
    out: list[Condition] = []
    for axis, (rank, index) in enumerate(zip(signature.ranks, access.indices, strict=True)):
        within = fits(cascade, rank, index) or stays_inside(cascade, rank, index)
        if axis == signature.state or within:
            continue
        both: list[Expr] = [Compare(("<=",), (Num(0), index)), Compare(("<",), (index, Size(rank)))]
        out += [Condition(p, frozenset(variables(index))) for p in both]
    return out


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
    wanted = parts and _offset(parts, cascade, names)
    return bool(wanted) and index in _spellings(wanted)  # type: ignore[arg-type]


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
    """Tell whether the form of an index keeps it inside a rank whatever the sizes: a remainder by it, a digit, a clamp.

    >>> from einsum_cascade import zoo
    >>> from einsum_cascade.parser import parse_expression
    >>> gemm = zoo.load("gemm")
    >>> stays_inside(gemm, "K", parse_expression("3 * k % K")), stays_inside(gemm, "K", parse_expression("3 * k"))
    (True, False)
    """
    if is_digit(cascade, rank, index):
        return True
    if not isinstance(index, Apply):
        return False
    if index.op == "%":
        return _names(cascade, rank, index.args[1])
    if index.op == "clamp":
        least, most = index.args[1:]
        last = isinstance(most, Apply) and most.op == "-" and most.args[1] == Num(1)
        return least == Num(0) and last and _names(cascade, rank, children(most)[0])
    if index.op == "//":
        # The first digit of what stays inside the whole: `(y + 3) % Y // I` along Wy of Y = Wy * I.
        whole = next((w for w, parts in cascade.splits.items() if len(parts) == 2 and parts[0] == rank), None)
        return (
            whole is not None
            and index.args[1] == Size(cascade.splits[whole][1])
            and (fits(cascade, whole, index.args[0]) or stays_inside(cascade, whole, index.args[0]))
        )
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
        merged = [transform(p, lambda n, s=spelled, f=fresh: f if n in s else n) for p in parts]  # type: ignore[misc]
        left = {v for p in merged for v in variables(p)}
        if fresh.name in extents or left & set(inner):
            continue
        parts = merged
        extents = {v: n for v, n in extents.items() if v not in inner}
        extents[fresh.name] = math.prod(sizes[r] for r in ranks)
    return parts, extents
