"""PyTorch's FlexAttention: scores that a function of theirs changes, and a mask that another says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..expr import Apply
from .contractions import matmul
from .pieces import indexed
from .reductions import softmax
from .shapes import arange, repeated, reshaped, transposed
from .values import Builder, UntraceableError, Value, constant, elementwise, number, truth

# Runs the graph of a function on values, and returns what it gives.
Run = Callable[[Any, Sequence[Any]], Any]


def flexible_attention(
    b: Builder,
    run: Run,
    q: Value,
    k: Value,
    v: Value,
    changed: Any,
    blocks: Sequence[Any],
    scale: float,
    _options: Any,
    of_change: Sequence[Value] = (),
    of_mask: Sequence[Value] = (),
) -> tuple[Any, ...]:
    """Return attention whose scores pass through a function of score, batch, head, query and key; None beside it.

    Which blocks of keys are left out follows from the mask, so that only the mask is said.

    Args:
        changed: the graph of the function of scores.
        blocks: a block mask, of which the last part is the graph of the mask.
        of_change: tensors that the function of scores reads; `of_mask`: those that the mask reads.
    """
    if q.sizes[1] != k.sizes[1]:
        k, v = (repeated(b, x, q.sizes[1] // k.sizes[1], 1) for x in (k, v))
    scores = matmul(b, q, transposed(k, -1, -2))
    scores = elementwise(b, lambda s: Apply("*", (s, constant(scale))), scores)
    at = [reshaped(b, arange(n), [n if j == i else 1 for j in range(4)]) for i, n in enumerate(scores.sizes)]
    scores = run(changed, [scores, *at, *of_change])
    seen = run(blocks[-1], [*at, *of_mask])

    def kept(condition: Any, score: Any) -> Apply:
        return Apply("select", (truth(condition), number(score), constant(-math.inf)))

    return matmul(b, softmax(b, elementwise(b, kept, seen, scores), -1), v), None, None


def read_by_index(b: Builder, args: Sequence[Any]) -> Value:
    """Return what a function of FlexAttention reads of a tensor: `bias[h, kv_idx]`."""
    values = [a for a in args if isinstance(a, Value)]
    if len(values) < 2:
        raise UntraceableError("a call inside a function of FlexAttention")
    return indexed(b, values[0], values[1:])
