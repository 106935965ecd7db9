"""One extended Einsum: target, value, reductions, where; its iteration space and operation counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .expr import Access, Apply, Expr, Num, Place, Var, accesses, index_variables, variables, walk
from .ops import REDUCTION, SCALAR


@dataclass(frozen=True, slots=True)
class Reduction:
    """`:: op(variables)`; for `topk(m -> j)` the variable `into` is the new one."""

    op: str
    variables: tuple[str, ...]
    into: str | None = None
    sorted: bool = False
    at: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Action:
    """`count` scalar operations of one cost class at every point of the space of `variables`."""

    op: str
    count: int
    variables: tuple[str, ...]


@dataclass(frozen=True)  # without slots, so that what follows from it is derived once
class Einsum:
    """`target = value :: reductions where predicate`.

    Attributes:
        reductions: as written; `all_reductions` adds the implicit sum.
        where: a predicate, or None.
        at: (line, column) in the text it came from.
    """

    target: Access
    value: Expr
    reductions: tuple[Reduction, ...] = ()
    where: Expr | None = None
    at: Place | None = field(default=None, compare=False, repr=False)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.target, self.value, self.reductions, self.where))

    @cached_property
    def derived(self) -> dict[Any, Any]:
        """What others have worked out of it, each by a key of its own; it never changes, and no copy needs it."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # Another process has other hashes of the same names.
        return {name: value for name, value in self.__dict__.items() if name not in ("derived", "_hash")}

    @property
    def name(self) -> str:
        """The tensor that is defined; an Einsum goes by its name."""
        return self.target.tensor

    @cached_property
    def output_variables(self) -> tuple[str, ...]:
        """Rank variables of the target, in order."""
        return tuple(dict.fromkeys(v for index in self.target.indices for v in variables(index)))

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Rank variables of the whole iteration space: the target's first, then the others as written."""
        seen = dict.fromkeys(self.output_variables)
        seen.update(dict.fromkeys(variables(self.value)))
        if self.where is not None:
            seen.update(dict.fromkeys(variables(self.where)))
        for r in self.reductions:
            seen.update(dict.fromkeys(r.variables))
        return tuple(v for v in seen if v not in self._created)

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each variable in the iteration space."""
        return {v: i for i, v in enumerate(self.variables)}

    @property
    def _created(self) -> tuple[str, ...]:
        return tuple(r.into for r in self.reductions if r.into)

    @cached_property
    def reduced(self) -> tuple[str, ...]:
        """Variables of the iteration space that the target lacks."""
        out = set(self.output_variables)
        return tuple(v for v in self.variables if v not in out)

    @cached_property
    def all_reductions(self) -> tuple[Reduction, ...]:
        """The reductions as written, then the implicit sum over what is left, if anything is."""
        named = {v for r in self.reductions for v in r.variables}
        rest = tuple(v for v in self.reduced if v not in named)
        return (*self.reductions, Reduction("sum", rest)) if rest else self.reductions

    @cached_property
    def reads(self) -> tuple[Access, ...]:
        """Every access read: in the value, in the predicate, in gathers; in order of writing."""
        found = accesses(self.value)
        if self.where is not None:
            found += accesses(self.where)
        for index in self.target.indices:
            found += accesses(index)
        return found

    @cached_property
    def sources(self) -> frozenset[str]:
        """The tensors that are read."""
        return frozenset(access.tensor for access in self.reads)

    @cached_property
    def moves(self) -> tuple[tuple[frozenset[str], ...], ...]:
        """Of each access read the variables by which each of its indices moves."""
        return tuple(tuple(map(index_variables, access.indices)) for access in self.reads)

    @cached_property
    def gathers(self) -> tuple[tuple[Access, int, tuple[str, ...]], ...]:
        """Accesses that an index tensor directs: the access, the axis, and the tensors in the index."""
        found = []
        for access in self.reads:
            for axis, index in enumerate(access.indices):
                inner = () if isinstance(index, Var) else accesses(index)
                if inner:
                    found.append((access, axis, tuple(a.tensor for a in inner)))
        return tuple(found)

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """Scalar operations, by cost class and by the space over which they run.

        Maps run once per point of the iteration space, each reduction once per term that enters it. A product
        that is summed is one multiply-accumulate. Index arithmetic and predicates are free, and so is what is known
        before the data: numbers, sizes and what is made of them. Such a number before or under a sum, the scale of
        scores, multiplies the sum, not its terms.
        """
        space = self.variables
        summed = any(r.op == "sum" for r in self.all_reductions[:1])
        value, scaled = _without_scale(self.value) if summed else (self.value, False)
        maps: Counter[str] = Counter()
        for op, n, _ in map_costs(value):
            maps[op] += n
        out: list[Action] = []
        fused = summed and _is_product(value)
        for position, reduction in enumerate(self.all_reductions):
            cost = dict(REDUCTION[reduction.op].cost)
            if position == 0 and fused:
                maps["mul"] -= 1
                cost = {"mac": 1}
            out += [Action(op, n, space) for op, n in cost.items() if n]
            space = tuple(v for v in space if v not in reduction.variables)
            if reduction.into:
                space = (*space, reduction.into)
            if position == 0 and scaled:
                out.append(Action("mul", 1, space))
        first = [Action(op, n, self.variables) for op, n in maps.items() if n > 0]
        return tuple(out[:1] + first + out[1:]) if fused else tuple(first + out)


def _is_product(value: Expr) -> bool:
    return isinstance(value, Apply) and value.op == "*"


def factors(node: Expr) -> Iterator[tuple[Expr, bool]]:
    """Yield what a product multiplies, each with True where it is divided by."""
    if isinstance(node, Apply) and node.op == "*":
        for part in node.args:
            yield from factors(part)
    elif isinstance(node, Apply) and node.op == "/":
        yield from factors(node.args[0])
        yield from ((part, not under) for part, under in factors(node.args[1]))
    else:
        yield node, False


def is_constant(node: Expr) -> bool:
    """Tell whether a value is known before the data: it is made of numbers and sizes alone."""
    return not any(isinstance(n, (Access, Var)) for n in walk(node))


def _without_scale(value: Expr) -> tuple[Expr, bool]:
    """Return a product without the numbers in it that are known before the data, and whether there are any."""
    every = tuple(factors(value))
    parts = [(part, under) for part, under in every if not is_constant(part)]
    above = [part for part, under in parts if not under]
    if not above or len(parts) == len(every):
        return value, False
    out = above[0]
    for part in above[1:]:
        out = Apply("*", (out, part))
    for part in (part for part, under in parts if under):
        out = Apply("/", (out, part))
    return out, True


def map_costs(node: Expr) -> Iterator[tuple[str, int, Expr]]:
    """Yield the scalar operations of an expression: cost class, how many, and the part of it that they compute."""
    if isinstance(node, Access) or is_constant(node):
        return  # index arithmetic is addressing, not work
    if isinstance(node, Apply):
        if node.op == "/" and is_constant(node.args[1]):
            yield "mul", 1, node  # by the reciprocal, which is known too
            yield from map_costs(node.args[0])
            return
        repeats = len(node.args) - 1 if node.op in ("min", "max") else 1
        if node.op == "**" and _whole_power(node):
            yield "mul", 1, node
        else:
            for op, n in SCALAR[node.op].cost.items():
                yield op, n * repeats, node
        for part in node.args[1:] if node.op == "select" else node.args:
            yield from map_costs(part)


def _whole_power(node: Apply) -> bool:
    return isinstance(node.args[1], Num) and node.args[1].value == 2


def plain_target(einsum: Einsum) -> bool:
    """Tell whether a target names only variables, so that its definition can be put where it is read."""
    return all(isinstance(i, Var) for i in einsum.target.indices)


def is_map(einsum: Einsum) -> bool:
    """Tell whether an Einsum says no more than what each element is made of: nothing is reduced, and none left out."""
    return plain_target(einsum) and not einsum.all_reductions and einsum.where is None


def places_of(source: Einsum, access: Access) -> dict[str, Expr]:
    """Return at which place an access reads: an index for each variable of the target."""
    pairs = zip(source.target.indices, access.indices, strict=True)
    return {t.name: i for t, i in pairs if isinstance(t, Var)}
