"""Write what the compiler made of somebody's own kernel as a description that `cascade predict --mapping` takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from einsum_cascade.errors import DataError, MappingError, nearest
from mappings.compiled import builds_for
from mappings.expression import names_in
from mappings.gpu import KernelMapping
from mappings.grids import RESERVED, SIZES
from mappings.reader import build, dump_yaml
from mappings.tiles import LoopWork

from . import sass
from .aot import WORD_BYTES, Resources
from .arguments import word_of

# Of whose measured constants a kernel without rows of its own is likest: code of the same compiler.
FAMILY = "triton_attention"
# Compute capabilities of data-centre and desktop cards.
_WORDS = {"fp8": 1} | WORD_BYTES
_KNOWN = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "sm_121")


@dataclass(frozen=True, slots=True)
class Shape:
    """What no compiler knows of a kernel: expressions over the sizes of a call and the compile-time numbers.

    Attributes:
        blocks: thread blocks of a launch; `steps`: passes of block i through the main loop.
        reads, writes: bytes of a launch, each address once.
    """

    blocks: str = "1"
    steps: str = "1"
    reads: str = "0"
    writes: str = "0"


def sizes_of(pairs: Mapping[str, str], constants: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes that a kernel has of its own, such as the rows of a matrix, from NAME=VALUE.

    Raises:
        MappingError: a name that means something else already, or no positive whole number.
    """
    found = {}
    for name, text in pairs.items():
        if name in (*SIZES, *RESERVED, *constants):
            raise MappingError(f"--sizes: '{name}' is a name already; call the size of your kernel otherwise")
        if not (name.isidentifier() and text.isdecimal() and int(text) > 0):
            raise MappingError(f"--sizes {name}={text}: expected a name and a positive whole number")
        found[name] = int(text)
    return found


def check_shape(shape: Shape, constants: Mapping[str, Any], sizes: Iterable[str] = ()) -> None:
    """Refuse expressions that no call could be counted by.

    Args:
        sizes: names of those that a kernel has of its own.

    Raises:
        MappingError: no expression, a name that neither a call nor the kernel has, or a compile-time number whose name
            means something else there.
    """
    numbers = _numbers(constants)
    for option, text in asdict(shape).items():
        known = {*SIZES, *numbers, *sizes, "word", "group"} | ({"i"} if option == "steps" else set())
        for name in sorted(names_in(text, where=f"--{option}")):
            if name not in known:
                own = "" if name in RESERVED else f" (--sizes {name}=4096 makes it a size of its own)"
                raise MappingError(f"--{option}: unknown name '{name}'; {nearest(name, known)}{own}")
            if name in RESERVED and name in numbers:
                raise MappingError(
                    f"--{option}: '{name}' is not the kernel's here; write its value, {numbers[name]}"
                )


def _numbers(constants: Mapping[str, Any]) -> dict[str, int]:
    """Return the compile-time values that are whole numbers, or yes and no."""
    return {n: int(v) for n, v in constants.items() if isinstance(v, int) and v >= 0}


def _types(pointers: Mapping[str, str]) -> list[str]:
    """Return the types of the tensors, the narrowest first: those of its operands, where sums are wider."""
    words = {"fp8" if str(w).startswith("fp8") else w for w in map(word_of, pointers.values())}
    return sorted((t for t in _WORDS if t in words), key=lambda t: (_WORDS[t], t))


def _products(r: Resources, types: Sequence[str]) -> float:
    """Return the products of a step in units of the type of a call, at whose rate they are priced."""
    return r.work.product_flops * 2 / _WORDS[types[0]] if types else r.work.product_flops


def mapping_of(
    r: Resources,
    *,
    place: str,
    constants: Mapping[str, Any],
    shape: Shape,
    sizes: Mapping[str, Any] | None = None,
) -> KernelMapping:
    """Return a compiled kernel as a mapping that `simulator.predict` takes; arguments as of `description`."""
    return _built(description(r, place=place, constants=constants, shape=shape, sizes=sizes), place)


def description(
    r: Resources,
    *,
    place: str,
    constants: Mapping[str, Any],
    shape: Shape,
    sizes: Mapping[str, Any] | None = None,
    pointers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a kernel mapping as plain data: one grid, the resources, the work of a step of the main loop.

    Args:
        r: as `probe` returns them.
        place: where the kernel stands, for the source.
        constants: compile-time arguments; the whole numbers become parameters, by which expressions may be written.
        shape: expressions, see `check_shape`.
        sizes: further sizes of a call, with the values that stand where it does not say them.
        pointers: type of each tensor, for the type of a call and those that the build serves.

    Raises:
        MappingError: fields that a mapping refuses.
    """
    numbers = {n: v for n, v in _numbers(constants).items() if n not in RESERVED}
    types = _types(pointers or {})
    # Halves compile to the same loops.
    alike = {"bf16", "fp16"} if types[:1] in (["bf16"], ["fp16"]) else {*types[:1]}
    made: dict[str, Any] = {
        "kind": "gpu",
        "name": r.kernel,
        "kernel": r.kernel,
        "sole": True,
        "summary": f"{place}, compiled for {r.target}",
        "source": f"cascade kernels probe {place} ({r.compiler})",
        "implementations": ["*"],
        "family": FAMILY,
        "overlaps": False,
        "parameters": {"head_dim": 1} | ({"dtype": types[0]} if types else {}) | numbers | dict(sizes or {}),
        "tiles": [
            {
                "query": 1, "key": 1, "warps": r.warps, "stages": r.tile.stages, "targets": _runs_on(r.target),
                "dtypes": sorted(alike),
                "resources": {
                    "registers": r.registers, "shared_bytes": r.shared_bytes, "stack_bytes": r.stack_bytes,
                    "tensor_memory_columns": r.tensor_memory_columns, "made_by": f"{r.target} {r.compiler}",
                    "loop": asdict(loop_work(r)),
                },
            }
        ],
        "grids": [
            {
                "name": r.kernel, "lanes": 1, "blocks": shape.blocks, "steps": shape.steps,
                "step": {"tensor": _products(r, types), "loads": r.work.load_bytes},
                "reads": shape.reads, "writes": shape.writes,
            }
        ],
    }  # fmt: skip
    _built(made, place)
    return made


def loop_work(r: Resources) -> LoopWork:
    """Return the instructions of a step of the main loop as the simulator takes them."""
    step, masked = r.step, r.masked_loop or r.step
    if r.specialised_warps:
        # Of a block's warps those of one kind do this; the simulator spreads the work of a step over all of them.
        step, masked = (sass.spread(loop, r.tile.warps, r.warps) for loop in (step, masked))
    pipes = step.pipes
    return LoopWork(
        instructions=step.instructions, tensor=pipes["tensor"], special=pipes["special"], fma=pipes["fma"],
        alu=pipes["alu"] + pipes["convert"], local=pipes["local"], masked_instructions=masked.instructions,
    )  # fmt: skip


def _built(made: Mapping[str, Any], place: str) -> KernelMapping:
    return build(KernelMapping, {n: v for n, v in made.items() if n != "kind"}, where=place)


def _runs_on(target: str) -> list[str]:
    """Return where a build runs.

    >>> _runs_on("sm_86")
    ['sm_86', 'sm_87', 'sm_89']
    """
    return [t for t in _KNOWN if target in builds_for(t)]


def write(path: Path, made: Mapping[str, Any]) -> None:
    """Write a description as a file.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.write_text(dump_yaml([made]), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
