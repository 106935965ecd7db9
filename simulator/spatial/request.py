"""A simulation as a person asks for it: names, paths and texts -> cascade, sizes, chip and mapping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from einsum_cascade import zoo
from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import HardwareError, MappingError, ModelError, nearest
from einsum_cascade.sizes import changed_sizes, parse_sizes, settled_parts
from mappings.binding import SpatialMapping
from mappings.files import load

from ..hardware.model import SpatialChip
from ..hardware.reader import load_hardware, names

_ROOTS = ("hardware", "mapping", "sizes")


@dataclass(frozen=True, slots=True)
class Request:
    """What `simulate` takes."""

    cascade: Cascade
    sizes: Mapping[str, int]
    hardware: SpatialChip
    mapping: SpatialMapping


@dataclass(frozen=True, slots=True)
class Problem:
    """A cascade with its sizes on a chip, without a mapping."""

    cascade: Cascade
    sizes: Mapping[str, int]
    hardware: SpatialChip


def resolve(name: str, *, on: str, mapping: str, sizes: str, settings: Iterable[str] = ()) -> Request:
    """Return what a person asked to simulate.

    Args:
        name: a zoo entry or the path of a cascade.
        on: a spatial chip, by name or path.
        mapping: a mapping, by name or path; the empty string for one that is made on the spot.
        sizes: `E=64,P=1024,M=1024` or `BERT/64K`; a tile given here (`M0=128`, or `M1=8`) wins over the mapping's.
        settings: `hardware.N=128`, `mapping.P1=4`, `sizes.B=1`, `sizes.seq=4K`.

    Raises:
        ModelError: something does not exist or cannot be read.
    """
    changes = parse_settings(settings)
    asked = _problem(name, on, sizes, changes)
    if not mapping:
        from .default import default_mapping

        made = default_mapping(asked.cascade, asked.sizes, asked.hardware)
        return Request(asked.cascade, asked.sizes, asked.hardware, made)
    laid = load(mapping)
    if not isinstance(laid, SpatialMapping):
        raise MappingError(f"{mapping} is a mapping of a GPU kernel; `cascade predict` uses those")
    settled = settled_parts(asked.cascade, _named(sizes) | changes["sizes"].keys())
    stated = {k: asked.sizes[k] for k in laid.nest.sizes if k in settled}
    own = {**stated, **changes["mapping"]}
    return Request(asked.cascade, asked.sizes, asked.hardware, load(mapping, own) if own else laid)


def resolve_without_mapping(name: str, *, on: str, sizes: str, settings: Iterable[str] = ()) -> Problem:
    """Return what a person asked to map.

    Raises:
        ModelError: something does not exist or cannot be read, or a setting is of a mapping.
    """
    changes = parse_settings(settings)
    if changes["mapping"]:
        raise MappingError(f"--set mapping.{next(iter(changes['mapping']))}: the mapping is what is searched")
    return _problem(name, on, sizes, changes)


def _problem(name: str, on: str, sizes: str, changes: Mapping[str, Mapping[str, str]]) -> Problem:
    cascade = zoo.find(name)
    text = changed_sizes(sizes, changes["sizes"], cascade) if changes["sizes"] else sizes
    return Problem(cascade, parse_sizes(text, cascade), load_spatial(on, changes["hardware"]))


def load_spatial(on: str, changes: Mapping[str, str]) -> SpatialChip:
    """Return a spatial chip; a GPU is refused with the names of the chips that would do."""
    try:
        chip = load_hardware(on, changes)
    except HardwareError:
        if changes:  # a field that a GPU lacks is not the mistake to tell of
            load_spatial(on, {})
        raise
    if not isinstance(chip, SpatialChip):
        raise HardwareError(
            f"{on} is a GPU; expected a spatial chip: {', '.join(names('spatial'))}; "
            f"`cascade predict CASCADE --on {on} --sizes ...` lays a cascade on a GPU"
        )
    return chip


def parse_settings(settings: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return settings by what they belong to.

    >>> parse_settings(["hardware.N=128", "sizes.B=1"])
    {'hardware': {'N': '128'}, 'mapping': {}, 'sizes': {'B': '1'}}
    """
    out: dict[str, dict[str, str]] = {root: {} for root in _ROOTS}
    for text in settings:
        key, equals, value = text.partition("=")
        root, dot, field = key.strip().partition(".")
        if not equals or not value.strip():
            raise ModelError(f"--set {text}: expected FIELD=VALUE, for example hardware.N=128")
        if root not in out or not dot or not field:
            raise ModelError(f"--set {text}: expected hardware., mapping. or sizes.; {nearest(root, _ROOTS)}")
        if field in out[root]:
            raise ModelError(f"--set {text}: {key.strip()} is given twice")
        out[root][field] = value.strip()
    return out


def _named(sizes: str) -> set[str]:
    """Return the ranks whose sizes a text gives by name."""
    return {item.partition("=")[0].strip() for item in sizes.split(",") if "=" in item}
