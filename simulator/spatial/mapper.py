"""The search for a mapping: what is fused, which array does what, which tiles; with the distance to the bound."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real

from einsum_cascade.analysis.bounds import bounds
from einsum_cascade.cascade import Cascade, require
from einsum_cascade.declarations import variable_of
from einsum_cascade.errors import MappingError, glimpse, nearest
from einsum_cascade.sizes import parse_sizes, resolve, stated_parts
from mappings.binding import SpatialMapping
from mappings.expression import evaluate_expression

from ..hardware.model import SpatialChip
from ..result import Estimate
from .deepening import deepened
from .factors import divisor, divisors
from .floors import CLOSE
from .hierarchy import deep, grown, pairs
from .model import simulate
from .placement import shared_memories
from .search import EFFORT, OBJECTIVES, Search, merit_of
from .thrift import thriftier, thrifty
from .tiling import Merit, Tiled
from .writing import write

# Mappings that are looked at with tiles in registers, the best ones without them.
_DEEPENED = 3
_MOST_EFFORT = 1 << 48
# Inner tiles of an iterated rank that are tried, as multiples of the shortest axis.
_INNER = (4.0, 2.0, 1.0, 0.5)


@dataclass(frozen=True, slots=True)
class Found:
    """The best mapping of a search.

    Attributes:
        gap: its traffic over the least traffic that any schedule needs with all the memory on the chip.
        evaluated: structures of loops that were counted, each for all its tile sizes at once.
        seconds: of the search.
    """

    mapping: SpatialMapping
    estimate: Estimate
    gap: float
    evaluated: int
    seconds: float


def find_mapping(
    cascade: Cascade,
    sizes: Mapping[str, int] | str,
    chip: SpatialChip,
    *,
    objective: str = "latency_s",
    effort: int = EFFORT,
    slack: float = 0.01,
) -> Found:
    """Return the best mapping that the search finds.

    On a chip of several levels of memory that is done for each pair of them, and what is found is laid on the others:
    those between and outside keep larger tiles or whole tensors, also from phase to phase, those inside smaller ones.

    It goes through the ways to fuse consecutive Einsums; for each through loop orders, the rank that the passes of a
    phase stream over, and what becomes of a tensor that a later pass needs again: it is kept whole, written out and
    read back, or computed again. Einsums go to the arrays that balance best. Tiles are divisors of their ranks, and at
    the end those between them that leave a shorter last tile. Where registers hold more than a word of each operand,
    elements then take small tiles of their own.

    Args:
        cascade: the algorithm.
        sizes: by rank, batch ranks included, or a text such as `BERT/64K`. A part of a rank that the cascade itself
            splits (M0 of M = M1 * M0) is searched too, unless it differs from what would be taken without a word.
        chip: the machine.
        objective: `latency_s`, `energy_j` or `traffic_bytes`; ties go to the less traffic, then to the less energy, as
            far as other tiles and other ways to run the same blocks are looked at. Or
            a formula over these, such as `latency_s * energy_j`: the best by it of what is found for each of the three,
            since blocks that are searched one by one add up in these alone.
        effort: structures of loops without progress after which a block is left, shared by the Einsums of the
            cascade. More is worse for no block; where blocks do not agree on tiles, a search a quarter as long is
            looked at too.
        slack: for `latency_s`, the share of the best latency that is given up where that lowers the product of energy
            and delay: the last percent of speed may double the energy.

    Raises:
        MappingError: no spatial chip, an unknown objective, no effort, a slack below 0, or nothing fits.

    >>> from einsum_cascade import zoo
    >>> from ..hardware.reader import load_hardware
    >>> sizes = {"B": 64, "H": 12, "E": 64, "F": 64, "P": 65536, "M": 65536}
    >>> found = find_mapping(zoo.load("attention_3pass"), sizes, load_hardware("fusemax"))
    >>> {name: copy.of for name, copy in found.mapping.nest.recompute.items()}
    {'QK_2': 'QK', 'SN_3': 'SN', 'QK_3': 'QK'}
    """
    require(cascade)
    _check(objective, effort, slack)
    if not isinstance(chip, SpatialChip):
        raise MappingError(f"find_mapping needs a spatial chip; {getattr(chip, 'name', chip)} is none")
    begin = time.perf_counter()
    sizes = parse_sizes(sizes, cascade) if isinstance(sizes, str) else resolve(cascade, sizes)
    searches: dict[tuple[str, float], tuple[list[_Written], int]] = {}
    evaluated = 0

    def towards(one: str, tolerance: float) -> list[_Written]:
        if (one, tolerance) not in searches:
            searches[one, tolerance] = _searched(
                cascade, sizes, chip, one, effort=effort, tolerance=tolerance
            )
        return searches[one, tolerance][0]

    def best_of(found: Sequence[_Written], one: str, tolerance: float) -> _Written:
        nonlocal evaluated
        every = list(found)
        for written in sorted(found, key=lambda w: _merit(w, one))[:_DEEPENED]:
            deep_one, counted = _in_registers(cascade, sizes, chip, written, one, tolerance)
            every.append(deep_one)
            evaluated += counted
        return _chosen(every, one, tolerance)

    def serving(one: str) -> _Written:
        tolerance = 1 + slack if one == "latency_s" else 1.0
        others = [w for other in _also(one, chip) for w in towards(other, 1.0)]
        return best_of([*towards(one, tolerance), *others], one, tolerance)

    if objective in OBJECTIVES:
        best = serving(objective)
    else:
        best = best_of([serving(one) for one in OBJECTIVES], objective, 1.0)
    evaluated += sum(counted for _, counted in searches.values())
    gap = _gap(float(best.estimate.traffic_bytes), least_traffic_bytes(cascade, best.settled, chip))
    return Found(best.mapping, best.estimate, gap, evaluated, time.perf_counter() - begin)


@dataclass(frozen=True, slots=True)
class _Written:
    """A mapping and what it costs, with the sizes of what the cascade itself splits."""

    settled: Mapping[str, int]
    mapping: SpatialMapping
    estimate: Estimate


def _written(
    cascade: Cascade,
    sizes: Mapping[str, int],
    chip: SpatialChip,
    settled: Mapping[str, int],
    path: Sequence[Tiled],
) -> _Written:
    mapping = write(cascade, settled, path, "found")
    return _Written(settled, mapping, simulate(cascade, sizes, chip, mapping))


def _also(objective: str, chip: SpatialChip) -> tuple[str, ...]:
    """Return what else is searched for.

    The least energy has no bound that is close, so that its own search may end far from it. Where nothing but registers
    is on the chip, the least traffic depends on what is put there at the end, which a search for traffic does not see.
    """
    if objective == "energy_j":
        return "traffic_bytes", "latency_s"
    return ("energy_j",) if objective == "traffic_bytes" and not shared_memories(chip) else ()


def _searched(
    cascade: Cascade,
    sizes: Mapping[str, int],
    chip: SpatialChip,
    objective: str,
    *,
    effort: int,
    tolerance: float,
) -> tuple[list[_Written], int]:
    """Return the mappings found on the chip as it is and from each pair of its levels, and the structures counted."""
    candidates, evaluated = _best(cascade, sizes, chip, objective, effort=effort, tolerance=tolerance)
    if objective == "latency_s":
        first = candidates[0]
        before = first.search.evaluated
        candidates[0] = replace(first, path=thriftier(first.search, first.path, first.merit[0] * CLOSE))
        evaluated += first.search.evaluated - before
    found = [_written(cascade, sizes, chip, c.settled, c.path) for c in candidates]
    if deep(chip):
        for settled, path, counted in _on_levels(
            cascade, sizes, chip, objective, effort=effort, tolerance=tolerance
        ):
            evaluated += counted
            if path is not None:
                found.append(_written(cascade, sizes, chip, settled, path))
    return found, evaluated


def _on_levels(
    cascade: Cascade,
    sizes: Mapping[str, int],
    chip: SpatialChip,
    objective: str,
    *,
    effort: int,
    tolerance: float,
) -> Iterator[tuple[Mapping[str, int], tuple[Tiled, ...] | None, int]]:
    """Yield the blocks found from each pair of levels, with the sizes of what the cascade itself splits."""
    for pair, two in pairs(chip):
        try:
            (found, *_), counted = _best(cascade, sizes, two, objective, effort=effort, tolerance=tolerance)
        except MappingError:
            continue  # nothing fits the inner one; the search over the whole chip has said whether that matters
        path, more = grown(found.path, found.settled, chip, pair, objective)
        yield found.settled, path, counted + more


def _in_registers(
    cascade: Cascade,
    sizes: Mapping[str, int],
    chip: SpatialChip,
    best: _Written,
    objective: str,
    tolerance: float,
) -> tuple[_Written, int]:
    """Return a mapping with tiles in the registers of elements where that is better, and how many were tried."""
    tried = 0
    slowest = (
        float(best.estimate.latency_s) * CLOSE if tolerance > 1 else math.inf
    )  # slack is spent only once
    for name in [e.name for e in cascade.einsums]:
        for mapping in deepened(cascade, best.settled, chip, best.mapping, name):
            tried += 1
            try:
                estimate = simulate(cascade, sizes, chip, mapping)
            except MappingError:
                continue  # what is not counted exactly, or finds no room beside what stays there
            if estimate.latency_s <= slowest:
                best = _chosen([best, _Written(best.settled, mapping, estimate)], objective, tolerance)
    return best, tried


def _chosen(found: Sequence[_Written], objective: str, tolerance: float) -> _Written:
    """Return the best mapping; within a tolerance of the least latency, that of least energy times delay."""
    if tolerance == 1:
        return min(found, key=lambda w: _merit(w, objective))
    most = min(float(w.estimate.latency_s) for w in found) * tolerance
    able = [w for w in found if w.estimate.latency_s <= most]
    return min(able, key=lambda w: float(w.estimate.latency_s * w.estimate.energy_j))


def _merit(written: _Written, objective: str) -> Merit:
    e = written.estimate
    return (
        _value(objective, {n: float(getattr(e, n)) for n in OBJECTIVES}),
        float(e.traffic_bytes),
        float(e.energy_j),
    )


def _value(objective: str, names: Mapping[str, float]) -> float:
    """Return an objective, one of those named or a formula over them."""
    return (
        names[objective]
        if objective in names
        else float(evaluate_expression(objective, names, where="objective"))
    )


def _check(objective: str, effort: int, slack: float) -> None:
    if not isinstance(objective, str):
        raise MappingError(f"objective: expected a column or a formula over some, found {glimpse(objective)}")
    for what, number in (("effort", effort), ("slack", slack)):
        if not isinstance(number, Real):
            raise MappingError(f"{what}: expected a number, found {glimpse(number)}")
    if objective not in OBJECTIVES and objective.isidentifier():
        raise MappingError(f"unknown objective '{objective}'; {nearest(objective, OBJECTIVES)}")
    _value(objective, dict.fromkeys(OBJECTIVES, 1.0))
    if not any(re.search(rf"\b{name}\b", objective) for name in OBJECTIVES):
        raise MappingError(
            f"objective: '{objective}' names none of {', '.join(OBJECTIVES)}, so that all mappings are as good"
        )
    if not 1 <= effort <= _MOST_EFFORT:
        limit = "least 1" if effort < 1 else "most 2^48"
        raise MappingError(f"effort: expected a whole number of at {limit}, found {effort}")
    if not 0 <= slack < math.inf:
        raise MappingError(
            f"slack: expected a share of the latency such as 0.01, at least 0, found {slack:g}"
        )


def _gap(moved: float, least: float) -> float:
    """Return traffic over the least traffic, also where a `where` leaves nothing that must be moved."""
    if least == 0:
        return math.inf if moved else 1.0
    return moved / least


@dataclass(frozen=True, slots=True)
class _Candidate:
    """The best blocks for some sizes of what the cascade itself splits."""

    search: Search
    settled: Mapping[str, int]
    path: tuple[Tiled, ...]

    @property
    def merit(self) -> Merit:
        """Objective, traffic and energy of all blocks together."""
        return merit_of(self.path)


def _best(
    cascade: Cascade,
    sizes: Mapping[str, int],
    chip: SpatialChip,
    objective: str,
    *,
    effort: int,
    tolerance: float,
) -> tuple[list[_Candidate], int]:
    """Return the best blocks over all sizes of what the cascade itself splits, and the structures counted.

    Behind blocks that give up speed for less energy stand the fastest: with tiles in registers, which come later, these
    may be faster by more than was given up.
    """
    searches: list[Search] = []
    problem: MappingError | None = None
    found: list[_Candidate] = []
    best: Merit | None = None
    for settled in _settled(cascade, sizes, chip):
        search = Search(cascade, settled, chip, objective, effort)
        searches.append(search)
        limit = (best[0] * tolerance, math.inf, math.inf) if tolerance > 1 and best else best
        try:
            path = search.best(limit)
        except MappingError as e:
            problem = e
            continue
        if path is not None:
            found.append(_Candidate(search, settled, path))
            best = min(best or found[-1].merit, found[-1].merit)
    if best is None:
        raise problem or MappingError(f"{cascade.name} has no Einsums")
    if objective != "latency_s":
        return [min(found, key=lambda c: c.merit)], sum(s.evaluated for s in searches)
    latency_s = best[0] * max(tolerance, CLOSE)
    able = [replace(c, path=thrifty(c.search, c.path, latency_s)) for c in found if c.merit[0] <= latency_s]
    if tolerance == 1:  # all as fast, but for rounding
        chosen = min(able, key=lambda c: c.merit[1:])
    else:
        chosen = min(able, key=lambda c: c.merit[0] * c.merit[2])
    out = [chosen]
    if tolerance > 1:
        out.append(min(found, key=lambda c: c.merit))
    return out, sum(s.evaluated for s in searches)


def least_traffic_bytes(cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip) -> float:
    """Return the bound on traffic to the outermost memory, given every word on the chip, registers included.

    Beside what its memories hold, a chip holds what its elements work on in a cycle: a word of A that comes for a row
    of elements serves all of them, whether or not a register keeps it.
    """
    at_work = max((len(e.reads) + 1 for e in cascade.einsums), default=0) * chip.word_bytes
    held = on_chip_bytes(chip) + at_work * sum(array.elements for array in chip.arrays.values())
    found = bounds(cascade, sizes, buffer=held if held < math.inf else None, word=chip.word_bytes)
    return float(found.traffic_bytes)


def on_chip_bytes(chip: SpatialChip) -> float:
    """Return the bytes that all memories inside the outermost one hold together.

    >>> from ..hardware.reader import load_hardware
    >>> on_chip_bytes(load_hardware("fusemax", N=16, L3="1 KiB")) == 1024 + 256 * 24 + 16 * 64
    True
    """
    out = 0.0
    for name, memory in chip.memories.items():
        stores = not memory.part_of and not memory.passes_on
        if name != chip.outermost and stores:
            out += memory.capacity_bytes * (chip.arrays[memory.of].elements if memory.per_element else 1)
    return out


def _settled(cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip) -> Iterator[Mapping[str, int]]:
    """Yield the sizes with those of the inner parts of iterated ranks (M0 of M = M1 * M0) that are worth a try."""
    iterated = {
        variable_of(r) for r in cascade.rank_names if any(b == variable_of(r) for _, b in cascade.statements)
    }
    inner: dict[str, tuple[str, str]] = {}
    for whole, parts in cascade.splits.items():
        steps = [p for p in parts if variable_of(p) in iterated]
        if len(parts) == 2 and len(steps) == 1:
            inner[whole] = steps[0], next(p for p in parts if p not in steps)
    if not inner or stated_parts(cascade, sizes):
        yield sizes
        return
    axis = min(extent for array in chip.arrays.values() for extent in array.shape)
    widths = [max(1, int(axis * share)) for share in _INNER]
    least = max(len(divisors(sizes[whole])) for whole in inner)
    widths += [axis >> k for k in range(2, least) if axis >> k]
    for width in dict.fromkeys(widths):
        out = dict(sizes)
        for whole, (step, part) in inner.items():
            out[part] = divisor(out[whole], width)
            out[step] = out[whole] // out[part]
        out.update({alias: out[of] for alias, of in cascade.aliases.items()})
        yield out
