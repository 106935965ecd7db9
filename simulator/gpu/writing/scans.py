"""Running sums as Triton scans: many steps of a state at a time, one scan after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Expr, Num
from einsum_cascade.ops import REDUCTION

from ..fusion.scans import Step, is_itself, step_of
from .sums import Sums
from .terms import CannotWriteError, Term

# How two elements of a scan are put together, and how a state with what a scan gives.
_JOINED: Mapping[str, tuple[str, str]] = {
    "max": ("_larger", "tl.maximum({0}, {1})"),
    "min": ("_smaller", "tl.minimum({0}, {1})"),
}


@dataclass
class Scans:
    """The states of a loop of which a block works out several steps at a time.

    Attributes:
        einsums: those of the kernel.
        carried: of each state what it was before the first of these steps.
    """

    sums: Sums
    einsums: Sequence[Einsum]
    carried: dict[str, Term] = field(default_factory=dict)

    @property
    def some(self) -> bool:
        """Whether a block works out several steps at a time."""
        return self.sums.lanes.loop in self.sums.lanes.lanes

    def in_order(self, einsums: Sequence[Einsum]) -> list[Einsum]:
        """Return Einsums of a step so that a state is there before anybody reads it, as the step found it too."""
        cascade = self.sums.values.memory.cascade
        left = {e.name: e for e in einsums}
        out: list[Einsum] = []
        while left:
            ready = [
                e
                for e in left.values()
                if not any(a.tensor in left and not is_itself(cascade, e, a) for a in e.reads)
            ]
            if not ready:
                raise CannotWriteError(f"{', '.join(left)}: states that need each other")
            out.append(ready[0])
            del left[ready[0].name]
        return out

    def scanned(self, einsum: Einsum) -> Term:
        """Write several steps of a state, and return what each of them makes of it."""
        cascade, lanes, body = self.sums.values.memory.cascade, self.sums.lanes, self.sums.body
        step, carry = step_of(cascade, einsum), self.sums.values.registers.held[einsum.name]
        if step is None:
            raise CannotWriteError(f"{einsum.name}: its steps cannot be worked out together")
        self.carried[einsum.name] = carry
        axes = lanes.ordered(einsum.output_variables)
        made = Term(body.let(f"{einsum.name.lower()}_next", self._made(step, carry.along(axes), axes)), axes)
        before = (a for e in self.einsums for a in e.reads if a.tensor == einsum.name and e is not einsum)
        if any(cascade.reads_previous(a) for a in before):
            self.sums.values.registers.held[einsum.name] = self._found(einsum, made, carry.along(axes))
        return made

    def _made(self, step: Step, carry: str, axes: tuple[str, ...]) -> str:
        axis = axes.index(self.sums.lanes.loop)
        if step.op != "sum":
            helper, form = _JOINED[step.op]
            self.sums.helpers[helper] = None
            term = self._tile(step.term, axes, float(REDUCTION[step.op].identity))
            return form.format(carry, f"tl.associative_scan({term}, {axis}, {helper})")
        if step.factor is None:
            return f"{carry} + tl.cumsum({self._tile(step.term, axes, 0.0)}, axis={axis})"
        self.sums.helpers["_first_order"] = None
        factor, term = self._tile(step.factor, axes, 1.0), self._tile(step.term, axes, 0.0)
        factors, terms = self.sums.body.fresh("factors"), self.sums.body.fresh("terms")
        self.sums.body.line(
            f"{factors}, {terms} = tl.associative_scan(({factor}, {term}), {axis}, _first_order)"
        )
        return f"{factors} * {carry} + {terms}"

    def _tile(self, value: Expr | None, axes: tuple[str, ...], neutral: float) -> str:
        """Return a tile of all steps, in which those behind the last change nothing."""
        values = self.sums.values
        found = values.term(Num(neutral) if value is None else value).as_float()
        inside = values.all_of((), inside=(self.sums.lanes.loop,))
        return self.sums.full(axes, values.chosen(inside, found, neutral)).along(axes)

    def _found(self, einsum: Einsum, made: Term, carry: str) -> Term:
        """Return a state as each step found it: what the one before has made, of the first what there was."""
        lanes, body = self.sums.lanes, self.sums.body
        axis, at, shape = made.axes.index(lanes.loop), self._place(made), lanes.shape(made.axes)
        place = f"tl.broadcast_to(tl.maximum({at} - 1, 0), {shape})"
        text = f"tl.where({at} == 0, {carry}, tl.gather({made.text}, {place}, axis={axis}))"
        return Term(body.let(f"{einsum.name.lower()}_before", text), made.axes)

    def _place(self, made: Term) -> str:
        """Return which of the steps each element of a tile is."""
        loop = self.sums.lanes.loop
        name = self.sums.lanes.name(loop)
        return Term(f"({name} - {name}_first)", (loop,)).along(made.axes)

    def last(self, made: Term) -> str:
        """Return what the last of the steps has made of a state."""
        lanes = self.sums.lanes
        chosen = f"tl.where({self._place(made)} == {lanes.constant(lanes.loop)} - 1, {made.text}, 0.0)"
        return f"tl.sum({chosen}, axis={made.axes.index(lanes.loop)})"
