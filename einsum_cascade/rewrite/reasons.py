"""Why an Einsum keeps a pass over a rank, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..analysis.passes import timeline
from ..cascade import Cascade
from ..declarations import Iterate, rank_of
from ..einsum import Einsum
from ..expr import Apply, Expr, Size, accesses, walk
from .elements import along, level_of, settlings
from .local import obstacles_within
from .online import online
from .reduction import Stuck


def reasons(cascade: Cascade, rank: str) -> Iterator[Stuck]:
    """Yield the Einsums that keep a later pass, each with the reason.

    An Einsum whose result keeps the rank speaks for all that leads to it; where the result is reduced, the Einsum by
    which a whole-fiber value reaches the elements does.
    """
    seen = along(cascade, rank)
    levels = level_of(cascade, rank)
    times = timeline(cascade, rank)
    late = {n for n, level in levels.items() if level > 1}
    read_by_late = {a.tensor for n in late for a in cascade.einsum(n).reads if a.tensor != n}
    named: set[str] = set()
    for einsum in cascade.einsums:
        if einsum.name not in late or einsum.name in read_by_late:
            continue
        path = _leading_to(cascade, einsum.name, late)
        keeps = seen.walking[einsum.name] <= set(einsum.output_variables)
        entries = [einsum.name] if keeps else [n for n in path if _complete_reads(cascade, n, times)]
        waits = sorted({t for n in path for t in _complete_reads(cascade, n, times)})
        for name in entries:
            if name not in named:
                named.add(name)
                own = waits if keeps else _complete_reads(cascade, name, times)
                end = f"the result keeps {rank}" if keeps else _hindrance(cascade, rank, path)
                yield Stuck(name, _reason(cascade, cascade.einsum(name), rank, own, end))


def _hindrance(cascade: Cascade, rank: str, path: list[str]) -> str:
    """Return why rule online cannot carry the reductions that wait on a path."""
    blocks = [
        i for i in cascade.body if isinstance(i, Iterate) and not {e.name for e in i.einsums}.isdisjoint(path)
    ]
    for block in blocks:
        if rank_of(block.variable) not in {rank, *cascade.splits.get(rank, ())}:
            for obstacle in obstacles_within(cascade, block, rank):
                if obstacle.einsum in path:
                    return (
                        f"{obstacle.einsum} of a block of {rank} cannot be corrected for all: {obstacle.why}"
                    )
            return f"the blocks of {rank} cannot be joined inside `iterate {block.variable}`"
    for settled in settlings(cascade, rank):
        found = online(cascade, rank, settled)
        for obstacle in found if isinstance(found, list) else ():
            if obstacle.einsum in path:
                return f"{obstacle.einsum} cannot be corrected on the way: {obstacle.why}"
    return "what is made of them cannot be corrected afterwards"


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


def _reason(cascade: Cascade, einsum: Einsum, rank: str, waits: list[str], end: str) -> str:
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
    return f"{needs} and {applied} to each of them; {end}"


def _nodes(einsum: Einsum) -> Iterator[Expr]:
    yield from walk(einsum.value)
    if einsum.where is not None:
        yield from walk(einsum.where)
