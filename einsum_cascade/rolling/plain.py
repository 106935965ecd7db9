"""Cascades made plainer: without axes of one element, and without tensors that only the next one reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ..cascade import Cascade
from ..declarations import Iterate, Rank, Signature, free_name, rank_of, variable_of
from ..einsum import Einsum, is_map, places_of
from ..expr import Access, Apply, Expr, Num, Size, Var, accesses, substitute, swapped, transform, walk

# Of one element they are that element.
_OF_ONE = ("sum", "prod", "max", "min")


def without_unit_axes(cascade: Cascade, sizes: Mapping[str, int]) -> Cascade:
    """Return a cascade whose own tensors have no axes of one element: `x[t:t+1]` becomes `x[t]`.

    Inputs and outputs keep theirs, read and written at 0.
    """
    shown = {r for s in (*cascade.inputs, *cascade.outputs) for r in s.ranks}
    unit = {r for r in cascade.rank_names if sizes.get(r) == 1 and r not in shown}
    if not unit or any(isinstance(item, Iterate) for item in cascade.body):
        return cascade
    asked = {s.tensor for s in cascade.outputs}
    values: dict[str, Expr] = {variable_of(r): Num(0) for r in unit}
    kept = {
        e.name: [i for i, r in enumerate(cascade.signatures[e.name].ranks) if r not in unit]
        for e, _ in cascade.statements
        if e.name not in asked
    }

    def change(node: Expr) -> Expr:
        if isinstance(node, Access) and node.tensor in kept:
            return replace(node, indices=tuple(node.indices[i] for i in kept[node.tensor]))
        return _folded(node)

    def plain(node: Expr) -> Expr:
        return transform(substitute(node, values), change)

    body = []
    for e in (item for item in cascade.body if isinstance(item, Einsum)):
        if any(set(r.variables) & set(values) and r.op not in _OF_ONE for r in e.reductions):
            return cascade
        target = plain(e.target)
        assert isinstance(target, Access)
        where = None if e.where is None else plain(e.where)
        left = (replace(r, variables=tuple(v for v in r.variables if v not in values)) for r in e.reductions)
        reductions = tuple(r for r in left if r.variables)
        body.append(Einsum(target, plain(e.value), reductions, where))
    return replace(cascade, ranks=tuple(r for r in cascade.ranks if r.name not in unit), body=tuple(body))


def with_rank_named(cascade: Cascade, old: str, new: str) -> Cascade:
    """Return a cascade with another name for a rank and its variable, or itself where the name is taken."""
    if new in {*cascade.rank_names, *cascade.signatures, *(c.name for c in cascade.constants)}:
        return cascade
    before, after = variable_of(old), variable_of(new)

    def change(node: Expr) -> Expr:
        if isinstance(node, Size) and node.name == old:
            return Size(new)
        return Var(after) if node == Var(before) else node

    def signed(s: Signature) -> Signature:
        return replace(s, ranks=tuple(new if r == old else r for r in s.ranks))

    return replace(
        cascade,
        ranks=tuple(
            Rank(new if r.name == old else r.name, None if r.size is None else transform(r.size, change))
            for r in cascade.ranks
        ),
        inputs=tuple(map(signed, cascade.inputs)),
        outputs=tuple(map(signed, cascade.outputs)),
        body=tuple(
            replace(item, variable=after) if isinstance(item, Iterate) and item.variable == before else item
            for item in in_every(cascade.body, lambda node: transform(node, change))
        ),
    )


def with_plain_names(cascade: Cascade) -> Cascade:
    """Return a cascade whose outputs are O (or O0, O1, ...), and whose other tensors are numbered without gaps."""
    taken = {s.tensor for s in cascade.inputs} | set(cascade.rank_names) | {c.name for c in cascade.constants}
    names: dict[str, str] = {}

    def named(tensor: str, wanted: str) -> None:
        names[tensor] = free_name(wanted, taken)
        taken.add(names[tensor])

    several = len(cascade.outputs) > 1
    for i, s in enumerate(cascade.outputs):
        named(s.tensor, f"O{i}" if several else "O")
    for einsum, _ in cascade.statements:
        if einsum.name not in names:
            named(einsum.name, einsum.name.rstrip("0123456789_") or einsum.name)

    def change(node: Expr) -> Expr:
        known = isinstance(node, Access) and node.tensor in names
        return replace(node, tensor=names[node.tensor]) if known and isinstance(node, Access) else node

    return replace(
        cascade,
        outputs=tuple(replace(s, tensor=names[s.tensor]) for s in cascade.outputs),
        body=in_every(cascade.body, lambda node: transform(node, change)),
    )


def in_every(
    body: tuple[Einsum | Iterate, ...], change: Callable[[Expr], Expr]
) -> tuple[Einsum | Iterate, ...]:
    """Return a body with every expression of every Einsum changed."""
    return tuple(
        replace(item, einsums=tuple(changed(e, change) for e in item.einsums))
        if isinstance(item, Iterate)
        else changed(item, change)
        for item in body
    )


def with_each(
    body: tuple[Einsum | Iterate, ...], change: Callable[[Einsum, str | None], Iterable[Einsum]]
) -> tuple[Einsum | Iterate, ...]:
    """Return a body with some Einsums, or none, in the place of each; blocks that are left without any are gone.

    Args:
        change: is told the variable of the block that an Einsum stands in, or None.
    """
    found: list[Einsum | Iterate] = []
    for item in body:
        if not isinstance(item, Iterate):
            found += change(item, None)
        elif inside := tuple(part for e in item.einsums for part in change(e, item.variable)):
            found.append(replace(item, einsums=inside))
    return tuple(found)


def einsums_of(item: Einsum | Iterate) -> tuple[Einsum, ...]:
    """Return the Einsums of an item of a body."""
    return item.einsums if isinstance(item, Iterate) else (item,)


def _folded(node: Expr) -> Expr:
    """Return an index without the 0 that an axis of one element left in it."""
    if isinstance(node, Apply) and node.op == "+":
        a, b = node.args
        return b if a == Num(0) else a if b == Num(0) else node
    if isinstance(node, Apply) and node.op == "-" and node.args[0] == node.args[1]:
        return Num(0)
    return node


def inlined(cascade: Cascade) -> Cascade:
    """Return a cascade in which what one Einsum alone reads stands in it, where that makes no more work.

    That is where the reader walks no more than the tensor has, and where the tensor only copies another.
    """
    while True:
        found = _one_inlined(cascade)
        if found is None:
            return cascade
        cascade = found


def _one_inlined(cascade: Cascade) -> Cascade | None:
    asked = {s.tensor for s in cascade.outputs} | set(cascade.states)
    for einsum, block in cascade.statements:
        if einsum.name in asked or not is_map(einsum):
            continue
        reads = [(e, a) for e, _ in cascade.statements for a in e.reads if a.tensor == einsum.name]
        if len(reads) != 1 or cascade.block_of(reads[0][0].name) != block or reads[0][0].where is not None:
            continue
        reader, access = reads[0]
        copies = isinstance(einsum.value, Access)
        within = len(set(reader.variables)) <= len(set(einsum.output_variables))
        if not copies and not within:
            continue
        if any(isinstance(a, Access) for i in access.indices for a in accesses(i)):
            continue
        return _with_inlined(cascade, einsum, reader, access)
    return None


def _with_inlined(cascade: Cascade, einsum: Einsum, reader: Einsum, access: Access) -> Cascade:
    value = transform(substitute(einsum.value, places_of(einsum, access)), _folded)
    made = replace(reader, value=swapped(reader.value, access, value))

    def changed(items: tuple[Einsum, ...]) -> tuple[Einsum, ...]:
        return tuple(made if e is reader else e for e in items if e is not einsum)

    body = tuple(
        x
        for item in cascade.body
        for x in (
            (replace(item, einsums=changed(item.einsums)),) if isinstance(item, Iterate) else changed((item,))
        )
    )
    return replace(cascade, body=body)


def changed(einsum: Einsum, change: Callable[[Expr], Expr]) -> Einsum:
    """Return an Einsum with every expression changed, reduced variables as the expressions that they become."""
    target = change(einsum.target)
    assert isinstance(target, Access)
    names = {v: n.name for v in einsum.reduced if isinstance(n := change(Var(v)), Var)}
    return replace(
        einsum,
        target=target,
        value=change(einsum.value),
        where=None if einsum.where is None else change(einsum.where),
        reductions=tuple(
            replace(r, variables=tuple(names.get(v, v) for v in r.variables)) for r in einsum.reductions
        ),
    )


def without_copies(inside: list[Einsum], states: set[str], after: list[Einsum]) -> list[Einsum]:
    """Return the Einsums of a block in which what only one other copies goes by the name of the copy."""
    for copy in list(inside):
        source = copy.value
        if (
            not isinstance(source, Access)
            or copy.reductions
            or copy.where is not None
            or source.tensor in states
        ):
            continue
        readers = [e for e in (*inside, *after) if source.tensor in e.sources]
        made = next((e for e in inside if e.name == source.tensor), None)
        names = [i.name for i in source.indices if isinstance(i, Var)]
        if made is None or len(readers) > 1 or len(set(names)) < len(source.indices):
            continue
        if made.target.indices != source.indices:
            continue  # another order of the same: the variables of its sums might be taken
        at = inside.index(made)
        inside[at] = replace(made, target=copy.target)
        inside.remove(copy)
    return inside


def number_in(einsum: Einsum) -> Expr | None:
    """Return the number that a tensor is everywhere, or None: `U[p, f] = 0 + 0*p + 0*f` is 0."""
    value = einsum.value
    if einsum.all_reductions or einsum.where is not None:
        return None
    while isinstance(value, Apply) and value.op == "+" and _is_nothing(value.args[1]):
        value = value.args[0]
    if _is_nothing(value):  # 0 + 0*p, without the first of the two
        return Num(0)
    return value if all(isinstance(n, (Num, Apply)) for n in walk(value)) else None


def _is_nothing(node: Expr) -> bool:
    return (
        isinstance(node, Apply)
        and node.op == "*"
        and node.args[0] == Num(0)
        and isinstance(node.args[1], (Var, Num))  # a number where the axis is of one element
    )


def with_constants_first(cascade: Cascade) -> tuple[Cascade, int]:
    """Return a cascade that begins with its tensors of one number, each once, and how many of them there are.

    Wherever in its steps a function makes its zeros or ones, they are no part of a step.
    """
    asked = {s.tensor for s in cascade.outputs}
    einsums = [item for item in cascade.body if isinstance(item, Einsum)]
    made: dict[tuple[Expr, tuple[Expr, ...]], Einsum] = {}
    same: dict[str, str] = {}
    rest = []
    for e in einsums:
        number = None if e.name in asked else number_in(e)
        if number is None:
            rest.append(e)
        else:
            same[e.name] = made.setdefault((number, e.target.indices), e).name

    def change(node: Expr) -> Expr:
        known = isinstance(node, Access) and node.tensor in same
        return replace(node, tensor=same[node.tensor]) if known and isinstance(node, Access) else node

    plain = (changed(e, lambda node: transform(node, change)) for e in rest)
    return replace(cascade, body=(*made.values(), *plain)), len(made)


def without_constants(cascade: Cascade) -> Cascade:
    """Return a cascade in which a tensor of one number is that number where it is read."""
    asked = {s.tensor for s in cascade.outputs} | set(cascade.states)
    known = {e.name: n for e, _ in cascade.statements if e.name not in asked and (n := number_in(e))}
    if not known:
        return cascade

    def kept(einsum: Einsum, _: str | None) -> Iterable[Einsum]:
        if einsum.name not in known:
            yield changed(einsum, lambda node: transform(node, change))

    def change(node: Expr) -> Expr:
        return known.get(node.tensor, node) if isinstance(node, Access) else node

    return replace(cascade, body=with_each(cascade.body, kept))


def without_unused(cascade: Cascade) -> Cascade:
    """Return the cascade without ranks that nothing walks and nothing is laid out by."""
    used = {r for s in (*cascade.inputs, *cascade.outputs) for r in s.ranks}
    for e, _ in cascade.statements:
        used |= {rank_of(v) for v in (*e.variables, *e.output_variables)}  # of a selection the places too
        for part in (e.target, e.value, *(() if e.where is None else (e.where,))):
            used |= {n.name for n in walk(part) if isinstance(n, Size)}
    kept: list[Rank] = []
    for r in reversed(cascade.ranks):
        if r.name in used:
            kept.append(r)
            used |= set() if r.size is None else {n.name for n in walk(r.size) if isinstance(n, Size)}
    return replace(cascade, ranks=tuple(reversed(kept)))
