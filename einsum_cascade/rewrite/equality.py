"""Are two cascades equal? Asked of the evaluator, on random inputs and on large ones that break what is unstable."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..again import ALIKE, Evaluated, evaluated, evaluated_after
from ..cascade import Cascade
from ..errors import CascadeError
from ..evaluator import check_memory, compared, difference, random_inputs, sizes_of_use
from ..expr import Var, accesses, walk
from ..ops import REDUCTION
from ..sizes import SEQUENCE_RANKS, resolve
from .least import least_sizes

# Float64 sums of a few hundred terms in another order differ by some 1e-14 of the largest; the rest is room for
# sums of squares, which lose digits when a variance is taken from them.
TOLERANCE = 1e-9
# Inputs so large that their products pass 1e3, where exp without a maximum overflows; and some between, for which
# the original may still be finite where a form that goes by a running sum is not.
LARGE = (5.0, 30.0)
SEEDS = (0, 1)
# Queries beyond the last key, so many that a window leaves some of them without any.
BEYOND = 9
# What no random input passes, so that a comparison with it is true everywhere, or nowhere.
FAR = 16.0
# How much larger ranks are made, one after the other, where a text cannot be evaluated at the usual sizes.
GROWTH = (1, 4, 16)
# How often sizes are fitted to each other: a rank that grows may be read along another, which then has to grow.
ROUNDS = 3
# How many blocks of one element there are at most: a block takes the evaluator some milliseconds.
MOST_BLOCKS = 16


Sizes = dict[str, int]


@dataclass(frozen=True)
class _Example:
    """Inputs, whether they are large, and what the original makes of them."""

    is_large: bool
    inputs: Mapping[str, Any]
    result: Evaluated

    @property
    def has_result(self) -> bool:
        """Whether any point of an output exists: where all fall outside their tensors, anything would be equal."""
        found = (self.result.tensors[s.tensor].present for s in self.result.cascade.outputs)
        return any(present is None or present.any() for present in found)


def equal(
    a: Cascade, b: Cascade, rank: str, *, large: Sequence[float] = LARGE, longest: int | None = None
) -> bool:
    """Tell whether two cascades give the same outputs at small random sizes, also for large inputs.

    Where the first is itself not finite on large inputs they decide nothing. Ranks that are too small for its text,
    as two buckets are where it divides them into four, are made larger.

    Args:
        rank: the rank that one of them may split, so that both sizes of its parts are tried.
        large: by how much inputs are scaled that should break what is unstable.
        longest: the largest size of an inner part for which the second is meant; any unless given.

    Raises:
        CascadeError: the first cannot be evaluated at any of the sizes that are tried.
    """
    return Trials(a, alike=0.0, large=large, longest=longest).hold(b, rank)


class Trials:
    """The examples on which cascades are held against an original, and the last that was equal; local to one search.

    A step of a search changes little: what it leaves is taken over from the last cascade that was equal.

    Args:
        alike: how far, relative to its largest number, a tensor may be from what it was to be taken over.
        large: by how much inputs are scaled that should break what is unstable.
        longest: the largest size of an inner part of the rank; any unless given.
    """

    def __init__(
        self,
        original: Cascade,
        *,
        alike: float = ALIKE,
        large: Sequence[float] = LARGE,
        longest: int | None = None,
    ) -> None:
        self.original = original
        self._longest = longest
        self._alike = alike
        self._large = tuple(large)
        self._known: dict[tuple[tuple[tuple[str, int], ...], int], tuple[_Example, ...]] = {}
        self._last: dict[tuple[tuple[tuple[str, int], ...], int], tuple[Evaluated, ...]] = {}
        self._inexact: set[Cascade] = set()

    def hold(self, cascade: Cascade, rank: str) -> bool:
        """Tell whether a cascade is equal to the original; `equal` says how."""
        fresh = {}
        trials = self._sizes(cascade, rank)
        for _, theirs in trials:
            check_memory(cascade, sizes_of_use(cascade, theirs))
        for seed in SEEDS:
            for mine, theirs in trials:
                found = self._agreeing(cascade, mine, theirs, seed)
                if found is None:
                    return False
                fresh[_key(mine, seed)] = found
        self._last |= fresh
        if not all(e.exact for found in fresh.values() for e in found):
            self._inexact.add(cascade)
        return True

    def confirm(self, cascade: Cascade, rank: str) -> bool:
        """Tell whether a cascade that held is equal also where nothing is taken over that came out but nearly alike."""
        if cascade in self._inexact and equal(self.original, cascade, rank):
            self._inexact.remove(cascade)
        return cascade not in self._inexact

    def _sizes(self, cascade: Cascade, rank: str) -> list[tuple[Sizes, Sizes]]:
        """Return the smallest of the sizes to try at which the original can be evaluated, and gives something."""
        for times in GROWTH[:-1]:
            try:
                trials = self._trials(cascade, rank, times)
                if all(self._examples(mine, SEEDS[0])[0].has_result for mine, _ in trials):
                    return trials + self._lone(cascade, rank)
            except CascadeError:
                continue
        return self._trials(cascade, rank, GROWTH[-1])

    def _trials(self, cascade: Cascade, rank: str, times: int) -> list[tuple[Sizes, Sizes]]:
        return trial_sizes(self.original, cascade, rank, times=times, longest=self._longest)

    def _lone(self, cascade: Cascade, rank: str) -> list[tuple[Sizes, Sizes]]:
        """Return sizes at which the rank has one element, if there are such: its removal leaves a fiber without any."""
        try:
            mine, theirs = _sizes_of(self.original, cascade, rank, (1, 1), 0, 1, {})
            return [(mine, theirs)] if self._examples(mine, SEEDS[0])[0].has_result else []
        except CascadeError:  # its text reads further, or its parts follow from other ranks
            return []

    def _agreeing(
        self, cascade: Cascade, mine: Sizes, theirs: Sizes, seed: int
    ) -> tuple[Evaluated, ...] | None:
        """Return a cascade evaluated on the examples of some sizes, or None where it differs from the original."""
        examples = self._examples(mine, seed)
        last = self._last.get(_key(mine, seed), tuple(e.result for e in examples))
        found = []
        for example, before in zip(examples, last, strict=True):
            found.append(evaluated_after(before, cascade, theirs, example.inputs, alike=self._alike))
            if not _agree(self.original, example, found[-1]):
                return None
        return tuple(found)

    def _examples(self, sizes: Sizes, seed: int) -> tuple[_Example, ...]:
        """Return inputs, plain ones first and then large ones, and what they give."""
        key = _key(sizes, seed)
        if key not in self._known:
            self._known[key] = tuple(
                _Example(is_large, inputs, evaluated(self.original, sizes, inputs))
                for is_large, inputs in _inputs(self.original, sizes, seed, self._large)
            )
        return self._known[key]


def _key(sizes: Sizes, seed: int) -> tuple[tuple[tuple[str, int], ...], int]:
    return tuple(sizes.items()), seed


def trial_sizes(
    a: Cascade, b: Cascade, rank: str, *, times: int = 1, longest: int | None = None
) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Return small sizes for both cascades; a rank that is split takes several blocks of several elements.

    What the first writes at places of numbers falls inside its ranks, as far as they stay small.

    Args:
        times: by how much the other ranks are larger than usual.
        longest: the largest size of an inner part; where the text needs more elements, there are more blocks.
    """
    out = []
    for outer, inner, more in ((3, 4, 0), (4, 1, BEYOND)):
        blocks, least = (outer, inner), dict[str, int]()
        for _ in range(ROUNDS):
            mine = _sizes(a, _wanted(a, b, rank, blocks), more, times, least)
            least |= {r: max(n, least.get(r, 1)) for r, n in least_sizes(a, mine).items()}
            here = _one_name(a, least).get(rank, 1)
            blocks = (
                _blocks(here, outer, inner, longest) if inner > 1 else (max(outer, min(here, MOST_BLOCKS)), 1)
            )
        out.append(_sizes_of(a, b, rank, blocks, more, times, least))
    return out


def _blocks(elements: int, outer: int, inner: int, longest: int | None) -> tuple[int, int]:
    """Return so many blocks of so many elements that there are as many as needed."""
    found = max(inner, -(-elements // outer))
    if longest is None or found <= longest:
        return outer, found
    return max(outer, min(-(-elements // longest), MOST_BLOCKS)), longest


def _sizes_of(
    a: Cascade,
    b: Cascade,
    rank: str,
    blocks: tuple[int, int],
    more: int,
    times: int,
    least: Mapping[str, int],
) -> tuple[Sizes, Sizes]:
    """Return sizes for both cascades where a rank has so many blocks of so many elements; else as `_sizes`."""
    wanted = _wanted(a, b, rank, blocks)
    mine = _sizes(a, wanted, more, times, least)
    shared = {r: n for r, n in {**mine, **wanted}.items() if r in b.free_ranks}
    return mine, resolve(b, {**_parts_of_others(a, b, mine), **shared})


def _wanted(a: Cascade, b: Cascade, rank: str, blocks: tuple[int, int]) -> dict[str, int]:
    """Return the sizes of a rank and of its parts, for so many blocks of so many elements."""
    outer, inner = blocks
    wanted = {rank: outer * inner}
    parts = b.splits.get(rank) or a.splits.get(rank)
    if parts is not None:
        wanted |= dict(zip(parts, (outer, *(1,) * (len(parts) - 2), inner), strict=True))
    if rank in a.aliases:
        wanted[a.aliases[rank]] = outer * inner
    return wanted


def _one_name(cascade: Cascade, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the largest size of each rank under any of its names."""
    found: dict[str, int] = {}
    for rank, n in sizes.items():
        meant = cascade.aliases.get(rank, rank)
        for name in (meant, *(r for r, of in cascade.aliases.items() if of == meant)):
            found[name] = max(n, found.get(name, 1))
    return found


def _parts_of_others(a: Cascade, b: Cascade, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return sizes for the parts of ranks that the second cascade alone splits: at least two blocks where it can be."""
    found: dict[str, int] = {}
    for whole, parts in b.splits.items():
        if whole in a.splits or whole not in sizes or not set(parts) <= set(b.free_ranks):
            continue
        n = sizes[whole]
        inner = max((t for t in range(1, n // 2 + 1) if n % t == 0), default=1)
        found |= dict(zip(parts, (n // inner, *(1,) * (len(parts) - 2), inner), strict=True))
    return found


def _sizes(
    cascade: Cascade, wanted: Mapping[str, int], more: int, times: int, least: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return a size for every rank: other ranks 2, 3, ..., those that are only numbers (a window) 2.

    Args:
        more: queries beyond the last key.
        times: by how much the other ranks are larger.
        least: what ranks have at least, the wanted ones aside.
    """
    floor = _one_name(cascade, least or {})
    axes = {r for s in cascade.signatures.values() for r in s.ranks}
    walked = {n.name for e, _ in cascade.statements for n in walk(e.value) if isinstance(n, Var)}
    given: dict[str, int] = {
        r: n for r, n in wanted.items() if r in cascade.free_ranks or r in cascade.splits
    }
    parts = {p for whole, names in cascade.splits.items() if whole in given for p in names}
    for i, r in enumerate(cascade.free_ranks):
        if r in given or (r in parts and r not in wanted):
            continue
        only_number = r not in axes and r[0].lower() + r[1:] not in walked
        given[r] = times * max(2 if only_number else 2 + i % 3, _least_of(cascade, r, floor))
    # A query per key, so that masks by position (m <= p) have something to keep and something to remove; and keys
    # enough for a window.
    for r in SEQUENCE_RANKS:
        if r in given and r not in wanted and r not in parts:
            given[r] = max(given[r], max(wanted.values()) + more)
    return resolve(cascade, given)


def _least_of(cascade: Cascade, rank: str, floor: Mapping[str, int]) -> int:
    """Return the least size of a rank: its own, or as the innermost part of another what that one needs."""
    wholes = (w for w, parts in cascade.splits.items() if parts[-1] == rank)
    return max(floor.get(rank, 1), *(-(-floor.get(w, 1) // 2) for w in wholes), 1)


def _agree(original: Cascade, example: _Example, found: Evaluated) -> bool:
    # Weights of large scores are 0 or 1 but for rounding, which then decides what is selected: only overflow is told.
    selects = any(REDUCTION[r.op].index for e in original.einsums for r in e.reductions)
    left, right = example.result.outputs(), found.outputs()
    if left.keys() != right.keys():
        return False
    for t in left:
        if example.is_large and not np.isfinite(left[t]).all():
            continue
        if example.is_large and selects and np.isfinite(right[t]).all():
            continue
        if left[t].size != right[t].size or not _close(left[t], right[t]):
            return False
    return True


def _inputs(
    cascade: Cascade, sizes: Sizes, seed: int, scales: Sequence[float]
) -> list[tuple[bool, dict[str, Any]]]:
    """Return inputs, plain ones first and then large ones, each with True where it is large."""
    plain = random_inputs(cascade, sizes, seed=seed)
    indices = {s.tensor for s in cascade.inputs if _indexes(cascade, s.tensor)}
    masks = [t for t in compared(cascade) if t in plain]
    kept = {*masks, *indices}
    large = [{t: x if t in kept else x * much for t, x in plain.items()} for much in scales]
    sides = (*_one_sided(plain, masks, indices, seed), *_beyond(plain, _limits(cascade, masks)))
    examples = [(False, x) for x in (plain, *sides)]
    return examples + [(True, x) for x in large]


def _one_sided(
    plain: Mapping[str, Any], masks: Sequence[str], indices: Iterable[str], seed: int
) -> list[dict[str, Any]]:
    """Return inputs whose masks are equal to nothing, or are all 0: one of both leaves rows without any element."""
    if not masks:
        return []
    rng = np.random.default_rng(seed)
    odd = {t: rng.standard_normal(plain[t].shape) for t in masks if t not in indices}
    return [{**plain, **odd}, {**plain, **{t: np.zeros_like(plain[t]) for t in masks}}]


def _limits(cascade: Cascade, masks: Sequence[str]) -> list[str]:
    """Return the inputs that predicates read otherwise than by asking whether they equal something."""
    given = {s.tensor for s in cascade.inputs}
    reads = (a for e, _ in cascade.statements if e.where is not None for a in accesses(e.where))
    return [t for t in dict.fromkeys(a.tensor for a in reads) if t in given.difference(masks)]


def _beyond(plain: Mapping[str, Any], limits: Sequence[str]) -> list[dict[str, Any]]:
    """Return inputs that keep or remove everything by a limit: all 0, and far below and above it, turn about."""
    if not limits:
        return []
    far = [{t: FAR * (-1) ** (i + side) for i, t in enumerate(limits)} for side in (0, 1)]
    return [
        {**plain, **{t: np.full_like(plain[t], x[t]) for t in limits}}
        for x in (dict.fromkeys(limits, 0), *far)
    ]


def _close(left: Any, right: Any) -> bool:
    apart = difference(right.reshape(left.shape), left)
    return math.isfinite(apart) and apart <= TOLERANCE


def _indexes(cascade: Cascade, tensor: str) -> bool:
    """Tell whether an input stands inside an index, where it must stay a small whole number."""
    for einsum, _ in cascade.statements:
        for access in einsum.reads:
            if any(inner.tensor == tensor for i in access.indices for inner in accesses(i)):
                return True
    return False
