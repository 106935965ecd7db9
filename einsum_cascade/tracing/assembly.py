"""The Einsums of a trace as a cascade: outputs defined, ranks named, what nothing reads left out."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ..cascade import Cascade
from ..declarations import Signature, rank_of, variable_of
from ..einsum import Einsum, Reduction
from ..expr import Access, Apply, Expr, Num, Size, Var, accesses, plus, transform, walk
from .holes import filled
from .inputs import Given
from .names import Names
from .unread import without_copies, without_unread
from .values import Builder, Value, number, rename
from .zeros import without_zeros


def assembled(
    builder: Builder,
    name: str,
    inputs: Sequence[Given],
    outputs: Sequence[Value],
) -> tuple[Cascade, dict[str, int]]:
    """Return the cascade of the Einsums that a builder has, and the sizes that its ranks have in the example."""
    asked: list[str] = []
    for i, value in enumerate(outputs):
        whole = builder.define(
            "O" if len(outputs) == 1 else f"O{i}",
            value.axes,
            functools.partial(_element, value),
            sizes=value.sizes,
            whole=True,
        )
        asked.append(_read_of(whole))
    _shorten(builder, asked)
    einsums = filled(_needed(builder.einsums, asked), asked)
    if builder.apart:  # steps of a loop are to look alike, the first tiles of a mask too
        builder.einsums = without_unread(einsums, asked)
    else:
        builder.einsums = without_copies(without_unread(without_zeros(einsums), asked), asked)
    axes = [a for i in inputs for a in i.axes] + list(builder.axis_of.values())
    ranks = Names(builder, axes, [i.axes for i in inputs])
    names = {v: variable_of(ranks.name(axis)) for v, axis in builder.axis_of.items()}
    sizes = ranks.sizes
    renamed = tuple(_renamed(e, ranks, names, sizes) for e in builder.einsums)
    targets = {e.name: e.target.indices for e in renamed}
    used = {rank_of(v) for e in renamed for v in (*e.variables, *e.output_variables)}
    used |= {
        n.name for e in renamed for n in (*walk(e.value), *walk(e.where or Num(0))) if isinstance(n, Size)
    }
    used |= {ranks.name(a) for i in inputs for a in i.axes}
    cascade = Cascade(
        name=name,
        ranks=ranks.declared(used),
        inputs=tuple(Signature(i.name, tuple(map(ranks.name, i.axes))) for i in inputs),
        outputs=tuple(
            Signature(t, tuple(rank_of(getattr(i, "name", "")) for i in targets[t])) for t in asked
        ),
        body=renamed,
    )
    return cascade, {n: size for n, size in ranks.extents().items() if n in cascade.rank_names}


def _needed(einsums: Sequence[Einsum], asked: Sequence[str]) -> list[Einsum]:
    """Return the Einsums that results depend on: not the rows that were overwritten later."""
    wanted = set(asked)
    kept: list[Einsum] = []
    for einsum in reversed(einsums):
        if einsum.name in wanted:
            kept.append(einsum)
            wanted |= {a.tensor for a in einsum.reads}
    return kept[::-1]


def _element(value: Value, at: tuple[Expr, ...]) -> Expr:
    return number(value.element(at))


def _read_of(value: Value) -> str:
    found = value.element(tuple(Num(0) for _ in value.sizes))
    assert isinstance(found, Access)
    return found.tensor


def _shorten(builder: Builder, asked: list[str]) -> None:
    """Drop an output that only repeats the tensor before it: `O[p, f] = AV[p, f]` is AV."""
    for i, name in enumerate(asked):
        einsum = next(e for e in builder.einsums if e.name == name)
        value = einsum.value
        inner = next(
            (e for e in builder.einsums if isinstance(value, Access) and e.name == value.tensor), None
        )
        if inner is None or not isinstance(value, Access) or einsum.reductions or einsum.where is not None:
            continue
        if value.indices != einsum.target.indices or inner.name in asked:
            continue
        if builder.lengths[inner.name] != builder.lengths[name]:
            continue  # the first part of it: `(a @ b)[:, :2]`
        builder.einsums.remove(einsum)
        asked[i] = inner.name


def _renamed(einsum: Einsum, ranks: Names, names: dict[str, str], sizes: dict[str, str]) -> Einsum:
    """Return an Einsum with the final names of its variables and sizes."""

    def shorter(node: Expr) -> Expr:
        """Return x for `(x*N + n) // N` and n for `(x*N + n) % N`, as reshapes one after the other leave them.

        And `c - 1` for the place `c - 4 + 3`, as cuts do.
        """
        match node:
            case Apply(
                ("//" | "%") as op, (Apply("+", (Apply("*", (x, Size(a))), Var(v) as inner)), Size(b))
            ) if ranks.meant(a) == ranks.meant(b) == ranks.meant(rank_of(v)):
                return x if op == "//" else inner
            case Apply(("+" | "-") as op, (Apply(("+" | "-") as first, (x, Num(a))), Num(b))) if not accesses(
                x
            ):
                return plus(x, (a if first == "+" else -a) + (b if op == "+" else -b))
        return node

    def new(node: Expr) -> Expr:
        return transform(rename(node, names, sizes), shorter)

    target = new(einsum.target)
    assert isinstance(target, Access)
    reductions = tuple(
        Reduction(r.op, tuple(names[v] for v in r.variables), None if r.into is None else names[r.into])
        for r in einsum.reductions
    )
    return Einsum(target, new(einsum.value), reductions, None if einsum.where is None else new(einsum.where))
