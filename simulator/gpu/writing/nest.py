"""One kernel of a plan as the source of a Triton function: its loops, what they carry, what it loads and stores."""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Expr, Num, Var, variables

from ..fusion.structure import Structure
from ..fusion.tiling import Tiling
from .body import Body
from .lanes import Lanes, lanes_of
from .memory import MOST_32, Memory
from .ranges import always, ends
from .registers import Registers
from .sums import Sums
from .terms import CannotWriteError, Term
from .values import Values

_WORD = re.compile(r"[A-Za-z_]\w*")


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


def write_kernels(
    name: str, tiling: Tiling, memory: Memory, written: Iterable[str], *, word: str, title: str = ""
) -> list[Written]:
    """Return a kernel as Triton source, and where its sums are in parts, the one that puts them together.

    Args:
        written: tensors that it leaves in memory.
        word: type of tensors in memory: fp32, bf16 or fp16.

    Raises:
        CannotWriteError: something in it has no form in Triton.
    """
    kernel = _Kernel(tiling, memory, frozenset(written), word)
    kernel.compose()
    if tiling.parts == 1:
        return [kernel.function(name, title)]
    rest = _Kernel(tiling, memory, frozenset(written), word)
    rest.put_together()
    return [
        kernel.function(name, f"{title} In parts."),
        rest.function(f"{name}_together", "Puts parts together."),
    ]


def check_writable(tiling: Tiling, memory: Memory, written: Iterable[str], *, word: str) -> None:
    """Refuse a kernel that has no form in Triton.

    Raises:
        CannotWriteError: naming what has none.
    """
    kernel = _Kernel(tiling, memory, frozenset(written), word)
    kernel.compose()
    if tiling.parts > 1:
        _Kernel(tiling, memory, frozenset(written), word).put_together()


class _Kernel:
    def __init__(self, tiling: Tiling, memory: Memory, written: frozenset[str], word: str) -> None:
        self.structure: Structure = tiling.structure
        self.memory, self.written = memory, written
        self.cascade: Cascade = memory.cascade
        self.lanes: Lanes = lanes_of(tiling)
        names = [f"{t}_ptr" for t in self.cascade.signatures]
        constants = [f"BLOCK_{rank_of(v)}" for v in self.lanes.order]
        self.body = Body([*self.lanes.order, *names, *constants, *memory.case.sizes, "PARTS"])
        writers = {e.name: e for e in self.structure.einsums}
        self.registers = Registers(self.body, self.lanes, memory, writers)
        self.values = Values(self.body, self.lanes, memory, word, self.registers)
        self.helpers: dict[str, None] = {}
        self.sums = Sums(self.values, self.helpers)
        self.parts = tiling.parts
        self.parted = tiling.structure.parted if tiling.parts > 1 else ""
        self.scratch: dict[str, tuple[int, ...]] = {}
        self.carried: dict[str, str] = {}
        self.stored: dict[str, None] = {}
        self.inside = frozenset(
            e.name for e in self.structure.einsums if self.cascade.block_of(e.name) and self._of_loop(e)
        )

    def _of_loop(self, einsum: Einsum) -> bool:
        return self.cascade.block_of(einsum.name) == self.lanes.loop

    def compose(self) -> None:
        """Write the kernel."""
        self._places(self.parts)
        self._nest(self.structure.einsums, self.lanes.stepped)
        if self.parted and not self.scratch:
            raise CannotWriteError(f"no sum over '{self.parted}' is there in parts")

    def put_together(self) -> None:
        """Write the kernel that puts the parts of sums together."""
        self._places(1)
        for e in (e for e in self.structure.einsums if self.parted in e.reduced):
            name = self.body.let(e.name.lower(), self.sums.begun(e).text)
            turn = self.body.fresh("part")
            self.body.open(())
            address, axes = self._place_of_part(e, turn)
            self.values.read[_parts_of(e.name)] = None
            mask = self.values.all_of((), inside=axes)
            more = f", mask={mask.along(axes)}, other=0.0" if mask is not None else ""
            self.body.line(f"{name} = {self.sums.together(e, name, f'tl.load({address}{more})')}")
            self.body.close(f"for {turn} in range(0, PARTS):")
            self._define(e, self.sums.finished(e, Term(name, axes)))

    def _place_of_part(self, einsum: Einsum, part: str) -> tuple[str, tuple[str, ...]]:
        """Return where a part of a sum lies in memory: behind those before it, each like the tensor itself."""
        name = _parts_of(einsum.name)
        self.scratch[name] = (self.parts, *self.memory.shape(einsum.name))
        address, axes = self.values.address(einsum.target, self.lanes.order)
        before = f"{name}_ptr + {part} * ({self.memory.extent(einsum.name)})"
        return address.replace(f"{einsum.name}_ptr", before, 1), axes

    def function(self, name: str, title: str) -> Written:
        reads = tuple(self.values.read)
        writes = tuple(t for t in self.stored if t not in reads)
        self._settle((*reads, *writes))
        constants = self._constants()
        arguments = [f"{t}_ptr" for t in (*reads, *writes)] + [f"{c}:~tl.constexpr" for c in constants]
        head = textwrap.fill(
            f"def {name}({', '.join(arguments)}):", 110, subsequent_indent=" " * (len(name) + 5)
        ).replace("~", " ")
        text = f'@triton.jit\n{head}\n    """{title}"""\n{self.body.text}\n'
        return Written(
            name, text, reads, writes, self._blocks(), constants, tuple(self.helpers), warps_of(self.lanes),
            {n: shape for n, shape in self.scratch.items() if n in (*reads, *writes)},
        )  # fmt: skip

    def _constants(self) -> dict[str, int]:
        """Return the compile-time numbers that the text names."""
        every = dict(self.memory.case.sizes)
        every["PARTS"] = self.parts
        every |= {f"BLOCK_{rank_of(v)}": n for v, n in self.lanes.lanes.items()}
        words = {w for line in self.body.scopes[0].lines for w in _WORD.findall(line)}
        return {c: n for c, n in every.items() if c in words}

    def _blocks(self) -> int:
        out = self._shared
        for v in self.lanes.tiled:
            out *= -(-self.lanes.extent(v) // self.lanes.lanes.get(v, 1))
        return out

    def _places(self, parts: int) -> None:
        """Write which tile a block has, and which part of it, and the vectors that it holds whole.

        Args:
            parts: blocks that share a tile.
        """
        self._shared = parts
        batch = self.memory.case.batch
        tiled = [v for v in self.lanes.tiled if self.lanes.extent(v) > 1]
        for v in self.lanes.tiled:
            if v not in tiled:
                self.body.line(f"{v} = 0")
        if tiled or batch * parts > 1:
            self.body.line("pid = tl.program_id(0)")
        for v in reversed(tiled):
            rank = rank_of(v)
            lanes = self.lanes.lanes.get(v)
            count = rank if lanes is None else f"tl.cdiv({rank}, {self.lanes.constant(v)})"
            last = v == tiled[0] and batch * parts == 1
            tile = "pid" if last else f"pid % {count}"
            if lanes is None:
                self.body.line(f"{v} = {tile}")
            else:
                self.body.line(f"{v}_first = {tile} * {self.lanes.constant(v)}")
                self.body.line(f"{v} = {v}_first + tl.arange(0, {self.lanes.constant(v)})")
                self.body.line(f"{v}_last = tl.minimum({v}_first + {self.lanes.constant(v)}, {rank}) - 1")
            if not last:
                self.body.line(f"pid = pid // {count}")
        if parts > 1:
            self.part = self.body.let("part", "pid % PARTS")
            self.body.line("pid = pid // PARTS")
        self._placed = len(self.body.scopes[0].lines)
        walked = {*self.lanes.tiled, *self.lanes.stepped}
        for v in self.lanes.order:
            if v not in walked:
                vector = f"tl.arange(0, {self.lanes.constant(v)})" if v in self.lanes.lanes else "0"
                self.body.line(f"{v} = {vector}")

    def _settle(self, tensors: Sequence[str]) -> None:
        """Write where the block's element of the batch begins in each tensor, and drop what nobody has asked for."""
        lines = self.body.scopes[0].lines
        if self.memory.case.batch > 1:
            each = [f"{t}_ptr += {self._batch(t)} * ({self._extent(t)})" for t in tensors]
            lines[self._placed : self._placed] = each
        words = Counter(w for line in lines for w in _WORD.findall(line))
        unused = [
            t for t in lines if words[t.partition(" = ")[0]] == 1 and not t.startswith((" ", "tl.", "for "))
        ]
        lines[:] = [t for t in lines if t not in unused]

    def _extent(self, tensor: str) -> str:
        """Return the elements of a tensor of one element of the batch, as Triton writes them."""
        whole = tensor.removesuffix(_PARTS) if tensor in self.scratch else tensor
        return f"PARTS * {self.memory.extent(whole)}" if tensor in self.scratch else self.memory.extent(whole)

    def _batch(self, tensor: str) -> str:
        shape = self.scratch.get(tensor) or self.memory.shape(tensor)
        wide = math.prod(shape) * self.memory.case.batch > MOST_32
        return "tl.cast(pid, tl.int64)" if wide else "pid"

    def _nest(self, einsums: Sequence[Einsum], steps: Sequence[str]) -> None:
        """Write some Einsums under loops over what they are stepped along."""
        steps = [v for v in steps if any(self._moves(e, v) for e in einsums)]
        if not steps:
            for einsum in einsums:
                self._einsum(einsum)
            return
        v, rest = steps[0], steps[1:]
        inside = [e for e in einsums if self._moves(e, v)]
        after = self._needing(einsums, inside)
        before = [e for e in einsums if e not in inside and e.name not in after]
        self._nest(before, rest)
        self._loop(v, inside, rest)
        self._nest([e for e in einsums if e not in inside and e.name in after], rest)

    def _moves(self, einsum: Einsum, variable: str) -> bool:
        """Tell whether an Einsum is computed in the steps of a loop."""
        return variable in einsum.variables or (variable == self.lanes.loop and einsum.name in self.inside)

    def _needing(self, einsums: Sequence[Einsum], inside: Sequence[Einsum]) -> set[str]:
        """Return the Einsums that read, however indirectly, what some Einsums define."""
        found = {e.name for e in inside}
        for einsum in einsums:
            if any(a.tensor in found for a in einsum.reads):
                found.add(einsum.name)
        return found

    def _loop(self, v: str, inside: Sequence[Einsum], rest: Sequence[str]) -> None:
        """Write a loop with what it carries from step to step."""
        is_loop = v == self.lanes.loop
        if is_loop:
            self._first()
        opened = [e for e in inside if v in e.reduced and e.name not in self.carried]
        for e in opened:
            if any(w not in e.all_reductions[0].variables for w in (v, *rest) if w in e.reduced):
                raise CannotWriteError(f"{e.name}: a second reduction over a rank that a block walks along")
            self.carried[e.name] = self.body.let(e.name.lower(), self.sums.begun(e).text)
        low, high = self._ends(v, inside)
        self.body.open((v,))
        lanes = self.lanes.lanes.get(v)
        start = f"{v}_first" if lanes else v
        if lanes:
            self.body.line(f"{v} = {start} + tl.arange(0, {self.lanes.constant(v)})")
        self._nest(inside, rest)
        if is_loop:
            for e in inside:
                if e.name in self.registers.made:
                    self.body.line(
                        f"{self.registers.held[e.name].text} = {self.registers.made.pop(e.name).text}"
                    )
        step = f", {self.lanes.constant(v)}" if lanes else ""
        if lanes and low != "0":
            low = f"{low} // {self.lanes.constant(v)} * {self.lanes.constant(v)}"
        self.body.close(f"for {start} in range({low}, {high}{step}):")
        if is_loop:
            self.registers.walked = True
            for e in inside:
                if (
                    e.name in self.registers.held
                    and e.name in self.cascade.states
                    and e.name in self.memory.last_only
                ):
                    self._store(e, self.registers.held[e.name])
        for e in opened:
            name = self.carried.pop(e.name)
            kept = [w for w in e.variables if w not in e.all_reductions[0].variables]
            found = Term(name, self.lanes.ordered(kept))
            if v == self.parted:
                self._store_part(e, found)
            else:
                self._define(e, self.sums.finished(e, found))

    def _store_part(self, einsum: Einsum, found: Term) -> None:
        """Store what a block has of a sum that several blocks share."""
        if len(einsum.all_reductions) > 1:
            raise CannotWriteError(f"{einsum.name}: a second reduction of a sum in parts")
        address, axes = self._place_of_part(einsum, self.part)
        self.stored[_parts_of(einsum.name)] = None
        mask = self.values.all_of((), inside=axes)
        more = f", mask={mask.along(axes)}" if mask is not None else ""
        self.body.line(f"tl.store({address}, {found.along(axes)}{more})")

    def _first(self) -> None:
        """Write the first values of the states of the loop."""
        for einsum in self.structure.first:
            self._exists(einsum)
            value = self.sums.whole(einsum)
            axes = [w for w in self.registers.writers[einsum.name].output_variables if w != self.lanes.loop]
            renamed = self._as_written(einsum, value)
            full = self.sums.full(axes, renamed)
            name = self.body.let(einsum.name.lower(), full.text)
            self.registers.held[einsum.name] = Term(name, full.axes)
            if einsum.name in self.written and einsum.name not in self.memory.last_only:
                self._store(einsum, self.registers.held[einsum.name], target=einsum.target)

    def _as_written(self, first: Einsum, value: Term) -> Term:
        """Return the first value of a state with the axes of the Einsum that goes on from there."""
        for a, b in zip(first.target.indices, self.registers.writers[first.name].target.indices, strict=True):
            if isinstance(b, Var) and a != b:
                raise CannotWriteError(
                    f"{first.name}: its first value has other variables than its next ones"
                )
        return value

    def _ends(self, v: str, inside: Sequence[Einsum]) -> tuple[str, str]:
        """Return where a loop begins and ends: in the block's part, without steps in which it has no point."""
        first, last = self._live(v, inside)
        if v != self.parted:
            return first, last
        step = self.lanes.constant(v)
        each = self.body.let(f"{v}_each", f"tl.cdiv({rank_of(v)}, PARTS * {step}) * {step}")
        first = self.body.let(f"{v}_begin", f"tl.maximum({first}, {self.part} * {each})")
        return first, self.body.let(f"{v}_end", f"tl.minimum({last}, {self.part} * {each} + {each})")

    def _live(self, v: str, inside: Sequence[Einsum]) -> tuple[str, str]:
        """Return where the steps begin and end in which the block has points."""
        rank = rank_of(v)
        acting = self._acting(v, inside)
        if acting is None:
            return "0", rank
        numbers = self.memory.case.numbers
        every = []
        for e in acting:
            parts = [p for p in self._conditions(e) if not always(p, numbers)]
            every.append(ends(parts, v, self.lanes.seen, numbers))
        low, high = every[0]
        if any(found != (low, high) for found in every[1:]):
            return "0", rank
        first, last = "0", rank
        for text in low:
            first = f"tl.maximum({first}, {text})"
        for text in high:
            last = f"tl.minimum({last}, {text})"
        if low:
            first = self.body.let(f"{v}_begin", first)
        if high:
            last = self.body.let(f"{v}_end", last)
        return first, last

    def _conditions(self, einsum: Einsum) -> list[Expr]:
        return [p for stage in self.sums.stages(einsum) for p in stage]

    def _acting(self, v: str, inside: Sequence[Einsum]) -> list[Einsum] | None:
        """Return the Einsums that a step without points is left out for; None where every step has to run."""
        kept = [e for e in inside if v in e.output_variables and e.name in self.written]
        if v == self.lanes.loop:
            states = [e for e in inside if e.name in self.cascade.states]
            kept = [e for e in kept if not (e in states and e.name in self.memory.last_only)]
            names = {e.name for e in inside}
            if kept or not names <= self.structure.masked | self.structure.idle or not self.structure.idle:
                return None
            return [e for e in inside if e.name in self.structure.masked]
        return None if kept else [e for e in inside if v in e.reduced]

    def _einsum(self, einsum: Einsum) -> None:
        """Write one Einsum where all that it needs has been written."""
        onto = self.carried.get(einsum.name)
        if onto is not None:
            self.body.line(f"{onto} = {self.sums.part(einsum, onto).text}")
            return
        self._define(einsum, self.sums.whole(einsum))

    def _define(self, einsum: Einsum, value: Term) -> None:
        """Give the value of an Einsum its name, and store it where another kernel or a caller wants it."""
        if einsum.name in self.cascade.states:
            self._exists(einsum)
            axes = [w for w in einsum.output_variables if w != self.lanes.loop]
            full = self.sums.full(axes, value)
            name = self.body.let(f"{einsum.name.lower()}_next", full.text)
            self.registers.made[einsum.name] = Term(name, full.axes)
            if einsum.name in self.written and einsum.name not in self.memory.last_only:
                self._store(einsum, self.registers.made[einsum.name])
            return
        if value.kind != "int" or einsum.name not in self.memory.indices:
            value = value.as_float()
        name = value.text if value.text.isidentifier() else self.body.let(einsum.name.lower(), value.text)
        self.registers.held[einsum.name] = Term(name, value.axes, value.kind)
        if einsum.name in self.written:
            self._store(einsum, self.registers.held[einsum.name])

    def _exists(self, state: Einsum) -> None:
        """Refuse a state of which a generation lacks elements: what reads it lacks them too, which nobody keeps."""
        if self.values.all_of(self.sums.stages(state)[-1]) is not None:
            raise CannotWriteError(f"{state.name}: a state of which some elements may not exist")

    def _store(self, einsum: Einsum, value: Term, *, target: Access | None = None) -> None:
        """Store a tile, zeros at its absent points."""
        if einsum.name not in self.written:
            return
        target = target or einsum.target
        self.stored[einsum.name] = None
        loop = self.lanes.loop
        if einsum.name in self.memory.last_only:  # without the axis of generations
            target = Access(
                target.tensor, tuple(Num(0) if loop in variables(i) else i for i in target.indices)
            )
        else:
            conditions = self.sums.stages(einsum)[-1]
            where = self.values.all_of(conditions)
            if where is not None:
                value = self.values.chosen(where, value, 0.0)
        place = self.lanes.order
        address, axes = self.values.address(target, place)
        shown = value.along(axes) if value.axes else value.text
        mask = self.values.all_of((), inside=axes)
        more = f", mask={mask.along(axes)}" if mask is not None else ""
        self.body.line(f"tl.store({address}, {shown}{more})")


_PARTS = "_parts"


def _parts_of(tensor: str) -> str:
    """Return the name of what blocks leave of a sum that they share."""
    return tensor + _PARTS


# Elements of the largest tile of a block above which it takes eight warps: with four of 32 threads, a tile of 16K
# elements leaves half of the 255 registers of a thread to all else.
_FOUR_WARPS = 2**14


def warps_of(lanes: Lanes) -> int:
    """Return the warps of a block: four, or eight where its tiles of a product would fill their registers."""
    most = 1
    for product in lanes.tiling.structure.products:
        made = [v for v in (*product.rows, *product.columns) if v in lanes.lanes]
        size = 1
        for v in made:
            size *= lanes.lanes[v]
        most = max(most, size)
    return 8 if most >= _FOUR_WARPS else 4
