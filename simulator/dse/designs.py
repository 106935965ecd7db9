"""Designs of a sample: how points are spread over the unit cube."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from einsum_cascade.errors import DataError


def _sobol(axes: int, samples: int, seed: int) -> Any:
    try:
        from scipy.stats import qmc
    except ImportError:
        raise DataError("samples: drawing points needs scipy; install it: pip install scipy") from None
    # The sequence is balanced in powers of two only; drawing one and cutting it avoids its warning.
    return qmc.Sobol(axes, rng=seed).random_base2(max(0, (samples - 1).bit_length()))[:samples]


def _saltelli(axes: int, samples: int, seed: int) -> Any:
    """Return points of the unit cube for Sobol indices, one a row; no more than so many.

    Source: A. Saltelli et al., "Variance based sensitivity analysis of model output" (2010).

    Raises:
        DataError: SALib is not installed, or the samples are too few.
    """
    try:
        from SALib.sample import sobol
    except ImportError:
        message = "design: saltelli needs SALib; install it: pip install 'einsum-cascade[sensitivity]'"
        raise DataError(message) from None
    base = samples // (axes + 2)
    if base < 2:
        raise DataError(f"samples: {axes} axes need at least {2 * (axes + 2)} points, found {samples}")
    # The sequence is balanced in powers of two only.
    return sobol.sample(problem(axes), 1 << (base.bit_length() - 1), calc_second_order=False, seed=seed)


def problem(axes: int) -> dict[str, Any]:
    """Return the unit cube in the words of SALib."""
    return {"num_vars": axes, "names": [f"x{i}" for i in range(axes)], "bounds": [[0.0, 1.0]] * axes}


DESIGNS: Mapping[str, Callable[[int, int, int], Any]] = {"sobol": _sobol, "saltelli": _saltelli}
