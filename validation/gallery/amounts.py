"""Amounts as people read them: 1.2 ms, 34 MB, 16K."""

from __future__ import annotations

import math

_PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}


def amount(value: float, unit: str) -> str:
    """Return a positive amount with three digits and a prefix.

    >>> amount(0.00123, "s"), amount(3.4e7, "B"), amount(1e3, "s")
    ('1.23 ms', '34 MB', '1000 s')
    """
    if value <= 0:
        return f"0 {unit}"
    # Nobody reads kiloseconds.
    highest = 0 if unit == "s" else 18
    power = min(max(3 * math.floor(math.log10(value * (1 + 5e-4)) / 3), -12), highest)
    scaled = value / 10.0**power
    digits = max(0, 2 - math.floor(math.log10(scaled * (1 + 5e-4))))
    text = f"{scaled:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {_PREFIXES[power]}{unit}"


def count(length: int) -> str:
    """Return a length as 1K, 64K or 1M.

    >>> count(65536), count(2**20), count(100)
    ('64K', '1M', '100')
    """
    for size, letter in ((2**20, "M"), (2**10, "K")):
        if length % size == 0:
            return f"{length // size}{letter}"
    return str(length)
