"""How one kernel runs over ranks: which tell its blocks apart, along which a block walks, which it holds.

A kernel is some Einsums of a cascade that each thread block computes for a tile of its own, with nothing of what passes
between them in memory. That asks of a rank that tells blocks apart that every Einsum keeps it and reads it in place,
and of a rank that a block walks along that nobody comes back to it after it has been reduced: a second pass. Whatever
can be neither lies whole in the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Var, variables
from einsum_cascade.ops import REDUCTION

from .idle import idle_of, masked_of
from .operations import Product, product_of
from .scans import is_running


@dataclass(frozen=True)
class Unit:
    """What cannot be parted: an Einsum, or an iterate block with the first values of its states.

    Attributes:
        einsums: in order; `first`: those of them that give states their first values.
        loop: the variable of the iterate block, or the empty string.
    """

    einsums: tuple[Einsum, ...]
    first: tuple[Einsum, ...] = ()
    loop: str = ""

    @cached_property
    def names(self) -> frozenset[str]:
        """Tensors that it defines."""
        return frozenset(e.name for e in self.einsums)

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """Those of its Einsums that are products of two sides."""
        return tuple(p for e in self.einsums if (p := product_of(e)) is not None)

    @cached_property
    def reads(self) -> frozenset[str]:
        """Tensors that it reads of others."""
        return frozenset(a.tensor for e in (*self.einsums, *self.first) for a in e.reads) - self.names


def units_of(cascade: Cascade) -> tuple[Unit, ...]:
    """Return the units of a cascade in order of execution."""
    out = []
    for item in cascade.body:
        if isinstance(item, Iterate):
            states = {e.name for e in item.einsums}
            first = tuple(e for e in cascade.initial if e.name in states)
            out.append(Unit(item.einsums, first, item.variable))
        elif not cascade.is_initial(item, None):
            out.append(Unit((item,)))
    return tuple(out)


@dataclass(frozen=True)
class Structure:
    """What the variables of a kernel's Einsums are to it.

    Attributes:
        blocks: tell its thread blocks apart.
        walked: along these a block walks step by step, outermost first; the rest it holds whole.
        loop: the one of them whose steps follow each other in the text, or the empty string.
        products: of its Einsums.
        chain: Einsums that follow each other from a state to the same state of the next step.
        running: whether many steps of the loop can be worked out at a time, all its states being running sums.
        masked: Einsums of the loop of which coordinates decide in which steps they have points; `idle`: those that have
            nothing to do in a step in which none of them has.
        states: those of its Einsums of which each step makes a generation.
    """

    einsums: tuple[Einsum, ...]
    first: tuple[Einsum, ...]
    blocks: tuple[str, ...]
    walked: tuple[str, ...]
    loop: str
    products: tuple[Product, ...]
    chain: int
    running: bool
    masked: frozenset[str]
    idle: frozenset[str]
    states: frozenset[str]

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """All variables that its Einsums and what they read name."""
        every = (*self.einsums, *self.first)
        return tuple(dict.fromkeys(v for e in every for v in (*e.variables, *e.output_variables)))

    @cached_property
    def summed_in_products(self) -> frozenset[str]:
        """The variables that its products are summed along."""
        return frozenset(v for p in self.products for v in p.inner)

    @cached_property
    def whole(self) -> frozenset[str]:
        """The variables of which a block has all at a time, though it walks.

        What a step of the loop leaves to the next one, and that of which the largest are asked for: those of parts
        would have to be compared again.
        """
        left = (
            v for e in self.einsums if e.name in self.states for v in e.output_variables if v != self.loop
        )
        ranked = (
            v for e in self.einsums for r in e.all_reductions if REDUCTION[r.op].index for v in r.variables
        )
        return frozenset((*left, *ranked))

    @cached_property
    def used_up(self) -> tuple[tuple[str, ...], ...]:
        """What it has made that each of its Einsums is the last to read."""
        own = {e.name for e in self.einsums}
        last = {a.tensor: i for i, e in enumerate(self.einsums) for a in e.reads if a.tensor in own}
        return tuple(tuple(n for n, at in last.items() if at == i) for i in range(len(self.einsums)))

    @cached_property
    def gathered(self) -> tuple[frozenset[str], ...]:
        """The variables of each Einsum's result that lie whole in a block: those inside what it is summed along."""
        out = []
        for einsum in self.einsums:
            depths = [i for i, v in enumerate(self.walked) if v in einsum.reduced]
            if einsum.name in self.states:
                out.append(frozenset(self.walked) - {self.loop})
            else:
                out.append(frozenset(self.walked[depths[0] :] if depths else ()))
        return tuple(out)

    @cached_property
    def readings(self) -> Mapping[Access, Sequence[Einsum]]:
        """What it reads of memory, each reading with the Einsums that share it."""
        return readings_of(self.einsums, self.first)

    @cached_property
    def outer(self) -> tuple[str, ...]:
        """What a block walks along outermost: its loop, or the variables that its last sum is over."""
        if self.loop or not self.walked:
            return self.walked[:1]
        last = next(e for e in reversed(self.einsums) if self.walked[0] in e.reduced)
        return tuple(v for v in self.walked if v in last.reduced)

    @cached_property
    def parted(self) -> str:
        """The variable of which several blocks may take a part each, or the empty string.

        Nothing that is reduced along it may be read in the kernel, and parts of it have to be reduced as all of it is.
        """
        if self.loop or not self.walked:
            return ""
        variable = self.walked[0]
        read = {a.tensor for e in self.einsums for a in e.reads}
        over = [e for e in self.einsums if variable in e.reduced]
        alike = all(
            variable in (last := e.all_reductions[-1]).variables and not REDUCTION[last.op].index
            for e in over
        )
        return variable if alike and not read & {e.name for e in over} else ""


def structure_of(cascade: Cascade, units: Sequence[Unit]) -> Structure | None:
    """Return the structure of a kernel of some units, in their order; None where their loops cannot be one.

    >>> from einsum_cascade import zoo
    >>> flash = zoo.load("attention_1pass")
    >>> found = structure_of(flash, units_of(flash))
    >>> found.blocks, found.walked, found.chain
    (('p',), ('m1', 'e'), 2)
    """
    loops = [u for u in units if u.loop]
    einsums = tuple(e for u in units for e in u.einsums)
    loop = next((u.loop for u in units if u.loop), "")
    first = tuple(e for u in units for e in u.first)
    moved = _moved((*einsums, *first))
    # What a selection makes runs over the places of one sorting, which no two blocks share.
    kept = [
        v
        for v in einsums[0].output_variables
        if all(v in e.output_variables and v in e.variables for e in einsums)
    ]
    blocks = tuple(v for v in kept if v != loop and v not in moved)
    order = [v for e in reversed(einsums) for v in e.reduced]  # reduced later is walked outside
    after = _after(cascade, einsums, units)
    if len(loops) > 1 or any(_follows(cascade, u, einsums, after) for u in loops):
        return None
    if loop and _comes_back(einsums, after, loop):
        return None
    known = {*moved, *blocks, loop}
    walked = [v for v in dict.fromkeys(order) if v not in known and not _comes_back(einsums, after, v)]
    walked = [loop, *walked] if loop else walked
    products = tuple(p for u in units for p in u.products)
    chain = _chain(cascade, einsums) if loop else 0
    running, masked, idle = (
        _of_loop(cascade, loops[0], einsums) if loops else (False, frozenset(), frozenset())
    )
    states = cascade.states & {e.name for e in einsums}
    return Structure(
        einsums, first, blocks, tuple(walked), loop, products, chain, running, masked, idle, states
    )


def _of_loop(
    cascade: Cascade, block: Unit, einsums: Sequence[Einsum]
) -> tuple[bool, frozenset[str], frozenset[str]]:
    """Return whether an iterate block is a running sum, and what of a kernel's loop over it is masked, or then idle."""
    inside = tuple(e for e in einsums if e.name in block.names or block.loop in e.variables)
    key = ("loop of a kernel", block.loop, tuple(e.name for e in inside))
    if key not in cascade.derived:
        masked, idle = (of(cascade, inside, block.loop) for of in (masked_of, idle_of))
        cascade.derived[key] = is_running(cascade, block.einsums), masked, idle
    found: tuple[bool, frozenset[str], frozenset[str]] = cascade.derived[key]
    return found


def readings_of(einsums: Sequence[Einsum], first: Sequence[Einsum]) -> Mapping[Access, Sequence[Einsum]]:
    """Return what a kernel reads of memory, each reading with the Einsums that share it; arguments as a structure's."""
    own = {e.name for e in einsums}
    out: dict[Access, list[Einsum]] = {}
    for einsum in (*einsums, *first):
        for access in einsum.reads:
            if access.tensor not in own:
                out.setdefault(access, []).append(einsum)
    return out


def _internal(einsums: Sequence[Einsum]) -> Iterator[tuple[Einsum, Einsum, Access]]:
    """Yield each reading inside a kernel: who wrote it, who reads it, how.

    Args:
        einsums: those that give states their first values behind those that go on from there.
    """
    own: dict[str, Einsum] = {}
    for einsum in einsums:
        own.setdefault(einsum.name, einsum)
    for reader in einsums:
        for access in reader.reads:
            if access.tensor in own:
                yield own[access.tensor], reader, access


def _moved(einsums: Sequence[Einsum]) -> set[str]:
    """Return the variables at which something is read that another tile or step has made."""
    out: set[str] = set()
    for writer, _, access in _internal(einsums):
        for made, read in zip(writer.target.indices, access.indices, strict=True):
            if not (isinstance(made, Var) and made == read):
                out |= {*variables(made), *variables(read)}
    return out


def _after(cascade: Cascade, einsums: Sequence[Einsum], units: Sequence[Unit]) -> dict[str, set[str]]:
    """Return, for each Einsum, those that need it, readings of an earlier step left out.

    What the first value of a state is made of, all of its iterate block needs.
    """
    out: dict[str, set[str]] = {e.name: set() for e in einsums}
    edges = [(w.name, r.name) for w, r, access in _internal(einsums) if not cascade.reads_previous(access)]
    for unit in units:
        begins = {a.tensor for e in unit.first for a in e.reads} & out.keys() - unit.names
        edges += [(name, needs) for name in begins for needs in unit.names]
    for einsum in reversed(einsums):
        for writer, reader in edges:
            if writer == einsum.name:
                out[writer] |= {reader, *out[reader]}
    return out


def _comes_back(einsums: Sequence[Einsum], after: Mapping[str, set[str]], variable: str) -> bool:
    """Tell whether somebody runs over a variable again who needs what has been reduced along it."""
    space = {e.name: e.variables for e in einsums}
    return any(
        variable in e.reduced and any(variable in space[name] for name in after[e.name]) for e in einsums
    )


def _follows(cascade: Cascade, block: Unit, einsums: Sequence[Einsum], after: Mapping[str, set[str]]) -> bool:
    """Tell whether somebody outside an iterate block runs along it who needs what another step of it makes.

    What is made of a step, outside of the block too, may be read in that step; and a state as the step found it.
    """
    made = set(block.names)
    for einsum in einsums:
        if block.loop in einsum.variables and einsum.sources & made:
            made.add(einsum.name)
    late: set[str] = set()
    for writer, reader, access in _internal(einsums):
        if writer.name in made and not _in_step(cascade, block.loop, writer, access):
            late |= {reader.name, *after[reader.name]}
    return any(block.loop in e.variables for e in einsums if e.name in late - block.names)


def _in_step(cascade: Cascade, loop: str, writer: Einsum, access: Access) -> bool:
    """Tell whether a reading is of what the same step of a loop makes, or has found."""
    places = zip(writer.target.indices, access.indices, strict=True)
    moved = any(made != read for made, read in places if loop in (*variables(made), *variables(read)))
    return not moved or (cascade.reads_previous(access) and access.tensor in cascade.states)


def _chain(cascade: Cascade, einsums: Sequence[Einsum]) -> int:
    """Return the most Einsums that follow each other from a state to itself a step later."""
    readers: dict[str, set[str]] = {e.name: set() for e in einsums}
    starts: dict[str, set[str]] = {e.name: set() for e in einsums}
    for writer, reader, access in _internal(einsums):
        (starts if cascade.reads_previous(access) else readers)[writer.name].add(reader.name)
    longest = 0
    for state, firsts in starts.items():
        # The longest way from a reader of the state to its writer; Einsums stand in an order that they can run in.
        steps: dict[str, int] = dict.fromkeys(firsts, 1)
        for einsum in einsums:
            if einsum.name in steps:
                for name in readers[einsum.name]:
                    steps[name] = max(steps.get(name, 0), steps[einsum.name] + 1)
        longest = max(longest, steps.get(state, 0))
    return longest
