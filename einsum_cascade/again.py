"""A cascade evaluated after another that differs little from it: what both define alike is evaluated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cascade import Cascade
from .declarations import Iterate
from .einsum import Einsum
from .evaluator import difference, numbers_of_use, plain, points, run_item, sizes_of_use
from .terms import Points

# Sums in another order differ by some 1e-14 of the largest number: a tensor that a rewrite has left within this much
# of what it was stands for it, and what only reads such tensors is not evaluated again.
ALIKE = 1e-12


@dataclass(frozen=True)
class Evaluated:
    """Every tensor of a cascade on one example.

    Attributes:
        values: of every rank and named constant.
        exact: whether each tensor is what the cascade by itself gives, to the last digit.
    """

    cascade: Cascade
    values: Mapping[str, float]
    tensors: Mapping[str, Points]
    exact: bool = True

    def outputs(self) -> dict[str, Any]:
        """Return the outputs, as `evaluate` does."""
        return {s.tensor: plain(self.tensors[s.tensor]) for s in self.cascade.outputs}


def evaluated(cascade: Cascade, sizes: Mapping[str, int], inputs: Mapping[str, Any]) -> Evaluated:
    """Return every tensor of a cascade; `evaluate` documents arguments and errors."""
    known = sizes_of_use(cascade, sizes)
    return Evaluated(cascade, numbers_of_use(cascade, known), points(cascade, known, inputs))


def evaluated_after(
    before: Evaluated,
    cascade: Cascade,
    sizes: Mapping[str, int],
    inputs: Mapping[str, Any],
    *,
    alike: float = ALIKE,
) -> Evaluated:
    """Return every tensor of a cascade, where it can be from another one on the same inputs.

    Taken over is what both define alike from what is taken over, and what was evaluated and came out alike.

    Args:
        sizes: at which everything fits in memory.
        alike: how far, relative to its largest number, a tensor may be from what it was to be taken over.
    """
    values = numbers_of_use(cascade, sizes_of_use(cascade, sizes))
    common = values.keys() & before.values.keys()
    if cascade.inputs != before.cascade.inputs or any(values[n] != before.values[n] for n in common):
        return evaluated(cascade, sizes, inputs)
    again = _Again(before, cascade, values, alike)
    for item in cascade.body:
        again.add(item)
    return Evaluated(cascade, values, again.tensors, again.exact)


class _Again:
    """The work on one cascade, item after item."""

    def __init__(
        self, before: Evaluated, cascade: Cascade, values: Mapping[str, float], tolerance: float
    ) -> None:
        self.before = before
        self.tolerance = tolerance
        self.cascade = cascade
        self.values = values
        self.exact = before.exact
        self.tensors = {s.tensor: before.tensors[s.tensor] for s in cascade.inputs}
        self.alike = set(
            self.tensors
        )  # tensors that are taken over; of a state before its block, the first value
        self.written = {n: item for item in before.cascade.body for n in _names(item)}
        self.first = {e.name: e for e in before.cascade.initial}
        self.read = {t for einsum, _ in cascade.statements for t in einsum.sources}

    def add(self, item: Einsum | Iterate) -> None:
        """Add what an Einsum or a block defines."""
        if isinstance(item, Einsum) and item.name in self.cascade.states:
            run_item(
                self.cascade, item, self.values, self.tensors
            )  # a room of its own, which the block fills
            if self.first.get(item.name) == item and item.sources <= self.alike:
                self.alike.add(item.name)
            return
        names = _names(item)
        carried = names & self.cascade.states
        if (
            carried <= self.alike
            and all(self.written.get(n) == item for n in names)
            and _sources(item) - names <= self.alike
        ):
            self.tensors |= {n: self.before.tensors[n] for n in names}
            self.alike |= names
            return
        self.alike -= carried
        run_item(self.cascade, item, self.values, self.tensors)
        if isinstance(item, Einsum) and item.name in self.read:
            self._compare(item.name)

    def _compare(self, name: str) -> None:
        """Take a tensor over if it came out as it was."""
        old, new = self.before.tensors.get(name), self.tensors[name]
        if old is None or old.values.shape != new.values.shape or not _same_points(old, new):
            return
        apart = difference(plain(new), plain(old))
        if apart <= self.tolerance:
            self.tensors[name] = old
            self.alike.add(name)
            self.exact &= apart == 0


def _same_points(one: Points, other: Points) -> bool:
    """Tell whether the same points of two tensors of one shape exist."""
    shape = one.values.shape
    here, there = (np.broadcast_to(True if p.present is None else p.present, shape) for p in (one, other))
    return bool(np.array_equal(here, there))


def _names(item: Einsum | Iterate) -> set[str]:
    return {e.name for e in item.einsums} if isinstance(item, Iterate) else {item.name}


def _sources(item: Einsum | Iterate) -> frozenset[str]:
    if isinstance(item, Iterate):
        return frozenset().union(*(e.sources for e in item.einsums))
    return item.sources
