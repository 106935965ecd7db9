"""The tables of published figures, as rows with their sources."""

from __future__ import annotations

import csv
import functools
from importlib import resources

NAMES = ("units", "dram", "registers", "sram", "scaling")


@functools.cache
def table(name: str) -> tuple[dict[str, str], ...]:
    """Return the rows of a table of this room by column.

    >>> table("dram")[0]["kind"]
    'hbm2'
    """
    text = resources.files(__package__).joinpath(f"tables/{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))
