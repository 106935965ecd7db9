"""Rules defer and separate: what does not depend on the element is applied after the reduction."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import sympy

from ..analysis.needed import without_unused
from ..analysis.points import conditions_of_access, live_parts
from ..analysis.predicates import conjuncts
from ..cascade import Cascade, fresh_name
from ..declarations import rank_of
from ..einsum import Einsum, plain_target
from ..expr import Access, Apply, Compare, Expr, Num, Size, Var, accesses, variables
from ..printer import expression
from .algebra import Formula, Symbols, expanded
from .elements import Along, along, inline, joined, level_of, spliced, sum_over


@dataclass(frozen=True)
class Rewritten:
    """A cascade that a rule gave, and what it did.

    Attributes:
        rule: its name.
        einsum: the Einsum that was changed.
        why: in words, with formulas.
        cascade: the result; not yet known to be equal.
        cancels: whether sums are subtracted, which loses digits where they nearly cancel.
    """

    rule: str
    einsum: str
    why: str
    cascade: Cascade
    cancels: bool = False


def separations(cascade: Cascade, rank: str) -> Iterator[Rewritten]:
    """Yield the cascades in which one sum over the rank has been taken apart.

    Pattern: `Y = sum_m g(x_m, c)`, g opened as far as its own pass, or as far as anything whole reaches into it.
    Condition: g as it is written, or expanded (sympy), is more than one product, or one with a factor free of m.
    Rewrite: `Y = sum_i b_i(c) * Z_i` with `Z_i = sum_m a_i(x_m)`.
    """
    seen = along(cascade, rank)
    levels = level_of(cascade, rank)
    for einsum in cascade.einsums:
        name = einsum.name
        if name not in seen.whole or name not in seen.waiting or not _is_plain_sum(einsum):
            continue
        mine = levels.get(name, 1)

        def same_pass(tensor: str, mine: int = mine) -> bool:
            return seen.streams(tensor) and levels.get(tensor, 0) == mine

        def any_waiting(tensor: str) -> bool:
            return seen.streams(tensor) and tensor in seen.waiting

        tried: set[Cascade] = set()
        summed = replace(einsum, value=_unpadded(cascade, einsum, einsum.value))
        for wanted in (same_pass, any_waiting):
            opened = inline(seen, summed, wanted)
            for guarded, expand in itertools.product((False, True), (False, True)):
                found = _take_apart(seen, einsum, opened, guarded=guarded, expand=expand)
                if found is not None and found.cascade not in tried:
                    tried.add(found.cascade)
                    yield found


def _is_plain_sum(einsum: Einsum) -> bool:
    return _is_sum(einsum) and plain_target(einsum)


def _is_sum(einsum: Einsum) -> bool:
    return len(einsum.all_reductions) == 1 and einsum.all_reductions[0].op == "sum"


def _take_apart(
    seen: Along, einsum: Einsum, opened: tuple[Expr, tuple[Expr, ...]], *, guarded: bool, expand: bool
) -> Rewritten | None:
    """Return the sum taken apart.

    Args:
        expand: whether brackets are multiplied out.
        guarded: where a predicate may leave a sum without terms, a divisor may be 0; then the result is 0, as a sum
            without terms is.
    """
    inside_sum, predicates = opened
    symbols, pairs = _terms_of(einsum, inside_sum, expand=expand)
    if len(pairs) == 1 and pairs[0][0] == 1:
        return None
    symbols = symbols.copy()
    grouped: dict[Formula, Formula] = {}
    for outside, padded in pairs:
        inside = _present(seen.cascade, einsum, symbols, padded)
        grouped[inside] = grouped.get(inside, 0) + outside
    sums: list[Einsum] = []
    total: Formula = 0
    for inside, outside in grouped.items():
        access, made = accumulator(seen, einsum, symbols, inside, predicates, [e.name for e in sums])
        if made is not None:
            sums.append(made)
        if access is None:
            return None
        total += outside * symbols.formula(access)
    value = symbols.expression(total)
    if guarded:
        # Those too that have cancelled: shares add up to SD / SD = 1, but to 0 where there is none.
        divided = divisors(total, symbols).union(*(divisors(o, symbols) for o in grouped.values()))
        found = sorted(divided, key=lambda f: f.name)
        if not found:
            return None
        for divisor in found:
            empty = Compare(("==",), (symbols.expression(divisor), Num(0)))
            value = Apply("select", (empty, Num(0), value))
    outer = Einsum(einsum.target, value, (), None)
    if outer.reduced:
        return None
    body = spliced(seen.cascade.body, einsum, (*sums, outer))
    result = without_unused(replace(seen.cascade, body=body))
    rule = "defer" if len(pairs) == 1 else "separate"
    return Rewritten(rule, einsum.name, _why(einsum, grouped, symbols), result, _cancels(grouped))


def _present(cascade: Cascade, einsum: Einsum, symbols: Symbols, term: Formula) -> Formula:
    """Return a term of a sum with `x` for each factor `pad(x, 0)`: where x is absent so is the term, which was 0."""
    factors = []
    for factor in sympy.Mul.make_args(term):
        access = _padded(cascade, einsum, symbols.meaning(factor)) if factor.is_Symbol else None
        factors.append(factor if access is None else symbols.formula(access))
    return sympy.Mul(*factors)


def _unpadded(cascade: Cascade, einsum: Einsum, value: Expr) -> Expr:
    """Return what a sum has as its one term, as `_present` does."""
    if isinstance(value, Apply) and value.op in ("*", "/", "neg"):
        first, *rest = value.args
        others = (_unpadded(cascade, einsum, a) if value.op == "*" else a for a in rest)
        return replace(value, args=(_unpadded(cascade, einsum, first), *others))
    return _padded(cascade, einsum, value) or value


def _padded(cascade: Cascade, einsum: Einsum, value: Expr) -> Access | None:
    """Return x of `pad(x, 0)` where the absence of x removes terms of a sum, and never the sum itself."""
    if not (isinstance(value, Apply) and value.op == "pad" and value.args[1] == Num(0)):
        return None
    (access, _), gone = value.args, set(einsum.reduced)
    if not isinstance(access, Access):
        return None
    apart = (c for c in conditions_of_access(cascade, access) if c.names.isdisjoint(gone))
    return access if next(apart, None) is None else None


def _terms_of(
    einsum: Einsum, value: Expr, *, expand: bool
) -> tuple[Symbols, tuple[tuple[Formula, Formula], ...]]:
    """Return the terms of what an Einsum sums, each as what is free of the reduced variables and what is not."""
    key = ("terms", value, expand)
    if key not in einsum.derived:
        symbols = Symbols()
        formula = symbols.formula(value)
        terms = sympy.Add.make_args(expanded(formula) if expand else formula)
        gone = set(einsum.reduced)
        einsum.derived[key] = symbols, tuple(split_term(t, symbols, gone) for t in terms)
    found: tuple[Symbols, tuple[tuple[Formula, Formula], ...]] = einsum.derived[key]
    return found


def _cancels(grouped: dict[Formula, Formula]) -> bool:
    return len(grouped) > 1 and any(b.could_extract_minus_sign() for b in grouped.values())


def divisors(formula: Formula, symbols: Symbols) -> set[Formula]:
    """Return the tensors by which a formula divides."""
    powers = [p for p in formula.atoms(sympy.Pow) if p.exp.could_extract_minus_sign() and p.base.is_Symbol]
    return {p.base for p in powers if isinstance(symbols.meaning(p.base), Access)}


def split_term(term: Formula, symbols: Symbols, gone: set[str]) -> tuple[Formula, Formula]:
    """Return the factors of a product that are free of the reduced variables, and the others."""
    outside: list[Formula] = []
    inside: list[Formula] = []
    for factor in sympy.Mul.make_args(term):
        moves = any(set(variables(a)) & gone for a in symbols.atoms(factor))
        (inside if moves else outside).append(factor)
    return sympy.Mul(*outside), sympy.Mul(*inside)


def accumulator(
    seen: Along,
    einsum: Einsum,
    symbols: Symbols,
    inside: Formula,
    predicates: tuple[Expr, ...],
    taken: list[str],
) -> tuple[Expr | None, Einsum | None]:
    """Return how to read the sum of one factor, and the Einsum that makes it unless one is there already."""
    parts = conditions(seen, einsum, predicates)
    moving = set(einsum.reduced)
    bound = [p for p in parts if set(variables(p)) & moving]
    if inside == 1 and not bound:
        size: Expr = Num(1)
        for v in einsum.reduced:
            size = Size(rank_of(v)) if size == Num(1) else Apply("*", (size, Size(rank_of(v))))
        return size, None
    formula = folded(seen, einsum, symbols, inside)
    value = symbols.expression(formula)
    used = {*variables(value), *(v for p in bound for v in variables(p))}
    target = tuple(Var(v) for v in einsum.output_variables if v in used)
    where = joined(_not_inherited(seen.cascade, value, target, einsum, bound))
    read = {a.tensor for a in accesses(value)}
    for other in seen.cascade.einsums:
        if other.name == einsum.name:
            break
        if not read <= other.sources or not _is_sum(other) or other.where != where:
            continue
        alike = set(other.all_reductions[0].variables) == set(einsum.reduced)
        shaped = set(other.output_variables) == {t.name for t in target}
        if alike and shaped and symbols.formula(other.value) == formula:
            return Access(other.name, other.target.indices), None
    if not moving <= {*variables(value), *(variables(where) if where is not None else ())}:
        return None, None  # a factor that lacks one of several reduced variables: its sum would lack a size
    block = seen.cascade.block_of(einsum.name)
    if block is not None and block not in used and any(seen.cascade.block_of(t) == block for t in read):
        return (
            None,
            None,
        )  # of one generation, it can be made neither in front of the block nor in every generation
    name = fresh_name(seen.cascade, _new_name(einsum.name, value), taken)
    made = Einsum(Access(name, target), value, sum_over(einsum, value), where)
    return Access(name, target), made


def _new_name(name: str, value: Expr) -> str:
    """Return a speaking name: the tensors that are multiplied, such as SNV for SN * V."""
    parts: list[str] = []
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, Access):
            parts.append(node.tensor)
        elif isinstance(node, Apply) and node.op == "*":
            stack += reversed(node.args)
        else:
            return f"S{name}"
    joined_name = "".join(parts)
    return joined_name if len(parts) > 1 and len(joined_name) <= 6 else f"S{name}"


def conditions(seen: Along, einsum: Einsum, predicates: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Return the conditions under which a term exists, those of the tensors that were opened included."""
    return tuple(dict.fromkeys((*live_parts(seen.cascade, einsum), *predicates)))


def _not_inherited(
    cascade: Cascade, value: Expr, target: tuple[Var, ...], einsum: Einsum, wanted: list[Expr]
) -> list[Expr]:
    """Return the conditions that the tensors read do not carry with them."""
    probe = Einsum(Access(einsum.name, target), value, (), None)
    carried = set(live_parts(cascade, probe))
    flat: list[Expr] = []
    for part in wanted:
        flat += [c for c in conjuncts(part) if c not in carried and c not in flat]
    return flat


def folded(seen: Along, einsum: Einsum, symbols: Symbols, formula: Formula) -> Formula:
    """Return a formula in which the definitions of streaming tensors are read by their names again."""
    read = _tensors(formula, symbols)
    for other in seen.cascade.einsums:
        if other.name == einsum.name:
            break
        if not other.sources <= read or other.all_reductions:
            continue
        if not plain_target(other) or not seen.streams(other.name):
            continue
        if not set(other.output_variables) <= set(einsum.variables):
            continue
        meaning = symbols.formula(other.value)
        if not meaning.is_Symbol and formula.has(meaning):
            formula = formula.subs(meaning, symbols.formula(other.target))
            read = _tensors(formula, symbols)
    return formula


def _tensors(formula: Formula, symbols: Symbols) -> set[str]:
    return {a.tensor for atom in symbols.atoms(formula) for a in accesses(atom)}


def _why(einsum: Einsum, grouped: dict[Formula, Formula], symbols: Symbols) -> str:
    factors = [expression(symbols.expression(b)) for b in grouped.values() if b != 1]
    what = ", ".join(factors) or "nothing"
    over = ", ".join(einsum.reduced)
    why = f"{what} does not depend on {over}: reduce first and apply it afterwards"
    lossy = "the sums are subtracted, which loses digits where they nearly cancel"
    return f"{why}; {lossy}" if _cancels(grouped) else why
