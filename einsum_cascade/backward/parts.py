"""What comes back to a tensor from each Einsum that reads it, and the sum of it all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..declarations import rank_of
from ..einsum import Einsum, Reduction
from ..expr import Access, Apply, Expr, Num, Size, Var, variables
from ..rewrite.elements import joined
from ..rewrite.places import replaced
from .scalar import times
from .tidy import chained


@dataclass(frozen=True)
class Part:
    """What comes back to a tensor from one access.

    Attributes:
        target: variables by which it is gathered; in a block its generation among them.
        readback: at which place it stands for an element, by the variables of the tensor.
        conditions: those that are written; `carried` those of the points that it has, in the variables of `target`.
        exact: whether it has every element.
    """

    target: tuple[str, ...]
    readback: tuple[Expr, ...]
    value: Expr
    summed: tuple[str, ...] = ()
    conditions: tuple[Expr, ...] = ()
    carried: frozenset[Expr] = frozenset()
    exact: bool = True

    def named(self, name: str) -> Einsum:
        """Return it as an Einsum."""
        return Einsum(
            Access(name, tuple(map(Var, self.target))),
            self.value,
            sum_of(self.value, self.summed),
            joined(chained(self.conditions)),
        )

    def as_read(self) -> dict[str, Expr]:
        """Return what variables of the target become where it is read."""
        return dict(zip(self.target, self.readback, strict=True))

    def in_place(self, own: Sequence[str]) -> Part | None:
        """Return it by the variables of the tensor itself, or None where they name something else in it."""
        if not self.exact or len(self.readback) != len(own):
            return None
        if any(not isinstance(r, Var) for r in self.readback) or [
            r.name for r in self.readback if isinstance(r, Var)
        ] != list(own):
            return None
        inside = {*self.summed, *(v for v in variables(self.value) if v not in self.target)}
        if inside & {o for o, t in zip(own, self.target, strict=True) if o != t}:
            return None
        names: dict[str, Expr] = {t: Var(o) for t, o in zip(self.target, own, strict=True)}
        return replace(
            self,
            target=tuple(own),
            readback=tuple(map(Var, own)),
            value=replaced(self.value, names),
            conditions=tuple(replaced(c, names) for c in self.conditions),
            carried=frozenset(replaced(c, names) for c in self.carried),
        )


def sum_of(value: Expr, over: tuple[str, ...]) -> tuple[Reduction, ...]:
    """Return a sum as a person writes it: left out where a product says it by itself."""
    if not over:
        return ()
    implied = set(over) <= set(variables(value)) and not (isinstance(value, Apply) and value.op in ("+", "-"))
    return () if implied else (Reduction("sum", over),)


def counted(value: Expr, over: Iterable[str], walked: Iterable[str]) -> Expr:
    """Return a value times how often it is summed over variables that it does not have."""
    seen = set(walked)
    for v in over:
        if v not in seen:
            value = times(value, Size(rank_of(v)))
    return value


@dataclass(frozen=True)
class Total:
    """The gradient of a tensor.

    Attributes:
        access: how it is read, by the variables of the tensor.
        einsums: what has to be computed for it, in order.
        carried: the conditions of its points.
    """

    access: Access
    einsums: tuple[Einsum, ...]
    carried: frozenset[Expr]


def total(
    parts: Sequence[Part],
    own: Sequence[str],
    named: Callable[[str], str],
    wanted: str,
    *,
    exists: frozenset[Expr] = frozenset(),
    must_name: bool = False,
    target: Access | None = None,
) -> Total:
    """Return the sum of what comes back to a tensor.

    Args:
        own: the variables of the tensor, in order.
        named: gives a free name that is like a wanted one.
        wanted: the name of the gradient.
        exists: the conditions under which a point of the tensor exists: nothing else reads the others.
        must_name: that it has to be a tensor of its own, though it only copies another.
        target: what is defined instead of `wanted[own]`.
    """
    placed = [p.in_place(own) or p for p in parts]
    if len(placed) == 1 and placed[0].in_place(own) is not None:
        (only,) = placed
        if (
            not must_name
            and target is None
            and isinstance(only.value, Access)
            and not only.conditions
            and not only.summed
        ):
            return Total(only.value, (), only.carried)
        made = only.named(target.tensor if target else named(wanted))
        made = replace(made, target=target) if target else made
        return Total(made.target, (made,), only.carried)
    access = target or Access(named(wanted), tuple(map(Var, own)))
    einsums: list[Einsum] = []
    terms: list[Expr] = []
    carried: set[Expr] = set()
    written: dict[Expr, None] = {}
    for part in placed:
        inline = part.in_place(own)
        if inline is not None and not inline.summed and inline.carried <= exists:
            terms.append(inline.value)
            carried |= inline.carried - set(inline.conditions)
            written |= dict.fromkeys(inline.conditions)
            continue
        made = part.named(named(wanted))
        einsums.append(made)
        read = Access(made.name, part.readback)
        known = {replaced(c, part.as_read()) for c in part.carried}
        if part.exact and known <= exists:
            terms.append(read)
            carried |= known
        else:
            terms.append(Apply("pad", (read, Num(0))))
    often = Counter(terms)
    value, *rest = (t if n == 1 else times(Num(n), t) for t, n in often.items())
    for term in rest:
        minus = isinstance(term, Apply) and term.op == "neg"
        value = (
            Apply("-", (value, term.args[0]))
            if minus and isinstance(term, Apply)
            else Apply("+", (value, term))
        )
    left = [c for c in written if c not in carried]
    made = Einsum(access, value, (), joined(chained(left)))
    return Total(access, (*einsums, made), frozenset(carried.union(left)))
