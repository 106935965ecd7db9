"""The part of a cascade on which its outputs depend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..cascade import Cascade
from ..declarations import Iterate
from ..einsum import Einsum


def without_unused(cascade: Cascade) -> Cascade:
    """Return a cascade without the Einsums on which no output depends."""
    needed = with_sources(cascade, (s.tensor for s in cascade.outputs))
    body: list[Einsum | Iterate] = []
    for item in cascade.body:
        if isinstance(item, Iterate):
            kept = tuple(e for e in item.einsums if e.name in needed)
            if kept:
                body.append(replace(item, einsums=kept))
        elif item.name in needed:
            body.append(item)
    return replace(cascade, body=tuple(body)) if len(needed) < len(cascade.signatures) else cascade


def with_sources(cascade: Cascade, names: Iterable[str]) -> frozenset[str]:
    """Return some tensors and all on which they depend, inputs included."""
    reads: dict[str, frozenset[str]] = {}
    for einsum, _ in cascade.statements:
        reads[einsum.name] = reads.get(einsum.name, frozenset()) | einsum.sources
    found = set(names)
    open_names = list(found)
    while open_names:
        fresh = reads.get(open_names.pop(), frozenset()) - found
        found |= fresh
        open_names += fresh
    return frozenset(found)
