"""Launch kernels for a GPU generation without having one: each launch is compiled exactly as it would be, and not run.

Ahead-of-time builds assume strides and pointers that are multiples of 16. A launch knows its arguments: what is 1
becomes a constant, what is aligned is marked so, and the tile is the shipped one. So the checks of a kernel show here
what a GPU would refuse, or spill, where the interpreter sees only numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

from . import aot, interpreter, registry, tiles, tuning
from .registry import Case, KernelEntry


@dataclass(frozen=True, slots=True)
class Launch:
    """One compiled launch.

    Attributes:
        registers: per thread.
        stack_bytes: per thread; more than 0 means that registers spilled to memory.
        shared_bytes: per thread block.
        fits: whether a thread block may have so much shared memory.
    """

    function: str
    registers: int
    stack_bytes: int
    shared_bytes: int
    fits: bool

    @property
    def ok(self) -> bool:
        """Whether it would run, and without spills."""
        return self.fits and self.stack_bytes == 0


class _Driver:
    """As much of a driver as Triton asks for before it launches."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        # A function keeps what was compiled for a device, and for which target: each target is a device of its own.
        return int(self._target.arch)

    def get_current_stream(self, device: int) -> int:
        return device


@contextmanager
def launching(target: str) -> Iterator[list[tuple[str, Any]]]:
    """Compile what is launched inside the block for a target, on CPU tensors; outputs stay as they were made.

    Yields:
        A list that grows by one pair of function name and compiled kernel a launch.

    Raises:
        KernelError: not a target, or Triton is absent or told to interpret.
    """
    capability = aot.target_number(target)
    aot.compiler()
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    made: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        del warmup
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        made.append((self.fn.__name__, compiled))

    def choose(kernel: str, *, head_dim: int, dtype: Any, device: Any, window: bool = False) -> tiles.Tile:
        del device
        return tiles.fitting(
            kernel, head_dim=head_dim, word_bytes=dtype.itemsize, target=capability, window=window
        )

    with (
        mock.patch.object(JITFunction, "run", compile_only),
        mock.patch.object(interpreter, "interpreting", nullcontext),
        mock.patch.object(tiles, "choose", choose),
        mock.patch.object(driver, "_active", _Driver(capability)),
    ):
        yield made


def launches(entry: KernelEntry, case: Case, *, target: str) -> tuple[Launch, ...]:
    """Return what every launch of a check would take of a GPU generation."""
    inputs = registry.load(entry.inputs)(**case.sizes, dtype=case.dtype, extras=case.extras)
    with launching(target) as made:
        registry.load(entry.launcher)(**inputs, **case.options)
    most = tuning.rates(aot.target_number(target)).shared_bytes_per_block
    return tuple(_launch(name, compiled, most) for name, compiled in made)


def _launch(name: str, compiled: Any, most_shared_bytes: int) -> Launch:
    registers, stack_bytes = aot.usage(compiled.asm["cubin"])
    shared_bytes = compiled.metadata.shared
    return Launch(name, registers, stack_bytes, shared_bytes, shared_bytes <= most_shared_bytes)


def run(
    names: Iterable[str] | None = None,
    *,
    target: str,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[tuple[str, str, tuple[Launch, ...]], ...]:
    """Return kernel, case and launches of every check of the named kernels, or of all.

    Args:
        progress: wraps the cases while they are compiled, for example tqdm.

    Raises:
        KernelError: no such kernel or target.
    """
    aot.target_number(target)
    work = [(entry, case) for entry in registry.chosen(names) for case in registry.load(entry.cases)()]
    return tuple((e.name, c.label, launches(e, c, target=target)) for e, c in progress(work))
