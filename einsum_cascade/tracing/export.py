"""A PyTorch function as a graph that is read once: without writing in place, each operation with its line."""

from __future__ import annotations

import contextlib
import linecache
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import CascadeError

SOURCE = "source"


def exported_by(fn: Callable[..., Any], example_inputs: Sequence[Any]) -> Any:
    """Return the graph that torch exports of a function, each operation marked with its line where that can be.

    Raises:
        CascadeError: torch cannot trace it, with the line at which it stopped.
    """
    import torch
    from torch.fx import traceback as marks
    from torch.overrides import TorchFunctionMode

    last = ("", 0)

    class Lines(TorchFunctionMode):
        """Marks every operation with the line of the caller's source."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal last
            frame: Any = sys._getframe(1)
            while frame is not None and ("/torch/" in frame.f_code.co_filename or frame.f_code is forward):
                frame = frame.f_back
            last = (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("", 0)
            with marks.annotate({SOURCE: last}):
                return func(*args, **(kwargs or {}))

    class Wrapped(torch.nn.Module):
        def __init__(self, around: Any) -> None:
            super().__init__()
            self.inner, self.around = fn, around

        def forward(self, *args: Any) -> Any:
            with self.around():
                return self.inner(*args)

    forward = Wrapped.forward.__code__
    found: CascadeError | None = None
    # Nothing may watch the functions that FlexAttention is given; messages then lack the line.
    for around in (Lines, contextlib.nullcontext):
        try:
            with torch.no_grad(), marks.preserve_node_meta(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch speaks of its own use of itself, and of speed
                exported = torch.export.export(Wrapped(around).eval(), tuple(example_inputs), strict=False)
                # What is written in place is said as a new tensor, and regions such as autocast are opened.
                return exported.run_decompositions({}) if _is_mutable(exported) else exported
        # torch's own errors are RuntimeErrors; what the function itself raises on its way comes through as it is.
        except (RuntimeError, TypeError, ValueError) as error:
            first = str(error).strip().splitlines()
            why = first[0] if first else repr(error)
            found = found or CascadeError(f"{line_of(*last)}torch cannot trace this function: {why}")
    assert found is not None
    raise found from None


def _is_mutable(exported: Any) -> bool:
    """Tell whether a graph writes tensors in place or has graphs inside."""
    for node in exported.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "get_attr" or (schema is not None and getattr(schema, "is_mutable", False)):
            return True
    return False


def line_of(file: str, line: int) -> str:
    """Return `file:line: source` and a new line, for a message; nothing where the place is not known."""
    if not file:
        return ""
    text = linecache.getline(file, line).strip()
    return f"{file}:{line}: {text}\n  " if text else f"{file}:{line}: "
