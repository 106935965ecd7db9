"""Which elements of what is computed some output needs: a machine need not make the others.

`O[f] = H[f, 0]` needs one column of H, and of what H is made from whatever that column reads. Demands err to the side
of fewer elements, so that a bound stays a bound.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..cascade import Cascade
from ..declarations import rank_of, variable_of
from ..einsum import Einsum
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, substitute, variables
from .forks import how_many, too_many
from .indices import fits, is_digit, unshifted
from .intervals import alternatives, any_term, number
from .points import numbers_of, required
from .predicates import conjuncts, deciding, is_static, joined
from .reach import existing, reads_of
from .reshapes import reshapes

# All existing elements that satisfy these conditions on the variables of the target are needed.
Demand = tuple[Expr, ...]
# An Einsum: its name, and whether it gives the first value of a state.
Key = tuple[str, bool]
# Demands that are followed for one Einsum; each holds, more are only tighter.
MOST_DEMANDS = 8
# Stands behind the names of a writer's variables where those of a reader may be the same.
MARK = "'"
# Points of a reader that are listed to see whether they reach all of a tensor.
MOST_LISTED = 2**20
# Alternatives in one predicate; others that it is joined with multiply them.
MOST_TERMS = 4


def demands(cascade: Cascade, sizes: Mapping[str, int]) -> Mapping[Key, tuple[Demand, ...]]:
    """Return what is surely needed of each Einsum that some output needs; one demand or another, not their sum.

    Args:
        sizes: of every rank.

    >>> from einsum_cascade import zoo
    >>> demands(zoo.load("attention_3pass"), {"E": 2, "F": 2, "M": 4, "P": 4})["QK", False]
    ((),)
    """
    return _demands(cascade, tuple(sizes.items()))


@functools.lru_cache(maxsize=16)
def _demands(cascade: Cascade, sizes_of: tuple[tuple[str, int], ...]) -> Mapping[Key, tuple[Demand, ...]]:
    sizes = dict(sizes_of)
    found: dict[Key, dict[Demand, None]] = {}
    for s in cascade.outputs:
        found[s.tensor, False] = {(): None}
        if s.tensor in cascade.states:
            found[s.tensor, True] = {(): None}
    statements = list(cascade.statements)
    exists = [existing(cascade, e) for e, _ in statements]
    # What a block reads of its states was made by statements further down, in an earlier generation.
    for _ in range(2 if cascade.states else 1):
        for (einsum, block), here in reversed(list(zip(statements, exists, strict=True))):
            key = (einsum.name, block is None and einsum.name in cascade.states)
            if found.get(key):
                _ask(cascade, einsum, tuple(found[key]), here, sizes, found)
    return {k: _together(tuple(d)) for k, d in found.items()}


def _together(demands: tuple[Demand, ...]) -> tuple[Demand, ...]:
    """Return one demand for several, for all that any of them asks for is needed."""
    if len(demands) < 2 or sum(map(how_many, demands)) > MOST_TERMS:
        return demands
    return ((joined("or", [joined("and", d) for d in demands]),),)


def _ask(
    cascade: Cascade,
    einsum: Einsum,
    asked: tuple[Demand, ...],
    exists: tuple[Expr, ...],
    sizes: Mapping[str, int],
    found: dict[Key, dict[Demand, None]],
) -> None:
    """Note what the elements that are needed of one Einsum need of others."""
    roots = [einsum.value, *conjuncts(einsum.where), *einsum.target.indices]
    for access, taken in dict.fromkeys(r for root in roots for r in reads_of(cascade, root)):
        for writer, initial in writers(cascade, access.tensor):
            known = found.setdefault((writer.name, initial), {})
            for demand in asked:
                if () in known:
                    break
                conditions = dict.fromkeys((*demand, *exists, *taken))
                inside = [c for c in conditions if set(variables(c)) <= set(einsum.variables)]
                if _covered(cascade, access, inside, sizes):
                    _note(cascade, known, (), writer, sizes)
                    break
                for passed_on in _through(cascade, inside, access, writer):
                    _note(cascade, known, passed_on, writer, sizes)


def _covered(cascade: Cascade, access: Access, conditions: Sequence[Expr], sizes: Mapping[str, int]) -> bool:
    """Tell whether an access reaches each element of a tensor, by trying all its indices; False where too many."""
    signature = cascade.signatures[access.tensor]
    axes = list(enumerate(zip(signature.ranks, access.indices, strict=True)))
    alone = [a for a, axis in axes if a != signature.state and fits(cascade, *axis)]
    plain = len(alone) == len(axes)
    # An axis that is run over by variables of its own is reached whatever the others do.
    read = Counter(v for v in itertools.chain(*(set(variables(i)) for i in (*access.indices, *conditions))))
    tried = [(a, axis) for a, axis in axes if a not in alone or any(read[v] > 1 for v in variables(axis[1]))]
    names = tuple(dict.fromkeys(v for _, (_, i) in tried for v in variables(i)))
    extents = [sizes[r] + (a == signature.state) for a, (r, _) in tried]
    numbers = numbers_of(cascade, sizes)
    ranges = {v: sizes[rank_of(v)] for v in itertools.chain(names, *map(variables, conditions))}
    conditions = deciding(conditions, ranges, numbers)
    if not conditions and reshapes([i for _, (_, i) in tried], extents, ranges, numbers):
        return True
    if (
        plain
        or too_many(conditions)
        or any(map(accesses, access.indices))
        or math.prod(sizes[rank_of(v)] for v in names) > MOST_LISTED
        or any(set(variables(c)) - set(names) for c in conditions if variables(c))
    ):
        return not conditions and plain
    length = math.prod(sizes[rank_of(v)] for v in names)
    if math.prod(extents) > length:
        return False  # more elements than points that read one each
    grid = dict(
        zip(names, np.meshgrid(*(np.arange(sizes[rank_of(v)]) for v in names), indexing="ij"), strict=True)
    )
    grid = {v: g.ravel() for v, g in grid.items()}
    holds = any_term(alternatives(conditions), grid, numbers, length)
    places = np.zeros(length)
    for extent, (_, (_, index)) in zip(extents, tried, strict=True):
        at = np.broadcast_to(number(index, grid, numbers), (length,))
        holds = holds & (at >= 0) & (at < extent)
        places = places * extent + at
    reached = np.zeros(math.prod(extents), dtype=np.bool_)
    reached[places[holds].astype(np.int64)] = True
    return bool(reached.all())


def _note(
    cascade: Cascade, known: dict[Demand, None], demand: Demand, writer: Einsum, sizes: Mapping[str, int]
) -> None:
    """Add a demand to those known of an Einsum, without what always holds, unless another asks for as much."""
    exists = existing(cascade, writer)
    extents = {v: sizes[rank_of(v)] for v in writer.output_variables}
    numbers = numbers_of(cascade, sizes)
    left = deciding([c for c in demand if c not in exists], extents, numbers)
    constant = [c for c in left if not variables(c)]
    if constant and not any_term(alternatives(constant), {}, numbers, 1).all():
        return
    left = tuple(c for c in left if variables(c))
    if any(set(d) <= set(left) for d in known) or too_many(left, MOST_TERMS):
        return
    for d in [d for d in known if set(left) <= set(d)]:
        del known[d]
    if len(known) < MOST_DEMANDS:
        known[left] = None


def writers(cascade: Cascade, tensor: str) -> Iterator[tuple[Einsum, bool]]:
    """Yield the Einsums that define a tensor; True with the one that gives the first value of a state."""
    for einsum, block in cascade.statements:
        if einsum.name == tensor:
            yield einsum, block is None and tensor in cascade.states


def _through(
    cascade: Cascade, conditions: Sequence[Expr], access: Access, writer: Einsum
) -> Iterator[Demand]:
    """Yield demands on the writer of an access: for each of its elements a point of the reader that reads it."""
    state = cascade.signatures[access.tensor].state
    selected = {r.into for r in writer.reductions if r.into}
    at: dict[str, Expr] = {}
    needs: list[Expr] = []
    # Places of the writer are marked, for the reader may use the same names for other things.
    marked: dict[str, Expr] = {v: Var(v + MARK) for v in writer.output_variables}
    targets = [substitute(t, marked) for t in writer.target.indices]
    axes = list(zip(cascade.signatures[access.tensor].ranks, access.indices, targets, strict=True))
    at |= _joined_digits(cascade, axes)
    # Indices that run over an axis first: they tell the most.
    for rank, index, place in sorted(axes, key=lambda a: not fits(cascade, a[0], a[1])):
        axis = access.indices.index(index)
        if axis == state and index == Size(rank) and _chained(cascade, access.tensor):
            continue  # the last generation needs all before it
        if isinstance(place, Var) and _plain(place).name in selected:
            continue  # a selection makes all its places at once
        if accesses(index):
            # Where data lead is not known; all of them may lead to one place.
            needs.append(Compare(("==",), (place, Num(0))))
            continue
        if not (is_digit(cascade, rank, index) and set(variables(index)) <= at.keys()):
            needs += _solved(cascade, rank, index, place, at)
    told = (*conditions, *needs, *at.values())
    names = dict.fromkeys(v for c in told for v in variables(c))
    open_names = [v for v in names if v not in at and not v.endswith(MARK)]
    places = [t for t in targets if isinstance(t, Var)]
    tried: list[list[Expr]] = [[Apply("-", (Size(rank_of(v)), Num(1))), Num(0), *places] for v in open_names]
    for choice in itertools.islice(itertools.product(*tried), MOST_DEMANDS):
        chosen: dict[str, Expr] = dict(zip(open_names, choice, strict=True))
        inside = [c for v, g in chosen.items() if isinstance(g, Var) for c in _within(cascade, v, g)]
        full = {**{v: substitute(g, chosen) for v, g in at.items()}, **chosen}
        made = [substitute(c, full) for c in conditions] + [substitute(n, chosen) for n in needs] + inside
        back: dict[str, Expr] = {v + MARK: Var(v) for v in writer.output_variables}
        yield tuple(dict.fromkeys(substitute(c, back) for c in made if is_static(c)))


def _chained(cascade: Cascade, state: str) -> bool:
    """Tell whether every element of a generation needs its own element of the one before, at once or by others."""
    update = cascade.einsum(state)
    block = str(cascade.block_of(state))
    axis = cascade.signatures[state].state
    before = Access(state, tuple(Var(block) if i == axis else t for i, t in enumerate(update.target.indices)))
    open_reads = list(required(update.value))
    done: set[Access] = set()
    while open_reads:
        access = open_reads.pop()
        if access == before or (access.tensor == state and _whole(cascade, access, before)):
            return True
        if access in done or cascade.block_of(access.tensor) != block or access.tensor in cascade.states:
            continue
        done.add(access)
        writer = cascade.einsum(access.tensor)
        pairs = zip(writer.target.indices, access.indices, strict=True)
        at = {t.name: i for t, i in pairs if isinstance(t, Var)}
        found = required(writer.value)
        open_reads += [r for r in (substitute(a, at) for a in found) if isinstance(r, Access)]
    return False


def _whole(cascade: Cascade, access: Access, before: Access) -> bool:
    """Tell whether an access reads all of the generation before, whatever else a predicate may remove."""
    signature = cascade.signatures[access.tensor]
    update = cascade.einsum(access.tensor)
    told = {*update.output_variables, *(v for c in existing(cascade, update) for v in variables(c))}
    pairs = zip(signature.ranks, access.indices, before.indices, strict=True)
    return all(
        index == own or (fits(cascade, rank, index) and not set(variables(index)) & told)
        for rank, index, own in pairs
    )


def _solved(cascade: Cascade, rank: str, index: Expr, place: Expr, at: dict[str, Expr]) -> list[Expr]:
    """Note values of the reader's variables at which an index is a place; return what must hold for it.

    Any value may be tried, for that the index is the place is part of what must hold. What another value was written
    with stays as it is there.
    """
    used = {v for value in at.values() for v in variables(value)}
    fresh = [v for v in variables(index) if v not in at and v not in used]
    if isinstance(index, Var) and fresh:
        at[index.name] = place
        return _within(cascade, index.name, place)
    if fits(cascade, rank, index) and len(fresh) == len(variables(index)) and isinstance(place, Var):
        run, shift = unshifted(index)
        found = place if run == index else Apply("%", (Apply("-", (place, shift)), Size(rank)))
        if isinstance(run, Var):
            at[run.name] = found
            return []
        return _split(cascade, rank, run, found, at)
    own = variable_of(rank)
    needs: list[Expr] = []
    if own in fresh and len(fresh) > 1:
        at[own] = place
        fresh.remove(own)
    if fresh:
        v = fresh[0]
        at[v] = _inverse(index, v, place, at)
        needs += _within(cascade, v, at[v])
    return [Compare(("==",), (substitute(index, at), place)), *needs]


def _inverse(node: Expr, variable: str, place: Expr, at: dict[str, Expr]) -> Expr:
    """Return a value at which an expression is a place, if there is one that is easily found."""
    if not isinstance(node, Apply) or sum(variable in variables(a) for a in node.args) != 1:
        return place
    left, *others = node.args
    inside = variable in variables(left)
    other = substitute(others[0] if inside else left, at) if others else None
    inner = left if inside or other is None else others[0]
    if other is not None:
        match node.op:
            case "+":
                place = Apply("-", (place, other))
            case "-":
                place = Apply("+" if inside else "-", (place, other) if inside else (other, place))
            case "*":
                place = Apply("//", (place, other))
            case "//":
                place = Apply("*", (place, other))
    elif node.op == "neg":
        place = Apply("neg", (place,))
    return _inverse(inner, variable, place, at)


def _joined_digits(cascade: Cascade, axes: Sequence[tuple[str, Expr, Expr]]) -> dict[str, Expr]:
    """Return m = m1*M0 + m0 for an access by `m // M0` and `m % M0`, in terms of the places."""
    digits = {i: place for rank, i, place in axes if is_digit(cascade, rank, i)}
    found: dict[str, Expr] = {}
    for index, place in digits.items():
        assert isinstance(index, Apply) and isinstance(index.args[0], Var)
        other = digits.get(Apply("%", index.args))
        if index.op == "//" and other is not None:
            found[index.args[0].name] = Apply("+", (Apply("*", (place, index.args[1])), other))
    return found


def _split(cascade: Cascade, rank: str, index: Expr, rest: Expr, at: dict[str, Expr]) -> list[Expr]:
    parts = cascade.splits[rank]
    names = {
        p: v for p in parts for v in variables(index) if p in (rank_of(v), cascade.aliases.get(rank_of(v)))
    }
    for part in reversed(parts[1:]):
        at[names[part]] = Apply("%", (rest, Size(part)))
        rest = Apply("//", (rest, Size(part)))
    at[names[parts[0]]] = rest
    return []


def _plain(place: Var) -> Var:
    return Var(place.name.removesuffix(MARK))


def _within(cascade: Cascade, variable: str, value: Expr) -> list[Expr]:
    """Return the conditions that a value of a variable is one of its own."""
    rank = rank_of(variable)
    if isinstance(value, Var) and fits(cascade, rank, _plain(value)):
        return []
    return [Compare(("<=",), (Num(0), value)), Compare(("<",), (value, Size(rank)))]
