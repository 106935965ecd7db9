"""What stands around the lines of a kernel: which tile a block has, where its tensors begin, its arguments."""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from einsum_cascade.declarations import rank_of

from .body import Body
from .lanes import Lanes
from .memory import MOST_32, Memory

_WORD = re.compile(r"[A-Za-z_]\w*")
_WIDTH = 110
_PARTS = "_parts"


@dataclass(frozen=True)
class Written:
    """The source of one kernel, and what a launch of it takes.

    Attributes:
        text: the function, decorator included.
        reads, writes: tensors in memory, in the order of its arguments.
        blocks: thread blocks of one element of the batch.
        constants: values of its compile-time arguments.
        helpers: functions that it calls.
        scratch: shapes of what its blocks hand to the kernel that puts parts of sums together, by name.
    """

    name: str
    text: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    blocks: int
    constants: dict[str, int]
    helpers: tuple[str, ...]
    warps: int
    scratch: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass
class Frame:
    """The head of a kernel and its first lines.

    Attributes:
        parts: among how many blocks the sums of a tile are shared out; `shared`: whether this kernel's blocks do that.
        part: name of the part that a block has.
        scratch: shapes of sums in parts, by the names of their tensors.
    """

    body: Body
    lanes: Lanes
    memory: Memory
    parts: int
    shared: bool
    part: str = ""
    scratch: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _placed: int = 0

    def places(self) -> None:
        """Write which tile a block has, and which part of its sums, and the vectors that it holds whole."""
        batch = self.memory.case.batch
        tiled = [v for v in self.lanes.tiled if self.lanes.extent(v) > 1]
        alone = batch == 1 and not self.shared
        if tiled or not alone:
            self.body.line("pid = tl.program_id(0)")
        for v in reversed(tiled):
            self._tile(v, last=alone and v == tiled[0])
        if self.shared:
            self.part = self.body.let("part", "pid % PARTS")
            self.body.line("pid = pid // PARTS")
        self._placed = len(self.body.scopes[0].lines)
        for v in self.lanes.order:
            if v not in (*tiled, *self.lanes.stepped):
                vector = f"tl.arange(0, {self.lanes.constant(v)})" if v in self.lanes.lanes else "0"
                self.body.line(f"{self.lanes.name(v)} = {vector}")

    def _tile(self, v: str, *, last: bool) -> None:
        name, rank, size = (
            self.lanes.name(v),
            rank_of(v),
            self.lanes.constant(v) if v in self.lanes.lanes else "",
        )
        count = f"tl.cdiv({rank}, {size})" if size else rank
        tile = "pid" if last else f"pid % {count}"
        if size:
            self.body.line(f"{name}_first = {tile} * {size}")
            self.body.line(f"{name} = {name}_first + tl.arange(0, {size})")
            self.body.line(f"{name}_last = tl.minimum({name}_first + {size}, {rank}) - 1")
        else:
            self.body.line(f"{name} = {tile}")
        if not last:
            self.body.line(f"pid = pid // {count}")

    def place_of_part(self, tensor: str, address: str, part: str) -> str:
        """Return where a part of a sum lies in memory: behind those before it, each like the tensor itself."""
        name = parts_of(tensor)
        self.scratch[name] = (self.parts, *self.memory.shape(tensor))
        return address.replace(f"{tensor}_ptr", f"{name}_ptr + {part} * ({self.memory.extent(tensor)})", 1)

    def function(
        self, name: str, title: str, reads: Iterable[str], stored: Iterable[str], helpers: Iterable[str]
    ) -> Written:
        """Return the kernel, now that all of its lines stand."""
        reads = tuple(reads)
        writes = tuple(t for t in stored if t not in reads)
        self._settle((*reads, *writes))
        constants = self._constants()
        arguments = [f"{t}_ptr" for t in (*reads, *writes)] + [f"{c}:~tl.constexpr" for c in constants]
        head = textwrap.fill(
            f"def {name}({', '.join(arguments)}):", _WIDTH, subsequent_indent=" " * (len(name) + 5)
        ).replace("~", " ")
        text = f'@triton.jit\n{head}\n    """{title}"""\n{self.body.text}\n'
        scratch = {n: shape for n, shape in self.scratch.items() if n in (*reads, *writes)}
        return Written(
            name,
            text,
            reads,
            writes,
            self._blocks(),
            constants,
            tuple(helpers),
            self.lanes.tiling.warps,
            scratch,
        )

    def _settle(self, tensors: Sequence[str]) -> None:
        """Write where the block's element of the batch begins in each tensor, and drop what nobody has asked for."""
        lines = self.body.scopes[0].lines
        if self.memory.case.batch > 1:
            each = [f"{t}_ptr += {self._batch(t)} * ({self._extent(t)})" for t in tensors]
            lines[self._placed : self._placed] = each
        words = _words(lines)
        lines[:] = [
            t for t in lines if words[t.partition(" = ")[0]] != 1 or t.startswith((" ", "tl.", "for "))
        ]

    def _extent(self, tensor: str) -> str:
        """Return the elements of a tensor of one element of the batch, as Triton writes them."""
        if tensor in self.scratch:
            return f"PARTS * {self.memory.extent(tensor.removesuffix(_PARTS))}"
        return self.memory.extent(tensor)

    def _batch(self, tensor: str) -> str:
        shape = self.scratch.get(tensor) or self.memory.shape(tensor)
        wide = math.prod(shape) * self.memory.case.batch > MOST_32
        return "tl.cast(pid, tl.int64)" if wide else "pid"

    def _constants(self) -> dict[str, int]:
        """Return the compile-time numbers that the text names."""
        every: Mapping[str, int] = {
            **self.memory.case.sizes,
            "PARTS": self.parts,
            **{f"BLOCK_{rank_of(v)}": n for v, n in self.lanes.lanes.items()},
        }
        words = _words(self.body.scopes[0].lines)
        return {c: n for c, n in every.items() if c in words}

    def _blocks(self) -> int:
        tiles = (-(-self.lanes.extent(v) // self.lanes.lanes.get(v, 1)) for v in self.lanes.tiled)
        return math.prod(tiles) * (self.parts if self.shared else 1)


def parts_of(tensor: str) -> str:
    """Return the name of what blocks leave of a sum that they share."""
    return tensor + _PARTS


def _words(lines: Sequence[str]) -> Counter[str]:
    return Counter(w for line in lines for w in _WORD.findall(line))
