"""A point of a sweep over a kernel on a GPU: texts -> a call and a device -> a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mappings.remembered import by_file

from .gpus import gpu_of

if TYPE_CHECKING:
    from einsum_cascade.cascade import Cascade
    from mappings.gpu import KernelMapping

_KEPT = (
    "latency_s",
    "low_s",
    "high_s",
    "tflops",
    "energy_j",
    "power_w",
    "bound_by",
    "waves",
    "roofline_s",
    "tiles",
)


def prepare(
    point: Mapping[str, Any], *, inputs: Mapping[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the kernel, the words of the call, and the other arguments of the prediction that a point asks for.

    Args:
        point: by axis: `hardware.FIELD`, `sizes.WORD`, or a whole input.
        inputs: kernel, hardware, sizes (`batch=4,heads=32,seq_q=8K,head_dim=128`), implementation; the cascade whose
            `where` is the mask; a mapping file of your own kernel.

    Raises:
        ModelError: something cannot be read, or a field does not exist.
    """
    from einsum_cascade.pairs import pairs_of

    from ...gpu.masks import masked_sizes
    from ...gpu.model import of_gradients
    from ...gpu.sizes import call_of

    given = {**inputs, **{k: v for k, v in point.items() if "." not in k}}
    changes = {k.removeprefix("sizes."): v for k, v in point.items() if k.startswith("sizes.")}
    sizes = given["sizes"]
    words = {**(pairs_of([sizes]) if isinstance(sizes, str) else sizes), **changes}
    kernel, implementation, cascade = (
        given["kernel"],
        given.get("implementation", "triton"),
        _mask(given.get("mask")),
    )
    if "mapping" not in given:
        kernel, words = of_gradients(kernel, words)
    mapping = _mapping(kernel, implementation, given.get("mapping"))
    call_of(mapping, masked_sizes(cascade, words)[1] if cascade else words)
    return (
        kernel,
        words,
        {
            "on": gpu_of(point, inputs=inputs),
            "implementation": implementation,
            "mapping": mapping,
            "cascade": cascade,
        },
    )


def _mapping(kernel: str, implementation: str, given: Any) -> KernelMapping:
    """Return how the kernel is laid out: as the library says, or a file, or a mapping itself."""
    from mappings.gpu import KernelMapping, find_kernel_mapping

    if given is None:
        return find_kernel_mapping(kernel, implementation)
    if isinstance(given, KernelMapping):
        return given
    return _read(str(given))


@by_file(64)
def _read(path: str) -> KernelMapping:
    from mappings.gpu import read_kernel_mapping

    return read_kernel_mapping(path)


@by_file(64)
def _mask(name: str | None) -> Cascade | None:
    from einsum_cascade import zoo

    return zoo.find(name) if name else None


def evaluate(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prediction of a point as one row.

    Raises:
        ModelError: the kernel does not fit the device, or something cannot be read.
    """
    from ...gpu.model import predict

    kernel, words, arguments = prepare(point, inputs=inputs)
    found = predict(kernel, **arguments, **words)
    return {name: getattr(found, name) for name in _KEPT} | {"assumptions": len(found.assumptions)}
