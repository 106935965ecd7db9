"""The accesses of an Einsum as operands: how indices move with variables, and what a state finds where it was left."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Apply, Expr, Num, Size, Var, variables

from ..identity import remembered
from .nest import Dimension, Operand


def _reads(einsum: Einsum) -> list[tuple[str, tuple[Expr, ...]]]:
    """Return the tensors that an Einsum reads and the indices, each pair once."""
    return list(dict.fromkeys((a.tensor, a.indices) for a in einsum.reads))


@remembered(maxsize=4096)
def operands_of(einsum: Einsum) -> tuple[Operand, ...]:
    """Return the accesses of an Einsum as operands, each once, not yet placed."""
    reads = _reads(einsum)
    found = [Operand(tensor, _dimensions(indices), ()) for tensor, indices in reads]
    whole = tuple(rank_of(r.into) for r in einsum.reductions if r.into)
    return (*found, Operand(einsum.name, _dimensions(einsum.target.indices), (), output=True, whole=whole))


@remembered(maxsize=4096)
def operands_in(cascade: Cascade, einsum: Einsum) -> tuple[Operand, ...]:
    """Return the operands of an Einsum that know how many elements a tensor has where they gather from it.

    And those that read one tensor at several places, X[e, p] * X[e, m], which the places are: both tiles are held.
    """
    found = [_bounded(o, cascade.signatures[o.tensor].ranks) for o in operands_of(einsum)]
    reads = _reads(einsum)
    places = places_of(einsum)
    for i, (tensor, indices) in enumerate(reads):
        at = {p for o, p in zip(found[:-1], places, strict=False) if o.tensor == tensor}
        if len(at) > 1 and tensor not in cascade.states:  # one generation after another lies in one place
            found[i] = _apart(found[i], indices, places[i], at, cascade.signatures[tensor].ranks)
    return tuple(found)


@remembered(maxsize=4096)
def places_of(einsum: Einsum) -> tuple[tuple[Hashable, ...], ...]:
    """Return where each operand of an Einsum lies in its tensor, index by index, in the order of `operands_of`."""
    reads = _reads(einsum)
    return tuple(tuple(map(_place, indices)) for indices in (*(i for _, i in reads), einsum.target.indices))


def _place(index: Expr) -> Hashable:
    """Return what tells an index from that of another access; a shift by a constant does not, most of it is shared."""
    terms = _affine(index)
    return tuple(terms.items()) if terms else index


def _apart(
    operand: Operand,
    indices: Sequence[Expr],
    place: tuple[Hashable, ...],
    places: Iterable[tuple[Hashable, ...]],
    ranks: Sequence[str],
) -> Operand:
    """Return an operand that knows in which indices the places differ at which its Einsum reads the tensor."""
    at = [i for i, keys in enumerate(zip(*places, strict=True)) if len(set(keys)) > 1]
    own = _dimensions([index for i, index in enumerate(indices) if i not in at])
    return replace(
        operand,
        place=place,
        differs=tuple(d for d in operand.dimensions if d not in own),
        rest=tuple(ranks[i] for i in at),
    )


def _bounded(operand: Operand, ranks: Sequence[str]) -> Operand:
    if not any(d.gathers for d in operand.dimensions):
        return operand
    found = (replace(d, within=tuple(ranks[i] for i in d.gathers)) for d in operand.dimensions)
    return replace(operand, dimensions=tuple(found))


def with_generations(
    cascade: Cascade,
    einsum: Einsum,
    operands: Iterable[Operand],
    common: Iterable[str],
    keeps: Callable[[str, str, str], bool],
) -> tuple[Operand, ...]:
    """Return operands that know where the generation of a state that they read was left by the one before.

    Args:
        cascade: the algorithm.
        einsum: the reader.
        operands: its accesses.
        common: memories of the whole chip.
        keeps: tells whether a memory keeps a tensor while an Einsum runs.
    """
    block = cascade.block_of(einsum.name)
    before = {a.tensor for a in einsum.reads if a.tensor in cascade.states and cascade.reads_previous(a)}
    out = []
    for o in operands:
        if block and not o.output and o.tensor in before and cascade.block_of(o.tensor) == block:
            left = tuple(m for m in common if keeps(m, o.tensor, o.tensor))
            o = replace(o, generation=block, carried=left)
        out.append(o)
    return tuple(out)


def _dimensions(indices: Sequence[Expr]) -> tuple[Dimension, ...]:
    found = [(index, _affine(index)) for index in indices]
    plain = [Dimension(tuple(terms.items())) for _, terms in found if terms]
    told = {v for d in plain if len(d.terms) == 1 for v, _ in d.terms}
    # A gather or a quotient shows at most one element for all values of its variables; those that another index tells
    # apart, or another gather, show no more.
    at = tuple(i for i, (_, terms) in enumerate(found) if terms is None)
    gathered = dict.fromkeys(v for i in at for v in variables(indices[i]) if v not in told)
    return (*plain, Dimension(tuple((v, 1) for v in gathered), at)) if gathered else tuple(plain)


def _affine(index: Expr) -> dict[str, int | Expr] | None:
    """Return the strides of an index by variable, or None where it is not a sum of strided variables."""
    if isinstance(index, Var):
        return {index.name: 1}
    if isinstance(index, (Num, Size)):
        return {}
    if isinstance(index, Access) or not isinstance(index, Apply):
        return None
    parts = [_affine(a) for a in index.args]
    if any(p is None for p in parts):
        return None
    found = [p for p in parts if p]
    if index.op in ("+", "-", "neg"):
        merged = {v: stride for p in found for v, stride in p.items()}
        return merged if len(merged) == sum(map(len, found)) else None
    if index.op == "*" and len(found) <= 1:
        factor = next((a for a, p in zip(index.args, parts, strict=True) if not p), None)
        if factor is None:
            return None
        return {
            v: factor if stride == 1 else _times(factor, stride) for p in found for v, stride in p.items()
        }
    return {} if not found else None


def _times(factor: Expr, stride: int | Expr) -> Expr:
    return Apply("*", (factor, Num(stride) if isinstance(stride, int) else stride))
