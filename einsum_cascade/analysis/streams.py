"""How an Einsum meets one rank: which of its variables walk the rank, and how each access follows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..cascade import Cascade
from ..declarations import variable_of
from ..einsum import Einsum
from ..errors import CascadeError, nearest
from ..expr import Access, Apply, Expr, Num, Var, variables, walk


@dataclass(frozen=True, slots=True)
class RankView:
    """One rank of a cascade, its components, and who may walk it.

    Attributes:
        rank: the rank that is looked at.
        components: the rank itself, or the parts of a split (M1, M0), down to ranks that are not split.
        wholes: ranks of which a component is a part (M for M0), and the rank itself.
        aliases: other names of a component: `rank S0 = T0` gives {"S0": "T0"}.
        walks: the components over which each variable of these ranks runs.
    """

    rank: str
    components: tuple[str, ...]
    wholes: frozenset[str]
    aliases: tuple[tuple[str, str], ...]
    walks: Mapping[str, frozenset[str]]


def view(cascade: Cascade, rank: str) -> RankView:
    """Return how a cascade sees one of its ranks.

    Raises:
        CascadeError: the cascade has no such rank.
    """
    if rank not in cascade.parts:
        raise CascadeError(f"{cascade.name} has no rank {rank}", hint=nearest(rank, cascade.rank_names))
    components = cascade.parts[rank]
    wholes = dict.fromkeys(w for c in components for w in cascade.wholes[c])
    # An alias of the whole walks every component.
    names = {(name, c): None for c in components for name in cascade.second_names.get(c, ())}
    aliases = tuple((name, c) for name, c in names if name not in wholes)
    inner = frozenset(components)
    walks = {variable_of(w): inner.intersection(cascade.parts[w]) for w in wholes}
    return RankView(rank, components, frozenset(wholes), aliases, walks)


def walkers(cascade: Cascade, einsum: Einsum, seen: RankView) -> dict[str, frozenset[str]]:
    """Return the variables of an Einsum that walk the rank, each with the components it covers.

    A variable of an alias takes the part of a component only where the component's own variable is absent and the
    alias indexes an axis of the rank itself: in `QK[m, p]` with `rank P = M` the rank M is walked by m alone.
    """
    found = {v: covered for v, covered in seen.walks.items() if v in einsum.places}
    if len(found) > 1:
        found = {v: found[v] for v in sorted(found, key=einsum.places.__getitem__)}
    if not seen.aliases:
        return found
    open_components = set(seen.components).difference(*found.values())
    for name, component in seen.aliases:
        v = variable_of(name)
        if component in open_components and v in einsum.places and _indexes_rank(cascade, einsum, v, seen):
            found[v] = found.get(v, frozenset()) | {component}
    return found


def _indexes_rank(cascade: Cascade, einsum: Einsum, variable: str, seen: RankView) -> bool:
    for access in einsum.reads:
        signature = cascade.signatures[access.tensor]
        for rank, index in zip(signature.ranks, access.indices, strict=True):
            if rank in seen.wholes and variable in variables(index):
                return True
    return False


def runs_backward(index: Expr, walking: frozenset[str]) -> bool:
    """Tell whether an index walks a rank from its end to its beginning, as `T - 1 - t` does.

    >>> runs_backward(Apply("-", (Num(9), Var("t"))), frozenset({"t"}))
    True
    """
    signs = _signs(index, walking, 1)
    return bool(signs) and signs == {-1}


def _signs(node: Expr, walking: frozenset[str], sign: int) -> set[int]:
    """Return the signs with which the walking variables enter an index."""
    if isinstance(node, Var):
        return {sign} if node.name in walking else set()
    if isinstance(node, Access) or not isinstance(node, Apply):
        return set()
    if node.op == "neg":
        return _signs(node.args[0], walking, -sign)
    if node.op == "-":
        return _signs(node.args[0], walking, sign) | _signs(node.args[1], walking, -sign)
    if node.op == "*":
        signs: set[int] = set()
        for a, b in (node.args, node.args[::-1]):
            negative = any(isinstance(n, Num) and n.value < 0 for n in walk(b)) or _is_negated(b)
            signs |= _signs(a, walking, -sign if negative else sign)
        return signs
    if node.op == "%":
        return {1, -1} if _signs(node.args[0], walking, sign) else set()
    return set().union(*(_signs(a, walking, sign) for a in node.args))


def _is_negated(node: Expr) -> bool:
    return isinstance(node, Apply) and node.op == "neg"
