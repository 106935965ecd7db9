"""What a traced function is given: its parameters and buffers, tables of its own, and the example's tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        held: its tensor, or the one that it is a part of.
        part: of a complex tensor "real" or "imag".
        origin: "example", "parameter" of a module (or a buffer), or "table" that the function makes itself.
    """

    name: str
    axes: tuple[Axis, ...]
    held: Any
    part: str
    origin: str

    def array(self) -> NDArray[Any]:
        """Return its numbers, those of a module's parameter as they are now."""
        found = self.held.detach().resolve_conj()
        found = getattr(found, self.part) if self.part else found
        real = found.is_floating_point()
        out: NDArray[Any] = (found.double() if real else found).cpu().numpy()
        return np.array(out)


def given_to(
    builder: Builder, exported: Any, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Given], dict[Any, Any]]:
    """Return the inputs, and what each placeholder of a graph stands for."""
    signature = exported.graph_signature
    parameters = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    inner = parameters | signature.inputs_to_lifted_tensor_constants
    held = {**exported.constants, **exported.state_dict}
    examples = list(example_tensors(fn, args, kwargs))
    inputs: list[Given] = []
    values: dict[Any, Any] = {}
    for node in exported.graph.nodes:
        if node.op != "placeholder":
            continue
        if not hasattr(node.meta.get("val"), "shape"):
            values[node] = None
        elif _is_number(exported, node):
            values[node] = _number_of(exported, node)
        elif node.name in inner:
            name, tensor = inner[node.name].removeprefix("inner."), held[inner[node.name]]
            origin = "parameter" if node.name in parameters else "table"
            values[node] = _given(builder, inputs, tensor, _tensor_name(name), origin)
        else:
            name, tensor = examples.pop(0)
            values[node] = _given(builder, inputs, tensor, _tensor_name(name), "example")
    return inputs, values


def _given(builder: Builder, inputs: list[Given], tensor: Any, name: str, origin: str) -> Value | Complex:
    """Return the value of an input; a complex one comes as two, its real and its imaginary part."""
    sizes = [int(n) for n in tensor.shape]
    if 0 in sizes:
        raise CascadeError(f"{name} has no elements in the example; a rank has at least one")

    def part(suffix: str, of_complex: str = "") -> Value:
        own = builder.name(name + suffix)
        value, axes = builder.given(own, sizes)
        inputs.append(Given(own, axes, tensor, of_complex, origin))
        return value

    if not tensor.dtype.is_complex:
        value = part("")
        return converted(builder, value, "truth") if str(tensor.dtype) == "torch.bool" else value
    real, imag = part("_re", "real"), part("_im", "imag")
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


def example_tensors(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield each tensor of the example with a name; one in a tuple or a dictionary is named by its place there."""
    from torch.utils._pytree import tree_flatten_with_path

    for name, given in (*zip(_parameter_names(fn, len(args)), args, strict=True), *kwargs.items()):
        for path, leaf in tree_flatten_with_path(given)[0]:
            if hasattr(leaf, "shape"):
                steps = (getattr(key, "key", getattr(key, "idx", getattr(key, "name", ""))) for key in path)
                yield "_".join([name, *map(str, steps)]), leaf


def distinct(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of an example with each tensor once: `fn(x, x, x)` is a function of three, not of one."""
    from torch.utils._pytree import tree_map

    met: set[int] = set()

    def once(leaf: Any) -> Any:
        if not hasattr(leaf, "shape"):
            return leaf
        again = id(leaf) in met
        met.add(id(leaf))
        return leaf.clone() if again else leaf

    return [tree_map(once, x) for x in args], {n: tree_map(once, x) for n, x in kwargs.items()}


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
