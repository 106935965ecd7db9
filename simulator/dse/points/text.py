"""A point of a sweep over a cascade on a GPU: texts -> cascade, sizes and a device -> kernels and their prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from einsum_cascade.errors import DataError

from .attention import work_of
from .gpus import gpu_of

_KEPT = ("latency_s", "low_s", "high_s", "tflops", "energy_j", "power_w", "bound_by", "roofline_s")
_WORDS = {"implementation": "fused", "dtype": "bf16", "kernels": ""}


def prepare(
    point: Mapping[str, Any], *, inputs: Mapping[str, Any]
) -> tuple[Any, Any, Mapping[str, int], Any]:
    """Return cascade, device, sizes and the words of the layout that a point asks for.

    Args:
        point: by axis: `hardware.FIELD`, `sizes.RANK`, `sizes.seq`, `sizes.model`, or a whole input.
        inputs: cascade, hardware, sizes, and implementation, dtype and kernels (`QK/GM+SN+SD+A/AV`) as `predict` has
            them.

    Raises:
        ModelError: something cannot be read, or a field does not exist.
    """
    given = {**inputs, **{k: v for k, v in point.items() if "." not in k}}
    cascade, _, sizes = work_of(point, inputs=inputs)
    words = {name: given.get(name, usual) for name, usual in _WORDS.items()}
    for name, word in words.items():
        if not isinstance(word, str):
            raise DataError(f"{name}: expected a word, found {word!r}")
    return cascade, gpu_of(point, inputs=inputs), sizes, words


def evaluate(point: Mapping[str, Any], *, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prediction of a point as one row, with the bytes that pass through memory and how many kernels.

    Raises:
        ModelError: the cascade cannot be laid out so, or something cannot be read.
    """
    from ...gpu.fusion.predict import named_kernels, predict_cascade

    cascade, gpu, sizes, words = prepare(point, inputs=inputs)
    groups = named_kernels(words["kernels"])
    found = predict_cascade(
        cascade, sizes, on=gpu, implementation=words["implementation"], kernels=groups, dtype=words["dtype"]
    )
    return {name: getattr(found, name) for name in _KEPT} | {
        "traffic_bytes": sum(each["bytes"] for each in found.launches),
        "launches": len(found.launches),
        "assumptions": len(found.assumptions),
    }
