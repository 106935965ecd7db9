"""Sums about a reference that is itself a running result: how they follow when the reference moves.

A sum of a polynomial of a whole-fiber value c, `Y = sum_m g(x_m, c)`, needs no second pass: with the derivatives of g
by c as further sums, `sum_m g(x_m, c') = sum_j (c' - c)**j / j! * sum_m g^(j)(x_m, c)`, a finite Taylor series. All
are kept about the value that c has for the elements seen so far, so nothing large is subtracted: for a mean and a
variance these are the formulas of Welford (1962) and of Chan, Golub and LeVeque (1979), and the same rule gives
covariances, and moments under weights that are themselves corrected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import sympy

from ..declarations import rank_of
from ..einsum import Einsum
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, transform, variables
from .algebra import Formula, Symbols, expanded, quotient
from .elements import along, inline, moving_atoms, spliced
from .empty import given_by_element, may_be_empty
from .plan import Plan, Running, Term, corrected_by, opened_summaries
from .separate import accumulator, conditions, divisors, folded, split_term

# Nobody takes moments higher than a kurtosis.
MOST_DERIVATIVES = 4
# Nor about more than a few references at once, each pair of which takes a sum of its own (a covariance has two): an
# unrolled recurrence would have one for each of its steps.
MOST_REFERENCES = 4

Order = tuple[int, ...]


@dataclass(frozen=True)
class _Moment:
    """One derivative of a sum: `scale * sum_m integrand`.

    Attributes:
        scale: free of the elements and of all that changes from block to block.
        integrand: what is summed; 1 where elements are only counted.
        of: the running sum, by name; or an expression that counts the elements seen before a block.
    """

    scale: Formula
    integrand: Formula
    of: str | Expr = ""


def recentred(plan: Plan, einsum: Einsum, value: Expr, predicates: tuple[Expr, ...]) -> Running | None:
    """Return how a sum is carried about references that move, with the sums that this takes put into the plan.

    Pattern: `Y = sum_m g(x_m, c)` with c of the whole fiber. Condition: g is a polynomial of c (sympy), and on what
    else of the whole fiber g depends, its derivatives depend by a factor free of the elements. Rewrite: see above.

    Args:
        value: of the Einsum, with what streams and waits written out.
        predicates: found on the way.

    Returns:
        None where it cannot be done; the plan is then as it was.
    """
    before = plan.cascade, plan.seen, dict(plan.running), list(plan.taken)
    found = _Recentring(plan, einsum, predicates).carried(value)
    if found is None:
        plan.cascade, plan.seen, plan.running, plan.taken = before
    return found


class _Recentring:
    """The work on one sum."""

    def __init__(self, plan: Plan, einsum: Einsum, predicates: tuple[Expr, ...]) -> None:
        self.plan = plan
        self.einsum = einsum
        self.predicates = predicates
        self.symbols = Symbols()
        self.references: list[Access] = []
        self.values: dict[Access, Expr] = {}

    def carried(self, value: Expr) -> Running | None:
        """Return how the sum is carried."""
        old = self.symbols.formula(value)
        centres: list[Access] = []
        for read in self._whole_reads(value):
            if len(centres) <= MOST_REFERENCES and self._is_centre(old, read):
                centres.append(read)
        if not 0 < len(centres) <= MOST_REFERENCES:
            return None
        if any(set(variables(c)) - set(self.einsum.output_variables) for c in centres):
            return None
        for centre in centres:
            old = old.xreplace({self.symbols.symbol(centre): self.symbols.symbol(self._refer(centre))})
        derivatives = self._derivatives(old)
        moments = None if derivatives is None else self._summed(derivatives)
        mine = None if moments is None else self._placed(old, self.einsum)
        if moments is None or mine is None:
            return None
        lowest = (0,) * len(self.references)
        moments[lowest] = _Moment(sympy.Integer(1), old, mine.name)
        for order, moment in moments.items():
            if isinstance(moment.of, str) and moment.of not in self.plan.running:
                made = self._running(moments, order)
                if made is None:
                    return None
                self.plan.running[moment.of] = made
        return self.plan.running[mine.name]

    def _whole_reads(self, value: Expr) -> list[Access]:
        """Return what is read of the whole fiber, or of what follows from that."""
        seen = self.plan.seen
        late = seen.whole | seen.waiting
        return [a for a in dict.fromkeys(accesses(value)) if a.tensor in late and not seen.streams(a.tensor)]

    def _is_centre(self, formula: Formula, access: Access) -> bool:
        """Tell whether a formula is a polynomial of a value, and not only a multiple of one of its powers."""
        symbol = self.symbols.symbol(access)
        if not formula.is_polynomial(symbol):
            return False
        # One and the same other symbol each time, so that what was found for a formula is known for the next candidate.
        other = formula.xreplace({symbol: sympy.Symbol("other", real=True)})
        return quotient(other, formula, moving_atoms(self.symbols, (formula,), self.einsum)) is None

    def _refer(self, centre: Access) -> Access:
        """Return a reference, put into the plan if need be: a centre's value as far as the fiber was seen."""
        plan, value = self.plan, _as_far_as_seen(self.plan, centre)
        guarded = _guarded(plan, value)
        known = (plan.cascade.einsum(r.name).target for r in plan.running.values() if r.value == guarded)
        reference = next(known, None)
        if reference is None:
            name = plan.fresh(f"C{centre.tensor}")
            reference = Access(name, tuple(Var(v) for v in variables(centre)))
            self._insert(Einsum(reference, opened_summaries(plan, centre)))
            plan.running[name] = Running(name, plan.fresh(f"R{name}"), None, (), guarded)
        self.values[reference] = value
        self.references.append(reference)
        return reference

    def _insert(self, made: Einsum) -> None:
        """Put an Einsum before the one that is worked on."""
        plan = self.plan
        here = plan.cascade.einsum(self.einsum.name)
        body = spliced(plan.cascade.body, here, (made, here))
        plan.cascade = replace(plan.cascade, body=body)
        plan.seen = along(plan.cascade, plan.rank, plan.seen.settled)

    def _derivatives(self, formula: Formula) -> dict[Order, Formula] | None:
        """Return the derivatives by the references, each over the factorials of its order, without the formula."""
        by = [self.symbols.symbol(r) for r in self.references]
        found: dict[Order, Formula] = {(0,) * len(by): formula}
        open_orders = list(found)
        while open_orders:
            order = open_orders.pop(0)
            for i, symbol in enumerate(by):
                above = (*order[:i], order[i] + 1, *order[i + 1 :])
                derivative = sympy.diff(found[order], symbol) / above[i]
                if above in found or expanded(derivative) == 0:
                    continue
                if sum(above) > MOST_DERIVATIVES:
                    return None
                found[above] = derivative
                open_orders.append(above)
        del found[(0,) * len(by)]
        return found

    def _summed(self, derivatives: dict[Order, Formula]) -> dict[Order, _Moment] | None:
        """Return the derivatives as sums over the fiber; those that are 0 whatever the elements are left out."""
        found: dict[Order, _Moment] = {}
        for order, derivative in derivatives.items():
            number, rest = derivative.as_content_primitive()
            outside, inside = split_term(rest, self.symbols, set(self.einsum.reduced))
            if any(self._changes(atom) for atom in self.symbols.atoms(outside)):
                if inside == 1:
                    return None
                outside, inside = sympy.Integer(1), outside * inside
            if self._vanishes(inside):
                continue
            of = self._sum_of(inside)
            if of is None:
                return None
            found[order] = _Moment(number * outside, inside, of)
        return found

    def _changes(self, atom: Expr) -> bool:
        late = self.plan.seen.whole | self.plan.seen.waiting
        return any(a.tensor in late for a in accesses(atom))

    def _sum_of(self, integrand: Formula) -> str | Expr | None:
        """Return the running sum of an integrand, made where there is none; or the count of elements seen before."""
        plan = self.plan
        access, made = accumulator(
            plan.seen, self.einsum, self.symbols, integrand, self.predicates, plan.taken
        )
        if made is not None:
            plan.taken.append(made.name)
            self._insert(made)
            return made.name
        if access is None:
            return None
        if isinstance(access, Access):
            return access.tensor if access.tensor in plan.running else None
        return _with_blocks(plan, access, Var(plan.block))

    def _placed(self, formula: Formula, einsum: Einsum) -> Einsum | None:
        """Put the sum about its references in the place of the sum as it was written."""
        plan = self.plan
        value = folded(plan.seen, einsum, self.symbols, formula)
        _, made = accumulator(plan.seen, einsum, self.symbols, value, self.predicates, plan.taken)
        if made is None:
            return None
        mine = replace(made, target=einsum.target)
        here = plan.cascade.einsum(einsum.name)
        plan.cascade = replace(plan.cascade, body=spliced(plan.cascade.body, here, (mine,)))
        plan.seen = along(plan.cascade, plan.rank, plan.seen.settled)
        return mine

    def _running(self, moments: dict[Order, _Moment], order: Order) -> Running | None:
        """Return how one of the sums is carried: what each higher derivative adds to it."""
        own = moments[order]
        terms = []
        for above, moment in moments.items():
            steps = [high - low for high, low in zip(above, order, strict=True)]
            if above == order or min(steps) < 0:
                continue
            ways = math.prod(math.comb(high, low) for high, low in zip(above, order, strict=True))
            scale = self.symbols.expression(ways * moment.scale / own.scale)
            shifts = tuple((r.tensor, k) for r, k in zip(self.references, steps, strict=True) if k)
            terms.append(Term(shifts, scale, moment.of))
        assert isinstance(own.of, str)
        factor = self._factor(own.integrand)
        return (
            None if factor is None else Running(own.of, self.plan.fresh(f"R{own.of}"), *factor, tuple(terms))
        )

    def _vanishes(self, integrand: Formula) -> bool:
        """Tell whether a sum is 0 about its references whatever the elements are, as that of x - mean is."""
        plan, symbols = self.plan, self.symbols
        total: Formula = 0
        for term in sympy.Add.make_args(expanded(folded(plan.seen, self.einsum, symbols, integrand))):
            outside, inside = split_term(term, symbols, set(self.einsum.reduced))
            known = self._known(inside)
            if known is None:
                return False
            total += outside * known
        for reference, value in self.values.items():
            total = total.xreplace({symbols.symbol(reference): symbols.formula(value)})
        whole = Size(plan.rank)
        total = total.xreplace(
            {symbols.symbol(whole): symbols.formula(_with_blocks(plan, whole, Size(plan.outer)))}
        )
        return bool(sympy.cancel(total) == 0)

    def _known(self, integrand: Formula) -> Formula | None:
        """Return a sum over the elements seen in terms of those that are carried, or None."""
        plan, symbols = self.plan, self.symbols
        mine = set(conditions(plan.seen, self.einsum, self.predicates))
        if integrand == 1:
            count = _product([Size(rank_of(v)) for v in self.einsum.reduced])
            return None if mine else symbols.formula(_with_blocks(plan, count, _following(plan)))
        moving = moving_atoms(symbols, (integrand,), self.einsum)
        for name, running in plan.running.items():
            other = plan.cascade.einsum(name)
            alike = running.value is None and {r.op for r in other.all_reductions} == {"sum"}
            if not alike or set(other.reduced) != set(self.einsum.reduced):
                continue
            if set(conditions(plan.seen, other, ())) != mine:
                continue
            ratio = quotient(integrand, symbols.formula(other.value), moving)
            if ratio is not None:
                return ratio * symbols.symbol(other.target)
        return None

    def _factor(self, integrand: Formula) -> tuple[Expr | None] | None:
        """Return the factor that corrects a sum where its references stay, in a tuple, or None where there is none."""
        plan = self.plan
        kept = frozenset(r.tensor for r in self.references)
        value = opened_summaries(plan, self.symbols.expression(integrand), kept)
        waits = {a.tensor for a in accesses(value)} & plan.seen.whole
        if not waits:
            return (None,)
        found = corrected_by(self.einsum, value, waits, "sum")
        return None if found is None else (found,)


def _following(plan: Plan) -> Expr:
    return Apply("+", (Var(plan.block), Num(1)))


def _with_blocks(plan: Plan, value: Expr, count: Expr) -> Expr:
    """Return a formula of sizes as it is of a fiber of only so many blocks."""

    def change(node: Expr) -> Expr:
        if node == Size(plan.rank):
            return _product([count, *map(Size, plan.inner)])
        return count if node == Size(plan.outer) else node

    return transform(value, change)


def _product(parts: list[Expr]) -> Expr:
    out = parts[0]
    for part in parts[1:]:
        out = Apply("*", (out, part))
    return out


def _as_far_as_seen(plan: Plan, centre: Access) -> Expr:
    """Return a value of the whole fiber as it would be of the elements seen: a mean is divided by their number."""

    def rescaled(node: Expr) -> Expr:
        if not isinstance(node, Access) or node.tensor not in plan.running:
            return node
        ratio = _of_fewer(plan, plan.cascade.einsum(node.tensor))
        return node if ratio == Num(1) else Apply("*", (node, ratio))

    value = _with_blocks(plan, opened_summaries(plan, centre), _following(plan))
    return transform(value, rescaled)


def _of_fewer(plan: Plan, einsum: Einsum) -> Expr:
    """Return the factor of a running sum whose terms speak of the number of all elements, as X / M does."""
    value, _ = inline(plan.seen, einsum, plan.seen.streams)
    symbols = Symbols()
    fewer, all_of_them = (
        symbols.formula(_with_blocks(plan, value, count)) for count in (_following(plan), Size(plan.outer))
    )
    if fewer == all_of_them or {r.op for r in einsum.all_reductions} != {"sum"}:
        return Num(1)
    found = quotient(fewer, all_of_them, moving_atoms(symbols, (all_of_them,), einsum))
    return Num(1) if found is None else symbols.expression(found)


def _guarded(plan: Plan, value: Expr) -> Expr:
    """Return a value that is 0 where no element was seen yet by which it divides: any reference will do there."""
    symbols = Symbols()
    for divisor in sorted(divisors(symbols.formula(value), symbols), key=lambda f: str(f.name)):
        access = symbols.meaning(divisor)
        assert isinstance(access, Access)
        einsum = plan.cascade.einsum(access.tensor)
        if may_be_empty(plan, einsum) or given_by_element(plan, einsum):
            value = Apply("select", (Compare(("==",), (access, Num(0))), Num(0), value))
    return value
