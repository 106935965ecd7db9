"""The least words that any schedule moves, by search: a red-blue pebble game on the points of a tiny cascade.

Source: Hong and Kung (1981); here a sum absorbs its terms in any order in one word, and what was dropped may be
computed again. Two partial sums of one element are not considered: they would only be loaded once more.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.expr import Access, Var

Point = tuple[str, tuple[int, ...]]
Held = frozenset[tuple[Point, int]]


@dataclass(frozen=True)
class Game:
    """The points of a cascade.

    Attributes:
        given: points of inputs that something reads.
        terms: of each computed point, what each of its terms reads.
        asked: points of outputs.
        read: points that something reads.
    """

    given: frozenset[Point]
    terms: dict[Point, tuple[frozenset[Point], ...]]
    asked: frozenset[Point]
    read: frozenset[Point]

    def full(self, point: Point) -> int:
        """The mask of a point that has absorbed all of its terms."""
        return (1 << len(self.terms.get(point, ()))) - 1


def game(cascade: Cascade, sizes: dict[str, int]) -> Game:
    """Return the points of a cascade whose indices are plain variables and that has no predicates."""
    terms: dict[Point, list[frozenset[Point]]] = {}
    for e in cascade.einsums:
        assert e.where is None
        for place in itertools.product(*(range(sizes[rank_of(v)]) for v in e.variables)):
            at = dict(zip(e.variables, place, strict=True))
            reads = frozenset(_point(a, at) for a in e.reads)
            terms.setdefault(_point(e.target, at), []).append(reads)
    read = frozenset(p for parts in terms.values() for reads in parts for p in reads)
    asked = {s.tensor for s in cascade.outputs}
    return Game(
        frozenset(p for p in read if p not in terms),
        {p: tuple(parts) for p, parts in terms.items()},
        frozenset(p for p in terms if p[0] in asked),
        read,
    )


def _point(access: Access, at: dict[str, int]) -> Point:
    return access.tensor, tuple(at[i.name] for i in access.indices if isinstance(i, Var))


def least_words(board: Game, words: int) -> int | None:
    """Return the least words moved with a buffer of some words, or None where nothing can be computed in it."""
    start = _settled(board, {}, {})
    best = {start[1]: start[0]}
    heap = [(start[0], 0, start[1])]
    ticket = itertools.count(1)
    while heap:
        cost, _, state = heapq.heappop(heap)
        if cost > best[state]:
            continue
        chip, memory = state
        if all(dict(memory).get(p) == board.full(p) for p in board.asked):
            return cost
        for more, following in _moves(board, dict(chip), dict(memory), words):
            if cost + more < best.get(following, 10**9):
                best[following] = cost + more
                heapq.heappush(heap, (cost + more, next(ticket), following))
    return None


def _moves(board: Game, chip: dict[Point, int], memory: dict[Point, int], words: int):
    """Yield what may be done next: bring or begin one point, for which another may have to leave."""
    held: list[tuple[int, dict[Point, int], dict[Point, int]]] = [(0, chip, memory)]
    if len(chip) == words:
        held = []
        for point in chip:
            rest = {p: m for p, m in chip.items() if p != point}
            held.append((0, rest, memory))
            if point not in board.given and chip[point] and memory.get(point) != chip[point]:
                held.append((1, rest, memory | {point: chip[point]}))
    for cost, inside, behind in held:
        for point in board.given - inside.keys():
            yield _after(board, cost + 1, inside | {point: 0}, behind)
        for point in behind.keys() - inside.keys():
            if point not in board.asked or behind[point] != board.full(point):
                yield _after(board, cost + 1, inside | {point: behind[point]}, behind)
        done = {p for p, mask in inside.items() if p in board.given or mask == board.full(p)}
        for point in board.terms.keys() - inside.keys():
            # To begin what nothing can be added to yet would only take room.
            unwritten = behind.get(point) != board.full(point) or point not in board.asked
            if unwritten and any(reads <= done for reads in board.terms[point]):
                yield _after(board, cost, inside | {point: 0}, behind)


def _after(board: Game, cost: int, chip: dict[Point, int], memory: dict[Point, int]):
    more, state = _settled(board, chip, memory)
    return cost + more, state


def _settled(board: Game, chip: dict[Point, int], memory: dict[Point, int]) -> tuple[int, tuple[Held, Held]]:
    """Return a state in which each point on chip has absorbed what it can; finished outputs are written once."""
    cost, changed = 0, True
    chip, memory = dict(chip), dict(memory)
    while changed:
        changed = False
        done = {p for p, mask in chip.items() if p in board.given or mask == board.full(p)}
        for point, mask in list(chip.items()):
            for k, reads in enumerate(board.terms.get(point, ())):
                if not mask >> k & 1 and reads <= done:
                    mask |= 1 << k
                    chip[point], changed = mask, True
        for point in board.asked & chip.keys():
            if chip[point] == board.full(point) and memory.get(point) != chip[point]:
                memory[point] = chip[point]
                cost += 1
                if point not in board.read:
                    del chip[point]
    return cost, (frozenset(chip.items()), frozenset(memory.items()))
