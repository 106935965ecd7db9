"""A PyTorch function as a graph that is read once: without writing in place, each operation with its line."""

from __future__ import annotations

import contextlib
import linecache
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import CascadeError

SOURCE = "source"


def exported_by(
    fn: Callable[..., Any], example_inputs: Sequence[Any], named_inputs: Mapping[str, Any]
) -> Any:
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
            while frame is not None and (frame.f_code is forward or _is_inside(frame.f_code.co_filename)):
                frame = frame.f_back
            last = (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("", 0)
            with marks.annotate({SOURCE: last}):
                return func(*args, **(kwargs or {}))

    class Wrapped(torch.nn.Module):
        def __init__(self, around: Any) -> None:
            super().__init__()
            self.inner, self.around = fn, around

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with self.around():
                return self.inner(*args, **kwargs)

    forward = Wrapped.forward.__code__
    found: CascadeError | None = None
    # Nothing may watch the functions that FlexAttention is given; messages then lack the line.
    for around in (Lines, contextlib.nullcontext):
        try:
            with (
                _unwinding(),
                _silent(),
                torch.no_grad(),
                marks.preserve_node_meta(),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # torch speaks of its own use of itself, and of speed
                exported = _opened(
                    torch.export.export(
                        Wrapped(around).eval(), tuple(example_inputs), dict(named_inputs), strict=False
                    )
                )
            if not _is_transformed(exported):
                return exported
            break
        # torch's own errors are RuntimeErrors; what the function itself raises on its way comes through as it is.
        except (RuntimeError, TypeError, ValueError) as error:
            first = str(error).strip().splitlines()
            why = first[0] if first else repr(error)
            found = found or CascadeError(f"{line_of(*last)}torch cannot trace this function: {why}")
        except (
            AttributeError
        ) as error:  # so fail derivatives inside vmap; or the function has a mistake of its own
            if not any("/torch/" in f.filename for f in traceback.extract_tb(error.__traceback__)[-1:]):
                raise
            found = found or CascadeError(f"{line_of(*last)}torch cannot trace this function: {error}")
    plain = not isinstance(fn, torch.nn.Module) and not named_inputs
    derived = _by_operations(fn, example_inputs) if plain else None
    if derived is None:
        raise found or CascadeError("torch cannot trace derivatives inside this function") from None
    return derived


def _is_inside(file: str) -> bool:
    return "/torch/" in file or file in (contextlib.__file__, "<string>")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep torch from writing the traceback of a refusal that we pass on in one line."""
    import logging

    # The module's own, so that what others log stays.
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def _unwinding() -> Iterator[None]:
    """Leave torch as it was: where tracing stops inside vmap or grad, torch would take all that follows to be there."""
    import torch
    from torch._C._functorch import get_interpreter_stack, pop_dynamic_layer_stack

    layers, level = len(get_interpreter_stack() or ()), torch.autograd.forward_ad._current_level
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # that there is no such level to leave
            torch._C._exit_dual_level(level=level + 1)
        while len(get_interpreter_stack() or ()) > layers:
            pop_dynamic_layer_stack()


def _opened(exported: Any) -> Any:
    """Return a graph in which what is written in place is a new tensor; autocast and vmap are opened."""
    return exported.run_decompositions({}) if _is_mutable(exported) or _is_transformed(exported) else exported


def _is_mutable(exported: Any) -> bool:
    """Tell whether a graph writes tensors in place or has graphs inside."""
    for node in exported.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "get_attr" or (schema is not None and getattr(schema, "is_mutable", False)):
            return True
    return False


def _is_transformed(exported: Any) -> bool:
    """Tell whether a graph speaks of functions of functions: vmap, jvp."""
    return any(
        str(getattr(node.target, "__module__", "")).startswith("torch._functorch")
        for node in exported.graph.nodes
        if node.op == "call_function"
    )


# Backward operations that torch says in simpler ones.
_BACKWARD = (
    "_log_softmax_backward_data _softmax_backward_data elu_backward embedding_dense_backward gelu_backward "
    "leaky_relu_backward mse_loss mse_loss_backward native_layer_norm native_layer_norm_backward "
    "nll_loss_backward nll_loss_forward select_backward sigmoid_backward silu_backward slice_backward "
    "softplus_backward tanh_backward threshold_backward"
)


def _by_operations(fn: Callable[..., Any], example_inputs: Sequence[Any]) -> Any:
    """Return the graph of a function with derivatives (torch.func.grad, jvp), by the operations that run; or None.

    Nothing runs on data, so that code which depends on them is not taken for that of the example.
    """
    import torch
    from torch._decomp import get_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    tensors = [x for x in example_inputs if isinstance(x, torch.Tensor)]

    def of_tensors(*given: Any) -> Any:
        rest = iter(given)
        return fn(*(next(rest) if isinstance(x, torch.Tensor) else x for x in example_inputs))

    table: Any = get_decompositions([getattr(torch.ops.aten, name) for name in _BACKWARD.split()])
    try:
        with _unwinding(), _silent(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = make_fx(of_tensors, decomposition_table=table, tracing_mode="fake")(*tensors)
            with torch.no_grad():
                return torch.export.export(module, tuple(tensors), strict=False).run_decompositions({})
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError):
        return None


def line_of(file: str, line: int) -> str:
    """Return `file:line: source` and a new line, for a message; nothing where the place is not known."""
    if not file:
        return ""
    text = linecache.getline(file, line).strip()
    return f"{file}:{line}: {text}\n  " if text else f"{file}:{line}: "
