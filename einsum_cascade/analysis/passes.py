"""How many times the elements of a rank must be visited, and the chain of Einsums that forces it.

Source: the definition of a pass of FuseMax (MICRO 2024, sec. III), extended to split ranks, states, gathers and walks
in the other direction.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..cascade import Cascade, require
from ..declarations import rank_of
from ..einsum import Einsum
from ..expr import Access, Apply, Compare, Expr, Num, Var, index_variables
from .points import live_parts
from .streams import RankView, runs_backward, view, walkers


@dataclass(frozen=True)
class Passes:
    """The passes that a cascade makes over one rank.

    Attributes:
        count: the number of passes.
        levels: the pass in which each Einsum visits elements of the rank; one that works on summaries has none.
        summaries: for the others, the time at which their value is there: 1.5 is after the first pass.
        chain: the Einsums that force the last pass, each waiting for the one before.
    """

    cascade: str
    rank: str
    count: int
    levels: Mapping[str, int]
    summaries: Mapping[str, float]
    chain: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return the fields that the command prints."""
        return {"passes": self.count, "levels": dict(self.levels), "chain": list(self.chain)}

    def rows(self) -> list[tuple[str, str]]:
        """Return one row an Einsum: its name and when it runs, in words."""
        rows = [(name, f"pass {k}") for name, k in self.levels.items()]
        return rows + [(name, _moment(t)) for name, t in self.summaries.items()]

    def __str__(self) -> str:
        title = f"{self.cascade}: {self.count} {'pass' if self.count == 1 else 'passes'} over {self.rank}"
        width = max((len(n) for n, _ in self.rows()), default=0)
        body = [f"  {name:<{width}}  {when}" for name, when in self.rows()]
        return "\n".join([title, *body, f"  forced by {' -> '.join(self.chain)}"])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td style='text-align:left'>{html.escape(name)}</td><td style='text-align:left'>{when}</td></tr>"
            for name, when in self.rows()
        )
        chain = " &rarr; ".join(map(html.escape, self.chain))
        title = (
            f"<b>{html.escape(self.cascade)}</b>: passes over {html.escape(self.rank)}: <b>{self.count}</b>"
        )
        return f"<p>{title}</p><table>{cells}</table><p>forced by {chain}</p>"


@dataclass(frozen=True, slots=True)
class _Time:
    """When a tensor is there.

    Attributes:
        streams: 0 for inputs, k while it streams during pass k, k + 1/2 once pass k has ended.
        anywhere: the same for an element asked for out of turn, computed anew from the inputs at that place.
        cause: the tensor that it waited for.
        selected: axes that go through elements that were selected from the rank; those of one selection together.
    """

    streams: float
    anywhere: float
    cause: str | None = None
    selected: frozenset[frozenset[int]] = frozenset()


_GIVEN = _Time(0.0, 0.0)


def passes(cascade: Cascade, rank: str) -> Passes:
    """Return the passes that a cascade makes over a rank.

    Args:
        rank: any rank of the cascade; of a split `M = M1 * M0` the elements are the points (m1, m0).

    Raises:
        CascadeError: the cascade has no such rank.

    >>> from einsum_cascade import zoo
    >>> passes(zoo.load("attention_3pass"), "M").chain
    ('QK', 'GM', 'SN', 'SD', 'A')
    >>> passes(zoo.load("attention_1pass"), "M").count, passes(zoo.load("attention_1pass"), "M0").count
    (1, 2)
    """
    require(cascade)
    key = ("passes", rank)
    if key not in cascade.derived:
        cascade.derived[key] = _passes(cascade, rank)
    found: Passes = cascade.derived[key]
    return found


def _passes(cascade: Cascade, rank: str) -> Passes:
    times, levels = _known_timeline(cascade, rank)
    einsums = cascade.einsums
    summaries = {e.name: times[e.name].streams for e in einsums if e.name not in levels}
    # A rank that nothing visits by name is still streamed once, by whatever reads the tensors that carry it.
    count = max(levels.values(), default=1)
    last = next((e.name for e in einsums if levels.get(e.name) == count), None)
    return Passes(cascade.name, rank, count, levels, summaries, _chain(times, last))


def all_passes(cascade: Cascade) -> dict[str, Passes]:
    """Return the passes over every rank that is reduced, be it by a reduction or by a state.

    >>> from einsum_cascade import zoo
    >>> {rank: p.count for rank, p in all_passes(zoo.load("attention_3pass")).items()}
    {'E': 1, 'M': 3}
    """
    require(cascade)
    return {rank: passes(cascade, rank) for rank in reduced_ranks(cascade)}


def reduced_ranks(cascade: Cascade) -> tuple[str, ...]:
    """Return the ranks over which something is gathered up, in order of declaration."""
    reduced = {rank_of(v) for e in cascade.einsums for v in e.reduced}
    reduced |= {rank_of(r.variables[0]) for e in cascade.einsums for r in e.reductions}
    iterated = {rank_of(block) for _, block in cascade.statements if block is not None}
    wholes = {w for w, parts in cascade.splits.items() if set(parts) & (reduced | iterated)}
    inner = {p for w in wholes for p in cascade.splits[w]}
    wanted = reduced | wholes | (iterated - inner)
    return tuple(r for r in cascade.rank_names if r in wanted)


def timeline(cascade: Cascade, rank: str) -> dict[str, float]:
    """Return for every tensor when it is there: 0, k while it streams in pass k, k + 1/2 after it."""
    return {name: t.streams for name, t in _known_timeline(cascade, rank)[0].items()}


def _known_timeline(cascade: Cascade, rank: str) -> tuple[Mapping[str, _Time], Mapping[str, int]]:
    """Return what `_timeline` does, worked out once for each rank of a cascade."""
    key = ("timeline", rank)
    if key not in cascade.derived:
        cascade.derived[key] = _timeline(cascade, view(cascade, rank))
    found: tuple[Mapping[str, _Time], Mapping[str, int]] = cascade.derived[key]
    return found


def _timeline(cascade: Cascade, seen: RankView) -> tuple[dict[str, _Time], dict[str, int]]:
    """Return the time of every tensor and the pass of every Einsum that visits elements.

    States make the equations circular; times only grow, so reading the statements again until nothing changes ends,
    at the latest after as many rounds as there are Einsums.
    """
    times = dict.fromkeys((s.tensor for s in cascade.inputs), _GIVEN)
    first: dict[str, _Time] = {}
    levels: dict[str, int] = {}
    states, statements = cascade.states, list(cascade.statements)
    walks = [walkers(cascade, einsum, seen) for einsum, _ in statements]
    rounds = 2 + len(statements) if states else 1
    for _ in range(rounds):
        before = dict(times)
        for (einsum, block), walking in zip(statements, walks, strict=True):
            time, level = _einsum_time(cascade, einsum, block, walking, seen, times, first)
            if block is None and einsum.name in states:
                first[einsum.name] = time
                times.setdefault(einsum.name, time)
                continue
            times[einsum.name] = time
            if level is not None:
                levels[einsum.name] = level
        if times == before:
            break
    return times, levels


def _einsum_time(
    cascade: Cascade,
    einsum: Einsum,
    block: str | None,
    walking: dict[str, frozenset[str]],
    seen: RankView,
    times: dict[str, _Time],
    first: dict[str, _Time],
) -> tuple[_Time, int | None]:
    """Return when an Einsum's tensor is there, and its pass if it visits elements."""
    if not walking and all(times.get(a.tensor) is _GIVEN for a in einsum.reads):
        return _GIVEN, None
    chosen = _selections(einsum, times)
    covered = frozenset().union(*walking.values())
    if chosen and seen.components[0] not in covered:
        walking = {}  # places inside selected blocks: the blocks are what is walked
    latest, anywhere = 0.0, 0.0
    cause: str | None = None
    variables = frozenset(walking)
    for access, moves in zip(einsum.reads, einsum.moves, strict=True):
        seen_at = _read_time(cascade, (einsum, access), moves, block, variables, seen, times, first)
        anywhere = max(anywhere, seen_at.anywhere)
        if seen_at.streams > latest:
            latest, cause = seen_at.streams, access.tensor
    visits = len(covered) == len(seen.components) or _gathers(cascade, einsum, seen, times)
    level = max(1, math.ceil(latest)) if visits else None
    out = float(level) if level is not None else latest
    left = any(v in walking for v in einsum.output_variables)
    if _has_ended(einsum, walking, chosen, visits=visits):
        out = math.floor(out) + 0.5
    recomputed = block is None and left
    axes = _selected_axes(einsum, walking, chosen)
    return _Time(out, anywhere if recomputed else _ended(out), cause, axes), level


def _selections(einsum: Einsum, times: Mapping[str, _Time]) -> set[frozenset[str]]:
    """Return the variables by which an Einsum goes through selected elements of the rank, those of one index together.

    A selection that is gathered (`K[e, I[p, j]]`) streams along its own rank (j): what is reduced over j while it does
    is no further visit, and what waits for all of j is.
    """
    found: set[frozenset[str]] = set()
    for access, moves in zip(einsum.reads, einsum.moves, strict=True):
        time = times.get(access.tensor)
        for axes in time.selected if time is not None else ():
            found.add(_along(moves, axes))
    return found - {frozenset()}


def _along(moves: tuple[frozenset[str], ...], axes: Iterable[int]) -> frozenset[str]:
    """Return the variables by which an access moves along some axes."""
    return frozenset().union(*(moves[axis] for axis in axes))


def _has_ended(
    einsum: Einsum,
    walking: Mapping[str, frozenset[str]],
    chosen: set[frozenset[str]],
    *,
    visits: bool,
) -> bool:
    """Tell whether what an Einsum defines is there only when all elements were seen."""
    kept = set(einsum.output_variables)
    if walking:
        return not kept & set(walking)
    return any(not group & kept for group in chosen) or (visits and not chosen)


def _selected_axes(
    einsum: Einsum, walking: Mapping[str, frozenset[str]], chosen: set[frozenset[str]]
) -> frozenset[frozenset[int]]:
    """Return the axes of an Einsum's tensor that go through selected elements of the rank, by selection."""
    made = {r.into for r in einsum.reductions if r.into is not None and set(r.variables) & set(walking)}
    groups = chosen | {frozenset((v,)) for v in made}
    if not groups:
        return frozenset()
    moves = [(axis, index_variables(index)) for axis, index in enumerate(einsum.target.indices)]
    found = {frozenset(axis for axis, moved in moves if moved & group) for group in groups}
    return frozenset(found - {frozenset()})


def _ended(time: float) -> float:
    """Return when a value that streams is complete; inputs and summaries are so at once."""
    return time + 0.5 if time > 0 and time == int(time) else time


def _read_time(
    cascade: Cascade,
    read: tuple[Einsum, Access],
    moves: tuple[frozenset[str], ...],
    block: str | None,
    walking: frozenset[str],
    seen: RankView,
    times: dict[str, _Time],
    first: dict[str, _Time],
) -> _Time:
    """Return when what an Einsum reads by an access is there."""
    einsum, access = read
    name = access.tensor
    time = times.get(name) or first.get(name) or _GIVEN
    signature = cascade.signatures[name]
    if signature.state is not None:
        index = access.indices[signature.state]
        own_rank = signature.ranks[signature.state] in seen.components
        start = first.get(name, _GIVEN)
        if index == Num(0):
            return start
        if block is not None and index == Var(block) and not own_rank:
            return start  # passes are counted per generation
    if time.streams == 0 or time.streams != int(time.streams):
        return time
    moving = walking.intersection(frozenset().union(*moves)) if walking else walking
    chosen = [_along(moves, axes) for axes in time.selected]
    # An Einsum that walks the rank itself asks for the selection in another order, and so for all of it.
    if chosen and all(chosen) and not walking:
        moving |= frozenset().union(*chosen)
    if not moving:
        if not _through_alias(cascade, access, moves, seen):
            return _Time(time.streams + 0.5, time.anywhere)
        passed = time.anywhere > time.streams and _has_passed(cascade, einsum, access, walking, seen)
        return time if passed else _Time(time.anywhere, time.anywhere)
    for rank, index in zip(signature.ranks, access.indices, strict=True):
        if rank in seen.wholes and runs_backward(index, walking):
            return _Time(time.streams + 0.5, time.anywhere)
    return time


def _through_alias(
    cascade: Cascade, access: Access, moves: tuple[frozenset[str], ...], seen: RankView
) -> bool:
    """Tell whether an element is asked for by a variable of another name of the rank: `Q[e, p]` of `Q[E, M]`."""
    names = {alias for alias, _ in seen.aliases} | {cascade.aliases.get(r, "") for r in seen.components}
    ranks = cascade.signatures[access.tensor].ranks
    return any(
        rank in seen.wholes and any(rank_of(v) in names for v in moved)
        for rank, moved in zip(ranks, moves, strict=True)
    )


def _has_passed(
    cascade: Cascade, einsum: Einsum, access: Access, walking: frozenset[str], seen: RankView
) -> bool:
    """Tell whether a place under a second name is one that the walk has reached: `C[s + 1]` where s <= t, at t."""
    if len(seen.components) != 1:
        return False
    signature = cascade.signatures[access.tensor]
    reached: set[Expr] = set()
    for earlier, later in _in_order(live_parts(cascade, einsum)):
        if isinstance(later, Var) and later.name in walking and isinstance(earlier, Var):
            reached.add(earlier)
    for axis, (rank, index) in enumerate(zip(signature.ranks, access.indices, strict=True)):
        if rank not in seen.wholes:
            continue
        # The state that generation s leaves is s + 1.
        place = index
        if (
            axis == signature.state
            and isinstance(index, Apply)
            and index.op == "+"
            and index.args[1] == Num(1)
        ):
            place = index.args[0]
        if place not in reached:
            return False
    return True


def _in_order(parts: Iterable[Expr]) -> Iterator[tuple[Expr, Expr]]:
    """Yield pairs of which conditions say that the first is at most the second."""
    for part in parts:
        if not isinstance(part, Compare):
            continue
        for op, left, right in zip(part.ops, part.args, part.args[1:], strict=False):
            if op not in ("<", "<=", ">", ">="):
                continue
            low, high = (left, right) if op in ("<", "<=") else (right, left)
            yield low, high
            if low == Num(0) and isinstance(high, Apply) and high.op == "-":
                yield high.args[1], high.args[0]


def _gathers(cascade: Cascade, einsum: Einsum, seen: RankView, times: dict[str, _Time]) -> bool:
    """Tell whether an Einsum fetches elements of the rank through an index that was computed from the rank."""
    return any(
        cascade.signatures[access.tensor].ranks[axis] in seen.wholes
        and any(times[t].streams > 0 for t in tensors)
        for access, axis, tensors in einsum.gathers
    )


def _chain(times: Mapping[str, _Time], last: str | None) -> tuple[str, ...]:
    chain: list[str] = []
    while last is not None and last not in chain:
        chain.append(last)
        last = times[last].cause
    return tuple(reversed(chain))


def _moment(time: float) -> str:
    if time == 0:
        return "before the first pass"
    if time == int(time):
        return f"summary, during pass {int(time)}"
    return f"summary, after pass {int(time)}" if time >= 1 else "summary of inputs"
