"""Names for the ranks of a traced function: those of the literature where a rank does what they stand for."""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence

from ..declarations import Rank
from ..einsum import Einsum
from ..expr import Apply, Expr, Size
from .values import Axis, Builder, size_key


class Names:
    """The names of all ranks: by what they do where that is clear, else by the alphabet."""

    def __init__(self, builder: Builder, axes: Sequence[Axis], given: Sequence[tuple[Axis, ...]]) -> None:
        self._builder = builder
        self._of: dict[Axis, str] = {}
        self._taken = set(builder.names)
        self.order: list[Axis] = []
        for axis in axes:
            self._collect(axis.root)
        for axis, name in self._roles(given):
            self._set(axis.root, name)
        for axis in self.order:
            if axis not in self._of:
                self._set(axis, "")

    @property
    def sizes(self) -> dict[str, str]:
        """Final names of sizes by the keys used while tracing."""
        return {size_key(a): self.name(a) for a in self._everything()}

    def _everything(self) -> list[Axis]:
        found: list[Axis] = []
        open_axes = [*self.order, *self._builder.axis_of.values()]
        while open_axes:
            axis = open_axes.pop()
            if axis not in found:
                found.append(axis)
                open_axes += [*axis.parts, *axis.joined]
        return found

    def name(self, axis: Axis) -> str:
        """Return the name of an axis."""
        return self._of[axis.root]

    def meant(self, name: str) -> str:
        """Return the rank that a name stands for: of a second name, the first."""
        return self._meant.get(name, name)

    @functools.cached_property
    def _meant(self) -> dict[str, str]:
        return {n: self._of[a.origin] for a, n in self._of.items() if a.origin in self._of}

    def declared(self, used: set[str]) -> tuple[Rank, ...]:
        """Return the ranks that are used, those that follow from others with their sizes."""
        kept: set[Axis] = set()
        for axis in reversed(self.order):
            if self._of[axis] in used or axis in kept:
                kept |= {axis, *(p.root for p in axis.parts)}
                kept |= {axis.other_name_of.root} if axis.other_name_of is not None else set()
        return tuple(Rank(self._of[a], self._size(a)) for a in self.order if a in kept)

    def extents(self) -> dict[str, int]:
        """Return the size of each rank in the example."""
        return {self._of[a]: a.size for a in self.order}

    def _size(self, axis: Axis) -> Expr | None:
        if axis.other_name_of is not None:
            return Size(self._of[axis.other_name_of.root])
        out: Expr | None = None
        for part in axis.parts:
            out = Size(self.name(part)) if out is None else Apply("*", (out, Size(self.name(part))))
        return out

    def _collect(self, axis: Axis) -> None:
        if axis in self.order:
            return
        if axis.other_name_of is not None:
            self._collect(axis.other_name_of.root)
        for part in axis.parts:
            self._collect(part.root)
        self.order.append(axis)

    def _set(self, axis: Axis, wanted: str) -> None:
        if axis in self._of:
            return
        pool = [wanted] if wanted else []
        pool += list("NDCGIJLRSTUWXYZABEFHKMOPQV")
        pool += [f"{c}{i}" for i in range(1, 9) for c in string.ascii_uppercase]
        self._of[axis] = next(n for n in pool if n not in self._taken)
        self._taken.add(self._of[axis])

    def _roles(self, given: Sequence[tuple[Axis, ...]]) -> list[tuple[Axis, str]]:
        """Return the names that the literature uses: P queries, M keys, E the width of scores, F of values, B, H."""
        builder = self._builder
        reduced = {builder.axis_of[v].root for e in builder.einsums for v in e.reduced}
        kept = [a.root for own in given for a in own]
        shared = [a for a in dict.fromkeys(kept) if kept.count(a) > 1 and a not in reduced and not a.parts]
        roles = list(zip(shared, ["H"] if len(shared) == 1 else ["B", "H"], strict=False))
        tops = [e for e in builder.einsums if any(r.op in ("max", "logsumexp") for r in e.reductions)]
        return roles + self._attention_roles(tops[0], set(shared)) if tops else roles

    def _attention_roles(self, top: Einsum, batch: set[Axis]) -> list[tuple[Axis, str]]:
        """Return the roles of ranks around the first maximum."""
        builder = self._builder

        def roots(names: Sequence[str]) -> list[Axis]:
            return [builder.axis_of[v].root for v in names]

        place = builder.einsums.index(top)
        keys = roots(top.reduced)
        roles = [(a, "M") for a in keys]
        roles += [(a, "P") for a in reversed(roots(top.output_variables)) if a not in batch]
        roles += [(a, "E") for e in builder.einsums[max(0, place - 2) : place] for a in roots(e.reduced)]
        for e in builder.einsums[place:]:
            if e.all_reductions and e.all_reductions[0].op == "sum" and set(roots(e.reduced)) & set(keys):
                roles += [(a, "F") for a in roots(e.output_variables) if a not in dict(roles)]
        return roles
