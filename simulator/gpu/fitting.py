"""Constants of many keys fitted to a few rows each, together: what one key's rows say, its likes hear in part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from einsum_cascade.errors import DataError

from .calibration import NUMBERS, Key, Prior, made, same_rate
from .efficiency import Efficiency, times
from .intervals import with_interval
from .launch import Launch

Floats = NDArray[np.float64]

# Log error of a calibration row, of the model and of the measurement together (repeated runs differ by 3.6 %).
_ROW_SPREAD = 0.08
# How far two keys of one device are apart. Chosen after looking at the serving rows of A100, H100, B200 and L40S, three
# rows a set, each device's own entries left out of the table.
_APART = {
    "mapping": 2.0,
    "framework": 1.0,
    "version": 0.3,
    "kernel": 1.0,
    "products": 0.7,
    "dtype": 0.2,
    "kv_dtype": 0.2,
}
_APART_HEAD_DIM = 0.7  # per factor of two
# The part of a deviation that two keys share at the most, falling by a factor of e over the reach. Chosen after looking
# at the same rows.
_SHARED, _REACH = 0.9, 2.0
# Beyond so many spreads a row pulls no harder: one wrong time among the rows of a file does not bend all others.
_HUBER = 3.0

_FEW_ROWS = 32  # whose blocks are scheduled one by one
_ALONE = Key("", "", "", "", 1, "")  # of a group that is fitted by itself, whatever it is


@dataclass(frozen=True, slots=True)
class Group:
    """Measured calls of one key, with what was known of it; none, where others are to tell.

    Attributes:
        launches: calls; `measured_s`: their seconds, one array a launch.
    """

    key: Key
    known: Prior
    launches: tuple[Launch, ...] = ()
    measured_s: tuple[Floats, ...] = ()

    def __post_init__(self) -> None:
        if any(not len(m) or float(np.min(m)) <= 0 for m in self.measured_s):
            raise DataError("calibration: expected positive times")


def together(groups: Sequence[Group], *, exact: bool | None = None, huber: float = _HUBER) -> list[Floats]:
    """Return the logarithms of each group's constants, most likely after the rows of all groups.

    The constants are what was known before plus a deviation. Deviations are normal, as wide as the prior says, and
    those of two keys of one device are correlated by their likeness: the fixed cost of a framework's call or the rate
    of a kernel is off by much the same for every head dimension and type. A single group is fitted by its own rows
    alone, however few.

    Args:
        exact: schedule few blocks event by event, by default where rows are few; else by the closed form.
        huber: row errors beyond so many spreads count linearly; infinity for least squares.

    Source: maximum a posteriori by Levenberg-Marquardt; Huber (1964) by iterated weights; correlations as in Gaussian
        process regression, exponential in the distance (Rasmussen and Williams, 2006, eq. 4.18).
    """
    means = np.stack([g.known.mean for g in groups])
    precision: Floats = np.linalg.inv(_covariance(groups)).astype(np.float64)
    if exact is None:
        exact = sum(len(m) for g in groups for m in g.measured_s) <= _FEW_ROWS
    targets = [np.log(np.concatenate([np.ones(0), *g.measured_s])) for g in groups]

    def errors(i: int, x: Floats) -> Floats:
        constants = made(np.exp(means[i] + x))
        got = [times(each, constants, exact=exact).latency_s for each in groups[i].launches]
        return (np.log(np.concatenate(got)) - targets[i]) / _ROW_SPREAD if got else np.zeros(0)

    found: Floats = means + _most_likely(errors, precision, len(groups), huber=huber)
    return list(found)


def calibrate(
    launches: Sequence[Launch],
    measured_s: Sequence[Floats],
    *,
    known: Prior,
    source: str,
    exact: bool = True,
    kind: str = "plain",
) -> Efficiency:
    """Return the efficiency most likely after the measured rows of one key, by least squares.

    One row moves what it can tell about, and any number of rows works.

    Args:
        launches: measured calls; `measured_s`: their seconds, one array a launch.
        known: the prior.
        source: what the rows are, for the result.
        exact: schedule few blocks event by event; the closed form is for fits of thousands of rows.
        kind: of kernel, by which the interval is tabulated.

    Raises:
        DataError: no row, or a time that is not positive.
    """
    if not launches or not all(len(m) for m in measured_s):
        raise DataError("calibration: expected at least one measured row")
    alone = Group(_ALONE, known, tuple(launches), tuple(measured_s))
    found = together([alone], exact=exact, huber=math.inf)[0]
    return with_interval(made(np.exp(found), source=source), state="measured", kind=kind)


def _covariance(groups: Sequence[Group]) -> Floats:
    """Return the covariance of all deviations, group by group, shape (n * constants, n * constants)."""
    spread = np.stack([g.known.spread for g in groups])
    likeness = np.array([[_likeness(a.key, b.key) for b in groups] for a in groups])
    likeness[np.diag_indices(len(groups))] = 1.0
    blocks = np.einsum("ij,ic,jc,cd->icjd", likeness, spread, spread, np.eye(len(NUMBERS)))
    size = len(groups) * len(NUMBERS)
    return np.asarray(blocks.reshape(size, size), dtype=np.float64)


def _likeness(a: Key, b: Key) -> float:
    if a.device != b.device or a.direction != b.direction:
        return 0.0
    there = _words(b)
    apart = sum(_APART[name] for name, word in _words(a).items() if word != there[name])
    apart += _APART_HEAD_DIM * abs(math.log2(a.head_dim / b.head_dim))
    return _SHARED * math.exp(-apart / _REACH)


def _words(key: Key) -> dict[str, str]:
    """Return what a key's likeness goes by; an implementation is called framework-version:kernel.

    >>> words = _words(Key("h100", "sm_90", "m", "vllm-0.24.0:fa3", 128, "bf16", "fp8"))
    >>> words["framework"], words["version"], words["kernel"], words["dtype"]
    ('vllm', 'vllm-0.24.0', 'fa3', 'fp16')
    """
    call, _, kernel = key.implementation.partition(":")
    return {
        "mapping": key.mapping,
        "framework": call.partition("-")[0],
        "version": call,
        "kernel": kernel,
        "products": same_rate(key.products),
        "dtype": same_rate(key.dtype),
        "kv_dtype": key.kv_dtype,
    }


def _most_likely(
    errors: Callable[[int, Floats], Floats], precision: Floats, n: int, *, huber: float, rounds: int = 40
) -> Floats:
    """Return the deviations (n, constants) of least cost, by Levenberg-Marquardt; a row moves its own group alone."""
    x, damping = np.zeros((n, len(precision) // n)), 1e-2

    def cost(rows: Sequence[Floats], at: Floats) -> float:
        return sum(_loss(r, huber) for r in rows) + float(at.ravel() @ precision @ at.ravel())

    rows = [errors(i, x[i]) for i in range(n)]
    least = cost(rows, x)
    normal, right = _normal_equations(errors, precision, x, rows, huber)
    for _ in range(rounds):
        step = -np.linalg.solve(normal + damping * np.diag(np.diag(normal)), right).reshape(x.shape)
        trial = [errors(i, x[i] + step[i]) for i in range(n)]
        gain = least - cost(trial, x + step)
        if gain <= 0:
            damping *= 4
            if float(np.abs(step).max()) < 1e-4:
                break
            continue
        done = gain < 1e-5 * least
        x, rows, least, damping = x + step, trial, least - gain, damping / 5
        if done:
            break
        normal, right = _normal_equations(errors, precision, x, rows, huber)
    return x


def _loss(rows: Floats, huber: float) -> float:
    size = np.abs(rows)
    far = size > huber
    return float((rows[~far] ** 2).sum() + (huber * (2 * size[far] - huber)).sum())


def _normal_equations(
    errors: Callable[[int, Floats], Floats],
    precision: Floats,
    x: Floats,
    rows: Sequence[Floats],
    huber: float,
    *,
    h: float = 1e-3,
) -> tuple[Floats, Floats]:
    """Return the matrix and the gradient of the next step, derivatives by differences."""
    normal, right = precision.copy(), precision @ x.ravel()
    width = x.shape[1]
    for i, r in enumerate(rows):
        if not len(r):
            continue
        slope = np.stack([(errors(i, x[i] + move) - r) / h for move in np.eye(width) * h], axis=1)
        weight = np.minimum(1.0, huber / np.maximum(np.abs(r), 1e-12))
        own = slice(i * width, (i + 1) * width)
        normal[own, own] += slope.T @ (weight[:, None] * slope)
        right[own] += slope.T @ (weight * r)
    return normal, right
