"""Exact numbers of iteration points under a `where`, and the scalar operations that they cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..cascade import Cascade
from ..einsum import Einsum
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
    substitute,
    variables,
)
from ..iteration import conjuncts_of
from ..sizes import BATCH_RANKS, parse_sizes, resolve, size_value
from .indices import fits, merged_splits, stays_inside
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
