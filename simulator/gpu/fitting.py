"""Constants of many keys fitted to a few rows each, together: what one key's rows say, its likes hear in part."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from einsum_cascade.errors import DataError

from .calibration import NUMBERS, Key, Prior, made
from .efficiency import Efficiency, scheduled, times
from .intervals import with_interval
from .launch import Launch
from .likeness import Joint

Floats = NDArray[np.float64]

# Log error of a calibration row, of the model and of the measurement together (repeated runs differ by 3.6 %).
_ROW_SPREAD = 0.08
# Beyond so many spreads a row pulls no harder: one wrong time among the rows of a file does not bend all others.
_HUBER = 3.0

_FEW_ROWS = 32  # whose blocks are scheduled one by one
_ALONE = Key("", "", "", "", 1, "")  # of a group that is fitted by itself, whatever it is


@dataclass(frozen=True, slots=True)
class Group:
    """Measured calls of one key; none, where others are to tell.

    Attributes:
        launches: calls; `measured_s`: their seconds, one array a launch.
    """

    key: Key
    launches: tuple[Launch, ...] = ()
    measured_s: tuple[Floats, ...] = ()

    def __post_init__(self) -> None:
        if any(not len(m) or float(np.min(m)) <= 0 for m in self.measured_s):
            raise DataError("calibration: expected positive times")


def together(
    groups: Sequence[Group], *, known: Joint, exact: bool | None = None, huber: float = _HUBER
) -> list[Floats]:
    """Return the logarithms of each group's constants, most likely after the rows of all groups.

    The constants are what was known before plus a deviation. Deviations are normal, as wide as was known, and those of
    two keys of one device are correlated by their likeness: the fixed cost of a framework's call or the rate of a
    kernel is off by much the same for every head dimension and type.

    Args:
        known: of all groups at once, in their order.
        exact: schedule few blocks event by event at every step, by default where rows are few; else once, with the
            constants that are known before.
        huber: row errors beyond so many spreads count linearly; infinity for least squares.

    Source: maximum a posteriori by Levenberg-Marquardt; Huber (1964) by iterated weights; correlations as in Gaussian
        process regression (likeness.py).
    """
    means, precision = known.mean, _precision(known.covariance)
    if exact is None:
        exact = sum(len(m) for g in groups for m in g.measured_s) <= _FEW_ROWS
    if not exact:
        groups = [_scheduled(g, logs) for g, logs in zip(groups, means, strict=True)]
    targets = [np.log(np.concatenate([np.ones(0), *g.measured_s])) for g in groups]

    def errors(i: int, x: Floats) -> Floats:
        return _errors(groups[i].launches, targets[i], means[i] + x, exact=exact) / _ROW_SPREAD

    found: Floats = means + _most_likely(errors, precision, len(groups), huber=huber)
    return list(found)


def _scheduled(group: Group, logs: Floats) -> Group:
    """Return a group whose launches know how late their blocks end, with the constants of these logarithms."""
    return replace(group, launches=tuple(scheduled(each, made(np.exp(logs))) for each in group.launches))


def furthest(group: Group, fitted: Efficiency) -> float:
    """Return the largest factor between a row of a group and what constants predict of it; 1 where there is none.

    Far above the width of their interval, the kernel does something else than its mapping says, or the row is wrong.
    """
    logs = [
        np.log(times(laid, fitted).latency_s / seconds)
        for laid, seconds in zip(group.launches, group.measured_s, strict=True)
    ]
    return float(np.exp(np.abs(np.concatenate([np.zeros(1), *logs])).max()))


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
        exact: schedule few blocks event by event at every step; for fits of thousands of rows once, beforehand.
        kind: of kernel, by which the interval is tabulated.

    Raises:
        DataError: no row, or a time that is not positive.
    """
    if not launches or not all(len(m) for m in measured_s):
        raise DataError("calibration: expected at least one measured row")
    alone = Group(_ALONE, tuple(launches), tuple(measured_s))
    before = Joint(known.mean[None], known.spread[:, None, None] ** 2)
    found = together([alone], known=before, exact=exact, huber=math.inf)[0]
    return with_interval(made(np.exp(found), source=source), state="measured", kind=kind)


def unsure(
    launches: Sequence[Launch], measured_s: Sequence[Floats], *, known: Prior, found: Efficiency
) -> Floats:
    """Return how far the rows of one key leave each constant open, as a log spread, shape (constants,).

    Args:
        found: of `calibrate`, from these rows and what was known before.

    Source: Laplace's approximation; rows that the model misses by more than their spread count by that error.
    """
    logs, target = np.log([getattr(found, n) for n in NUMBERS]), np.log(np.concatenate(list(measured_s)))

    def errors(x: Floats) -> Floats:
        return _errors(launches, target, x, exact=False)

    at = errors(logs)
    spread = max(_ROW_SPREAD, float(np.sqrt((at**2).mean())))
    slope = _slope(errors, logs, at) / spread
    precision = slope.T @ slope + np.diag(known.spread**-2.0)
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(precision))))


def _errors(launches: Sequence[Launch], target: Floats, logs: Floats, *, exact: bool) -> Floats:
    """Return the log errors of all rows of one key, with the constants of these logarithms."""
    constants = made(np.exp(logs))
    got = [times(each, constants, exact=exact).latency_s for each in launches]
    out: Floats = np.log(np.concatenate([np.ones(0), *got])) - target
    return out


def _precision(covariance: Floats) -> Floats:
    """Return the inverse covariance of all deviations, group by group, from that of each constant over groups."""
    constants, n, _ = covariance.shape
    blocks = np.zeros((n, constants, n, constants))
    for c, inverse in enumerate(np.linalg.inv(covariance)):
        blocks[:, c, :, c] = inverse
    return blocks.reshape(n * constants, n * constants)


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
) -> tuple[Floats, Floats]:
    """Return the matrix and the gradient of the next step, derivatives by differences."""
    normal, right = precision.copy(), precision @ x.ravel()
    width = x.shape[1]
    for i, r in enumerate(rows):
        if not len(r):
            continue
        slope = _slope(functools.partial(errors, i), x[i], r)
        weight = np.minimum(1.0, huber / np.maximum(np.abs(r), 1e-12))
        own = slice(i * width, (i + 1) * width)
        normal[own, own] += slope.T @ (weight[:, None] * slope)
        right[own] += slope.T @ (weight * r)
    return normal, right


def _slope(errors: Callable[[Floats], Floats], at: Floats, there: Floats, *, h: float = 1e-3) -> Floats:
    """Return the derivatives of errors by differences, shape (errors, constants), from those at a point."""
    return np.stack([(errors(at + move) - there) / h for move in np.eye(len(at)) * h], axis=1)
