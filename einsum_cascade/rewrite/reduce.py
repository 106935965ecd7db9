"""Fewer passes, found by the tool: a search over the rules, each result checked by the evaluator."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..analysis.passes import passes
from ..analysis.streams import view, walkers
from ..cascade import Cascade
from ..declarations import rank_of
from .apart import online_apart
from .corrections import obstacles_to
from .elements import level_of, settlings
from .equality import Trials
from .exchange import exchanges
from .fetch import fetches, out_of_turn
from .hoist import hoists, mixing
from .local import locally
from .online import online
from .reasons import reasons
from .reduction import Reduction, Step
from .separate import Rewritten, separations
from .shift import shifts
from .turn import turns
from .whole import with_signature_of

# No cascade of the literature takes more than a dozen; a rule that went in circles would be stopped here. What is
# unrolled, heads or steps of a recurrence, takes some for each.
MOST_STEPS = 40


Measure = Callable[[Cascade, str], int]


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to rewrite: every cascade it can make of one, for the search to choose from."""

    name: str
    apply: Callable[[Cascade, str], Iterator[Rewritten]]


def _online(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    for settled in settlings(cascade, rank):
        for rule in (online, online_apart):
            found = rule(cascade, rank, settled)
            if isinstance(found, Rewritten):
                yield found
                break


def _separate(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    return (found for found in separations(cascade, rank) if not found.cancels)


def _subtract(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    return (found for found in separations(cascade, rank) if found.cancels)


SHIFT = Rule("shift", shifts)
SEPARATE = Rule("separate", _separate)
HOIST = Rule("hoist", hoists)
FETCH = Rule("fetch", fetches)
TURN = Rule("turn", turns)
ONLINE = Rule("online", _online)
EXCHANGE = Rule("exchange", exchanges)
LOCAL = Rule("local", locally)
SUBTRACT = Rule("subtract", _subtract)


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to search: the rules in order, and what counts as better.

    Attributes:
        measures: of a cascade along a rank; each step makes the first of those that change smaller.
    """

    rules: tuple[Rule, ...]
    measures: tuple[Measure, ...]


def _count(cascade: Cascade, rank: str) -> int:
    return passes(cascade, rank).count


def _obstacles(cascade: Cascade, rank: str) -> int:
    """Return how many reductions nothing can correct."""
    return len(obstacles_to(cascade, rank))


def _waiting(cascade: Cascade, rank: str) -> int:
    return sum(level - 1 for level in level_of(cascade, rank).values())


# What the search makes small: passes, reductions that nothing can correct, waiting, sums that mix.
_COST: tuple[Measure, ...] = (_count, _obstacles, _waiting, mixing)
# The same, with the elements that are asked for out of turn: fetching one may free the next.
_PATIENT_COST = (*_COST, out_of_turn)


# Tried in this order until one pass is left. In each what only moves a factor comes before what changes the walk; what
# costs more or loses digits is asked sooner only in a later one: sums that are subtracted, one sum for each h of a sum
# over H, elements that are fetched though nothing is gained at once.
STRATEGIES = (
    Strategy((SHIFT, SEPARATE, HOIST, FETCH, TURN, ONLINE, LOCAL, SUBTRACT), _COST),
    Strategy((SHIFT, SEPARATE, SUBTRACT, HOIST, FETCH, TURN, ONLINE, LOCAL), _COST),
    Strategy((SHIFT, SEPARATE, HOIST, FETCH, EXCHANGE, TURN, ONLINE, LOCAL, SUBTRACT), _COST),
    Strategy((SHIFT, SEPARATE, HOIST, FETCH, EXCHANGE, TURN, ONLINE, LOCAL, SUBTRACT), _PATIENT_COST),
)


def reduce_passes(cascade: Cascade, rank: str) -> Reduction:
    """Return an equal cascade with the fewest passes over a rank that the rules can reach, outputs of the same shape.

    Every rewrite is evaluated against the original at small random sizes, on ordinary inputs and on inputs so large
    that an unstable form would overflow, before it is accepted. Where elements are selected from the rank (`topk`),
    the rank of the selection is searched too: a softmax over it that runs online saves the visits in which the
    selected elements are fetched again.

    Args:
        rank: where it is split, its parts are called M1 and M0.

    Raises:
        CascadeError: the cascade has no such rank.

    >>> from einsum_cascade import zoo
    >>> found = reduce_passes(zoo.load("attention_3pass"), "M")
    >>> found.before, found.after, [s.rule for s in found.steps]
    (3, 1, ['defer', 'online'])
    """
    before = passes(cascade, rank).count
    known = _Known(cascade)
    path = _best(known, cascade, rank)
    for selected in _selected_ranks(cascade, rank):
        here = path[-1].cascade if path else cascade
        if passes(here, rank).count > 1:
            path += _best(known, here, rank, along=selected)
    stages, steps = [cascade], []
    for found in path:
        shaped = with_signature_of(cascade, found.cascade, rank)
        count = passes(shaped, rank).count
        summary = f"Found from {cascade.name}: {count} {'pass' if count == 1 else 'passes'} over {rank}."
        stages.append(replace(shaped, name=_named(cascade, rank), summary=summary))
        steps.append(Step(found.rule, found.einsum, found.why))
    current = stages[-1]
    after = passes(current, rank).count
    # Told of what the rules came to, without the Einsums that only lay it out.
    last = path[-1].cascade if path else cascade
    stuck = tuple(reasons(last, rank)) if after > 1 else ()
    return Reduction(rank, current, before, after, tuple(steps), stuck, tuple(stages))


def _named(cascade: Cascade, rank: str) -> str:
    suffix = f"_{rank.lower()}_reduced"
    return cascade.name if cascade.name.endswith(suffix) else cascade.name + suffix


def _selected_ranks(cascade: Cascade, rank: str) -> tuple[str, ...]:
    """Return the ranks of what is selected from a rank: J of `topk(m -> j)`."""
    seen = view(cascade, rank)
    found = {}
    for einsum in cascade.einsums:
        walking = walkers(cascade, einsum, seen)
        for r in einsum.reductions:
            if r.into is not None and set(r.variables) & set(walking):
                found[rank_of(r.into)] = True
    return tuple(found)


class _Known:
    """What the strategies of one search have found out, so that none asks again; local to one call."""

    def __init__(self, original: Cascade) -> None:
        self._trials = Trials(original)
        self._made: dict[tuple[Cascade, str, str], tuple[list[Rewritten], Iterator[Rewritten]]] = {}
        self._equal: dict[tuple[Cascade, str], bool] = {}
        self._measured: dict[tuple[Cascade, str, Measure], int] = {}

    def made(self, rule: Rule, cascade: Cascade, rank: str) -> Iterator[Rewritten]:
        """Yield what a rule makes of a cascade, each made when it is first asked for."""
        key = cascade, rule.name, rank
        if key not in self._made:
            self._made[key] = [], rule.apply(cascade, rank)
        found, more = self._made[key]
        for place in itertools.count():
            if place == len(found):
                following = next(more, None)
                if following is None:
                    return
                found.append(following)
            yield found[place]

    def is_better(self, one: Cascade, other: Cascade, rank: str, measures: tuple[Measure, ...]) -> bool:
        """Tell whether the first measure in which two cascades differ is smaller; no further one is taken."""
        for measure in measures:
            mine, theirs = self._measure(one, rank, measure), self._measure(other, rank, measure)
            if mine != theirs:
                return mine < theirs
        return False

    def is_equal(self, cascade: Cascade, rank: str) -> bool:
        """Tell whether a cascade gives what the original does."""
        key = cascade, rank
        if key not in self._equal:
            self._equal[key] = self._trials.hold(cascade, rank)
        return self._equal[key]

    def is_confirmed(self, cascade: Cascade, rank: str) -> bool:
        """Tell whether a result is equal to the original when all of it is evaluated anew, and remember if not."""
        self._equal[cascade, rank] = self._trials.confirm(cascade, rank)
        return self._equal[cascade, rank]

    def _measure(self, cascade: Cascade, rank: str, measure: Measure) -> int:
        key = cascade, rank, measure
        if key not in self._measured:
            self._measured[key] = measure(cascade, rank)
        return self._measured[key]


def _best(known: _Known, start: Cascade, rank: str, *, along: str = "") -> list[Rewritten]:
    """Return the path to the fewest passes over a rank, of equal ones that of the first strategy.

    Args:
        along: the rank that is rewritten, if it is another one.
    """
    found: list[Rewritten] = []
    fewest = passes(start, rank).count
    for strategy in STRATEGIES:
        if fewest == 1:
            break
        path = _worthwhile(start, rank, _search(known, start, along or rank, strategy))
        while path and not known.is_confirmed(path[-1].cascade, along or rank):
            path = _worthwhile(start, rank, _search(known, start, along or rank, strategy))
        count = passes(path[-1].cascade, rank).count if path else fewest
        if count < fewest:
            found, fewest = path, count
    return found


def _search(known: _Known, start: Cascade, rank: str, strategy: Strategy) -> list[Rewritten]:
    """Return the rules applied one after the other, each the first that improves on what there is."""
    path: list[Rewritten] = []
    current = start
    while passes(current, rank).count > 1 and len(path) < max(MOST_STEPS, len(start.einsums)):
        found = _improved(known, current, rank, strategy)
        if found is None:
            break
        path.append(found)
        current = found.cascade
    return path


def _worthwhile(start: Cascade, rank: str, path: list[Rewritten]) -> list[Rewritten]:
    """Return a path as far as its last step that saves a pass: what only moved factors about is not worth it."""
    counts = [passes(start, rank).count, *(passes(found.cascade, rank).count for found in path)]
    return path[: counts.index(min(counts))]


def _improved(known: _Known, current: Cascade, rank: str, strategy: Strategy) -> Rewritten | None:
    """Return the first result of a rule that is better than what there is, and equal to the original."""
    for rule in strategy.rules:
        for candidate in known.made(rule, current, rank):
            better = known.is_better(candidate.cascade, current, rank, strategy.measures)
            if better and known.is_equal(candidate.cascade, rank):
                return candidate
    return None
