"""Expressions as sums of products in which every product holds at most one of some accesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...einsum import factors
from ...errors import CascadeError
from ...expr import Access, Apply, Expr, Num, variables, walk

Wanted = Callable[[Access], bool]


class NotLinearError(CascadeError):
    """A wanted access stands under a function, in a denominator, or is multiplied by another."""


@dataclass(frozen=True)
class Product:
    """Factors that are multiplied, others by which is divided, and a sign."""

    above: tuple[Expr, ...] = ()
    below: tuple[Expr, ...] = ()
    negative: bool = False

    @property
    def variables(self) -> frozenset[str]:
        """Rank variables of all factors."""
        return frozenset(v for part in (*self.above, *self.below) for v in variables(part))

    @property
    def value(self) -> Expr:
        """The product as an expression, without its sign."""
        out: Expr = self.above[0] if self.above else Num(1)
        for part in self.above[1:]:
            out = Apply("*", (out, part))
        for part in self.below:
            out = Apply("/", (out, part))
        return out

    @property
    def negated(self) -> Product:
        """The product with the other sign."""
        return replace(self, negative=not self.negative)

    @property
    def unsigned(self) -> Product:
        """The product without its sign."""
        return replace(self, negative=False)

    @property
    def is_one(self) -> bool:
        """Whether there are no factors."""
        return not self.above and not self.below

    def times(self, other: Product) -> Product:
        """Return the product of two."""
        return Product(
            self.above + other.above, self.below + other.below, self.negative != other.negative
        ).plain()

    def plain(self) -> Product:
        """Return the same without factors of one."""
        above = tuple(f for f in self.above if f != Num(1))
        return replace(self, above=above)

    def map(self, change: Callable[[Expr], Expr]) -> Product:
        """Return the product with every factor changed."""
        return Product(tuple(map(change, self.above)), tuple(map(change, self.below)), self.negative)

    def map_above(self, change: Callable[[Expr], tuple[Expr, ...]]) -> Product:
        """Return the product with every factor that multiplies replaced by some."""
        return replace(self, above=tuple(new for f in self.above for new in change(f)))

    def without(self, factor: Expr) -> Product:
        """Return the product without one of its factors."""
        at = self.above.index(factor)
        return replace(self, above=self.above[:at] + self.above[at + 1 :])

    def shares_work(self, space: frozenset[str]) -> bool:
        """Tell whether several elements of a space would work out the same function of the product."""
        work = any(
            isinstance(n, Apply) and n.op not in ("+", "-")
            for f in (*self.above, *self.below)
            for n in walk(f)
            if not isinstance(f, Access)
        )
        return work and bool(space - self.variables)

    def split(self, belongs: Callable[[Expr], bool]) -> tuple[Product, Product]:
        """Return the factors that belong, and the others with the sign."""
        mine = Product(tuple(filter(belongs, self.above)), tuple(filter(belongs, self.below)))
        rest = Product(
            tuple(f for f in self.above if not belongs(f)),
            tuple(f for f in self.below if not belongs(f)),
            self.negative,
        )
        return mine, rest


def product_of(node: Expr) -> Product:
    """Return an expression as one product; what is no product is its only factor.

    >>> from ...parser import parse_expression
    >>> product_of(parse_expression("-A[i] * B[j] / C[]")).negative
    True
    """
    if isinstance(node, Apply) and node.op == "neg":
        inner = product_of(node.args[0])
        return replace(inner, negative=not inner.negative)
    above: list[Expr] = []
    below: list[Expr] = []
    negative = False
    for part, under in factors(node):
        if not isinstance(part, Apply) or part.op != "neg":
            (below if under else above).append(part)
            continue
        inner = product_of(part)
        negative = negative != inner.negative
        above += inner.below if under else inner.above
        below += inner.above if under else inner.below
    return Product(tuple(above), tuple(below), negative).plain()


def products(node: Expr, wanted: Wanted) -> list[Product]:
    """Return an expression as a sum of products, each with one wanted access as a factor or none at all.

    Sums without a wanted access are left as they are: opening them would only cost more operations.

    Raises:
        NotLinearError: the expression is not linear in the wanted accesses.
    """
    if not holds(node, wanted):
        return [product_of(node)]
    if isinstance(node, Access):
        return [Product((node,))]
    if isinstance(node, Apply) and node.op in ("+", "-"):
        left, right = (products(a, wanted) for a in node.args)
        return left + ([p.negated for p in right] if node.op == "-" else right)
    if isinstance(node, Apply) and node.op == "neg":
        return [p.negated for p in products(node.args[0], wanted)]
    if isinstance(node, Apply) and node.op == "*":
        inside = [holds(a, wanted) for a in node.args]
        if inside.count(True) == 1:
            at = inside.index(True)
            other = product_of(node.args[1 - at])
            pairs = products(node.args[at], wanted)
            return [p.times(other) if at == 0 else other.times(p) for p in pairs]
    if isinstance(node, Apply) and node.op == "/" and not holds(node.args[1], wanted):
        under = product_of(node.args[1])
        turned = Product(under.below, under.above, under.negative)
        return [p.times(turned) for p in products(node.args[0], wanted)]
    if isinstance(node, Apply) and node.op == "select" and not holds(node.args[0], wanted):
        return _chosen(node, wanted)
    raise NotLinearError("is read other than by a sum of products")


def _chosen(node: Apply, wanted: Wanted) -> list[Product]:
    """Return a choice that no wanted access decides as a sum: each branch times 1 where it is taken, else 0."""
    test, *branches = node.args
    found: list[Product] = []
    for branch, marks in zip(branches, ((Num(1), Num(0)), (Num(0), Num(1))), strict=True):
        if holds(branch, wanted):
            taken = Product((Apply("select", (test, *marks)),))
            found += [p.times(taken) for p in products(branch, wanted)]
        elif branch != Num(0):
            kept = (branch, Num(0)) if marks[0] == Num(1) else (Num(0), branch)
            found.append(Product((Apply("select", (test, *kept)),)))
    return found


def holds(node: Expr, wanted: Wanted) -> bool:
    """Tell whether a wanted access stands anywhere in an expression."""
    return any(isinstance(n, Access) and wanted(n) for n in walk(node))


def total(parts: list[Product]) -> Expr:
    """Return a sum of products as an expression.

    >>> total([])
    Num(value=0)
    """
    if not parts:
        return Num(0)
    ordered = sorted(parts, key=lambda p: p.negative)
    first, *rest = ordered
    out = Apply("neg", (first.value,)) if first.negative else first.value
    for part in rest:
        out = Apply("-" if part.negative else "+", (out, part.value))
    return out


def summands(term: Product) -> list[Product]:
    """Return the products of a sum that stands alone; any other product is the only one."""
    if len(term.above) != 1 or term.below or not isinstance(term.above[0], Apply):
        return [term]
    node = term.above[0]
    if node.op not in ("+", "-"):
        return [term]
    left, right = (product_of(a) for a in node.args)
    right = right.negated if node.op == "-" else right
    sides = [p.negated if term.negative else p for p in (left, right)]
    return [s for p in sides for s in summands(p)]
