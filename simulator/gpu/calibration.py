"""Efficiencies looked up in the shipped table by likeness: what is known before anything is measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .efficiency import Efficiency
from .intervals import UNKNOWN, with_interval

Floats = NDArray[np.float64]

TABLE = Path(__file__).parent / "tables" / "efficiency.csv"
NUMBERS = ("scalar", "launch_s", "block_cycles", "memory", "copy_cycles")

# How unlike two table keys are, and how the trust in a looked-up constant falls with it. Chosen after looking at the
# shipped tables, by leaving out one device at a time.
_UNLIKE = {
    "device": 1.0,
    "target": 1.5,
    "mapping": 4.0,
    "implementation": 0.3,
    "products": 1.0,
    "dtype": 0.3,
    "kv_dtype": 0.3,
}
_UNLIKE_HEAD_DIM = 0.7  # per factor of two
# Weights fall by a factor of e over this part of how far the likest entry is away: an entry of the key's own rules
# alone, while for an unseen device several moderately like entries say more than the likest one. Chosen after looking
# at the shipped tables, by leaving out one device at a time.
_REACH, _LEAST_REACH = 0.35, 0.1
_SPREAD_NEAR = {"scalar": 0.25, "launch_s": 0.12, "block_cycles": 0.35, "memory": 0.08, "copy_cycles": 0.25}
_SPREAD_PER_UNIT = {
    "scalar": 0.20,
    "launch_s": 0.20,
    "block_cycles": 0.35,
    "memory": 0.03,
    "copy_cycles": 0.20,
}
NOTHING_KNOWN = (
    (0.6, 0.4),
    (3e-6, 0.6),
    (2500.0, 0.7),
    (0.8, 0.12),
    (0.5, 1.0),
)  # value, log spread of each
_OWN = 1.5  # an entry less unlike than this is of the same device or of its next of kin


@dataclass(frozen=True, slots=True)
class Key:
    """What an efficiency belongs to.

    Attributes:
        products: operand type of the products, by default that of the queries.
    """

    device: str
    target: str
    mapping: str
    implementation: str
    head_dim: int
    dtype: str
    kv_dtype: str = ""
    direction: str = "fwd"
    products: str = ""

    def __post_init__(self) -> None:
        if not self.products:
            object.__setattr__(self, "products", self.dtype)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the shipped table: constants fitted to `n` published rows.

    Attributes:
        unsure: shape (constants,), log spread that those rows leave to each of them: a copy into the cache that takes
            no time tells nothing of its cost.
    """

    key: Key
    efficiency: Efficiency
    n: int
    unsure: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known before a measurement: logarithms of the constants and how far they may be off."""

    mean: Floats
    spread: Floats
    source: str
    unlike: float


@functools.cache
def shipped() -> tuple[Entry, ...]:
    """Return the shipped table of fitted efficiencies."""
    import csv

    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(_entry(row) for row in csv.DictReader(file))


def _entry(row: dict[str, str]) -> Entry:
    words = ("device", "target", "mapping", "implementation")
    device, target, mapping, implementation = (row[w] for w in words)
    like = (row["dtype"], row["kv_dtype"], row["direction"], row["products"])
    key = Key(device, target, mapping, implementation, int(row["head_dim"]), *like)
    numbers = np.array([float(row[n]) for n in NUMBERS])
    unsure = tuple(float(row[unsure_of(n)]) for n in NUMBERS)
    return Entry(key, made(numbers, source=row["source"]), int(row["n"]), unsure)


def unsure_of(constant: str) -> str:
    """Return the column of the table that says how far its rows leave a constant open."""
    return f"{constant}_unsure"


def made(numbers: Floats, *, source: str = "") -> Efficiency:
    """Return an efficiency of the constants in the order of `NUMBERS`."""
    scalar, launch_s, block_cycles, memory, copy_cycles = (float(x) for x in numbers)
    return Efficiency(scalar, launch_s, block_cycles, memory, copy_cycles, source=source)


def prior(key: Key, *, table: Sequence[Entry] | None = None, without_device: bool = False) -> Prior:
    """Return what the shipped table says of a key, entries weighted by their likeness.

    Args:
        without_device: leave out the entries of the key's own device: an honest prediction of a device not seen.

    >>> prior(Key("h100", "sm_90", "none", "none", 128, "bf16"), table=()).source
    'assumed: no fitted entry; scalar 0.6, launch 3 us, 2500 cycles a block'
    """
    if table is None:
        return _shipped_prior(key, without_device)
    entries = [
        e
        for e in table
        if e.key.direction == key.direction and not (without_device and e.key.device == key.device)
    ]
    if not entries:
        values, spreads = np.array(NOTHING_KNOWN).T
        text = "assumed: no fitted entry; scalar 0.6, launch 3 us, 2500 cycles a block"
        return Prior(np.log(values), spreads, text, math.inf)
    unlike = np.array([_unlikeness(e.key, key) for e in entries])
    nearest = float(unlike.min())
    weight = np.exp(-(unlike - nearest) / max(_REACH * nearest, _LEAST_REACH))
    weight /= weight.sum()
    logs = np.log([[getattr(e.efficiency, n) for n in NUMBERS] for e in entries])
    spread = np.array([_SPREAD_NEAR[n] + _SPREAD_PER_UNIT[n] * nearest for n in NUMBERS])
    best = entries[int(unlike.argmin())]
    origin = best.efficiency.source if nearest == 0 else f"like {_named(best.key)}: {best.efficiency.source}"
    return Prior(weight @ logs, spread, origin, nearest)


@functools.cache
def _shipped_prior(key: Key, without_device: bool) -> Prior:
    return prior(key, table=shipped(), without_device=without_device)


def _named(key: Key) -> str:
    return f"{key.implementation} on {key.device}, head_dim {key.head_dim}, {key.dtype}"


def _unlikeness(a: Key, b: Key) -> float:
    words = sum(
        cost for word, cost in _UNLIKE.items() if same_rate(getattr(a, word)) != same_rate(getattr(b, word))
    )
    return words + _UNLIKE_HEAD_DIM * abs(math.log2(a.head_dim / b.head_dim))


def same_rate(word: str) -> str:
    """Return a type that runs at the same rate: both 16-bit floats do, on every tensor core so far."""
    return "fp16" if word == "bf16" else word


def uncalibrated(known: Prior, *, kind: str = "plain") -> Efficiency:
    """Return the efficiency that a prior alone gives, with its wide interval."""
    guess = made(np.exp(known.mean), source=f"uncalibrated; {known.source}")
    if not math.isfinite(known.unlike):
        return replace(guess, spread=UNKNOWN)
    found = with_interval(guess, state="own" if known.unlike < _OWN else "like", kind=kind)
    # Constants of another kernel say little: as of one that nobody described.
    strange = known.unlike >= _UNLIKE["mapping"]
    return replace(found, spread=max(found.spread, UNKNOWN), short_spread=0.0) if strange else found


def unknown(guess: Efficiency, *, of: str = "implementation") -> Efficiency:
    """Return an efficiency of a kernel that nobody has measured: the same guess, the widest interval."""
    source = f"{guess.source}; of another {of}"
    return replace(guess, spread=max(UNKNOWN, guess.spread), short_spread=0.0, source=source)
