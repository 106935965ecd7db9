"""The independent formula of every zoo entry, and random sizes and inputs on which to compare it with the cascade.

No formula is derived from a cascade, and none uses the evaluator: that is what makes the comparison worth something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ..errors import CascadeError, nearest

Arrays: TypeAlias = Mapping[str, Any]
Sizes: TypeAlias = Mapping[str, int]
Formula: TypeAlias = Callable[[Arrays, Sizes], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Reference:
    """What a zoo entry must compute, and where to try it.

    Attributes:
        formula: inputs and sizes -> outputs.
        sizes: free ranks whose size is not any number from 1 to 7: a pair of bounds, or another rank that it
            equals or may not exceed (`"<=M"`).
        inputs: replaces inputs that cannot be drawn from a normal distribution.
    """

    formula: Formula
    sizes: Mapping[str, tuple[int, int] | str] = field(default_factory=dict)
    inputs: Callable[[Any, Sizes], dict[str, Any]] | None = None


def table() -> dict[str, Reference]:
    """Return the reference of every zoo entry that has one."""
    from .references import families

    return {name: reference for family in families() for name, reference in family.items()}


def reference(name: str) -> Reference:
    """Return the reference of a zoo entry.

    Raises:
        CascadeError: there is none.
    """
    known = table()
    if name not in known:
        raise CascadeError(f"there is no reference formula for '{name}'", hint=nearest(name, known))
    return known[name]


def draw(name: str, *, seed: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Return random legal sizes and inputs of a zoo entry; the same seed gives the same draw."""
    from ..evaluator import random_inputs
    from . import load

    cascade, wanted = load(name), reference(name)
    rng = np.random.default_rng(seed)
    rules = wanted.sizes
    sizes: dict[str, int] = {}
    for rank in sorted(cascade.free_ranks, key=lambda r: isinstance(rules.get(r), str)):
        rule = rules.get(rank, (1, 7))
        if isinstance(rule, tuple):
            sizes[rank] = int(rng.integers(rule[0], rule[1] + 1))
        elif rule.startswith("<="):
            sizes[rank] = int(rng.integers(1, sizes[rule[2:]] + 1))
        else:
            sizes[rank] = sizes[rule]
    inputs = random_inputs(cascade, sizes, seed=seed)
    if wanted.inputs is not None:
        from ..sizes import resolve

        inputs |= wanted.inputs(rng, resolve(cascade, sizes))
    return sizes, inputs
