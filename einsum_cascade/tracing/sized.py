"""Numbers of a traced function that follow from sizes: seen at other sizes of the example, written as what they are."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..cascade import Cascade
from ..declarations import Iterate, Rank, rank_of
from ..einsum import Einsum
from ..errors import CascadeError
from ..expr import Access, Apply, Expr, Num, children, rebuild, walk
from ..sizes import resolve
from .inputs import Given
from .laws import law

# What a trace gives: the cascade, the sizes of its ranks in the example, its inputs.
Reading = tuple[Cascade, dict[str, int], list[Given]]
Again = Callable[[Sequence[tuple[int, ...]]], Reading]
# Numbers that no size gives: nothing, the identities, the signs.
_CERTAIN = (0, 1, -1)
# How many times larger a rank is in the readings at other sizes: three sizes of each hold a law of two numbers of its
# own, and no two of six ranks grow by the same factors. Two readings tell whether anything follows from sizes at all.
_FACTORS = ((2, 3, 2), (3, 2, 2), (2, 2, 3), (3, 3, 2), (2, 3, 3), (3, 2, 3))
_ENOUGH = 2


@dataclass(frozen=True)
class _Held:
    """A number of a text, and whether it stands in an index."""

    value: float
    index: bool


def with_sizes(first: Reading, again: Again) -> tuple[Cascade, list[str]]:
    """Return the cascade of a reading with its numbers, and the sizes of its own ranks, as those of inputs give them.

    And the ranks along which a loop of Python runs, so that the text is for one size of them alone.

    Args:
        first: what the example gives.
        again: reads the function with its tensors, in their order, of other shapes.
    """
    cascade, sizes, _ = first
    numbers = _numbers(cascade)
    own = _own_ranks(cascade)
    if not own and all(n.value in _CERTAIN or math.isinf(n.value) for n in numbers):
        return cascade, []
    seen, loops = _seen(first, again)
    if not seen:
        return cascade, loops
    at = [sizes, *(s for _, s, _ in seen)]
    declared = tuple(_declared(cascade, r, own, at) for r in cascade.ranks)
    names = _named(declared)
    shown = [{r: s[r] for r in names} for s in at]
    of_numbers = zip(numbers, *(_numbers(c) for c, _, _ in seen), strict=True)
    found = iter([_law_of(held, shown) for held in of_numbers])
    return replace(cascade, ranks=declared, body=_rewritten(cascade, lambda n, _: next(found) or n)), loops


def _law_of(held: Sequence[_Held], at: Sequence[Mapping[str, int]]) -> Expr | None:
    """Return what a number is at any sizes, or None where it is itself or no law is known."""
    values = [h.value for h in held]
    return None if len(set(values)) == 1 else law(values, at, index=held[0].index)


def _named(ranks: Sequence[Rank]) -> list[str]:
    """Return the ranks that a law may speak of, best first: free ones, then those of several parts."""
    free = [r.name for r in ranks if r.size is None]
    return free + [r.name for r in ranks if isinstance(r.size, Apply)]


def _own_ranks(cascade: Cascade) -> set[str]:
    """Return the free ranks that no input has."""
    given = {r for s in cascade.inputs for r in s.ranks}
    return {r for r in cascade.free_ranks if r not in given}


def _declared(cascade: Cascade, rank: Rank, own: set[str], at: Sequence[Mapping[str, int]]) -> Rank:
    """Return a rank with the size that follows from those of inputs, where it does.

    One that stays (the heads of `x.view(b, t, 4, c // 4)`, a window) is left free, for other models to have others.
    """
    values = [s[rank.name] for s in at]
    is_part = any(rank.name in parts for parts in cascade.splits.values())  # follows from its whole
    if rank.name not in own or is_part or len(set(values)) == 1:
        return rank
    given = [r for r in cascade.free_ranks if r not in own]
    return replace(rank, size=law(values, [{r: s[r] for r in given} for s in at], index=True))


def _movable(first: Reading) -> list[str]:
    """Return the free ranks that can be larger in the example: no parameter has them, no loop counts along them."""
    cascade, sizes, given = first
    fixed = {r for s, g in zip(cascade.inputs, given, strict=True) if g.origin != "example" for r in s.ranks}
    loops = {rank_of(item.variable) for item in cascade.body if isinstance(item, Iterate)}
    outer = {parts[0] for parts in cascade.splits.values()}
    if loops & outer:  # a loop over tiles: those of other tensors may have been steps of a loop too
        loops |= outer
    # Ranks that make the same tensors larger are one to the function, which settles how they share it.
    moved = {tuple(_shapes(first, sizes)): ""}
    for rank in sorted(cascade.free_ranks, key=lambda r: r not in loops):
        with contextlib.suppress(CascadeError):  # it does not divide what it is a part of
            other = _larger(cascade, sizes, {rank: 2})
            # One of a single element is often another at more: it is repeated.
            if sizes[rank] > 1 and all(other[r] == sizes[r] for r in fixed):
                moved.setdefault(tuple(_shapes(first, other)), "" if rank in loops else rank)
    return [rank for rank in moved.values() if rank]


def _larger(cascade: Cascade, sizes: Mapping[str, int], factors: Mapping[str, int]) -> dict[str, int]:
    free = {r: sizes[r] * factors.get(r, 1) for r in cascade.free_ranks}
    return resolve(cascade, free)


def _shapes(first: Reading, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors of the example, in order; a complex one is two inputs of the cascade."""
    cascade, _, given = first
    both = zip(cascade.inputs, given, strict=True)
    return [tuple(sizes[r] for r in s.ranks) for s, g in both if g.origin == "example" and g.part != "imag"]


def _seen(first: Reading, again: Again) -> tuple[list[Reading], list[str]]:
    """Return readings with the ranks larger that can be, and the ranks along which a loop of Python runs."""
    ranks = _movable(first)
    found = _larger_readings(first, again, [(r,) for r in ranks])
    if found or not ranks:
        return found, []
    # Ranks of one size may be one to the function, as queries and keys to a bias of `arange(n)`.
    alike = [tuple(r for r in ranks if first[1][r] == n) for n in dict.fromkeys(first[1][r] for r in ranks)]
    found = _larger_readings(first, again, alike)
    together, loops = bool(found), list[str]()
    if not together:
        alone = [(unit, _read(first, again, _factors([unit], 0))) for unit in alike]
        loops = [r for unit, other in alone if other and _is_longer(first, other) for r in unit]
        alike = [unit for unit, other in alone if other and _is_alike(first, other)]
        found = [other for unit, other in alone if other and unit in alike]
    if all(_same_numbers(first, other) for other in found):
        return found, loops
    # What differs is told apart: by every rank alone if they can be, else by those of one size where they can.
    every: list[tuple[str, ...]] = [(r,) for unit in alike for r in unit]
    if every != [(r,) for r in ranks] and (apart := _larger_readings(first, again, every)):
        return apart, loops
    units: list[tuple[str, ...]] = []
    for unit in alike:
        single: list[tuple[str, ...]] = [(r,) for r in unit]
        told_apart = len(unit) > 1 and _larger_readings(first, again, single, enough=1)
        units += single if told_apart else [unit]
    return found if together and units == alike else _larger_readings(first, again, units), loops


def _factors(units: Sequence[tuple[str, ...]], k: int) -> dict[str, int]:
    """Return by which factors ranks are larger in the kth reading, those of a unit by the same."""
    return {r: _FACTORS[i % len(_FACTORS)][k] for i, unit in enumerate(units) for r in unit}


def _larger_readings(
    first: Reading, again: Again, units: Sequence[tuple[str, ...]], enough: int = len(_FACTORS[0])
) -> list[Reading]:
    """Return readings with some ranks larger; none where one of them gives another text."""
    found: list[Reading] = []
    for k in range(enough if units else 0):
        if k == _ENOUGH and all(_same_numbers(first, other) for other in found):
            break
        other = _read(first, again, _factors(units, k))
        if other is None or not _is_alike(first, other):
            return []
        found.append(other)
    return found


def _read(first: Reading, again: Again, factors: Mapping[str, int]) -> Reading | None:
    """Return the reading with some ranks larger, or None where the function is not for these sizes."""
    try:
        return again(_shapes(first, _larger(first[0], first[1], factors)))
    except CascadeError:
        return None


def _is_alike(one: Reading, other: Reading) -> bool:
    """Tell whether two readings are of one text, but for numbers."""
    return _skeleton(one[0]) == _skeleton(other[0])


def _is_longer(one: Reading, other: Reading) -> bool:
    """Tell whether a text has grown with the sizes, as the steps of a loop do.

    What else makes another text is short: a head that is read by several, one Einsum for a repetition.
    """
    statements, nodes = zip(*map(_length, (one[0], other[0])), strict=True)
    return bool(statements[1] > statements[0] + 1 or nodes[1] > 1.2 * nodes[0])


def _length(cascade: Cascade) -> tuple[int, int]:
    """Return how many Einsums a text has, and how many parts of expressions."""
    einsums = [e for e, _ in cascade.statements]
    return len(einsums), sum(len(list(walk(e.value))) for e in einsums)


def _same_numbers(one: Reading, other: Reading) -> bool:
    own = _own_ranks(one[0])
    return _numbers(one[0]) == _numbers(other[0]) and all(one[1][r] == other[1][r] for r in own)


def _skeleton(cascade: Cascade) -> tuple[Any, ...]:
    """Return what a text has besides its numbers."""
    body = _rewritten(cascade, lambda _, __: Num(0))
    return cascade.ranks, cascade.inputs, cascade.outputs, body


def _numbers(cascade: Cascade) -> list[_Held]:
    found: list[_Held] = []

    def keep(node: Num, index: bool) -> Expr:
        found.append(_Held(node.value, index))
        return node

    _rewritten(cascade, keep)
    return found


def _rewritten(cascade: Cascade, change: Callable[[Num, bool], Expr]) -> tuple[Einsum | Iterate, ...]:
    """Return the body of a cascade with each number changed, in order of writing; told is which are in an index."""

    def new(node: Expr, index: bool = False) -> Expr:
        match node:
            case Num():
                return change(node, index)
            case Apply("neg", (Num(c),)):
                return _signed(change(Num(-c), index))
            # One law for `p + 2` and `p - 3`: a difference of sizes changes its sign.
            case Apply("+" | "-", (x, Num(c) | Apply("neg", (Num(c),)) as y)):
                c = c if isinstance(y, Num) else -c
                return _sum(new(x, index), change(Num(c if node.op == "+" else -c), index))
        parts = children(node)
        changed = tuple([new(p, index or isinstance(node, Access)) for p in parts])
        return node if changed == parts else _divides(rebuild(node, changed))

    def of(einsum: Einsum) -> Einsum:
        target = new(einsum.target)
        assert isinstance(target, Access)
        where = None if einsum.where is None else new(einsum.where)
        return replace(einsum, target=target, value=new(einsum.value), where=where)

    return tuple(
        replace(item, einsums=tuple(map(of, item.einsums))) if isinstance(item, Iterate) else of(item)
        for item in cascade.body
    )


def _signed(node: Expr) -> Expr:
    return Apply("neg", (Num(-node.value),)) if isinstance(node, Num) and node.value < 0 else node


def _sum(x: Expr, y: Expr) -> Expr:
    """Return x + y without parentheses, signs told by the operator."""
    match y:
        case Num(c):
            return Apply("-", (x, Num(-c))) if c < 0 else Apply("+", (x, y))
        case Apply("+" | "-", (a, b)):
            return Apply(y.op, (_sum(x, a), b))
        case Apply("neg", (a,)):
            return Apply("-", (x, a))
        case Apply("*", (Num(c), a)) if c < 0:
            return Apply("-", (x, Apply("*", (Num(-c), a))))
    return Apply("+", (x, y))


def _divides(node: Expr) -> Expr:
    """Return `x / y` for `x * (1 / y)`, and `x * y` for `x / (1 / y)`."""
    match node:
        case Apply("*", (x, Apply("/", (Num(1), y)))):
            return Apply("/", (x, y))
        case Apply("*", (Apply("/", (Num(1), y)), x)):
            return Apply("/", (x, y))
        case Apply("/", (x, Apply("/", (Num(1), y)))):
            return Apply("*", (x, y))
    return node


def reshaped(
    example_inputs: Sequence[Any], named_inputs: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of an example with its tensors, in order, of other shapes, all zeros."""
    from torch.utils._pytree import tree_map

    rest: Iterator[tuple[int, ...]] = iter(shapes)

    def other(leaf: Any) -> Any:
        return leaf.new_zeros(next(rest)) if hasattr(leaf, "shape") else leaf

    return [tree_map(other, x) for x in example_inputs], {
        n: tree_map(other, x) for n, x in named_inputs.items()
    }


def quietly(read: Callable[[], Reading]) -> Reading:
    """Return what a reading at other sizes gives, without what the function prints.

    Raises:
        CascadeError: the function is not for these sizes, whatever it raises.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return read()
    except CascadeError:
        raise
    except Exception as error:  # noqa: BLE001  # A stranger's function raises what he likes.
        raise CascadeError(str(error)) from None
