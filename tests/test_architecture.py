"""The house keeps its shape: file lengths, forbidden imports, a command line that starts at once."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("einsum_cascade", "mappings", "simulator", "kernels", "validation")
MAX_LINES = 420  # "about 400": a file that resists is redesigned, not cut at a line

# Libraries that may be imported at the top of a module only in these places; elsewhere they load where used, or never.
ONLY_IN = {
    "torch": ("kernels/",),
    "triton": ("kernels/",),
    "pydantic": ("mappings/", "simulator/hardware/"),
    "ruamel": ("mappings/", "simulator/hardware/"),
    "pint": ("mappings/", "simulator/hardware/"),
    "matplotlib": ("plots.py", "draw.py"),
    "sympy": ("einsum_cascade/analysis/", "einsum_cascade/rewrite/", "einsum_cascade/backward/"),
}
NEVER_IN = {
    "torch": ("simulator/", "mappings/"),
    "triton": ("simulator/", "mappings/", "einsum_cascade/"),
}
# Loading one of these takes longer than the whole command line may.
HEAVY = ("torch", "triton", "sympy", "matplotlib", "pandas", "numpy", "networkx", "scipy")


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", sorted(sources()), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_short_says_what_it_is_and_imports_what_it_may(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    place = str(path.relative_to(ROOT))
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(tree), "one line at the head says what the file is"
    for library in imported(
        ast.Module(body=[n for n in tree.body if not _type_checking(n)], type_ignores=[])
    ):
        assert not any(place.startswith(p) for p in NEVER_IN.get(library, ())), library
    top = ast.Module(
        body=[n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))], type_ignores=[]
    )
    for library in imported(top):
        allowed = ONLY_IN.get(library)
        assert allowed is None or any(place.startswith(a) or place.endswith(a) for a in allowed), library


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda p: p.name)
def test_only_what_triton_compiles_has_no_types(path: Path) -> None:
    """mypy is told to be quiet about bodies for Triton by module, which would hide other functions beside them."""
    functions = (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if _is_python(n))
    bare = [f.name for f in functions if f.returns is None or not all(map(_typed, _arguments(f)))]
    assert bare == []


def _is_python(node: ast.AST) -> TypeGuard[ast.FunctionDef]:
    """Whether a node is a function that Python runs: not one that is decorated for Triton."""
    made = isinstance(node, ast.FunctionDef)
    return made and not any("triton.jit" in ast.unparse(d) for d in node.decorator_list)


def _arguments(function: ast.FunctionDef) -> list[ast.arg]:
    a = function.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]


def _typed(argument: ast.arg) -> bool:
    return argument.annotation is not None or argument.arg in ("self", "cls")


def _type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_no_top_level_package_was_added() -> None:
    found = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert found == set(PACKAGES)


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, validation.cli; print([m for m in sys.argv[1:] if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("name", PACKAGES)
def test_completion_shows_the_face(name: str) -> None:
    """What is loaded when first used has to be listed before."""
    package = importlib.import_module(name)
    assert dir(package) == sorted(package.__all__)
    assert all(hasattr(package, n) for n in dir(package))


def test_no_path_of_a_machine_in_the_project() -> None:
    """Absolute paths of a developer's machine have no place in what is shipped."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    prefixes = ["/" + name + "/" for name in ("work", "root", "home", "Users")]
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".yaml", ".toml", ".cascade", ".ipynb"}
            and path.name != Path(__file__).name
        ):
            text = path.read_text(encoding="utf-8")
            found += [f"{name}: {p}" for p in prefixes if f'"{p}' in text or f" {p}" in text]
    assert not found


@pytest.mark.slow
def test_help_is_printed_and_ends_well() -> None:
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", "validation", "--help"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0
    assert "describe" in ran.stdout.lower()
    assert time.perf_counter() - start < 30  # a hang, not a speed target: `make bench` measures the start
