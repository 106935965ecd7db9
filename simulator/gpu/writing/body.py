"""The lines of a kernel: nested loops, what each scope has defined, and names that nothing else has."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

_INDENT = "    "
# Kernels of one plan have most of their lines in common, and thousands of them are written before one is chosen.
_KNOWN_LINES = 1 << 14
# Names that a written kernel uses itself.
TAKEN = frozenset(
    {*keyword.kwlist, "tl", "triton", "torch", "pid", "batch", "range", "float", "min", "max", "sum"}
)


@lru_cache(maxsize=_KNOWN_LINES)
def tidy(line: str) -> str:
    """Return a statement without the brackets that it can do without.

    >>> tidy('x = (((a * b)) + tl.full([4], float("inf"), tl.float32))')
    'x = a * b + tl.full([4], float("inf"), tl.float32)'
    """
    inner = line.lstrip(" ")
    if inner.startswith("for "):
        return line
    return line[: len(line) - len(inner)] + ast.unparse(ast.parse(inner)).replace("'", '"')


@dataclass
class Scope:
    """The body of a loop, or of the kernel.

    Attributes:
        defines: rank variables that get their values there.
        known: what it has worked out so far, by what it was asked for.
    """

    defines: frozenset[str]
    lines: list[str] = field(default_factory=list)
    known: dict[Any, Any] = field(default_factory=dict)


class Body:
    """Lines in nested scopes, outermost first.

    Args:
        taken: names that are in use before the first line.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        """See the class."""
        self._names = {*taken, *TAKEN}
        self.scopes = [Scope(frozenset())]
        self._at: Scope | None = None

    def fresh(self, wanted: str) -> str:
        """Return a name like the one that is wanted, which nothing has so far."""
        name, n = wanted, 1
        while name in self._names:
            n += 1
            name = f"{wanted}_{n}"
        self._names.add(name)
        return name

    @contextmanager
    def inside(self, scope: Scope) -> Iterator[None]:
        """Add lines to a scope, in place of the innermost one."""
        before, self._at = self._at, scope
        try:
            yield
        finally:
            self._at = before

    def line(self, text: str) -> None:
        """Add a line."""
        (self._at or self.scopes[-1]).lines.append(text)

    def let(self, wanted: str, text: str) -> str:
        """Give a value a name, which is returned."""
        name = self.fresh(wanted)
        self.line(f"{name} = {text}")
        return name

    def scope_of(self, variables: Iterable[str]) -> Scope:
        """Return the outermost scope in which all of some variables have values."""
        wanted = set(variables)
        return next((s for s in reversed(self.scopes) if s.defines & wanted), self.scopes[0])

    def open(self, defines: Iterable[str]) -> None:
        """Begin a loop that gives some variables their values."""
        self.scopes.append(Scope(frozenset(defines)))

    def close(self, header: str) -> None:
        """End the innermost loop."""
        inner = self.scopes.pop()
        self.scopes[-1].lines.append(header)
        for text in inner.lines:
            self.scopes[-1].lines.append(_INDENT + text)

    @property
    def text(self) -> str:
        """The lines of the kernel as the body of a function, without brackets that they can do without."""
        return "\n".join(_INDENT + tidy(text) for text in self.scopes[0].lines)
