"""Where names of a written kernel hold: Triton forgets after a loop what was first named inside it."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Sequence


def lost_name(source: str, known: Collection[str]) -> str | None:
    r"""Return the first name of a Triton function that is read where nothing has defined it, or None.

    Args:
        source: of one function.
        known: names of its module.

    >>> lost_name("def f(x_ptr):\n  for i in range(0, 4):\n    y = i\n  g(y)", ("g",))
    'y'
    >>> lost_name("def f(x_ptr):\n  y = 0\n  for i in range(0, 4):\n    y = y + i\n  g(y)", ("g",)) is None
    True
    """
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    own = {a.arg for a in function.args.args}
    return _lost(function.body, own | set(known) | set(dir(builtins)))


def _lost(lines: Sequence[ast.stmt], defined: set[str]) -> str | None:
    """Return the first name that is read undefined; what the lines define at their own level is added."""
    for line in lines:
        loop = line if isinstance(line, ast.For) else None
        found = next((n for n in _read(loop.iter if loop else line) if n not in defined), None)
        if found is None and loop:
            found = _lost(loop.body, defined | _named(loop.target))
        if found is not None:
            return found
        if loop is None:
            defined |= _named(line)
    return None


def _read(node: ast.AST) -> list[str]:
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]


def _named(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
