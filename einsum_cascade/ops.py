"""The table of scalar operations and reductions: NumPy function, identity, cost class.

A new function is one row here; parser, evaluator, printer and operation counts read it.
Cost classes are what a machine is asked for: `mac`, `mul`, `add`, `max`, `divide`, `exp`, `log`, `sqrt` and
`sin`. What each costs is the hardware's affair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

Array = Any
COST_CLASSES = ("mac", "mul", "add", "max", "divide", "exp", "log", "sqrt", "sin")


@dataclass(frozen=True, slots=True)
class ScalarOp:
    """A function applied to every point.

    Attributes:
        name: as written in a cascade.
        arity: least and greatest number of arguments.
        function: on NumPy arrays.
        cost: operations per point, by cost class.
        logical: True where the result is true or false.
        latex: a format with one {} per argument, or the name of the function.
    """

    name: str
    arity: tuple[int, int]
    function: Callable[..., Array]
    cost: Mapping[str, int]
    logical: bool = False
    latex: str = ""


@dataclass(frozen=True, slots=True)
class ReductionOp:
    """A reduction over variables of the iteration space.

    Attributes:
        function: reduces an array along a tuple of axes.
        identity: the value of a reduction without terms.
        cost: operations per reduced term, by cost class.
        index: True where the result is an index, not a value.
    """

    name: str
    function: Callable[..., Array]
    identity: float
    cost: Mapping[str, int]
    index: bool = False


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))


def _sigmoid(x: Array) -> Array:
    # Two branches, so that neither side overflows.
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _clamp(x: Array, low: Array, high: Array) -> Array:
    return np.minimum(np.maximum(x, low), high)


def _variadic(ufunc: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def apply(*args: Array) -> Array:
        out = args[0]
        for a in args[1:]:
            out = ufunc(out, a)
        return out

    return apply


def _logsumexp(x: Array, axis: tuple[int, ...]) -> Array:
    top = np.max(x, axis=axis, keepdims=True)
    safe = np.where(np.isfinite(top), top, 0.0)
    return np.log(np.sum(np.exp(x - safe), axis=axis)) + np.squeeze(safe, axis=axis)


_erf = np.vectorize(math.erf, otypes=[float])


def _row(
    name: str,
    arity: int | tuple[int, int],
    function: Callable[..., Array],
    cost: dict[str, int],
    *,
    logical: bool = False,
    latex: str = "",
) -> ScalarOp:
    pair = (arity, arity) if isinstance(arity, int) else arity
    return ScalarOp(name, pair, function, MappingProxyType(cost), logical, latex)


SCALAR: Mapping[str, ScalarOp] = MappingProxyType(
    {
        op.name: op
        for op in (
            _row("+", 2, np.add, {"add": 1}),
            _row("-", 2, np.subtract, {"add": 1}),
            _row("*", 2, np.multiply, {"mul": 1}),
            _row("/", 2, np.divide, {"divide": 1}),
            _row("//", 2, np.floor_divide, {"divide": 1}),
            _row("%", 2, np.mod, {"divide": 1, "mul": 1, "add": 1}),
            _row("**", 2, np.power, {"log": 1, "mul": 1, "exp": 1}),
            _row("neg", 1, np.negative, {}),
            _row("exp", 1, np.exp, {"exp": 1}, latex=r"\exp"),
            _row("log", 1, np.log, {"log": 1}, latex=r"\log"),
            _row("sqrt", 1, np.sqrt, {"sqrt": 1}, latex=r"\sqrt{{{}}}"),
            _row("abs", 1, np.abs, {"max": 1}, latex=r"\left|{}\right|"),
            _row("floor", 1, np.floor, {"add": 1}, latex=r"\left\lfloor {}\right\rfloor"),
            _row("sin", 1, np.sin, {"sin": 1}, latex=r"\sin"),
            _row("cos", 1, np.cos, {"sin": 1}, latex=r"\cos"),
            _row("tanh", 1, np.tanh, {"exp": 1, "add": 2, "divide": 1}, latex=r"\tanh"),
            _row("sigmoid", 1, _sigmoid, {"exp": 1, "add": 1, "divide": 1}, latex=r"\sigma"),
            _row("softplus", 1, _softplus, {"exp": 1, "add": 1, "log": 1}),
            _row("relu", 1, lambda x: np.maximum(x, 0.0), {"max": 1}),
            _row("gelu", 1, _gelu, {"exp": 1, "mul": 3, "add": 2, "divide": 1}),
            _row("erf", 1, _erf, {"exp": 1, "mul": 3, "add": 2, "divide": 1}),
            _row("min", (2, 8), _variadic(np.minimum), {"max": 1}, latex=r"\min"),
            _row("max", (2, 8), _variadic(np.maximum), {"max": 1}, latex=r"\max"),
            _row("clamp", 3, _clamp, {"max": 2}),
            _row("select", 3, np.where, {"max": 1}),
            _row("and", 2, np.logical_and, {}, logical=True, latex=r"{} \land {}"),
            _row("or", 2, np.logical_or, {}, logical=True, latex=r"{} \lor {}"),
            _row("not", 1, np.logical_not, {}, logical=True, latex=r"\lnot {}"),
            # The evaluator gives `pad` its meaning: the access where it exists, the value where it is absent.
            _row("pad", 2, lambda x, v: x, {}),
        )
    }
)

COMPARISON: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {
        "<": np.less,
        "<=": np.less_equal,
        ">": np.greater,
        ">=": np.greater_equal,
        "==": np.equal,
        "!=": np.not_equal,
    }
)

# What a comparison is where it does not hold, of numbers.
OPPOSITE: Mapping[str, str] = MappingProxyType(
    {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
)

# How tightly an operator binds; an argument that binds less tightly than its place allows stands in brackets.
STRENGTH: Mapping[str, int] = MappingProxyType(
    {"or": 1, "and": 2, "not": 3}
    | dict.fromkeys(COMPARISON, 4)
    | {"+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "neg": 7, "**": 8}
)
# Signs before a value, and the operations that they ask for.
SIGNS: Mapping[str, str] = MappingProxyType({"-": "neg", "not": "not"})

REDUCTION: Mapping[str, ReductionOp] = MappingProxyType(
    {
        op.name: op
        for op in (
            ReductionOp("sum", np.sum, 0.0, MappingProxyType({"add": 1})),
            ReductionOp("prod", np.prod, 1.0, MappingProxyType({"mul": 1})),
            ReductionOp("max", np.max, -math.inf, MappingProxyType({"max": 1})),
            ReductionOp("min", np.min, math.inf, MappingProxyType({"max": 1})),
            ReductionOp("logsumexp", _logsumexp, -math.inf, MappingProxyType({"max": 1, "exp": 1, "add": 2})),
            ReductionOp("argmax", np.argmax, 0.0, MappingProxyType({"max": 1}), index=True),
            ReductionOp("topk", np.argsort, 0.0, MappingProxyType({"max": 1}), index=True),
        )
    }
)

# What may stand inside the brackets of an access: whole-number arithmetic on coordinates and sizes.
INDEX_OPS = frozenset({"+", "-", "*", "//", "%", "**", "neg", "min", "max", "clamp", "abs", "floor"})
