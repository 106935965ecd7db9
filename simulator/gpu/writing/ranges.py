"""Which steps of a loop have points, and between which of them a condition holds for all that a block holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from einsum_cascade.analysis.intervals import Atom, alternatives, number, slope
from einsum_cascade.declarations import rank_of
from einsum_cascade.errors import CascadeError
from einsum_cascade.expr import Apply, Expr, Num, accesses, substitute, variables


def ends(
    parts: Iterable[Expr], variable: str, seen: Mapping[str, tuple[str, str]], numbers: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """Return what bounds a loop over a variable from below, and from above (the first value that is too large).

    A step is left out only where no value that the block holds of the other variables satisfies a condition; one that
    is not linear, or of which there are alternatives, bounds nothing.

    Args:
        parts: conditions, all of which have to hold.
        seen: of each variable that a block does not hold whole, the names of its first and its last value there.
    """
    low: list[str] = []
    high: list[str] = []
    for part in parts:
        for atom in _atoms(part, variable):
            for value in (atom.value, Apply("neg", (atom.value,))) if atom.op == "==" else (atom.value,):
                found = _end(value, variable, seen, numbers, strict=atom.op == "<")
                if found is not None:
                    (high if found[0] else low).append(found[1])
    return list(dict.fromkeys(low)), list(dict.fromkeys(high))


def sure_ends(
    part: Expr, variable: str, seen: Mapping[str, tuple[str, str]], numbers: Mapping[str, float]
) -> tuple[list[str], list[str]] | None:
    """Return between which values of a variable a condition holds for all that a block holds of the others.

    As `ends` returns them; None where that is not known.
    """
    low: list[str] = []
    high: list[str] = []
    atoms = _atoms(part, variable)
    for atom in atoms:
        found = None
        if atom.op != "==":
            found = _end(atom.value, variable, seen, numbers, strict=atom.op == "<", every=True)
        if found is None:
            return None
        (high if found[0] else low).append(found[1])
    return (low, high) if atoms else None


def _atoms(part: Expr, variable: str) -> list[Atom]:
    """Return what a condition that names a variable consists of; nothing where there are alternatives."""
    if variable not in variables(part) or accesses(part):
        return []
    try:
        terms = alternatives([part])
    except CascadeError:
        return []
    return terms[0] if len(terms) == 1 else []


def _end(
    value: Expr,
    variable: str,
    seen: Mapping[str, tuple[str, str]],
    numbers: Mapping[str, float],
    *,
    strict: bool,
    every: bool = False,
) -> tuple[bool, str] | None:
    """Return whether `value <= 0` bounds a variable from above, and by what; None where it is not linear.

    Args:
        every: so that it holds for all values that the block holds of the others, not for one of them.
    """
    names = variables(value)
    slopes = {v: slope(value, v, numbers) for v in names}
    steps = {v: int(s) for v, s in slopes.items() if s is not None and float(s).is_integer()}
    if len(steps) < len(names) or not steps[variable]:
        return None
    rest = float(number(substitute(value, {v: Num(0) for v in names}), {}, numbers))
    if not rest.is_integer():
        return None
    # What the other side is at its most for one of the values that the block holds, or at its least for all of them.
    terms, most = [], -int(rest) - strict
    for v, step in steps.items():
        if v == variable:
            continue
        first = (step > 0) != every
        if v in seen:
            terms.append(_times(-step, seen[v][0] if first else seen[v][1]))
        elif not first:
            most -= step * int(numbers[rank_of(v)] - 1)
    factor = steps[variable]
    if factor > 0:  # variable <= most / factor
        text = _sum(terms, most + factor)
        return True, f"tl.maximum({text}, 0) // {factor}" if factor > 1 else text
    text = _sum([_opposite(t) for t in terms], -most)  # variable >= -most / -factor
    return False, text if factor == -1 else f"(tl.maximum({text}, 0) + {-factor - 1}) // {-factor}"


def _opposite(term: str) -> str:
    return f"{'-' if term.startswith('+') else '+'}{term[1:]}"


def _times(factor: int, name: str) -> str:
    sign = "-" if factor < 0 else "+"
    return f"{sign} {name}" if abs(factor) == 1 else f"{sign} {abs(factor)} * {name}"


def _sum(terms: Sequence[str], constant: int) -> str:
    every = [*terms, *([f"{'-' if constant < 0 else '+'} {abs(constant)}"] if constant or not terms else [])]
    text = " ".join(every)
    return text.removeprefix("+ ").replace("- ", "-", 1) if text.startswith("- ") else text.removeprefix("+ ")
