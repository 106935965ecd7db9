"""Fit how the simulator's constants vary over keys: `python -m validation.gpu_likeness` writes the shipped table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.gpu.calibration import NUMBERS, Entry, shipped
from simulator.gpu.likeness import LEVEL, TABLE, WORDS, Likeness, differences, shared

from .tables import write_rows

Floats = NDArray[np.float64]

# Where the search begins and towards what it is held, in logarithms with a spread: a fit of some 150 entries of ten
# devices cannot tell a dozen weights apart by itself.
_FIRST = {"mapping": 0.7, "version": 0.1, "dtype": 0.1, "kv_dtype": 0.1, "served": 0.5, "head_dim": 0.2}
_ELSE, _HELD = 0.3, 1.0
_VARIANCE, _OWN, _HELD_VARIANCE = 0.15, 0.02, 1.5
_ROUNDS = 60


def fit(entries: Sequence[Entry]) -> tuple[Likeness, ...]:
    """Return the likeness under which each device's entries are most likely, given those of all others.

    Source: leave-out predictive density as the objective (Sundararajan and Keerthi, 2001; Rasmussen and Williams,
        2006, sec. 5.4.2), a device at a time.
    """
    keys = [e.key for e in entries]
    apart, devices = differences(keys, keys), np.array([k.device for k in keys])
    logs = np.log([[getattr(e.efficiency, n) for n in NUMBERS] for e in entries])
    unsure = np.array([e.unsure for e in entries])
    return tuple(_fit(logs[:, i], unsure[:, i], apart, devices) for i in range(len(NUMBERS)))


def _fit(logs: Floats, unsure: Floats, apart: Floats, devices: NDArray[Any]) -> Likeness:
    from scipy.optimize import minimize

    first = np.log([*(_FIRST.get(w, _ELSE) for w in (*WORDS, "head_dim")), _VARIANCE, _OWN])
    held = np.array([_HELD] * (len(first) - 2) + [_HELD_VARIANCE] * 2)

    def cost(x: Floats) -> float:
        held_to = 0.5 * float((((x - first) / held) ** 2).sum())
        return surprise(_likeness(x), logs, unsure, apart, devices) + held_to

    found = minimize(cost, first, method="L-BFGS-B", options={"maxiter": _ROUNDS})
    return _likeness(found.x)


def _likeness(logs: Floats) -> Likeness:
    numbers = [float(x) for x in np.exp(logs)]
    return Likeness(tuple(numbers[:-2]), numbers[-2], numbers[-1])


def surprise(likeness: Likeness, logs: Floats, unsure: Floats, apart: Floats, devices: NDArray[Any]) -> float:
    """Return minus the log density of each device's entries, given those of the other devices, without a constant.

    Args:
        logs: of one constant, an entry each; `unsure`: how far each entry's rows leave it open.
    """
    covariance = shared(likeness, apart) + LEVEL**2 + np.diag(likeness.own + unsure**2)
    precision = np.linalg.inv(covariance)
    pulled = precision @ (logs - np.median(logs))
    out = 0.0
    for device in np.unique(devices):
        mine = np.flatnonzero(devices == device)
        root = np.linalg.cholesky(precision[np.ix_(mine, mine)])
        out += 0.5 * float((np.linalg.solve(root, pulled[mine]) ** 2).sum()) - float(
            np.log(np.diag(root)).sum()
        )
    return out


def write(path: Path = TABLE) -> None:
    """Write the table from the forward entries of the shipped efficiencies."""
    entries = [e for e in shipped() if e.key.direction == "fwd"]
    source = (
        f"fitted: each device's entries given the others', {len(entries)} forward entries in efficiency.csv"
    )
    write_rows(path, [_row(n, each, source) for n, each in zip(NUMBERS, fit(entries), strict=True)])


def _row(constant: str, likeness: Likeness, source: str) -> dict[str, Any]:
    numbers = (*likeness.per_word, likeness.variance, likeness.own)
    named = zip((*WORDS, "head_dim", "variance", "own"), numbers, strict=True)
    return {"constant": constant, **{name: f"{x:.3g}" for name, x in named}, "source": source}


if __name__ == "__main__":
    write()
