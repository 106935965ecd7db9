"""What a traced function is given: its parameters and buffers, tables of its own, and the example's tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import CascadeError
from .complexes import Complex
from .rounding import converted
from .values import Axis, Builder, Value, constant


@dataclass(frozen=True, eq=False)
class Given:
    """An input of the cascade.

    Attributes:
        name: in the cascade.
        axes: one per dimension.
    """

    name: str
    axes: tuple[Axis, ...]


def given_to(
    builder: Builder, exported: Any, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Given], dict[Any, Any]]:
    """Return the inputs, and what each placeholder of a graph stands for."""
    signature = exported.graph_signature
    inner = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    inner |= signature.inputs_to_lifted_tensor_constants
    tensors = list(tensor_names(fn, args, kwargs))
    inputs: list[Given] = []
    values: dict[Any, Any] = {}
    for node in exported.graph.nodes:
        if node.op != "placeholder":
            continue
        if not hasattr(node.meta.get("val"), "shape"):
            values[node] = None
        elif _is_number(exported, node):
            values[node] = _number_of(exported, node)
        else:
            wanted = inner[node.name].removeprefix("inner.") if node.name in inner else tensors.pop(0)
            values[node] = _given(builder, inputs, node.meta["val"], _tensor_name(wanted))
    return inputs, values


def _given(builder: Builder, inputs: list[Given], shown: Any, name: str) -> Value | Complex:
    """Return the value of an input; a complex one comes as two, its real and its imaginary part."""
    sizes = [int(n) for n in shown.shape]
    if 0 in sizes:
        raise CascadeError(f"{name} has no elements in the example; a rank has at least one")

    def part(suffix: str) -> Value:
        own = builder.name(name + suffix)
        value, axes = builder.given(own, sizes)
        inputs.append(Given(own, axes))
        return value

    if not shown.dtype.is_complex:
        value = part("")
        return converted(builder, value, "truth") if str(shown.dtype) == "torch.bool" else value
    real, imag = part("_re"), part("_im")
    for mine, other in zip(real.axes, imag.axes, strict=True):
        builder.join(mine, other)
    return Complex(real, imag)


def _is_number(exported: Any, node: Any) -> bool:
    """Tell whether a placeholder is a number that the function wraps in a tensor: `torch.tensor(3.0)`."""
    lifted = exported.graph_signature.inputs_to_lifted_tensor_constants
    return node.name in lifted and not node.meta["val"].shape


def _number_of(exported: Any, node: Any) -> Value:
    held = exported.constants[exported.graph_signature.inputs_to_lifted_tensor_constants[node.name]]
    return Value((), (), lambda at: constant(held.item()))


def tensor_names(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[str]:
    """Yield a name for each tensor of the example; one in a tuple or a dictionary is named by its place there."""
    from torch.utils._pytree import tree_flatten_with_path

    for name, given in (*zip(_parameter_names(fn, len(args)), args, strict=True), *kwargs.items()):
        for path, leaf in tree_flatten_with_path(given)[0]:
            if hasattr(leaf, "shape"):
                steps = (getattr(key, "key", getattr(key, "idx", getattr(key, "name", ""))) for key in path)
                yield "_".join([name, *map(str, steps)])


def _parameter_names(fn: Callable[..., Any], count: int) -> list[str]:
    try:
        shown = inspect.signature(getattr(fn, "forward", fn)).parameters.values()
    except (TypeError, ValueError):
        return [f"x{i}" for i in range(count)]
    names = [p.name for p in shown if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return (names + [f"x{i}" for i in range(len(names), count)])[:count]


def _tensor_name(name: str) -> str:
    """Return a name in capitals: `wq` -> WQ, `query` -> Query."""
    clean = "".join(c if c.isalnum() else "_" for c in name).strip("_") or "X"
    clean = clean if clean[0].isalpha() and clean[0].isascii() else f"X{clean}"
    return clean.upper() if len(clean) <= 3 else clean[0].upper() + clean[1:]
