"""Rule online, where a later Einsum needs the elements in one piece: the reductions run on copies of them."""

from __future__ import annotations

from dataclasses import replace

from ..analysis.needed import without_unused
from ..cascade import Cascade, fresh_name
from ..declarations import Iterate
from ..einsum import Einsum
from ..expr import Access, Expr, transform
from .elements import along, is_flat
from .online import online
from .plan import Obstacle
from .separate import Rewritten


def online_apart(
    cascade: Cascade, rank: str, settled: frozenset[str] = frozenset()
) -> Rewritten | list[Obstacle]:
    """Return the cascade in which the reductions run online by themselves, and the rest stays as it is written.

    `topk` over a rank finds places in the whole of it, so a cascade that asks for some is not split. What its
    reductions need is computed twice instead: in the block, and where it is needed after it.

    Args:
        settled: Einsums that are taken as given.
    """
    if not is_flat(cascade, settled):
        return [Obstacle(cascade.name, "it has an iterate block already")]
    seen = along(cascade, rank, settled)
    late = _after_places(cascade) | settled
    early = [e for e in cascade.einsums if e.name not in late]
    carried = {e.name for e in early if e.name in seen.whole}
    copies: dict[str, str] = {}
    for e in early:
        if seen.streams(e.name):
            copies[e.name] = fresh_name(cascade, f"B{e.name}", copies.values())
    if not carried or len(early) + len(settled) == len(cascade.einsums):
        return [Obstacle(cascade.name, "no reduction can be taken apart from the rest")]
    names = {e.name for e in early} | settled
    body = tuple(_copied(item, copies) for item in cascade.body if _names(item) <= names)
    outputs = tuple(cascade.signatures[e.name] for e in early if e.name in carried)
    found = online(without_unused(replace(cascade, outputs=outputs, body=body)), rank, settled)
    if not isinstance(found, Rewritten):
        return found
    made = {e.name for e, _ in found.cascade.statements}
    rest = tuple(item for item in cascade.body if not _names(item) <= made)
    whole = replace(found.cascade, outputs=cascade.outputs, body=(*found.cascade.body, *rest))
    why = f"{found.why}; what is needed in one piece is computed once more"
    return replace(found, why=why, cascade=without_unused(whole))


def _after_places(cascade: Cascade) -> frozenset[str]:
    """Return the Einsums that find places, and all that depend on them."""
    found: set[str] = set()
    open_names = [e.name for e in cascade.einsums if any(r.op in ("topk", "argmax") for r in e.reductions)]
    while open_names:
        name = open_names.pop()
        if name not in found:
            found.add(name)
            open_names += [e.name for e in cascade.readers.get(name, ())]
    return frozenset(found)


def _names(item: Einsum | Iterate) -> set[str]:
    return {e.name for e in item.einsums} if isinstance(item, Iterate) else {item.name}


def _copied(item: Einsum | Iterate, copies: dict[str, str]) -> Einsum | Iterate:
    if isinstance(item, Iterate):
        return item

    def change(node: Expr) -> Expr:
        if isinstance(node, Access) and node.tensor in copies:
            return replace(node, tensor=copies[node.tensor])
        return node

    where = None if item.where is None else transform(item.where, change)
    target = replace(item.target, tensor=copies.get(item.name, item.name))
    return Einsum(target, transform(item.value, change), item.reductions, where)
