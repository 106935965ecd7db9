"""How an Einsum meets one rank: which of its variables walk the rank, and how each access follows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..cascade import Cascade
from ..declarations import rank_of
from ..einsum import Einsum
from ..errors import CascadeError, nearest
from ..expr import Access, Apply, Expr, Num, Var, accesses, variables, walk


@dataclass(frozen=True, slots=True)
class RankView:
    """One rank of a cascade, its components, and who may walk it.

    Attributes:
        rank: the rank that is looked at.
        components: the rank itself, or the parts of a split (M1, M0), down to ranks that are not split.
        wholes: ranks of which a component is a part (M for M0), and the rank itself.
        aliases: other names of a component: `rank S0 = T0` gives {"S0": "T0"}.
        splits: of the cascade.
    """

    rank: str
    components: tuple[str, ...]
    wholes: frozenset[str]
    aliases: tuple[tuple[str, str], ...]
    splits: Mapping[str, tuple[str, ...]]

    def covers(self, rank: str) -> frozenset[str]:
        """Return the components over which a variable of `rank` runs."""
        if rank not in self.splits:
            return frozenset((rank,)) if rank in self.components else frozenset()
        return frozenset(parts_of(rank, self.splits)) & frozenset(self.components)


def parts_of(rank: str, splits: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the unsplit ranks that a rank is made of.

    >>> parts_of("M", {"M": ("M2", "M10"), "M10": ("M1", "M0")})
    ('M2', 'M1', 'M0')
    """
    if rank not in splits:
        return (rank,)
    return tuple(p for part in splits[rank] for p in parts_of(part, splits))


def view(cascade: Cascade, rank: str) -> RankView:
    """Return how a cascade sees one of its ranks.

    Raises:
        CascadeError: the cascade has no such rank.
    """
    if rank not in cascade.rank_names:
        raise CascadeError(f"{cascade.name} has no rank {rank}", hint=nearest(rank, cascade.rank_names))
    splits = cascade.splits
    components = parts_of(rank, splits)
    wholes = {r for r in cascade.rank_names if set(parts_of(r, splits)) & set(components)}
    aliases = []
    for name, meant in cascade.aliases.items():
        # An alias of the whole walks every component.
        aliases += [(name, c) for c in parts_of(meant, splits) if c in components and name not in wholes]
    return RankView(rank, components, frozenset(wholes), tuple(aliases), splits)


def walkers(cascade: Cascade, einsum: Einsum, seen: RankView) -> dict[str, frozenset[str]]:
    """Return the variables of an Einsum that walk the rank, each with the components it covers.

    A variable of an alias takes the part of a component only where the component's own variable is absent and the
    alias indexes an axis of the rank itself: in `QK[m, p]` with `rank P = M` the rank M is walked by m alone.
    """
    found: dict[str, frozenset[str]] = {}
    for v in einsum.variables:
        covered = seen.covers(rank_of(v))
        if covered:
            found[v] = covered
    open_components = set(seen.components).difference(*found.values())
    for name, component in seen.aliases:
        if component not in open_components:
            continue
        for v in einsum.variables:
            if rank_of(v) == name and _indexes_rank(cascade, einsum, v, seen):
                found[v] = found.get(v, frozenset()) | {component}
    return found


def _indexes_rank(cascade: Cascade, einsum: Einsum, variable: str, seen: RankView) -> bool:
    for access in einsum.reads:
        signature = cascade.signatures[access.tensor]
        for rank, index in zip(signature.ranks, access.indices, strict=True):
            if rank in seen.wholes and variable in variables(index):
                return True
    return False


def index_variables(index: Expr) -> frozenset[str]:
    """Return the variables by which an index moves itself, those inside a gathered index tensor left out."""
    inside = {id(n) for a in accesses(index) for i in a.indices for n in walk(i)}
    return frozenset(n.name for n in walk(index) if isinstance(n, Var) and id(n) not in inside)


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
