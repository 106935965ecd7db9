"""A mapping for any cascade on any spatial chip, made on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from einsum_cascade.cascade import Cascade
from mappings.binding import SpatialMapping

from ..hardware.model import SpatialChip
from .mapper import find_mapping


def default_mapping(
    cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip, *, objective: str = "latency_s"
) -> SpatialMapping:
    """Return the mapping with the least latency, or the best by another objective, that the search finds.

    Raises:
        MappingError: no array can do an operation, or nothing fits.
    """
    return replace(find_mapping(cascade, sizes, chip, objective=objective).mapping, name="automatic")
