"""One kernel of a plan as the source of a Triton function: its loops, what they carry, what it loads and stores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Num, Var, variables

from ..fusion.tiling import Tiling
from .body import Body
from .frame import Frame, Written, parts_of
from .lanes import lanes_of
from .memory import Memory
from .registers import Registers
from .scans import Scans
from .scopes import lost_name
from .steps import Stretch, Walk
from .sums import Sums
from .terms import CannotWriteError, Term
from .values import Values


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


class _Kernel:
    def __init__(self, tiling: Tiling, memory: Memory, written: frozenset[str], word: str) -> None:
        self.structure = tiling.structure
        self.memory, self.written = memory, written
        self.cascade = memory.cascade
        self.lanes = lanes_of(tiling)
        names = [f"{t}_ptr" for t in self.cascade.signatures]
        constants = [f"BLOCK_{rank_of(v)}" for v in self.lanes.order]
        self.body = Body([*self.lanes.names, *names, *constants, *memory.case.sizes, "PARTS"])
        writers = {e.name: e for e in self.structure.einsums}
        self.registers = Registers(self.body, self.lanes, memory, writers)
        self.values = Values(self.body, self.lanes, memory, word, self.registers)
        self.helpers = self.values.helpers
        self.sums = Sums(self.values, self.helpers)
        self.scans = Scans(self.sums, self.structure.einsums)
        self.parted = tiling.structure.parted if tiling.parts > 1 else ""
        self.frame = Frame(self.body, self.lanes, memory, tiling.parts, shared=False)
        self.carried: dict[str, str] = {}
        self.stored: dict[str, None] = {}
        loop = self.lanes.loop
        self.inside = frozenset(
            e.name for e in self.structure.einsums if loop and self.cascade.block_of(e.name) == loop
        )

    def compose(self) -> None:
        """Write the kernel."""
        self.frame.shared = bool(self.parted)
        self.frame.places()
        self._nest(self.structure.einsums, self.lanes.stepped)
        if self.parted and not self.frame.scratch:
            raise CannotWriteError(f"no sum over '{self.parted}' is there in parts")

    def put_together(self) -> None:
        """Write the kernel that puts the parts of sums together."""
        self.frame.places()
        for e in (e for e in self.structure.einsums if self.parted in e.reduced):
            name = self.body.let(e.name.lower(), self.sums.begun(e).text)
            turn = self.body.fresh("part")
            self.body.open(())
            address, axes = self.values.address(e.target, self.lanes.order)
            address = self.frame.place_of_part(e.name, address, turn)
            self.values.read[parts_of(e.name)] = None
            mask = self._mask(axes)
            loaded = f"tl.load({address}{mask}, other=0.0)" if mask else f"tl.load({address})"
            self.body.line(f"{name} = {self.sums.together(e, name, loaded)}")
            self.body.close(f"for {turn} in range(0, PARTS):")
            self._define(e, self.sums.finished(e, Term(name, axes)))

    def function(self, name: str, title: str) -> Written:
        """Return the kernel that has been composed.

        Raises:
            CannotWriteError: a step reads what another step has and does not leave, as a whole row in parts.
        """
        made = self.frame.function(name, title, self.values.read, self.stored, self.helpers)
        lost = lost_name(made.text, {"tl", "triton", *made.helpers})
        if lost is not None:
            names = ", ".join(e.name for e in self.structure.einsums)
            raise CannotWriteError(f"{names}: '{lost}' is read where no step of the block holds it")
        return made

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
        if is_loop and self.scans.some:
            inside = self.scans.in_order(inside)
        opened = [e for e in inside if v in e.reduced and e.name not in self.carried]
        for e in opened:
            if any(w not in e.all_reductions[0].variables for w in (v, *rest) if w in e.reduced):
                raise CannotWriteError(
                    f"{e.name}: a second reduction over a rank that a block walks along; write two Einsums, one for "
                    "each reduction"
                )
            self.carried[e.name] = self.body.let(e.name.lower(), self.sums.begun(e).text)
        walk = Walk(v, inside, self.structure, self.lanes, self.memory, self.written)
        for stretch in walk.stretches(*self._ends(walk), self.body):
            with self.values.assuming(stretch.assumed):
                self._stretch(v, inside, rest, stretch)
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

    def _stretch(self, v: str, inside: Sequence[Einsum], rest: Sequence[str], stretch: Stretch) -> None:
        """Write a loop over some of the steps."""
        name, size = self.lanes.name(v), self.lanes.constant(v) if v in self.lanes.lanes else ""
        start = f"{name}_first" if size else name
        self.body.open((v,))
        if size:
            self.body.line(f"{name} = {start} + tl.arange(0, {size})")
        self._nest(inside, rest)
        for e in inside:
            if v == self.lanes.loop and e.name in self.registers.made:
                made = self.registers.made.pop(e.name)
                last = made.text
                if e.name in self.scans.carried:
                    self.registers.held[e.name] = self.scans.carried.pop(e.name)
                    last = self.scans.last(made)
                self.body.line(f"{self.registers.held[e.name].text} = {last}")
        step = f", {size}" if size else ""
        self.body.close(f"for {start} in range({stretch.first}, {stretch.last}{step}):")

    def _store_part(self, einsum: Einsum, found: Term) -> None:
        """Store what a block has of a sum that several blocks share."""
        if len(einsum.all_reductions) > 1:
            raise CannotWriteError(f"{einsum.name}: a second reduction of a sum in parts")
        address, axes = self.values.address(einsum.target, self.lanes.order)
        address = self.frame.place_of_part(einsum.name, address, self.frame.part)
        self.stored[parts_of(einsum.name)] = None
        self.body.line(f"tl.store({address}, {found.along(axes)}{self._mask(axes)})")

    def _mask(self, axes: Sequence[str]) -> str:
        """Return the argument that keeps a load or a store inside its tensor; nothing where all lanes are."""
        mask = self.values.all_of((), inside=axes)
        return f", mask={mask.along(axes)}" if mask is not None else ""

    def _first(self) -> None:
        """Write the first values of the states of the loop."""
        for einsum in self.structure.first:
            self._exists(einsum)
            self._check_variables(einsum)
            axes = [w for w in self.registers.writers[einsum.name].output_variables if w != self.lanes.loop]
            full = self.sums.full(axes, self.sums.whole(einsum))
            name = self.body.let(einsum.name.lower(), full.text)
            self.registers.held[einsum.name] = Term(name, full.axes)
            if einsum.name in self.written and einsum.name not in self.memory.last_only:
                self._store(einsum, self.registers.held[einsum.name], target=einsum.target)

    def _check_variables(self, first: Einsum) -> None:
        """Refuse a first value of a state along other variables than the Einsum has that goes on from there."""
        for a, b in zip(first.target.indices, self.registers.writers[first.name].target.indices, strict=True):
            if isinstance(b, Var) and a != b:
                raise CannotWriteError(
                    f"{first.name}: its first value has other variables than its next ones"
                )

    def _ends(self, walk: Walk) -> tuple[str, str]:
        """Return where a loop begins and ends: in the block's part, without steps in which it has no point."""
        v, (first, last) = walk.variable, walk.live()
        if v == self.parted:
            step = self.lanes.constant(v) if v in self.lanes.lanes else ""
            text = (
                f"tl.cdiv({rank_of(v)}, PARTS * {step}) * {step}" if step else f"tl.cdiv({rank_of(v)}, PARTS)"
            )
            each, part = self.body.let(f"{v}_each", text), self.frame.part
            first = f"tl.maximum({first}, {part} * {each})"
            last = f"tl.minimum({last}, {part} * {each} + {each})"
        if first != "0":
            if v in self.lanes.lanes:
                first = f"{first} // {self.lanes.constant(v)} * {self.lanes.constant(v)}"
            first = self.body.let(f"{v}_begin", first)
        if last != rank_of(v):
            last = self.body.let(f"{v}_end", last)
        return first, last

    def _einsum(self, einsum: Einsum) -> None:
        """Write one Einsum where all that it needs has been written."""
        if self.scans.some and einsum.name in self.cascade.states:
            self._made(einsum, self.scans.scanned(einsum))
            return
        onto = self.carried.get(einsum.name)
        if onto is not None:
            self.body.line(f"{onto} = {self.sums.part(einsum, onto).text}")
            return
        self._define(einsum, self.sums.whole(einsum))

    def _define(self, einsum: Einsum, value: Term) -> None:
        """Give the value of an Einsum its name, and store it where another kernel or a caller wants it."""
        if einsum.name in self.cascade.states:
            axes = [w for w in einsum.output_variables if w != self.lanes.loop]
            full = self.sums.full(axes, value)
            self._made(einsum, Term(self.body.let(f"{einsum.name.lower()}_next", full.text), full.axes))
            return
        if value.kind != "int" or einsum.name not in self.memory.indices:
            value = value.as_float()
        name = value.text if value.text.isidentifier() else self.body.let(einsum.name.lower(), value.text)
        self.registers.held[einsum.name] = Term(name, value.axes, value.kind)
        if einsum.name in self.written:
            self._store(einsum, self.registers.held[einsum.name])

    def _made(self, state: Einsum, value: Term) -> None:
        """Keep what a step has made of a state, or several of them."""
        self._exists(state)
        self.registers.made[state.name] = value
        if state.name in self.written and state.name not in self.memory.last_only:
            self._store(state, value)

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
        address, axes = self.values.address(target, self.lanes.order)
        self.body.line(f"tl.store({address}, {value.along(axes)}{self._mask(axes)})")
