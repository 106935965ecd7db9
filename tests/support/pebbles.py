"""The least words that any schedule moves, by search: a red-blue pebble game on the points of a tiny cascade.

Source: Hong and Kung (1981); here a sum absorbs its terms in any order in one word, and what was dropped may be
computed again. Two partial sums of one element are not considered: they would only be loaded once more.

The search is A*: what is left to be written and to be loaded for the first time bounds the rest from below. Of states
that differ by the order of the coordinates along a rank alone, one is looked at.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from interpreter import Absent, Interpreter
from strategies import Use

from einsum_cascade.cascade import Cascade
from einsum_cascade.einsum import Einsum, Reduction
from einsum_cascade.expr import Access, Apply, Expr, variables
from einsum_cascade.sizes import resolve

Point = tuple[str, tuple[int, ...]]
# Of points by number, those held with the terms that they have absorbed: on chip, and in memory.
Held = tuple[tuple[int, int], ...]
State = tuple[Held, Held]
# Renamings that are used: each one saves states, and costs time in every state.
MOST_SYMMETRIES = 12


@dataclass(frozen=True)
class Symmetry:
    """A renaming of coordinates: where each point goes, and each of its terms."""

    points: tuple[int, ...]
    terms: tuple[tuple[int, ...], ...]

    def image(self, held: Held) -> Held:
        return tuple(sorted((self.points[p], self._mask(p, mask)) for p, mask in held))

    def _mask(self, point: int, mask: int) -> int:
        to = self.terms[point]
        return sum(1 << to[k] for k in _members(mask)) if mask else 0


@dataclass(frozen=True)
class Game:
    """The points of a cascade, by number; sets of points and of terms are the bits of a number.

    Attributes:
        given: points of inputs that something reads.
        terms: of each point what each of its terms reads; none for inputs.
        full: of each point the set of all of its terms.
        asked: points of outputs.
        read: points that something reads.
        symmetries: renamings that leave the game as it is.
    """

    given: int
    terms: tuple[tuple[int, ...], ...]
    full: tuple[int, ...]
    asked: int
    read: int
    symmetries: tuple[Symmetry, ...]


class Reading(Interpreter):
    """Notes what each term of each point reads; of a branch only what is taken, of a pad only what is there.

    Attributes:
        terms: of each point, in the order of their making, what each of its terms reads.
        places: of each term of each point the values of all variables.
    """

    def __init__(self, use: Use) -> None:
        super().__init__(use)
        self.terms: dict[Point, list[frozenset[Point]]] = {}
        self.places: dict[Point, list[tuple[dict[str, int], frozenset[Point]]]] = {}
        self.now: list[Point] = []
        self.found: list[tuple[dict[str, int], frozenset[Point]]] = []

    def einsum(self, e: Einsum, fixed: dict[str, int]) -> None:
        self.tensors.setdefault(e.name, {})
        for env in self.environments([v for v in e.output_variables if v not in fixed], fixed):
            self.found = []
            value = self.reduce(e, list(e.all_reductions), env)
            if not isinstance(value, Absent):
                place = tuple(int(self.value(i, env)) for i in e.target.indices)
                self.tensors[e.name][place] = value[()]
                # What has no term has a value all the same; terms that read the same are absorbed together.
                self.terms[e.name, place] = list(dict.fromkeys(r for _, r in self.found)) or [frozenset()]
                self.places[e.name, place] = self.found

    def reduce(self, e: Einsum, left: list[Reduction], env: dict[str, int]) -> Any:
        if left:
            return super().reduce(e, left, env)
        self.now = []
        value = super().reduce(e, left, env)
        if not isinstance(value, Absent):
            self.found.append((dict(env), frozenset(self.now)))
        return value

    def value(self, node: Expr, env: dict[str, int]) -> Any:
        if isinstance(node, Apply) and node.op == "select":
            test = self.value(node.args[0], env)
            if isinstance(test, Absent):
                return test
            found = self.value(node.args[1 if test else 2], env)
            return Absent([frozenset(variables(node))]) if isinstance(found, Absent) else found
        return super().value(node, env)

    def read(self, node: Access, env: dict[str, int]) -> Any:
        found = super().read(node, env)
        if not isinstance(found, Absent):
            self.now.append((node.tensor, tuple(int(self.value(i, env)) for i in node.indices)))
        return found


def reading(cascade: Cascade, sizes: dict[str, int]) -> Reading:
    """Return what each point of a cascade reads."""
    known = resolve(cascade, dict(sizes))
    inputs = {s.tensor: np.ones([known[r] for r in s.ranks]) for s in cascade.inputs}
    slow = Reading(Use(cascade, known, inputs))
    with np.errstate(all="ignore"):
        slow.run()
    return slow


def game(cascade: Cascade, sizes: dict[str, int]) -> Game:
    """Return the points of a cascade in which coordinates alone decide what is read, and that selects nothing."""
    slow = reading(cascade, sizes)
    known = slow.sizes
    terms = slow.terms
    read = {p for parts in terms.values() for reads in parts for p in reads}
    points = sorted(read | terms.keys())
    number = {p: i for i, p in enumerate(points)}
    asked = {s.tensor for s in cascade.outputs}

    def bits(some: Iterable[Point]) -> int:
        return sum(1 << number[p] for p in some)

    return Game(
        given=bits(p for p in points if p not in terms),
        terms=tuple(tuple(bits(reads) for reads in terms.get(p, ())) for p in points),
        full=tuple((1 << len(terms.get(p, ()))) - 1 for p in points),
        asked=bits(p for p in points if p[0] in asked and p in terms),
        read=bits(read),
        symmetries=tuple(itertools.islice(_symmetries(cascade, known, points, terms), MOST_SYMMETRIES)),
    )


def _symmetries(
    cascade: Cascade, sizes: dict[str, int], points: list[Point], terms: dict[Point, list[frozenset[Point]]]
) -> Iterator[Symmetry]:
    """Yield the renamings of the coordinates of every rank that leave the game as it is, itself first."""
    number = {p: i for i, p in enumerate(points)}
    # Generations of a state follow one another, and its axis is longer than the rank.
    still = {cascade.signatures[n].ranks[cascade.signatures[n].state or 0] for n in cascade.states}
    ranks = sorted(r for r in sizes if r in cascade.rank_names and r not in still)
    for orders in itertools.product(*(itertools.permutations(range(sizes[r])) for r in ranks)):
        renamed = dict(zip(ranks, orders, strict=True))

        def image(p: Point, renamed: dict[str, tuple[int, ...]] = renamed) -> Point:
            axes = zip(cascade.signatures[p[0]].ranks, p[1], strict=True)
            return p[0], tuple(renamed[r][i] if r in renamed else i for r, i in axes)

        moves = []
        for p in points:
            there, here = terms.get(image(p), []), terms.get(p, [])
            moved = [frozenset(map(image, reads)) for reads in here]
            if image(p) not in number or set(moved) != set(there):
                break
            moves.append(tuple(there.index(reads) for reads in moved))
        else:
            yield Symmetry(tuple(number[image(p)] for p in points), tuple(moves))


def least_words(
    board: Game, words: int, *, below: float = math.inf, most_states: float = math.inf
) -> int | None:
    """Return the least words moved with a buffer of some words, or None where nothing can be computed in it.

    Args:
        below: schedules that move so many words are not looked for; None where none moves fewer.
        most_states: after so many the search gives up, as if there were none.
    """
    cost, start = _settled(board, {}, {})
    start = _canonical(board, start)
    best = {start: cost}
    first = cost + _at_least(board, start)
    heap = [(first, -cost, start)] if first < below else []
    while heap and len(best) <= most_states:
        _, negative, state = heapq.heappop(heap)
        cost = -negative
        if cost > best[state]:
            continue
        memory = dict(state[1])
        if all(memory.get(p) == board.full[p] for p in _members(board.asked)):
            return cost
        for more, following in _moves(board, dict(state[0]), memory, words):
            reached, following = cost + more, _canonical(board, following)
            if reached < best.get(following, math.inf):
                best[following] = reached
                least = reached + _at_least(board, following)
                if least < below:
                    heapq.heappush(heap, (least, -reached, following))
    return None


def _canonical(board: Game, state: State) -> State:
    return min((s.image(state[0]), s.image(state[1])) for s in board.symmetries)


def _members(some: int) -> Iterator[int]:
    while some:
        low = some & -some
        yield low.bit_length() - 1
        some ^= low


def _at_least(board: Game, state: State) -> int:
    """Return words that are moved from a state on in any case: outputs to write, inputs to load for what is left.

    A term that neither copy of a point has absorbed will have to be, and what it reads has to be on chip then.
    """
    chip, memory = dict(state[0]), dict(state[1])
    missing, seen = 0, 0
    unwritten = [p for p in _members(board.asked) if memory.get(p) != board.full[p]]
    wanted = list(unwritten)
    while wanted:
        point = wanted.pop()
        absorbed = chip.get(point, 0) | memory.get(point, 0)
        for k, reads in enumerate(board.terms[point]):
            if absorbed >> k & 1:
                continue
            missing |= reads & board.given
            for other in _members(reads & ~board.given & ~seen):
                seen |= 1 << other
                if board.full[other] not in (chip.get(other), memory.get(other)):
                    wanted.append(other)
    return len(unwritten) + sum(1 for p in _members(missing) if p not in chip)


def _moves(
    board: Game, chip: dict[int, int], memory: dict[int, int], words: int
) -> Iterator[tuple[int, State]]:
    """Yield what may be done next: bring or begin one point, for which another may have to leave."""
    held: list[tuple[int, dict[int, int], dict[int, int]]] = [(0, chip, memory)]
    if len(chip) == words:
        held = []
        for point, mask in chip.items():
            rest = {p: m for p, m in chip.items() if p != point}
            held.append((0, rest, memory))
            if mask and memory.get(point) != mask:
                held.append((1, rest, memory | {point: mask}))
    for cost, inside, behind in held:
        for point in _members(board.given):
            if point not in inside:
                yield _after(board, cost + 1, inside | {point: 0}, behind)
        for point, mask in behind.items():
            if point not in inside and not (board.asked >> point & 1 and mask == board.full[point]):
                yield _after(board, cost + 1, inside | {point: mask}, behind)
        done = _done(board, inside)
        for point, terms in enumerate(board.terms):
            # To begin what nothing can be added to yet would only take room.
            if (
                not terms
                or point in inside
                or (board.asked >> point & 1 and behind.get(point) == board.full[point])
            ):
                continue
            if any(reads & done == reads for reads in terms):
                yield _after(board, cost, inside | {point: 0}, behind)


def _done(board: Game, chip: dict[int, int]) -> int:
    """Return the points on chip that may be read; an input is full as it is."""
    return sum(1 << p for p, mask in chip.items() if mask == board.full[p])


def _after(board: Game, cost: int, chip: dict[int, int], memory: dict[int, int]) -> tuple[int, State]:
    more, state = _settled(board, chip, memory)
    return cost + more, state


def _settled(board: Game, chip: dict[int, int], memory: dict[int, int]) -> tuple[int, State]:
    """Return a state in which each point on chip has absorbed what it can; finished outputs are written once."""
    cost, changed = 0, True
    while changed:
        changed = False
        done = _done(board, chip)
        for point, mask in list(chip.items()):
            for k, reads in enumerate(board.terms[point]):
                if not mask >> k & 1 and reads & done == reads:
                    mask |= 1 << k
                    chip[point], changed = mask, True
        for point, mask in list(chip.items()):
            if board.asked >> point & 1 and mask == board.full[point] and memory.get(point) != mask:
                memory = memory | {point: mask}
                cost += 1
                if not board.read >> point & 1:
                    del chip[point]
    return cost, (tuple(sorted(chip.items())), tuple(sorted(memory.items())))
