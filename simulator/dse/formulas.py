"""Formulas over the axes of a space (constraints, derived axes) in the cascade's expression language."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from einsum_cascade.errors import CascadeError, DataError, HardwareError, nearest
from einsum_cascade.expr import Apply, Compare, Expr, Num, Size, is_logical, walk
from einsum_cascade.ops import COMPARISON, SCALAR
from einsum_cascade.parser import parse_expression
from einsum_cascade.sizes import count

from ..hardware.reader import quantity

# A quoted word, a number with its unit (4K, 400 GiB/s), or a name with dots (hardware.N).
_PIECE = re.compile(
    r"""(?P<quote>"[^"]*"|'[^']*')
      | (?<![\w.])(?P<quantity>(?>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)[ ]*
                             (?!(?:and|or|not)\b)[A-Za-z]+(?:/[A-Za-z]+(?![\w.]))?)
      | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_]\w*(?:\.\w+)*)""",
    re.VERBOSE,
)
_FACTOR = re.compile(r"[x×]\s*(\d+\.?\d*|\.\d+)")
_WORDS = frozenset({"and", "or", "not", "inf"})


@dataclass(frozen=True, slots=True)
class Formula:
    """An expression over axes.

    Attributes:
        text: as the user wrote it.
        expr: the parsed expression; an axis or a quoted word stands in it as a size with a stand-in name.
        axes: stand-in name -> axis.
        words: stand-in name -> quoted word.
    """

    text: str
    expr: Expr
    axes: Mapping[str, str]
    words: Mapping[str, str]

    @property
    def logical(self) -> bool:
        """Whether the formula is true or false rather than a number."""
        return is_logical(self.expr)


def read_formula(text: str, axes: Iterable[str], *, where: str = "where", noun: str = "axis") -> Formula:
    """Return the formula that a text describes.

    Names with dots are axes; numbers may carry a unit; words in quotes are compared with text values.

    Args:
        axes: the names that the formula may use.
        where: what stands before an error.
        noun: what an error calls a name.

    Raises:
        DataError: an unknown axis, or not an expression.

    >>> read_formula("hardware.N <= 256", ["hardware.N"]).axes
    {'A0': 'hardware.N'}
    """
    legal = tuple(axes)
    if not isinstance(text, str):
        raise DataError(
            f"{where}: expected a formula such as '{next(iter(legal), 'N')} <= 256', found {text!r}"
        )
    names: dict[str, str] = {}
    words: dict[str, str] = {}

    def stand_in(match: re.Match[str]) -> str:
        if quote := match["quote"]:
            return words.setdefault(quote[1:-1], f"T{len(words)}")
        if quantity := match["quantity"]:
            return repr(_literal(quantity, f"{where}: '{text}'"))
        name = match["name"]
        if name is None:
            return match.group()
        if name in legal:
            return names.setdefault(name, f"A{len(names)}")
        if name in _WORDS or (name in SCALAR and text[match.end() :].lstrip().startswith("(")):
            return name
        raise DataError(f"{where}: '{text}': unknown {noun} '{name}'; {nearest(name, legal)}")

    rewritten = _PIECE.sub(stand_in, text)
    try:
        expr = parse_expression(rewritten)
        _check(expr)
    except CascadeError as error:
        back = {v: k for k, v in (names | words).items()}
        message = re.sub(r"\b[AT]\d+\b", lambda m: back.get(m.group(), m.group()), error.message)
        raise DataError(f"{where}: '{text}': {message}") from None
    return Formula(text, expr, {v: k for k, v in names.items()}, {v: k for k, v in words.items()})


def _check(expr: Expr) -> None:
    for node in walk(expr):
        if isinstance(node, Apply):
            op = SCALAR.get(node.op)
            if op is None or op.name == "pad":
                raise CascadeError(f"unknown function '{node.op}'; {nearest(node.op, SCALAR)}")
            if not op.arity[0] <= len(node.args) <= op.arity[1]:
                raise CascadeError(
                    f"'{node.op}' takes {op.arity[0]} to {op.arity[1]} arguments, not {len(node.args)}"
                )
        elif not isinstance(node, (Num, Size, Compare)):
            raise CascadeError("a tensor or rank variable has no value here; only axes and numbers do")


def value_of(formula: Formula, columns: Mapping[str, Any]) -> Any:
    """Return the formula's value at many points at once.

    Args:
        columns: axis -> array of magnitudes (see `magnitudes`), all of one length.

    Raises:
        DataError: a text is compared with a number.

    >>> value_of(read_formula("2 * x <= y", ["x", "y"]), {"x": np.array([1, 4]), "y": np.array([2, 7])})
    array([ True, False])
    """
    leaves = {stand_in: columns[axis] for stand_in, axis in formula.axes.items()} | dict(formula.words)
    try:
        with np.errstate(all="ignore"):
            return _value(formula.expr, leaves)
    except TypeError:
        raise DataError(
            f"'{formula.text}' mixes numbers and words; a word stands in quotes, an amount such as 16 MiB does not"
        ) from None


def _value(node: Expr, leaves: Mapping[str, Any]) -> Any:
    if isinstance(node, Num):
        return node.value
    if isinstance(node, Size):
        return leaves[node.name]
    if isinstance(node, Apply):
        return SCALAR[node.op].function(*(_value(a, leaves) for a in node.args))
    if isinstance(node, Compare):
        args = [_value(a, leaves) for a in node.args]
        out: Any = True
        for op, left, right in zip(node.ops, args, args[1:], strict=False):
            if _is_text(left) != _is_text(right):
                raise TypeError  # unequal for every point, which nobody asks
            out = np.logical_and(out, COMPARISON[op](left, right))
        return out
    raise TypeError(type(node).__name__)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind == "O")


def magnitudes(values: Sequence[Any]) -> Any:
    """Return the values as an array of numbers in SI units, or of texts where they are plain words.

    Raises:
        DataError: some are numbers and some are not.

    >>> magnitudes([64, 128]), magnitudes(["4 KiB", "1 MiB"]), magnitudes(["flat", "fusemax"]).dtype
    (array([ 64, 128]), array([   4096., 1048576.]), dtype('O'))
    """
    if all(isinstance(v, (bool, int, float)) for v in values):
        return np.array(values)
    numbers = [magnitude(v) for v in values]
    if any(n is not None for n in numbers) and None in numbers:
        raise DataError(
            f"{values[numbers.index(None)]!r} is not a number or quantity, as others of its axis are"
        )
    if None in numbers:
        return np.array([str(v) for v in values], dtype=object)
    return np.array(numbers, dtype=float)


# The units a description may use, each with its dimension; a text that fits none of them is a word.
_UNITS: Mapping[str, str] = MappingProxyType(
    {
        "byte": "B",
        "byte/second": "B/s",
        "hertz": "Hz",
        "second": "s",
        "joule": "J",
        "watt": "W",
        "meter**2": "m²",
        "flop/second": "FLOP/s",
    }
)


def magnitude(value: Any) -> float | None:
    """Return a value as a number in SI units; None for a plain word.

    A factor such as `x2`, which multiplies what a hardware file says, counts as that number.

    >>> magnitude("64K"), magnitude("400 GiB/s"), magnitude("x0.5"), magnitude("fusemax")
    (65536.0, 429496729600.0, 0.5, None)
    """
    if isinstance(value, (bool, int, float)):
        return float(value)
    text = str(value).strip()
    if match := _FACTOR.fullmatch(text):
        return float(match[1])
    if not text[:1].isdigit():
        return None
    try:
        return float(count(text))
    except CascadeError:
        pass
    for unit in _UNITS:
        try:
            return quantity(text, unit, where="axis")
        except HardwareError:
            continue
    return None


def unit_of(value: Any) -> str:
    """Return the symbol of the SI unit in which `magnitude` gives an amount; empty for what has none.

    >>> unit_of("400 GiB/s"), unit_of("64K"), unit_of(3)
    ('B/s', '', '')
    """
    for unit, symbol in _UNITS.items():
        try:
            quantity(str(value), unit, where="axis")
        except HardwareError:
            continue
        return symbol
    return ""


def _literal(text: str, where: str) -> float:
    number = magnitude(text)
    if number is None:
        raise DataError(f"{where}: '{text}' is not a quantity; write for example 64K, 16 MiB or 400 GiB/s")
    return number
