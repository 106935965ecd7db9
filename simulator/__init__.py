"""Predict what an algorithm costs on a machine: latency, energy, traffic, area, and what bounds it.

The names of the face are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dse.pareto import pareto
    from .dse.space import Space
    from .dse.study import sweep
    from .gpu.fusion.predict import predict_cascade
    from .gpu.gna import gna_bounds
    from .gpu.gna_time import predict_gna
    from .gpu.gna_tune import tune_gna
    from .gpu.masks import mask_tiles
    from .gpu.model import predict
    from .gpu.writing.program import write_program
    from .hardware.reader import load_hardware
    from .result import Estimate
    from .spatial.mapper import find_mapping
    from .spatial.model import simulate

_FACE = {
    "Estimate": ".result",
    "Space": ".dse.space",
    "find_mapping": ".spatial.mapper",
    "gna_bounds": ".gpu.gna",
    "load_hardware": ".hardware.reader",
    "mask_tiles": ".gpu.masks",
    "pareto": ".dse.pareto",
    "predict": ".gpu.model",
    "predict_cascade": ".gpu.fusion.predict",
    "predict_gna": ".gpu.gna_time",
    "tune_gna": ".gpu.gna_tune",
    "simulate": ".spatial.model",
    "sweep": ".dse.study",
    "write_program": ".gpu.writing.program",
}

__all__ = [
    "Estimate",
    "Space",
    "find_mapping",
    "gna_bounds",
    "load_hardware",
    "mask_tiles",
    "pareto",
    "predict",
    "predict_cascade",
    "predict_gna",
    "simulate",
    "sweep",
    "tune_gna",
    "write_program",
]


def __getattr__(name: str) -> Any:
    if name in _FACE:
        value = getattr(importlib.import_module(_FACE[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the face, so that completion shows what is loaded only when it is used."""
    return sorted(__all__)
