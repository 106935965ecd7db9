"""Files of kernels written from the text of a cascade: run, checked against that text, and compiled.

A file says itself what it computes (its text and sizes), how its tensors lie in memory, and what each launch takes.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from einsum_cascade.cascade import Cascade
from einsum_cascade.errors import CascadeError, KernelError
from einsum_cascade.evaluator import LIMIT_BYTES, check_memory
from einsum_cascade.expr import Compare, accesses, walk
from einsum_cascade.machine import memory_bytes
from einsum_cascade.ops import REDUCTION
from einsum_cascade.parser import parse
from einsum_cascade.terminal import note

from . import abreast, apart
from .aot import POINTER, Build, Resources, compile_build, portable, target_number
from .check import LIMITS, Outcome, poisoned, relative_error
from .device import cache_bytes
from .drawn import checkable, inputs_of
from .interpreter import interpreting
from .tiles import Tile
from .timing import Clock, Spread, in_turn, interleaved, spread
from .told import executed

if TYPE_CHECKING:
    import torch

# What a file has to define.
PARTS = ("CASCADE", "SIZES", "BATCH", "TENSORS", "LAUNCHES", "PREDICTED_US", "prepare", "launch", "run")
_ANNOTATED = {
    "torch.bfloat16": "*bf16",
    "torch.float16": "*fp16",
    "torch.float32": "*fp32",
    "torch.int32": "*i32",
}
_WORDS = {pointer: word for word, pointer in POINTER.items()}
_STAGES = 3
_COUNT = itertools.count()
# Thread blocks that Triton's interpreter is given, at the most: of some milliseconds each, in one thread.
MOST_INTERPRETED = 10_000
# Seconds after which a compiler is given up: its largest kernels of the zoo that end at all take it half a minute.
COMPILE_S = 300.0
# Of the tensors of a file that is timed: those of a hundredth of a cache are bound by their launches anyway.
MOST_COPIES = 100
# An index that nobody should read.
POISON = 2**30


@dataclass(frozen=True)
class WrittenFile:
    """A loaded file of written kernels.

    Attributes:
        sizes: of all ranks; `batch`: how often all of it occurs.
        tensors: shape, batch left out, and type of each tensor in memory.
        launches: function, tensors, blocks of one element of the batch, constants, warps.
        predicted: microseconds of each on the GPU that it was planned for.
    """

    path: Path
    module: ModuleType
    cascade: Cascade
    sizes: dict[str, int]
    batch: int
    tensors: dict[str, tuple[tuple[int, ...], Any]]
    launches: Sequence[tuple[Any, Sequence[str], int, dict[str, int], int]]
    predicted: Sequence[float]
    run: Callable[..., Any]

    @property
    def word(self) -> str:
        """The type of its tensors; indices have their own."""
        named = dict.fromkeys(
            [s.tensor for s in (*self.cascade.outputs, *self.cascade.inputs)] + [*self.tensors]
        )
        return next((w for t in named if (w := _WORDS.get(self.pointer(t), ""))), "fp32")

    def pointer(self, tensor: str) -> str:
        """Return the type of a tensor's pointer as Triton's compiler names it."""
        return _ANNOTATED[str(self.tensors[tensor][1])]


def load_written(path: Path) -> WrittenFile:
    """Return a file of written kernels.

    Raises:
        KernelError: no such file, one that cannot be executed, or not of this kind.
    """
    if not path.is_file():
        raise KernelError(f"{path}: no such file")
    # Named as a part of this package, where `interpreting` looks for kernels; a name for each file, however often.
    name = f"{__package__}.written_{path.stem}_{next(_COUNT)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise KernelError(f"{path}: expected a Python file, *.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with executed(path):
        spec.loader.exec_module(module)
    missing = [name for name in PARTS if not hasattr(module, name)]
    if missing:
        raise KernelError(f"{path}: no {missing[0]}; expected a file that `cascade write` has made")
    with executed(path):
        for function, names, blocks, constants, warps in module.LAUNCHES:
            if not (callable(function) and {*names} <= {*module.TENSORS} and blocks >= 1 and warps >= 1):
                raise KernelError(
                    f"{path}: LAUNCHES: expected a kernel, tensors of TENSORS, blocks, constants, warps; found {names}"
                )
            dict(constants)
        return WrittenFile(
            path, module, parse(module.CASCADE), dict(module.SIZES), int(module.BATCH), module.TENSORS,
            module.LAUNCHES, module.PREDICTED_US, module.run,
        )  # fmt: skip


def check_written(file: WrittenFile, *, device: str = "cpu", seed: int = 0) -> Outcome:
    """Return how far the kernels of a file are from the float64 evaluation of its text.

    All of the batch is computed; the first and the last element of it are compared.

    Args:
        device: "cpu" runs Triton's interpreter, "cuda" the compiled kernels.

    Raises:
        KernelError: so many thread blocks that the interpreter would take hours.
    """
    _require_few(file, device)
    given, expected = _drawn(file, seed)
    found = _checked(file, [given[s.tensor].to(device) for s in file.cascade.inputs], expected, device=device)
    if not found.ok and (why := _near_ties(file)):
        note(f"{file.path}: {why}")
    return found


def _require_few(file: WrittenFile, device: str) -> None:
    """Refuse a file that Triton's interpreter would take hours for."""
    blocks = sum(step[2] for step in file.launches) * file.batch
    if device == "cpu" and blocks > MOST_INTERPRETED:
        raise KernelError(
            f"{file.path}: {blocks:,} thread blocks, of which the interpreter runs {MOST_INTERPRETED:,} at the most; "
            "write the kernels at smaller sizes to check them without a GPU"
        )


def _drawn(file: WrittenFile, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs of a file, and what its text makes of them in float64."""
    given, expected, halvings = checkable(file, seed, limit_bytes=_room_bytes())
    if halvings:
        note(
            f"{file.path}: inputs of the usual size lead to numbers that {file.word} does not hold, so they are drawn "
            f"{2**halvings} times smaller"
        )
    return given, expected


def _checked(
    file: WrittenFile, launched: Sequence[Any], expected: Mapping[str, Any], *, device: str
) -> Outcome:
    """Return how far the kernels of a file are from what is expected of inputs that lie on the device."""
    import torch

    with runnable(file) if device == "cpu" else nullcontext():
        found = _results(file, launched)
    # An index that does not exist is -1 in memory and 0 where the evaluator hands it back.
    found = tuple(t if t.is_floating_point() else t.clamp(min=0) for t in found)
    errors = {}
    for s, tensor in zip(file.cascade.outputs, found, strict=True):
        compared = tensor if file.batch == 1 else tensor[[0, -1]]
        errors[s.tensor] = relative_error(compared, torch.from_numpy(expected[s.tensor]))
    worst = max(errors, key=lambda k: errors[k])
    sizes = " ".join(f"{r}={n}" for r, n in file.sizes.items())
    how = "interpreted" if device == "cpu" else "compiled"
    # Every kernel rounds what it leaves to the next.
    limit = LIMITS[file.word] * len(file.launches)
    return Outcome(file.cascade.name, f"{file.word} {sizes}", errors[worst], limit, worst, how)


def _near_ties(file: WrittenFile) -> str:
    """Return what else than a wrong kernel may make a result differ: a choice between numbers that half types round."""
    every = (*file.cascade.einsums, *file.cascade.initial)
    nodes = (n for e in every for part in (e.value, e.where) if part is not None for n in walk(part))
    selects = any(e.all_reductions and REDUCTION[e.all_reductions[-1].op].index for e in every)
    if file.word == "fp32" or not (selects or any(isinstance(n, Compare) and accesses(n) for n in nodes)):
        return ""
    return (
        f"its text chooses by values, and between two that {file.word} rounds to one its kernels and float64 may "
        "choose differently; whether they are right shows the same text written with --dtype fp32"
    )


def _results(file: WrittenFile, launched: Sequence[Any]) -> tuple[Any, ...]:
    """Return what a file makes of its inputs, a tensor an output, in memory that was poisoned before."""
    with executed(file.path):
        found = file.run(*launched, empty=poisoned_tensor)
    return found if isinstance(found, tuple) else (found,)


def poisoned_tensor(shape: tuple[int, ...], **kwargs: Any) -> torch.Tensor:
    """Return a tensor full of what nobody should read: not a number, or a place far outside."""
    import torch

    if kwargs["dtype"] == torch.int32:
        return torch.full(shape, POISON, **kwargs)
    return poisoned(shape, **kwargs)


def _room_bytes() -> int:
    """Return how much the tensors of a text may take here in its float64 evaluation: minutes of work at the most."""
    return max(LIMIT_BYTES, min(8 * LIMIT_BYTES, memory_bytes() // 4))


@contextmanager
def runnable(file: WrittenFile) -> Iterator[None]:
    """Let a file's kernels run in Triton's interpreter inside the block."""
    functions = {id(value): name for name, value in vars(file.module).items()}
    names = [functions[id(launch[0])] for launch in file.launches]
    before = list(file.module.LAUNCHES)
    try:
        with interpreting():
            file.module.LAUNCHES[:] = [
                (getattr(file.module, n), *rest) for n, (_, *rest) in zip(names, before, strict=True)
            ]
            yield
    finally:
        file.module.LAUNCHES[:] = before


@dataclass(frozen=True, slots=True)
class Timed:
    """One kernel of a file on a GPU: microseconds as measured, and as predicted when it was written."""

    kernel: str
    blocks: int
    measured: Spread
    predicted: float


def time_written(
    file: WrittenFile, *, clock: Clock, device: str = "cuda", budget_s: float = 1.0
) -> list[Timed]:
    """Return what each kernel of a file takes, after all of them together have been checked.

    As it was predicted, it finds nothing in the L2 cache: launches go round copies of the tensors, see `_copies`.

    Where a text is too large here for its evaluation in float64, that all results are written is checked alone, and
    told: the same text written at smaller sizes shows whether they are right.

    Raises:
        KernelError: the result is wrong, so that a time says nothing.
    """
    _require_few(file, device)
    try:
        check_memory(file.cascade, file.sizes, limit_bytes=_room_bytes())
    except CascadeError:
        given, _ = inputs_of(file, 0)
        launched = [given[s.tensor].to(device) for s in file.cascade.inputs]
        note(
            f"{file.path}: too large to be evaluated in float64 here; only that all results are there was checked, so "
            "check the text at smaller sizes too"
        )
        _require_whole(file, launched)
    else:
        given, expected = _drawn(file, 0)
        launched = [given[s.tensor].to(device) for s in file.cascade.inputs]
        outcome = _checked(file, launched, expected, device=device)
        if not outcome.ok:
            raise KernelError(
                f"{file.path}: {outcome.worst} is wrong, by {outcome.error:.2g}; at most {outcome.limit:.2g} was "
                "expected" + (f"; {why}" if (why := _near_ties(file)) else "")
            )
    with executed(file.path):
        copies = _copies(file, launched, cache_bytes(device))
        steps = {
            str(i): in_turn(functools.partial(file.module.launch, step), copies)
            for i, step in enumerate(file.launches)
        }
        found = interleaved(steps, clock=clock, budget_s=budget_s)
    return [
        Timed(
            step[0].__name__,
            step[2] * file.batch,
            spread([1e6 * t for t in found[str(i)]]),
            file.predicted[i],
        )
        for i, step in enumerate(file.launches)
    ]


def _copies(file: WrittenFile, launched: Sequence[Any], cache: int) -> list[dict[str, Any]]:
    """Return all tensors of a file in so many copies that they are twice as large as a cache, at most `MOST_COPIES`.

    All kernels have run on each: an index that one of them leaves to the next has to be one.
    """
    first = file.module.prepare(*launched)
    size = sum(t.numel() * t.element_size() for t in first.values())
    count = max(1, min(MOST_COPIES, -(-2 * cache // size)))
    copies = [first] + [file.module.prepare(*(t.clone() for t in launched)) for _ in range(count - 1)]
    for tensors, step in itertools.product(copies, file.launches):
        file.module.launch(step, tensors)
    return copies


def _require_whole(file: WrittenFile, launched: Sequence[Any]) -> None:
    """Refuse a file of which a result is not written everywhere, or is not a number."""
    found = _results(file, launched)
    for s, tensor in zip(file.cascade.outputs, found, strict=True):
        absent = tensor.isnan() if tensor.is_floating_point() else tensor == POISON
        if bool(absent.any()):
            raise KernelError(f"{file.path}: {s.tensor} holds what is no number; not timed")


def compile_written(file: WrittenFile, target: str) -> list[Resources]:
    """Return what the compiler makes of each kernel of a file, in the order of their launches.

    Raises:
        KernelError: a target that is unknown, or a kernel that the compiler refuses.
    """
    return [compile_build(_build(file, launch), target) for launch in file.launches]


def compile_files(
    files: Sequence[WrittenFile],
    targets: Sequence[str],
    *,
    limit_s: float = COMPILE_S,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[Resources]:
    """Return what the compiler makes of each kernel of some files for each target, side by side in other processes.

    Raises:
        KernelError: a target that is unknown, or a kernel that the compiler refuses or does not come to an end with.
    """
    for target in targets:
        target_number(target)
    jobs = [
        (f.path, f.launches[i][0].__name__, i, t)
        for f in files
        for t in targets
        for i in range(len(f.launches))
    ]
    found = abreast.answers(
        jobs, serve=compile_each, failed=_not_compiled, limit_s=limit_s, progress=progress
    )
    for answer in found:
        if isinstance(answer, str):
            raise KernelError(answer)
    return found


def _not_compiled(job: tuple[Path, str, int, str], reason: str) -> str:
    path, kernel, _, target = job
    return f"{path}: {kernel}: the compiler for {target} was {reason}: smaller tiles take it less time"


def compile_each(pipe: Any, jobs: Sequence[tuple[int, tuple[Path, str, int, str]]]) -> None:
    """Send the number of each job with what the compiler makes of it, or why it refuses."""
    files: dict[Path, WrittenFile] = {}
    for number, (path, _, launch, target) in jobs:
        pipe.send(apart.READY)
        try:
            if path not in files:
                files[path] = load_written(path)
            file = files[path]
            pipe.send((number, portable(compile_build(_build(file, file.launches[launch]), target))))
        except KernelError as error:
            pipe.send((number, str(error)))


def _build(file: WrittenFile, launch: tuple[Any, Sequence[str], int, dict[str, int], int]) -> Build:
    function, names, _, constants, warps = launch
    pointers = {f"{n}_ptr": file.pointer(n) for n in names}
    return Build(
        kernel=function.__name__, variant=file.cascade.name, head_dim=0, dtype=file.word,
        tile=Tile(16, 16, warps, _STAGES), function=function, pointers=pointers, floats=(), aligned=(),
        constants=constants,
    )  # fmt: skip
