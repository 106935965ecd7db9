"""Operations that the table lacks, as torch itself says them in others: a graph that is run in their place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container
from typing import Any


def decomposed(
    node: Any, known: Container[str], name_of: Callable[[Any], str]
) -> tuple[Any, list[Any]] | None:
    """Return a graph that computes what a node does by other operations, and the nodes that it is given; or None.

    Args:
        known: names of operations that need not be said by others.
        name_of: the name of an operation.
    """
    import torch
    from torch._decomp import decomposition_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils._pytree import tree_flatten, tree_unflatten

    flat, spec = tree_flatten((node.args, node.kwargs))
    places = [i for i, a in enumerate(flat) if isinstance(getattr(a, "meta", {}).get("val"), torch.Tensor)]
    if not isinstance(node.target, torch._ops.OpOverload) or any(
        hasattr(a, "meta") for i, a in enumerate(flat) if i not in places
    ):
        return None

    def called(*tensors: Any) -> Any:
        given = list(flat)
        for i, x in zip(places, tensors, strict=True):
            given[i] = x
        args, kwargs = tree_unflatten(given, spec)
        return node.target(*args, **kwargs)

    table: Any = {op: f for op, f in decomposition_table.items() if name_of(op) not in known}
    table[node.target] = decomposition_table.get(node.target, node.target.decompose)
    try:
        with FakeTensorMode() as mode, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            shapes = [flat[i].meta["val"] for i in places]
            tensors = [torch.empty(tuple(map(int, s.shape)), dtype=s.dtype) for s in shapes]
            with mode:
                module = make_fx(called, decomposition_table=table)(*tensors)
    # Torch has many ways to say that it cannot; the operation is then refused by its own name.
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, LookupError):
        return None
    inside = [n for n in module.graph.nodes if n.op == "call_function"]
    if any(n.target == node.target or _writes(n) for n in inside) or any(
        n.op == "get_attr" for n in module.graph.nodes
    ):
        return None
    for n in inside:
        n.meta["custom"] = node.meta.get("custom")
    return module, [flat[i] for i in places]


def _writes(node: Any) -> bool:
    """Tell whether an operation writes in place what the traced function has made: the trace follows values alone."""
    target = node.target
    if not (hasattr(target, "_schema") and target._schema.is_mutable):
        return False
    written = node.args[0]
    while written.op == "call_function":  # a view of something, in the end
        if not written.args or not hasattr(written.args[0], "op"):
            return True
        written = written.args[0]
    return False
