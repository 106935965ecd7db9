"""Compile somebody's own Triton kernel for a GPU generation without having one, and report what it takes."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from einsum_cascade.errors import KernelError, nearest

from .aot import POINTER, Build, Resources, compile_build, compiler
from .tiles import Tile

SCALARS = ("i32", "i64", "fp32")


def load_kernel(place: str) -> Any:
    """Return the Triton function at "FILE.py:name".

    The file is executed, as Python executes any module that is imported.

    Raises:
        KernelError: no such file or function, or an error while it is executed.
    """
    file, colon, name = place.rpartition(":")
    if not colon or not file or not name:
        raise KernelError(f"'{place}': expected FILE.py:KERNEL")
    path = Path(file)
    if not path.is_file():
        raise KernelError(f"{path}: no such file")
    compiler()
    return _function(_execute(path), name, path)


def _execute(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"probed_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise KernelError(f"{path}: expected a Python file, *.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, AttributeError, TypeError, ValueError) as error:
        raise KernelError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def _function(module: ModuleType, name: str, path: Path) -> Any:
    from triton.runtime.jit import JITFunction

    found = {}
    for key, value in vars(module).items():
        # Autotuner and Heuristics keep what they decorate in `fn`.
        while hasattr(value, "fn") and not isinstance(value, JITFunction) and not callable(value):
            value = value.fn
        inner = getattr(value, "fn", None)
        if isinstance(value, JITFunction):
            found[key] = value
        elif isinstance(inner, JITFunction):
            found[key] = inner
    if name not in found:
        raise KernelError(f"{path}: no kernel '{name}': {nearest(name, found)}")
    return found[name]


def parse_pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """Return NAME=VALUE words as a mapping.

    Raises:
        KernelError: a word without `=`, or a name given twice.

    >>> parse_pairs(["BLOCK=128", "x_ptr=fp16"], "--constexpr")
    {'BLOCK': '128', 'x_ptr': 'fp16'}
    """
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise KernelError(f"{option} {word}: expected NAME=VALUE")
        if name in pairs:
            raise KernelError(f"{option} {name}: given twice")
        pairs[name] = value
    return pairs


def literal(text: str) -> Any:
    """Return a compile-time value: a number, True, False, None, or else the text itself.

    >>> literal("128"), literal("True"), literal("tf32")
    (128, True, 'tf32')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def probe(
    place: str,
    *,
    target: str = "sm_90",
    constants: Mapping[str, Any] | None = None,
    arguments: Mapping[str, str] | None = None,
    warps: int = 4,
    stages: int = 3,
) -> Resources:
    """Return what a kernel takes of a GPU generation.

    Args:
        place: "FILE.py:KERNEL".
        constants: value of every `tl.constexpr` argument that has no default.
        arguments: type of the others: fp16, bf16 or fp32 for the tensor behind a pointer (`*fp16` too), i32, i64 or
            scalar:fp32 for a number. Where not given: names with "ptr" are bf16 tensors, the rest are i32. Pointers and
            strides are taken to be multiples of 16.

    Raises:
        KernelError: an argument that the kernel does not have, or a compile-time one without a value.
    """
    kernel = load_kernel(place)
    constants, arguments = dict(constants or {}), dict(arguments or {})
    for name in (*constants, *arguments):
        if name not in kernel.arg_names:
            raise KernelError(f"{place}: no argument '{name}': {nearest(name, kernel.arg_names)}")
    for parameter in kernel.params:
        if parameter.is_constexpr and parameter.name not in constants:
            if not parameter.has_default:
                raise KernelError(f"{place}: --constexpr {parameter.name}=... is missing")
            constants[parameter.name] = parameter.default
    types = {n: _type(n, arguments.get(n)) for n in kernel.arg_names if n not in constants}
    pointers = {n: t for n, t in types.items() if t.startswith("*") or t not in ("i32", "fp32")}
    build = Build(
        kernel=place.rpartition(":")[2], variant="probed", head_dim=0, dtype="", tile=Tile(16, 16, warps, stages),
        function=kernel, pointers=pointers, floats=tuple(n for n, t in types.items() if t == "fp32"),
        aligned=tuple(n for n in types if "stride" in n and types[n] == "i32"), constants=constants,
    )  # fmt: skip
    return compile_build(build, target)


def _type(name: str, given: str | None) -> str:
    if given is None:
        return "*bf16" if "ptr" in name.lower() else "i32"
    if given.startswith("scalar:"):
        given = given.removeprefix("scalar:")
        if given in SCALARS:
            return given
    elif given in ("i32", "i64"):
        return given
    elif given.removeprefix("*") in POINTER:
        return POINTER[given.removeprefix("*")]
    raise KernelError(
        f"--arg {name}={given}: expected fp16, bf16, fp32 (tensors), i32, i64 or scalar:fp32 (numbers)"
    )
