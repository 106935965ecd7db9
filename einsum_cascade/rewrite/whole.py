"""Give the outputs of a cascade whose rank was split their axes back: Y[D, T] for Y[D1, D0, T]."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from ..cascade import Cascade, fresh_name
from ..declarations import Iterate, Signature, variable_of
from ..einsum import Einsum, Reduction
from ..expr import Access, Apply, Expr, Size, Var, substitute, transform, variables


@dataclass(frozen=True, slots=True)
class _Split:
    """A rank and its two parts, as variables and as ranks."""

    rank: str
    outer: str
    inner: str

    @property
    def parts(self) -> tuple[Var, Var]:
        return Var(variable_of(self.outer)), Var(variable_of(self.inner))

    @property
    def whole(self) -> Var:
        return Var(variable_of(self.rank))

    @property
    def offset(self) -> Expr:
        outer, inner = self.parts
        return Apply("+", (Apply("*", (outer, Size(self.inner))), inner))

    @property
    def digits(self) -> dict[str, Expr]:
        """The parts in terms of the whole."""
        outer, inner = self.parts
        size = Size(self.inner)
        return {outer.name: Apply("//", (self.whole, size)), inner.name: Apply("%", (self.whole, size))}

    def axis_of(self, ranks: tuple[str, ...]) -> int | None:
        """Return where the two parts stand side by side, or None."""
        pairs = list(itertools.pairwise(ranks))
        return pairs.index((self.outer, self.inner)) if (self.outer, self.inner) in pairs else None


def with_signature_of(original: Cascade, reduced: Cascade, rank: str) -> Cascade:
    """Return the reduced cascade with outputs of the shapes that the original's have.

    Einsums outside of the iterate block that run over both parts of the rank run over the rank itself. An output that
    the block makes, or that reads by the parts what the block makes, is laid out by an Einsum of its own.

    Args:
        rank: the rank that a rewrite may have split.
    """
    asked = {s.tensor: s.ranks for s in original.outputs}
    if all(s.ranks == asked.get(s.tensor) for s in reduced.outputs):
        return reduced
    parts = reduced.splits.get(rank, ())
    if len(parts) != 2:
        return reduced
    split = _Split(rank, *parts)
    as_asked = {s.tensor for s in reduced.outputs if s.ranks == asked.get(s.tensor)}
    merged = _merged(reduced, split, as_asked)
    reduced = _laid_out(reduced, asked, split, merged)
    signatures = {n: _merged_ranks(reduced.signatures[n].ranks, split) for n in merged}
    body = tuple(_item(reduced, item, split, merged) for item in reduced.body)
    outputs = tuple(Signature(s.tensor, signatures.get(s.tensor, s.ranks)) for s in reduced.outputs)
    return replace(reduced, body=body, outputs=outputs)


def _merged(cascade: Cascade, split: _Split, as_asked: set[str]) -> set[str]:
    """Return the Einsums that may run over the rank itself: outside of blocks, and reading nothing by the two parts."""
    flat = [e for e, block in cascade.statements if block is None and e.name not in as_asked]
    found = {e.name: e for e in flat if _mergeable(cascade, e, split)}
    while True:
        names = {v.name for v in split.parts}
        left = {
            n: e
            for n, e in found.items()
            if not any(
                split.axis_of(cascade.signatures[a.tensor].ranks) is not None
                and names & {v for i in a.indices for v in variables(i)}
                for a in e.reads
                if a.tensor not in found
            )
        }
        if len(left) == len(found):
            return set(found)
        found = left


def _laid_out(
    reduced: Cascade, asked: dict[str, tuple[str, ...]], split: _Split, merged: set[str]
) -> Cascade:
    """Return a cascade in which what cannot run over the rank gets another name, and is laid out by an Einsum."""
    names: dict[str, str] = {}
    more = []
    for s in reduced.outputs:
        axis = split.axis_of(s.ranks)
        if axis is None or s.tensor in merged or s.ranks == asked.get(s.tensor):
            continue
        names[s.tensor] = fresh_name(reduced, s.tensor + "B", names.values())
        ranks = _merged_ranks(s.ranks, split)
        indices = [Var(variable_of(r)) for r in s.ranks]
        reads = tuple(split.digits.get(i.name, i) for i in indices)
        target = Access(s.tensor, tuple(Var(variable_of(r)) for r in ranks))
        more.append(Einsum(target, Access(names[s.tensor], reads)))
    if not names:
        return reduced

    def renamed(node: Expr) -> Expr:
        if isinstance(node, Access) and node.tensor in names:
            return replace(node, tensor=names[node.tensor])
        return node

    def change(e: Einsum) -> Einsum:
        target = renamed(e.target)
        assert isinstance(target, Access)
        where = None if e.where is None else transform(e.where, renamed)
        return Einsum(target, transform(e.value, renamed), e.reductions, where)

    body = [
        replace(item, einsums=tuple(map(change, item.einsums))) if isinstance(item, Iterate) else change(item)
        for item in reduced.body
    ]
    outputs = tuple(
        replace(s, ranks=_merged_ranks(s.ranks, split)) if s.tensor in names else s for s in reduced.outputs
    )
    return replace(reduced, body=(*body, *more), outputs=outputs)


def _mergeable(cascade: Cascade, einsum: Einsum, split: _Split) -> bool:
    """Tell whether an Einsum runs over both parts, side by side in what it defines, or reduces both at once."""
    names = tuple(v.name for v in split.parts)
    if einsum.name in cascade.states or split.whole.name in einsum.variables:
        return False
    if set(names) <= set(einsum.output_variables):
        return split.axis_of(cascade.signatures[einsum.name].ranks) is not None
    together = [r for r in einsum.all_reductions if set(names) & set(r.variables)]
    return set(names) <= set(einsum.reduced) and len(together) == 1


def _merged_ranks(ranks: tuple[str, ...], split: _Split) -> tuple[str, ...]:
    axis = split.axis_of(ranks)
    return ranks if axis is None else (*ranks[:axis], split.rank, *ranks[axis + 2 :])


def _item(cascade: Cascade, item: Einsum | Iterate, split: _Split, merged: set[str]) -> Einsum | Iterate:
    if isinstance(item, Iterate):
        return replace(item, einsums=tuple(_rewritten(cascade, e, split, merged) for e in item.einsums))
    return _rewritten(cascade, item, split, merged)


def _rewritten(cascade: Cascade, einsum: Einsum, split: _Split, merged: set[str]) -> Einsum:
    """Return an Einsum that reads, and where it can runs over, the rank itself."""
    axes = {n: split.axis_of(cascade.signatures[n].ranks) for n in merged}

    def access(node: Expr) -> Expr:
        axis = axes.get(node.tensor) if isinstance(node, Access) else None
        if axis is None or not isinstance(node, Access):
            return node
        outer, inner = node.indices[axis : axis + 2]
        index = Apply("+", (Apply("*", (outer, Size(split.inner))), inner))
        return replace(node, indices=(*node.indices[:axis], index, *node.indices[axis + 2 :]))

    def whole(node: Expr) -> Expr:
        found = transform(node, access)
        if einsum.name not in merged:
            return found
        return substitute(transform(found, lambda n: split.whole if n == split.offset else n), split.digits)

    if not any(a.tensor in merged for a in (einsum.target, *einsum.reads)) and einsum.name not in merged:
        return einsum
    target = whole(einsum.target)
    assert isinstance(target, Access)
    where = None if einsum.where is None else whole(einsum.where)
    reductions = einsum.reductions
    if einsum.name in merged:
        reductions = tuple(_reduction(r, split) for r in reductions)
    return Einsum(target, whole(einsum.value), reductions, where)


def _reduction(r: Reduction, split: _Split) -> Reduction:
    outer, inner = (v.name for v in split.parts)
    names = tuple(split.whole.name if v == outer else v for v in r.variables if v != inner)
    return replace(r, variables=names) if outer in r.variables else r
