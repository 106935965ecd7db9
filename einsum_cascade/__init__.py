"""Describe an algorithm as a cascade of extended Einsums, and learn what no machine can beat.

The names of the face are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CascadeError, HardwareError, KernelError, MappingError, ModelError

if TYPE_CHECKING:
    from . import zoo
    from .analysis.bounds import bounds, traffic_curve
    from .analysis.passes import all_passes, passes
    from .backward.gradients import gradients
    from .cascade import Cascade
    from .evaluator import evaluate, random_inputs, same_result
    from .parser import load, parse
    from .printer import latex, render
    from .rewrite.chunks.chunk import in_chunks
    from .rewrite.reduce import reduce_passes
    from .sizes import parse_sizes
    from .tracing.tracer import from_torch, trace

_FACE = {
    "Cascade": "cascade",
    "parse": "parser",
    "load": "parser",
    "render": "printer",
    "latex": "printer",
    "evaluate": "evaluator",
    "random_inputs": "evaluator",
    "same_result": "evaluator",
    "passes": "analysis.passes",
    "all_passes": "analysis.passes",
    "bounds": "analysis.bounds",
    "traffic_curve": "analysis.bounds",
    "reduce_passes": "rewrite.reduce",
    "in_chunks": "rewrite.chunks.chunk",
    "gradients": "backward.gradients",
    "from_torch": "tracing.tracer",
    "trace": "tracing.tracer",
    "parse_sizes": "sizes",
}
_NEIGHBOURS = ("simulator", "mappings", "kernels", "validation")

__all__ = [
    "Cascade",
    "CascadeError",
    "HardwareError",
    "KernelError",
    "MappingError",
    "ModelError",
    "all_passes",
    "bounds",
    "evaluate",
    "foreign_neighbours",
    "from_torch",
    "gradients",
    "in_chunks",
    "latex",
    "load",
    "parse",
    "parse_sizes",
    "passes",
    "random_inputs",
    "reduce_passes",
    "render",
    "same_result",
    "trace",
    "traffic_curve",
    "zoo",
]


def foreign_neighbours() -> dict[str, str]:
    """Return the sibling packages that are somebody else's, with where they were found.

    `kernels`, `validation`, `mappings` and `simulator` are names that other distributions use too; whichever
    stands first on the path wins, and nothing else would say so.
    """
    home = Path(__file__).resolve().parent.parent
    foreign = {}
    for name in _NEIGHBOURS:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is not None and origin.parent.parent != home:
            foreign[name] = str(origin.parent)
    return foreign


for _name, _found in foreign_neighbours().items():
    warnings.warn(
        f"'import {_name}' gives another package, in {_found}; "
        "uninstall that one or use a separate environment",
        stacklevel=2,
    )


def __getattr__(name: str) -> Any:
    if name == "zoo":
        return importlib.import_module(".zoo", __name__)
    if name in _FACE:
        # No module carries the name of a verb (parser.py, not parse.py): importing it would shadow the verb.
        value = getattr(importlib.import_module("." + _FACE[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the face, so that completion shows what is loaded only when it is used."""
    return sorted(__all__)
