"""A cascade as a Python file of Triton kernels that runs by itself: the kernels of a plan, and who calls them."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einsum_cascade.analysis.points import known_sizes
from einsum_cascade.cascade import Cascade, require
from einsum_cascade.printer import render

from ...hardware.gpu import Gpu, gpu_of
from ..fusion.case import Case
from ..fusion.predict import case_of, planned, priced, word_of
from ..fusion.structure import units_of
from ..prediction import Prediction
from .able import Writable
from .body import Body
from .choice import HEAD, Choice, Compiler, choose, written_kernel
from .frame import Written
from .guards import guarded
from .memory import MOST_32, Memory
from .operators import HELPERS
from .sums import TYPES
from .terms import CannotWriteError

# Elements of the largest tile that Triton takes: what a last tile reaches beyond its rank is less.
_LARGEST_TILE = 2**20
# What a file defines beside its kernels.
_OWN = ("CASCADE", "SIZES", "BATCH", "TENSORS", "LAUNCHES", "PREDICTED_US", "PARTS")


@dataclass(frozen=True)
class Program:
    """A written file.

    Attributes:
        text: Python source.
        choices: the kernels of the plan that it follows, as they are written; `prediction`: what they take.
        batch: how often all of it occurs, by ranks that the text leaves out.
    """

    text: str
    choices: tuple[Choice, ...]
    prediction: Prediction
    batch: int


def write_program(
    cascade: Cascade,
    sizes: Mapping[str, int] | str,
    *,
    on: str | Gpu = "h100",
    implementation: str = "fused",
    kernels: Sequence[Sequence[str]] | None = None,
    dtype: str = "bf16",
    compiler: Compiler | None = None,
) -> Program:
    """Return a cascade as a Python file of Triton kernels.

    Args:
        sizes: of its ranks, for which alone the kernels are written; B and H multiply all where the text leaves them
            out.
        on: a GPU, for which Einsums are grouped and tiles chosen.
        implementation, kernels: as for `predict_cascade`.
        dtype: of all tensors in memory, fp32, bf16 or fp16; fp32 is what lies there between Einsums for a selection to
            choose from, and so are sums and what stays on chip.
        compiler: is asked what tiles to take; without it they are those that the text says are the fastest.

    Raises:
        CannotWriteError: something has no form in Triton.
    """
    require(cascade)
    _check_names(cascade)
    gpu = gpu_of(on)
    word = word_of(dtype)
    if word not in TYPES:
        raise CannotWriteError(f"dtype: found {dtype}; expected one of {', '.join(TYPES)}")
    known = known_sizes(cascade, sizes)
    _check_sizes(cascade, known)
    text, cascade = render(cascade), guarded(cascade, known)
    case = case_of(cascade, known, word)
    memory = Memory(case)
    able = Writable(memory, word)
    for unit in units_of(cascade):
        able.require(unit)
    planner, laid = planned(
        cascade, known, gpu, implementation=implementation, kernels=kernels, dtype=dtype, able=able
    )
    names = _names([k.einsums for k in laid])
    if compiler is None:
        chosen = [
            Choice(k, written_kernel(n, k, memory, word=word)) for n, k in zip(names, laid, strict=True)
        ]
    else:
        chosen = choose(planner, names, laid, memory, compiler, word=word)
    _check_blocks([w for c in chosen for w in c.written], case.batch)
    prediction = priced(planner, [c.kernel for c in chosen])
    return Program(
        _text(text, memory, gpu, word, [c.written for c in chosen], prediction),
        tuple(chosen),
        prediction,
        case.batch,
    )


def _check_names(cascade: Cascade) -> None:
    """Refuse names of tensors and ranks that Python or the file itself needs."""
    own = {*_OWN, *keyword.kwlist}
    for kind, names in (("tensor", cascade.signatures), ("rank", cascade.rank_names)):
        for name in names:
            if name in own or name.startswith("BLOCK_") or name.endswith(("_ptr", "_parts")):
                raise CannotWriteError(
                    f"{kind} {name}: the file needs this name itself; call it something else"
                )


def _check_sizes(cascade: Cascade, sizes: Mapping[str, int]) -> None:
    """Refuse a rank whose coordinates are no 32-bit numbers, as those of a kernel are, its last tile included."""
    for rank in cascade.rank_names:
        if sizes.get(rank, 0) > MOST_32 - _LARGEST_TILE:
            raise CannotWriteError(
                f"{rank}={sizes[rank]:,}: coordinates are 32-bit numbers; expected at most "
                f"{MOST_32 - _LARGEST_TILE:,}, or the rank split in two"
            )


def _check_blocks(written: Sequence[Written], batch: int) -> None:
    """Refuse more blocks than a launch may have along the only axis of its grid that has so many."""
    for w in written:
        if w.blocks * batch > MOST_32:
            raise CannotWriteError(
                f"{w.name}: {w.blocks * batch:,} thread blocks; a launch has at most {MOST_32:,}, so write a part of "
                "the batch"
            )


def _names(kernels: Sequence[Sequence[str]]) -> list[str]:
    """Return a name for each kernel: the Einsums of it, or the first and the last."""
    names = Body({"run", *HELPERS})
    short = [e if len(e) <= 3 else (e[0], "to", e[-1]) for e in kernels]
    return [names.fresh("_".join(e.lower() for e in each)) for each in short]


def _text(
    source: str, memory: Memory, gpu: Gpu, word: str, groups: Sequence[Sequence[Written]], found: Prediction
) -> str:
    case, cascade = memory.case, memory.cascade
    inputs = [s.tensor for s in cascade.inputs]
    outputs = [s.tensor for s in cascade.outputs]
    written = [w for group in groups for w in group]
    made = list(dict.fromkeys(t for w in written for t in w.writes))
    scratch = {n: shape for w in written for n, shape in w.scratch.items()}
    helpers = dict.fromkeys(h for w in written for h in w.helpers)
    parts = [
        _head(case, gpu, word),
        HEAD,
        _constants(source, word, memory, [*inputs, *made], scratch),
        *(f"\n{HELPERS[h]}" for h in helpers),
        *(f"\n{w.text}" for w in written),
        f"\n{_launches(gpu, found, groups)}",
        f"\n{_run(inputs, outputs, case.batch)}",
    ]
    return "\n".join(parts)


def _head(case: Case, gpu: Gpu, word: str) -> str:
    sizes = ", ".join(f"{r}={n}" for r, n in case.sizes.items())
    return f'''"""Triton kernels of {case.cascade.name} for {sizes}, in {word}.

Written from its text; grouped and tiled for {gpu.name}. Change them as you like: nothing else depends on them.
"""
'''


def _constants(
    source: str, word: str, memory: Memory, tensors: Sequence[str], scratch: Mapping[str, tuple[int, ...]]
) -> str:
    text = source.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    laid = {t: (memory.shape(t), _type(t, word, memory)) for t in tensors if t not in scratch}
    laid |= {t: (shape, "torch.float32") for t, shape in scratch.items()}
    shapes = "\n".join(f'    "{t}": ({shape}, {dtype}),' for t, (shape, dtype) in laid.items())
    return f'''# What the kernels compute, for checks.
CASCADE = """{text}"""
SIZES = {dict(memory.case.sizes)}
BATCH = {memory.case.batch}

# Shape of each tensor, batch left out, and its type in memory.
TENSORS = {{
{shapes}
}}
'''


def _type(tensor: str, word: str, memory: Memory) -> str:
    pointer = memory.pointer(tensor, word)
    name = "tl.int32" if pointer == "i32" else TYPES[pointer]
    return name.replace("tl.", "torch.")


def _launches(gpu: Gpu, found: Prediction, groups: Sequence[Sequence[Written]]) -> str:
    """Return what each launch takes, as data."""
    rows = []
    for w in (w for group in groups for w in group):
        names = ", ".join(f'"{t}"' for t in (*w.reads, *w.writes))
        constants = ", ".join(f"{c}={n}" for c, n in w.constants.items())
        rows.append(f"    ({w.name}, [{names}], {w.blocks}, dict({constants}), {w.warps}),")
    lines = "\n".join(rows)
    times = [
        1e6 * launch["latency_s"] if w is group[0] else 0.0
        for launch, group in zip(found.launches, groups, strict=True)
        for w in group
    ]
    each = ", ".join(f"{t:.2f}" for t in times)
    return f"""# In order: the kernel, its tensors, its blocks for one element of the batch, its constants, its warps.
LAUNCHES = [
{lines}
]
# What each was predicted to take on {gpu.name}, in microseconds; what puts parts together is in the one before.
PREDICTED_US = [{each}]
"""


def _run(inputs: Sequence[str], outputs: Sequence[str], batch: int) -> str:
    takes = ", ".join(inputs)
    given = ", ".join(f'"{t}": {t}' for t in inputs)
    returned = ", ".join(f'tensors["{t}"]' for t in outputs)
    whole = "(BATCH, *shape)" if batch > 1 else "shape"
    more = f", {batch} of each one after another" if batch > 1 else ""
    return f'''def prepare({takes}, *, empty=torch.empty):
    """Return all tensors by name: the inputs, checked, and room for the others, made by `empty`."""
    tensors = {{{given}}}
    device = next(iter(tensors.values())).device
    for name, (shape, dtype) in TENSORS.items():
        if name not in tensors:
            tensors[name] = empty({whole}, dtype=dtype, device=device)
        elif tuple(tensors[name].shape) != {whole} or tensors[name].dtype != dtype or not tensors[name].is_contiguous():
            raise ValueError(f"{{name}}: expected a contiguous {{dtype}} of shape {{{whole}}}")
    return tensors


def launch(step, tensors):
    """Run one kernel, on the device of its tensors."""
    function, names, blocks, constants, warps = step
    with torch.cuda.device_of(tensors[names[0]]):
        function[(blocks * BATCH,)](*(tensors[n] for n in names), **constants, num_warps=warps)


def run({takes}, *, empty=torch.empty):
    """Return {", ".join(outputs)}; tensors are contiguous, on one device, as TENSORS has them{more}."""
    tensors = prepare({takes}, empty=empty)
    for step in LAUNCHES:
        launch(step, tensors)
    return {returned}
'''
