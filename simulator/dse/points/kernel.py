"""A point of a sweep over a kernel on a GPU: texts -> a call and a device -> a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .gpus import gpu_of

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
        inputs: kernel, hardware, sizes (`batch=4,heads=32,seq_q=8K,head_dim=128`) and implementation.

    Raises:
        ModelError: something cannot be read, or a field does not exist.
    """
    from mappings.gpu import find_kernel_mapping

    from ...gpu.call import pairs_of
    from ...gpu.sizes import call_of

    given = {**inputs, **{k: v for k, v in point.items() if "." not in k}}
    changes = {k.removeprefix("sizes."): v for k, v in point.items() if k.startswith("sizes.")}
    sizes = given["sizes"]
    words = {**(pairs_of([sizes]) if isinstance(sizes, str) else sizes), **changes}
    call_of(find_kernel_mapping(given["kernel"], given.get("implementation", "triton")), words)
    return gpu_of(point, inputs=inputs), words


def evaluate(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prediction of a point as one row.

    Raises:
        ModelError: the kernel does not fit the device, or something cannot be read.
    """
    from ...gpu.model import predict

    gpu, words = prepare(point, inputs=inputs)
    given = {**inputs, **{k: v for k, v in point.items() if "." not in k}}
    found = predict(given["kernel"], on=gpu, implementation=given.get("implementation", "triton"), **words)
    return {name: getattr(found, name) for name in _KEPT} | {"assumptions": len(found.assumptions)}
