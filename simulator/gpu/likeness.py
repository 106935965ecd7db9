"""What rows of a machine are fitted from: regression of the shipped table on how alike keys are."""

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


def identical(a: Sequence[Key], b: Sequence[Key]) -> NDArray[np.bool_]:
    """Return which keys are one and the same, shape (n, m); keys may differ in nothing that `words` tells."""
    return np.array([[one == other for other in b] for one in a])


def covariance(likeness: Likeness, apart: Floats, same: NDArray[np.bool_]) -> Floats:
    """Return how a constant's logarithms vary together over keys.

    Args:
        apart: of `differences`; `same`: of `identical`.
    """
    out: Floats = likeness.variance * np.exp(-apart @ np.array(likeness.per_word)) + likeness.own * same
    return out


def correlation(keys: Sequence[Key]) -> Floats:
    """Return the correlation of deviations of keys, shape (constants, n, n); none between devices or directions."""
    apart, same = differences(keys, keys), identical(keys, keys)
    near = np.array([[(a.device, a.direction) == (b.device, b.direction) for b in keys] for a in keys])
    return np.stack(
        [near * covariance(each, apart, same) / (each.variance + each.own) for each in likenesses()]
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
    every = shipped() if table is None else table
    others = _entries(keys[0], every, without_device=True)
    known = _entries(keys[0], every, without_device=without_device)
    values, spreads = np.array(NOTHING_KNOWN).T
    mean = np.tile(np.log(values), (len(keys), 1))
    spread = correlation(keys) * (spreads**2)[:, None, None]
    if others:
        mean, spread = _conditional(keys, others)
    if len(known) > len(others):
        mean = _conditional(keys, known)[0]
    return Joint(mean, spread)


def _entries(key: Key, table: Sequence[Entry], *, without_device: bool) -> tuple[Entry, ...]:
    alike = (e for e in table if e.key.direction == key.direction)
    return tuple(e for e in alike if not (without_device and e.key.device == key.device))


def _conditional(keys: Sequence[Key], entries: tuple[Entry, ...]) -> tuple[Floats, Floats]:
    """Return mean and covariance of the keys' constants, given those of the entries."""
    known = [e.key for e in entries]
    across, here = [(differences(keys, others), identical(keys, others)) for others in (known, keys)]
    means, covariances = [], []
    for each, (middle, off, precision) in zip(likenesses(), _given(entries), strict=True):
        between = covariance(each, *across) + LEVEL**2
        gain = between @ precision
        means.append(middle + gain @ off)
        covariances.append(covariance(each, *here) + LEVEL**2 - gain @ between.T)
    return np.array(means).T, np.stack(covariances)


@functools.lru_cache(maxsize=32)
def _given(entries: tuple[Entry, ...]) -> tuple[tuple[float, Floats, Floats], ...]:
    """Return of each constant the middle of the entries' logarithms, how far they are off it, and their precision."""
    keys, out = [e.key for e in entries], []
    inside = differences(keys, keys), identical(keys, keys)
    for i, (name, each) in enumerate(zip(NUMBERS, likenesses(), strict=True)):
        logs = np.log([getattr(e.efficiency, name) for e in entries])
        middle = float(np.median(logs))
        noise = np.diag([e.unsure[i] ** 2 for e in entries])
        precision = np.linalg.inv(covariance(each, *inside) + LEVEL**2 + noise)
        out.append((middle, logs - middle, np.asarray(precision, dtype=np.float64)))
    return tuple(out)
