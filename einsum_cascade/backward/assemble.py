"""The forward and the backward pass as one cascade, and what the forward pass has saved taken out of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ..analysis.needed import without_unused
from ..cascade import Cascade
from ..declarations import Signature, rank_of
from ..einsum import Einsum
from ..errors import CascadeError, nearest
from ..expr import Access, Expr, Size, transform, walk
from ..rolling.plain import in_every, with_each
from .walk import Backward


def assembled(cascade: Cascade, backward: Backward, given: dict[str, str], found: dict[str, str]) -> Cascade:
    """Return the forward pass and the backward pass as one cascade, without what no gradient needs."""

    def with_beside(einsum: Einsum, block: str | None) -> tuple[Einsum, ...]:
        first = cascade.is_initial(einsum, block)
        return (einsum, *(() if first else backward.beside.get(einsum.name, ())))

    seeds = [Signature(given[s.tensor], s.ranks) for s in cascade.outputs]
    whole = Cascade(
        name=f"{cascade.name}_gradients",
        summary=f"Gradients of {cascade.name}.",
        source=cascade.source,
        ranks=(*cascade.ranks, *backward.names.ranks),
        constants=cascade.constants,
        inputs=(*cascade.inputs, *seeds),
        outputs=tuple(Signature(d, tuple(map(rank_of, backward.own(t)))) for t, d in found.items()),
        body=(*with_each(cascade.body, with_beside), *backward.after),
    )
    return _tidied(without_unused(whole))


def with_plain_outputs(
    cascade: Cascade, found: dict[str, str], forward: Cascade
) -> tuple[Cascade, dict[str, str]]:
    """Return a cascade whose gradient to Q goes by the name DQ, where something made on the way has taken it.

    Args:
        found: of each input the name that its gradient has now.
        forward: the cascade whose gradients they are, all names of which stay.
    """
    taken = {s.tensor for s in cascade.inputs} | set(forward.signatures)
    names: dict[str, str] = {}
    for tensor, name in found.items():
        wanted = f"D{tensor}"
        if name != wanted and wanted not in taken and wanted in cascade.signatures:
            names |= {name: wanted, wanted: name}

    def renamed(node: Expr) -> Expr:
        return replace(node, tensor=names.get(node.tensor, node.tensor)) if isinstance(node, Access) else node

    if not names:
        return cascade, found
    outputs = tuple(replace(s, tensor=names.get(s.tensor, s.tensor)) for s in cascade.outputs)
    body = in_every(cascade.body, lambda node: transform(node, renamed))
    return replace(cascade, outputs=outputs, body=body), {t: names.get(n, n) for t, n in found.items()}


def _tidied(cascade: Cascade) -> Cascade:
    """Return a cascade without inputs that nothing reads, and without ranks that nothing names."""
    read = {t for e, _ in cascade.statements for t in e.sources}
    inputs = tuple(s for s in cascade.inputs if s.tensor in read)
    named = {r for s in (*inputs, *cascade.outputs) for r in s.ranks}
    roots = [e for e, _ in cascade.statements]
    for e in roots:
        named |= set(map(rank_of, e.variables))
        named |= {
            n.name
            for node in (e.target, e.value, e.where)
            if node is not None
            for n in walk(node)
            if isinstance(n, Size)
        }
        named |= {rank_of(r.into) for r in e.reductions if r.into}
    constants = {c.name: c.value for c in cascade.constants}
    sizes = {r.name: r.size for r in cascade.ranks if r.size is not None}
    while True:
        more = {
            n.name
            for name in named
            for v in (constants.get(name), sizes.get(name))
            if v is not None
            for n in walk(v)
            if isinstance(n, Size)
        }
        # A split keeps the rank that it splits: sizes may be given by either.
        more |= {w for w, parts in cascade.splits.items() if set(parts) <= named}
        if more <= named:
            break
        named |= more
    return replace(
        cascade,
        inputs=inputs,
        ranks=tuple(r for r in cascade.ranks if r.name in named),
        constants=tuple(c for c in cascade.constants if c.name in named),
    )


def kept(cascade: Cascade, made: Cascade, saved: Collection[str] | str) -> tuple[str, ...]:
    """Return the tensors of the forward pass that are saved, in order."""
    mine = [n for n in made.signatures if made.defines(n) and cascade.defines(n) and n not in made.states]
    if saved == "small":
        shapes = [set(_parts(cascade, s.ranks)) for s in (*cascade.inputs, *cascade.outputs)]
        return tuple(
            n
            for n in mine
            if any(set(_parts(cascade, cascade.signatures[n].ranks)) <= shape for shape in shapes)
        )
    names = [saved] if isinstance(saved, str) else list(saved)
    for name in names:
        if name in cascade.states:
            raise CascadeError(f"{name} is a state and cannot be saved; save what is made of it")
        if not cascade.defines(name):
            defined = [e.name for e in cascade.einsums]
            raise CascadeError(f"{cascade.name} computes no {name}", hint=nearest(name, defined))
    return tuple(n for n in mine if n in names)


def _parts(cascade: Cascade, ranks: Sequence[str]) -> list[str]:
    return [cascade.aliases.get(p, p) for r in ranks for p in cascade.parts[r]]


def with_saved(made: Cascade, saved: tuple[str, ...]) -> Cascade:
    """Return a cascade to which some of its tensors are inputs."""
    if not saved:
        return made

    def computed(einsum: Einsum, _: str | None) -> tuple[Einsum, ...]:
        return () if einsum.name in saved else (einsum,)

    inputs = (*made.inputs, *(Signature(n, made.signatures[n].ranks) for n in saved))
    return _tidied(without_unused(replace(made, inputs=inputs, body=with_each(made.body, computed))))
