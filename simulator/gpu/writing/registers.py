"""What a kernel has computed itself and reads again: in place, renamed, moved, a part, a generation of a state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from einsum_cascade.analysis.intervals import number
from einsum_cascade.einsum import Einsum, is_constant
from einsum_cascade.expr import Access, Apply, Expr, Num, Var, variables

from .body import Body
from .lanes import Lanes
from .memory import Memory
from .terms import CannotWriteError, Term, joined, literal

# Before the name of an axis of which it is not known yet where its elements come from.
_MOVED = "~"


@dataclass
class Registers:
    """Tiles that a block holds.

    Attributes:
        writers: the Einsums of the kernel, by name.
        held: of each that has been computed, its value; of a state that of the step before.
        made: of each state that has got its next value in this step, that value.
        walked: whether the loop of the text is over.
    """

    body: Body
    lanes: Lanes
    memory: Memory
    writers: Mapping[str, Einsum]
    held: dict[str, Term] = field(default_factory=dict)
    made: dict[str, Term] = field(default_factory=dict)
    walked: bool = False

    def read(self, access: Access, term: Callable[[Expr], Term]) -> Term:
        """Return what the kernel has computed itself, as its reader names the axes.

        Args:
            term: makes a term of an index.

        Raises:
            CannotWriteError: it is read where no register of the thread block holds it.
        """
        writer = self.writers[access.tensor]
        signature = self.memory.cascade.signatures[access.tensor]
        value = self.held.get(access.tensor)
        renamed: dict[str, str] = {}
        picked: dict[str, Expr] = {}
        moved: dict[str, Expr] = {}
        for axis, (made, read) in enumerate(zip(writer.target.indices, access.indices, strict=True)):
            if axis == signature.state:
                value = self._generation(access, read)
                if value is not None and self.lanes.loop in value.axes:  # of several steps at a time
                    renamed[self.lanes.loop] = self.lanes.loop
                continue
            if not isinstance(made, Var):
                raise CannotWriteError(
                    f"{access.tensor}: a kernel that computes it reads it at another place"
                )
            if is_constant(read):
                picked[made.name] = read
            elif not isinstance(read, Var):
                self._require_whole(access.tensor, made.name)
                moved[made.name] = read
            elif made != read and self._apart(made.name, read.name):
                raise CannotWriteError(f"{access.tensor}: a kernel that computes it reads another tile of it")
            renamed[made.name] = read.name if isinstance(read, Var) else f"{_MOVED}{made.name}"
        if value is None:
            raise CannotWriteError(f"{access.tensor} is read before it is computed")
        if len(set(renamed.values())) < len(renamed):
            raise CannotWriteError(f"{access.tensor}: a kernel that computes it reads its diagonal")
        for variable, index in picked.items():
            value = self._one_of(value, variable, index)
        value = replace(value, axes=tuple(renamed[a] for a in value.axes))
        for variable, index in moved.items():
            value = self._moved(value, variable, term(index))
        return self._in_order(value)

    def _require_whole(self, tensor: str, variable: str) -> None:
        """Refuse to read at another place what is not all there, or could as well be read from memory.

        What an iterate block hands from step to step is in no memory meanwhile; of anything else, a kernel that leaves
        it there and another one that reads it are no slower than a tile that is turned over.
        """
        if not self.lanes.loop or self.memory.cascade.block_of(tensor) != self.lanes.loop:
            raise CannotWriteError(f"{tensor}: a kernel that computes it reads it at another place")
        if variable in (*self.lanes.tiled, *self.lanes.stepped):
            raise CannotWriteError(f"{tensor}: a kernel that computes it reads another tile of it")

    def _moved(self, value: Term, variable: str, index: Term) -> Term:
        """Return a tile whose elements along a variable of which the block holds all come from where an index says.

        Variables of the index that the tile lacks come in: one in place of the variable, others behind the rest.
        """
        here = f"{_MOVED}{variable}"
        if here not in value.axes:
            return value
        axis = value.axes.index(here)
        mine = sorted((a for a in index.axes if a not in value.axes), key=lambda a: a != variable)
        there = (*value.axes[:axis], mine[0] if mine else here, *value.axes[axis + 1 :], *mine[1:])
        source = [self._extent(a) for a in (*value.axes, *mine[1:])]
        wanted = [*source[:axis], self._extent(mine[0]) if mine else "1", *source[axis + 1 :]]
        taken = value.along((*value.axes, *mine[1:]))
        if mine[1:]:
            taken = f"tl.broadcast_to({taken}, [{', '.join(source)}])"
        # Behind both ends nothing is there to be read; who reads it asks whether it exists.
        whole = index.text if index.kind == "int" else f"tl.cast({index.text}, tl.int32)"
        inside = Term(f"tl.minimum(tl.maximum({whole}, 0), {source[axis]} - 1)", index.axes, "int")
        place = f"tl.broadcast_to({self._turned(inside, there).along(there)}, [{', '.join(wanted)}])"
        text = f"tl.gather({taken}, {place}, axis={axis})"
        if mine:
            return replace(value, text=text, axes=there, whole=True)
        return replace(
            value, text=f"tl.sum({text}, axis={axis})", axes=(*there[:axis], *there[axis + 1 :]), whole=True
        )

    def _extent(self, axis: str) -> str:
        return self.lanes.constant(axis.removeprefix(_MOVED))

    def _apart(self, made: str, read: str) -> bool:
        """Tell whether two variables do not have the same values before a block."""
        some = {*self.lanes.tiled, *self.lanes.stepped}
        alike = self.lanes.lanes.get(made) == self.lanes.lanes.get(read)
        return bool({made, read} & some) or not alike

    def _one_of(self, value: Term, variable: str, index: Expr) -> Term:
        """Return the part of a tile at one place along a variable of which the block holds all."""
        if variable in (*self.lanes.tiled, *self.lanes.stepped):
            raise CannotWriteError(f"one place of '{variable}' is read, of which a block holds a part")
        if variable not in value.axes:
            return value
        at = self.lanes.coordinate(variable)
        place = literal(float(number(index, {}, self.memory.case.numbers)))
        form = "tl.where({} == {}, {}, 0)".format
        there = joined(self.lanes.order, form, at, place, value, kind=value.kind, whole=True)
        axis = there.axes.index(variable)
        left = tuple(a for a in there.axes if a != variable)
        return replace(there, text=f"tl.sum({there.text}, axis={axis})", axes=left)

    def _generation(self, access: Access, index: Expr) -> Term | None:
        """Return the value of a state at the generation that is asked for."""
        loop = self.lanes.loop
        if index == Var(loop):
            return self.held.get(access.tensor)
        if index == Apply("+", (Var(loop), Num(1))):
            return self.made.get(access.tensor)
        inside = any(loop in s.defines for s in self.body.scopes)
        if not variables(index) and not inside:
            last = self.lanes.extent(loop) if self.walked else 0
            if number(index, {}, self.memory.case.numbers) == last:
                return self.held.get(access.tensor)
        raise CannotWriteError(f"{access.tensor}: a generation is read that no register holds")

    def _in_order(self, term: Term) -> Term:
        """Return a term with its axes in the kernel's order."""
        return self._turned(term, self.lanes.ordered(term.axes))

    @staticmethod
    def _turned(term: Term, order: Sequence[str]) -> Term:
        """Return a term with its axes in the order of some, among which they are."""
        axes = tuple(a for a in order if a in term.axes)
        if axes == term.axes:
            return term
        turned = tuple(term.axes.index(a) for a in axes)
        return replace(term, text=f"tl.permute({term.text}, {turned})", axes=axes, whole=True)
