"""The part of a cascade on which its outputs depend."""

from __future__ import annotations

from dataclasses import replace

from ..cascade import Cascade
from ..declarations import Iterate
from ..einsum import Einsum


def without_unused(cascade: Cascade) -> Cascade:
    """Return a cascade without the Einsums on which no output depends."""
    needed = {s.tensor for s in cascade.outputs}
    statements = list(cascade.statements)
    while True:
        more = {a.tensor for e, _ in statements if e.name in needed for a in e.reads}
        if more <= needed:
            break
        needed |= more
    body: list[Einsum | Iterate] = []
    for item in cascade.body:
        if isinstance(item, Iterate):
            kept = tuple(e for e in item.einsums if e.name in needed)
            if kept:
                body.append(replace(item, einsums=kept))
        elif item.name in needed:
            body.append(item)
    return replace(cascade, body=tuple(body))
