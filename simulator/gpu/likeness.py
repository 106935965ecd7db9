"""What is known of many keys at once, before any row: regression of the shipped table on how alike keys are."""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .calibration import NOTHING_KNOWN, NUMBERS, Entry, Key, same_rate, shipped

Floats = NDArray[np.float64]

TABLE = Path(__file__).parent / "tables" / "likeness.csv"
WORDS = (
    "device",
    "target",
    "mapping",
    "framework",
    "version",
    "kernel",
    "products",
    "dtype",
    "kv_dtype",
    "served",
)  # what two keys share or do not; the last column of distances is the head dimension
# Log spread of the general level of a constant: wide, so that the entries decide.
LEVEL = 2.0


@dataclass(frozen=True, slots=True)
class Likeness:
    """How one constant's logarithm varies over keys.

    Attributes:
        per_word: what a difference in each of `WORDS`, and a factor of two in the head dimension, takes off the
            correlation: it falls by exp(-this).
        variance: of what likes share; `own`: of what a key has for itself alone, beyond what its rows leave open.
    """

    per_word: tuple[float, ...]
    variance: float
    own: float


@dataclass(frozen=True, slots=True)
class Joint:
    """What is known of the constants of n keys together.

    Attributes:
        mean: shape (n, constants), of the logarithms; `covariance`: shape (constants, n, n).
    """

    mean: Floats
    covariance: Floats


def words(key: Key) -> dict[str, str]:
    """Return what a key's likeness goes by; an implementation that a framework calls is named framework-version:kernel.

    >>> found = words(Key("h100", "sm_90", "m", "vllm-0.24.0:fa3", 128, "bf16", "fp8"))
    >>> found["framework"], found["version"], found["kernel"], found["dtype"], found["served"]
    ('vllm', 'vllm-0.24.0', 'fa3', 'fp16', 'True')
    """
    call, colon, kernel = key.implementation.partition(":")
    return {
        "device": key.device,
        "target": key.target,
        "mapping": key.mapping,
        "framework": call.partition("-")[0],
        "version": call,
        "kernel": kernel,
        "products": same_rate(key.products),
        "dtype": same_rate(key.dtype),
        "kv_dtype": same_rate(key.kv_dtype),
        "served": str(bool(colon)),
    }


@functools.cache
def likenesses() -> tuple[Likeness, ...]:
    """Return the shipped table, one entry a constant in the order of `NUMBERS`."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = {row["constant"]: row for row in csv.DictReader(file)}
    return tuple(
        Likeness(
            tuple(float(rows[n][word]) for word in (*WORDS, "head_dim")),
            float(rows[n]["variance"]),
            float(rows[n]["own"]),
        )
        for n in NUMBERS
    )


def differences(a: Sequence[Key], b: Sequence[Key]) -> Floats:
    """Return where keys differ, shape (n, m, words + 1): 1 a word, factors of two for the head dimension."""
    here, there = [words(k) for k in a], [words(k) for k in b]
    out = np.empty((len(a), len(b), len(WORDS) + 1))
    for i, word in enumerate(WORDS):
        out[:, :, i] = np.array([k[word] for k in here])[:, None] != np.array([k[word] for k in there])
    sizes = [np.log2([k.head_dim for k in keys]) for keys in (a, b)]
    out[:, :, -1] = np.abs(sizes[0][:, None] - sizes[1])
    return out


def shared(likeness: Likeness, apart: Floats) -> Floats:
    """Return the covariance of what likes share, from their differences."""
    out: Floats = likeness.variance * np.exp(-apart @ np.array(likeness.per_word))
    return out


def correlation(keys: Sequence[Key]) -> Floats:
    """Return the correlation of deviations of keys, shape (constants, n, n); none between devices or directions."""
    apart = differences(keys, keys)
    same = np.array([[(a.device, a.direction) == (b.device, b.direction) for b in keys] for a in keys])
    own = np.eye(len(keys))
    return np.stack(
        [same * (shared(each, apart) + each.own * own) / (each.variance + each.own) for each in likenesses()]
    )


def joint(
    keys: Sequence[Key], *, without_device: bool = False, table: Sequence[Entry] | None = None
) -> Joint:
    """Return what the shipped table says of the constants of keys of one device and direction.

    How far they may be off is as of a device that the table does not hold: machines of one device differ too.

    Args:
        without_device: leave out the device's entries for the mean as well: an honest prediction of a device not seen.

    Source: Gaussian process regression (Rasmussen and Williams, 2006, eq. 2.25 and 2.26), the correlation exponential
        in the differences, a general level of wide spread.
    """
    first = keys[0]
    entries = [e for e in (shipped() if table is None else table) if e.key.direction == first.direction]
    others = [e for e in entries if e.key.device != first.device]
    if not others:
        values, spreads = np.array(NOTHING_KNOWN).T
        mean = np.tile(np.log(values), (len(keys), 1))
        return Joint(mean, correlation(keys) * (spreads**2)[:, None, None])
    mean, covariance = _conditional(keys, others)
    if not without_device and len(entries) > len(others):
        mean = _conditional(keys, entries)[0]
    return Joint(mean, covariance)


def _conditional(keys: Sequence[Key], entries: Sequence[Entry]) -> tuple[Floats, Floats]:
    """Return mean and covariance of the keys' constants, given those of the entries."""
    known = [e.key for e in entries]
    inside, across, here = differences(known, known), differences(keys, known), differences(keys, keys)
    means, covariances = [], []
    for i, (name, each) in enumerate(zip(NUMBERS, likenesses(), strict=True)):
        logs = np.log([getattr(e.efficiency, name) for e in entries])
        middle = float(np.median(logs))
        alone = [each.own + e.unsure[i] ** 2 for e in entries]
        given = shared(each, inside) + LEVEL**2 + np.diag(alone)
        between = shared(each, across) + LEVEL**2
        gain = np.linalg.solve(given, between.T).T
        means.append(middle + gain @ (logs - middle))
        covariances.append(shared(each, here) + LEVEL**2 + each.own * np.eye(len(keys)) - gain @ between.T)
    return np.array(means).T, np.stack(covariances)
