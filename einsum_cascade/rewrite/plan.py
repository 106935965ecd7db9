"""A cascade split along a rank, and what is known of its reductions while they are made to run block by block."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..cascade import Cascade, fresh_name
from ..declarations import variable_of
from ..einsum import Einsum, plain_target
from ..errors import CascadeError
from ..expr import Access, Expr, transform, transform_bare
from .algebra import Formula, Symbols, difference, quotient
from .elements import Along, Writing, along, is_flat, moving_atoms
from .partition import blocks

# Nodes of the whole-fiber values that a correction is worked out from: what takes more is not corrected.
MOST_OF_SUMMARIES = 300


@dataclass(frozen=True)
class Obstacle:
    """Why an Einsum cannot join the running reductions."""

    einsum: str
    why: str


@dataclass(frozen=True)
class Term:
    """A summand `factor * shift_1**k_1 * ... * sum` of a sum whose references have moved.

    Attributes:
        shifts: references, each with the power in which its movement enters.
        factor: a number or a formula of sizes and inputs.
        of: the other sum, by name; or an expression, where the elements seen before are only counted.
    """

    shifts: tuple[tuple[str, int], ...]
    factor: Expr
    of: str | Expr


@dataclass(frozen=True)
class Running:
    """A reduction over the fiber that is carried from block to block.

    Attributes:
        name: the Einsum whose value it is in the end.
        state: the tensor that carries it.
        correction: the factor (sum) or summand (max) that turns the old value into one for the new state, or None.
        terms: what moving references add to a sum.
        value: of a reference its formula, in terms of the running values; it is then no reduction itself.
    """

    name: str
    state: str
    correction: Expr | None
    terms: tuple[Term, ...] = ()
    value: Expr | None = None


@dataclass
class Plan:
    """What is known while a cascade is rewritten; local to one call."""

    cascade: Cascade
    rank: str
    seen: Along
    outer: str
    inner: tuple[str, ...]
    running: dict[str, Running] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)

    @property
    def open(self) -> tuple[Einsum, ...]:
        """The Einsums that are rewritten."""
        return tuple(e for e in self.cascade.einsums if e.name not in self.seen.settled)

    @property
    def block(self) -> str:
        """The variable that runs over the blocks."""
        return variable_of(self.outer)

    def fresh(self, wanted: str) -> str:
        """Return a tensor name that nothing has, and take it."""
        name = fresh_name(self.cascade, wanted, self.taken)
        self.taken.append(name)
        return name


def plan_of(cascade: Cascade, rank: str, settled: frozenset[str] = frozenset()) -> Plan | list[Obstacle]:
    """Return a cascade split along a rank, ready to be rewritten, or why it cannot be.

    Args:
        settled: Einsums that are taken as given.
    """
    if not is_flat(cascade, settled):
        return [Obstacle(cascade.name, "it has an iterate block already")]
    try:
        split, outer, inner = blocks(cascade, rank, settled)
    except CascadeError as error:
        return [Obstacle(cascade.name, error.message)]
    return Plan(split, rank, along(split, rank, settled), outer, inner)


def opened_summaries(plan: Plan, value: Expr, kept: frozenset[str] = frozenset()) -> Expr:
    """Return a value in which maps of whole-fiber values are written out: max(GM[p], S[]) for GMS[p].

    One that would get too long stays as it is.
    """
    writing = Writing(value, MOST_OF_SUMMARIES)

    def opened(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in plan.seen.waiting:
            return node
        inner = plan.cascade.einsum(node.tensor)
        if node.tensor in plan.seen.whole | kept or inner.all_reductions or not plain_target(inner):
            return node
        return writing.out(inner, node, opened)

    return transform_bare(value, opened)


def corrected_by(einsum: Einsum, value: Expr, waits: set[str], kind: str) -> Expr | None:
    """Return the factor (sum) or summand (max) that corrects a reduction as some values change, or None."""
    key = ("corrected by", value, frozenset(waits), kind)
    if key not in einsum.derived:
        einsum.derived[key] = _corrected_by(einsum, value, waits, kind)
    found: Expr | None = einsum.derived[key]
    return found


def _corrected_by(einsum: Einsum, value: Expr, waits: set[str], kind: str) -> Expr | None:
    symbols = Symbols()
    old = symbols.formula(value)

    def primed(node: Expr) -> Expr:
        if isinstance(node, Access) and node.tensor in waits:
            return replace(node, tensor=node.tensor + "'")
        return node

    new = symbols.formula(transform(value, primed))
    gone = moving_atoms(symbols, (old, new), einsum)
    found: Formula | None = quotient(new, old, gone) if kind == "sum" else difference(new, old, gone)
    return None if found is None else symbols.expression(found)
