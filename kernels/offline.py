"""Launch kernels for a GPU generation without having one: each launch is compiled exactly as it would be, and not run.

Ahead-of-time builds assume strides and pointers that are multiples of 16. A launch knows its arguments: what is 1
becomes a constant, what is aligned is marked so, and the tile is the shipped one. So the checks of a kernel show here
what a GPU would refuse, or spill, where the interpreter sees only numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

from einsum_cascade.errors import KernelError

from . import aot, interpreter, plans, registry, steps, tiles
from .registry import Case, KernelEntry

# The length at which the campaign shows every kernel first.
CAMPAIGN_LENGTH = plans.LENGTHS[0]


@dataclass(frozen=True, slots=True)
class Launch:
    """One compiled launch.

    Attributes:
        registers: per thread.
        stack_bytes: per thread; more than 0 means that registers spilled to memory.
        shared_bytes: per thread block.
        fits: whether a thread block may have so much shared memory.
        known: its check is marked as one that no tile holds in registers, see `Case.slow_on`.
    """

    function: str
    registers: int
    stack_bytes: int
    shared_bytes: int
    fits: bool
    known: bool = False

    @property
    def spills(self) -> bool:
        """Whether registers spill, so that it is right but slow."""
        return self.stack_bytes > 0

    @property
    def ok(self) -> bool:
        """Whether it would run, and without spills unless it is known to."""
        return self.fits and (self.known or not self.spills)


class StandIn:
    """As much of a driver as Triton asks for before it launches, and files for where they run."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", capability, 32)

    @staticmethod
    def is_active() -> bool:
        """Return that there is a GPU, to those who ask before they choose a driver."""
        return True

    def get_current_target(self) -> Any:
        """Return the target that is compiled for."""
        return self._target

    def get_current_device(self) -> int:
        """Return a number for each target."""
        # A function keeps what was compiled for a device, and for which target: each target is a device of its own.
        return int(self._target.arch)

    def get_active_torch_device(self) -> Any:
        """Return the device that a GPU would have in PyTorch."""
        import torch

        return torch.device("cuda", 0)

    def get_current_stream(self, device: int) -> int:
        """Return a number for each device."""
        return device


# What a launcher asks for when it chooses a tile: kernel, head size, bytes of a word, window.
Asked = tuple[str, int, int, bool]


@contextmanager
def _instead(run: Callable[..., Any], tile_of: Callable[[Asked], tiles.Tile]) -> Iterator[None]:
    """Call `run` in place of every launch inside the block, on tensors of any device, with tiles of `tile_of`."""
    from triton.runtime.jit import JITFunction

    def choose(kernel: str, *, head_dim: int, dtype: Any, device: Any, window: bool = False) -> tiles.Tile:
        del device
        return tile_of((kernel, head_dim, dtype.itemsize, window))

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(interpreter, "interpreting", nullcontext),
        mock.patch.object(tiles, "choose", choose),
    ):
        yield


def _row(asked: Asked, capability: int) -> tiles.Shipped:
    kernel, head_dim, word_bytes, window = asked
    return tiles.fitting_row(
        kernel, head_dim=head_dim, word_bytes=word_bytes, target=capability, window=window
    )


@contextmanager
def launching(target: str) -> Iterator[list[tuple[str, Any]]]:
    """Compile what is launched inside the block for a target, on CPU tensors; outputs stay as they were made.

    Yields:
        A list that grows by one pair of function name and compiled kernel a launch.

    Raises:
        KernelError: not a target, or Triton is absent or told to interpret.
    """
    with launching_on(aot.target_number(target)) as made:
        yield made


@contextmanager
def launching_on(capability: int) -> Iterator[list[tuple[str, Any]]]:
    """Compile as `launching` does, for a compute capability times ten.

    Raises:
        KernelError: Triton is absent or told to interpret.
    """
    aot.compiler()
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    made: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        del warmup
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        made.append((self.fn.__name__, compiled))

    with (
        _instead(compile_only, lambda asked: _row(asked, capability).tile),
        mock.patch.object(driver, "_active", StandIn(capability)),
    ):
        yield made


def call(entry: KernelEntry, case: Case) -> None:
    """Launch a kernel as a case says, on CPU tensors: inside `launching` nothing runs."""
    inputs = registry.load(entry.inputs)(**case.sizes, dtype=case.dtype, extras=case.extras)
    registry.load(entry.launcher)(**inputs, **case.options)


def launches(entry: KernelEntry, case: Case, *, target: str) -> tuple[Launch, ...]:
    """Return what every launch of a check would take of a GPU generation."""
    with launching(target) as made:
        call(entry, case)
    most = steps.rates(aot.target_number(target)).shared_bytes_per_block
    return tuple(_launch(name, compiled, most, known=target in case.slow_on) for name, compiled in made)


def work(names: Iterable[str] | None = None) -> list[tuple[KernelEntry, Case]]:
    """Return every check of the named kernels, or of all, and what a campaign launches of them.

    A campaign's lengths and heads are multiples of 16 where those of the checks are odd, which compiles to other code.
    """
    chosen = registry.chosen(names)
    checks = [(entry, case) for entry in chosen for case in registry.load(entry.cases)()]
    return checks + [(entry, case) for entry in chosen for case in campaign_cases(entry.name)]


def campaign_cases(kernel: str) -> list[Case]:
    """Return what a campaign launches of a kernel, each specialisation once and of one sequence alone.

    One is as good as many: the number of sequences is no argument of a kernel.
    """
    found: dict[object, Case] = {}
    for p in plans.plan(lengths=(CAMPAIGN_LENGTH,)):
        if p.entry == kernel:
            found.setdefault(p.specialisation, p.alone)
    return list(found.values())


def _asked(entry: KernelEntry, case: Case) -> frozenset[Asked]:
    """Return what a launch asks for; nothing is compiled."""
    aot.compiler()
    asked: list[Asked] = []

    def note(what: Asked) -> tiles.Tile:
        asked.append(what)
        return tiles.Tile(*tiles.INTERPRETED)

    with _instead(lambda *_, **__: None, note):
        call(entry, case)
    return frozenset(asked)


@functools.cache
def _askers(kernel: str) -> tuple[tuple[KernelEntry, Case, frozenset[Asked]], ...]:
    """Return the checks and campaign launches that ask for a tile of a kernel, their own or another's."""
    found = []
    for entry in registry.entries():
        checks = [(entry, case, _asked(entry, case)) for case in registry.load(entry.cases)()]
        mine = [row for row in checks if any(name == kernel for name, *_ in row[2])]
        # What no check of an entry asks for, its campaign does not either: those tensors are large.
        more = [(entry, case, _asked(entry, case)) for case in campaign_cases(entry.name)] if mine else []
        found += mine + more
    return tuple(found)


def of_row(row: tiles.Shipped, *, target: str) -> Iterator[Launch]:
    """Yield the launches that would take a row of the table of tiles, were it as given, on a GPU generation.

    Of a call that launches several kernels, those that are not the row's are left out.
    """
    entry = registry.find(row.kernel)
    make = registry.load(entry.build)
    dtype = next(d for d in aot.SHIPPED_DTYPES if aot.WORD_BYTES[d] == row.word_bytes)
    builds = (make(row.tile, head_dim=row.head_dim, dtype=dtype, variant=v) for v in entry.variants)
    functions = {b.function.fn.__name__ for b in builds}
    capability = aot.target_number(target)
    rows = (*(r for r in tiles.shipped() if r.key != row.key), row)
    with mock.patch.object(tiles, "shipped", lambda: rows):
        for other, case, asked in _askers(row.kernel):
            if any(_takes(a, row, capability) for a in asked):
                yield from (x for x in launches(other, case, target=target) if x.function in functions)


def _takes(asked: Asked, row: tiles.Shipped, capability: int) -> bool:
    try:
        return _row(asked, capability) == row
    except KernelError:
        # Another kernel that no tile holds at this size: no affair of this row.
        return False


def _launch(name: str, compiled: Any, most_shared_bytes: int, *, known: bool = False) -> Launch:
    registers, stack_bytes = aot.usage(compiled.asm["cubin"])
    shared_bytes = compiled.metadata.shared
    return Launch(name, registers, stack_bytes, shared_bytes, shared_bytes <= most_shared_bytes, known)


def run(
    names: Iterable[str] | None = None,
    *,
    target: str,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[tuple[str, str, tuple[Launch, ...]], ...]:
    """Return kernel, case and launches of every check and campaign launch of the named kernels, or of all.

    Args:
        progress: wraps the cases while they are compiled, for example tqdm.

    Raises:
        KernelError: no such kernel or target.
    """
    aot.target_number(target)
    return tuple((e.name, c.label, launches(e, c, target=target)) for e, c in progress(work(names)))
