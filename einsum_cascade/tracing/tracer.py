"""A PyTorch function -> a cascade, so that people's own code gets passes, bounds and rewrites."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..cascade import Cascade
from ..errors import CascadeError, ModelError
from ..expr import Num, accesses
from ..rolling.running import with_running_states
from .assembly import assembled
from .complexes import OF_REAL, Complex, applied_to_complex, is_complex
from .cuts import Cut, applied_to_pieces, cut, in_one_piece, is_cut_again
from .decomposed import decomposed
from .export import SOURCE, exported_by, line_of
from .flexible import flexible_attention
from .inputs import Given, distinct, example_tensors, given_to
from .operations import OPERATIONS
from .reductions import named
from .refusals import INSTEAD, hint_for
from .rounding import converted
from .sized import Reading, quietly, reshaped, with_sizes
from .tidy import tidied
from .values import Builder, UntraceableError, Value
from .writes import stretches_written

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLEXIBLE = "flex_attention"
_WRITING = "slice_scatter"
# Arguments that say where and how numbers are kept, not which they are.
_STORAGE = ("dtype", "device", "pin_memory", "layout", "memory_format")


class Trace(NamedTuple):
    """A traced function and its example; `evaluate(*trace(fn, q, k, v))` is what the function gives there.

    Attributes:
        cascade: what the function computes.
        sizes: of all ranks, in the example. How many heads a function has, and whatever else it takes apart, stands
            here alone: a part of a rank whose size is left open is taken for a tile.
        inputs: arrays of the example by their names in the cascade, parameters and tables among them; real numbers in
            float64.
    """

    cascade: Cascade
    sizes: dict[str, int]
    inputs: dict[str, NDArray[Any]]


def from_torch(
    fn: Callable[..., Any], *example_inputs: Any, roll: bool = False, **named_inputs: Any
) -> Cascade:
    """Return the cascade that a PyTorch function computes.

    The function is read again with larger tensors, so that a number which depends on shapes is written as what it is:
    `q.shape[-1] ** -0.5` as `1 / sqrt(E)`. A loop of Python has the steps of the example; the summary names its ranks.
    Masks by -inf become points that do not exist, so a row without any is 0 instead of not-a-number; where the 0 that a
    softmax has at such a point counts (`1 - a`), it is read by `pad(A[p, m], 0)`. So do masks by numbers of -10000 and
    below, if they depend on places alone and leave no row of the example empty. Results that are None are left out.
    Parameters, and tables that the function makes of lists, are inputs before those of the function. What is written in
    place (`a *= 2`, `a[:, 0] = x`) is a new tensor; the cascade gives what the function returns. Its summary tells the
    sizes of the example, as `parse_sizes` reads them.

    Args:
        fn: a function of tensors (or a module) that gives a tensor or several.
        example_inputs: tensors of the shapes to trace with, also in tuples, lists and dictionaries (a cache of keys and
            values); other arguments are constants. A complex tensor is two inputs, `X_re` and `X_im`.
        roll: write a loop over a dimension as an `iterate` block, not as the steps of the example. The example has
            three steps at the least; the function is run at another length to see that the loop holds for it too.
        named_inputs: the same as `example_inputs`, by the names of parameters; not with `roll`.

    Raises:
        CascadeError: an operation that the language cannot say, with the line of the source that uses it; no loop
            where one is asked for.
        ModelError: torch is not installed.
    """
    return _read(fn, example_inputs, named_inputs, roll=roll)[0]


def trace(fn: Callable[..., Any], *example_inputs: Any, roll: bool = False, **named_inputs: Any) -> Trace:
    """Return the cascade that a PyTorch function computes, with the sizes and the arrays of the example.

    Args and errors are those of `from_torch`.
    """
    cascade, sizes, given = _read(fn, example_inputs, named_inputs, roll=roll)
    return Trace(cascade, sizes, {s.tensor: g.array() for s, g in zip(cascade.inputs, given, strict=True)})


def _read(
    fn: Callable[..., Any], example_inputs: Sequence[Any], named_inputs: Mapping[str, Any], *, roll: bool
) -> tuple[Cascade, dict[str, int], list[Given]]:
    """Return the cascade of a function, which tells the sizes of the example, these sizes, and its inputs."""
    if roll and named_inputs:
        raise CascadeError("a loop is traced from examples by position, so roll=True takes none by name")
    given_once = distinct(example_inputs, named_inputs)

    def reading(args: Sequence[Any], named: Mapping[str, Any], *, first: bool) -> Reading:
        if not roll:
            return traced(read_by_torch(fn, args, named), Builder())
        from .loops import rolled

        # Held against the function once is enough: another reading counts only if it gives the same text.
        return rolled(fn, args, held=first)

    def again(shapes: Sequence[tuple[int, ...]]) -> Reading:
        return quietly(lambda: reading(*reshaped(*given_once, shapes), first=False))

    first = reading(*given_once, first=True)
    _, sizes, given = first
    cascade, loops = with_sizes(first, again)
    cascade = with_running_states(tidied(cascade))
    sizes = {r: n for r, n in sizes.items() if r in cascade.rank_names}
    said = ",".join(f"{r}={sizes[r]}" for r in cascade.free_ranks)
    summary = f"Traced from PyTorch at {said}." if said else "Traced from PyTorch."
    if loops:
        summary += f" A loop has the steps of this size of {', '.join(loops)} alone."
    return replace(cascade, summary=summary), sizes, given


@dataclass(frozen=True, eq=False)
class Exported:
    """A function as torch has read it, with the example."""

    fn: Callable[..., Any]
    example_inputs: Sequence[Any]
    named_inputs: Mapping[str, Any]
    program: Any


def read_by_torch(
    fn: Callable[..., Any], example_inputs: Sequence[Any], named_inputs: Mapping[str, Any]
) -> Exported:
    """Return a function as torch reads it; errors are those of `from_torch`."""
    try:
        import torch  # noqa: F401 (only whether it is there)
    except ImportError:
        raise ModelError("from_torch needs PyTorch: pip install torch") from None
    if not any(True for _ in example_tensors(fn, example_inputs, named_inputs)):
        raise CascadeError("from_torch needs example tensors: from_torch(fn, q, k, v)")
    return Exported(fn, example_inputs, named_inputs, exported_by(fn, example_inputs, named_inputs))


def traced(exported: Exported, builder: Builder) -> tuple[Cascade, dict[str, int], list[Given]]:
    """Return the cascade of a PyTorch function, the sizes that its ranks have in the example, and its inputs.

    Args:
        builder: a new one, which says how much is written down.

    Raises:
        CascadeError: an operation that the language cannot say.
    """
    fn, program = exported.fn, exported.program
    inputs, values = given_to(builder, program, fn, exported.example_inputs, exported.named_inputs)
    outputs = _walk(builder, program, values)
    name = getattr(fn, "__name__", type(fn).__name__)
    return *assembled(builder, name if name.isidentifier() else "traced", inputs, outputs), inputs


def _walk(builder: Builder, exported: Any, values: dict[Any, Any]) -> list[Value]:
    # Inputs and buffers that were written in place stand among the results too.
    specs = exported.graph_signature.output_specs
    user = [i for i, s in enumerate(specs) if s.kind.name == "USER_OUTPUT"]
    found = _run(builder, exported.graph_module, values, user)
    # Attention that is not asked for its weights gives None in their place.
    tensors = [x for x in in_one_piece(builder, found) if x is not None]
    if any(isinstance(x, Complex) for x in tensors):
        raise CascadeError("a cascade gives real numbers: let the function return torch.view_as_real(z)")
    if not tensors or not all(isinstance(x, Value) for x in tensors):
        raise CascadeError("a traced function gives tensors, nothing else")
    if any(0 in x.sizes for x in tensors):
        raise CascadeError("a result of the traced function has no elements; a rank has at least one")
    return tensors


def _run(builder: Builder, module: Any, values: dict[Any, Any], asked: Sequence[int]) -> list[Any]:
    """Return some results of a graph whose inputs have values; what they do not need is not looked at."""
    results = next(n for n in module.graph.nodes if n.op == "output").args[0]
    several = isinstance(results, (list, tuple))
    results = [results[i] for i in asked] if several else [results]
    needed = _needed(results)
    for node in module.graph.nodes:
        if node in values or node not in needed:
            continue
        if node.op == "get_attr":
            values[node] = getattr(module, node.target)
        elif node.op == "call_function":
            values[node] = _called(builder, node, values)
        elif node.op != "placeholder":
            raise CascadeError(f"{_place(node)}the language cannot say {node.op} {node.target}")
    return [_given(values, x) for x in results]


def _needed(results: Sequence[Any]) -> set[Any]:
    """Return the nodes on which results depend; of a block mask only the function that says it."""
    found: set[Any] = set()
    open_nodes = list(results)
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, (list, tuple)):
            open_nodes += node
        elif hasattr(node, "op") and node not in found:
            found.add(node)
            open_nodes += [*_read_by(node), *node.kwargs.values()]
    return found


def _read_by(node: Any) -> list[Any]:
    """Return what a node needs of its arguments."""
    args = list(node.args)
    if _name(node) == _FLEXIBLE:
        args[4] = args[4][-1]
    tiles = stretches_written(node) if _name(node) == _WRITING else None
    return args if tiles is None else tiles


def _inner(builder: Builder, module: Any, given: Sequence[Any]) -> Any:
    """Return what the graph of a function inside gives for some values."""
    places = [n for n in module.graph.nodes if n.op == "placeholder"]
    return _run(builder, module, dict(zip(places, given, strict=True)), [0])[0]


def _name(node: Any) -> str:
    return _operation(node.target)


def _given(values: dict[Any, Any], argument: Any) -> Any:
    if isinstance(argument, (list, tuple)):
        return [_given(values, a) for a in argument]
    return values[argument] if hasattr(argument, "op") and argument in values else argument


def _place_of_extreme(builder: Builder, node: Any, values: dict[Any, Any]) -> Any:
    """Return the places of what `max` or `min` along a dimension has given: one Einsum more, where asked for."""
    name = {"max": "argmax", "min": "argmin"}.get(_name(node))
    if name is None:
        raise CascadeError(f"{_place(node)}the language has no position of a maximum here; use argmax(m)")
    kwargs = {k: _given(values, a) for k, a in node.kwargs.items()}
    return OPERATIONS[name](builder, *(_given(values, a) for a in node.args), **kwargs)


def _called(builder: Builder, node: Any, values: dict[Any, Any]) -> Any:
    tiles = stretches_written(node) if _name(node) == _WRITING else None
    args = [_given(values, a) for a in node.args]
    kwargs = {k: _given(values, a) for k, a in node.kwargs.items()}
    kwargs = {k: v for k, v in kwargs.items() if k not in _STORAGE}
    name = _name(node)
    if tiles is not None:
        name, args, kwargs = "cat", [[_given(values, n) for n in tiles], args[2]], {}
    if name == _FLEXIBLE:
        return flexible_attention(builder, functools.partial(_inner, builder), *args)
    if name == "getitem":
        item = args[0][args[1]]
        return _place_of_extreme(builder, node.args[0], values) if item is None and node.users else item
    if name == "rsub" or name not in OPERATIONS:
        kwargs.pop("other", None)
    special = name in OF_REAL or any(map(is_complex, (*args, *kwargs.values())))
    if name not in OPERATIONS and not special:
        return _said_by_others(builder, node, values)
    try:
        out = _applied(builder, node, name, _converted(builder, node, args), kwargs)
    except UntraceableError as reason:
        with contextlib.suppress(CascadeError):
            found = _by_others(builder, node, values)
            if found is not None:
                return found
        raise CascadeError(f"{_place(node)}the language cannot say this: {reason}") from None
    except TypeError:
        raise CascadeError(f"{_place(node)}the language cannot say '{name}' with these arguments") from None
    if isinstance(out, (Complex, Cut)) and len(node.users) > 1:
        return out.solid(builder)
    if not isinstance(out, Value):
        return out
    # A condition that several read stays one, so that a mask removes points wherever it is used.
    if _is_truth(node):
        return converted(builder, out, "truth")
    shared = (builder.apart or len(node.users) > 1) and not out.plain
    # So is what is computed of tensors, be it one number: written out at each use it would grow from step to step.
    return named(builder, out) if shared and (any(a is not None for a in out.axes) or _reads(out)) else out


def _reads(value: Value) -> bool:
    """Tell whether a value depends on a tensor."""
    return bool(accesses(value.element(tuple(Num(0) for _ in value.sizes))))


def _by_others(builder: Builder, node: Any, values: dict[Any, Any]) -> Any:
    """Return what an operation gives that torch says by others, or None where it does not, or not by what is said.

    Raises:
        CascadeError: torch makes it of another one that is not said.
    """
    found = decomposed(node, OPERATIONS, _operation)
    if found is None:
        return None
    module, given = found[0], [_given(values, n) for n in found[1]]
    places = [n for n in module.graph.nodes if n.op == "placeholder"]
    results = next(n for n in module.graph.nodes if n.op == "output").args[0]
    several = isinstance(results, (list, tuple))
    asked = range(len(results) if several else 1)
    out = _run(builder, module, dict(zip(places, given, strict=True)), asked)
    return out if several else out[0]


def _said_by_others(builder: Builder, node: Any, values: dict[Any, Any]) -> Any:
    """Return what an operation gives for which there is no row in the table."""
    name = _name(node)
    refusal = CascadeError(f"{_place(node)}the language cannot say '{name}'", hint=hint_for(name))
    try:
        found = _by_others(builder, node, values)
    except CascadeError as error:
        if name in INSTEAD or f"'{name}'" in error.message:
            raise refusal from None
        raise CascadeError(
            f"{refusal.message}: {error.message.rpartition('  ')[2]}", hint=error.hint
        ) from None
    if found is None:
        raise refusal
    return found


def _operation(target: Any) -> str:
    return str(getattr(target, "__name__", target)).split(".")[0]


def _applied(builder: Builder, node: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return what an operation gives for its arguments."""
    handler = OPERATIONS.get(name)
    if name in OF_REAL or any(map(is_complex, (*args, *kwargs.values()))):
        return applied_to_complex(builder, name, handler, args, kwargs)
    assert handler is not None
    if any(isinstance(a, Cut) for a in args):
        return applied_to_pieces(builder, name, handler, args, kwargs)
    args, kwargs = in_one_piece(builder, args), {k: in_one_piece(builder, v) for k, v in kwargs.items()}
    if _name(node) in ("cat", "concat") and is_cut_again(node):
        return cut(*args, **kwargs)
    return handler(builder, *args, **kwargs)


def _converted(builder: Builder, node: Any, args: list[Any]) -> list[Any]:
    """Return the arguments of an operation, the first in the kind of numbers that the operation is asked for."""
    if not node.args or not hasattr(node.args[0], "meta") or not isinstance(args[0], Value):
        return args
    given, asked = (getattr(n.meta.get("val"), "dtype", None) for n in (node.args[0], node))
    name = getattr(node.target, "__name__", "").split(".")[0]
    wanted = asked if name in ("to", "_to_copy", "type_as") else node.kwargs.get("dtype")
    if given is None or wanted is None or _kind(given) == _kind(wanted):
        return args
    if name.endswith("_like"):
        return args
    return [converted(builder, args[0], _kind(wanted)), *args[1:]]


def _is_truth(node: Any) -> bool:
    """Tell whether the values of a node are true or false."""
    dtype = getattr(node.meta.get("val"), "dtype", None)
    return dtype is not None and _kind(dtype) == "truth"


def _kind(dtype: Any) -> str:
    """Return the kind of numbers of a type: "truth", "whole" or "real", of which complex ones have two."""
    if dtype.is_floating_point or dtype.is_complex:
        return "real"
    return "truth" if str(dtype) == "torch.bool" else "whole"


def _place(node: Any) -> str:
    """Return `file:line: source` of an operation, for a message."""
    return line_of(*(node.meta.get("custom") or {}).get(SOURCE, ("", 0)))
