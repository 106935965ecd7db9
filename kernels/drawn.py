"""What a file of written kernels is checked with: random inputs in its types, and what its text makes of them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from einsum_cascade.evaluator import evaluate, random_inputs

if TYPE_CHECKING:
    from .written import WrittenFile

# How often inputs are halved at the most: what is too large still at a thousandth is so whatever comes in.
_MOST_HALVINGS = 10
# The largest number that the kernels may meet, as a share of the largest of their type: they round, and sum in parts.
_FULL = 0.5


def inputs_of(
    file: WrittenFile, seed: int, *, halvings: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return inputs in the types of a file, and those of the first and the last of its batch in float64.

    Args:
        halvings: how often all numbers but whole ones are halved; indices and masks of 0 and 1 stay.
    """
    import numpy as np
    import torch

    given: dict[str, list[Any]] = {}
    exact: list[dict[str, Any]] = []
    for lane in range(file.batch):
        drawn = random_inputs(file.cascade, file.sizes, seed=seed + lane, limit_bytes=sys.maxsize)
        arrays = {n: np.asarray(v) for n, v in drawn.items()}
        small = {
            n: v if (v == np.round(v)).all() else np.asarray(v * 0.5**halvings) for n, v in arrays.items()
        }
        rounded = {n: torch.from_numpy(v).to(file.tensors[n][1]) for n, v in small.items()}
        for name, tensor in rounded.items():
            given.setdefault(name, []).append(tensor)
        if lane in (0, file.batch - 1):
            exact.append({n: t.double().numpy() for n, t in rounded.items()})
    if file.batch == 1:
        return {n: t[0].contiguous() for n, t in given.items()}, exact
    return {n: torch.stack(t) for n, t in given.items()}, exact


def checkable(
    file: WrittenFile, seed: int, *, limit_bytes: int
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return inputs of a file, what its text makes of them in float64, and how often they had to be halved.

    A backward pass is given as inputs what its forward pass saves, and numbers that belong to no forward pass may be
    exponentials of any size, which no type holds. They are halved until none is larger than the file's type holds.
    """
    for halvings in range(_MOST_HALVINGS + 1):
        given, exact = inputs_of(file, seed, halvings=halvings)
        found = [
            evaluate(file.cascade, file.sizes, each, keep_all=True, limit_bytes=limit_bytes) for each in exact
        ]
        if _held(file, found):
            break
    return given, _stacked(file, found), halvings


def _held(file: WrittenFile, found: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether no number that a text makes is too large for the type of a file."""
    import numpy as np
    import torch

    types = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    most = _FULL * torch.finfo(types[file.word]).max
    every = (np.asarray(v) for v in itertools.chain.from_iterable(each.values() for each in found))
    return all(float(np.abs(v[np.isfinite(v)]).max(initial=0.0)) <= most for v in every)


def _stacked(file: WrittenFile, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the outputs of a text, one after another where there is a batch."""
    import numpy as np

    arrays = {s.tensor: [np.asarray(each[s.tensor]) for each in found] for s in file.cascade.outputs}
    return {n: a[0] if file.batch == 1 else np.stack(a) for n, a in arrays.items()}
