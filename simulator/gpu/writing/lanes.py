"""The variables of a kernel as Triton sees them: scalars, or vectors of a power of two of lanes, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Compare, Size, Var

from ..fusion.operations import Product
from ..fusion.structure import Structure
from ..fusion.tiling import Tiling
from .body import TAKEN
from .terms import Term

# The least rows, columns and terms of a product of tiles: the shape of mma.sync with the fewest of them is 16 x 8 x 16,
# and Triton asks for 16 of each.
_LEAST = 16


@dataclass(frozen=True)
class Lanes:
    """How many values of each variable a block has before it at a time.

    Attributes:
        order: of all variables; every tile has its axes in this order.
        lanes: of the variables that are vectors, a power of two; the others are scalars.
        tiled: they tell blocks apart; `stepped`: a block walks along them, outermost first.
        loop: the one of these whose steps follow each other in the text, or the empty string.
    """

    tiling: Tiling
    order: Mapping[str, int]
    lanes: Mapping[str, int]
    tiled: tuple[str, ...]
    stepped: tuple[str, ...]
    loop: str

    def extent(self, variable: str) -> int:
        """Return how many values a variable has in all."""
        return self.tiling.case.extents[variable]

    def constant(self, variable: str) -> str:
        """Return the name of the lanes of a vector: its rank, where a block holds just that."""
        rank = rank_of(variable)
        if self.lanes[variable] == self.extent(variable) and variable not in (*self.tiled, *self.stepped):
            return rank
        return f"BLOCK_{rank}"

    def padded(self, variable: str) -> bool:
        """Tell whether some lanes of a vector lie behind the end of its rank."""
        return variable in self.lanes and bool(self.extent(variable) % self.lanes[variable])

    def bounds(self, variables: Iterable[str]) -> list[Compare]:
        """Return the conditions that keep vectors inside their ranks."""
        return [Compare(("<",), (Var(v), Size(rank_of(v)))) for v in variables if self.padded(v)]

    def ordered(self, variables: Iterable[str]) -> tuple[str, ...]:
        """Return those of some variables that are vectors, in the kernel's order."""
        return tuple(sorted({v for v in variables if v in self.lanes}, key=self.order.__getitem__))

    def shape(self, axes: Sequence[str]) -> str:
        """Return the shape of a tile as Triton writes it."""
        return f"[{', '.join(self.constant(v) for v in axes)}]"

    def name(self, variable: str) -> str:
        """Return the name of a variable's value in the kernel: its own, where Python has no other use for that."""
        return f"{variable}_" if variable in TAKEN else variable

    def coordinate(self, variable: str) -> Term:
        """Return the value of a variable."""
        return Term(self.name(variable), self.ordered((variable,)), "int")

    @property
    def names(self) -> Iterator[str]:
        """Names that the values of variables have, with those of their first and their last."""
        for v in self.order:
            yield from (self.name(v), f"{self.name(v)}_first", f"{self.name(v)}_last")

    @cached_property
    def seen(self) -> dict[str, tuple[str, str]]:
        """Of each variable that a block holds a part of, the names of its first and its last value there."""
        out = {}
        for v in self.tiled:
            name = self.name(v)
            out[v] = (f"{name}_first", f"{name}_last") if v in self.lanes else (name, name)
        return out


def sides(product: Product, lanes: Mapping[str, int]) -> tuple[list[str], list[str], list[str]]:
    """Return the vectors among the rows, the columns and the terms of a product."""
    every = (product.rows, product.columns, product.inner)
    rows, columns, inner = ([v for v in side if v in lanes] for side in every)
    return rows, columns, inner


def lanes_of(tiling: Tiling) -> Lanes:
    """Return the lanes of a tiling: its extents as powers of two, products wide enough for tensor cores."""
    structure = tiling.structure
    everyone = _variables(structure)
    lanes = {v: 1 << (n - 1).bit_length() for v in everyone if (n := tiling.now(v)) > 1}
    for product in structure.products:
        groups = sides(product, lanes)
        for group in groups if all(groups) else ():
            wide = 1
            for v in group:
                wide *= lanes[v]
            lanes[group[-1]] *= max(1, -(-_LEAST // wide))
    _alike(structure, lanes)
    stepped = tuple(
        v for v in structure.walked if v == structure.loop or tiling.case.extents[v] > lanes.get(v, 1)
    )
    order = {v: i for i, v in enumerate(everyone)}
    return Lanes(tiling, order, lanes, structure.blocks, stepped, structure.loop)


def _alike(structure: Structure, lanes: dict[str, int]) -> None:
    """Give variables as many lanes as those under whose name a reader has what was made along them."""
    writers = {e.name: e for e in structure.einsums}
    pairs = {
        (made.name, read.name)
        for reader in structure.einsums
        for access in reader.reads
        if access.tensor in writers
        for made, read in zip(writers[access.tensor].target.indices, access.indices, strict=True)
        if isinstance(made, Var) and isinstance(read, Var) and made != read
    }
    pairs = {pair for pair in pairs if all(v in lanes for v in pair)}
    for _ in pairs:  # as often as a chain of them can be long
        for one, other in pairs:
            lanes[one] = lanes[other] = max(lanes[one], lanes[other])


def _variables(structure: Structure) -> list[str]:
    """Return all variables of a kernel: what tells blocks apart, then what its Einsums keep, then what they reduce.

    Rows of products come before their columns wherever that is possible, so that few tiles have to be transposed.
    """
    einsums: Sequence[Einsum] = (*structure.einsums, *structure.first)
    found = dict.fromkeys(structure.blocks)
    for product in structure.products:
        flat = (product.rows, product.columns)
        first, second = flat if not set(product.columns) & found.keys() else flat[::-1]
        found |= dict.fromkeys((*first, *second))
    for einsum in einsums:
        found |= dict.fromkeys(einsum.output_variables)
    for einsum in einsums:
        found |= dict.fromkeys(einsum.variables)
        found |= dict.fromkeys(r.into for r in einsum.all_reductions if r.into)
    return list(found)
