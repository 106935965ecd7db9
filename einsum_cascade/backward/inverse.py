"""From where an element is read to who reads it: the index of an access solved for the element's own place."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..analysis.indices import fits
from ..cascade import Cascade
from ..declarations import Rank, free_name, rank_of, variable_of
from ..einsum import Einsum
from ..expr import Apply, Compare, Expr, Num, Size, Var, variables
from ..rewrite.places import isolated


@dataclass
class Inverse:
    """How the points of an Einsum are told apart by the element that they read; filled axis by axis.

    Attributes:
        target: variables of what is gathered for the elements, in order; more than axes where a rank is split.
        readback: at which place the gathered stands, by the element's own variables.
        values: what variables of the Einsum become.
        conditions: what has to hold of a point besides, by the Einsum's variables and, in `inside`, by the new ones.
        ranks: second names of ranks that had to be made.
        exact: whether every element is gathered; at the others nothing comes back.
    """

    target: list[str] = field(default_factory=list)
    readback: list[Expr] = field(default_factory=list)
    values: dict[str, Expr] = field(default_factory=dict)
    conditions: list[Expr] = field(default_factory=list)
    inside: list[Expr] = field(default_factory=list)
    ranks: list[Rank] = field(default_factory=list)
    exact: bool = True


def inverse(
    cascade: Cascade,
    indices: tuple[Expr, ...],
    ranks: tuple[str, ...],
    own: tuple[str, ...],
    einsum: Einsum,
    fixed: frozenset[str],
) -> Inverse:
    """Return an access solved for the places of the elements that it reads.

    Args:
        indices: of the access, with the rank of each.
        own: the variables by which the element itself is named.
        einsum: the reader.
        fixed: variables that stay what they are: those of the block that both stand in.
    """
    solver = _Solver(cascade, einsum, fixed)
    for index, rank, name in zip(indices, ranks, own, strict=True):
        solver.add(index, rank, name)
    return solver.found


def inside(index: Expr, rank: str) -> Expr:
    """Return that an index lies inside a rank."""
    return Compare(("<=", "<"), (Num(0), index, Size(rank)))


class _Solver:
    """The axes of one access, solved one after the other."""

    def __init__(self, cascade: Cascade, einsum: Einsum, fixed: frozenset[str]) -> None:
        self.cascade, self.einsum, self.fixed = cascade, einsum, fixed
        self.found = Inverse()
        self.taken = {*einsum.variables, *fixed}

    def add(self, index: Expr, rank: str, own: str) -> None:
        """Solve one axis: by its variable, by the parts of a split, by a digit, by what is added, or by a condition."""
        if not (
            self._plain(index, rank, own)
            or self._split(index, rank, own)
            or self._digit(index, rank, own)
            or self._shifted(index, rank, own)
        ):
            name = self._fresh(own, rank)
            self._walk(name, Var(own))
            self.found.conditions.append(Compare(("==",), (index, Var(name))))

    def _walk(self, variable: str, readback: Expr) -> None:
        self.found.target.append(variable)
        self.found.readback.append(readback)

    def _free(self, variable: str) -> bool:
        """Tell whether a variable of the Einsum is still open."""
        return (
            variable in self.einsum.variables
            and variable not in self.fixed
            and variable not in self.found.values
            and variable not in self.found.target
            and not any(variable in variables(value) for value in self.found.values.values())
        )

    def _fresh(self, own: str, rank: str) -> str:
        """Return a variable over a rank that nothing uses yet: its own, or that of a second name."""
        if own not in self.taken:
            self.taken.add(own)
            return own
        used = {*self.cascade.rank_names, *self.cascade.signatures, *(r.name for r in self.found.ranks)}
        name = free_name(f"{rank}2", {*used, *(c.name for c in self.cascade.constants)})
        self.found.ranks.append(Rank(name, Size(rank)))
        return variable_of(name)

    def _plain(self, index: Expr, rank: str, own: str) -> bool:
        if not isinstance(index, Var) or not self._free(index.name):
            return False
        self._walk(index.name, Var(own))
        self.found.exact &= fits(self.cascade, rank, index)
        return True

    def _split(self, index: Expr, rank: str, own: str) -> bool:
        """Solve `m1*M0 + m0` of a rank M = M1 * M0: both stay, and the element stands at its digits."""
        parts = self.cascade.splits.get(rank, ())
        if len(parts) != 2 or not isinstance(index, Apply) or index.op != "+":
            return False
        outer, inner = index.args
        if not isinstance(outer, Apply) or outer.op != "*" or outer.args[1] != Size(parts[1]):
            return False
        pair = (outer.args[0], inner)
        for var, part in zip(pair, parts, strict=True):
            if not isinstance(var, Var) or not self._free(var.name) or not fits(self.cascade, part, var):
                return False
        if pair[0] == pair[1]:
            return False
        for var, op in zip(pair, ("//", "%"), strict=True):
            assert isinstance(var, Var)
            self._walk(var.name, Apply(op, (Var(own), Size(parts[1]))))
        return True

    def _digit(self, index: Expr, rank: str, own: str) -> bool:
        """Solve `h // G` or `h % G` of a rank H = D * G: h becomes d*G + g."""
        if not isinstance(index, Apply) or index.op not in ("//", "%"):
            return False
        whole, by = index.args
        if not isinstance(whole, Var) or not isinstance(by, Size) or not self._free(whole.name):
            return False
        parts = self.cascade.splits.get(rank_of(whole.name), ())
        if len(parts) != 2 or by.name != parts[1]:
            return False
        names = [variable_of(p) for p in parts]
        kept = names[0 if index.op == "//" else 1]
        if not fits(self.cascade, rank, Var(kept)) or self.taken & set(names):
            return False
        self.taken |= set(names)
        self.found.values[whole.name] = Apply("+", (Apply("*", (Var(names[0]), by)), Var(names[1])))
        self._walk(kept, Var(own))
        return True

    def _shifted(self, index: Expr, rank: str, own: str) -> bool:
        """Solve `p + w - c` for p, or else for w."""
        free = [v for v in variables(index) if self._free(v)]
        for variable in sorted(free, key=self._least_welcome):
            name = own if own == variable or own not in self.taken else ""
            value = isolated(index, variable, Var(name or own))
            if value is None:
                continue
            if not name:
                name = self._fresh(own, rank)
                value = isolated(index, variable, Var(name))
                assert value is not None
            self.taken.add(name)
            self.found.values[variable] = value
            self._walk(name, Var(own))
            self.found.inside.append(inside(value, rank_of(variable)))
            return True
        return False

    def _least_welcome(self, variable: str) -> tuple[bool, int]:
        """Order variables by how little it costs to solve for them: a window is short, a sequence is long."""
        axes = [r for s in self.cascade.inputs for r in s.ranks]
        rank = rank_of(variable)
        names = {rank, self.cascade.aliases.get(rank, rank)}
        return variable not in self.einsum.output_variables, -sum(r in names for r in axes)
