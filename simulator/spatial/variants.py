"""Ways to place a block that are as good as the one at hand by the rules of the search, and may be better once counted.

The search takes the first of tied ranks for the axes of an array, keeps the result and as many operands as find room in
the registers, and for an Einsum that runs alone one order of loops with at most one tensor past the buffer; which array
does what it has settled before. What that is worth depends on the bandwidth of the memories and on the tiles, so the
best block is tried with one choice changed after the other until none is better.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from einsum_cascade.einsum import Einsum

from ..hardware.model import Memory
from ..identity import Same
from .assignment import options, tied_axes
from .block import Block
from .candidates import orders_of
from .placement import Placed, barred_from_axes
from .registers import register_words
from .tiling import Merit, Tiled

# Operands of an Einsum up to which all choices of registers are tried.
_MOST_OPERANDS = 4
# Rounds of changes; one is enough but for small chips, on which each change makes room for another.
_MOST_ROUNDS = 4


def varied(start: Tiled, counted: Callable[[Placed, Merit], Tiled | None]) -> Tiled:
    """Return the best block that is found by changing one choice of a placed block after the other.

    Args:
        start: a block with its tiles.
        counted: the best tiles of a placed block, or None where they are no better than a merit.
    """
    best = start
    for _ in range(_MOST_ROUNDS):
        before = best
        for kind in (_other_axes, _other_arrays, _other_registers, _other_loops):
            for placed in kind(best.placed):
                found = counted(placed, best.merit)
                if found is not None and found.merit < best.merit:
                    best = found
        if best is before:
            return best
    return best


def _other_axes(placed: Placed) -> Iterator[Placed]:
    """Yield other ranks on the axes of one Einsum's array, or of all alike, with as few cycles by the full axes.

    For an Einsum that runs alone also fewer ranks: smaller tiles may be worth idle elements where memory is the limit.
    """
    block = placed.block
    barred = barred_from_axes(block)
    ties = {
        e.name: tied_axes(
            Same(block.originals[e.name]),
            Same(block.given),
            Same(placed.sizes),
            Same(placed.chip.arrays[placed.arrays[e.name]]),
            placed.narrow,
            barred,
        )
        for e in block.einsums
    }
    for name, found in ties.items():
        for axes in found:
            if axes != placed.axes[name]:
                yield replace(placed, axes={**placed.axes, name: axes})
    if len(block.einsums) == 1:
        ((name, found),) = ties.items()
        fewer = {axes[:n] for axes in found for n in range(len(axes))}
        for axes in sorted(fewer, key=len, reverse=True):
            yield replace(placed, axes={**placed.axes, name: axes})
    else:
        turned = {name: axes[::-1] for name, axes in placed.axes.items()}
        if turned != placed.axes and all(axes in ties[name] for name, axes in turned.items()):
            yield replace(placed, axes=turned)


def _other_arrays(placed: Placed) -> Iterator[Placed]:
    """Yield the same with one Einsum on another array, on the axes that suit it best there."""
    block, barred = placed.block, barred_from_axes(placed.block)
    of = Same(block.given), Same(placed.sizes), Same(placed.chip)
    for e in block.einsums:
        found = options(Same(block.originals[e.name]), *of, placed.narrow, barred)
        for array, (axes, cycles) in zip(placed.chip.arrays, found, strict=True):
            if array != placed.arrays[e.name] and cycles < math.inf:
                yield replace(
                    placed,
                    arrays={**placed.arrays, e.name: array},
                    axes={**placed.axes, e.name: axes},
                    span=0.0,  # not worked out anew: the bound that any array meets
                    registered={name: kept for name, kept in placed.registered.items() if name != e.name},
                )


def _other_registers(placed: Placed) -> Iterator[Placed]:
    """Yield other operands of one Einsum in the registers: others as many, or fewer where these are a bottleneck."""
    for e in placed.block.einsums:
        array = placed.arrays[e.name]
        memory = next((m for m in placed.chip.memories.values() if m.of == array and m.per_element), None)
        if memory is None:
            continue
        room = int(min(memory.capacity_bytes / placed.chip.word_bytes, 1 << 30))
        for kept in _choices(e, placed.sizes, room, memory):
            if placed.passed.isdisjoint(t for t in register_words(e, placed.sizes) if t not in kept):
                yield replace(placed, registered={**placed.registered, e.name: kept})


def _choices(
    einsum: Einsum, sizes: Mapping[str, int], room: int, memory: Memory
) -> Sequence[tuple[str, ...]]:
    taken = register_words(einsum, sizes)
    scarce = memory.bandwidth_bytes_per_s < math.inf
    if len(taken) > _MOST_OPERANDS or (sum(taken.values()) <= room and not scarce):
        return ()
    every = [
        kept
        for n in range(len(taken), -1, -1)
        for kept in itertools.combinations(taken, n)
        if sum(taken[t] for t in kept) <= room
    ]
    if scarce:
        return every
    return [kept for kept in every if not any(set(kept) < set(more) for more in every)]


def _other_loops(placed: Placed) -> Iterator[Placed]:
    """Yield other orders of loops of an Einsum that runs alone, and other tensors that go past the buffer."""
    block = placed.block
    if len(block.einsums) > 1 or block.iterated:
        return
    orders = orders_of(block.order, placed.sizes) or (block.order,)
    for direct, order in itertools.product(_past(block, placed.home), orders):
        if (direct, order) != (block.direct, block.order):
            yield replace(placed, block=replace(block, direct=direct, order=order))


def _past(block: Block, home: str) -> Sequence[frozenset[str]]:
    (einsum,) = block.einsums
    operands = tuple(dict.fromkeys((einsum.name, *(a.tensor for a in einsum.reads))))
    if not home or len(operands) > _MOST_OPERANDS:
        return (block.direct,)
    some = (itertools.combinations(operands, n) for n in range(len(operands) + 1))
    return tuple(frozenset(of) for of in itertools.chain.from_iterable(some))
