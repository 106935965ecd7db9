"""Expressions in data files (`2 * N`), evaluated over named values; numbers and quantities alike."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from einsum_cascade.errors import CascadeError, MappingError, ModelError, nearest
from einsum_cascade.expr import Apply, Expr, Num, Size, Var

MAX_EXPONENT = 64
_NAME = re.compile(r"[A-Za-z_]\w*\Z")
# How many values a function takes, where that is not any number of them.
_TAKES: Mapping[str, int] = MappingProxyType({"floor": 1, "ceil": 1, "padded": 1, "cdiv": 2})


def _variadic(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: functools.reduce(function, args)


def _power(base: Any, exponent: Any) -> Any:
    # No description of a machine needs more, and a power of a whole number can fill any memory.
    if isinstance(exponent, (int, float)) and abs(exponent) > MAX_EXPONENT:
        raise OverflowError
    return base**exponent


OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "/": operator.truediv,
        "//": operator.floordiv,
        "%": operator.mod,
        "**": _power,
        "neg": operator.neg,
        "min": _variadic(min),
        "max": _variadic(max),
        "floor": lambda x: x // 1,
    }
)


def evaluate_expression(
    text: str | int | float,
    names: Mapping[str, Any],
    *,
    where: str,
    error: type[ModelError] = MappingError,
    functions: Mapping[str, Callable[..., Any]] | None = None,
) -> Any:
    """Return the value of an expression of the cascade language over named values.

    Args:
        text: the expression; a number stands for itself.
        names: what a name stands for; the values may be numbers, NumPy arrays or quantities.
        where: what stands before an error.
        error: the class of an error.
        functions: more functions than those of `OPERATORS`, for example the least and the greatest of arrays.

    Raises:
        ModelError: of the class `error`; the text is no expression or names something unknown.

    >>> evaluate_expression("N", {"N": 256}, where="example")
    256
    >>> evaluate_expression("n", {"N": 256}, where="example")
    Traceback (most recent call last):
    einsum_cascade.errors.MappingError: example: unknown name 'n'; did you mean 'N'?
    """
    if isinstance(text, (int, float)):
        return text
    table = {**OPERATORS, **functions} if functions else OPERATORS
    try:
        return evaluate_node(_parsed(text), names, where=where, error=error, table=table)
    except CascadeError as e:
        raise error(f"{where}: '{text}' is not an expression: {e.message}") from None
    except (ZeroDivisionError, OverflowError, ArithmeticError):
        raise error(f"{where}: '{text}' cannot be computed (division by zero or overflow)") from None
    except TypeError:  # a memory or an array of a chip is no number
        raise error(f"{where}: '{text}' cannot be computed: something in it is no number") from None


def names_in(
    text: str | int | float, *, where: str, error: type[ModelError] = MappingError
) -> frozenset[str]:
    """Return the names that an expression reads.

    Raises:
        ModelError: of the class `error`; the text is no expression.

    >>> sorted(names_in("cdiv(seq_q, 64) + i", where="example"))
    ['i', 'seq_q']
    """
    if isinstance(text, (int, float)):
        return frozenset()
    try:
        return frozenset(_names_of(_parsed(text)))
    except CascadeError as e:
        raise error(f"{where}: '{text}' is not an expression: {e.message}") from None


def _names_of(node: Expr) -> Iterator[str]:
    if isinstance(node, (Size, Var)):
        yield node.name
    elif isinstance(node, Apply):
        for part in node.args:
            yield from _names_of(part)


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Expr:
    from einsum_cascade.parser import parse_expression

    stripped = text.strip()
    if _NAME.match(stripped):
        return Size(stripped)
    number = _number(stripped)
    return parse_expression(stripped) if number is None else Num(number)


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return None if math.isnan(value) else value
    return None


def _lookup(name: str, names: Mapping[str, Any], where: str, error: type[ModelError]) -> Any:
    if name not in names:
        known = [n for n in names if isinstance(n, str)]
        raise error(f"{where}: unknown name '{name}'; {nearest(name, known)}")
    return names[name]


def evaluate_node(
    node: Expr,
    names: Mapping[str, Any],
    *,
    where: str,
    error: type[ModelError] = MappingError,
    table: Mapping[str, Callable[..., Any]] = OPERATORS,
) -> Any:
    """Return the value of a parsed expression over named values; see `evaluate_expression`."""
    if isinstance(node, Num):
        return node.value
    if isinstance(node, (Size, Var)):
        return _lookup(node.name, names, where, error)
    if isinstance(node, Apply) and node.op in table:
        takes = _TAKES.get(node.op) or _parameters(table[node.op])
        if takes is not None and len(node.args) != takes:
            raise error(f"{where}: '{node.op}' takes {takes} value(s), found {len(node.args)}")
        parts = (evaluate_node(a, names, where=where, error=error, table=table) for a in node.args)
        return table[node.op](*parts)
    found = node.op if isinstance(node, Apply) else type(node).__name__.lower()
    raise error(f"{where}: '{found}' cannot stand in an expression here; known: {', '.join(table)}")


@functools.lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> int | None:
    """Return how many values a function takes, or None where that is open or unknown."""
    try:
        found = inspect.signature(function).parameters.values()
    except ValueError:  # some that are built in do not say
        return None
    fixed = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in found)
    return len(found) if fixed else None


def call_of(text: str | int | float, function: str) -> str | None:
    """Return the one name in `function(NAME)`, or None where the text is anything else.

    >>> call_of("fit(GlobalBuffer)", "fit"), call_of("2 * N", "fit")
    ('GlobalBuffer', None)
    """
    match = re.fullmatch(rf"\s*{function}\(\s*(\w+)\s*\)\s*", str(text))
    return match[1] if match else None
