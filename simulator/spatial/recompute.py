"""Einsums that a mapping computes more than once: the cascade with the copies written out."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import MappingError, nearest
from einsum_cascade.expr import Access, Expr, transform
from mappings.loopnest import Copy


def with_copies(cascade: Cascade, copies: Mapping[str, Copy], *, where: str = "mapping") -> Cascade:
    """Return an equal cascade in which some Einsums are computed again, each copy right before its first reader.

    Args:
        cascade: the algorithm.
        copies: by the name of the copy; one that another copy reads stands after that other.
        where: what stands before an error.

    Raises:
        MappingError: a name is unknown or taken, a copy has no readers, or an Einsum of an iterate block is copied.

    >>> from einsum_cascade import zoo
    >>> found = with_copies(zoo.load("attention_2pass"), {"QK_2": Copy("QK", ("SN",))})
    >>> [e.name for e in found.einsums]
    ['QK', 'GM', 'QK_2', 'SN', 'SD', 'SNV', 'AV']
    """
    if not copies:
        return cascade
    return _copied(cascade, tuple(copies.items()), where)


@functools.lru_cache(maxsize=64)
def _copied(cascade: Cascade, copies: tuple[tuple[str, Copy], ...], where: str) -> Cascade:
    body = list(cascade.body)
    originals = {e.name: e for e in body if isinstance(e, Einsum) and e.name not in cascade.states}
    for name, copy in copies:
        place = f"{where}: recompute.{name}"
        found = {e.name: (i, e) for i, e in enumerate(body) if isinstance(e, Einsum)}
        if copy.of not in originals:
            raise MappingError(
                f"{place}: '{copy.of}' is no Einsum outside an iterate block; {nearest(copy.of, originals)}"
            )
        if name in cascade.signatures or name in found:
            raise MappingError(f"{place}: the name {name} is taken")
        readers = [found[r][0] for r in copy.readers if r in found and _reads(found[r][1], copy.of)]
        if not readers or len(readers) < len(copy.readers):
            legal = [e.name for _, e in found.values() if _reads(e, copy.of)]
            shown = ", ".join(copy.readers) or "nobody"
            raise MappingError(f"{place}: readers: expected some of {', '.join(legal)}, found {shown}")
        for i in readers:
            body[i] = _redirected(body[i], copy.of, name)
        original = originals[copy.of]
        body.insert(min(readers), replace(original, target=replace(original.target, tensor=name)))
    return replace(cascade, body=tuple(body))


def _reads(einsum: Einsum, tensor: str) -> bool:
    return any(a.tensor == tensor for a in einsum.reads)


def _redirected(item: Einsum | Iterate, tensor: str, name: str) -> Einsum | Iterate:
    """Return an Einsum that reads the copy of a tensor."""

    def change(node: Expr) -> Expr:
        return replace(node, tensor=name) if isinstance(node, Access) and node.tensor == tensor else node

    assert isinstance(item, Einsum)
    condition = None if item.where is None else transform(item.where, change)
    return replace(item, value=transform(item.value, change), where=condition)
