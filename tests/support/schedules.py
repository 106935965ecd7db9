"""Legal schedules of small cascades as traces of element accesses, and the words an optimal buffer moves for them."""

from __future__ import annotations

import itertools
import math
import operator
import random
from collections.abc import Iterable, Mapping

from einsum_cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Apply, Expr, Num, Size, Var

Event = tuple[str, tuple[object, ...]]
_OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "min": min,
}


def optimal_traffic(trace: list[Event], words: int, inputs: set[str], outputs: set[str]) -> int:
    """Words moved by a fully associative buffer that knows the future (Belady) and drops what is dead.

    A "define" gives a word a new value without reading it; an "update" and a "read" need it on chip.
    """
    after: dict[tuple[object, ...], float] = {}
    following: list[float] = [math.inf] * len(trace)
    for i in range(len(trace) - 1, -1, -1):
        kind, word = trace[i]
        following[i] = after.get(word, math.inf)
        # A value that is defined anew before it is read is dead until then.
        after[word] = math.inf if kind == "define" else i
    moved, chip, dirty = 0, {}, set()
    for i, (kind, word) in enumerate(trace):
        if word not in chip:
            if len(chip) == words:
                victim = max(chip, key=lambda w: chip[w])
                if victim in dirty and (chip[victim] < math.inf or victim[0] in outputs):
                    moved += 1
                dirty.discard(victim)
                del chip[victim]
            moved += kind != "define"
        if kind != "read":
            dirty.add(word)
        chip[word] = following[i]
        if following[i] == math.inf and word[0] not in outputs:
            dirty.discard(word)
            del chip[word]
    return moved + sum(w[0] in outputs for w in dirty)


def tiled_trace(
    cascade: Cascade, sizes: Mapping[str, int], tile: int, rng: random.Random, *, once: bool = False
) -> list[Event]:
    """One legal schedule: tiles of p outside, the Einsums one after another inside, each in any loop order.

    Args:
        once: Einsums before the first that runs along p are computed once for all tiles, instead of again in each.
    """
    trace: list[Event] = []
    shared = itertools.takewhile(lambda e: "p" not in e.variables, cascade.einsums) if once else ()
    before = tuple(shared)
    trace += _block(cascade, before, sizes, range(sizes["P"]), rng)
    inside = cascade.einsums[len(before) :]
    for start in range(0, sizes["P"], tile):
        trace += _block(cascade, inside, sizes, range(start, min(start + tile, sizes["P"])), rng)
    return trace


def _block(
    cascade: Cascade, einsums: Iterable[Einsum], sizes: Mapping[str, int], queries: range, rng: random.Random
) -> Iterable[Event]:
    for einsum in einsums:
        order = list(einsum.variables)
        rng.shuffle(order)
        spans = {v: queries if v == "p" else range(sizes[rank_of(v)]) for v in order}
        seen: set[tuple[object, ...]] = set()
        for values in itertools.product(*(spans[v] for v in order)):
            at = dict(zip(order, values, strict=True))
            if cascade.name == "causal" and "m" in at and at["m"] > at["p"]:
                continue
            for access in einsum.reads:
                yield "read", (access.tensor, *(place(i, at, sizes) for i in access.indices))
            target = (einsum.name, *(place(i, at, sizes) for i in einsum.target.indices))
            yield "update" if target in seen else "define", target
            seen.add(target)


def place(index: Expr, at: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """Return the value of an index of variables, ranks and numbers."""
    if isinstance(index, Num):
        return int(index.value)
    if isinstance(index, Size):
        return sizes[index.name]
    if isinstance(index, Var):
        return at[index.name]
    assert isinstance(index, Apply)
    value = _OPERATORS[index.op](*(place(a, at, sizes) for a in index.args))
    return int(value)
