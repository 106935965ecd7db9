"""A cascade and a GPU -> kernels, and what they take: the tile simulator's face for who has a text and no kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from einsum_cascade.analysis.points import batch_of, known_sizes
from einsum_cascade.cascade import Cascade, require
from einsum_cascade.errors import MappingError, nearest

from ...hardware.gpu import Gpu, gpu_of
from ..calibration import Key, prior, uncalibrated, unknown
from ..call import BYTES, DTYPE_WORDS
from ..efficiency import Efficiency
from ..model import predict
from ..prediction import Prediction
from .case import Case
from .kernels import FAMILY, HEAD_DIM, LIKE, Able, Kernel, mapping_of
from .plan import Planner

# What a launch and a block cost beyond their work. That they are the usual ones, not those of Triton's attention on the
# device, was chosen after looking at rows of B200, where a block of that attention takes six times as long to begin.
_FIXED = Efficiency(1.0)
_USUAL = "bf16"
# Who asks for one way to run a cascade mostly asks for the other next, or for another device: the last planner is kept.
_last: list[Planner] = []
# How a cascade may be laid out: kernels joined as far as pays, or one an Einsum.
WAYS = ("fused", "eager")


def predict_cascade(
    cascade: Cascade,
    sizes: Mapping[str, int] | str,
    *,
    on: str | Gpu,
    implementation: str = "fused",
    kernels: Sequence[Sequence[str]] | None = None,
    dtype: str = "bf16",
) -> Prediction:
    """Return the predicted latency of a cascade on a GPU, with the kernels that it was laid out as.

    Nobody has measured these kernels and no compiler has seen them: the rates are those that Triton's attention reaches
    on the device, the costs of a launch and of a block are assumed, and the interval is the widest there is.

    Args:
        cascade: any.
        sizes: of its ranks, as for `bounds`; B and H multiply all where the text leaves them out.
        on: a device by name or alias, or a `Gpu`.
        implementation: "fused", Einsums share a kernel, and are computed again in another one, where the tile model
            says that it is faster; "eager", one kernel an Einsum (one an iterate block), all between them in memory.
        kernels: in place of both, the Einsums of each kernel by name; those that are left out stay alone. One of
            several kernels is computed in each, and written by the first of them where another one reads it.
        dtype: of all tensors in memory; sums and what stays on chip are fp32. Products of fp32 take no tensor cores.

    Raises:
        ModelError: an unknown device, way or type, sizes that are missing, or kernels that there cannot be.

    >>> from einsum_cascade import zoo
    >>> sizes = "E=64,F=64,M=4K,P=4K,H=32"
    >>> fused, eager = (
    ...     predict_cascade(zoo.load("attention_3pass"), sizes, on="h100", implementation=way) for way in WAYS
    ... )
    >>> [each["name"] for each in fused.launches], len(eager.launches)
    (['QK+GM', 'QK+SN+SD', 'QK+SN+A+AV'], 6)
    """
    gpu = gpu_of(on)
    return priced(*planned(cascade, sizes, gpu, implementation=implementation, kernels=kernels, dtype=dtype))


def planned(
    cascade: Cascade,
    sizes: Mapping[str, int] | str,
    gpu: Gpu,
    *,
    implementation: str = "fused",
    kernels: Sequence[Sequence[str]] | None = None,
    dtype: str = "bf16",
    able: Able | None = None,
) -> tuple[Planner, list[Kernel]]:
    """Return the kernels that a cascade is laid out as, with who has chosen them; arguments as for `predict_cascade`.

    Args:
        able: which tilings there may be, if not all.
    """
    require(cascade)
    planner = _planner(cascade, sizes, gpu, dtype, able)
    return planner, _laid(planner, implementation, kernels)


def priced(planner: Planner, laid: Sequence[Kernel]) -> Prediction:
    """Return what the kernels of a plan take."""
    useful = 2.0 * planner.case.operations.get("mac", 0)
    mapping = mapping_of([k.grid for k in laid], [k.tile for k in laid], useful=useful)
    return predict(
        planner.case.cascade.name,
        on=planner.gpu,
        mapping=mapping,
        implementation=LIKE,
        calibration=planner.by,
        dtype=planner.dtype,
    )


def kernels_of(
    cascade: Cascade,
    sizes: Mapping[str, int] | str,
    gpu: Gpu,
    *,
    implementation: str = "fused",
    kernels: Sequence[Sequence[str]] | None = None,
    dtype: str = "bf16",
) -> list[Kernel]:
    """Return the kernels that a cascade is laid out as, in the order in which they run; arguments as above."""
    return planned(cascade, sizes, gpu, implementation=implementation, kernels=kernels, dtype=dtype)[1]


def _planner(
    cascade: Cascade, sizes: Mapping[str, int] | str, gpu: Gpu, dtype: str, able: Able | None = None
) -> Planner:
    known = known_sizes(cascade, sizes)
    word = word_of(dtype)
    if able is not None:  # a function says nothing of what it is for: such a planner is nobody else's
        return new_planner(case_of(cascade, known, word), gpu, word, able=able)
    case, last = None, _last[0] if _last else None
    if last is not None and last.of(cascade, known, word):
        if last.gpu == gpu:
            return last
        case = last.case
    _last[:] = [new_planner(case or case_of(cascade, known, word), gpu, word)]
    return _last[0]


def case_of(cascade: Cascade, known: Mapping[str, int], word: str) -> Case:
    """Return a cascade whose sizes are all known, in a type that is."""
    return Case(cascade, known, batch_of(cascade, known), BYTES[word], word != "fp32")


def new_planner(case: Case, gpu: Gpu, word: str, *, able: Able | None = None) -> Planner:
    """Return who chooses the kernels of a cascade on a GPU, in the type of the case."""
    return Planner(case, gpu, word, by=_constants(gpu), able=able)


def _laid(planner: Planner, implementation: str, kernels: Sequence[Sequence[str]] | None) -> list[Kernel]:
    if implementation not in WAYS:
        raise MappingError(
            f"unknown way '{implementation}' to run a cascade; {nearest(implementation, WAYS)}"
        )
    if kernels is not None:
        return planner.given(kernels)
    return planner.together() if implementation == "fused" else planner.apart()


def named_kernels(text: str) -> list[list[str]] | None:
    """Return the Einsums of each kernel from a text; None where it says nothing.

    >>> named_kernels("QK/GM+SN+SD+A/AV")
    [['QK'], ['GM', 'SN', 'SD', 'A'], ['AV']]
    """
    return [part.split("+") for part in text.replace(" ", "").split("/")] if text else None


def word_of(dtype: str) -> str:
    """Return a type by the name that tables go by."""
    word = DTYPE_WORDS.get(dtype.strip().lower(), dtype.strip().lower())
    if word not in BYTES:
        raise MappingError(f"dtype: unknown type '{dtype}'; {nearest(word, BYTES)}")
    return word


def _constants(gpu: Gpu) -> Efficiency:
    """Return the rates that Triton's attention reaches on a device; what its blocks cost beyond them is its own.

    They are those in the type that most rows are in, whatever the cascade's: of the others, rows are few, and what a
    mean over other devices makes of that differs by more (0.70 and 0.81 on H100) than the types can do.
    """
    known = uncalibrated(prior(Key(gpu.name, gpu.target, FAMILY, LIKE, HEAD_DIM, _USUAL)), kind="described")
    guess = unknown(known, of="kernel")
    fixed = f"assumed: {_FIXED.block_cycles:.0f} cycles a block, {_FIXED.launch_s * 1e6:.0f} us a launch"
    return replace(
        guess, launch_s=_FIXED.launch_s, block_cycles=_FIXED.block_cycles, source=f"{guess.source}; {fixed}"
    )
