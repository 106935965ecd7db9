"""How a reduction over a fiber is corrected when the values it was computed with change: found by sympy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..cascade import Cascade
from ..declarations import rank_of, variable_of
from ..einsum import Einsum
from ..errors import CascadeError
from ..expr import Access, Expr, Var, accesses, substitute, transform, variables
from .algebra import Formula, Symbols, difference, quotient
from .elements import Along, along, fresh_name, inline, is_flat, plain_target
from .partition import blocks


@dataclass(frozen=True)
class Obstacle:
    """Why an Einsum cannot join the running reductions."""

    einsum: str
    why: str


@dataclass(frozen=True)
class Running:
    """A reduction over the fiber that is carried from block to block.

    Attributes:
        name: the Einsum whose value it is in the end.
        state: the tensor that carries it.
        correction: the factor (sum) or summand (max) that turns the old value into one for the new state, or None.
    """

    name: str
    state: str
    correction: Expr | None


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


def obstacles_to(cascade: Cascade, rank: str) -> list[Obstacle]:
    """Return the reductions over a rank that cannot be corrected as what they wait for changes."""
    if not is_flat(cascade):
        return []
    found = plan_of(cascade, rank)
    return found if isinstance(found, list) else corrections_of(found)


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


def corrections_of(plan: Plan) -> list[Obstacle]:
    """Find for each reduction over the fiber how it is corrected; return those for which there is no way."""
    obstacles: list[Obstacle] = []
    for einsum in plan.open:
        if einsum.name not in plan.seen.whole:
            continue
        found = _correction(plan, einsum)
        if isinstance(found, Obstacle):
            obstacles.append(found)
        else:
            plan.running[einsum.name] = Running(einsum.name, plan.fresh(f"R{einsum.name}"), found)
    return obstacles


def _correction(plan: Plan, einsum: Einsum) -> Expr | Obstacle | None:
    """Return how a running value is corrected (None: it is not), in terms of old and new running values.

    Old values are read as `T[...]`, new ones as `T'[...]`; both are named properly when the block is written.
    """
    kinds = {r.op for r in einsum.all_reductions}
    if len(kinds) > 1 or not plain_target(einsum) or not kinds <= {"sum", "max", "min", "logsumexp"}:
        return Obstacle(
            einsum.name, f"its reduction ({', '.join(sorted(kinds))}) cannot be carried from block to block"
        )
    value, predicates = inline(plan.seen, einsum, lambda t: t in plan.seen.waiting and plan.seen.streams(t))
    value = _with_summaries(plan, value)
    waits = {a.tensor for a in accesses(value)} & plan.seen.whole
    hidden = {a.tensor for p in predicates for a in accesses(p)} & (plan.seen.whole | plan.seen.waiting)
    left = [a.tensor for a in accesses(value) if a.tensor in plan.seen.waiting - plan.seen.whole]
    if left or hidden:
        culprit = (left or sorted(hidden))[0]
        return Obstacle(einsum.name, _mixing_reason(plan, culprit))
    if waits - plan.running.keys():
        missing = sorted(waits - plan.running.keys())[0]
        return Obstacle(einsum.name, f"it waits for {missing}, which cannot be carried either")
    if not waits:
        return None
    return _solved(plan, einsum, value, waits, next(iter(kinds)))


def _solved(plan: Plan, einsum: Einsum, value: Expr, waits: set[str], kind: str) -> Expr | Obstacle:
    symbols = Symbols()
    old = symbols.formula(value)

    def primed(node: Expr) -> Expr:
        if isinstance(node, Access) and node.tensor in waits:
            return replace(node, tensor=node.tensor + "'")
        return node

    renewed = transform(value, primed)
    new = symbols.formula(renewed)
    moving = {v for v in einsum.variables if v not in einsum.output_variables}
    gone = [
        symbols.symbol(a) for a in {*symbols.atoms(old), *symbols.atoms(new)} if set(variables(a)) & moving
    ]
    found: Formula | None = quotient(new, old, gone) if kind == "sum" else difference(new, old, gone)
    if found is None:
        shown = ", ".join(sorted(waits))
        return Obstacle(
            einsum.name, f"it depends on {shown} through each element, and no factor corrects that"
        )
    return symbols.expression(found)


def _with_summaries(plan: Plan, value: Expr) -> Expr:
    """Return a value in which maps of whole-fiber values are written out: max(GM[p], S[]) for GMS[p]."""
    names = {e.name for e in plan.cascade.einsums}

    def opened(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in names or node.tensor not in plan.seen.waiting:
            return node
        inner = plan.cascade.einsum(node.tensor)
        if node.tensor in plan.seen.whole or inner.all_reductions or not plain_target(inner):
            return node
        pairs = zip(inner.target.indices, node.indices, strict=True)
        values = {t.name: i for t, i in pairs if isinstance(t, Var)}
        return transform(substitute(inner.value, values), opened)

    return transform(value, opened)


def _mixing_reason(plan: Plan, culprit: str) -> str:
    einsum = plan.cascade.einsum(culprit)
    if einsum.all_reductions:
        ranks = ", ".join(dict.fromkeys(rank_of(v) for v in einsum.reduced))
        return f"what it waits for is reduced over another rank ({ranks}, in {culprit})"
    return f"{culprit} selects or masks elements by a value of the whole fiber"
