"""A cascade, its sizes, a chip and a mapping -> one loop nest per Einsum; the place where words meet the chip."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade, rank_of, variable_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import MappingError, nearest
from einsum_cascade.expr import Access, Apply, Expr, Num, Size, Var, variables
from einsum_cascade.sizes import BATCH_RANKS
from mappings.binding import WAIT, SpatialMapping
from mappings.expression import evaluate_node
from mappings.loopnest import EinsumLoops

from ..hardware.model import SpatialChip
from .nest import Count, Dimension, Level, Loop, Nest, Operand, Work


@dataclass(frozen=True, slots=True)
class Extents:
    """Sizes of all ranks and of the parts that a mapping splits them into.

    Attributes:
        sizes: by rank of the cascade, batch rank, or part.
        parts: parts of each split rank, outermost first; those of the mapping and of the cascade.
        variable: the rank variable behind each name.
        batch: ranks around the whole cascade.
    """

    sizes: Mapping[str, Count]
    parts: Mapping[str, tuple[str, ...]]
    variable: Mapping[str, str]
    batch: tuple[str, ...]


def lower(cascade: Cascade, extents: Extents, chip: SpatialChip, mapping: SpatialMapping) -> tuple[Nest, ...]:
    """Return the nests of a cascade in the order of the schedule.

    Raises:
        MappingError: the mapping names something that the cascade or the chip lacks, leaves out an Einsum, loops
            over a rank twice or not at all, lays more on an axis than it has, or keeps a tensor nowhere.
    """
    _check_words(cascade, chip, mapping)
    by_name = {e.name: e for e in cascade.einsums}
    return tuple(
        _nest(by_name[einsum], array, extents, chip, mapping)
        for einsum, array, _ in mapping.binding.placements()
    )


def _check_words(cascade: Cascade, chip: SpatialChip, mapping: SpatialMapping) -> None:
    nest, binding, where = mapping.nest, mapping.binding, mapping.name or "mapping"
    known = {e.name for e in cascade.einsums}
    placed = set()
    for einsum, array, phase in binding.placements():
        if array not in chip.arrays:
            raise MappingError(
                f"{where}: phases.{phase}: {chip.name} has no array '{array}'; {nearest(array, chip.arrays)}"
            )
        if einsum not in known:
            raise MappingError(
                f"{where}: phases.{phase}: {cascade.name} has no Einsum '{einsum}'; {nearest(einsum, known)}"
            )
        placed.add(einsum)
    left = [e.name for e in cascade.einsums if e.name not in placed]
    if left:
        raise MappingError(f"{where}: phases: no array does {', '.join(left)}")
    tensors = {*cascade.signatures, *known}
    for memory, kept in binding.keep.items():
        if memory not in chip.memories:
            raise MappingError(
                f"{where}: keep: {chip.name} has no memory '{memory}'; {nearest(memory, chip.memories)}"
            )
        for word in _words(kept):
            if word not in tensors:
                raise MappingError(
                    f"{where}: keep.{memory}: {cascade.name} has no tensor '{word}'; {nearest(word, tensors)}"
                )
    for key, loops in nest.nests.items():
        for memory in loops.time:
            if memory not in chip.memories:
                raise MappingError(
                    f"{where}: nests.{key}: {chip.name} has no memory '{memory}'; {nearest(memory, chip.memories)}"
                )


def _words(kept: Any) -> Iterable[str]:
    if isinstance(kept, str):
        return ()
    if isinstance(kept, Mapping):
        return [w for key, tensors in kept.items() for w in (*key.split(), *tensors)]
    return kept  # type: ignore[no-any-return]


def _nest(einsum: Einsum, array: str, extents: Extents, chip: SpatialChip, mapping: SpatialMapping) -> Nest:
    where = f"{mapping.name or 'mapping'}: {einsum.name}"
    loops = mapping.nest.loops_of(einsum.name)
    if loops is None:
        raise MappingError(f"{where}: nests has no loops for it, and no 'others'")
    batch = tuple(extents.variable[b] for b in extents.batch)
    own = (*batch, *einsum.variables)
    hierarchy = chip.hierarchy(array)
    levels = [
        Level(memory, _loops(_time(memory, loops, chip, mapping), own, extents, where))
        for memory in hierarchy
    ]
    at = next((i for i, m in enumerate(hierarchy) if chip.memories[m].per_element), len(hierarchy)) - 1
    levels[at] = replace(levels[at], space=_space(loops, own, extents, chip, array, where))
    _check_cover(levels, own, extents, where)
    operands = tuple(
        replace(
            o,
            dimensions=(*(Dimension(((b, 1),)) for b in batch), *_numbers(o.dimensions, extents.sizes)),
            kept=tuple(m for m in hierarchy if mapping.binding.keeps(m, einsum.name, o.tensor)),
        )
        for o in operands_of(einsum)
    )
    for o in operands:
        if not o.kept:
            raise MappingError(f"{where}: no memory keeps {o.tensor}")
    work = tuple(Work(a.op, a.count, (*batch, *a.variables)) for a in einsum.actions)
    for w in work:
        if w.op not in chip.arrays[array].ops:
            raise MappingError(
                f"{where}: {array} cannot do '{w.op}'; it does {', '.join(chip.arrays[array].ops)}"
            )
    return Nest(einsum.name, array, tuple(levels), operands, work)


def _time(memory: str, loops: EinsumLoops, chip: SpatialChip, mapping: SpatialMapping) -> tuple[str, ...]:
    outer = mapping.nest.outer if memory == chip.outermost else ()
    return (*outer, *loops.time.get(memory, ()))


def _loops(names: Sequence[str], own: Sequence[str], extents: Extents, where: str) -> tuple[Loop, ...]:
    out: list[Loop] = []
    for name in names:
        parts = _expanded(name, own, extents, where)
        out += [Loop(extents.variable[part], extents.sizes[part], part) for part in parts]
    return tuple(out)


def _expanded(name: str, own: Sequence[str], extents: Extents, where: str) -> tuple[str, ...]:
    """Return the loops that a word stands for in an Einsum with these variables: itself, its parts, or none."""
    if name in BATCH_RANKS and name not in extents.variable:
        return ()  # a batch that the use does not have
    if name not in extents.variable:
        raise MappingError(f"{where}: no rank or part '{name}'; {nearest(name, extents.variable)}")
    if extents.variable[name] in own:
        return (name,)
    parts = extents.parts.get(name, ())
    return tuple(p for p in parts if extents.variable[p] in own)


def _space(
    loops: EinsumLoops, own: Sequence[str], extents: Extents, chip: SpatialChip, array: str, where: str
) -> tuple[Loop, ...]:
    shape = chip.arrays[array].shape
    if len(loops.space) > len(shape):
        raise MappingError(f"{where}: space has {len(loops.space)} axes, {array} has {len(shape)}")
    out: list[Loop] = []
    for axis, names in enumerate(loops.space):
        found = _loops(names.split(), own, extents, where)
        width: Count = 1
        for loop in found:
            width = width * loop.size
        if np.any(width > shape[axis]):
            raise MappingError(
                f"{where}: {names} = {width} does not fit axis {axis} of {array}, {shape[axis]} long"
            )
        out += found
    return tuple(out)


def _check_cover(levels: Sequence[Level], own: Sequence[str], extents: Extents, where: str) -> None:
    covered: dict[str, Count] = {}
    for level in levels:
        for loop in (*level.time, *level.space):
            covered[loop.variable] = covered.get(loop.variable, 1) * loop.size
    for variable in own:
        size = extents.sizes[rank_of(variable)]
        found = covered.get(variable, 1)
        if np.any(found != size):
            raise MappingError(
                f"{where}: rank {rank_of(variable)}: the loops take {found} steps of {size}; "
                "every part of a rank stands in exactly one loop"
            )


@functools.lru_cache(maxsize=4096)
def operands_of(einsum: Einsum) -> tuple[Operand, ...]:
    """Return the accesses of an Einsum as operands, each once; strides are still expressions."""
    reads = dict.fromkeys((a.tensor, a.indices) for a in einsum.reads)
    found = [Operand(tensor, _dimensions(indices), ()) for tensor, indices in reads]
    return (*found, Operand(einsum.name, _dimensions(einsum.target.indices), (), output=True))


def _dimensions(indices: Sequence[Expr]) -> tuple[Dimension, ...]:
    out: list[Dimension] = []
    for index in indices:
        terms = _affine(index)
        if terms is None:  # a gather or a quotient: at most one element for every value of its variables
            out += [Dimension(((v, 1),)) for v in variables(index)]
        elif terms:
            out.append(Dimension(tuple(terms.items())))
    return tuple(out)


def _affine(index: Expr) -> dict[str, Any] | None:
    """Return the strides of an index by variable, or None where it is not a sum of strided variables."""
    if isinstance(index, Var):
        return {index.name: 1}
    if isinstance(index, (Num, Size)):
        return {}
    if isinstance(index, Access) or not isinstance(index, Apply):
        return None
    parts = [_affine(a) for a in index.args]
    if any(p is None for p in parts):
        return None
    if index.op in ("+", "-", "neg"):
        merged: dict[str, Any] = {}
        for p in parts:
            for variable, stride in (p or {}).items():
                if variable in merged:
                    return None
                merged[variable] = stride
        return merged
    if index.op == "*" and sum(bool(p) for p in parts) <= 1:
        factor = next((a for a, p in zip(index.args, parts, strict=True) if not p), None)
        strided = next((p for p in parts if p), {})
        return {v: factor if stride == 1 else Apply("*", (factor, stride)) for v, stride in strided.items()}  # type: ignore[arg-type]
    return None


def _numbers(dimensions: Sequence[Dimension], sizes: Mapping[str, Count]) -> tuple[Dimension, ...]:
    return tuple(
        d
        if all(isinstance(stride, int) for _, stride in d.terms)
        else Dimension(tuple((v, _stride(stride, sizes)) for v, stride in d.terms))
        for d in dimensions
    )


def _stride(stride: Any, sizes: Mapping[str, Count]) -> Count:
    if isinstance(stride, (int, float)):
        return abs(stride)
    return abs(evaluate_node(stride, sizes, where="stride"))


def waits(mapping: SpatialMapping) -> tuple[str, ...]:
    """Return the expressions of all waiting in the schedule."""
    steps = (step for steps in mapping.binding.phases.values() for step in steps)
    return tuple(text for step in steps for text in step.get(WAIT, ()))


def variable_names(cascade: Cascade, batch: Sequence[str]) -> dict[str, str]:
    """Return the variable behind every rank of a cascade and every batch rank."""
    return {r: variable_of(r) for r in (*cascade.rank_names, *batch)}
