"""Expressions of the language as Triton terms: what lies in registers by its name, what lies in memory by a load."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from einsum_cascade.analysis.intervals import alternatives, any_term, number
from einsum_cascade.analysis.points import conditions_of_access, inside
from einsum_cascade.analysis.ranges import always, reach
from einsum_cascade.einsum import is_constant
from einsum_cascade.expr import (
    Access,
    Apply,
    Compare,
    Expr,
    Num,
    Size,
    Var,
    accesses,
    is_logical,
    substitute,
    transform,
    variables,
)

from .arithmetic import opposite, power, widened
from .body import Body
from .lanes import Lanes
from .memory import Memory
from .operators import ANY, FLOOR_FLOAT, FLOOR_INT, FUNCTIONS, HELPERS, INFIX
from .registers import Registers
from .terms import CannotWriteError, Term, joined, literal

ALWAYS = Term("True", kind="bool", plain=True)
NEVER = Term("False", kind="bool", plain=True)
# A condition of fewer characters needs no name.
_SHORT = 24


@dataclass
class Values:
    """What the expressions of a kernel mean where it stands now.

    Attributes:
        word: type of tensors in memory.
        registers: what the kernel has computed itself.
        read: tensors that it has loaded, in the order of their first loads.
        helpers: functions of the written file that it calls.
    """

    body: Body
    lanes: Lanes
    memory: Memory
    word: str
    registers: Registers
    read: dict[str, None] = field(default_factory=dict)
    helpers: dict[str, None] = field(default_factory=dict)
    _turned: Mapping[str, int] = field(default_factory=dict)
    _assumed: frozenset[Expr] = frozenset()

    @property
    def order(self) -> Mapping[str, int]:
        """The order of axes: the kernel's, but for a load that a product wants the other way round."""
        return self._turned or self.lanes.order

    @contextmanager
    def turned(self, order: Mapping[str, int]) -> Iterator[None]:
        """Put terms together in another order of axes inside the block."""
        before, self._turned = self._turned, order
        try:
            yield
        finally:
            self._turned = before

    @contextmanager
    def assuming(self, parts: Iterable[Expr]) -> Iterator[None]:
        """Take conditions to hold inside the block."""
        before = self._assumed
        self._assumed = before | frozenset(parts)
        try:
            yield
        finally:
            self._assumed = before

    @property
    def numbers(self) -> Mapping[str, float]:
        """Sizes and constants by name."""
        return self.memory.case.numbers

    def term(self, node: Expr) -> Term:
        """Return an expression as a term."""
        if isinstance(node, Num):
            return literal(node.value)
        if isinstance(node, Size) and node.name in self.memory.case.sizes:
            return Term(node.name, kind="int", plain=True)
        if is_constant(node) and not is_logical(node):
            return literal(float(number(node, {}, self.numbers)))
        if isinstance(node, Var) and self.lanes.extent(node.name) == 1:
            return literal(0)
        if isinstance(node, Var):
            return self.lanes.coordinate(node.name)
        if isinstance(node, Access):
            return self.access(node)
        if isinstance(node, Compare):
            return self._compared(node)
        assert isinstance(node, Apply)
        return self._applied(node)

    def all_of(self, parts: Sequence[Expr], *, inside: Sequence[str] = ()) -> Term | None:
        """Return the conjunction of conditions that do not hold by themselves; None where all do.

        Args:
            inside: variables of which a lane behind the end of its rank does not count.
        """
        wanted = [*self.lanes.bounds(inside), *(p for p in parts if not always(p, self.numbers))]
        wanted = [p for p in wanted if p not in self._assumed]
        found = self._conjunction([self.term(p) for p in wanted])
        if found is None or found == NEVER or len(found.text) < _SHORT:
            return found
        names = [v for p in wanted for v in variables(p)]
        return self.known_once(("all", tuple(wanted), tuple(self.order)), "mask", found, names)

    def _conjunction(self, found: Sequence[Term]) -> Term | None:
        if NEVER in found:
            return NEVER
        found = [t for t in found if t != ALWAYS]
        if not found:
            return None
        if len(found) == 1:
            return found[0]
        ordered = sorted(found, key=lambda t: len(t.axes))
        return joined(self.order, lambda *t: " & ".join(t), *ordered, kind="bool", whole=False)

    def chosen(self, where: Term | None, value: Term, other: float) -> Term:
        """Return a value where a condition holds, and a number elsewhere."""
        if where is None:
            return value
        otherwise = literal(other) if value.kind == "int" else literal(other).as_float()
        if where == NEVER:
            return otherwise
        form = "tl.where({}, {}, {})".format
        return joined(self.order, form, where, value, otherwise, kind=value.kind, whole=True)

    def access(self, access: Access) -> Term:
        """Return an element that is read."""
        if access.tensor in self.registers.writers:
            return self.registers.read(access, self.term)
        loaded = self.load(access)
        if loaded.kind == "int" or self.word == "fp32":
            return loaded
        return replace(loaded, text=f"{loaded.text}.to(tl.float32)")

    def load(self, access: Access, order: Sequence[str] | None = None) -> Term:
        """Return what is loaded from memory, in the type that lies there.

        Args:
            order: of its axes, if not the kernel's; a product wants one of its sides the other way round.
        """
        scope = self.body.scope_of(variables(access))
        axes = self.lanes.ordered(variables(access))
        turned = order is not None and set(order) == set(axes) and len(accesses(access)) == 1
        order = tuple(order) if order is not None and turned else axes
        key = ("load", access, order)
        if key not in scope.known:
            with self.body.inside(scope):
                text = self._as_loaded(scope.known, access, order) or self._load(access, order)
                name = self.body.let(access.tensor.lower(), text)
            kind = "int" if access.tensor in self.memory.indices else "float"
            scope.known[key] = Term(name, order, kind)
        found: Term = scope.known[key]
        return found

    def _as_loaded(self, known: Mapping[Any, Any], access: Access, order: Sequence[str]) -> str:
        """Return what has been loaded with its axes in another order, turned; no word where nothing has."""
        for other in itertools.permutations(order):
            term = known.get(("load", access, other))
            if term is not None:
                return f"tl.permute({term.text}, {tuple(other.index(a) for a in order)})"
        return ""

    def _load(self, access: Access, order: Sequence[str]) -> str:
        place = {v: i for i, v in enumerate(order)}
        self.read[access.tensor] = None
        inner = [c.holds for c in inside(self.memory.cascade, access)]
        with self.turned(place if tuple(order) != self.lanes.ordered(order) else {}):
            offset, moving = self.address(access, self.order)
            if set(moving) != set(order):  # an index that is found to be the same all along
                offset = f"{offset} + tl.zeros({self.lanes.shape(order)}, tl.int32)"
            mask = self.all_of(inner, inside=variables(access))
        if mask is None:
            return f"tl.load({offset})"
        whole = access.tensor in self.memory.indices
        if mask == NEVER:
            return f"tl.full({self.lanes.shape(order)}, 0, {'tl.int32' if whole else 'tl.float32'})"
        other = "0" if whole else "0.0"
        return f"tl.load({offset}, mask={mask.along(order)}, other={other})"

    def address(self, access: Access, place: Mapping[str, int]) -> tuple[str, tuple[str, ...]]:
        """Return the address of an element with the axes along which it moves, in a given order of axes."""
        strides = self.memory.strides(access.tensor)
        wide = self.memory.is_wide(access.tensor)
        parts: list[Term] = []
        for i, stride in strides.items():
            index = self.term(access.indices[i])
            if index.text == "0":
                continue
            if index.kind == "float":
                index = replace(index, text=f"tl.cast({index.text}, tl.int32)", kind="int", whole=True)
            if wide and stride:
                index = replace(index, text=f"tl.cast({index.text}, tl.int64)", whole=True)
            text = " * ".join((index.bracketed, *stride)) if stride else index.text
            parts.append(replace(index, text=text, whole=not stride and index.whole))
        axes = tuple(sorted({a for p in parts for a in p.axes}, key=place.__getitem__))
        shown = [f"({p.text})" if p.axes and p.axes != axes and not p.whole else p.text for p in parts]
        texts = [
            replace(p, text=s, whole=True).along(axes) for p, s in zip(parts[::-1], shown[::-1], strict=True)
        ]
        return " + ".join((f"{access.tensor}_ptr", *texts)), axes

    def _compared(self, node: Compare) -> Term:
        sides = [self.term(a) for a in node.args]
        pairs = list(zip(node.ops, sides, sides[1:], strict=False))
        order = self.order
        if all(a.plain for a in sides):  # no variable of more than one value stands in it
            none: dict[str, Expr] = {v: Num(0) for v in variables(node)}
            known = transform(substitute(node, none), self._left)
            holds = any_term(alternatives([known]), {}, self.numbers, 1)[0]
            return ALWAYS if holds else NEVER
        found = [
            joined(order, lambda a, b, op=op: f"({a} {op} {b})", a, b, kind="bool", whole=True)
            for op, a, b in pairs
        ]
        return self._conjunction(found) or ALWAYS

    def _left(self, node: Expr) -> Expr:
        """Return what is left of a node of which it is known beforehand that it reads nothing."""
        if not isinstance(node, Apply) or node.op not in ("pad", "select"):
            return node
        if node.op == "pad":
            return node.args[1] if self._is_there(node) == NEVER else node
        test = self.term(node.args[0])
        return node.args[1] if test == ALWAYS else node.args[2] if test == NEVER else node

    def _applied(self, node: Apply) -> Term:
        op, order = node.op, self.order
        if op == "pad":
            return self._padded(node)
        if op == "not":
            return self._negated(node.args[0])
        parts = [self.term(a) for a in node.args]
        if op in FUNCTIONS:
            only = parts[0].as_float()
            named = only.bracketed if only.text.isidentifier() or not FUNCTIONS[op].count("{0}") > 1 else None
            name = named or self.body.let(op, only.text)
            return self._calling(FUNCTIONS[op], Term(FUNCTIONS[op].format(name), only.axes))
        if op in ("//", "%"):
            return self._floored(node, parts)
        kind = "int" if all(p.kind == "int" for p in parts) else "float"
        if op == "/":
            return self._divided(*(p.as_float() for p in parts))
        if op == "**":
            return self._power(node, parts)
        if op in ("+", "-", "*", "neg"):
            parts = widened(node, parts, self.numbers)
            kind = "int" if all(p.kind == "int" for p in parts) else "float"
        if op in ("and", "or", "select") and any(p in (ALWAYS, NEVER) for p in parts):
            return self._settled(op, parts)
        if op in INFIX:
            both = f"{{}} {INFIX[op]} {{}}".format
            return joined(order, both, *parts, kind="bool" if op in ("and", "or") else kind, whole=False)
        if op == "neg":
            return replace(parts[0], text=f"-{parts[0].bracketed}", whole=False)
        if op in ("min", "max"):
            out = parts[0]
            form = f"tl.{op}imum({{}}, {{}})".format
            for more in parts[1:]:
                out = joined(order, form, out, more, kind=kind, whole=True)
            return out
        if op == "select":
            test, one, other = parts
            kind = "int" if one.kind == other.kind == "int" else "float"
            return joined(order, "tl.where({}, {}, {})".format, test, one, other, kind=kind, whole=True)
        if op in ANY:
            return joined(order, ANY[op].format, *parts, kind=kind, whole=True)
        raise CannotWriteError(f"'{op}' has no form in Triton yet")

    def _negated(self, node: Expr) -> Term:
        """Return that a condition does not hold."""
        found = opposite(node, self.memory.indices)
        if found != Apply("not", (node,)):
            return self.term(found)
        one = self.term(node)
        if one in (ALWAYS, NEVER):
            return NEVER if one == ALWAYS else ALWAYS
        return replace(one, text=f"~{one.bracketed}", whole=False)

    def _settled(self, op: str, parts: Sequence[Term]) -> Term:
        """Return a logical operation or a choice of which one operand is known."""
        if op == "select":
            return parts[1] if parts[0] == ALWAYS else parts[2]
        decides = NEVER if op == "and" else ALWAYS
        left = [p for p in parts if p not in (ALWAYS, NEVER)]
        if decides in parts:
            return decides
        return left[0] if left else parts[0]

    def _is_there(self, node: Apply) -> Term | None:
        """Return whether an element exists that a `pad` stands around, and all that its index reads; None if always."""
        access, *within = accesses(node.args[0])
        cascade, unsure = self.memory.cascade, self.memory.unsure
        exist: list[Expr] = [Compare(("<=",), (Num(0), a)) for a in within if a.tensor in unsure]
        exist += [c.holds for a in (*within, access) for c in conditions_of_access(cascade, a)]
        return self.all_of(list(dict.fromkeys(exist)))

    def _padded(self, node: Apply) -> Term:
        access, otherwise = node.args
        assert isinstance(access, Access)
        where = self._is_there(node)
        other = self.term(otherwise)
        if where == NEVER:
            return other.as_float()
        value = self.access(access)
        if where is None:
            return value
        form = "tl.where({}, {}, {})".format
        return joined(self.order, form, where, value, other.as_float(), kind=value.kind, whole=True)

    def _floored(self, node: Apply, parts: Sequence[Term]) -> Term:
        order = self.order
        if any(p.kind != "int" for p in parts):
            return joined(order, FLOOR_FLOAT[node.op].format, *parts, kind="float", whole=False)
        positive = all(reach(a, self.numbers)[0] >= 0 for a in node.args)
        form = FLOOR_INT[node.op][not positive]
        return joined(order, form.format, *parts, kind="int", whole=not positive)

    def _divided(self, above: Term, below: Term) -> Term:
        """Return a quotient; what many elements are divided by is inverted once."""
        order = self.order
        if set(below.axes) < set(above.axes):
            below = Term(f"(1.0 / {below.bracketed})", below.axes, plain=below.plain)
            if above.text in ("1", "1.0"):
                return below
            return joined(order, "{} * {}".format, above, below, kind="float", whole=False)
        return joined(order, "{} / {}".format, above, below, kind="float", whole=False)

    def _power(self, node: Apply, parts: Sequence[Term]) -> Term:
        base, exponent = parts
        if not base.plain and not base.text.isidentifier():
            base = replace(base, text=self.body.let("base", base.text), whole=True)
        found, called = power(node, (base, exponent), self.numbers, self.order)
        return self._calling(called, found)

    def _calling(self, form: str, term: Term) -> Term:
        """Return a term, and note the functions of the written file that stand in it."""
        self.helpers.update(dict.fromkeys(name for name in HELPERS if form.startswith(name)))
        return term

    def known_once(self, key: Any, wanted: str, term: Term, names: Sequence[str]) -> Term:
        """Return a term under a name that it is given once in the scope of its variables."""
        scope = self.body.scope_of(names)
        if key not in scope.known:
            with self.body.inside(scope):
                scope.known[key] = replace(term, text=self.body.let(wanted, term.text), whole=True)
        found: Term = scope.known[key]
        return found
