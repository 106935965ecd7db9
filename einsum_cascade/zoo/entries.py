"""What is said of a zoo entry without reading its cascade: title, class, sizes at a length, and stored facts."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from types import MappingProxyType

from ..errors import CascadeError, nearest

# The length at which the arithmetic intensity is stored.
STATED_LENGTH = 16 * 1024


@dataclass(frozen=True, slots=True)
class Change:
    """Passes over a rank: of the text as written, and of the best text that the rewriting rules reach."""

    naive: int
    best: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the zoo.

    Attributes:
        kind: the class of operators that it belongs to, such as "softmax attention".
        over: the ranks along which its passes are told.
        recipe: the size of each rank as an expression in LENGTH.
        passes: by rank, stored; `cascade passes` and `cascade reduce` find them anew.
        intensity: operations per compulsory byte at STATED_LENGTH, a multiply-accumulate counted twice, words of
            2 bytes; stored.
    """

    name: str
    title: str
    summary: str
    source: str
    kind: str
    over: tuple[str, ...]
    recipe: Mapping[str, str]
    passes: Mapping[str, Change] = field(default_factory=dict)
    intensity: float = 0.0

    @property
    def unsure(self) -> bool:
        """Whether something of it was written from memory of the paper."""
        return "UNSURE" in self.source


@functools.cache
def table() -> Mapping[str, Entry]:
    """Return every entry by name, in alphabetical order; no cascade is parsed.

    >>> table()["attention_3pass"].passes["M"]
    Change(naive=3, best=1)
    """
    from . import names

    described = {r["name"]: r for r in _rows("entries.csv")}
    stored = {r["name"]: r for r in _rows("facts.csv")}
    return MappingProxyType({n: _entry(described[n], stored.get(n, {})) for n in names() if n in described})


def entry(name: str) -> Entry:
    """Return one entry.

    Raises:
        CascadeError: there is none.
    """
    if name not in table():
        raise CascadeError(f"the zoo has no '{name}'", hint=nearest(name, table()))
    return table()[name]


def sizes_at(name: str, length: int) -> dict[str, int]:
    """Return the size of every rank of an entry, batch ranks too, at a sequence or image of so many elements.

    Raises:
        CascadeError: no such entry, or a length at which a rank has no whole size.

    >>> sizes_at("gna_2d", 4096)["My"]
    64
    """
    from ..parser import parse_expression
    from ..sizes import resolve, size_value
    from . import load

    cascade = load(name)
    given = {}
    for rank, text in entry(name).recipe.items():
        value = size_value(parse_expression(text), cascade, {"LENGTH": length})
        if value != int(value) or value < 1:
            raise CascadeError(f"{name}: {rank} = {text} is {value:g} at a length of {length:,}")
        given[rank] = int(value)
    return resolve(cascade, given)


def _entry(row: Mapping[str, str], facts: Mapping[str, str]) -> Entry:
    summary, source = _head(row["name"])
    recipe = dict(item.split("=", 1) for item in row["sizes"].split())
    return Entry(
        name=row["name"],
        title=row["title"],
        summary=summary,
        source=source,
        kind=row["class"],
        over=tuple(row["over"].split()),
        recipe=MappingProxyType(recipe),
        passes=MappingProxyType(_changes(facts.get("passes", ""))),
        intensity=float(facts.get("intensity", 0.0)),
    )


def _changes(text: str) -> dict[str, Change]:
    """Return the passes in a text such as `N:2>2 D:3>1`."""
    parts = (re.split("[:>]", item) for item in text.split())
    return {rank: Change(int(naive), int(best)) for rank, naive, best in parts}


def _head(name: str) -> tuple[str, str]:
    """Return summary and source of an entry from the head of its file, without reading the rest."""
    from . import text

    lines = text(name).split("\n", 3)
    return lines[1].strip('"'), lines[2].removeprefix("source ").strip('"')


def _rows(file: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
