"""Compile somebody's own Triton kernel for a GPU generation without having one, and report what it takes."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from einsum_cascade.errors import KernelError, nearest
from einsum_cascade.terminal import note

from . import offline
from .aot import POINTER, TARGETS, Build, Resources, compile_build, compiler
from .steps import alone, blocks_per_sm, busiest, rates, step_cycles
from .tiles import Tile

SCALARS = ("i32", "i64", "fp32")
# What a tensor may hold, as Triton writes it; an index, say, is *i32.
WORDS = (
    "u1", "i1", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64",
    "fp8e4nv", "fp8e5", "fp16", "bf16", "fp32", "fp64",
)  # fmt: skip
# Source: CUDA C++ Programming Guide, technical specifications per compute capability.
MOST_THREADS = 1024
# Of a number that is always a multiple of 16, as Triton's own ahead-of-time compiler writes it: launches find that out.
_MULTIPLE = ":16"


@dataclass(frozen=True, slots=True)
class Assessment:
    """What compiled resources mean for the GPU generation that they were compiled for.

    Attributes:
        blocks_per_sm: thread blocks that an SM holds at a time; 0 where not even one fits.
        occupancy: resident warps over the most that an SM holds.
        bound_by: the busiest pipe of one step.
        masked_tile_factor: time of a step over a masked tile over that of a whole tile; None where the kernel has not
            two loops that multiply tiles of the same size.
        warnings: what would make the kernel slow, or keep it from running; empty where nothing would.
    """

    blocks_per_sm: int
    occupancy: float
    bound_by: str
    masked_tile_factor: float | None
    warnings: tuple[str, ...]


def assess(r: Resources) -> Assessment:
    """Return what compiled resources mean: residency, the busiest pipe, the price of a masked tile, warnings."""
    machine = rates(TARGETS[r.target])
    resident = blocks_per_sm(r, machine)
    cycles = step_cycles(r, machine)
    factor = None
    whole, masked = r.full_loop, r.masked_loop
    if whole is not masked and whole and masked and whole.pipes["tensor"] == masked.pipes["tensor"] > 0:
        factor = alone(step_cycles(r, machine, masked=True)) / alone(cycles)
    occupancy = resident * r.tile.warps / machine.warps
    return Assessment(resident, occupancy, busiest(cycles), factor, tuple(_warnings(r, resident)))


def _warnings(r: Resources, resident: int) -> Iterator[str]:
    machine = rates(TARGETS[r.target])
    if r.shared_bytes > machine.shared_bytes_per_block:
        yield (
            f"it takes {r.shared_bytes / 1024:.0f} KiB of shared memory, more than the "
            f"{machine.shared_bytes_per_block / 1024:.0f} KiB that a block of {r.target} may have: it will not launch"
        )
    elif not resident:
        yield f"no thread block fits on an SM of {r.target}: it will not launch"
    if not r.spills:
        return
    block_bytes = r.stack_bytes * 32 * r.tile.warps
    yield f"registers spill: {r.stack_bytes} bytes a thread in memory, {r.totals['local']} loads and stores of them"
    if block_bytes > machine.shared_bytes_per_sm - r.shared_bytes:
        yield (
            f"collapse: the spilled {block_bytes / 1024:.0f} KiB a block do not fit in the L1 cache; expect a small "
            "fraction of the speed, and take a smaller tile or more warps"
        )


def load_kernel(place: str) -> Any:
    """Return the Triton function at "FILE.py:name".

    The file is executed as `python FILE.py` does it, its folder first on the path and with a GPU to ask for; one that
    goes on to use it fails there, and what it has defined before that is found.

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
    module, failure = _execute(path)
    found = _kernels(module)
    if name in found:
        if failure is not None:
            note(f"{_told(path, failure)}; the kernel was defined before that")
        return found[name]
    if failure is not None:
        raise KernelError(_told(path, failure)) from failure
    raise KernelError(f"{path}: no kernel '{name}': {nearest(name, found)}")


def _execute(path: Path) -> tuple[ModuleType, BaseException | None]:
    """Return the module of a file, as far as it came, and what stopped it."""
    spec = importlib.util.spec_from_file_location(f"probed_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise KernelError(f"{path}: expected a Python file, *.py")
    found = importlib.util.module_from_spec(spec)
    try:
        with _device_to_ask():
            whole = _of_package(path)
            if whole is None:
                with mock.patch.object(sys, "path", [str(path.resolve().parent), *sys.path]):
                    spec.loader.exec_module(found)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # The file is a stranger's, who raises what he likes.
        return found, error
    return whole or found, None


def _told(path: Path, error: BaseException) -> str:
    """Return in one line what a file raised while it was executed, and at which of its lines."""
    steps = traceback.extract_tb(error.__traceback__)
    lines = [s.lineno for s in steps if s.lineno and Path(s.filename).resolve() == path.resolve()]
    place = f"{path}:{lines[-1]}" if lines else str(path)
    if isinstance(error, SystemExit):
        return f"{place}: it ends the program while it is loaded (exit {error.code})"
    return f"{place}: {type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _device_to_ask() -> Iterator[None]:
    """Let a file ask Triton for its device where none is: many do in their first lines, before any kernel."""
    import torch
    from triton.runtime import driver

    if torch.cuda.is_available():
        yield
        return
    with mock.patch.object(driver, "_active", offline.StandIn(TARGETS["sm_90"])):
        yield


def _of_package(path: Path) -> ModuleType | None:
    """Import a file that lies in a package, so that its relative imports work; None where it lies in none."""
    folder = path.resolve().parent
    names = [] if path.stem == "__init__" else [path.stem]
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    if folder == path.resolve().parent:
        return None
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        found = importlib.import_module(".".join(names))
    # Another package of that name may be loaded already.
    return found if Path(found.__file__ or "").resolve() == path.resolve() else None


def _kernels(module: ModuleType) -> dict[str, Any]:
    """Return the Triton functions of a module by name, of those that are tuned the function itself."""
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
    return found


def parse_pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """Return NAME=VALUE words as a mapping; several may stand in one word, parted by commas.

    Raises:
        KernelError: a word without `=`, or a name given twice.

    >>> parse_pairs(["BM=128,BN=64", "x_ptr=fp16"], "--constexpr")
    {'BM': '128', 'BN': '64', 'x_ptr': 'fp16'}
    """
    pairs: dict[str, str] = {}
    for word in (part for whole in words for part in whole.split(",")):
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


def probe(place: str, *, target: str = "sm_90", **given: Any) -> Resources:
    """Return what a kernel takes of a GPU generation.

    Args:
        place: "FILE.py:KERNEL".
        **given: constants, arguments, warps, stages, as `prepared` takes them.

    Raises:
        KernelError: an argument that the kernel does not have, or a compile-time one without a value.
    """
    return compile_build(prepared(place, **given), target)


def prepared(
    place: str,
    *,
    constants: Mapping[str, Any] | None = None,
    arguments: Mapping[str, str] | None = None,
    warps: int = 4,
    stages: int = 3,
) -> Build:
    """Return a kernel with the values and types of all its arguments, ready to be compiled.

    Args:
        place: "FILE.py:KERNEL".
        constants: value of every `tl.constexpr` argument that has no default.
        arguments: type of the others: fp16, bf16 or fp32 for the tensor behind a pointer (`*fp16` too), i32, i64 or
            scalar:fp32 for a number, i32:16 for one that is always a multiple of 16; *i32 and other words of Triton for
            a tensor of them. Where not given: as the kernel annotates it; else what it loads from or stores to is a
            bf16 tensor, a number with a default that is a fraction is fp32, the rest are i32. Pointers and strides are
            taken to be multiples of 16.

    Raises:
        KernelError: an argument that the kernel does not have, or a compile-time one without a value.
    """
    if 32 * warps > MOST_THREADS:
        raise KernelError(f"warps={warps}: a thread block has at most {MOST_THREADS // 32} of 32 threads")
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
    found = pointers_of(kernel.src, functions=_functions(kernel))
    types = {
        p.name: _type(p.name, arguments.get(p.name), p.name in found, hint=_hint(p))
        for p in kernel.params
        if p.name not in constants
    }
    multiples = {n for n, t in types.items() if t.endswith(_MULTIPLE)}
    types = {n: t.removesuffix(_MULTIPLE) for n, t in types.items()}
    pointers = {n: t for n, t in types.items() if t.startswith("*") or t not in ("i32", "fp32")}
    return Build(
        kernel=place.rpartition(":")[2], variant="probed", head_dim=0, dtype="", tile=Tile(16, 16, warps, stages),
        function=kernel, pointers=pointers, floats=tuple(n for n, t in types.items() if t == "fp32"),
        aligned=tuple(n for n in types if n in multiples or ("stride" in n and types[n] == "i32")),
        constants=constants,
    )  # fmt: skip


def _functions(kernel: Any) -> dict[str, Any]:
    """Return the Triton functions that a kernel may call, by the names that its file has for them."""
    from triton.runtime.jit import JITFunction

    found: dict[str, Any] = {}
    for name, value in kernel.fn.__globals__.items():
        if isinstance(value, ModuleType) and not value.__name__.startswith("triton"):
            found |= {f"{name}.{n}": f for n, f in vars(value).items() if isinstance(f, JITFunction)}
        elif isinstance(value, JITFunction):
            found[name] = value
    return found


def pointers_of(source: str, *, functions: Mapping[str, Any] | None = None) -> set[str]:
    r"""Return the parameters at the root of every address that a kernel's source loads from or stores to.

    Args:
        functions: others that it may call, each with its `src`; what they take as pointers are pointers here.

    >>> sorted(pointers_of("def f(X, Y, n):\n p = X + n\n tl.store(Y + n, tl.load(p))"))
    ['X', 'Y']
    """
    return _roots(source, functions or {}, frozenset())


def _roots(source: str, functions: Mapping[str, Any], above: frozenset[int]) -> set[str]:
    values: dict[str, list[ast.expr]] = {}
    addresses: list[ast.expr] = []
    parameters: set[str] = set()
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if isinstance(node, ast.arg):
            parameters.add(node.arg)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values.setdefault(node.targets[0].id, []).append(node.value)
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _addresses(node.func.attr)
        ):
            addresses += node.args[:1] or [k.value for k in node.keywords if k.arg in ("base", "pointer")]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in functions:
            addresses += _handed_on(node, functions[ast.unparse(node.func)], above)
    roots: set[str] = set()
    while addresses:
        place = addresses.pop()
        while isinstance(place, ast.BinOp):
            place = place.left if not isinstance(place.left, ast.Constant) else place.right
        if isinstance(place, ast.IfExp):
            addresses += [place.body, place.orelse]
        elif isinstance(place, ast.Name) and place.id not in roots:
            roots.add(place.id)
            addresses += values.get(place.id, [])
    return roots & parameters


def _handed_on(call: ast.Call, called: Any, above: frozenset[int]) -> list[ast.expr]:
    """Return the arguments that a called function takes as pointers; nothing of one that is being looked at."""
    if id(called) in above:
        return []
    inside = _roots(called.src, _functions(called), above | {id(called)})
    given = dict(zip(called.arg_names, call.args, strict=False))
    given |= {k.arg: k.value for k in call.keywords if k.arg}
    return [value for name, value in given.items() if name in inside]


def _addresses(call: str) -> bool:
    return call in ("load", "store", "make_block_ptr", "make_tensor_descriptor") or call.startswith("atomic_")


def _hint(parameter: Any) -> str:
    """Return the type that a parameter's annotation or default tells, or no word; Triton itself obeys the former."""
    if (told := parameter.annotation_type.replace("*k", "*")).removeprefix("*") in (*WORDS, *SCALARS):
        return str(told)
    return "fp32" if parameter.has_default and isinstance(parameter.default, float) else ""


def _type(name: str, given: str | None, addressed: bool, *, hint: str = "") -> str:
    if given is None:
        return hint or ("*bf16" if addressed or "ptr" in name.lower() else "i32")
    if given.startswith("scalar:"):
        given = given.removeprefix("scalar:")
        if given in SCALARS:
            return given
    elif given.removesuffix(_MULTIPLE) in ("i32", "i64"):
        return given
    elif given.removeprefix("*") in POINTER:
        return POINTER[given.removeprefix("*")]
    elif given.startswith("*") and given.removeprefix("*") in WORDS:
        return given
    raise KernelError(
        f"--arg {name}={given}: expected fp16, bf16, fp32, *i32 ... (tensors), i32, i64, i32:16, scalar:fp32 (numbers)"
    )
