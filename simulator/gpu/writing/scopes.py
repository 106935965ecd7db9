"""Where names of a written kernel hold: Triton forgets after a loop what was first named inside it."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

_BUILT_IN = frozenset(dir(builtins))
# Kernels of one plan have most of their lines in common, and thousands of them are looked at before one is chosen.
_KNOWN_LINES = 1 << 14


@dataclass(frozen=True, slots=True)
class _Line:
    """A statement, or the head of a loop, by the names that it reads and that it defines."""

    read: tuple[str, ...]
    named: frozenset[str]
    is_loop: bool


def lost_name(source: str, known: Collection[str]) -> str | None:
    r"""Return the first name of a Triton function that is read where nothing has defined it, or None.

    Args:
        source: of one function, a statement a line.
        known: names of its module.

    >>> lost_name("def f(x_ptr):\n  for i in range(0, 4):\n    y = i\n  g(y)", ("g",))
    'y'
    >>> lost_name("def f(x_ptr):\n  y = 0\n  for i in range(0, 4):\n    y = y + i\n  g(y)", ("g",)) is None
    True
    """
    lines = source.splitlines()
    end = 1 + next(i for i, line in enumerate(lines) if line.endswith("):"))
    (function,) = ast.parse("\n".join((*lines[:end], " pass"))).body
    assert isinstance(function, ast.FunctionDef)
    own = {a.arg for a in function.args.args}
    return _lost([line for line in lines[end:] if line.strip()], own | set(known))


def _lost(lines: Sequence[str], defined: set[str]) -> str | None:
    """Return the first name that is read undefined; what the lines define at their own level is added."""
    at = 0
    while at < len(lines):
        line, depth = _line(lines[at].strip()), _depth(lines[at])
        at += 1
        found = next((n for n in line.read if n not in defined and n not in _BUILT_IN), None)
        if line.is_loop:
            inside = _deeper(lines[at:], depth)
            at += len(inside)
            found = found or _lost(inside, defined | line.named)
        else:
            defined |= line.named
        if found is not None:
            return found
    return None


def _deeper(lines: Sequence[str], depth: int) -> list[str]:
    """Return the lines before the first one that is no deeper."""
    return list(takewhile(lambda line: _depth(line) > depth, lines))


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


@lru_cache(maxsize=_KNOWN_LINES)
def _line(text: str) -> _Line:
    (node,) = ast.parse(f"{text} pass" if text.startswith("for ") else text).body
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    read = dict.fromkeys(n.id for n in names if isinstance(n.ctx, ast.Load))
    named = frozenset(n.id for n in names if isinstance(n.ctx, ast.Store))
    return _Line(tuple(read), named, isinstance(node, ast.For))
