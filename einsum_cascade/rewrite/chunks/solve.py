"""Steps that wait for each other: what a step adds depends on what earlier ones added, as in delta rules.

The chunk then is a triangular system F = R + N F, with N strictly below the diagonal. Its inverse is
(1 + N)(1 + N^2)(1 + N^4) ..., which ends, for N to the power of the chunk is 0: products of matrices again.

Several tensors that wait for each other are such a system too: one after the other is put, by its own inverse, into the
equations of those behind it. This takes far fewer products than one matrix over steps and tensors would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ...declarations import rank_of
from ...einsum import Einsum
from ...errors import CascadeError
from ...expr import Access, Apply, Compare, Expr, Num, Size, Var, substitute, variables
from .linear import Product, total
from .reads import EARLIER, NOW, UP_TO, Reader, Wait, single_of
from .system import Equations, Row, unknowns_of
from .writer import Writer


@dataclass(frozen=True)
class _Matrix:
    """What multiplies an unknown in the equation of another, or of itself.

    Attributes:
        strict: whether only earlier steps count, not `now` itself.
    """

    access: Access
    strict: bool


@dataclass
class Solver:
    """Writes the tensors of a circle at all steps of a chunk at once.

    Attributes:
        size: steps of a chunk.
    """

    reader: Reader
    size: int

    def solve(self, circle: frozenset[str]) -> None:
        """Write the unknowns of a circle.

        Raises:
            CascadeError: one is not linear in what earlier steps handed on.
        """
        unknowns = unknowns_of(self.reader.block, circle)
        equations = Equations(self.reader, unknowns, circle)
        rows = [equations.row(n) for n in unknowns]
        _System(self.reader, self.size, equations, rows, equations.mixed(rows)).solve()


@dataclass
class _System:
    """A triangular system over the steps of a chunk, block by block.

    Attributes:
        mixed: axes along which elements of one step wait for other elements; in a matrix they have a second name.
    """

    reader: Reader
    size: int
    equations: Equations
    rows: list[Row]
    mixed: frozenset[str]
    matrices: dict[tuple[int, int], _Matrix] = field(default_factory=dict)
    right: list[Access] = field(default_factory=list)

    @property
    def writer(self) -> Writer:
        """Where the Einsums are written."""
        return self.reader.writer

    def solve(self) -> None:
        """Write all unknowns."""
        names = [row.einsum.name for row in self.rows]
        for i, row in enumerate(self.rows):
            self.right.append(self.reader.named(f"{row.einsum.name}R", row.known, row.einsum))
            for j, other in enumerate(names):
                waits = [w for w in row.waits if w.unknown.tensor == other]
                if waits:
                    self.matrices[i, j] = self._matrix(i, j, waits)
        inverses = [self._put_in(at) for at in range(len(names))]
        for at in reversed(range(len(names))):
            self._written(at, inverses[at])

    def _put_in(self, at: int) -> Access | None:
        """Put an unknown into the equations of those behind it; return its inverse but for the 1."""
        name, count = self.rows[at].einsum.name, len(self.rows)
        lower = self.matrices.get((at, at))
        inverse = None if lower is None else self._inverse(name, lower.access)
        inner = self.mixed & self.equations.axes(name)
        for i in range(at + 1, count):
            found = self.matrices.get((i, at))
            if found is None:
                continue
            mine = self.rows[i].einsum
            through = found
            if inverse is not None:
                more = self._product(f"{mine.name}P", found, _Matrix(inverse, strict=True), inner)
                through = self._sum(f"{mine.name}H", [found, more])
            parts = [Product((self.right[i],)), self._applied(mine, through, self.right[at])]
            self.right[i] = self.reader.named(f"{mine.name}R", parts, mine)
            for j in range(at + 1, count):
                if (at, j) in self.matrices:
                    more = self._product(f"{mine.name}P", through, self.matrices[at, j], inner)
                    known = [self.matrices[i, j]] if (i, j) in self.matrices else []
                    self.matrices[i, j] = self._sum(f"{mine.name}N", [*known, more])
        return inverse

    def _written(self, at: int, inverse: Access | None) -> None:
        """Write an unknown, those behind it being written already."""
        writer, einsum = self.writer, self.rows[at].einsum
        parts = [Product((self.right[at],))]
        for j in range(at + 1, len(self.rows)):
            if (at, j) in self.matrices:
                later = writer.at(self.rows[j].einsum.target)
                assert isinstance(later, Access)
                parts.append(self._applied(einsum, self.matrices[at, j], later))
        right = parts[0].above[0] if len(parts) == 1 else self.reader.named(f"{einsum.name}R", parts, einsum)
        assert isinstance(right, Access)
        parts = [Product((right,))]
        if inverse is not None:
            parts.append(self._applied(einsum, _Matrix(inverse, strict=True), right))
        target = writer.at(einsum.target)
        assert isinstance(target, Access)
        writer.einsums.append(Einsum(target, total(parts)))

    def _matrix(self, i: int, j: int, waits: list[Wait]) -> _Matrix:
        """Return what multiplies an unknown in an equation, as one tensor."""
        ranks = self.writer.ranks
        then, now = ranks.then, ranks.now
        strict = all(w.when == EARLIER for w in waits)
        if not strict and j >= i:
            raise CascadeError(f"{self.rows[i].einsum.name} waits for itself at the same step")
        parts = [
            _at_its_steps(self.equations.coefficient(w, self.mixed), w.when, then, now, strict=strict)
            for w in waits
        ]
        lower = single_of(parts)
        if lower is not None and self._is_masked(lower) and {then.name, now.name} <= set(variables(lower)):
            return _Matrix(lower, strict)
        keep = {ranks.chunk.name, then.name, now.name, *(v for p in parts for v in p.variables)}
        where = self.writer.order(strict=strict)
        wanted = self.writer.fresh(f"{self.rows[i].einsum.name}N")
        return _Matrix(self.writer.write(wanted, total(parts), keep, where=where), strict)

    def _is_masked(self, access: Access) -> bool:
        """Tell whether a tensor has elements for pairs of an earlier step and a later one alone."""
        order = self.writer.order(strict=True)
        return any(e.name == access.tensor and e.where == order for e in self.writer.einsums)

    def _inverse(self, name: str, lower: Access) -> Access:
        """Return M with (1 - N)^-1 = 1 + M, from N, by squaring."""
        power = inverse = _Matrix(lower, strict=True)
        inner = self.mixed & self.equations.axes(name)
        for _ in range(max(0, math.ceil(math.log2(self.size)) - 1)):
            power = self._product(f"{name}P", power, power, inner)
            more = self._product(f"{name}Q", power, inverse, inner)
            inverse = self._sum(f"{name}V", [inverse, power, more])
        return inverse.access

    def _product(self, wanted: str, left: _Matrix, right: _Matrix, mixed: frozenset[str]) -> _Matrix:
        """Return the product of two matrices over the steps of a chunk, and over mixed axes of what is between both."""
        writer = self.writer
        then, now, amid = writer.ranks.then, writer.ranks.now, writer.ranks.amid
        inner = {v: Var(writer.between(v)) for v in sorted(mixed)}
        late: dict[str, Expr] = {then.name: amid, **{writer.beside(v): n for v, n in inner.items()}}
        early: dict[str, Expr] = {now.name: amid, **inner}
        product = Product((substitute(left.access, late), substitute(right.access, early)))
        alike = [Size(rank_of(v)) for v, n in inner.items() if n.name not in product.variables]
        value = product.times(Product(tuple(alike))).value
        lies = Compare(("<" if right.strict else "<=", "<" if left.strict else "<="), (then, amid, now))
        keep = set(variables(value)) - {amid.name, *(n.name for n in inner.values())}
        access = writer.write(writer.fresh(wanted), value, keep, where=lies)
        return _Matrix(access, left.strict or right.strict)

    def _sum(self, wanted: str, parts: list[_Matrix]) -> _Matrix:
        if len(parts) == 1:
            return parts[0]
        strict = all(p.strict for p in parts)
        keep = {v for p in parts for v in variables(p.access)}
        value = total([Product((p.access,)) for p in parts])
        where = self.writer.order(strict=strict)
        return _Matrix(self.writer.write(self.writer.fresh(wanted), value, keep, where=where), strict)

    def _applied(self, einsum: Einsum, matrix: _Matrix, right: Access) -> Product:
        """Return a matrix times a tensor of earlier steps."""
        writer = self.writer
        then, now = writer.ranks.then, writer.ranks.now
        seconds = {v: Var(writer.beside(v)) for v in self.mixed}
        earlier = substitute(right, {now.name: then, **seconds})
        gone = {then.name, *(s.name for s in seconds.values())}
        mine = {v for p in (matrix.access, earlier) for v in variables(p)} - gone
        value = Product((matrix.access, earlier)).value
        return Product((writer.write(writer.fresh(f"{einsum.name}S"), value, mine),))


def _at_its_steps(product: Product, when: str, then: Var, now: Var, *, strict: bool) -> Product:
    """Return what multiplies an unknown, 0 at steps at which it is not met, where others are met at `now` too."""
    if strict or when == UP_TO:
        return product
    met = Compare(("==" if when == NOW else "<",), (then, now))
    chosen = Apply("select", (met, product.value, Num(0)))
    return Product((chosen,), negative=product.negative)
