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
        # 1 - 2 / (e^2x + 1) overflows to 1 where the quotient of the two exponentials would be not a number.
        "tanh": "(1.0 - 2.0 / (tl.exp(2.0 * {0}) + 1.0))",
        "sigmoid": "(1.0 / (1.0 + tl.exp(-{0})))",
        "softplus": "(tl.maximum({0}, 0.0) + tl.log(1.0 + tl.exp(-tl.abs({0}))))",
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
    }
)
