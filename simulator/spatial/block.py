"""Einsums that run together tile by tile: in which pass each stands, and what becomes of what passes between them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of, variable_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, variables
from mappings.loopnest import Copy

from ..identity import remembered
from .groups import Group, group
from .recompute import with_copies

# What becomes of a tensor that a later pass over the streamed rank reads again.
HOLD, SPILL, AGAIN = "hold", "spill", "again"
_FATES = (HOLD, AGAIN, SPILL)
_MOST_TENSORS = 3  # all combinations of fates up to here, one tensor at a time beyond
_MOST_RANKS = 4  # all loop orders up to here, only the innermost loop is varied beyond


@dataclass(frozen=True)  # without slots, so that what follows from it is derived once
class Block:
    """Einsums of one phase, sizes and arrays still open.

    All of them step together over the tiles of the fused ranks; inside, those of one pass step together over the
    tiles of the streamed rank. A pass begins when what it reads of the pass before is complete.

    Attributes:
        cascade: the algorithm, with the Einsums that this block computes again.
        einsums: in order of execution.
        fused: ranks of the shared outer loops, outermost first; every Einsum has them.
        stream: the rank over which the Einsums of a pass step together, or the empty string.
        iterated: whether that is the rank of an iterate block.
        stage: by Einsum: 2 k in pass k over the streamed rank, 2 k + 1 after it.
        spilled: tensors that a later pass reads back from the outermost memory.
        copies: Einsums that are computed again.
        order: ranks with loops at the outermost memory, outermost first.
        tiled: whether ranks that are neither fused nor streamed may be cut into tiles too.
        direct: tensors that go between the outermost memory and the arrays without a stay in between.
        origin: the algorithm as it was given.
    """

    cascade: Cascade
    einsums: tuple[Einsum, ...]
    fused: tuple[str, ...] = ()
    stream: str = ""
    iterated: bool = False
    stage: Mapping[str, int] = field(default_factory=dict)
    spilled: frozenset[str] = frozenset()
    copies: Mapping[str, Copy] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    tiled: bool = False
    direct: frozenset[str] = frozenset()
    origin: Cascade | None = None

    @cached_property
    def given(self) -> Cascade:
        """The algorithm as it was given, without what is computed again."""
        return self.origin or self.cascade

    @cached_property
    def originals(self) -> Mapping[str, Einsum]:
        """By Einsum of the block, that of the algorithm as it was given: the one that it is a copy of, or itself."""
        known = {e.name: e for e in self.given.einsums}
        return {name: known[self.copies[name].of if name in self.copies else name] for name in self.by_name}

    @cached_property
    def by_name(self) -> Mapping[str, Einsum]:
        """The Einsums by name."""
        return {e.name: e for e in self.einsums}

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """Ranks whose loops Einsums share: the fused ones, then the streamed one."""
        return (*self.fused, *([self.stream] if self.stream else []))

    @cached_property
    def ranks(self) -> tuple[str, ...]:
        """Ranks that can be cut into tiles: not those that the cascade itself splits."""
        found = dict.fromkeys(rank_of(v) for e in self.einsums for v in e.variables)
        return tuple(r for r in found if r not in self.cascade.splits)

    @cached_property
    def asked_for(self) -> frozenset[str]:
        """Tensors of the block that somebody outside it needs."""
        names = frozenset(self.by_name)
        outside = (read_by(e) for e in self.cascade.einsums if e.name not in names)
        return names & frozenset(s.tensor for s in self.cascade.outputs).union(*outside)

    @cached_property
    def readers(self) -> Mapping[str, tuple[Einsum, ...]]:
        """By tensor of the block, the Einsums of the block that read it."""
        out: dict[str, list[Einsum]] = {name: [] for name in self.by_name}
        for e in self.einsums:
            for tensor in read_by(e) & self.by_name.keys():
                out[tensor].append(e)
        return {name: tuple(found) for name, found in out.items()}

    def own(self, einsum: Einsum) -> tuple[str, ...]:
        """Return the ranks of an Einsum whose loops it shares with nobody."""
        return tuple(r for r in map(rank_of, einsum.variables) if r not in self.shared)

    def apart(self, tensor: str) -> bool:
        """Tell whether a tensor waits for a later pass, as a state waits for the next generation."""
        waits = any(self.stage[r.name] != self.stage[tensor] for r in self.readers[tensor])
        return tensor in self.cascade.states or (waits and tensor not in self.spilled)


@dataclass(frozen=True)  # without slots, so that the block is made once
class Way:
    """A way to run some Einsums in one phase, the block not yet made.

    Attributes:
        spilled: tensors that a later pass reads back from the outermost memory.
        cut: whether loops of single Einsums are cut although several run together.
        make: makes the block; None where it would be that of another way.
    """

    spilled: frozenset[str]
    cut: bool
    make: Callable[[], Block | None]

    @cached_property
    def block(self) -> Block | None:
        """The block; None where it would be that of another way."""
        return self.make()


@remembered(maxsize=4096)
def read_by(einsum: Einsum) -> frozenset[str]:
    """Return the tensors that an Einsum reads."""
    return frozenset(a.tensor for a in einsum.reads)


def ways(cascade: Cascade, einsums: Sequence[Einsum], sizes: Mapping[str, int]) -> Iterator[Way]:
    """Yield the ways to run some Einsums in one phase: loop orders, streamed ranks, fates of what passes need again."""
    of = group(cascade, einsums)
    if len(einsums) == 1 and not of.iterated:
        yield from _alone(cascade, einsums[0], sizes)
        return
    for stream in _streams(cascade, of, sizes):
        stage = stages(cascade, of.einsums, stream)
        for fates in _fates(cascade, of, stream, stage):
            yield from _together(cascade, of, stream, stage, fates)


def blocks(cascade: Cascade, einsums: Sequence[Einsum], sizes: Mapping[str, int]) -> Iterator[Block]:
    """Yield the blocks of all ways to run some Einsums in one phase."""
    for way in ways(cascade, einsums, sizes):
        if way.block is not None:
            yield way.block


def _alone(cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int]) -> Iterator[Way]:
    ranks = [r for r in map(rank_of, einsum.variables) if r not in cascade.splits]
    long = [r for r in ranks if sizes[r] > 1]
    rest = tuple(r for r in ranks if sizes[r] == 1)
    if len(long) <= _MOST_RANKS:
        orders: list[tuple[str, ...]] = list(itertools.permutations(long))
    else:
        orders = [(*(r for r in long if r != last), last) for last in long]
    plain = Block(cascade, (einsum,), stage={einsum.name: 0}, tiled=True)
    for order in orders:
        for direct in direct_choices(einsum):
            of = replace(plain, order=(*rest, *order), direct=direct)
            yield Way(frozenset(), False, functools.partial(_same, of))


def direct_choices(einsum: Einsum) -> tuple[frozenset[str], ...]:
    """Return which tensor of an Einsum that runs alone may go past the memory in between: each of them, or none."""
    operands = dict.fromkeys((einsum.name, *(a.tensor for a in einsum.reads)))
    return (*(frozenset((t,)) for t in operands), frozenset())


def _same(block: Block) -> Block:
    return block


def _streams(cascade: Cascade, of: Group, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the ranks worth streaming over: that of an iterate block, or any that several Einsums step over."""
    if of.iterated:
        return (of.iterated,)
    if any(cascade.block_of(e.name) is not None for e in of.einsums):
        return ("",)  # generations of one block and of another: no pass goes along both
    counts: dict[str, int] = {}
    for e in of.einsums:
        for rank in map(rank_of, e.variables):
            counts[rank] = counts.get(rank, 0) + 1
    fit = [r for r, n in counts.items() if n > 1 and r not in of.fused and r not in cascade.splits]
    return (*sorted((r for r in fit if sizes[r] > 1), key=lambda r: -sizes[r] * counts[r]), "")


def stages(cascade: Cascade, einsums: Sequence[Einsum], stream: str) -> dict[str, int]:
    """Return when each Einsum runs: 2 k in pass k over the streamed rank, 2 k + 1 after that pass, before the next.

    An Einsum that reads what streams, element by element, runs in the same pass; one that needs a whole fiber of it,
    such as its maximum, has to wait for the end of the pass.

    >>> from einsum_cascade import zoo
    >>> three = zoo.load("attention_3pass")
    >>> stages(three, three.einsums, "M")
    {'QK': 2, 'GM': 2, 'SN': 4, 'SD': 4, 'A': 6, 'AV': 6}
    """
    if not stream:
        return {e.name: 0 for e in einsums}
    variable = variable_of(stream)
    out: dict[str, int] = {}
    targets = {e.name: e.target for e in einsums}
    for e in einsums:
        reach = 1
        for access in e.reads:
            before = out.get(access.tensor)
            if before is None or (access.tensor in cascade.states and cascade.reads_previous(access)):
                continue
            together = cascade.block_of(e.name) == variable == cascade.block_of(access.tensor)
            flows = together or _flows(variable, targets[access.tensor], access)
            reach = max(reach, before if flows else before | 1)
        streams = variable in e.variables
        out[e.name] = reach + (reach & 1) if streams else reach | 1
    return out


def _flows(variable: str, written: Access, read: Access) -> bool:
    """Tell whether a tensor has an index of the streamed rank and is read at the place where it was written."""
    places = [
        (w, r)
        for w, r in zip(written.indices, read.indices, strict=True)
        if variable in variables(w) or variable in variables(r)
    ]
    return bool(places) and all(w == r for w, r in places)


def _fates(cascade: Cascade, of: Group, stream: str, stage: Mapping[str, int]) -> Iterator[Mapping[str, str]]:
    """Yield what may become of each tensor that streams in one pass and is read, or could be, in a later one."""
    if not stream or of.iterated:
        yield {}
        return
    variable = variable_of(stream)
    by_name = {e.name: e for e in of.einsums}
    waiting: dict[str, None] = {}
    open_names = [
        a.tensor
        for e in of.einsums
        for a in e.reads
        if a.tensor in by_name
        and variable in by_name[a.tensor].output_variables
        and stage[e.name] > stage[a.tensor]
    ]
    while open_names:  # what is computed again may need what it reads again
        name = open_names.pop()
        if name not in waiting:
            waiting[name] = None
            open_names += [
                a.tensor
                for a in by_name[name].reads
                if a.tensor in by_name and variable in by_name[a.tensor].output_variables
            ]
    names = [e.name for e in of.einsums if e.name in waiting]
    legal = [[f for f in _FATES if f != AGAIN or _repeatable(by_name[n], of, variable)] for n in names]
    if len(names) <= _MOST_TENSORS:
        for choice in itertools.product(*legal):
            yield dict(zip(names, choice, strict=True))
        return
    for fate in _FATES:
        yield {n: fate if fate in ok else HOLD for n, ok in zip(names, legal, strict=True)}
    for odd in names:
        yield {n: HOLD if n == odd else AGAIN for n, ok in zip(names, legal, strict=True) if AGAIN in ok}


def _repeatable(einsum: Einsum, of: Group, variable: str) -> bool:
    """Tell whether an Einsum can be computed again where it is read: all who read it do so where it was written."""
    reads = [a for e in of.einsums for a in e.reads if a.tensor == einsum.name]
    return variable not in einsum.reduced and all(_flows(variable, einsum.target, a) for a in reads)


def _together(
    cascade: Cascade, of: Group, stream: str, stage: Mapping[str, int], fates: Mapping[str, str]
) -> Iterator[Way]:
    spilled = frozenset(t for t, fate in fates.items() if fate == SPILL)
    cut = tuple(r for r in of.fused if r not in cascade.splits)  # a rank that the cascade splits has no tiles
    orders = itertools.permutations(cut) if len(cut) < _MOST_RANKS else iter([cut])
    made = functools.cache(functools.partial(_with_fates, cascade, of, stream, stage, fates))
    for fused in orders:
        for tiled in (False, True):
            yield Way(spilled, tiled, functools.partial(_ordered, made, fused, tiled))


def _ordered(made: Callable[[], Block | None], fused: tuple[str, ...], tiled: bool) -> Block | None:
    block = made()
    if block is None:
        return None
    shared = (*fused, *([block.stream] if block.stream else []))
    if not tiled:
        return replace(block, fused=fused, order=shared)
    own = dict.fromkeys(r for e in block.einsums for r in map(rank_of, e.variables))
    rest = (r for r in own if r not in shared and r not in block.cascade.splits)
    return replace(block, fused=fused, order=(*shared, *rest), tiled=True)


def _with_fates(
    cascade: Cascade, of: Group, stream: str, stage: Mapping[str, int], fates: Mapping[str, str]
) -> Block | None:
    """Return the block in which tensors have some fates; None where it is the same with other fates."""
    copies, placed = _copies(of, stage, fates)
    whole = with_copies(cascade, copies)
    names = {e.name for e in of.einsums} | set(copies)
    stage = {**stage, **placed}
    einsums = tuple(sorted((e for e in whole.einsums if e.name in names), key=lambda e: stage[e.name]))
    last: dict[str, int] = {}
    for e in einsums:
        for tensor in read_by(e):
            last[tensor] = max(stage[e.name], last.get(tensor, 0))
    again = {t for t, fate in fates.items() if fate == AGAIN}
    spilled = frozenset(t for t, fate in fates.items() if fate == SPILL)
    if any(last.get(t, 0) <= stage[t] for t in spilled) or not again <= {c.of for c in copies.values()}:
        return None  # a tensor that nobody reads again
    return Block(whole, einsums, (), stream, bool(of.iterated), stage, spilled, copies, origin=cascade)


def _copies(
    of: Group, stage: Mapping[str, int], fates: Mapping[str, str]
) -> tuple[dict[str, Copy], dict[str, int]]:
    """Return the Einsums that later passes compute again, and the stage of each; readers before what they read."""
    copies: dict[str, Copy] = {}
    placed: dict[str, int] = {}
    for at in sorted({s for s in stage.values() if s > 2 and s % 2 == 0}):
        readers: dict[str, list[str]] = {}
        for e in reversed(of.einsums):
            if stage[e.name] == at:
                here = e.name
            elif e.name in readers:
                here = f"{e.name}_{at // 2}"
                copies[here] = Copy(e.name, tuple(reversed(readers[e.name])))
                placed[here] = at
            else:
                continue
            for tensor in dict.fromkeys(a.tensor for a in e.reads):
                if fates.get(tensor) == AGAIN and stage[tensor] < at:
                    readers.setdefault(tensor, []).append(here)
    return copies, placed
