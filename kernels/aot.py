"""Compile kernels for a GPU generation without having one, and read what the compiler decided.

Triton's compiler and the assembler and disassembler inside its package need no driver. What comes back are the numbers
that decide how a kernel runs: registers, shared memory, stack (spills), and the instructions of its loops by pipe.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from einsum_cascade.errors import KernelError, nearest

from . import registry, sass, tileir, unrolled
from .tiles import Tile, legal

TARGETS = {"sm_80": 80, "sm_86": 86, "sm_89": 89, "sm_90": 90, "sm_100": 100, "sm_120": 120}
POINTER = {"fp32": "*fp32", "fp16": "*fp16", "bf16": "*bf16"}
WORD_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
# float16 compiles to the same loops as bfloat16 does.
SHIPPED_DTYPES = ("bf16", "fp32")


@dataclass(frozen=True, slots=True)
class Build:
    """One kernel, specialised: everything the compiler needs.

    Attributes:
        kernel: name in the registry.
        variant: the options in words, for example "causal".
        function: the Triton function.
        pointers: type of each pointer argument, and of any number that is neither int32 nor float32.
        floats: arguments that are float32; the rest are 32-bit integers.
        aligned: integer arguments that are multiples of 16, as strides of whole rows are.
        constants: value of every compile-time argument.
        assumed: arguments of a stranger's kernel whose types nobody told.
    """

    kernel: str
    variant: str
    head_dim: int
    dtype: str
    tile: Tile
    function: Any
    pointers: Mapping[str, str]
    floats: tuple[str, ...]
    aligned: tuple[str, ...]
    constants: Mapping[str, Any]
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """What a compiled kernel takes of its GPU.

    Attributes:
        registers: per thread.
        shared_bytes: per thread block.
        stack_bytes: per thread; more than 0 means that registers spilled to memory.
        loops: the working loops in program order.
        totals: instructions of the whole kernel by pipe.
        work: what one step of the heaviest loop multiplies and loads.
        tensor_memory_columns: per thread block, of the 512 of an SM of compute capability 10.0.
        fingerprint: of the source that was compiled, see `fingerprint`.
        specialised_warps: warps of a block where each has a task of its own, beside those asked for; 0 where all do
            the same.
        source_loops: innermost loops of the source that multiply or take exponentials.
    """

    kernel: str
    variant: str
    target: str
    dtype: str
    head_dim: int
    tile: Tile
    registers: int
    shared_bytes: int
    stack_bytes: int
    loops: tuple[sass.Loop, ...]
    totals: Mapping[str, int] = field(hash=False)
    compiler: str = ""
    work: tileir.Work = field(default_factory=tileir.Work)
    tensor_memory_columns: int = 0
    fingerprint: str = ""
    specialised_warps: int = 0
    source_loops: int = 1

    @property
    def warps(self) -> int:
        """Warps of a thread block, those that are specialised for one task among them."""
        return self.specialised_warps or self.tile.warps

    @property
    def spills(self) -> bool:
        """Whether anything lives in local memory."""
        return self.stack_bytes > 0 or self.totals["local"] > 0

    @property
    def step(self) -> sass.Loop:
        """The loop over unmasked tiles, or the whole kernel where it has no working loop."""
        return self.full_loop or sass.Loop(sum(self.totals.values()), self.totals)

    @property
    def full_loop(self) -> sass.Loop | None:
        """The loop over unmasked tiles: the shortest of the working loops."""
        return self._loop(min)

    @property
    def masked_loop(self) -> sass.Loop | None:
        """The loop over masked tiles: the longest of the working loops."""
        return self._loop(max)

    def _loop(self, choose: Callable[..., sass.Loop]) -> sass.Loop | None:
        """Return one loop of several; all together where none multiplies or takes exponentials.

        Such loops are not one loop with and without a mask: a row is swept by each of them. Of warps that are
        specialised each kind has a loop, which side by side make a step of the loop in the source. Of unrolled loops
        it is the part of one iteration.
        """
        if not self.loops:
            return None
        once = [loop.once for loop in self.loops if not loop.remainder]
        if any(loop.pipes[pipe] for loop in self.loops for pipe in sass.WORK):
            if not self.specialised_warps:
                return choose(once, key=lambda loop: loop.instructions)
            return sass.together(once, share=self.source_loops)
        return sass.together(once)


def target_number(name: str) -> int:
    """Return the compute capability of a target, times ten.

    Raises:
        KernelError: not a target that kernels are shipped for.

    >>> target_number("sm_90")
    90
    """
    if name not in TARGETS:
        raise KernelError(f"target '{name}': {nearest(name, TARGETS)}")
    return TARGETS[name]


def compile_build(build: Build, target: str) -> Resources:
    """Return what the compiler makes of one build.

    Raises:
        KernelError: Triton is absent or was loaded as an interpreter, or the compiler refuses.
    """
    return _resources(build, target, *_compiled(build, target_number(target)))


def compile_fitting(build: Build, target: str) -> Resources | None:
    """Return what the compiler makes of one build, or None where registers spill; such a one is not disassembled.

    Raises:
        KernelError: as `compile_build`.
    """
    done, version = _compiled(build, target_number(target))
    return None if usage(done.asm["cubin"])[1] else _resources(build, target, done, version)


@contextmanager
def parsing_in_turn() -> Iterator[None]:
    """Let threads that compile inside the block parse their kernels one after the other.

    Python before 3.11.8 counts the depth of what it parses for all threads together, and now and then ends one of them
    with a SystemError. Source: CPython's changelog of 3.11.8, gh-106905.
    """
    compiler()
    from triton.runtime.jit import JITCallable

    parse, turn = JITCallable.parse, threading.Lock()

    def in_turn(function: Any) -> Any:
        with turn:
            return parse(function)

    with mock.patch.object(JITCallable, "parse", in_turn):
        yield


def _resources(build: Build, target: str, done: Any, version: str) -> Resources:
    registers, stack_bytes = usage(done.asm["cubin"])
    text = _read(done.asm["cubin"], "nvdisasm", "-c")
    work, launched = tileir.steps(done.asm["ttir"]), done.metadata.num_warps
    loops, heaviest = sass.loops(text), tileir.heaviest(work)
    if launched == build.tile.warps:
        loops = unrolled.seen_through(loops, text, done.asm["ptx"])
    heaviest = replace(heaviest, product_flops=heaviest.product_flops / sass.product_rate(text))
    return Resources(
        build.kernel, build.variant, target, build.dtype, build.head_dim, build.tile,
        registers=registers, shared_bytes=done.metadata.shared, stack_bytes=stack_bytes,
        loops=loops, totals=sass.totals(text), compiler=f"triton {version}",
        work=heaviest, tensor_memory_columns=getattr(done.metadata, "tmem_size", 0) or 0,
        fingerprint=fingerprint(build.function), specialised_warps=launched if launched > build.tile.warps else 0,
        source_loops=max(1, sum(w.product_flops > 0 or w.exponentials > 0 for w in work)),
    )  # fmt: skip


def portable(r: Resources) -> Resources:
    """Return resources in a form that goes from one process to another."""
    loops = tuple(replace(loop, pipes=dict(loop.pipes)) for loop in r.loops)
    return replace(r, loops=loops, totals=dict(r.totals))


def usage(cubin: bytes) -> tuple[int, int]:
    """Return registers and bytes of stack that a thread of a compiled kernel takes."""
    text = _read(cubin, "cuobjdump", "--dump-resource-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise KernelError(f"cuobjdump reported no registers: {text.strip()[:200]}")
    return int(found[1]), int(found[2])


def _read(cubin: bytes, tool: str, option: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return _tool(tool, option, path)


def _compiled(build: Build, capability: int) -> tuple[Any, str]:
    triton = compiler()
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    fn = build.function
    signature = {name: argument_type(build, name) for name in fn.arg_names}
    multiples = [n for n, t in build.pointers.items() if t.startswith("*")] + list(build.aligned)
    aligned = {(fn.arg_names.index(n),): [["tt.divisibility", 16]] for n in multiples}
    source = ASTSource(fn, signature, dict(build.constants), aligned)
    options = {"num_warps": build.tile.warps, "num_stages": build.tile.stages, "enable_fp_fusion": True}
    try:
        done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except (triton.CompilationError, RuntimeError) as error:
        raise KernelError(
            f"{build.kernel} ({build.variant}) for sm_{capability}: {_reason(error)}"
        ) from error
    return done, triton.__version__


def fingerprint(function: Any) -> str:
    """Return a short hash of a Triton function's source and of all Triton functions that it calls."""
    from triton.runtime.jit import JITFunction

    sources: dict[str, str] = {}
    pending = [function]
    while pending:
        fn = pending.pop()
        name = f"{fn.__module__}.{fn.__name__}"
        if name in sources or fn.__module__.startswith("triton."):
            continue
        # As a tree: neither comments nor line breaks change what is compiled.
        sources[name] = ast.dump(fn.parse())
        named = (fn.fn.__globals__.get(n) for n in fn.fn.__code__.co_names)
        pending += [other for other in named if isinstance(other, JITFunction)]
    text = "\n".join(source for _, source in sorted(sources.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _reason(error: BaseException) -> str:
    """Return a compiler error with what lies at its root, which Triton keeps apart from the place."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return str(error) if root is error or str(root) in str(error) else f"{root}\n{error}"


def argument_type(build: Build, name: str) -> str:
    """Return the type of an argument as Triton writes it."""
    if name in build.constants:
        return "constexpr"
    return build.pointers.get(name) or ("fp32" if name in build.floats else "i32")


def compiler() -> Any:
    """Return the triton module, able to compile.

    Raises:
        KernelError: it is absent, or was told to interpret.
    """
    try:
        import triton
    except ImportError as error:
        raise KernelError("the compiler needs Triton: pip install 'einsum-cascade[kernels]'") from error
    if triton.knobs.runtime.interpret:
        raise KernelError("TRITON_INTERPRET is set, so that kernels cannot be compiled: unset it")
    return triton


def _tool(name: str, *arguments: str | Path) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not os.access(path, os.X_OK):
        raise KernelError(f"{name} is not in Triton's package ({path.parent})")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(f"{name}: {done.stderr.strip()[:300]}")
    return done.stdout


def builds(target: str, *, kernels: Iterable[str] | None = None, own: bool = False) -> Iterator[Build]:
    """Yield the shipped builds of the named kernels, or of all, for a target: all that tiles.csv calls compiled.

    Args:
        own: without those that a build for an older target of the same generation serves, as it runs there too.
            Source: CUDA C++ Programming Guide, "Binary Compatibility".
    """
    number = target_number(target)
    for entry in (e for e in registry.chosen(kernels) if e.build):
        make = registry.load(entry.build)
        for dtype, head_dim, variant in itertools.product(SHIPPED_DTYPES, entry.head_dims, entry.built):
            windowed = "window" in variant or variant in entry.modified
            word_bytes = WORD_BYTES[dtype]
            rows = legal(entry.name, word_bytes=word_bytes, target=number, window=windowed)
            row = next((r for r in rows if r.head_dim == head_dim), None)
            if row is None or not row.compiled:
                continue
            if not own or row.target == number or row.target // 10 != number // 10:
                yield make(row.tile, head_dim=head_dim, dtype=dtype, variant=variant)


def compile_shipped(
    target: str,
    *,
    kernels: Iterable[str] | None = None,
    own: bool = False,
    progress: Callable[[Iterable[Build]], Iterable[Build]] = iter,
) -> tuple[Resources, ...]:
    """Return the resources of every shipped build for a target.

    Args:
        own: see `builds`.
        progress: wraps the builds while they are compiled, for example tqdm.
    """
    wanted = list(builds(target, kernels=kernels, own=own))
    return tuple(compile_build(b, target) for b in progress(wanted))
