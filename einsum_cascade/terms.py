"""Expressions at every point of a space: broadcasting arrays that know which of their points exist.

Every array here has one axis per variable of the space, of length 1 where it does not depend on the variable.
A point that `where` removed, that lies outside its tensor, or that reads such a point is *absent*. What can make
a point absent is a condition that names variables: the conjuncts of `where`, the index of an access (it must lie
inside the tensor), the access itself (its point must exist). A condition acts where the first of its variables is
about to be reduced; one that names only variables of the output removes output points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .declarations import rank_of
from .einsum import Einsum
from .errors import CascadeError
from .expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, variables
from .ops import COMPARISON, SCALAR

Array = Any


@dataclass(frozen=True, slots=True)
class Points:
    """Values and which of them exist.

    Attributes:
        values: float64; what stands at an absent point means nothing.
        present: booleans that broadcast with the values, or None where every point exists.
    """

    values: Array
    present: Array | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a point to exist, and the variables that it names."""

    names: frozenset[str]
    holds: Array


@dataclass(frozen=True, slots=True)
class Terms:
    """An expression at every point of a space; where a condition fails the value means nothing."""

    values: Array
    conditions: tuple[Condition, ...] = ()

    @property
    def present(self) -> Array:
        """Where every condition holds."""
        return _every(self.conditions)


@dataclass(frozen=True, slots=True)
class Space:
    """The points over which one Einsum runs.

    Attributes:
        variables: one axis each.
        sizes: of every rank, and every named constant.
        fixed: the variable of an iterate block and its generation.
        tensors: everything defined so far.
        limit_bytes: no array that is made on the way may be larger.
    """

    variables: tuple[str, ...]
    sizes: Mapping[str, float]
    fixed: Mapping[str, int]
    tensors: Mapping[str, Points]
    limit_bytes: int

    def extent(self, variable: str) -> int:
        """Number of values that a variable takes."""
        return int(self.sizes[rank_of(variable)])

    def along(self, variable: str, line: Array) -> Array:
        """Return a vector laid along the axis of a variable."""
        shape = [1] * len(self.variables)
        shape[self.variables.index(variable)] = len(line)
        return np.reshape(line, shape)

    def scalar(self, value: float) -> Array:
        """Return a number with all axes of length 1."""
        return np.full((1,) * len(self.variables), value, dtype=float)


def space_of(
    einsum: Einsum,
    sizes: Mapping[str, float],
    tensors: Mapping[str, Points],
    *,
    fixed: Mapping[str, int],
    limit_bytes: int,
) -> Space:
    """Return the iteration space of an Einsum, without the variable that a block holds fixed."""
    free = tuple(v for v in einsum.variables if v not in fixed)
    return Space(free, sizes, fixed, tensors, limit_bytes)


def value_of(node: Expr, space: Space) -> Terms:
    """Return an expression at every point of a space."""
    if isinstance(node, Num):
        return Terms(space.scalar(node.value))
    if isinstance(node, Size):
        return Terms(space.scalar(space.sizes[node.name]))
    if isinstance(node, Var):
        if node.name in space.fixed:
            return Terms(space.scalar(space.fixed[node.name]))
        return Terms(space.along(node.name, np.arange(space.extent(node.name), dtype=float)))
    if isinstance(node, Access):
        return _read(node, space)
    args = [value_of(a, space) for a in node.args]
    conditions = tuple(c for a in args for c in a.conditions)
    if isinstance(node, Compare):
        truth = np.asarray(True)
        for op, left, right in zip(node.ops, args, args[1:], strict=False):
            truth = truth & COMPARISON[op](left.values, right.values)
        return Terms(truth, conditions)
    if node.op in ("pad", "select"):
        return _chosen(node, args)
    return Terms(SCALAR[node.op].function(*(a.values for a in args)), conditions)


def _chosen(node: Apply, args: Sequence[Terms]) -> Terms:
    """Return `pad` or `select`: only the branch that is taken is read, so the other one may be absent."""
    yes, no = args[-2:]
    truth, sure = (args[0].values, args[0].conditions) if node.op == "select" else (yes.present, ())
    values = np.where(truth, yes.values, no.values)
    if not yes.conditions and not no.conditions:
        return Terms(values, sure)
    taken: Array = np.where(truth, yes.present, no.present)
    if taken.all():
        return Terms(values, sure)
    return Terms(values, (*sure, Condition(frozenset(variables(node)), taken)))


def condition_of(conjunct: Expr, space: Space) -> Condition:
    """Return what a conjunct of a predicate says, at every point of a space."""
    terms = value_of(conjunct, space)
    return Condition(frozenset(variables(conjunct)), terms.values & terms.present)


def _every(conditions: Sequence[Condition]) -> Array:
    held = all_present(*(c.holds for c in conditions))
    return np.asarray(True) if held is None else held


def all_present(*presents: Array | None) -> Array | None:
    """Return where all of some arrays say that a point exists; None where no point is absent."""
    out = None
    for p in presents:
        if p is not None:
            out = p if out is None else out & p
    return out


def _read(access: Access, space: Space) -> Terms:
    source = space.tensors[access.tensor]
    key = _plain_key(access, source, space)
    return _gathered(access, source, space) if key is None else _sliced(key, access, source, space)


def _plain_key(access: Access, source: Points, space: Space) -> tuple[int | slice, ...] | None:
    """Return slices and numbers that read the access as a view, or None if an index is computed."""
    key: list[int | slice] = []
    seen: set[str] = set()
    for index, extent in zip(access.indices, np.shape(source.values), strict=True):
        if isinstance(index, Var) and index.name not in space.fixed:
            count = space.extent(index.name)
            if index.name in seen or count > extent:
                return None
            seen.add(index.name)
            key.append(slice(0, count))
            continue
        if accesses(index) or any(v not in space.fixed for v in variables(index)):
            return None
        at = float(value_of(index, space).values.reshape(()))
        if not (0 <= at < extent and at == int(at)):
            return None
        key.append(int(at))
    return tuple(key)


def _sliced(key: tuple[int | slice, ...], access: Access, source: Points, space: Space) -> Terms:
    names = [
        i.name
        for i, k in zip(access.indices, key, strict=True)
        if isinstance(k, slice) and isinstance(i, Var)
    ]
    order = [names.index(v) for v in space.variables if v in names]
    shape = [space.extent(v) if v in names else 1 for v in space.variables]

    def view(array: Array) -> Array:
        return np.reshape(np.transpose(array[key], order), shape)

    return Terms(
        view(source.values), _exists(access, None if source.present is None else view(source.present))
    )


def _exists(access: Access, present: Array | None) -> tuple[Condition, ...]:
    """Return the condition that the point of an access exists, if some do not."""
    return () if present is None or present.all() else (Condition(frozenset(variables(access)), present),)


def _gathered(access: Access, source: Points, space: Space) -> Terms:
    conditions: list[Condition] = []
    places = []
    for index, extent in zip(access.indices, source.values.shape, strict=True):
        found = value_of(index, space)
        at = found.values
        broken = ~(np.isfinite(at) & (at == np.floor(at))) & found.present
        if broken.any():
            value = float(np.broadcast_to(at, broken.shape)[broken][0])
            raise CascadeError(
                f"{access.tensor} is indexed by {value:g}, which is not a whole number", at=index.at
            )
        conditions += found.conditions
        inside = (at >= 0) & (at < extent)
        if not inside.all():
            conditions.append(Condition(frozenset(variables(index)), inside | ~found.present))
            at = np.where(inside, at, 0.0)
        places.append(at.astype(np.intp))
    values = source.values[tuple(places)]
    held = None if source.present is None else source.present[tuple(places)] | ~_every(conditions)
    return Terms(values, (*conditions, *_exists(access, held)))
