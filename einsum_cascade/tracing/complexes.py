"""Complex tensors as two real ones: rotary embeddings as Llama writes them, diagonal state spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..expr import Apply, Expr, Num
from .pieces import stacked
from .shapes import selected
from .values import Builder, UntraceableError, Value, applied, elementwise, number

Handler = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Complex:
    """A tensor of complex numbers by its two parts."""

    real: Value
    imag: Value

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes, the same for both parts."""
        return self.real.sizes

    def solid(self, b: Builder) -> Complex:
        """Return the tensor with both parts read by an access."""
        return Complex(b.solid(self.real), b.solid(self.imag))


# Operations that are the same for both parts: views, moves, sums. What they take besides the tensor is real.
_BY_PARTS = frozenset(
    {"add", "sub", "rsub", "neg", "sum", "mean", "cumsum", "flip", "roll", "tril", "triu", "slice", "select"}
    | {
        "view",
        "reshape",
        "_unsafe_view",
        "flatten",
        "unflatten",
        "transpose",
        "permute",
        "t",
        "mT",
        "numpy_T",
    }
    | {"movedim", "swapdims"}
    | {"unsqueeze", "squeeze", "expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave"}
    | {"split", "split_with_sizes", "chunk", "unbind", "cat", "concat", "stack", "pad", "constant_pad_nd"}
    | {"index", "index_select", "gather", "where", "masked_fill", "swapaxes", "clone", "contiguous", "detach"}
    | {"detach_", "alias", "to", "_to_copy", "type_as", "lift_fresh_copy", "resolve_conj", "resolve_neg"}
)
# Products of two tensors that are linear in each of them.
_PRODUCTS = frozenset({"mul", "matmul", "mm", "bmm", "mv", "dot", "outer", "einsum", "linear", "tensordot"})


def is_complex(given: Any) -> bool:
    """Tell whether an argument is complex, or a list with one that is."""
    if isinstance(given, (list, tuple)):
        return any(map(is_complex, given))
    return isinstance(given, (Complex, complex))


def applied_to_complex(
    b: Builder, name: str, handler: Handler | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Return what an operation gives for complex numbers."""
    if name in COMPLEX:
        return COMPLEX[name](b, *args, **kwargs)
    if name in _BY_PARTS and handler is not None:
        of_real = {k: _parts(v)[0] for k, v in kwargs.items()}
        of_imag = {k: _parts(v)[1] if is_complex(v) else v for k, v in kwargs.items()}
        real = handler(b, *map(_real, args), **of_real)
        imag = handler(b, *_imaginary(name, args), **of_imag)
        return _paired(real, imag)
    if name in _PRODUCTS and handler is not None:
        return _product(b, handler, args, kwargs)
    raise UntraceableError(f"'{name}' of complex numbers; write it with the real and the imaginary part")


def _parts(given: Any) -> tuple[Any, Any]:
    """Return both parts of an argument; the imaginary one of what is real is 0."""
    if isinstance(given, Complex):
        return given.real, given.imag
    if isinstance(given, complex):
        return given.real, given.imag
    if isinstance(given, (list, tuple)) and any(map(is_complex, given)):
        pairs = [_parts(g) for g in given]
        return [p[0] for p in pairs], [p[1] for p in pairs]
    if isinstance(given, Value):
        return given, Value((None,) * len(given.sizes), given.sizes, lambda at: Num(0))
    return given, 0


def _real(given: Any) -> Any:
    return _parts(given)[0]


def _imaginary(name: str, args: Sequence[Any]) -> Iterator[Any]:
    """Yield the arguments for the imaginary part: operands by theirs, conditions, places and sizes as they are."""
    both = {"add": (0, 1), "sub": (0, 1), "rsub": (0, 1), "where": (1, 2), "masked_fill": (0, 2)}
    operands = both.get(name, (0,))
    for i, given in enumerate(args):
        yield _parts(given)[1] if i in operands else given


def _paired(real: Any, imag: Any) -> Any:
    if isinstance(real, list):
        return [_paired(r, i) for r, i in zip(real, imag, strict=True)]
    return Complex(real, imag)


def _product(b: Builder, handler: Handler, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Complex:
    """Return a product of two, of which one may be real: no term is written that is 0."""
    nested = isinstance(args[0], str)  # einsum takes its operands in a list
    operands = list(args[1] if nested else args[:2])
    if len(operands) != 2:
        raise UntraceableError("a product of complex numbers of other than two tensors")

    def of(x: Any, y: Any) -> Any:
        if nested:
            return handler(b, args[0], [x, y], **kwargs)
        return handler(b, x, y, *args[2:], **kwargs)

    left, right = operands
    if not is_complex(left):
        return Complex(of(left, _real(right)), of(left, _parts(right)[1]))
    if not is_complex(right):
        return Complex(of(_real(left), right), of(_parts(left)[1], right))
    (p, q), (r, s) = _parts(left), _parts(right)
    real = elementwise(b, applied("-"), of(p, r), of(q, s))
    return Complex(real, elementwise(b, applied("+"), of(p, s), of(q, r)))


def _as_complex(b: Builder, x: Value) -> Complex:
    return Complex(selected(b, x, -1, 0), selected(b, x, -1, 1))


def _as_real(b: Builder, z: Any) -> Value:
    return stacked(b, list(_parts(z)), -1)


def _polar(b: Builder, length: Any, angle: Value) -> Complex:
    real, imag = (elementwise(b, applied(f), angle) for f in ("cos", "sin"))
    return Complex(*(elementwise(b, _times, length, part) for part in (real, imag)))


def _times(x: Expr, y: Expr) -> Expr:
    return number(y) if x == Num(1) else Apply("*", (number(x), number(y)))


def _exponential(b: Builder, z: Any) -> Complex:
    real, imag = _parts(z)
    return _polar(b, elementwise(b, applied("exp"), real), imag)


def _square(b: Builder, z: Any) -> Value:
    """Return the square of the absolute value."""
    return elementwise(
        b,
        lambda p, q: Apply("+", (Apply("*", (number(p), number(p))), Apply("*", (number(q), number(q))))),
        *_parts(z),
    )


def _conjugate(b: Builder, z: Any) -> Complex:
    real, imag = _parts(z)
    return Complex(real, elementwise(b, applied("neg"), imag))


def _quotient(b: Builder, x: Any, y: Any, **kwargs: Any) -> Complex:
    if is_complex(y):
        x, y = (
            _product(b, lambda b, p, q: elementwise(b, applied("*"), p, q), (x, _conjugate(b, y)), {}),
            _square(b, y),
        )
    return Complex(*(elementwise(b, applied("/"), part, y) for part in _parts(x)))


def _power(b: Builder, z: Any, exponent: Any) -> Any:
    """Return a small whole power, by repeated squares."""
    if not isinstance(exponent, int) or not 1 <= exponent <= 64:
        raise UntraceableError("a power of a complex number that is not a small whole one")
    half = _power(b, z, exponent // 2) if exponent > 1 else None
    if half is None:
        return z

    def times(x: Any, y: Any) -> Complex:
        return _product(b, lambda b, p, q: elementwise(b, applied("*"), p, q), (x, y), {}).solid(b)

    squared = times(half, half)
    return times(squared, z) if exponent % 2 else squared


COMPLEX: dict[str, Handler] = {
    "view_as_complex": _as_complex,
    "view_as_real": _as_real,
    "complex": lambda b, real, imag: Complex(real, imag),
    "polar": _polar,
    "real": lambda b, z: _parts(z)[0],
    "imag": lambda b, z: _parts(z)[1],
    "conj": _conjugate,
    "_conj": _conjugate,
    "conj_physical": _conjugate,
    "exp": _exponential,
    "abs": lambda b, z: elementwise(b, applied("sqrt"), _square(b, z)),
    "div": _quotient,
    "reciprocal": lambda b, z: _quotient(b, 1.0, z),
    "pow": _power,
    "square": lambda b, z: _power(b, z, 2),
}
# Those that make complex numbers of real ones, or take either.
OF_REAL = frozenset(
    {"view_as_complex", "view_as_real", "complex", "polar", "real", "imag", "conj", "_conj", "conj_physical"}
)
