"""A point of a sweep over a kernel on a GPU: texts -> a call and a device -> a prediction."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .gpus import gpu_of

if TYPE_CHECKING:
    from einsum_cascade.cascade import Cascade

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


def prepare(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the device and the words of the call that a point asks for.

    Args:
        point: by axis: `hardware.FIELD`, `sizes.WORD`, or a whole input.
        inputs: kernel, hardware, sizes (`batch=4,heads=32,seq_q=8K,head_dim=128`), implementation, and the cascade
            whose `where` is the mask.

    Raises:
        ModelError: something cannot be read, or a field does not exist.
    """
    from mappings.gpu import find_kernel_mapping

    from ...gpu.call import pairs_of
    from ...gpu.masks import masked_sizes
    from ...gpu.sizes import call_of

    given = {**inputs, **{k: v for k, v in point.items() if "." not in k}}
    changes = {k.removeprefix("sizes."): v for k, v in point.items() if k.startswith("sizes.")}
    sizes = given["sizes"]
    words = {**(pairs_of([sizes]) if isinstance(sizes, str) else sizes), **changes}
    mapping = find_kernel_mapping(given["kernel"], given.get("implementation", "triton"))
    cascade = _mask(given.get("mask"))
    call_of(mapping, masked_sizes(cascade, words)[1] if cascade else words)
    return gpu_of(point, inputs=inputs), words


@functools.lru_cache(maxsize=64)
def _mask(name: str | None) -> Cascade | None:
    from einsum_cascade import zoo

    return zoo.find(name) if name else None


def evaluate(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prediction of a point as one row.

    Raises:
        ModelError: the kernel does not fit the device, or something cannot be read.
    """
    from ...gpu.model import predict

    gpu, words = prepare(point, inputs=inputs)
    given = {**inputs, **{k: v for k, v in point.items() if "." not in k}}
    implementation, cascade = given.get("implementation", "triton"), _mask(given.get("mask"))
    found = predict(given["kernel"], on=gpu, implementation=implementation, cascade=cascade, **words)
    return {name: getattr(found, name) for name in _KEPT} | {"assumptions": len(found.assumptions)}
