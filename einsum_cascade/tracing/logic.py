"""Truth values of traced tensors, and what `&`, `|` and shifts are of whole numbers; the table of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..expr import Apply, Compare, Expr, Num
from ..ops import COMPARISON
from .rounding import divided
from .values import Builder, UntraceableError, Value, elementwise, is_truth, number, truth

Handler = Callable[..., Any]


def compared(op: str) -> Handler:
    """Return a handler that compares elements."""

    def of_elements(left: Expr, right: Expr) -> Expr:
        match number(left), number(right):
            # A mask of zeros and ones: `mask == 0`, `mask > 0.5`.
            case Apply("select", (c, Num(a), Num(b))), Num(limit):
                there, elsewhere = (bool(COMPARISON[op](x, limit)) for x in (a, b))
                if there != elsewhere:
                    return c if there else Apply("not", (c,))
        return Compare((op,), (number(left), number(right)))

    return lambda b, x, y: elementwise(b, of_elements, x, y)


def _logic(op: str) -> Handler:
    return lambda b, *values: elementwise(b, lambda *a: Apply(op, tuple(map(truth, a))), *values)


def _different(b: Builder, x: Value, y: Value) -> Value:
    """Return where exactly one of two is true."""

    def one(p: Expr, q: Expr) -> Expr:
        either, both = (Apply(op, (truth(p), truth(q))) for op in ("or", "and"))
        return Apply("and", (either, Apply("not", (both,))))

    return elementwise(b, one, x, y)


def _bitwise(op: str) -> Handler:
    """Return a handler of `&`, `|`, `~`, which on truth values are logic; bits of whole numbers have no words."""

    def logic(b: Builder, *values: Value) -> Value:
        if not all(isinstance(v, bool) or (isinstance(v, Value) and _holds_truth(v)) for v in values):
            raise UntraceableError("the bits of whole numbers; // and % say parts of a number")
        return _different(b, *values) if op == "xor" else _logic(op)(b, *values)

    return logic


def _holds_truth(x: Value) -> bool:
    return is_truth(x.element(tuple(Num(0) for _ in x.sizes)))


def _shifted(towards: str) -> Handler:
    """Return a handler of shifts of whole numbers: times a power of two, or over it."""

    def shifted(b: Builder, x: Value, bits: Any) -> Value:
        power = elementwise(b, lambda n: Apply("**", (Num(2), number(n))), bits)
        if towards == "left":
            return elementwise(b, lambda v, n: Apply("*", (number(v), n)), x, power)
        return divided(b, x, power, rounding_mode="floor")

    return shifted


LOGIC: dict[str, Handler] = {
    "logical_xor": _different,
    **{f"logical_{op}": _logic(op) for op in ("and", "or", "not")},
    **{
        name.format(op): _bitwise(op)
        for op in ("and", "or", "xor", "not")
        for name in ("bitwise_{}", "__{}__")
    },
    **{f"__{towards[0]}shift__": _shifted(towards) for towards in ("left", "right")},
    **{f"bitwise_{towards}_shift": _shifted(towards) for towards in ("left", "right")},
}
