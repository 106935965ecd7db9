"""How many elements of a tensor the points of an Einsum need at least, and how many elements it defines at least.

An element counts once, however many points need it. A point needs what it reads where it exists: a padded access only
inside its tensor, a branch of a `select` only where it is taken, as far as coordinates tell. What data alone decide is
taken as wanted: a predicate over data removes nothing, and a place that data give lies inside the axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..cascade import Cascade
from ..declarations import rank_of
from ..einsum import Einsum
from ..expr import Access, Apply, Compare, Expr, Num, Var, accesses, children, substitute, variables
from ..iteration import conjuncts_of
from ..ops import REDUCTION
from .forks import NEVER, too_many
from .indices import fits, merged_splits
from .intervals import alternatives, any_term, number, slope
from .points import inside, live_parts, numbers_of, required
from .predicates import components, conjuncts, count, deciding, is_static, projection
from .reshapes import reshapes

# Variables of which several values are tried before all are.
_MOST_TRIED = 6
# Points of all other variables at which one is solved for before nothing is claimed.
_MOST_SOLVED = 2**15
# Points of the variables of one index that are listed to see how many places they reach.
_MOST_LISTED = 2**20
# Alternatives of the conditions of one Einsum beyond which nothing is claimed of it: demands multiply them.
MOST_FORKS = 64


def touched(
    cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int], *, demand: Sequence[Expr] = ()
) -> dict[str, int]:
    """Return, for each tensor that an Einsum reads, at least how many elements its points need.

    The most that one access needs counts; what several accesses need together is not looked at. Of a tensor that is
    computed it is only told whether any element is needed.

    Args:
        sizes: of every rank.
        demand: the elements that are needed of what it defines, as conditions on its target's variables.

    >>> from einsum_cascade import zoo
    >>> gemm = zoo.load("gemm")
    >>> touched(gemm, gemm.einsums[0], {"M": 2, "K": 3, "N": 5})
    {'A': 6, 'B': 15}
    """
    most: dict[str, int] = {}
    given = {s.tensor for s in cascade.inputs}
    exists = (*existing(cascade, einsum), *demand)
    roots = [einsum.value, *conjuncts(einsum.where), *einsum.target.indices]
    for access, taken in (found for root in roots for found in reads_of(cascade, root)):
        conditions = tuple(dict.fromkeys((*exists, *taken)))
        if too_many(conditions):
            words = 0
        elif access.tensor in given:
            words = _elements(cascade, einsum, access, conditions, sizes)
        else:
            words = _projected(cascade, conditions, (), einsum.variables, sizes)
        most[access.tensor] = max(most.get(access.tensor, 0), words)
    return most


def existing(cascade: Cascade, einsum: Einsum, *, outputs: bool = False) -> tuple[Expr, ...]:
    """Return the static conditions under which a point exists, what branches read included.

    Args:
        outputs: of points of what it defines, not of those that it runs over.
    """
    found = live_parts(cascade, einsum, branches=True, outputs=outputs)
    own = set(einsum.output_variables if outputs else einsum.variables)
    doubtful = _doubtful(cascade)
    if too_many(found, MOST_FORKS) or any(
        a.tensor in doubtful and own.issuperset(variables(a)) for a in _needed_reads(einsum)
    ):
        return (NEVER, *live_parts(cascade, einsum, outputs=outputs))
    return found


def _doubtful(cascade: Cascade) -> frozenset[str]:
    """Return the tensors some of whose elements may be absent because a `where` removes generations of a state.

    Which ones that are is not looked into, so no bound counts what reads them. Indices are taken to stay inside.
    """
    key = ("doubtful",)
    if key not in cascade.derived:
        masked = _reaching(cascade, {e.name for e, _ in cascade.statements if _removes(e)})
        cascade.derived[key] = _reaching(cascade, masked & cascade.states)
    doubtful: frozenset[str] = cascade.derived[key]
    return doubtful


def _removes(einsum: Einsum) -> bool:
    """Tell whether a predicate removes elements of what an Einsum defines, as far as coordinates tell."""
    targets = set(einsum.output_variables)
    return any(targets.issuperset(variables(p)) and is_static(p) for p in conjuncts_of(einsum.where))


def _reaching(cascade: Cascade, first: set[str] | frozenset[str]) -> frozenset[str]:
    """Return some tensors, and all whose elements are absent where theirs are."""
    found: set[str] = set(first)
    before = -1
    while found and before != len(found):  # what a block reads of a state may be defined further down
        before = len(found)
        for einsum, _ in cascade.statements:
            targets = set(einsum.output_variables)
            if any(a.tensor in found and targets.issuperset(variables(a)) for a in _needed_reads(einsum)):
                found.add(einsum.name)
    return frozenset(found)


def _needed_reads(einsum: Einsum) -> Iterator[Access]:
    """Yield what an Einsum reads, but for what `pad` has another value for."""
    open_nodes: list[Expr] = [einsum.value, *([einsum.where] if einsum.where is not None else [])]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, Access):
            yield node
        open_nodes += children(node)[1:] if isinstance(node, Apply) and node.op == "pad" else children(node)


def defined(cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int]) -> int:
    """Return at least how many elements exist of what an Einsum defines, all generations of a state included.

    A reduction without terms has a value, so it exists; a selection among nothing does not.
    """
    if einsum.name in cascade.states:
        return _generations(cascade, einsum, sizes)
    found = existing(cascade, einsum)
    selecting = next((r for r in einsum.all_reductions if REDUCTION[r.op].index), None)
    if selecting is None:
        return counted(cascade, existing(cascade, einsum, outputs=True), einsum.output_variables, sizes)
    kept = tuple(v for v in einsum.output_variables if v != selecting.into)
    each = _selected(cascade, einsum, sizes) if selecting.into else 1
    return each * _projected(cascade, found, kept, (*kept, *einsum.reduced), sizes)


def _generations(cascade: Cascade, update: Einsum, sizes: Mapping[str, int]) -> int:
    """Return at least how many elements of a state exist: a generation made from an absent one is absent."""
    total = 0
    firsts = [e for e in cascade.initial if e.name == update.name]
    for first in firsts:
        total += counted(cascade, existing(cascade, first, outputs=True), first.output_variables, sizes)
    found = existing(cascade, update, outputs=True)
    chained = any(a.tensor == update.name for a in required(update.value))
    if chained and (found or any(existing(cascade, first) for first in firsts)):
        return total  # which elements of the earlier generations exist is not looked into
    return total + counted(cascade, found, update.output_variables, sizes)


def _selected(
    cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int], at: dict[str, Expr] | None = None
) -> int:
    """Return at least how many of the places of a selection exist where one does.

    Args:
        at: values of variables of its target, where they are known.
    """
    selecting = next(r for r in einsum.reductions if r.into)
    parts = [substitute(p, at or {}) for p in existing(cascade, einsum)]
    parts = [p for p in parts if set(variables(p)) & set(einsum.reduced)]
    if any(not set(variables(p)) <= set(selecting.variables) for p in parts):
        return 1
    return min(
        sizes[rank_of(str(selecting.into))], counted(cascade, parts, tuple(selecting.variables), sizes)
    )


def reads_of(
    cascade: Cascade, node: Expr, taken: tuple[Expr, ...] = ()
) -> Iterator[tuple[Access, tuple[Expr, ...]]]:
    """Yield every access of an expression with the static conditions under which its value matters.

    Args:
        taken: what holds already.
    """
    if isinstance(node, Access):
        held = (*taken, *(c.holds for c in inside(cascade, node) if is_static(c.holds)))
        yield node, held
        for index in node.indices:
            yield from reads_of(cascade, index, held)
    elif isinstance(node, Apply) and node.op == "select":
        test, yes, no = node.args
        yield from reads_of(cascade, test, taken)
        known = is_static(test)
        yield from reads_of(cascade, yes, (*taken, *conjuncts(test)) if known else taken)
        yield from reads_of(cascade, no, (*taken, Apply("not", (test,))) if known else taken)
    elif isinstance(node, Apply) and node.op == "pad":
        yield from reads_of(cascade, node.args[0], taken)  # nothing is claimed for what stands outside
    elif isinstance(node, (Apply, Compare)):
        for part in node.args:
            yield from reads_of(cascade, part, taken)


@dataclass(slots=True)
class _Known:
    """What the indices of an access tell about a point.

    Attributes:
        told: variables that the element tells.
        at: variables that are looked at in one place only.
        conditions: that restrict the points looked at.
        factor: places along axes that are independent of all others.
        selections: indices that a selection made, with the variable of the place in it.
        gathering: variables in indices that data give, of which as many places may exist as they say.
    """

    told: dict[str, None] = field(default_factory=dict)
    at: dict[str, None] = field(default_factory=dict)
    conditions: list[Expr] = field(default_factory=list)
    factor: int = 1
    selections: list[tuple[Access, str]] = field(default_factory=list)
    gathering: frozenset[str] = frozenset()

    def new(self, index: Expr) -> list[str]:
        """Return the variables of an index of which nothing is known."""
        return [v for v in variables(index) if v not in self.told and v not in self.at]


def _elements(
    cascade: Cascade, einsum: Einsum, access: Access, conditions: Sequence[Expr], sizes: Mapping[str, int]
) -> int:
    """Return at least how many elements of a tensor an access reaches.

    The places of an index whose variables are told by nothing else are counted, as those of a window (p + r) are. Of
    another index of several variables one is followed while the others stand still, so that different values of it are
    different places; where they stand still is tried, and the best counts.
    """
    space = einsum.variables
    conditions = [c for c in conditions if set(variables(c)) <= set(space)]
    axes = list(zip(cascade.signatures[access.tensor].ranks, access.indices, strict=True))
    gathering = frozenset(v for index in access.indices if accesses(index) for v in variables(index))
    known = _Known(conditions=list(conditions), gathering=gathering)
    for rank, index in axes:
        if fits(cascade, rank, index):
            known.told |= dict.fromkeys(variables(index))
    others = [a for a in axes if not fits(cascade, *a)]
    ranges = {v: sizes[rank_of(v)] for _, index in others for v in variables(index)}
    shape = [sizes[rank] for rank, _ in others]
    if reshapes([index for _, index in others], shape, ranges, numbers_of(cascade, sizes)):
        known.told |= dict.fromkeys(ranges)  # each point reads a place of its own
        others = []
    while others:
        axis = min(others, key=lambda a: len(known.new(a[1])))
        others.remove(axis)
        _follow(cascade, known, *axis, sizes)
    best = 0
    for place in (0.0, 0.5, 1.0) if known.at else (0.0,):
        fixed: dict[str, Expr] = {v: Num(int((sizes[rank_of(v)] - 1) * place)) for v in known.at}
        made = [_place_exists(cascade, index, name, fixed, sizes) for index, name in known.selections]
        parts = [substitute(c, fixed) for c in (*known.conditions, *made)]
        free = tuple(v for v in space if v not in fixed)
        best = max(best, _projected(cascade, parts, tuple(known.told), free, sizes))
    return best * known.factor


def _follow(cascade: Cascade, known: _Known, rank: str, index: Expr, sizes: Mapping[str, int]) -> None:
    """Note what one index tells that is more than a variable of its axis."""
    new = known.new(index)
    if not new:
        return
    if accesses(index):
        _follow_selection(cascade, known, rank, index, sizes)
        return
    numbers = numbers_of(cascade, sizes)
    linear = [v for v in new if slope(index, v, numbers) not in (None, 0.0)]
    alone = [c for c in known.conditions if set(variables(c)) & set(new)]
    of_its_own = set(new) == set(variables(index)) and all(set(variables(c)) <= set(new) for c in alone)
    # Where data give another index of these variables, values that fall together here may differ in what exists there.
    if of_its_own and (not known.gathering.intersection(new) or (len(new) == 1 and not linear)):
        places = _distinct(index, new, alone, sizes, numbers)
        if places is not None:
            known.factor *= places
            known.at |= dict.fromkeys(new)
            known.conditions = [c for c in known.conditions if c not in alone]
            return
    if linear:
        followed = max(linear, key=lambda v: sizes[rank_of(v)])
        known.told[followed] = None
        known.at |= dict.fromkeys(v for v in new if v != followed)


def _distinct(
    index: Expr,
    names: Sequence[str],
    conditions: Sequence[Expr],
    sizes: Mapping[str, int],
    numbers: Mapping[str, float],
) -> int | None:
    """Return how many values an index of some variables takes where some conditions hold; None where too many to list.

    Steps that each are no longer than what the shorter ones reach leave no gap: p + r takes P + R - 1 values.
    """
    extents = {v: sizes[rank_of(v)] for v in names}
    slopes = {v: slope(index, v, numbers) for v in names}
    conditions = deciding(conditions, extents, numbers)
    if not conditions and None not in slopes.values():
        reached = 1
        for step, n in sorted((abs(s), extents[v]) for v, s in slopes.items() if s is not None):
            if step > reached or step % 1:
                break
            reached += int(step) * (n - 1)
        else:
            return reached
    length = math.prod(extents.values())
    if length > _MOST_LISTED:
        return None
    grid = dict(zip(names, np.meshgrid(*map(np.arange, extents.values()), indexing="ij"), strict=True))
    grid = {v: g.ravel() for v, g in grid.items()}
    holds = any_term(alternatives(conditions), grid, numbers, length)
    values = np.broadcast_to(number(index, grid, numbers), holds.shape)
    return len(np.unique(values[holds]))


def _follow_selection(
    cascade: Cascade, known: _Known, rank: str, index: Expr, sizes: Mapping[str, int]
) -> None:
    """Note that the places that a topk gives are different from each other; those of other tensors may be one."""
    if not isinstance(index, Access) or not cascade.defines(index.tensor):
        return
    writer = cascade.einsum(index.tensor)
    selecting = next((r for r in writer.reductions if r.into), None)
    if selecting is None:
        return
    place = _arguments(writer, index)[str(selecting.into)]
    new = known.new(index)
    inside = sizes[rank_of(selecting.variables[0])] <= sizes[rank]
    if isinstance(place, Var) and place.name in new and inside:
        known.told[place.name] = None
        known.at |= dict.fromkeys(v for v in new if v != place.name)
        known.selections.append((index, place.name))


def _arguments(writer: Einsum, access: Access) -> dict[str, Expr]:
    """Return what an access puts in for each variable of the target of the Einsum that it reads."""
    pairs = zip(writer.target.indices, access.indices, strict=True)
    return {target.name: index for target, index in pairs if isinstance(target, Var)}


def _place_exists(
    cascade: Cascade, index: Access, place: str, fixed: dict[str, Expr], sizes: Mapping[str, int]
) -> Expr:
    """Return the condition that a place of a selection has been filled."""
    writer = cascade.einsum(index.tensor)
    arguments = {v: substitute(a, fixed) for v, a in _arguments(writer, index).items()}
    constant = {v: a for v, a in arguments.items() if not variables(a) and is_static(a)}
    return Compare(("<",), (Var(place), Num(_selected(cascade, writer, sizes, constant))))


def counted(
    cascade: Cascade, conditions: Sequence[Expr], space: tuple[str, ...], sizes: Mapping[str, int]
) -> int:
    """Return how many points of a space satisfy those conditions that speak of it alone."""
    parts = [c for c in conditions if set(variables(c)) <= set(space)]
    numbers = numbers_of(cascade, sizes)
    fixed = [c for c in parts if not variables(c)]
    if fixed and not any_term(alternatives(fixed), {}, numbers, 1).all():
        return 0
    merged, extents = merged_splits(cascade, [c for c in parts if variables(c)], space, sizes)
    return count(merged, extents, numbers)


def _projected(
    cascade: Cascade,
    conditions: Sequence[Expr],
    kept: Sequence[str],
    space: tuple[str, ...],
    sizes: Mapping[str, int],
) -> int:
    """Return at least how many values of some variables occur where all conditions hold."""
    parts = [c for c in conditions if set(variables(c)) <= set(space)]
    merged, extents = merged_splits(cascade, parts, space, sizes)
    left = [v for v in kept if v in extents]
    left += [v for v in extents if v not in space and v not in left and _covers(cascade, v, kept)]
    numbers = numbers_of(cascade, sizes)
    together = [group for _, group in components(deciding(merged, extents, numbers))]
    loose = [g for g in together if not any(set(variables(p)) & set(left) for p in g)]
    if not all(_satisfiable(g, extents, numbers) for g in loose):
        return 0
    bound = [p for g in together if g not in loose for p in g]
    return projection(bound, left, extents, numbers)


def _satisfiable(group: Sequence[Expr], extents: Mapping[str, int], numbers: Mapping[str, float]) -> bool:
    """Tell whether some point satisfies all predicates; ends and middles are tried before all points are."""
    names = list(dict.fromkeys(v for p in group for v in variables(p)))
    tried = [np.unique([0, (extents[v] - 1) // 2, extents[v] - 1]) for v in names[:_MOST_TRIED]]
    tried += [np.array([0])] * (len(names) - len(tried))
    grid = {v: g.ravel() for v, g in zip(names, np.meshgrid(*tried, indexing="ij"), strict=True)}
    length = math.prod(len(t) for t in tried)
    if any_term(alternatives(group), grid, numbers, length).any():
        return True
    # One variable is solved for; beyond so many points of the others nothing is claimed.
    mine = {v: extents[v] for v in names}
    if math.prod(mine.values()) > _MOST_SOLVED * max(mine.values(), default=1):
        return False
    return projection(group, (), mine, numbers) > 0


def _covers(cascade: Cascade, variable: str, told: Sequence[str]) -> bool:
    """Tell whether some variables are all the digits of one that stands for a split rank."""
    parts = cascade.splits.get(rank_of(variable), ())
    return bool(parts) and all(
        any(p in (rank_of(v), cascade.aliases.get(rank_of(v))) for v in told) for p in parts
    )
