"""Fewer passes, found by the tool: a search over the rules, each result checked by the evaluator."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..analysis.passes import passes, timeline
from ..cascade import Cascade
from ..declarations import rank_of
from ..einsum import Einsum
from ..expr import Apply, Expr, Size, accesses, walk
from .corrections import obstacles_to
from .elements import along, level_of
from .equality import equal
from .online import online
from .separate import Rewritten, separations

# No cascade of the literature takes more than a handful; a rule that went in circles would be stopped here.
MOST_STEPS = 40


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to rewrite: every cascade it can make of one, for the search to choose from."""

    name: str
    apply: Callable[[Cascade, str], Iterator[Rewritten]]


@dataclass(frozen=True, slots=True)
class Step:
    """A rule that was applied, to which Einsum, and why it holds."""

    rule: str
    einsum: str
    why: str


@dataclass(frozen=True, slots=True)
class Stuck:
    """An Einsum that keeps a pass, and why."""

    einsum: str
    why: str


@dataclass(frozen=True)
class Reduction:
    """An equal cascade with the fewest passes that were reached.

    Attributes:
        before, after: passes over the rank.
        steps: the rules applied, in order.
        stuck: what holds the passes that are left.
        stages: the cascade after each step.
    """

    rank: str
    cascade: Cascade
    before: int
    after: int
    steps: tuple[Step, ...]
    stuck: tuple[Stuck, ...]
    stages: tuple[Cascade, ...]

    def as_json(self) -> dict[str, object]:
        """Return the fields that the command prints."""
        return {
            "before": self.before,
            "after": self.after,
            "steps": [{"rule": s.rule, "einsum": s.einsum, "why": s.why} for s in self.steps],
            "stuck": [{"einsum": s.einsum, "why": s.why} for s in self.stuck],
            "cascade": str(self.cascade),
        }

    def __str__(self) -> str:
        lines = [f"passes over {self.rank}: {self.before} -> {self.after}"]
        lines += [f"  {s.rule} {s.einsum}: {s.why}" for s in self.steps]
        lines += [f"  stuck at {s.einsum}: {s.why}" for s in self.stuck]
        return "\n".join([*lines, "", str(self.cascade)])

    def _repr_html_(self) -> str:
        rows = [(s.rule, s.einsum, s.why) for s in self.steps] + [
            ("stuck", s.einsum, s.why) for s in self.stuck
        ]
        cells = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(c)}</td>" for c in row) + "</tr>"
            for row in rows
        )
        title = f"passes over {html.escape(self.rank)}: <b>{self.before} &rarr; {self.after}</b>"
        return f"<p>{title}</p><table>{cells}</table><pre>{html.escape(str(self.cascade))}</pre>"


def _online(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    found = online(cascade, rank)
    if isinstance(found, Rewritten):
        yield found


# In the order in which they are tried: what only moves a factor comes before what changes the walk.
RULES = (Rule("separate", separations), Rule("online", _online))


def reduce_passes(cascade: Cascade, rank: str) -> Reduction:
    """Return an equal cascade with the fewest passes over a rank that the rules can reach.

    Every rewrite is evaluated against the original at small random sizes, on ordinary inputs and on inputs so large
    that an unstable form would overflow, before it is accepted.

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
    current, stages = cascade, [cascade]
    steps: list[Step] = []
    while passes(current, rank).count > 1 and len(steps) < MOST_STEPS:
        found = _improved(cascade, current, rank)
        if found is None:
            break
        count = passes(found.cascade, rank).count
        summary = f"Found from {cascade.name}: {count} {'pass' if count == 1 else 'passes'} over {rank}."
        current = replace(found.cascade, name=_named(cascade, rank), summary=summary)
        steps.append(Step(found.rule, found.einsum, found.why))
        stages.append(current)
    after = passes(current, rank).count
    if after == before:
        current, steps, stages = (
            cascade,
            [],
            [cascade],
        )  # what moved factors without saving a pass is not worth it
    stuck = tuple(_stuck(current, rank)) if after > 1 else ()
    return Reduction(rank, current, before, after, tuple(steps), stuck, tuple(stages))


def _named(cascade: Cascade, rank: str) -> str:
    suffix = f"_{rank.lower()}_reduced"
    return cascade.name if cascade.name.endswith(suffix) else cascade.name + suffix


def _improved(original: Cascade, current: Cascade, rank: str) -> Rewritten | None:
    """Return the first result of a rule that is better than what there is, and equal to the original."""
    here = _cost(current, rank)
    for rule in RULES:
        for candidate in rule.apply(current, rank):
            if _cost(candidate.cascade, rank) < here and equal(original, candidate.cascade, rank):
                return candidate
    return None


def _cost(cascade: Cascade, rank: str) -> tuple[int, int, int]:
    """Return what the search makes small: passes, then reductions that nothing can correct, then waiting."""
    count = passes(cascade, rank).count
    levels = level_of(cascade, rank).values()
    return count, len(obstacles_to(cascade, rank)), sum(level - 1 for level in levels)


def _stuck(cascade: Cascade, rank: str) -> Iterator[Stuck]:
    """Yield the Einsums that keep a later pass, each with the reason.

    An Einsum whose result keeps the rank speaks for all that leads to it; where the result is reduced, the Einsum by
    which a whole-fiber value reaches the elements does.
    """
    seen = along(cascade, rank)
    levels = level_of(cascade, rank)
    times = timeline(cascade, rank)
    late = {n for n, level in levels.items() if level > 1}
    read_by_late = {a.tensor for n in late for a in cascade.einsum(n).reads}
    named: set[str] = set()
    for einsum in cascade.einsums:
        if einsum.name not in late or einsum.name in read_by_late:
            continue
        path = _leading_to(cascade, einsum.name, late)
        keeps = bool(seen.walking[einsum.name] & set(einsum.output_variables))
        entries = [einsum.name] if keeps else [n for n in path if _complete_reads(cascade, n, times)]
        waits = sorted({t for n in path for t in _complete_reads(cascade, n, times)})
        for name in entries:
            if name not in named:
                named.add(name)
                own = waits if keeps else _complete_reads(cascade, name, times)
                yield Stuck(name, _reason(cascade, cascade.einsum(name), rank, own))


def _leading_to(cascade: Cascade, name: str, late: set[str]) -> list[str]:
    """Return the late Einsums on which one depends, itself included, in order of execution."""
    found, open_names = {name}, [name]
    while open_names:
        for access in cascade.einsum(open_names.pop()).reads:
            if access.tensor in late and access.tensor not in found:
                found.add(access.tensor)
                open_names.append(access.tensor)
    return [e.name for e in cascade.einsums if e.name in found]


def _complete_reads(cascade: Cascade, name: str, times: Mapping[str, float]) -> list[str]:
    """Return what an Einsum reads that is there only once a pass has ended."""
    found = []
    for access in cascade.einsum(name).reads:
        state = cascade.signatures[access.tensor].state
        at_end = state is not None and isinstance(access.indices[state], Size)
        if at_end or times[access.tensor] % 1:
            found.append(access.tensor)
    return list(dict.fromkeys(found))


def _reason(cascade: Cascade, einsum: Einsum, rank: str, waits: list[str]) -> str:
    needs = " and ".join(waits)
    needs = f"{needs} {'needs' if len(waits) == 1 else 'need'} every element of {rank}"
    if not waits:
        return f"it walks {rank} in the other direction"
    gathered = {a.tensor for r in einsum.reads for i in r.indices for a in accesses(i)}
    if gathered & set(waits):
        which = ", ".join(sorted(gathered & set(waits)))
        return f"{which} selects elements after every one was seen, and they are fetched in a further visit"
    parts = {rank, *cascade.splits.get(rank, ())}
    other = [rank_of(v) for v in einsum.reduced if rank_of(v) not in parts]
    if other:
        ranks = ", ".join(dict.fromkeys(other))
        return f"{needs}, and the result mixes them over another rank ({ranks}) and keeps {rank}"
    thresholds = {"relu", "max", "min", "clamp", "select"}
    if any(isinstance(n, Apply) and n.op in thresholds for n in _nodes(einsum)):
        return f"{needs}, and each element is held against it by a threshold"
    applied = "is applied" if len(waits) == 1 else "are applied"
    return f"{needs} and {applied} to each of them; the result keeps {rank}"


def _nodes(einsum: Einsum) -> Iterator[Expr]:
    yield from walk(einsum.value)
    if einsum.where is not None:
        yield from walk(einsum.where)
