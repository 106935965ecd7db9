"""What a kernel does and moves: operations by pipe, bytes from the L2 cache and from memory, and what a block holds."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from einsum_cascade.analysis.intervals import slope
from einsum_cascade.analysis.points import live_parts, merged_splits, numbers_of
from einsum_cascade.analysis.tile_points import Digit, live_settings
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of, variable_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import CascadeError
from einsum_cascade.expr import Access, Compare, Expr, Num, Var, accesses, index_variables, variables

from ...hardware.gpu import Gpu
from .operations import Product, actions_of
from .structure import Structure, extent

# Keys, tokens or terms that a block takes at a time: the commonest key tile of attention kernels. Assumed.
STEP = 64
WARPS = 4  # of a block; assumed, as most of the kernels of this package
# Warps of mma.sync that read the same rows, and the same columns, in a product that nothing else shares a kernel with.
# Chosen after looking at products on A100, to which four warps below each other would be twice too slow.
_ABREAST = 2
# Coordinates that are looked at for what a `where` leaves of tiles, 50 ms; beyond, nothing is taken to be removed.
_MOST_LOOKED = 2**20
_WORD = 4.0  # bytes of what lies in registers: sums and softmax in fp32
_STAGES = 2.0  # of a tile that is loaded while the one before is worked on
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


@dataclass(frozen=True)
class Case:
    """What a kernel is asked for: a cascade at some sizes, in a type.

    Attributes:
        sizes: of every rank; `batch`: how often all of it occurs, by ranks that the text leaves out.
        word: bytes of an element in memory; `tensor`: whether tensor cores multiply that type.
    """

    cascade: Cascade
    sizes: Mapping[str, int]
    batch: int
    word: float
    tensor: bool

    @functools.cached_property
    def numbers(self) -> dict[str, float]:
        """Sizes and constants by name."""
        return numbers_of(self.cascade, self.sizes)

    @functools.cached_property
    def _known(self) -> dict[Any, Any]:
        return {}

    def conditions(self, einsum: Einsum, space: tuple[str, ...]) -> tuple[list[Expr], dict[str, int]]:
        """Return what has to hold at a point of a space of an Einsum, and the extents of the space."""
        key = (einsum.name, space)
        if key not in self._known:
            parts = [p for p in live_parts(self.cascade, einsum) if set(variables(p)) <= set(space)]
            self._known[key] = merged_splits(self.cascade, parts, space, self.sizes)
        found: tuple[list[Expr], dict[str, int]] = self._known[key]
        return found

    def elements(self, tensor: str) -> float:
        """Return the elements of a tensor in memory: those that exist, and of a state the last, or all."""
        if tensor not in self._known:
            writer = next((e for e in self.cascade.einsums if e.name == tensor), None)
            signature = self.cascade.signatures[tensor]
            sizes = [self.sizes[r] for r in signature.ranks]
            if signature.state is not None:  # one more than the steps: what it was before the first
                sizes[signature.state] = sizes[signature.state] + 1 if _wants_all(self.cascade, tensor) else 1
            total = math.prod(sizes)
            if writer is not None and signature.state is None:
                total = self._written(writer, total)
            self._known[tensor] = float(total)
        found: float = self._known[tensor]
        return found

    def _written(self, writer: Einsum, every: int) -> int:
        merged, extents = self.conditions(writer, writer.output_variables)
        digits = {v: ((n, True),) for v, n in extents.items()}
        try:
            return live_settings(merged, digits, self.numbers, most=_MOST_LOOKED)
        except CascadeError:
            return every


@dataclass(frozen=True, slots=True)
class Work:
    """What a block of a kernel does, on average over all of them.

    Attributes:
        blocks: how many there are, batch left out; `steps`: that each takes along what it walks.
        rows, columns: of its products, the largest.
        tensor, exp, fma, alu: operations of a block, a multiply and an add on tensor cores counted as two.
        loads, shared: bytes that a block asks of the L2 cache and of shared memory.
        held: bytes that a block holds.
        reads, writes: bytes that the kernel moves at the least, batch left out.
    """

    blocks: int
    steps: int
    rows: int
    columns: int
    tensor: float
    exp: float
    fma: float
    alu: float
    loads: float
    shared: float
    held: float
    reads: float
    writes: float


class Tiling:
    """A structure with the extents of its tile.

    Args:
        tile: of the variables that tell blocks apart; the others of them are 1.
    """

    def __init__(self, case: Case, structure: Structure, tile: Mapping[str, int]) -> None:
        """See the class."""
        self.case, self.structure = case, structure
        self._tile = {v: min(tile.get(v, 1), extent(v, case.sizes)) for v in structure.blocks}
        self._steps = self._cut()

    def _cut(self) -> dict[str, int]:
        """Return the extent of a step along each variable that is walked; those summed together share one length."""
        out = {self.structure.loop: 1} if self.structure.loop else {}
        for einsum in self.structure.einsums:
            left = STEP
            for v in reversed(einsum.reduced):
                if v in self.structure.walked and v not in out:
                    out[v] = min(max(left, 1), extent(v, self.case.sizes))
                    left //= out[v]
        return {v: out[v] for v in self.structure.walked}

    @property
    def blocks(self) -> int:
        """Blocks of the kernel, batch left out."""
        return math.prod(-(-extent(v, self.case.sizes) // t) for v, t in self._tile.items())

    @property
    def steps(self) -> int:
        """Steps of a block along what it walks outermost, with what is summed along with it."""
        return math.prod(-(-extent(v, self.case.sizes) // self._steps[v]) for v in self.outer)

    @property
    def outer(self) -> tuple[str, ...]:
        """What a block walks along outermost: its loop, or the variables that its last sum is over."""
        walked, loop = self.structure.walked, self.structure.loop
        if loop or not walked:
            return walked[:1]
        last = next(e for e in reversed(self.structure.einsums) if walked[0] in e.reduced)
        return tuple(v for v in walked if v in last.reduced)

    def now(self, variable: str, *, whole: Iterable[str] = ()) -> int:
        """Return how many values of a variable a block has before it at a time.

        Args:
            whole: variables of which it has all, if they do not tell blocks apart.
        """
        if variable in self._tile:
            return self._tile[variable]
        if variable in self._steps and variable not in whole:
            return self._steps[variable]
        return extent(variable, self.case.sizes)

    def part(self, access: Access, *, whole: Iterable[str] = ()) -> float:
        """Return how many elements of a tensor a block has before it at a time, at the most."""
        signature = self.case.cascade.signatures[access.tensor]
        total = 1.0
        for axis, (rank, index) in enumerate(zip(signature.ranks, access.indices, strict=True)):
            if axis != signature.state:
                total *= min(self._places(index, whole), self.case.sizes[rank])
        return total

    def _places(self, index: Expr, whole: Iterable[str]) -> float:
        """Return how many values an index takes, at the most: as far as it moves, where it is linear."""
        names = variables(index)
        every = math.prod(self.now(v, whole=whole) for v in names)
        if accesses(index):
            return every
        span = 1.0
        for v in index_variables(index):
            step = slope(index, v, self.case.numbers)
            if step is None:
                return every
            span += abs(step) * (self.now(v, whole=whole) - 1)
        return min(every, span)

    def executed(self, einsum: Einsum, space: tuple[str, ...]) -> float:
        """Return the points of a space that all blocks compute: in each tile and step that has a point left, all.

        Where too many coordinates would have to be looked at one by one, all points of all tiles.

        Args:
            space: variables that the work depends on; blocks that differ in others alone do it each for itself.
        """
        case = self.case
        apart = tuple(v for v in self._tile if v not in space and v in einsum.variables)
        merged, extents = case.conditions(einsum, (*space, *apart))
        digits = {v: self._digits(v) for v in extents}
        ends = [
            Compare(("<",), (Var(v), Num(n)))
            for v, n in extents.items()
            if math.prod(d for d, _ in digits[v]) > n
        ]
        whole = math.prod(n for v, own in digits.items() if v not in apart for n, told in own if not told)
        try:
            tiles = live_settings(
                [*merged, *(ends if merged else ())], digits, case.numbers, most=_MOST_LOOKED
            )
        except CascadeError:
            tiles = math.prod(n for own in digits.values() for n, told in own if told)
        return float(tiles) * whole

    def _digits(self, variable: str) -> tuple[Digit, ...]:
        """Return a variable as tiles that are told apart and places inside them, a split rank by its parts."""
        rank = rank_of(variable)
        if rank in self.case.cascade.splits and variable not in (*self._tile, *self._steps):
            parts = [variable_of(r) for r in self.case.cascade.splits[rank]]
            if any(v in (*self._tile, *self._steps) for v in parts):
                return tuple(d for v in parts for d in self._digits(v))
        size, now = extent(variable, self.case.sizes), self.now(variable)
        return ((-(-size // now), True), (now, False)) if now < size else ((size, False),)


def work_of(tiling: Tiling, gpu: Gpu, *, operand_rows: int, written: frozenset[str]) -> Work:
    """Return what a block of a kernel does.

    Args:
        operand_rows: rows of a product that share one reading of its columns from shared memory; 16 of mma.sync.
        written: tensors that others read, or that are asked for.
    """
    case, structure, blocks = tiling.case, tiling.structure, tiling.blocks
    pipes = dict.fromkeys(("tensor", "exp", "fma", "alu"), 0.0)
    shared = 0.0
    products = {p.einsum.name: p for p in structure.products} if case.tensor else {}
    for einsum in structure.einsums:
        for action in actions_of(einsum):
            done = action.count * tiling.executed(einsum, action.variables) / blocks
            product = products.get(einsum.name) if action.op == "mac" else None
            if product is not None and _on_tensor_cores(tiling, gpu, product):
                pipes["tensor"] += 2.0 * done * _padding(tiling, product)
                shared += done * case.word * _operands(tiling, product, operand_rows)
                continue
            for pipe, count in _PIPES[action.op].items():
                pipes[pipe] += done * count
    loads, held, reads = _traffic(tiling, room=gpu.shared_bytes_per_block / 2)
    writes = case.word * sum(case.elements(e.name) for e in structure.einsums if e.name in written)
    sides = [(_side(tiling, p.rows), _side(tiling, p.columns)) for p in products.values()] or [(1, 1)]
    rows, columns = max(sides, key=math.prod)
    return Work(
        blocks=blocks,
        steps=tiling.steps,
        rows=rows,
        columns=columns,
        loads=loads,
        shared=shared + loads,
        held=held,
        reads=reads,
        writes=writes,
        **pipes,
    )


def _side(tiling: Tiling, names: Sequence[str]) -> int:
    return math.prod(tiling.now(v) for v in names)


def _padding(tiling: Tiling, product: Product) -> float:
    """Return how many operations tensor cores do for each that is asked: their tiles are 16 wide at the least."""
    sides = (_side(tiling, names) for names in (product.rows, product.columns, product.inner))
    return math.prod(max(16, -(-n // 16) * 16) / n for n in sides)


def _on_tensor_cores(tiling: Tiling, gpu: Gpu, product: Product) -> bool:
    """Tell whether tensor cores are the faster ones, for all that they have to pad."""
    rate = gpu.tensor.fp16 / 2.0 / _padding(tiling, product)
    return rate > gpu.fma_per_cycle


def _operands(tiling: Tiling, product: Product, operand_rows: int) -> float:
    """Return the elements that a product reads from shared memory for each multiply-add.

    A group of `operand_rows` rows reads all columns. Of mma.sync each warp reads its own: warps stand below each other
    where a row has to be complete for what follows it, else two by two, so that both sides are read twice.
    """
    rows, columns = _side(tiling, product.rows), _side(tiling, product.columns)
    if operand_rows > 16:
        of_columns, of_rows = math.ceil(rows / operand_rows), 1
    elif len(tiling.structure.einsums) > 1:
        of_columns, of_rows = min(WARPS, math.ceil(rows / 16)), 1
    else:
        of_columns = of_rows = _ABREAST
    return (of_columns * columns + of_rows * rows) / (rows * columns)


def _traffic(tiling: Tiling, *, room: float) -> tuple[float, float, float]:
    """Return the bytes that a block loads, the bytes that it holds, and the least that its kernel reads.

    Args:
        room: bytes beyond which an operand that does not move with the steps is loaded anew in each of them.
    """
    case, structure = tiling.case, tiling.structure
    own = {e.name for e in structure.einsums}
    loads = held = 0.0
    given: set[str] = set()
    for access in dict.fromkeys(a for e in (*structure.einsums, *structure.first) for a in e.reads):
        if access.tensor in own:
            continue
        all_of_it = case.word * tiling.part(access, whole=structure.walked)
        moves = set(tiling.outer) & set(variables(access))
        if not moves and all_of_it <= room:
            loads, held = loads + all_of_it, held + all_of_it
        else:
            loads += all_of_it * (1 if moves else tiling.steps)
            held += _STAGES * case.word * tiling.part(access)
        given.add(access.tensor)
    return loads, held + _WORD * _most_live(tiling), case.word * sum(map(case.elements, given))


def _most_live(tiling: Tiling) -> float:
    """Return the most elements of its own that a block holds at a time; what is used up makes place for others."""
    case, structure = tiling.case, tiling.structure
    states = case.cascade.states
    size = {e.name: tiling.part(e.target, whole=_gathered(case, structure, e)) for e in structure.einsums}
    last = {a.tensor: i for i, e in enumerate(structure.einsums) for a in e.reads if a.tensor in size}
    always = sum(n for name, n in size.items() if name in states)
    live: dict[str, float] = {}
    most = always
    for i, einsum in enumerate(structure.einsums):
        used_up = [name for name, at in last.items() if at == i]
        in_place = einsum.name in states or any(size[name] >= size[einsum.name] for name in used_up)
        taken = 0.0 if in_place else size[einsum.name]
        most = max(most, always + sum(live.values()) + taken)
        given = max((live.pop(name, 0.0) for name in used_up), default=0.0)
        if einsum.name not in states:
            live[einsum.name] = given if in_place else taken
    return most


def _gathered(case: Case, structure: Structure, einsum: Einsum) -> set[str]:
    """Return the variables of a result that lie whole in a block: those that run inside what it is summed along."""
    if einsum.name in case.cascade.states:
        return {v for v in structure.walked if v != structure.loop}
    depths = [structure.walked.index(v) for v in einsum.reduced if v in structure.walked]
    return set(structure.walked[min(depths) :]) if depths else set()


def _wants_all(cascade: Cascade, state: str) -> bool:
    """Tell whether all generations of a state are asked for, as an output or by who reads it outside its block."""
    axis, block = cascade.signatures[state].state, cascade.block_of(state)
    if axis is None:
        return True
    outside = [a for e, at in cascade.statements if at != block for a in e.reads if a.tensor == state]
    return any(s.tensor == state for s in cascade.outputs) or any(
        variables(a.indices[axis or 0]) for a in outside
    )
