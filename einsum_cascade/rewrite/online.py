"""Rule online: reductions that wait for each other run together, block by block, and are corrected as they change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..analysis.needed import without_unused
from ..cascade import Cascade
from ..declarations import Iterate, variable_of
from ..einsum import Einsum, Reduction
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, transform, variables, walk
from ..ops import REDUCTION
from ..printer import expression
from .corrections import corrections_of
from .empty import given_by_element, largest_number, may_be_absent, may_be_empty
from .plan import Obstacle, Plan, Running, Term, plan_of
from .separate import Rewritten

# A maximum of no terms is -inf, and -inf - (-inf) is not a number. Where a block may be wholly masked, by a predicate
# or by scores of -inf that are given, the running maximum therefore starts at a number that no score reaches.
LOWEST = -1e30


def online(cascade: Cascade, rank: str, settled: frozenset[str] = frozenset()) -> Rewritten | list[Obstacle]:
    """Return the cascade with all reductions over a rank that can be run in one pass, or why there are none.

    Pattern: `c = red'_m h(x_m)`, then `Y = red_m g(x_m, c)`. Condition: g(x, c') = g(x, c) * r(c, c') for sums, or
    g(x, c) + r(c, c') for max, min and logsumexp, with r free of x (sympy). Rewrite: split M = M1 * M0, carry c and Y
    over m1, and correct Y by r as c changes.

    Args:
        settled: Einsums that are taken as given, those of an earlier pass: they stay, and the rest is rewritten.
    """
    plan = plan_of(cascade, rank, settled)
    if isinstance(plan, list):
        return plan
    obstacles = corrections_of(plan)
    if not any(r.correction is not None or r.terms for r in plan.running.values()):
        return obstacles or [Obstacle(cascade.name, "no reduction waits for another")]
    result = without_unused(_rebuilt(plan))
    moved = [r.name for r in plan.running.values() if r.correction is not None or r.terms]
    return Rewritten("online", ", ".join(moved), _why(plan), result)


def _why(plan: Plan) -> str:
    """Return which sums are corrected by what."""
    by: dict[str, list[str]] = {}
    for r in plan.running.values():
        if r.correction is not None:
            by.setdefault(f"corrected by {expression(r.correction)}", []).append(r.name)
    for r in plan.running.values():
        moving = sorted({name for term in r.terms for name, _ in term.shifts})
        if moving:
            by.setdefault(f"kept about {' and '.join(moving)} of what was seen", []).append(r.name)
    parts = (f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} {how}" for how, names in by.items())
    walked = " * ".join(plan.cascade.splits.get(plan.rank, (plan.rank,)))
    why = "; ".join(parts) + " as the running values change"
    return f"{why} (a prime marks the new value), so one walk along {walked} carries all"


def _rebuilt(plan: Plan) -> Cascade:
    """Return the cascade with the block, and after it what needs the final values."""
    early = _early(plan)
    after, within = _needed_after(plan), _needed_within(plan) - early
    outputs = {s.tensor for s in plan.cascade.outputs}
    renamed = {n: plan.fresh(f"B{n}") if n in after else n for n in within if n in plan.seen.waiting}
    first: list[Einsum] = []
    last: list[Einsum] = []
    block = _Block(plan)
    for einsum in plan.open:
        name = einsum.name
        waits = name in plan.seen.waiting
        if name in plan.running:
            first.append(_first_value(plan, einsum))
            if plan.running[name].value is not None:
                block.follow(einsum)
            else:
                block.carry(einsum, _local(plan, einsum, renamed))
            if name in outputs:
                last.append(Einsum(einsum.target, _final(plan, einsum.target)))
            continue
        if name in within:
            block.add(_in_block(plan, einsum, renamed))
        elif not waits:
            (first if name in early else last).append(_after_block(plan, einsum))
        if waits and name in after:
            last.append(_after_block(plan, einsum))
    body = (*_settled(plan), *first, Iterate(plan.block, block.finished()), *last)
    return replace(plan.cascade, name=_name(plan.cascade), body=body)


def _settled(plan: Plan) -> Iterator[Einsum | Iterate]:
    """Yield what is taken as given."""
    for item in plan.cascade.body:
        names = {e.name for e in item.einsums} if isinstance(item, Iterate) else {item.name}
        if names <= plan.seen.settled:
            yield item


class _Block:
    """The Einsums of an iterate block; a running value is updated where it is first read, else at the end."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.einsums: list[Einsum] = []
        self.open: dict[str, tuple[Einsum, Access | None]] = {}
        self.corrections: dict[Expr, Access] = {}

    def add(self, einsum: Einsum) -> None:
        """Append an Einsum, after the updates of the states that it reads."""
        for access in einsum.reads:
            if access.tensor in self.open:
                self._update(access.tensor)
        self.einsums.append(einsum)

    def carry(self, einsum: Einsum, local: Einsum) -> None:
        """Append a block's own reduction; the update of the running value follows when it is needed."""
        self.add(local)
        self.open[self.plan.running[einsum.name].state] = (einsum, local.target)

    def follow(self, einsum: Einsum) -> None:
        """Note a reference, which is updated when it is first read."""
        self.open[self.plan.running[einsum.name].state] = (einsum, None)

    def finished(self) -> tuple[Einsum, ...]:
        """Return all Einsums, every state brought up to date."""
        for state in list(self.open):
            if state in self.open:
                self._update(state)
        return tuple(self.einsums)

    def _update(self, state: str) -> None:
        einsum, local = self.open.pop(state)
        made = (
            [_followed(self.plan, einsum)]
            if local is None
            else _carried(self.plan, einsum, local, self.corrections)
        )
        for each in made:
            self.add(each)


def _name(cascade: Cascade) -> str:
    return cascade.name if cascade.name.endswith("_online") else f"{cascade.name}_online"


def _early(plan: Plan) -> set[str]:
    """Return the Einsums that can stand before the block: they need nothing of it and run along none of its ranks.

    One that meets the rank under its second name (`K[p, e]` with `rank M = P`) is among them, and so is what reads it.
    """
    inner = {variable_of(r) for r in plan.inner}
    found: set[str] = set()
    open_names = {e.name for e in plan.open}
    for einsum in plan.open:
        needs = {a.tensor for a in einsum.reads} & open_names
        inside = {plan.block} | (inner if plan.seen.walking.get(einsum.name) else set())
        if einsum.name not in plan.running and needs <= found and not inside & set(einsum.variables):
            found.add(einsum.name)
    return found


def _needed_within(plan: Plan) -> set[str]:
    """Return the Einsums that the running values need in each block."""
    found: set[str] = set()
    open_names = list(plan.running)
    names = {e.name for e in plan.open}
    while open_names:
        for access in plan.cascade.einsum(open_names.pop()).reads:
            t = access.tensor
            if t not in names or t in found or t in plan.running:
                continue
            if plan.seen.streams(t) or t in plan.seen.waiting:
                found.add(t)
            open_names.append(t)
    return found


def _needed_after(plan: Plan) -> set[str]:
    """Return the Einsums that outputs need once the running values are final."""
    found: set[str] = set()
    names = {e.name for e in plan.open}
    open_names = [s.tensor for s in plan.cascade.outputs if s.tensor not in plan.running]
    while open_names:
        name = open_names.pop()
        if name in found or name not in names or name in plan.running:
            continue
        found.add(name)
        open_names += [a.tensor for a in plan.cascade.einsum(name).reads]
    return found


def _first_value(plan: Plan, einsum: Einsum) -> Einsum:
    mine = plan.running[einsum.name]
    nothing = nothing_of(plan, einsum) if mine.value is None else Num(0)
    return Einsum(Access(mine.state, (Num(0), *einsum.target.indices)), nothing)


def _followed(plan: Plan, einsum: Einsum) -> Einsum:
    """Return the Einsum that brings a reference up to date."""
    mine = plan.running[einsum.name]
    assert mine.value is not None
    following = Apply("+", (Var(plan.block), Num(1)))
    return Einsum(Access(mine.state, (following, *einsum.target.indices)), _renewed(plan, mine.value, {}))


def nothing_of(plan: Plan, einsum: Einsum) -> Expr:
    """Return the value of a reduction that has seen no term."""
    start = REDUCTION[einsum.all_reductions[0].op].identity
    if math.isinf(start) and (may_be_empty(plan, einsum) or given_by_element(plan, einsum)):
        # A score that the text writes lower still, as the lowest number of a format, has to be reached.
        start = math.copysign(max(-LOWEST, largest_number(plan, einsum)), start)
    value: Expr = Num(abs(int(start)) if start == 0 else abs(start))
    return Apply("neg", (value,)) if start < 0 else value


def _local(plan: Plan, einsum: Einsum, renamed: dict[str, str]) -> Einsum:
    """Return the reduction of one block by itself."""
    reduced = tuple(v for r in einsum.all_reductions for v in r.variables if v != plan.block)
    implicit = not einsum.reductions or not reduced
    reductions = () if implicit else (Reduction(einsum.all_reductions[0].op, reduced),)
    where = None if einsum.where is None else _renewed(plan, einsum.where, renamed)
    target = Access(plan.fresh(f"L{einsum.name}"), (Var(plan.block), *einsum.target.indices))
    return Einsum(target, _renewed(plan, einsum.value, renamed), reductions, where)


def _carried(plan: Plan, einsum: Einsum, local: Access, corrections: dict[Expr, Access]) -> list[Einsum]:
    """Return the Einsums of a block that bring one running value from its old state to its new one."""
    mine = plan.running[einsum.name]
    op = einsum.all_reductions[0].op
    block, indices = Var(plan.block), einsum.target.indices
    alone = may_be_absent(plan, einsum)
    found: Expr = Apply("pad", (local, nothing_of(plan, einsum))) if alone else local
    old = Access(mine.state, (block, *indices))
    new = Access(mine.state, (Apply("+", (block, Num(1))), *indices))
    if mine.correction is None and not mine.terms:
        return [Einsum(new, _combined(op, found, old) if op == "sum" else _combined(op, old, found))]
    out: list[Einsum] = []
    value = _corrected(plan, mine, old, op, corrections, out)
    for term in mine.terms:
        value = Apply("+", (value, _moved(plan, term, corrections, out)))
    corrected = Access(plan.fresh(f"C{einsum.name}"), (block, *indices))
    out.append(Einsum(corrected, value))
    return [*out, Einsum(new, _combined(op, found, corrected))]


def _corrected(
    plan: Plan, running: Running, old: Expr, op: str, known: dict[Expr, Access], out: list[Einsum]
) -> Expr:
    """Return the old value of a reduction as it is for the new values of what it depends on by a factor."""
    if running.correction is None:
        return old
    return Apply("*" if op == "sum" else "+", (old, _correction_access(plan, running.correction, known, out)))


def _moved(plan: Plan, term: Term, known: dict[Expr, Access], out: list[Einsum]) -> Expr:
    """Return what one of the other sums adds as the references move."""
    value = term.of
    if isinstance(value, str):
        other, indices = plan.running[value], plan.cascade.einsum(value).target.indices
        value = _corrected(plan, other, Access(other.state, (Var(plan.block), *indices)), "sum", known, out)
    for name, power in term.shifts:
        reference = plan.cascade.einsum(name).target
        way = Apply("-", (replace(reference, tensor=f"{name}'"), reference))
        shift: Expr = _correction_access(plan, way, known, out)
        value = Apply("*", (value, shift if power == 1 else Apply("**", (shift, Num(power)))))
    return value if term.factor == Num(1) else Apply("*", (term.factor, value))


def _combined(op: str, a: Expr, b: Expr) -> Expr:
    if op == "sum":
        return Apply("+", (a, b))
    if op in ("max", "min"):
        return Apply(op, (a, b))
    top = Apply("max", (a, b))
    terms = (Apply("exp", (Apply("-", (x, top)),)) for x in (a, b))
    return Apply("+", (top, Apply("log", (Apply("+", tuple(terms)),))))


def _correction_access(plan: Plan, correction: Expr, known: dict[Expr, Access], out: list[Einsum]) -> Access:
    """Return how a correction is read; it is computed once even where several sums need it."""
    if correction in known:
        return known[correction]
    block = Var(plan.block)
    following = Apply("+", (block, Num(1)))

    def named(node: Expr) -> Expr:
        if isinstance(node, Access) and node.tensor.rstrip("'") in plan.running:
            state = plan.running[node.tensor.rstrip("'")].state
            return Access(state, (following if node.tensor.endswith("'") else block, *node.indices))
        return node

    value = _guarded(plan, correction, transform(correction, named), named)
    used = [v for v in variables(value) if v != plan.block]
    waited = [a.tensor.rstrip("'") for a in accesses(correction) if a.tensor.rstrip("'") in plan.running]
    access = Access(plan.fresh(f"P{'R' + waited[0] if waited else 'C'}"), (block, *map(Var, used)))
    out.append(Einsum(access, value))
    known[correction] = access
    return access


def _guarded(plan: Plan, correction: Expr, value: Expr, named: Callable[[Expr], Expr]) -> Expr:
    """Return a factor that is 0 where it would divide by a sum that has seen no term: nothing is corrected there."""
    divisors = dict.fromkeys(n.args[1] for n in walk(correction) if isinstance(n, Apply) and n.op == "/")
    for divisor in divisors:
        sums = {a.tensor.removesuffix("'") for a in accesses(divisor)} & plan.running.keys()
        if any(may_be_empty(plan, plan.cascade.einsum(n)) for n in sums):
            nothing = Compare(("==",), (transform(divisor, named), Num(0)))
            value = Apply("select", (nothing, Num(0), value))
    return value


def _renewed(plan: Plan, node: Expr, renamed: dict[str, str]) -> Expr:
    """Return an expression of the block: whole-fiber values are read as they are after this block."""
    following = Apply("+", (Var(plan.block), Num(1)))

    def change(n: Expr) -> Expr:
        if not isinstance(n, Access):
            return n
        if n.tensor in plan.running:
            return Access(plan.running[n.tensor].state, (following, *n.indices))
        name = renamed.get(n.tensor, n.tensor)
        if n.tensor in plan.seen.waiting and not _has_block(plan, n.tensor):
            return Access(name, (Var(plan.block), *n.indices))
        return replace(n, tensor=name)

    return transform(node, change)


def _has_block(plan: Plan, tensor: str) -> bool:
    return plan.outer in plan.cascade.signatures[tensor].ranks


def _in_block(plan: Plan, einsum: Einsum, renamed: dict[str, str]) -> Einsum:
    target = replace(einsum.target, tensor=renamed.get(einsum.name, einsum.name))
    if not _has_block(plan, einsum.name):
        target = replace(target, indices=(Var(plan.block), *target.indices))
    where = None if einsum.where is None else _renewed(plan, einsum.where, renamed)
    return Einsum(target, _renewed(plan, einsum.value, renamed), einsum.reductions, where)


def _final(plan: Plan, access: Access) -> Access:
    return Access(plan.running[access.tensor].state, (Size(plan.outer), *access.indices))


def _after_block(plan: Plan, einsum: Einsum) -> Einsum:
    def change(n: Expr) -> Expr:
        return _final(plan, n) if isinstance(n, Access) and n.tensor in plan.running else n

    where = None if einsum.where is None else transform(einsum.where, change)
    return Einsum(einsum.target, transform(einsum.value, change), einsum.reductions, where)
