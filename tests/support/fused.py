"""Kernels that tests look at: some units of a cascade together."""

from __future__ import annotations

from collections.abc import Iterator

from einsum_cascade.cascade import Cascade
from simulator.gpu.fusion.structure import Structure, structure_of, units_of


def structures(cascade: Cascade) -> Iterator[Structure]:
    """Yield the structures of all runs of up to four units."""
    units = units_of(cascade)
    for first in range(len(units)):
        for last in range(first + 1, min(first + 4, len(units)) + 1):
            found = structure_of(cascade, units[first:last])
            if found is not None:
                yield found
