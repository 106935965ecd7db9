"""Frozen expression nodes of a cascade, and the walks over them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

from .errors import CascadeError

Place: TypeAlias = tuple[int, int]

# Deeper than any formula a person writes, and shallow enough for every recursive walk over a legal tree.
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Num:
    """A number; a whole one is an int. `inf` is Num(math.inf)."""

    value: int | float
    at: Place | None = field(default=None, compare=False, repr=False, kw_only=True)
    depth: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a rank, or a named constant (`let`)."""

    name: str
    at: Place | None = field(default=None, compare=False, repr=False, kw_only=True)
    depth: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Var:
    """A rank variable; as a value it is the coordinate."""

    name: str
    at: Place | None = field(default=None, compare=False, repr=False, kw_only=True)
    depth: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Access:
    """One element of a tensor: `K[e, m1*M0 + m0]`; `T[]` is a scalar."""

    tensor: str
    indices: tuple[Expr, ...] = ()
    at: Place | None = field(default=None, compare=False, repr=False, kw_only=True)
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _bound_depth(self, self.indices)


@dataclass(frozen=True, slots=True)
class Apply:
    """A function or an operator of the table in ops.py, applied to its arguments."""

    op: str
    args: tuple[Expr, ...]
    at: Place | None = field(default=None, compare=False, repr=False, kw_only=True)
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _bound_depth(self, self.args)


@dataclass(frozen=True, slots=True)
class Compare:
    """A chain of comparisons: `0 <= p - m < W` has two operators and three operands."""

    ops: tuple[str, ...]
    args: tuple[Expr, ...]
    at: Place | None = field(default=None, compare=False, repr=False, kw_only=True)
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _bound_depth(self, self.args)


Expr: TypeAlias = Num | Size | Var | Access | Apply | Compare


def _bound_depth(node: Access | Apply | Compare, children: tuple[Expr, ...]) -> None:
    depth = 1 + max([c.depth for c in children]) if children else 1
    if depth > MAX_DEPTH:
        raise CascadeError(
            f"the expression nests more than {MAX_DEPTH} levels deep",
            at=node.at,
            hint="split it into several Einsums",
        )
    object.__setattr__(node, "depth", depth)


def children(node: Expr) -> tuple[Expr, ...]:
    """Return the direct parts of a node."""
    if isinstance(node, Access):
        return node.indices
    if isinstance(node, (Apply, Compare)):
        return node.args
    return ()


def walk(node: Expr) -> Iterator[Expr]:
    """Yield the node and everything below it, left to right, parents first."""
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        # As `children` has it; written out, for every analysis of every cascade comes through here.
        if isinstance(top, Access):
            stack += top.indices[::-1]
        elif isinstance(top, (Apply, Compare)):
            stack += top.args[::-1]


def accesses(node: Expr) -> tuple[Access, ...]:
    """Return every access in the expression, gathers inside indices included, in order of writing."""
    return tuple(n for n in walk(node) if isinstance(n, Access))


def variables(node: Expr) -> tuple[str, ...]:
    """Return the rank variables in the expression, each once, in order of writing.

    >>> variables(Apply("*", (Access("Q", (Var("e"), Var("p"))), Access("K", (Var("e"), Var("m"))))))
    ('e', 'p', 'm')
    """
    return tuple(dict.fromkeys(n.name for n in walk(node) if isinstance(n, Var)))


def index_variables(index: Expr) -> frozenset[str]:
    """Return the variables by which an index moves itself, those inside a gathered index tensor left out.

    >>> sorted(index_variables(Apply("+", (Access("J", (Var("p"),)), Var("w")))))
    ['w']
    """
    if isinstance(index, Var):
        return frozenset((index.name,))
    found: set[str] = set()
    stack: list[Expr] = [index]
    while stack:
        top = stack.pop()
        if isinstance(top, Var):
            found.add(top.name)
        elif not isinstance(top, Access):
            stack += children(top)
    return frozenset(found)


def rebuild(node: Expr, parts: tuple[Expr, ...]) -> Expr:
    """Return the node with other direct parts."""
    if isinstance(node, Access):
        return replace(node, indices=parts)
    if isinstance(node, (Apply, Compare)):
        return replace(node, args=parts)
    return node


def transform(node: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Return the expression with `change` applied to every node, parts before wholes."""
    parts = children(node)
    if parts:
        node = _with_parts(node, parts, tuple([transform(p, change) for p in parts]))
    return change(node)


def _with_parts(node: Expr, old: tuple[Expr, ...], new: tuple[Expr, ...]) -> Expr:
    """Return a node with other direct parts, itself where they are the same objects."""
    return node if all(map(operator.is_, old, new)) else rebuild(node, new)


def transform_bare(node: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Return the expression as `transform` does, an access that a `pad` guards left as it is but for its indices."""
    parts = children(node)
    if isinstance(node, Apply) and node.op == "pad":
        inner = children(parts[0])
        guarded = _with_parts(parts[0], inner, tuple([transform_bare(p, change) for p in inner]))
        node = _with_parts(node, parts, (guarded, *[transform_bare(p, change) for p in parts[1:]]))
    elif parts:
        node = _with_parts(node, parts, tuple([transform_bare(p, change) for p in parts]))
    return change(node)


def substitute(node: Expr, values: dict[str, Expr]) -> Expr:
    """Return the expression with rank variables replaced by expressions."""

    def change(n: Expr) -> Expr:
        return values.get(n.name, n) if isinstance(n, Var) else n

    return transform(node, change)


def plus(node: Expr, by: float) -> Expr:
    """Return an expression plus a number, its sign told by the operator; whole numbers in it are added up.

    >>> plus(Apply("-", (Apply("-", (Size("M"), Num(1))), Var("m"))), 1)
    Apply(op='-', args=(Size(name='M'), Var(name='m')))
    """
    match node:
        case Num(c):
            return Num(c + by)
        case Apply("+" | "-" as op, (x, Num(int(c)))) if isinstance(by, int):
            return plus(x, by + (c if op == "+" else -c))
        case Apply("-", (Apply("+" | "-", (_, Num(int()))) as first, y)) if isinstance(by, int):
            return Apply("-", (plus(first, by), y))
    if by == 0:
        return node
    return Apply("+" if by > 0 else "-", (node, Num(abs(by))))


def from_end(size: Expr, index: Expr) -> Expr:
    """Return the place that is as far from the end of a rank as an index is from its beginning: `M - 1 - m`."""
    return Apply("-", (Apply("-", (size, Num(1))), index))


def swapped(node: Expr, old: Expr, new: Expr) -> Expr:
    """Return an expression with one part of it replaced wherever it stands."""
    return transform(node, lambda part: new if part == old else part)


def is_logical(node: Expr) -> bool:
    """Tell whether the expression is true or false rather than a number."""
    return isinstance(node, Compare) or (isinstance(node, Apply) and node.op in ("and", "or", "not"))
