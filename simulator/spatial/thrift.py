"""Less energy at the speed that a search has found: the same blocks with other tiles, and run in other ways."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from .block import blocks
from .candidates import Allowed
from .floors import CLOSE
from .placement import Placed
from .search import Search, dividing
from .tiling import Merit, Tiled, thriftiest
from .variants import varied
from .writing import boundaries

# Seconds and bytes that a block may take.
Limit: TypeAlias = tuple[float, float]


def thrifty(search: Search, path: Sequence[Tiled], latency_s: float) -> tuple[Tiled, ...]:
    """Return the same blocks with less energy times delay, no slower than a latency and with no more traffic.

    Args:
        search: the one that has found them; counts what is tried.
        path: the blocks.
        latency_s: of all together; each may take its share of it.
    """

    def better(tiled: Tiled, limit: Limit, allowed: Allowed) -> Tiled:
        best = tiled
        for placed in _alternatives(search, tiled, limit[0]):
            search.evaluated += 1
            found = thriftiest(placed, limit, built=search.built, allowed=allowed)
            if found is not None and found.merit[0] * found.merit[2] < best.merit[0] * best.merit[2]:
                best = found
        return best

    return _each(search, path, latency_s, better)


def thriftier(search: Search, path: Sequence[Tiled], latency_s: float) -> tuple[Tiled, ...]:
    """Return the same as `thrifty`, by choices that the search takes one way, changed one after the other."""

    def better(tiled: Tiled, limit: Limit, allowed: Allowed) -> Tiled:
        def counted(placed: Placed, _: Merit) -> Tiled | None:
            search.evaluated += 1
            found = thriftiest(placed, limit, built=search.built, allowed=allowed)
            return found and _by_product(found)

        best = varied(_by_product(tiled), counted)
        product, latency, traffic = best.merit
        return replace(best, merit=(latency, traffic, product / latency if latency else tiled.merit[2]))

    return _each(search, path, latency_s, better)


def _each(
    search: Search,
    path: Sequence[Tiled],
    latency_s: float,
    better: Callable[[Tiled, Limit, Allowed], Tiled],
) -> tuple[Tiled, ...]:
    """Return the blocks made better one by one, each within its share of a latency, its traffic, the others' cuts."""
    total = sum(t.merit[0] for t in path)
    if total == 0:
        return tuple(path)  # a `where` removes every point
    out = list(path)
    for i, tiled in enumerate(path):
        limit = tiled.merit[0] * max(latency_s / total, 1.0), tiled.merit[1] * CLOSE
        out[i] = better(tiled, limit, dividing(boundaries([*out[:i], *out[i + 1 :]]), search.sizes))
    return tuple(out)


def _alternatives(search: Search, tiled: Tiled, latency_s: float) -> Iterator[Placed]:
    """Yield how a block was placed, then other ways to run it that may be as fast, as many as patience allows."""
    yield tiled.placed
    einsums, floors = search.originals(tiled), search.floors
    moved = floors.of(einsums)[1]
    for block in itertools.islice(blocks(search.cascade, einsums, search.sizes), search.patience):
        least = moved + floors.spilled_bytes(block.spilled - block.asked_for)
        for placed in search.placed(block, tiled.placed.narrow, others=False):
            if floors.of_placed(placed, least)[0] <= latency_s:
                yield placed


def _by_product(tiled: Tiled) -> Tiled:
    latency, traffic, energy = tiled.merit
    return replace(tiled, merit=(latency * energy, latency, traffic))
