"""The simulator knows no Einsum, cascade, chip or mapping by name: what varies is a data file."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import mappings.files
import simulator
from einsum_cascade import zoo
from simulator.hardware.reader import names

ROOT = Path(simulator.__file__).parent
MODULES = sorted([*(ROOT / "spatial").glob("*.py"), *(ROOT / "hardware").glob("*.py")])


@functools.cache
def forbidden():
    found = {*zoo.names(), *names(), *mappings.files.names("spatial")}
    for name in zoo.names():
        cascade = zoo.load(name)
        found |= {e.name for e in cascade.einsums} | set(cascade.signatures)
    return frozenset(found)


def constants(tree):
    """Strings of a module outside of docstrings and other bare strings."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value, node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_name_stands_in_the_code(path):
    known = forbidden()
    found = [(text, line) for text, line in constants(ast.parse(path.read_text())) if text in known]
    assert not found
