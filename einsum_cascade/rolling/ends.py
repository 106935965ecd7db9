"""The last step of a loop, of which less is left: what only it read once was written into what reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..declarations import free_name
from ..einsum import Einsum
from ..expr import Access, Expr, Var, substitute, transform
from .pattern import NoLoopError, advanced, alike
from .segments import Stretch


def with_last_step(einsums: Sequence[Einsum], stretch: Stretch) -> tuple[list[Einsum], Stretch]:
    """Return Einsums in which one more step is written out as the others are, and the longer stretch.

    Raises:
        NoLoopError: what follows the stretch is not the next step, nor what is left of it.
    """
    places = {e.name: i for i, e in enumerate(einsums)}
    step = {j: f"next {j}" for j in range(stretch.length)}  # no name of a cascade has a space

    def renamed(tensor: str) -> str:
        at = stretch.place(places.get(tensor, -1))
        if at is None:
            return tensor
        if at[0] == stretch.count - 1:
            return step[at[1]]
        return einsums[places[tensor] + stretch.length].name

    wanted = [_next(einsums, stretch, place, renamed) for place in range(stretch.length)]
    names: dict[str, str] = {}
    inlined: dict[str, Einsum] = {}
    missing = 0
    left = list(einsums[stretch.end :])
    taken = {e.name for e in einsums}
    for place, einsum in enumerate(wanted):
        expected = replace(einsum, value=_opened(einsum.value, inlined, names))
        # What is written down when it is read may stand in another order than in the steps before.
        mine = next((e for e in left[: stretch.length] if _equal(e, expected)), None)
        if mine is not None:
            names[step[place]] = mine.name
            left.remove(mine)
        else:
            # Written into what reads it, or nothing reads it: a last state that nobody asks for.
            if not einsum.all_reductions and einsum.where is None:
                inlined[step[place]] = expected
            name = free_name(einsums[stretch.end - stretch.length + place].name, taken)
            taken.add(name)
            names[step[place]] = name
            missing += 1
    last = [
        replace(e, target=replace(e.target, tensor=names[e.name]), value=_opened(e.value, {}, names))
        for e in wanted
    ]
    longer = replace(stretch, count=stretch.count + 1)
    shown = {_opened(e.value, {}, names): Access(names[key], e.target.indices) for key, e in inlined.items()}
    rest = [_read(e, shown) for e in left]
    if missing == stretch.length and rest == left:
        raise NoLoopError  # nothing of it is there
    return [*einsums[: stretch.end], *last, *rest], longer


def _next(einsums: Sequence[Einsum], stretch: Stretch, place: int, renamed: Callable[[str], str]) -> Einsum:
    """Return what would stand at a place of the step behind a stretch."""
    now = einsums[stretch.end - stretch.length + place]
    before = alike(einsums[stretch.end - 2 * stretch.length + place], now)
    value = advanced(before.value, now.value, renamed)
    where = None
    if now.where is not None and before.where is not None:
        where = advanced(before.where, now.where, renamed)
    return replace(now, target=replace(now.target, tensor=f"next {place}"), value=value, where=where)


def _opened(node: Expr, inlined: dict[str, Einsum], names: dict[str, str]) -> Expr:
    def change(n: Expr) -> Expr:
        if not isinstance(n, Access):
            return n
        if n.tensor in inlined:
            source = inlined[n.tensor]
            own = [i.name for i in source.target.indices if isinstance(i, Var)]
            return substitute(source.value, dict(zip(own, n.indices, strict=True)))
        return replace(n, tensor=names.get(n.tensor, n.tensor))

    return transform(node, change)


def _read(einsum: Einsum, shown: dict[Expr, Access]) -> Einsum:
    """Return an Einsum with the reads of tensors in the place of their values, where these stand as they are."""
    value = transform(einsum.value, lambda n: shown.get(n, n))
    return einsum if value == einsum.value else replace(einsum, value=value)


def _equal(einsum: Einsum, expected: Einsum) -> bool:
    try:
        mine = alike(einsum, expected)
    except NoLoopError:
        return False
    return mine.value == expected.value and mine.where == expected.where
