"""Kernels that are given as text, compiled side by side in processes of their own: what each takes of a GPU.

A kernel may keep the compiler busy for minutes, when its tiles fill the registers many times over: it is given up.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from einsum_cascade.errors import KernelError
from mappings.sources import KernelSource
from mappings.tiles import KernelResources

from . import abreast, apart
from .aot import Build, Resources, compile_build, compiler
from .described import loop_work
from .steps import machine_of, target_of
from .tiles import Tile

# Of one kernel. Assumed: those of this package take at most 20 s on a busy CPU.
LIMIT_S = 60.0
_NAME = "kernel"


def compiled(
    sources: Sequence[KernelSource],
    *,
    on: str,
    limit_s: float = LIMIT_S,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[KernelResources | None]:
    """Return what the compiler makes of each kernel for a GPU; None where it refuses or does not come to an end.

    Args:
        on: a GPU of the hardware library by name or alias, or a compile target.

    Raises:
        KernelError: no kernel is compiled for the GPU, or there is no compiler.
    """
    target = target_of(machine_of(on))
    compiler()
    return abreast.answers(
        [(s, target) for s in sources],
        serve=compile_each,
        failed=lambda job, reason: None,
        limit_s=limit_s,
        progress=progress,
    )


def compile_each(pipe: Any, jobs: Sequence[tuple[int, tuple[KernelSource, str]]]) -> None:
    """Send the number of each job and what the compiler makes of it."""
    compiler()
    with tempfile.TemporaryDirectory() as folder:
        for i, (source, target) in jobs:
            pipe.send(apart.READY)
            try:
                found = resources_of(compile_build(_build(source, Path(folder), i), target), source.loops)
            except KernelError:
                found = None
            pipe.send((i, found))


def _build(source: KernelSource, folder: Path, number: int) -> Build:
    path = folder / f"{_NAME}_{number}.py"
    path.write_text(source.text, encoding="utf-8")
    name = f"{__package__}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return Build(
        kernel=source.name, variant="written", head_dim=0, dtype="", tile=Tile(16, 16, source.warps, source.stages),
        function=getattr(module, source.name), pointers=source.pointers, floats=(), aligned=(),
        constants=source.constants,
    )  # fmt: skip


def resources_of(r: Resources, loops: int) -> KernelResources:
    """Return what was compiled as the simulator takes it; its loop where the text has just that, see `KernelSource`."""
    return KernelResources(
        registers=r.registers, shared_bytes=r.shared_bytes, made_by=f"{r.target} {r.compiler}",
        stack_bytes=r.stack_bytes, tensor_memory_columns=r.tensor_memory_columns,
        loop=loop_work(r) if len(r.loops) == loops else None,
    )  # fmt: skip
