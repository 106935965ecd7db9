"""Check every kernel against its float64 reference: interpreted on a CPU, compiled where a GPU is.

Outputs and scratch tensors are filled with NaN before a launch, so that a point which is never written is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from einsum_cascade.errors import KernelError

from . import registry
from .registry import Case, KernelEntry

if TYPE_CHECKING:
    import torch

# Largest error, as a fraction of the largest reference value. Half types: the weights (each at most 1, summing to 1)
# and the result are both rounded to nearest, half an epsilon each, and intermediate results of other cascades once
# more: two epsilons. float32: products are exact to a few epsilons of 2^-23, but sums of head_dim terms, differences
# of scores inside an exponential and the hardware's approximate exponential (2 ulp) add up to some tens of them.
LIMITS = {"fp32": 1e-5, "fp16": 2 * 2.0**-10, "bf16": 2 * 2.0**-7}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one check.

    Attributes:
        error: largest absolute error over all outputs, each divided by its largest reference value; infinite where an
            element is NaN, or finite on one side only.
        worst: the output with that error, or why there is none.
    """

    kernel: str
    case: str
    error: float
    limit: float
    worst: str
    how: str

    @property
    def ok(self) -> bool:
        """Whether the error is within the limit."""
        return self.error <= self.limit


def poisoned(shape: tuple[int, ...], **kwargs: Any) -> torch.Tensor:
    """Return a tensor full of NaN, in place of `torch.empty`."""
    import torch

    return torch.full(shape, float("nan"), **kwargs)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error over the largest expected value; infinite where infinities or NaNs differ.

    A NaN where one is expected is right: a softmax of nothing, in a text that does not say what it should be.
    """
    got = got.double().cpu()
    if got.shape != expected.shape:
        raise KernelError(f"expected a result of shape {list(expected.shape)}, found {list(got.shape)}")
    finite = expected.isfinite()
    alike = (got == expected) | (got.isnan() & expected.isnan())
    if not bool(alike[~finite].all()) or not bool(got[finite].isfinite().all()):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = expected[finite].abs().max().clamp_min(1e-30)
    return float((got[finite] - expected[finite]).abs().max() / scale)


def run_case(entry: KernelEntry, case: Case, *, device: str = "cpu", seed: int = 0) -> Outcome:
    """Return how far the kernel is from its reference in one case.

    Args:
        device: "cpu" runs the interpreter, "cuda" the compiled kernel.
    """
    inputs = registry.load(entry.inputs)(**case.sizes, dtype=case.dtype, extras=case.extras, seed=seed)
    exact = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    expected = registry.load(entry.reference)(**exact, **case.options)
    launched = {k: v.to(device) for k, v in inputs.items()}
    got = registry.load(entry.launcher)(**launched, **case.options, empty=poisoned)
    # A backward pass returns the gradients of what it was given to learn after its own outputs.
    learnt = [f"D{name.upper()}" for name in entry.learnt if name in inputs]
    errors = {
        name: relative_error(g, e)
        for name, g, e in zip([*entry.outputs, *learnt], got, expected, strict=True)
        if g is not None
    }
    worst = max(errors, key=lambda name: errors[name])
    how = "interpreted" if device == "cpu" else "compiled"
    return Outcome(entry.name, case.label, errors[worst], LIMITS[case.dtype], worst, how)


def run(
    names: Iterable[str] | None = None,
    *,
    device: str | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[Outcome, ...]:
    """Return the outcome of every check of the named kernels, or of all.

    On a GPU, kernels are compiled on all CPUs first, and the checks run apart, see `kernels.apart`.

    Args:
        device: "cpu" or "cuda"; the GPU where there is one if not given.
        progress: wraps the cases while they run, for example tqdm.

    Raises:
        KernelError: no such kernel or device.
    """
    from .device import resolve

    # A wrong name is told at once, before torch is loaded.
    chosen = registry.chosen(names)
    device = resolve(device)
    work = [(entry, case) for entry in chosen for case in registry.load(entry.cases)()]
    if device == "cpu":
        return tuple(attempt(entry, case, device) for entry, case in progress(work))
    from . import apart, beforehand

    jobs = [(entry.name, case) for entry, case in work]
    beforehand.compile_here(jobs)
    found = apart.outcomes(
        jobs, failed=lambda job, reason: _failed(job[0], job[1], device, reason), serve=apart.on_gpu
    )
    return tuple(outcome for _, outcome in zip(progress(work), found, strict=True))


def attempt(entry: KernelEntry, case: Case, device: str) -> Outcome:
    """Return the outcome of a check; one that does not even run has failed, and the others follow."""
    try:
        return run_case(entry, case, device=device)
    except (KernelError, RuntimeError) as error:
        return _failed(entry.name, case, device, " ".join(str(error).split())[:200])


def _failed(kernel: str, case: Case, device: str, reason: str) -> Outcome:
    how = "interpreted" if device == "cpu" else "compiled"
    return Outcome(kernel, case.label, float("inf"), LIMITS[case.dtype], f"did not run: {reason}", how)
