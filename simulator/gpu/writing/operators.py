"""The operators and functions of the language as Triton writes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ROOT_HALF = 0.7071067811865476
# Of floating-point operands, each a name or in brackets.
FUNCTIONS: Mapping[str, str] = MappingProxyType(
    {
        "exp": "tl.exp({0})",
        "log": "tl.log({0})",
        "sqrt": "tl.sqrt({0})",
        "floor": "tl.floor({0})",
        "sin": "tl.sin({0})",
        "cos": "tl.cos({0})",
        "erf": "tl.erf({0})",
        "tanh": "_tanh({0})",
        "sigmoid": "(1.0 / (1.0 + tl.exp(-{0})))",
        "softplus": "_softplus({0})",
        "gelu": f"(0.5 * {{0}} * (1.0 + tl.erf({{0}} * {_ROOT_HALF})))",
    }
)
# Of operands of any kind.
ANY: Mapping[str, str] = MappingProxyType(
    {
        "abs": "tl.abs({0})",
        "relu": "tl.maximum({0}, 0)",
        "clamp": "tl.minimum(tl.maximum({0}, {1}), {2})",
    }
)
INFIX: Mapping[str, str] = MappingProxyType({"+": "+", "-": "-", "*": "*", "and": "&", "or": "|"})
# Triton divides whole numbers towards zero, the language towards minus infinity.
FLOOR_INT: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "//": ("{0} // {1}", "(({0} - (({0} % {1}) + {1}) % {1}) // {1})"),
        "%": ("{0} % {1}", "((({0} % {1}) + {1}) % {1})"),
    }
)
FLOOR_FLOAT: Mapping[str, str] = MappingProxyType(
    {"//": "tl.floor({0} / {1})", "%": "({0} - tl.floor({0} / {1}) * {1})"}
)

# Reductions: over one axis of a tile, and of two values.
OVER: Mapping[str, str] = MappingProxyType(
    {
        "sum": "tl.sum({0}, axis={1})",
        "max": "tl.max({0}, axis={1})",
        "min": "tl.min({0}, axis={1})",
        "prod": "tl.reduce({0}, {1}, _times)",
        "logsumexp": "_logsumexp({0}, {1})",
    }
)
TWO: Mapping[str, str] = MappingProxyType(
    {
        "sum": "{0} + {1}",
        "max": "tl.maximum({0}, {1})",
        "min": "tl.minimum({0}, {1})",
        "prod": "{0} * {1}",
        "logsumexp": "_logaddexp({0}, {1})",
    }
)

# Functions of a written file that some kernels call, by name.
HELPERS: Mapping[str, str] = MappingProxyType(
    {
        "_times": '''@triton.jit
def _times(a, b):
    """The product of two elements, for a reduction."""
    return a * b
''',
        "_larger": '''@triton.jit
def _larger(a, b):
    """The larger of two elements, for a scan."""
    return tl.maximum(a, b)
''',
        "_smaller": '''@triton.jit
def _smaller(a, b):
    """The smaller of two elements, for a scan."""
    return tl.minimum(a, b)
''',
        "_first_order": '''@triton.jit
def _first_order(factor, term, other_factor, other_term):
    """One step and another behind it as one: x -> factor * x + term."""
    return factor * other_factor, other_factor * term + other_term
''',
        "_logsumexp": '''@triton.jit
def _logsumexp(x, AXIS: tl.constexpr):
    """The logarithm of the sum of exponentials along an axis; of nothing but minus infinities, minus infinity."""
    top = tl.max(x, axis=AXIS, keep_dims=True)
    safe = tl.where(top == float("-inf"), 0.0, top)
    return tl.log(tl.sum(tl.exp(x - safe), axis=AXIS)) + tl.max(safe, axis=AXIS)
''',
        "_logaddexp": '''@triton.jit
def _logaddexp(a, b):
    """The logarithm of the sum of two exponentials."""
    top = tl.maximum(a, b)
    safe = tl.where(top == float("-inf"), 0.0, top)
    return tl.log(tl.exp(a - safe) + tl.exp(b - safe)) + safe
''',
        "_power": '''@triton.jit
def _power(base, exponent):
    """A power; of a base below zero where the exponent is a whole number."""
    size = tl.exp2(exponent * tl.log2(tl.abs(base)))
    odd = exponent - 2.0 * tl.floor(0.5 * exponent) == 1.0
    signed = tl.where(tl.floor(exponent) == exponent, tl.where(odd, -size, size), float("nan"))
    return tl.where(exponent == 0.0, 1.0, tl.where(base < 0.0, signed, size))
''',
        "_whole_power": '''@triton.jit
def _whole_power(base, exponent, BITS: tl.constexpr):
    """A power of whole numbers, exact where 32 bits hold it; the exponent has so many bits."""
    square = base + exponent * 0
    out = square * 0 + 1
    for _ in tl.static_range(BITS):
        out = tl.where(exponent % 2 == 1, out * square, out)
        square = square * square
        exponent = exponent // 2
    return out
''',
        "_softplus": '''@triton.jit
def _softplus(x):
    """The logarithm of 1 + exp(x), exact for x far below zero too: what 1 + e rounds away is put back (Kahan)."""
    e = tl.exp(-tl.abs(x))
    one = 1.0 + e
    more = tl.where(one == 1.0, e, tl.log(one) * (e / tl.where(one == 1.0, 1.0, one - 1.0)))
    return tl.maximum(x, 0.0) + more
''',
        "_tanh": '''@triton.jit
def _tanh(x):
    """The hyperbolic tangent; near zero its series, where a difference of exponentials would lose digits."""
    s = x * x
    near = x * (1.0 + s * (-0.3333333333 + s * (0.1333333333 + s * -0.0539682540)))
    return tl.where(s < 0.0625, near, 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0))
''',
    }
)
