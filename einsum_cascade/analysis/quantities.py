"""Amounts of memory as people write them: '16 MiB', '2 B', '16 bit'."""

from __future__ import annotations

import math
import re
from numbers import Real

from ..errors import DataError, glimpse, nearest

_BYTES = {
    "bit": 0.125,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str, *, what: str = "amount") -> float:
    """Return an amount of memory in bytes.

    Args:
        text: a number with its unit.
        what: the name of the amount, for the message.

    Raises:
        DataError: not a positive number with a unit of memory.

    >>> parse_bytes("16 MiB"), parse_bytes("16 bit")
    (16777216.0, 2.0)
    """
    match = _AMOUNT.fullmatch(text)
    if not match:
        raise DataError(f"{what} '{text}': expected a number with a unit, such as '16 MiB'")
    number, unit = match.groups()
    if not unit:
        raise DataError(f"{what} '{text}' has no unit; write the unit: '{number} MiB' or '{number} B'")
    if unit not in _BYTES:
        raise DataError(f"{what} '{text}': unknown unit '{unit}'; {nearest(unit, _BYTES, listed=10)}")
    value = float(number) * _BYTES[unit]
    if value <= 0:
        raise DataError(f"{what} '{text}' must be more than nothing")
    if math.isinf(value):
        raise DataError(f"{what} '{text}' is beyond what a float64 can hold")
    return value


def as_bytes(amount: str | float, *, what: str = "amount") -> float:
    """Return an amount of memory in bytes, from a text with its unit or from a number of bytes.

    Raises:
        DataError: as `parse_bytes`, or a number that is not positive.
    """
    if isinstance(amount, str):
        return parse_bytes(amount, what=what)
    if isinstance(amount, bool) or not isinstance(amount, Real):
        raise DataError(
            f"{what}: expected an amount such as '16 MiB', or a number of bytes, found {glimpse(amount)}"
        )
    if not math.isfinite(amount) or amount <= 0:
        raise DataError(f"{what} of {amount} bytes must be a positive number")
    return float(amount)


def shown_bytes(amount: float) -> str:
    """Return an amount of memory for people.

    >>> shown_bytes(16 * 2**20), shown_bytes(128)
    ('16 MiB', '128 B')
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if amount >= _BYTES[unit]:
            return f"{amount / _BYTES[unit]:.4g} {unit}"
    return f"{amount:.4g} B"
