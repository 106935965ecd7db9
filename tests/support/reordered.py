"""The same cascade with its Einsums in another order in which they can run."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate
from einsum_cascade.einsum import Einsum


def reordered(cascade: Cascade, rng: random.Random) -> Cascade:
    """Return a cascade of the same Einsums in an order by chance, inside iterate blocks and around them."""
    items = [_block(cascade, i, rng) if isinstance(i, Iterate) else i for i in cascade.body]
    reads = [frozenset(a.tensor for e in _einsums(i) for a in e.reads) for i in items]
    makes = [frozenset(e.name for e in _einsums(i)) for i in items]
    # First values of a state stand before its block, which makes the same tensor.
    order = _by_chance(makes, [r | m for r, m in zip(reads, makes, strict=True)], rng)
    return replace(cascade, body=tuple(items[i] for i in order))


def _block(cascade: Cascade, block: Iterate, rng: random.Random) -> Iterate:
    reads = [{a.tensor for a in e.reads if not cascade.reads_previous(a)} for e in block.einsums]
    order = _by_chance([{e.name} for e in block.einsums], reads, rng)
    return replace(block, einsums=tuple(block.einsums[i] for i in order))


def _einsums(item: Iterate | Einsum) -> tuple[Einsum, ...]:
    return item.einsums if isinstance(item, Iterate) else (item,)


def _by_chance(
    makes: Sequence[Collection[str]], needs: Sequence[Collection[str]], rng: random.Random
) -> list[int]:
    left, out = list(range(len(makes))), []
    while left:
        able = [i for i in left if not any(set(makes[j]) & set(needs[i]) for j in left if j < i)]
        out.append(rng.choice(able))
        left.remove(out[-1])
    return out
