"""A cascade seen along one rank: what streams, what is whole, and a reduction as a formula of its elements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ..analysis.needed import with_sources
from ..analysis.passes import passes, timeline
from ..analysis.streams import view, walkers
from ..cascade import Cascade
from ..declarations import Iterate
from ..einsum import Einsum, Reduction, places_of, plain_target
from ..expr import Access, Apply, Expr, children, substitute, transform_bare, variables
from .algebra import Formula, Symbols

# Of a formula that is written out: nodes, and levels (an expression may nest 100 deep).
MOST_PARTS = 2000
MOST_DEPTH = 95


@dataclass(frozen=True)
class Along:
    """A cascade along a rank.

    Attributes:
        walking: of each Einsum the variables that walk the rank; of a split one none where an Einsum stays inside
            every block alike, as a table of places (`W[m0]`) or the elements of selected blocks do.
        whole: Einsums that reduce the rank: their values need every element of a fiber.
        waiting: tensors that depend, element by element or not, on such a value.
        settled: Einsums that are taken as given; to the others their tensors are as inputs are.
    """

    cascade: Cascade
    rank: str
    walking: dict[str, frozenset[str]]
    whole: frozenset[str]
    waiting: frozenset[str]
    settled: frozenset[str] = frozenset()

    def streams(self, name: str) -> bool:
        """Tell whether a tensor that an Einsum defines has an element for each element of the rank."""
        return name in self.walking and bool(
            self.walking[name] & set(self.cascade.einsum(name).output_variables)
        )

    def reads_walking(self, access: Access, walking: Iterable[str]) -> bool:
        """Tell whether an access moves along with the rank."""
        return bool({v for i in access.indices for v in variables(i)} & set(walking))


def along(cascade: Cascade, rank: str, settled: frozenset[str] = frozenset()) -> Along:
    """Return a cascade seen along a rank.

    Args:
        settled: Einsums to be taken as given.
    """
    key = ("along", rank, settled)
    if key not in cascade.derived:
        cascade.derived[key] = _along(cascade, rank, settled)
    found: Along = cascade.derived[key]
    return found


def _along(cascade: Cascade, rank: str, settled: frozenset[str]) -> Along:
    seen = view(cascade, rank)
    walking: dict[str, frozenset[str]] = {}
    whole: set[str] = set()
    waiting: set[str] = set()
    for einsum in cascade.einsums:
        if einsum.name in settled:
            continue
        found = walkers(cascade, einsum, seen)
        moves = seen.components[0] in frozenset().union(*found.values())
        mine = frozenset(found) if moves else frozenset()
        walking[einsum.name] = mine
        if not einsum.sources.isdisjoint(whole) or not einsum.sources.isdisjoint(waiting):
            waiting.add(einsum.name)
        if mine and not mine & set(einsum.output_variables):
            whole.add(einsum.name)
    return Along(cascade, rank, walking, frozenset(whole), frozenset(waiting), settled)


def is_flat(cascade: Cascade, settled: frozenset[str] = frozenset()) -> bool:
    """Tell whether a cascade has no iterate block, but in what is settled."""
    return all(block is None or e.name in settled for e, block in cascade.statements)


def settlings(cascade: Cascade, rank: str) -> Iterator[frozenset[str]]:
    """Yield what may be taken as given while the rest is rewritten: all up to the end of pass 0, 1, ...

    What an iterate block needs and makes is always settled: a block is not rewritten again.
    """
    times = timeline(cascade, rank)
    blocks = {e.name for e, block in cascade.statements if block is not None}
    names = {e.name for e in cascade.einsums}
    inputs = {s.tensor for s in cascade.inputs}
    tried: set[frozenset[str]] = set()
    for ended in range(passes(cascade, rank).count):
        over = {n for n in names if times[n] <= ended + 0.5} if ended else set()
        settled = with_sources(cascade, blocks | over) - inputs
        if settled != names and settled not in tried:
            tried.add(settled)
            yield settled


class Writing:
    """How much of a formula has been written out: what would make it too long or too deep stays closed.

    Written out, a recurrence that is unrolled may be as long as there are paths through it.

    Attributes:
        complete: whether nothing had to stay closed.
    """

    def __init__(self, value: Expr, most: int = MOST_PARTS) -> None:
        self.complete = True
        self._left = most
        self._depth = value.depth - 1

    def out(self, source: Einsum, access: Access, change: Callable[[Expr], Expr]) -> Expr:
        """Return the definition of what is read, itself changed, or the access where that is too much."""
        value = source.value
        parts, levels = _extent(source)
        if parts > self._left or self._depth + value.depth > MOST_DEPTH:
            self.complete = False
            return access
        self._left -= parts
        self._depth += levels
        found = transform_bare(substitute(value, places_of(source, access)), change)
        self._depth -= levels
        return found


def _extent(einsum: Einsum) -> tuple[int, int]:
    """Return the nodes of an Einsum's value, and how many levels further down what it reads may be written out."""
    if "extent" not in einsum.derived:
        levels, open_nodes = 0, [(einsum.value, 0)]
        for node, level in open_nodes:  # grows on the way
            open_nodes += [(part, level + 1) for part in children(node)]
            if isinstance(node, Access):
                levels = max(levels, level + node.depth - 2)
        einsum.derived["extent"] = len(open_nodes), levels
    found: tuple[int, int] = einsum.derived["extent"]
    return found


def inline(seen: Along, einsum: Einsum, wanted: Callable[[str], bool]) -> tuple[Expr, tuple[Expr, ...]]:
    """Return an Einsum's value with some streaming tensors replaced by their definitions, and their predicates.

    Args:
        wanted: tells which tensors to open; those that reduce a rank stay closed, and so does what gets too long.
    """
    found: list[Expr] = [einsum.where] if einsum.where is not None else []
    writing = Writing(einsum.value)

    def opened(node: Expr) -> Expr:
        if not isinstance(node, Access) or not seen.cascade.defines(node.tensor):
            return node
        inner = seen.cascade.einsum(node.tensor)
        if inner.all_reductions or not plain_target(inner) or not wanted(node.tensor):
            return node
        place = len(found)
        made = writing.out(inner, node, opened)
        if inner.where is not None and made is not node:
            found.insert(place, substitute(inner.where, places_of(inner, node)))
        return made

    return transform_bare(einsum.value, opened), tuple(dict.fromkeys(found))


def moving_atoms(symbols: Symbols, formulas: Iterable[Formula], einsum: Einsum) -> list[Formula]:
    """Return the symbols of some formulas that differ from term to term of an Einsum's reduction."""
    moving = set(einsum.reduced)
    atoms = dict.fromkeys(atom for formula in formulas for atom in symbols.atoms(formula))
    return [symbols.symbol(atom) for atom in atoms if set(variables(atom)) & moving]


def joined(parts: Iterable[Expr]) -> Expr | None:
    """Return predicates joined by `and`, or None for none."""
    out: Expr | None = None
    for part in parts:
        out = part if out is None else Apply("and", (out, part))
    return out


def sum_over(einsum: Einsum, value: Expr) -> tuple[Reduction, ...]:
    """Return a sum of a value as its source wrote it: by name, or left out where a product says it by itself."""
    implicit = not einsum.reductions and not (isinstance(value, Apply) and value.op in ("+", "-"))
    return () if implicit else (Reduction("sum", einsum.reduced),)


def spliced(
    body: tuple[Einsum | Iterate, ...], old: Einsum, new: tuple[Einsum, ...]
) -> tuple[Einsum | Iterate, ...]:
    """Return a body in which some Einsums stand in the place of one.

    Of one in an iterate block they stand in the block, but for those that are the same in every generation: they stand
    in front of it.
    """
    found: list[Einsum | Iterate] = []
    for item in body:
        if isinstance(item, Iterate) and old in item.einsums:
            found += (e for e in new if item.variable not in e.output_variables)
            moving = [e for e in new if item.variable in e.output_variables]
            inside = tuple(part for e in item.einsums for part in (moving if e == old else (e,)))
            found.append(replace(item, einsums=inside))
        elif isinstance(item, Iterate):
            found.append(item)
        else:
            found += new if item == old else (item,)
    return tuple(found)


def level_of(cascade: Cascade, rank: str) -> dict[str, int]:
    """Return the pass in which each Einsum visits elements."""
    return dict(passes(cascade, rank).levels)
