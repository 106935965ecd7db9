"""One attempt to read a part of a cascade as a loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..cascade import Cascade
from ..declarations import Iterate, Rank, Signature, free_name, rank_of, variable_of
from ..einsum import Einsum
from ..expr import (
    Access,
    Apply,
    Compare,
    Expr,
    Num,
    Size,
    Var,
    from_end,
    substitute,
    swapped,
    transform,
    variables,
    walk,
)
from .pattern import NoLoopError, Unifier
from .plain import einsums_of, in_every, number_in, without_copies, without_unused
from .segments import Stretch

# The rank of steps, where the name is free.
USUAL = "T"


@dataclass
class Roller:
    """One attempt to read a stretch as a loop.

    Attributes:
        rows: by place in a step, the variable along which a step writes one row of a tensor that all steps share.
        timed: ranks along which the loop walks.
        gathered: Einsums of the block for what is gathered from all steps behind it.
    """

    original: Cascade
    einsums: list[Einsum]
    stretch: Stretch
    sizes: dict[str, int]
    rows: dict[int, str] = field(default_factory=dict)
    timed: dict[str, None] = field(default_factory=dict)
    gathered: list[Einsum] = field(default_factory=list)

    def __post_init__(self) -> None:
        """See the class."""
        taken = {*self.original.rank_names, *self.original.signatures}
        taken |= {rank_of(v) for e in self.einsums for v in e.variables}
        self.rank = free_name(USUAL, taken)
        self.step = Var(variable_of(self.rank))
        self.unifier = Unifier(self.einsums, self.stretch, self.step.name, self.rank, self.sizes)

    def cascade(self) -> Cascade:
        """Return the cascade with the loop.

        Raises:
            NoLoopError: the stretch is none.
        """
        patterns = [self.unifier.einsum(place) for place in range(self.stretch.length)]
        self.rows = {p: row for p, e in enumerate(patterns) if (row := self._row(p, e)) is not None}
        self.states = {p for p in self.unifier.starts if p not in self.rows}
        inside = [self._inside(place, e) for place, e in enumerate(patterns)]
        before = self.einsums[: self.stretch.start]
        after = [e for e in map(self._after, self.einsums[self.stretch.end :]) if e is not None]
        after += self._asked()
        inside = without_copies([*inside, *self.gathered], self.states_by_name(), after)
        first = [self._first(p, patterns[p]) for p in sorted(self.states)]
        read = {t for e in (*before, *first, *inside, *after) for t in e.sources}
        asked = {s.tensor for s in self.original.outputs}
        # A state that began as zeros may have been written down for the first step alone.
        before = [e for e in before if e.name in read | asked]
        for einsum in (*inside, *after):
            self._walks(einsum)
        return self._declared((*before, *first, Iterate(self.step.name, tuple(inside)), *after))

    def states_by_name(self) -> set[str]:
        """Return the names of states."""
        return {self._name(p) for p in self.states}

    def _name(self, place: int) -> str:
        """Return the name of a tensor of the block: an output's own where rows of it are written."""
        last = self.einsums[self.stretch.end - self.stretch.length + place].name
        return last if place in self.rows else self.unifier.name(place)

    def _row(self, place: int, einsum: Einsum) -> str | None:
        """Return the variable v of `S[v, ..] = select(v == t, X, S before)`, or None: every step writes a row."""
        value, target = einsum.value, einsum.target.indices
        if not isinstance(value, Apply) or value.op != "select":
            return None
        condition, _, old = value.args
        own = Access(self.unifier.name(place), (self.step, *target))
        if old != own or not isinstance(condition, Compare) or condition.ops != ("==",):
            return None
        sides = [a for a in condition.args if a != self.step]
        if len(sides) != 1 or not isinstance(sides[0], Var) or sides[0] not in target:
            return None
        row = sides[0].name
        return row if self.sizes.get(rank_of(row)) == self.stretch.count else None

    def _inside(self, place: int, einsum: Einsum) -> Einsum:
        """Return an Einsum of the block."""
        name, target = self._name(place), einsum.target.indices
        if place in self.rows:
            row = self.rows[place]
            assert isinstance(einsum.value, Apply)
            self.timed[rank_of(row)] = None
            value = substitute(einsum.value.args[1], {row: self.step})
            indices = tuple(self.step if i == Var(row) else i for i in target)
            where = None if einsum.where is None else substitute(einsum.where, {row: self.step})
            return replace(
                einsum, target=Access(name, indices), value=self._dated(value), where=self._dated_where(where)
            )
        now: Expr = Apply("+", (self.step, Num(1))) if place in self.states else self.step
        return replace(
            einsum,
            target=Access(name, (now, *target)),
            value=self._dated(einsum.value),
            where=self._dated_where(einsum.where),
        )

    def _dated_where(self, where: Expr | None) -> Expr | None:
        return None if where is None else self._dated(where)

    def _dated(self, node: Expr) -> Expr:
        """Return an expression of a step in which tensors of the same step are read at it."""
        places = {self.unifier.name(p): p for p in range(self.stretch.length)}

        def change(n: Expr) -> Expr:
            if not isinstance(n, Access) or n.tensor not in places:
                return n
            place = places[n.tensor]
            if place in self.rows:
                raise NoLoopError  # what is written row by row is read in the loop
            if self.unifier.state_read(n) is not None:
                return Access(self._name(place), n.indices)  # of the step before
            return self._at(place, self.step, n.indices)

        return transform(node, change)

    def _at(self, place: int, step: Expr, indices: tuple[Expr, ...]) -> Access:
        """Return the read of what a step has made; of a state that is what the next step finds."""
        if place in self.states:
            step = Num(step.value + 1) if isinstance(step, Num) else Apply("+", (step, Num(1)))
        return Access(self._name(place), (step, *indices))

    def _first(self, place: int, einsum: Einsum) -> Einsum:
        """Return the Einsum that gives a state its first value.

        Raises:
            NoLoopError: its reads do not agree about it.
        """
        found: set[Expr] = set()
        for indices, value in self.unifier.starts[place]:
            names = [i.name for i in indices if isinstance(i, Var)]
            value = self._number_in(value)
            if isinstance(value, Num):
                found.add(value)
                continue
            if len(set(names)) < len(indices) or not set(variables(value)) <= set(names):
                raise NoLoopError
            found.add(substitute(value, dict(zip(names, einsum.target.indices, strict=True))))
        if len(found) != 1:
            raise NoLoopError
        return Einsum(Access(self._name(place), (Num(0), *einsum.target.indices)), found.pop())

    def _number_in(self, node: Expr) -> Expr:
        """Return the number that a tensor before the loop is, such as the zeros of a first state."""
        place = self.unifier.places.get(node.tensor, -1) if isinstance(node, Access) else -1
        value = number_in(self.einsums[place]) if 0 <= place < self.stretch.start else None
        return node if value is None else value

    def _after(self, einsum: Einsum) -> Einsum | None:
        """Return an Einsum behind the loop that reads what its steps have made; None where the block makes it."""
        if isinstance(einsum.value, Apply) and not einsum.reductions and einsum.where is None:
            found = self._rows_of(einsum.value)
            if found is not None and isinstance(found[0], Var) and found[0] in einsum.target.indices:
                row, pattern = found
                assert isinstance(row, Var)
                self.timed[rank_of(row.name)] = None
                indices = tuple(self.step if i == row else i for i in einsum.target.indices)
                value = substitute(pattern, {row.name: self.step})
                self.gathered.append(Einsum(Access(einsum.name, indices), value))
                return None

        def change(node: Expr) -> Expr:
            return self._last(node) if isinstance(node, Access) else node

        value = transform(self._gathered(einsum.value), change)
        where = None if einsum.where is None else transform(einsum.where, change)
        return replace(einsum, value=value, where=where)

    def _gathered(self, node: Expr) -> Expr:
        """Return an expression with `select(r < 1, A0, select(r < 2, A1, ...))` as the read of step r."""
        found = self._rows_of(node) if isinstance(node, Apply) else None
        if found is None:
            # From the outside: the whole chain is one read, its inner parts are none.
            parts = tuple(map(self._gathered, node.args)) if isinstance(node, (Apply, Compare)) else ()
            return replace(node, args=parts) if isinstance(node, (Apply, Compare)) else node
        row, pattern = found
        own: dict[str, Expr] = {}
        tile = self._tile(row)
        if tile is not None:
            # Rows of a tile: a step makes them by their places in it, not by those in the whole.
            place, inner = tile
            pattern = swapped(pattern, place, inner)
            own[inner.name] = place
        for v in variables(row):
            rank = rank_of(v)
            self.timed[self.original.splits[rank][0] if tile is not None else rank] = None
        names = [v for v in dict.fromkeys(variables(pattern)) if v != self.step.name]
        name = self.fresh("ROW")
        self.gathered.append(Einsum(Access(name, (self.step, *map(Var, names))), pattern))
        return Access(name, (row, *(own.get(v, Var(v)) for v in names)))

    def _tile(self, row: Expr) -> tuple[Expr, Var] | None:
        """Return x%M and m of a row `x//M`, the number of a tile, or None for another row."""
        match row:
            case Apply("//", (Var(x), Size(inner))) if self.original.splits.get(rank_of(x), ())[1:] == (
                inner,
            ):
                return Apply("%", row.args), Var(variable_of(inner))
        return None

    def fresh(self, wanted: str) -> str:
        """Return a tensor name that is free."""
        taken = {*self.unifier.places, *self.original.signatures, *(e.name for e in self.gathered)}
        return free_name(wanted, taken)

    def _rows_of(self, node: Apply) -> tuple[Expr, Expr] | None:
        """Return row and what a step makes of it, of a value that takes each row from another step; or None."""
        reads: list[Expr] = []
        row: Expr | None = None
        rest: Expr = node
        while isinstance(rest, Apply) and rest.op == "select":
            condition, chosen, rest = rest.args
            if not isinstance(condition, Compare) or condition.ops != ("<",):
                return None
            if condition.args[1] != Num(len(reads) + 1) or condition.args[0] != (row or condition.args[0]):
                return None
            row = condition.args[0]
            reads.append(chosen)
        reads.append(rest)
        if len(reads) != self.stretch.count or row is None:
            return None
        last = Apply("-", (Size(self.rank), Num(1)))
        for order, at in ((reads, row), (reads[::-1], Apply("-", (last, row)))):
            try:
                return at, self._dated(self.unifier.gathered(order))
            except NoLoopError:
                continue
        return None

    def _made(self, node: Expr) -> tuple[int, int] | None:
        """Return step and place of the tensor that is read."""
        if not isinstance(node, Access):
            return None
        return self.stretch.place(self.unifier.places.get(node.tensor, -1))

    def _last(self, node: Access) -> Expr:
        """Return the read of what one step has made, the last one counted from the end."""
        made = self._made(node)
        if made is None:
            return node
        step, place = made
        last = step == self.stretch.count - 1
        if place in self.rows:
            if not last:
                raise NoLoopError
            return Access(self._name(place), node.indices)
        if not last:
            return self._at(place, Num(step), node.indices)
        whole = Size(self.rank)
        when: Expr = whole if place in self.states else Apply("-", (whole, Num(1)))
        return Access(self._name(place), (when, *node.indices))

    def _asked(self) -> list[Einsum]:
        """Return Einsums for outputs that a step makes."""
        out = []
        for s in self.original.outputs:
            made = self.stretch.place(self.unifier.places.get(s.tensor, -1))
            if made is None or (made[1] in self.rows and self._name(made[1]) == s.tensor):
                continue
            source = self.einsums[self.unifier.places[s.tensor]]
            value = self._last(source.target)
            if s.tensor == self._name(made[1]):
                raise NoLoopError  # an output of the first step alone, under the name of the block's tensor
            out.append(Einsum(source.target, value))
        return out

    def _walks(self, einsum: Einsum) -> None:
        """Note the ranks of what stands outside of the loop along which its step reads."""
        last = from_end(Size(self.rank), self.step)
        guarded = {n.args[0] for n in walk(einsum.value) if isinstance(n, Apply) and n.op == "pad"}
        for access in einsum.reads:
            if access.tensor not in self.original.signatures or self._made(access) is not None:
                continue
            ranks = self.original.signatures[access.tensor].ranks
            for rank, index in zip(ranks, access.indices, strict=True):
                if self.step.name not in variables(index):
                    continue
                # Other places would lie outside at the first step, or at the last.
                inside = index in (self.step, last) or access in guarded
                walked = rank if inside else self._outer_part(rank, index)
                if self.sizes.get(walked) != self.stretch.count:
                    raise NoLoopError
                self.timed[walked] = None

    def _outer_part(self, rank: str, index: Expr) -> str:
        """Return the part of a rank of which each step takes one, or "": N, for a step's `t*M + m` of R = N * M."""
        match self.original.splits.get(rank, ()), index:
            case (outer, inner), Apply("+", (Apply("*", (step, Size(size))), Var())):
                return outer if step == self.step and size == inner else ""
        return ""

    def _declared(self, body: tuple[Einsum | Iterate, ...]) -> Cascade:
        """Return the cascade with a rank for the steps; ranks of as many elements are that rank, or its second name."""
        original = self.original
        timed = [r for r in self.timed if r in original.free_ranks]
        if not timed:
            raise NoLoopError  # it would hold for one length alone
        walked = [frozenset(e.variables) for item in body for e in einsums_of(item)]
        clocks = {self.step.name, *map(variable_of, timed)}
        # Where no Einsum walks two of them, they can share one variable.
        shared = all(len(v & clocks) < 2 for v in walked)
        gone = {r for r in timed if shared or not any(variable_of(r) in v for v in walked)}
        values: dict[str, Expr] = {variable_of(r): self.step for r in gone}

        def settled(node: Expr) -> Expr:
            def change(n: Expr) -> Expr:
                return Size(self.rank) if isinstance(n, Size) and n.name in gone else n

            return transform(substitute(node, values), change)

        ranks: list[Rank] = [Rank(self.rank)]
        ranks += [Rank(r, Size(self.rank)) for r in timed if r not in gone]
        for r in original.ranks:
            if r.name not in timed:
                ranks.append(r if r.size is None else replace(r, size=settled(r.size)))

        def signed(s: Signature) -> Signature:
            return replace(s, ranks=tuple(self.rank if r in gone else r for r in s.ranks))

        return without_unused(
            replace(
                original,
                ranks=tuple(ranks),
                inputs=tuple(map(signed, original.inputs)),
                outputs=tuple(map(signed, original.outputs)),
                body=in_every(body, settled),
            )
        )
