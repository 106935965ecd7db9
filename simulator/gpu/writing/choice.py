"""Tiles of written kernels by what the compiler makes of them: registers, shared memory, spills, the loop itself."""

from __future__ import annotations

import ast
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mappings.sources import KernelSource
from mappings.tiles import KernelResources

from ..fusion.kernels import Candidate, Kernel, Layer
from ..fusion.plan import Planner
from ..occupancy import occupancy
from .frame import Written
from .memory import Memory
from .nest import write_kernels
from .operators import HELPERS

# Tiles of a kernel that are compiled, those that the text alone says are the fastest; and how many times slower than
# the fastest of them one may be to be worth it. Assumed.
MOST = 6
_SLOWER = 2.0
_OTHER_WARPS = {4: 8, 8: 4}
HEAD = "import torch\nimport triton\nimport triton.language as tl\n"
# What the compiler makes of each kernel; None where it refuses.
Compiler = Callable[[Sequence[KernelSource]], Sequence[KernelResources | None]]


@dataclass(frozen=True, slots=True)
class Choice:
    """A kernel as it is written: source, and that of what puts its parts together.

    Attributes:
        kernel: of the plan; where it was compiled, its tile has the resources.
        tried: how many of its tiles were compiled.
    """

    kernel: Kernel
    written: tuple[Written, ...]
    tried: int = 0


def written_kernel(name: str, kernel: Kernel, memory: Memory, *, word: str) -> tuple[Written, ...]:
    """Return a kernel of a plan as source."""
    title = f"{' + '.join(kernel.einsums)}."
    return tuple(write_kernels(name, kernel.tiling, memory, kernel.written, word=word, title=title))


def choose(
    planner: Planner,
    names: Sequence[str],
    laid: Sequence[Kernel],
    memory: Memory,
    compiler: Compiler,
    *,
    word: str,
) -> list[Choice]:
    """Return the kernels of a plan with the tiles that are the fastest by what the compiler makes of them.

    Tiles that the text says are the fastest are written, each with four and with eight warps, and compiled. Of those
    that can be launched, one that spills nothing is taken where there is one.

    Args:
        names: of the kernels.
        compiler: is given all of them at once.
    """
    tried: list[list[Choice]] = [
        list(_candidates(planner.layer, n, k, memory, word=word)) for n, k in zip(names, laid, strict=True)
    ]
    sources = [source_of(c.written[0], memory, word) for group in tried for c in group]
    made = iter(compiler(sources))
    return [_best(planner.layer, group, [next(made) for _ in group], len(group)) for group in tried]


def _candidates(layer: Layer, name: str, kernel: Kernel, memory: Memory, *, word: str) -> Iterator[Choice]:
    """Yield a kernel of a plan with other tiles, and with other warps, itself first."""
    every: list[tuple[float, bool, Candidate]] = list(layer.candidates(kernel.units, kernel.written))
    floors = heapq.nsmallest(4 * MOST, range(len(every)), key=lambda i: every[i][0])
    laid = sorted(
        (layer.laid(kernel.units, kernel.written, every[i][2]) for i in floors), key=lambda k: k.busy_s
    )
    near = [k for k in laid if k.busy_s <= _SLOWER * kernel.busy_s][:MOST]
    for k in near or [kernel]:
        written = written_kernel(name, k, memory, word=word)
        for warps in (written[0].warps, _OTHER_WARPS[written[0].warps]):
            yield Choice(k, tuple(replace(w, warps=warps) for w in written))


def _best(
    layer: Layer, group: Sequence[Choice], made: Sequence[KernelResources | None], tried: int
) -> Choice:
    """Return the fastest of some choices by what was made of them; the first, as it is, where none can be launched."""
    found: list[tuple[tuple[bool, float], Choice]] = []
    for choice, resources in zip(group, made, strict=True):
        if resources is None or not occupancy(layer.gpu, resources, warps=choice.written[0].warps).blocks:
            continue
        tile = replace(choice.kernel.tile, warps=choice.written[0].warps, resources=resources)
        kernel = layer.with_tile(choice.kernel, tile)
        spilt = resources.stack_bytes > 0
        found.append(((spilt, kernel.busy_s), Choice(kernel, choice.written, tried)))
    return min(found, key=lambda each: each[0])[1] if found else replace(group[0], tried=tried)


def source_of(written: Written, memory: Memory, word: str) -> KernelSource:
    """Return a written kernel as its compiler takes it."""
    pointers = {f"{t}_ptr": _pointer(t, written, memory, word) for t in (*written.reads, *written.writes)}
    text = "\n".join((HEAD, *(HELPERS[h] for h in written.helpers), written.text))
    return KernelSource(
        written.name, text, pointers, written.constants, written.warps, loops_of(written.text)
    )


def _pointer(tensor: str, written: Written, memory: Memory, word: str) -> str:
    if tensor in written.scratch:
        return "*fp32"
    return f"*{memory.pointer(tensor, word)}"


def loops_of(text: str) -> int:
    r"""Return how many loops a kernel has one after the other, see `KernelSource`.

    >>> loops_of("def f():\n  for i in range(3):\n    x = i\n  for i in range(3, 4):\n    x = i")
    2
    >>> loops_of("def f():\n  for i in range(3):\n    x = i\n  for j in range(4):\n    x = j")
    -1
    """
    loops = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.For)]
    nested = any(isinstance(n, ast.For) and n is not loop for loop in loops for n in ast.walk(loop))
    along = {ast.unparse(loop.target) for loop in loops}
    return -1 if nested or len(along) > 1 or len(loops) > 2 else len(loops)
