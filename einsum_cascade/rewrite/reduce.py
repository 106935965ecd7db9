"""Fewer passes, found by the tool: a search over the rules, each result checked by the evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..analysis.passes import passes
from ..analysis.streams import view, walkers
from ..cascade import Cascade
from ..declarations import rank_of
from .apart import online_apart
from .corrections import obstacles_to
from .elements import level_of, settlings
from .equality import equal
from .exchange import exchanges
from .fetch import fetches, out_of_turn
from .hoist import hoists, mixing
from .online import online
from .reasons import reasons
from .reduction import Reduction, Step
from .separate import Rewritten, separations
from .shift import shifts
from .whole import with_signature_of

# No cascade of the literature takes more than a dozen; a rule that went in circles would be stopped here.
MOST_STEPS = 40


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
ONLINE = Rule("online", _online)
EXCHANGE = Rule("exchange", exchanges)
SUBTRACT = Rule("subtract", _subtract)


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to search: the rules in order, and what counts as better.

    Attributes:
        cost: of a cascade along a rank; each step makes it smaller.
    """

    rules: tuple[Rule, ...]
    cost: Callable[[Cascade, str], tuple[int, ...]]


def _cost(cascade: Cascade, rank: str) -> tuple[int, ...]:
    """Return what the search makes small: passes, reductions that nothing can correct, waiting, sums that mix."""
    count = passes(cascade, rank).count
    waiting = sum(level - 1 for level in level_of(cascade, rank).values())
    return count, len(obstacles_to(cascade, rank)), waiting, mixing(cascade, rank)


def _patient_cost(cascade: Cascade, rank: str) -> tuple[int, ...]:
    """Return the same, with the elements that are asked for out of turn: fetching one may free the next."""
    return *_cost(cascade, rank), out_of_turn(cascade, rank)


# Tried in this order until one pass is left. In each what only moves a factor comes before what changes the walk; what
# costs more or loses digits is asked sooner only in a later one: sums that are subtracted, one sum for each h of a sum
# over H, elements that are fetched though nothing is gained at once.
STRATEGIES = (
    Strategy((SHIFT, SEPARATE, HOIST, FETCH, ONLINE, SUBTRACT), _cost),
    Strategy((SHIFT, SEPARATE, SUBTRACT, HOIST, FETCH, ONLINE), _cost),
    Strategy((SHIFT, SEPARATE, HOIST, FETCH, EXCHANGE, ONLINE, SUBTRACT), _cost),
    Strategy((SHIFT, SEPARATE, HOIST, FETCH, EXCHANGE, ONLINE, SUBTRACT), _patient_cost),
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
    path = _best(cascade, cascade, rank)
    for selected in _selected_ranks(cascade, rank):
        here = path[-1].cascade if path else cascade
        if passes(here, rank).count > 1:
            path += _best(cascade, here, rank, along=selected)
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


def _best(original: Cascade, start: Cascade, rank: str, *, along: str = "") -> list[Rewritten]:
    """Return the path to the fewest passes over a rank, of equal ones that of the first strategy.

    Args:
        along: the rank that is rewritten, if it is another one.
    """
    found: list[Rewritten] = []
    fewest = passes(start, rank).count
    for strategy in STRATEGIES:
        path = _worthwhile(start, rank, _search(original, start, along or rank, strategy))
        count = passes(path[-1].cascade, rank).count if path else fewest
        if count < fewest:
            found, fewest = path, count
        if fewest == 1:
            break
    return found


def _search(original: Cascade, start: Cascade, rank: str, strategy: Strategy) -> list[Rewritten]:
    """Return the rules applied one after the other, each the first that improves on what there is."""
    path: list[Rewritten] = []
    current = start
    while passes(current, rank).count > 1 and len(path) < MOST_STEPS:
        found = _improved(original, current, rank, strategy)
        if found is None:
            break
        path.append(found)
        current = found.cascade
    return path


def _worthwhile(start: Cascade, rank: str, path: list[Rewritten]) -> list[Rewritten]:
    """Return a path as far as its last step that saves a pass: what only moved factors about is not worth it."""
    counts = [passes(start, rank).count, *(passes(found.cascade, rank).count for found in path)]
    return path[: counts.index(min(counts))]


def _improved(original: Cascade, current: Cascade, rank: str, strategy: Strategy) -> Rewritten | None:
    """Return the first result of a rule that is better than what there is, and equal to the original."""
    here = strategy.cost(current, rank)
    for rule in strategy.rules:
        for candidate in rule.apply(current, rank):
            if strategy.cost(candidate.cascade, rank) < here and equal(original, candidate.cascade, rank):
                return candidate
    return None
