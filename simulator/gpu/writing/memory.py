"""Tensors of a written file as they lie in memory: axes, shapes, types, offsets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from einsum_cascade.analysis.points import Condition, conditions_of
from einsum_cascade.cascade import Cascade
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import accesses
from einsum_cascade.ops import REDUCTION

from ..fusion.case import Case
from .guards import may_lack

# Offsets beyond are not 32-bit numbers.
MOST_32 = 2**31 - 1


@dataclass(frozen=True)
class Memory:
    """The tensors of a cascade in memory, row-major in the order of their ranks, of one type but where `pointer` says.

    A state lies there with all its generations, or, where only its last is asked for, without their axis.
    """

    case: Case

    @property
    def cascade(self) -> Cascade:
        """The text."""
        return self.case.cascade

    @cached_property
    def indices(self) -> frozenset[str]:
        """Tensors of whole numbers: those that stand in an index, and what a selection makes."""
        inside = {
            a.tensor
            for e in (*self.cascade.einsums, *self.cascade.initial)
            for read in e.reads
            for index in read.indices
            for a in accesses(index)
        }
        made = {
            e.name
            for e in self.cascade.einsums
            if e.all_reductions and REDUCTION[e.all_reductions[-1].op].index
        }
        return frozenset(inside | made)

    @cached_property
    def unsure(self) -> frozenset[str]:
        """Of these, what a selection makes that may find nothing: -1 where there is none."""
        return frozenset(e.name for e in self.cascade.einsums if may_lack(self.cascade, e, self.case.sizes))

    def pointer(self, tensor: str, word: str) -> str:
        """Return the type of a tensor in memory: of indices i32, of what is wide fp32, of others `word`."""
        if tensor in self.indices:
            return "i32"
        return "fp32" if tensor in self.case.wide else word

    @cached_property
    def last_only(self) -> frozenset[str]:
        """States of which nobody asks for another generation than the last."""
        return frozenset(s for s in self.cascade.states if not self.case.wants_all(s))

    @cached_property
    def _known(self) -> dict[int, tuple[Condition, ...]]:
        return {}

    def conditions(self, einsum: Einsum) -> tuple[Condition, ...]:
        """Return under which conditions a point of an Einsum of the text exists."""
        if id(einsum) not in self._known:
            self._known[id(einsum)] = conditions_of(self.cascade, einsum)
        return self._known[id(einsum)]

    def axes(self, tensor: str) -> list[tuple[int, str, bool]]:
        """Return place and rank of each axis that lies in memory, and whether it has one element more than the rank."""
        signature = self.cascade.signatures[tensor]
        return [
            (i, rank, i == signature.state)
            for i, rank in enumerate(signature.ranks)
            if not (i == signature.state and tensor in self.last_only)
        ]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return the extents of a tensor in memory, without batch."""
        return tuple(self.case.sizes[rank] + more for _, rank, more in self.axes(tensor))

    def elements(self, tensor: str) -> int:
        """Return the elements of a tensor in memory, without batch."""
        return math.prod(self.shape(tensor))

    def strides(self, tensor: str) -> dict[int, tuple[str, ...]]:
        """Return, for each axis in memory, the names whose product is its stride."""
        out: dict[int, tuple[str, ...]] = {}
        after: tuple[str, ...] = ()
        for i, rank, more in reversed(self.axes(tensor)):
            out[i] = after
            after = (f"({rank} + 1)" if more else rank, *after)
        return out

    def extent(self, tensor: str) -> str:
        """Return the elements of a tensor without batch, as Triton writes them."""
        names = [f"({rank} + 1)" if more else rank for _, rank, more in self.axes(tensor)]
        return " * ".join(names) or "1"

    def is_wide(self, tensor: str) -> bool:
        """Tell whether offsets into one element of the batch do not fit in 32 bits."""
        return self.elements(tensor) > MOST_32
