"""The least off-chip traffic of a cascade for a buffer of a given size: terms that hold for every schedule.

All terms count words that any machine must move between a buffer of S words and what lies behind it, when it executes
the Einsums as the text writes them (computing an element again is allowed; another algorithm is another cascade).
Terms that could count the same word twice are never added: the bound is the largest of sums that are sound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from ..cascade import Cascade
from ..declarations import rank_of
from ..einsum import Einsum
from ..expr import Access, Apply, Expr, variables
from .demand import demands, writers
from .footprint import Boundary, Node, boundaries
from .indices import fits
from .needed import without_unused
from .passes import all_passes
from .points import batch_of, known_sizes, live_parts
from .reach import counted, defined, existing, touched

Array = Any
# Lines of a bound that are tried; each holds, more are only tighter.
MOST_LINES = 24
# Words moved per phase of the counting argument, as multiples of the buffer; each gives a bound, the best one is taken.
PHASES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class Contraction:
    """A sum of products of two inputs, seen as a (batched) matrix multiplication.

    Attributes:
        einsum: its name.
        operands: the two inputs.
        kept: it is an output; otherwise finished elements may vanish on chip.
        products: multiplications, batch ranks included.
        depth: products per element of the result; None where a predicate makes it vary.
        other_words: words of all other inputs and outputs, which are moved besides.
    """

    einsum: str
    operands: tuple[str, str]
    kept: bool
    products: int
    depth: int | None
    other_words: int

    def least_words(self, buffer_words: Array) -> Array:
        """Return the least words of its operands and results that are moved, for each buffer size.

        In a phase in which T words move, at most S + T words of operands are seen. Products of elements that are
        finished within the phase need whole columns; those of unfinished ones need a word of the result kept or
        moved, so Loomis and Whitney bound them by the root of the product of the three footprints.

        Source: Irony, Toledo, Tiskin (2004), the argument; Smith et al. (2019), the constant 2 N / sqrt(S) - 2 S for
            results that are written; Saha and Ye (2024), the order P M E^2 / S for scores that are not.
        """
        best = np.zeros_like(buffer_words)
        for multiple in PHASES:
            moved = multiple * buffer_words
            best = np.maximum(best, moved * (self.products / self._per_phase(buffer_words, moved) - 1.0))
        return best

    def _per_phase(self, buffer_words: Array, moved: Array) -> Array:
        seen = buffer_words + moved
        if self.kept:
            return (seen / 3.0) ** 1.5
        unfinished = ((2.0 * buffer_words + moved) / 3.0) ** 1.5
        return unfinished + seen**2 / (4.0 * (self.depth or 1))


@dataclass(frozen=True)
class PassTerm:
    """What the further passes over a rank must move when a fiber does not fit.

    Attributes:
        slopes: for each boundary (fibers * live flow, fibers * share) pairs; words >= max(flow - share * S).
    """

    rank: str
    boundaries: tuple[Boundary, ...]
    slopes: tuple[tuple[tuple[float, float], ...], ...]

    def least_words(self, buffer_words: Array) -> Array:
        """Return the least words that are moved a second time, for each buffer size.

        When a pass over fiber p ends, each path from an input to the next pass must be met by one of the S words
        on chip, or by a word that is loaded later. A flow through the paths in which no word on chip stands for more
        than `share` per fiber, and no moved word for more than it costs, gives flow - fibers * share * S.
        """
        total = np.zeros_like(buffer_words)
        for lines in self.slopes:
            best = np.zeros_like(buffer_words)
            for flow, share in lines:
                best = np.maximum(best, flow - share * buffer_words)
            total = total + best
        return total


@dataclass(frozen=True)
class Traffic:
    """Everything about a cascade's traffic that does not depend on the buffer; in words."""

    words: Mapping[str, int]
    pass_terms: tuple[PassTerm, ...]
    contractions: tuple[Contraction, ...]

    @property
    def compulsory_words(self) -> int:
        """Each input element that is needed read once, each output element written once."""
        return sum(self.words.values())

    def least_words(self, buffer_words: Array) -> Array:
        """Return the bound for each buffer size, in words."""
        buffers = np.asarray(buffer_words, dtype=float)
        best = np.full_like(buffers, float(self.compulsory_words))
        for term in self.pass_terms:
            best = np.maximum(best, self.compulsory_words + term.least_words(buffers))
        for c in self.contractions:
            best = np.maximum(best, c.other_words + c.least_words(buffers))
        return best


def traffic(cascade: Cascade, sizes: Mapping[str, int] | str) -> Traffic:
    """Return the terms that bound the traffic of a cascade.

    Args:
        sizes: as for `evaluate`; batch ranks that the text leaves out multiply everything.

    Raises:
        CascadeError: missing or illegal sizes.
    """
    known = known_sizes(cascade, sizes)
    cascade = without_unused(cascade)
    words = compulsory_words(cascade, known)
    terms = [pass_term(cascade, rank, known) for rank in ranks_with_passes(cascade)]
    found = [c for e in cascade.einsums for c in _contractions(cascade, e, known, words)]
    return Traffic(words, tuple(t for t in terms if t.slopes), tuple(found))


def ranks_with_passes(cascade: Cascade) -> tuple[str, ...]:
    """Return the ranks that need more than one pass; of a split the whole alone, for its parts are tiles of it."""
    inner = {p for parts in cascade.splits.values() for p in parts}
    return tuple(rank for rank, p in all_passes(cascade).items() if p.count > 1 and rank not in inner)


def compulsory_words(cascade: Cascade, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the words of each input that must be read and of each output that must be written, batch included."""
    batch = batch_of(cascade, sizes)
    needed = _needed(cascade, sizes)
    out = {s.tensor: batch * needed[s.tensor] for s in cascade.inputs if s.tensor in needed}
    for s in cascade.outputs:
        out[s.tensor] = batch * defined(cascade, cascade.einsum(s.tensor), sizes)
    return out


def _needed(cascade: Cascade, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the tensors on which some element of an output depends, with at least how many elements are read."""
    asked = demands(cascade, sizes)
    open_names = [s.tensor for s in cascade.outputs]
    most: dict[str, int] = {}
    done: set[str] = set()
    while open_names:
        name = open_names.pop()
        if name in done:
            continue
        done.add(name)
        for einsum, initial in writers(cascade, name):
            for demand in asked.get((name, initial), ()):
                for tensor, words in touched(cascade, einsum, sizes, demand=demand).items():
                    most[tensor] = max(most.get(tensor, 0), words)
                    if words:
                        open_names.append(tensor)
    return most


def pass_term(cascade: Cascade, rank: str, sizes: Mapping[str, int]) -> PassTerm:
    """Return what the passes over a rank beyond the first must move."""
    between = tuple(b for b in boundaries(cascade, rank, sizes) if b.countable)
    slopes = tuple(_slopes(cascade, b, sizes, len(between)) for b in between)
    used = [i for i, s in enumerate(slopes) if s]
    return PassTerm(rank, tuple(between[i] for i in used), tuple(slopes[i] for i in used))


def _slopes(
    cascade: Cascade, boundary: Boundary, sizes: Mapping[str, int], ended: int
) -> tuple[tuple[float, float], ...]:
    """Return the lines whose maximum bounds the words moved at one boundary: (height, loss per buffer word)."""
    if boundary.coarser is not None:
        fine = _slopes(cascade, replace(boundary, coarser=None), sizes, ended)
        return fine + _slopes(cascade, boundary.coarser, sizes, ended)
    existing, live = boundary.live(cascade, sizes)
    fibers = boundary.fibers(sizes)
    batch = batch_of(cascade, sizes)
    words = {n: boundary.words(n, sizes) for n in boundary.nodes if boundary.nodes[n].cuttable}
    if not words or live == 0:
        return ()
    supply = {
        n: cost_of_moving(boundary.nodes[n], ended) * boundary.distinct(cascade, n, sizes) for n in words
    }
    # Any share gives a bound; those at which one tensor's supply equals another's capacity are the corners.
    shares = {supply[a] / words[b] for a in words for b in words}
    most = max(supply[n] / words[n] for n in words)
    lines = []
    for share in sorted(s for s in shares if s <= most)[:MOST_LINES]:
        flow = boundary.flow({n: min(share * words[n], supply[n]) for n in words})
        if flow > 0:
            lines.append((batch * fibers * live * flow, batch * fibers * existing * share))
    return tuple(lines)


def cost_of_moving(node: Node, passes_ended: int) -> float:
    """Return the words moved for each word that a pass takes from off chip.

    What is given is read again. What was computed is read in each pass and written once for all of them, unless it is
    written anyway.
    """
    return 1.0 if node.given or node.asked_for else 1.0 + 1.0 / passes_ended


def _contractions(
    cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int], words: Mapping[str, int]
) -> list[Contraction]:
    """Return the products of two inputs that an Einsum sums, each with what it takes to bound its traffic."""
    first = einsum.all_reductions[:1]
    if not first or first[0].op != "sum" or len(einsum.all_reductions) > 1:
        return []
    given = {s.tensor for s in cascade.inputs}
    found = [a for a in _factors(einsum.value) if isinstance(a, Access) and a.tensor in given]
    out = []
    for a, b in combinations(found, 2):
        depth = _depth(cascade, einsum, a, b, sizes)
        if depth is None:
            continue
        kept = any(s.tensor == einsum.name for s in cascade.outputs)
        mine = {a.tensor, b.tensor} | ({einsum.name} if kept else set())
        other = sum(n for t, n in words.items() if t not in mine)
        products = _needed_points(cascade, einsum, sizes) * batch_of(cascade, sizes)
        out.append(Contraction(einsum.name, (a.tensor, b.tensor), kept, products, depth, other))
    return out


def _needed_points(cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int]) -> int:
    """Return at least how many points of an Einsum outside of blocks some output needs."""
    exists = existing(cascade, einsum)
    asked = demands(cascade, sizes).get((einsum.name, False), ())
    found = [counted(cascade, (*exists, *demand), einsum.variables, sizes) for demand in asked]
    return max(found, default=0)


def _factors(value: Expr) -> tuple[Expr, ...]:
    if isinstance(value, Apply) and value.op == "*":
        return _factors(value.args[0]) + _factors(value.args[1])
    return (value,)


def _depth(cascade: Cascade, einsum: Einsum, a: Access, b: Access, sizes: Mapping[str, int]) -> int | None:
    """Return the products per result of a contraction, or None where the argument does not apply."""
    if a.tensor == b.tensor or not (_one_to_one(cascade, a) and _one_to_one(cascade, b)):
        return None
    in_a = {v for i in a.indices for v in variables(i)}
    in_b = {v for i in b.indices for v in variables(i)}
    reduced = set(einsum.reduced)
    if reduced != in_a & in_b & reduced or not set(einsum.variables) <= in_a | in_b:
        return None
    if any(set(variables(p)) & reduced for p in live_parts(cascade, einsum)):
        return None
    return math.prod(sizes[rank_of(v)] for v in reduced)


def _one_to_one(cascade: Cascade, access: Access) -> bool:
    """Tell whether different values of an access's variables are different elements."""
    ranks = cascade.signatures[access.tensor].ranks
    names = [v for i in access.indices for v in variables(i)]
    if len(set(names)) != len(names):
        return False
    return all(fits(cascade, r, i) or not variables(i) for r, i in zip(ranks, access.indices, strict=True))
