"""What a kernel does and moves: operations by pipe, bytes from the L2 cache and from memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from einsum_cascade.expr import Access

from ...hardware.gpu import Gpu
from .case import Case
from .held import Held, room_of, spilt_of
from .operations import Product
from .tiling import Tiling

# What a step does, by the names of the tile model.
STEP_WORK = ("tensor", "exp", "fma", "alu", "loads", "shared")
# Warps of mma.sync that read the same rows, and the same columns, in a product that nothing else shares a kernel with.
# Chosen after looking at products on A100, to which four warps below each other would be twice too slow.
_ABREAST = 2
# Pipes that the cost classes of Einsums keep busy. A reciprocal, a sine, a logarithm and a root are one instruction of
# the special-function unit each, as an exponential is.
_PIPES: Mapping[str, Mapping[str, float]] = {
    "mac": {"fma": 1},
    "mul": {"fma": 1},
    "add": {"fma": 1},
    "max": {"alu": 1},
    "divide": {"exp": 1},
    "exp": {"exp": 1},
    "log": {"exp": 1},
    "sqrt": {"exp": 1},
    "sin": {"exp": 1},
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a block of a kernel does, on average over all of them.

    Attributes:
        blocks: how many there are, batch left out; `steps`: that each takes along what it walks, where a `where` leaves
            something to do; `fullest`: those of the block that takes the most.
        rows, columns: of its products, the largest.
        synchronous: the share of the operations on tensor cores whose products have too few rows for a group of warps.
        tensor, exp, fma, alu: operations of a block, a multiply and an add on tensor cores counted as two.
        loads, shared: bytes that a block asks of the L2 cache and of shared memory.
        held: what a block holds.
        reads, writes: bytes that the kernel moves at the least, batch left out.
        parts: blocks that share a tile, each of which sums a part of it; `partial`: elements of those sums, batch left
            out.
    """

    blocks: int
    steps: int
    fullest: int
    rows: int
    columns: int
    synchronous: float
    tensor: float
    exp: float
    fma: float
    alu: float
    loads: float
    shared: float
    held: Held
    reads: float
    writes: float
    parts: int
    partial: float


def work_of(
    tiling: Tiling,
    gpu: Gpu,
    *,
    held: Held,
    group_rows: int,
    written: frozenset[str],
    alike: bool = False,
) -> Work:
    """Return what a block of a kernel does.

    Args:
        held: what it holds, of `held_of`, which is asked before all else.
        group_rows: rows of a product that a group of warps multiplies together; fewer go through mma.sync.
        written: tensors that others read, or that are asked for.
        alike: the fullest block is not looked for, and taken to be as the others.
    """
    case, structure, blocks = tiling.case, tiling.structure, tiling.blocks
    pipes = dict.fromkeys(("tensor", "exp", "fma", "alu"), 0.0)
    shared = synchronous = 0.0
    busy = _busy(tiling)
    products = {id(p.einsum): p for p in structure.products} if case.tensor else {}
    scanned = {id(e) for e in structure.einsums if e.name in structure.states and tiling.scanned > 1}
    for einsum in (*structure.einsums, *structure.first):
        for action in case.actions(einsum):
            done = action.count * tiling.executed(einsum, action.variables) / blocks
            if tiling.parts > 1 and structure.parted not in action.variables:
                done *= tiling.parts  # what all blocks that share a tile need, each works out for itself
            if einsum.name in structure.idle and structure.loop in action.variables:
                done *= busy
            if id(einsum) in scanned:
                done *= math.log2(tiling.scanned)  # of a scan by doubling, as threads of a warp do it
            product = products.get(id(einsum)) if action.op == "mac" else None
            if product is not None and _on_tensor_cores(tiling, gpu, product):
                flops = 2.0 * done * _padding(tiling, product)
                alone = tiling.side(product.rows) < group_rows
                pipes["tensor"] += flops
                synchronous += flops if alone else 0.0
                shared += done * case.word * _operands(tiling, product, 16 if alone else group_rows)
                continue
            for pipe, count in _PIPES[action.op].items():
                pipes[pipe] += done * count
    loads = _loads(tiling, gpu) + spilt_of(held, gpu) * tiling.steps * tiling.active
    partial = sum(case.elements(e.name) for e in structure.einsums if structure.parted in e.reduced)
    sides = [(tiling.side(p.rows), tiling.side(p.columns)) for p in products.values()] or [(1, 1)]
    rows, columns = max(sides, key=math.prod)
    return Work(
        blocks=blocks,
        steps=_whole(tiling.steps * tiling.active),
        fullest=_whole(tiling.steps * tiling.active) if alike else fullest_of(tiling),
        rows=rows,
        columns=columns,
        synchronous=synchronous / pipes["tensor"] if synchronous else 0.0,
        loads=loads,
        shared=shared + loads,
        held=held,
        reads=read_of(case, structure.readings),
        writes=written_of(case, written & {e.name for e in structure.einsums}),
        parts=tiling.parts,
        partial=partial if tiling.parts > 1 else 0.0,
        **pipes,
    )


def read_of(case: Case, readings: Iterable[Access]) -> float:
    """Return the bytes that a kernel reads of memory at the least, batch left out."""
    given: dict[str, float] = {}
    for access in readings:
        given[access.tensor] = given.get(access.tensor, 0.0) + case.reached(access)
    return sum(case.word_of(tensor) * min(n, case.elements(tensor)) for tensor, n in given.items())


def written_of(case: Case, written: Collection[str]) -> float:
    """Return the bytes of tensors that a kernel leaves in memory, batch left out."""
    return sum(case.word_of(tensor) * case.elements(tensor) for tensor in sorted(written))


def fullest_of(tiling: Tiling) -> int:
    """Return the steps of the block that takes the most."""
    return _whole(tiling.steps * tiling.most_active)


def _whole(steps: float) -> int:
    """Return steps as a number of them, at least one, and not one more for the rounding of a share."""
    return max(1, math.ceil(steps - 1e-9))


def _padding(tiling: Tiling, product: Product) -> float:
    """Return how many operations tensor cores do for each that is asked: their tiles are 16 wide at the least."""
    sides = (tiling.side(names) for names in (product.rows, product.columns, product.inner))
    return math.prod(max(16, -(-n // 16) * 16) / n for n in sides)


def _on_tensor_cores(tiling: Tiling, gpu: Gpu, product: Product) -> bool:
    """Tell whether tensor cores are the faster ones, for all that they have to pad."""
    rate = gpu.tensor.fp16 / 2.0 / _padding(tiling, product)
    return rate > min(gpu.fma_per_cycle, 32 * gpu.issue_per_cycle)


def _operands(tiling: Tiling, product: Product, group_rows: int) -> float:
    """Return the elements that a product reads from shared memory for each multiply-add.

    A group of `group_rows` rows reads all columns. Of mma.sync each warp reads its own: warps stand below each other
    where a row has to be complete for what follows it, else two by two, so that both sides are read twice.
    """
    rows, columns = tiling.side(product.rows), tiling.side(product.columns)
    if group_rows > 16:
        of_columns, of_rows = math.ceil(rows / group_rows), 1
    elif len(tiling.structure.einsums) > 1:
        of_columns, of_rows = min(tiling.warps, math.ceil(rows / 16)), 1
    else:
        of_columns = of_rows = _ABREAST
    return (of_columns * columns + of_rows * rows) / (rows * columns)


def _loads(tiling: Tiling, gpu: Gpu) -> float:
    """Return the bytes that a block loads.

    Of what moves with the steps only the tiles are loaded of which a `where` leaves a point, and a step for which it
    leaves nothing to load is left out.
    """
    case, structure, room = tiling.case, tiling.structure, room_of(gpu)
    loads = anew = 0.0
    for (access, readers), loaded in zip(structure.readings.items(), tiling.loaded, strict=True):
        all_of_it = case.word_of(access.tensor) * loaded
        names = case.names(access)
        if not names.isdisjoint(structure.outer):
            loads += all_of_it * max(tiling.live(e, names, tuple(names)) for e in readers)
        elif all_of_it <= room:
            loads += all_of_it
        else:
            anew += all_of_it
    return loads + anew * tiling.steps * tiling.active


def _busy(tiling: Tiling) -> float:
    """Return the share of the steps of a loop in which coordinates leave some Einsum of it a point."""
    structure = tiling.structure
    masked = [e for e in structure.einsums if e.name in structure.masked]
    return max((tiling.live(e, e.variables, structure.outer) for e in masked), default=1.0)
