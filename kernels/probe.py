"""Compile somebody's own Triton kernel for a GPU generation without having one, and report what it takes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from einsum_cascade.errors import KernelError, nearest
from einsum_cascade.terminal import note

from . import offline
from .aot import TARGETS, Build, Resources, argument_type, compile_build, compiler
from .arguments import MULTIPLE, constant_of, descriptors_of, functions_of, guess, hint, pointers_of, type_of
from .steps import alone, blocks_per_sm, busiest, rates, step_cycles
from .tiles import Tile
from .told import told

# Source: CUDA C++ Programming Guide, technical specifications per compute capability.
MOST_THREADS = 1024
MOST_STAGES = 1024  # more than any memory holds, and a number that the compiler takes


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
    two = sum(not loop.remainder for loop in r.loops) > 1 and not r.specialised_warps
    if two and whole and masked and whole.pipes["tensor"] == masked.pipes["tensor"] > 0:
        factor = alone(step_cycles(r, machine, masked=True)) / alone(cycles)
    occupancy = resident * r.warps / machine.warps
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
    block_bytes = r.stack_bytes * 32 * r.warps
    yield f"registers spill: {r.stack_bytes} bytes a thread in memory, {r.totals['local']} loads and stores of them"
    if block_bytes > machine.shared_bytes_per_sm - r.shared_bytes:
        yield (
            f"collapse: the spilled {block_bytes / 1024:.0f} KiB a block do not fit in the L1 cache; expect a small "
            "fraction of the speed, and take a smaller tile or more warps"
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """A Triton function of a file.

    Attributes:
        configurations: what it is tuned over; empty where it is not.
        types: of its arguments, where PyTorch's compiler wrote the file.
    """

    function: Any
    configurations: tuple[Any, ...]
    types: Mapping[str, str]


def load_kernel(place: str) -> Loaded:
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
            note(f"{told(path, failure)}; the kernel was defined before that")
        return found[name]
    if failure is not None:
        raise KernelError(told(path, failure)) from failure
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


@contextmanager
def _device_to_ask() -> Iterator[None]:
    """Let a file ask Triton for its device where none is: many do in their first lines, before any kernel."""
    import torch
    import triton
    from triton.runtime import driver

    if torch.cuda.is_available():
        yield
        return
    backends = triton.backends.backends
    standing_in = replace(backends["nvidia"], driver=offline.StandIn)
    with (
        mock.patch.object(driver, "_active", offline.StandIn(TARGETS["sm_90"])),
        mock.patch.dict(backends, {"nvidia": standing_in}),
    ):
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


def _kernels(module: ModuleType) -> dict[str, Loaded]:
    """Return the Triton functions of a module by name, without what tunes or specialises them."""
    from triton.runtime.jit import JITFunction, KernelInterface

    found = {}
    for key, value in vars(module).items():
        configurations: tuple[Any, ...] = ()
        types: dict[str, str] = {}
        # Autotuner, Heuristics and PyTorch's own tuner keep what they decorate in `fn`.
        while isinstance(value, KernelInterface) and not isinstance(value, JITFunction):
            configurations += tuple(getattr(value, "configs", ()))
            types |= getattr(value, "triton_meta", {}).get("signature", {})
            value = getattr(value, "fn", None)
        if isinstance(value, JITFunction):
            found[key] = Loaded(value, configurations, types)
    return found


def probe(place: str, *, target: str = "sm_90", **given: Any) -> Resources:
    """Return what a kernel takes of a GPU generation.

    Args:
        place: "FILE.py:KERNEL".
        **given: constants, arguments, warps, stages, as `prepared` takes them.

    Raises:
        KernelError: an argument that the kernel does not have, or a compile-time one without a value.
    """
    return compiled(prepared(place, **given), target)


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
        constants: value of every `tl.constexpr` argument that has no default; `tl.float16` in words is the type.
        arguments: type of the others: fp16, bf16 or fp32 for the tensor behind a pointer (`*fp16` too), i32, i64 or
            scalar:fp32 for a number, i32:16 for one that is always a multiple of 16; *i32 and other words of Triton for
            a tensor of them; fp16[ROWS,COLUMNS] for a descriptor that the host makes, by its block in numbers or
            compile-time names. Where not given: as the kernel annotates it; else what it loads from or stores to is a
            bf16 tensor, a number with a default that is a fraction is fp32, the rest are i32. Pointers and strides are
            taken to be multiples of 16.

    Raises:
        KernelError: an argument that the kernel does not have, or a compile-time one without a value; a Gluon kernel.
    """
    if 32 * warps > MOST_THREADS:
        raise KernelError(f"warps={warps}: a thread block has at most {MOST_THREADS // 32} of 32 threads")
    if not 1 <= stages <= MOST_STAGES:
        raise KernelError(f"stages={stages}: expected a depth of 1 to {MOST_STAGES} steps")
    loaded = load_kernel(place)
    kernel, arguments = loaded.function, dict(arguments or {})
    constants = {n: constant_of(n, v) for n, v in (constants or {}).items()}
    if kernel.is_gluon():
        raise KernelError(
            f"{place}: a Gluon kernel, whose steps are not read here; expected one of @triton.jit"
        )
    for name in (*constants, *arguments):
        if name not in kernel.arg_names:
            raise KernelError(f"{place}: no argument '{name}': {nearest(name, kernel.arg_names)}")
    constants |= _defaults(place, loaded, constants)
    types = _told_types(place, loaded, constants, arguments)
    silent = [p.name for p in kernel.params if p.name not in constants and p.name not in types]
    addressed = pointers_of(kernel.src, functions=functions_of(kernel))
    types |= {name: guess(name, addressed=name in addressed) for name in silent}
    multiples = {n for n, t in types.items() if t.endswith(MULTIPLE)}
    types = {n: t.removesuffix(MULTIPLE) for n, t in types.items()}
    pointers = {n: t for n, t in types.items() if t not in ("i32", "fp32")}
    multiples |= {n for n, t in types.items() if "stride" in n and t in ("i32", "i64")} - _unspecialised(
        kernel
    )
    return Build(
        kernel=place.rpartition(":")[2], variant="probed", head_dim=0, dtype="", tile=Tile(16, 16, warps, stages),
        function=kernel, pointers=pointers, floats=tuple(n for n, t in types.items() if t == "fp32"),
        aligned=tuple(n for n in types if n in multiples),
        constants=constants, assumed=tuple(silent),
    )  # fmt: skip


def _unspecialised(kernel: Any) -> set[str]:
    """Return the arguments of which a launch does not find out whether they are multiples of 16."""
    return {p.name for p in kernel.params if p.do_not_specialize or p.do_not_specialize_on_alignment}


def _defaults(place: str, loaded: Loaded, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by default of those compile-time arguments that are not given."""
    silent = [p for p in loaded.function.params if p.is_constexpr and p.name not in given]
    if lacking := [f"{p.name}=..." for p in silent if not p.has_default]:
        verb = "is" if len(lacking) == 1 else "are"
        tuned = _first(loaded.configurations)
        raise KernelError(f"{place}: --constexpr {','.join(lacking)} {verb} missing{tuned}")
    return {p.name: p.default for p in silent}


def _first(configurations: Sequence[Any]) -> str:
    """Return what the first configuration of a tuned kernel has, as words after a message."""
    if not configurations:
        return ""
    first = configurations[0]
    words = ",".join(f"{name}={value}" for name, value in first.kwargs.items())
    return (
        f"; the first it is tuned over is {words} with --warps {first.num_warps} --stages {first.num_stages}"
    )


def _told_types(
    place: str, loaded: Loaded, constants: Mapping[str, Any], given: Mapping[str, str]
) -> dict[str, str]:
    """Return the types that somebody tells of arguments which are not compile-time ones."""
    kernel, types = loaded.function, {}
    described = descriptors_of(kernel.src) - pointers_of(kernel.src, functions=functions_of(kernel))
    for p in (p for p in kernel.params if p.name not in constants):
        if p.name in given:
            types[p.name] = type_of(p.name, given[p.name], constants)
        elif told := loaded.types.get(p.name) or hint(p):
            types[p.name] = told
        elif p.name in described:
            raise KernelError(
                f"{place}: '{p.name}' is a tensor descriptor; expected its words and block, such as "
                f"--arg '{p.name}=fp16[ROWS,COLUMNS]', in numbers or compile-time names"
            )
    return types


def assumed_types(build: Build) -> dict[str, str]:
    """Return the types of those arguments of which nobody says anything."""
    return {name: argument_type(build, name) for name in build.assumed}


def assumed_strides(build: Build) -> tuple[str, ...]:
    """Return the strides of which nobody says anything, taken to be multiples of 16: where one is 1, that misleads."""
    return tuple(n for n in build.assumed if n in build.aligned)


def assumed_numbers(build: Build) -> tuple[str, ...]:
    """Return the whole numbers of which nobody says anything, taken to be any: a launch looks whether 16 divides them.

    Those that Triton is told not to look at are left out.
    """
    kept = _unspecialised(build.function)
    names = (n for n in build.assumed if n not in build.aligned and n not in kept)
    return tuple(n for n in names if argument_type(build, n) in ("i32", "i64"))


def compiled(build: Build, target: str) -> Resources:
    """Return what a prepared kernel takes of a GPU generation.

    Raises:
        KernelError: the compiler refuses; the types that were assumed stand below what it says.
    """
    try:
        return compile_build(build, target)
    except KernelError as error:
        if not build.assumed:
            raise
        taken = ", ".join(f"{name} {type_}" for name, type_ in assumed_types(build).items())
        raise KernelError(f"{error}\ntypes taken without --arg: {taken}") from error
