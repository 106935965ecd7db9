"""The table of PyTorch operations: how each is said in Einsums. A new one is one row here; no torch is imported."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..expr import Apply, Expr, Num
from .activations import (
    FORMULAS,
    added,
    blended,
    elu,
    gated,
    gelu,
    leaky,
    log_sigmoid,
    mish,
    softplus,
)
from .cells import CELLS
from .contractions import added_product, einsum, linear, matmul, outer, tensordot
from .flexible import read_by_index
from .logic import LOGIC, compared
from .norms import (
    average_pool,
    cosine_similarity,
    cross_entropy,
    deviation,
    distances,
    group_norm,
    layer_norm,
    mean,
    negative_log,
    rms_norm,
    squared_error,
    variance,
    variance_and_mean,
    vector_norm,
)
from .pieces import (
    chunked,
    evenly_split,
    flipped,
    gathered,
    indexed,
    joined,
    marked,
    padded,
    rolled,
    split,
    stacked,
    taken,
    tiled,
    unbound,
)
from .reductions import log_softmax, logsumexp, reduced, softmax
from .rounding import (
    converted,
    divided,
    is_nan,
    quantised,
    quantised_by_channel,
    rounded,
    sign,
    towards_zero,
    without_nan,
)
from .scatters import added_at, copied_at, placed, reduced_at
from .sequences import SEQUENCES
from .shapes import (
    arange,
    aranged,
    axis_of,
    diagonal,
    diagonal_of,
    expanded,
    filled,
    filled_like,
    flattened,
    moved,
    permuted,
    repeated,
    reshaped,
    selected,
    sliced,
    spaced,
    squeezed,
    together,
    transposed,
    triangle,
    unchanged,
    unflattened,
    unsqueezed,
    viewed,
)
from .values import (
    Builder,
    UntraceableError,
    Value,
    applied,
    elementwise,
    is_truth,
    number,
    size_of,
    truth,
)
from .writes import put, with_place, with_slice

Handler = Callable[..., Any]


def _map(op: str) -> Handler:
    return lambda b, *values: elementwise(b, applied(op), *values)


def _formula(of: Callable[[Expr], Expr]) -> Handler:
    return lambda b, x: elementwise(b, lambda v: of(number(v)), x)


def _product(a: Expr, b: Expr) -> Expr:
    if b == Num(1):
        return a
    return Apply("*", (number(a), number(b)))


def _plain_power(a: Expr, b: Expr) -> Expr:
    if b == Num(0.5):
        return Apply("sqrt", (number(a),))
    if b == Apply("neg", (Num(0.5),)):
        return Apply("/", (Num(1), Apply("sqrt", (number(a),))))
    return Apply("**", (number(a), number(b)))


def _add(op: str) -> Handler:
    def sum_of(b: Builder, x: Any, y: Any, alpha: float = 1, **_: Any) -> Value:
        right = y if alpha == 1 else elementwise(b, _product, y, alpha)
        return elementwise(b, applied(op), x, right)

    return sum_of


def _where(b: Builder, condition: Value, x: Any, y: Any) -> Value:
    return elementwise(b, lambda c, p, q: Apply("select", (truth(c), number(p), number(q))), condition, x, y)


def _masked_fill(b: Builder, x: Value, mask: Value, fill: Any) -> Value:
    return _where(b, elementwise(b, lambda m: Apply("not", (truth(m),)), mask), x, fill)


def _clamp(
    b: Builder, x: Value, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None
) -> Value:
    low, high = (low if low is not None else min), (high if high is not None else max)
    out = x if low is None else elementwise(b, applied("max"), x, low)
    return out if high is None else elementwise(b, applied("min"), out, high)


def attention(
    b: Builder,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Return scaled dot-product attention, opened into its Einsums."""
    if dropout:
        raise UntraceableError("dropout is random")
    if enable_gqa and q.sizes[-3] != k.sizes[-3]:
        group = q.sizes[-3] // k.sizes[-3]
        k, v = (repeated(b, x, group, len(x.sizes) - 3) for x in (k, v))
    scores = matmul(b, q, transposed(k, -1, -2))
    if scale is None:
        width = elementwise(b, applied("sqrt"), size_of(q.axes[-1:], q.sizes[-1:]))
        scores = elementwise(b, applied("/"), scores, width)
    else:
        scores = elementwise(b, _product, scores, scale)
    if is_causal:
        later = arange(scores.sizes[-1])
        mine = reshaped(b, arange(scores.sizes[-2]), (scores.sizes[-2], 1))
        scores = _where(b, compared("<=")(b, later, mine), scores, -math.inf)
    if mask is not None:
        logical = is_truth(mask.element(tuple(Num(0) for _ in mask.sizes)))
        scores = _where(b, mask, scores, -math.inf) if logical else elementwise(b, applied("+"), scores, mask)
    return matmul(b, softmax(b, scores, -1), v)


def _dropout(b: Builder, x: Value, p: float, train: bool) -> Value:
    if train and p:
        raise UntraceableError("dropout is random")
    return x


def _quantified(op: str) -> Handler:
    """Return a handler of `any` (the largest of 0 and 1) or `all` (the smallest)."""

    def quantified(b: Builder, x: Value, dims: Any = None, keepdim: bool = False) -> Value:
        found = reduced(b, converted(b, x, "truth"), dims, op, keepdim=keepdim, wanted=op.upper())
        return converted(b, found, "truth")

    return quantified


def _extreme(op: str) -> Handler:
    def extreme(b: Builder, x: Value, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, Value):
            return elementwise(b, applied(op), x, dim)
        found = reduced(b, x, dim, op, keepdim=keepdim, wanted=op.upper())
        return (found, None) if isinstance(dim, int) else found

    return extreme


OPERATIONS: dict[str, Handler] = {
    "add": _add("+"),
    "sub": _add("-"),
    "rsub": lambda b, x, y, alpha=1: _add("-")(b, y, x, alpha),
    "mul": lambda b, x, y: elementwise(b, _product, x, y),
    "div": divided,
    "floor_divide": lambda b, x, y: divided(b, x, y, rounding_mode="floor"),
    "remainder": _map("%"),
    "sign": lambda b, x: elementwise(b, sign, x),
    "round": rounded,
    "fake_quantize_per_tensor_affine": quantised,
    "fake_quantize_per_channel_affine": quantised_by_channel,
    "ceil": _formula(lambda v: Apply("neg", (Apply("floor", (Apply("neg", (v,)),)),))),
    "isnan": lambda b, x: elementwise(b, is_nan, x),
    "nan_to_num": without_nan,
    "trunc": lambda b, x: elementwise(b, towards_zero, x),
    "pow": lambda b, x, y: elementwise(b, _plain_power, x, y),
    "reciprocal": lambda b, x: elementwise(b, applied("/"), 1, x),
    "rsqrt": _formula(lambda v: Apply("/", (Num(1), Apply("sqrt", (v,))))),
    "square": _formula(lambda v: Apply("**", (v, Num(2)))),
    "maximum": _map("max"),
    "minimum": _map("min"),
    "softplus": softplus,
    "log_sigmoid": log_sigmoid,
    "gelu": gelu,
    "glu": lambda b, x, dim=-1: elementwise(b, gated, *chunked(b, x, 2, dim)),
    "elu": elu,
    "leaky_relu": lambda b, x, slope=0.01: elementwise(b, leaky(slope), x),
    "mish": mish,
    "lerp": blended,
    "addcmul": added("*"),
    "addcdiv": added("/"),
    "hardtanh": lambda b, x, low=-1, high=1: _clamp(b, x, low, high),
    "exp2": _formula(lambda v: Apply("exp", (Apply("*", (v, Num(math.log(2)))),))),
    "expm1": _formula(lambda v: Apply("-", (Apply("exp", (v,)), Num(1)))),
    "diagonal": diagonal_of,
    "log1p": _formula(lambda v: Apply("log", (Apply("+", (Num(1), v)),))),
    "silu": _formula(lambda v: Apply("*", (v, Apply("sigmoid", (v,))))),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda b, x, high: _clamp(b, x, None, high),
    "any": _quantified("max"),
    "all": _quantified("min"),
    "where": _where,
    "masked_fill": _masked_fill,
    "sum": lambda b, x, dims=None, keepdim=False, **_: reduced(
        b, x, dims, "sum", keepdim=keepdim, wanted="SUM"
    ),
    "prod": lambda b, x, dims=None, keepdim=False, **_: reduced(
        b, x, dims, "prod", keepdim=keepdim, wanted="PROD"
    ),
    "mean": mean,
    "var": variance,
    "std": deviation,
    "var_mean": variance_and_mean,
    "group_norm": group_norm,
    "mse_loss": squared_error,
    "nll_loss": negative_log,
    "nll_loss_nd": negative_log,
    "linalg_vector_norm": vector_norm,
    "norm": vector_norm,
    "cosine_similarity": cosine_similarity,
    "cdist": distances,
    "adaptive_avg_pool1d": average_pool,
    "adaptive_avg_pool2d": average_pool,
    "adaptive_avg_pool3d": average_pool,
    "rms_norm": rms_norm,
    "cross_entropy_loss": cross_entropy,
    "amax": lambda b, x, dims=(), keepdim=False: reduced(
        b, x, list(dims), "max", keepdim=keepdim, wanted="MAX"
    ),
    "amin": lambda b, x, dims=(), keepdim=False: reduced(
        b, x, list(dims), "min", keepdim=keepdim, wanted="MIN"
    ),
    "max": _extreme("max"),
    "min": _extreme("min"),
    "softmax": softmax,
    "_softmax": softmax,
    "log_softmax": log_softmax,
    "_log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "layer_norm": layer_norm,
    "einsum": einsum,
    "matmul": matmul,
    "bmm": matmul,
    "mm": matmul,
    "mv": matmul,
    "dot": matmul,
    "linear": linear,
    "outer": outer,
    "tensordot": tensordot,
    "addmm": added_product,
    "baddbmm": added_product,
    "scaled_dot_product_attention": attention,
    "arange": aranged,
    "ones": lambda b, sizes, **_: filled(b, sizes, 1),
    "zeros": lambda b, sizes, **_: filled(b, sizes, 0),
    "full": filled,
    "scalar_tensor": lambda b, value, **_: filled(b, (), value),
    "ones_like": filled_like(1),
    "zeros_like": filled_like(0),
    "full_like": filled_like(None),
    # Memory that nothing was written to holds anything; a function that gives it back has no one result.
    "empty": lambda b, sizes, **_: filled(b, sizes, 0),
    "empty_like": filled_like(0),
    "new_empty": lambda b, x, sizes, **_: filled(b, sizes, 0),
    "new_zeros": lambda b, x, sizes, **_: filled(b, sizes, 0),
    "new_ones": lambda b, x, sizes, **_: filled(b, sizes, 1),
    "new_full": lambda b, x, sizes, fill, **_: filled(b, sizes, fill),
    "linspace": spaced,
    "eye": diagonal,
    "tril": triangle("<="),
    "triu": triangle(">="),
    "swapaxes": lambda b, x, i, j: transposed(x, i, j),
    "swapdims": lambda b, x, i, j: transposed(x, i, j),
    "movedim": moved,
    "permute": lambda b, x, order: permuted(x, order),
    "transpose": lambda b, x, i, j: transposed(x, i, j),
    "t": lambda b, x: x if len(x.sizes) < 2 else transposed(x, 0, 1),
    "mT": lambda b, x: transposed(x, -1, -2),
    "numpy_T": lambda b, x: permuted(x, range(len(x.sizes))[::-1]),
    "unsqueeze": unsqueezed,
    "squeeze": squeezed,
    "expand": expanded,
    "broadcast_tensors": together,
    "expand_as": lambda b, x, like: expanded(b, x, like.sizes),
    "broadcast_to": expanded,
    "view": viewed,
    "reshape": viewed,
    "_unsafe_view": viewed,
    "flatten": flattened,
    "unflatten": unflattened,
    "cat": joined,
    "concat": joined,
    "stack": stacked,
    "split": split,
    "split_with_sizes": split,
    "chunk": chunked,
    "tensor_split": evenly_split,
    "unbind": unbound,
    "flip": flipped,
    "repeat": tiled,
    "tile": lambda b, x, times: tiled(b, x, [*(1,) * (len(x.sizes) - len(times)), *times]),
    "pad": padded,
    "constant_pad_nd": lambda b, x, widths, value=0: padded(b, x, widths, "constant", value),
    "index_select": lambda b, x, dim, index: indexed(b, x, [*(None,) * axis_of(x, dim), index]),
    "roll": rolled,
    "index": indexed,
    "index_put": put,
    "fill": lambda b, x, new: (
        expanded(b, new, x.sizes) if isinstance(new, Value) else filled_like(None)(b, x, new)
    ),
    "copy": lambda b, x, y, *_: expanded(b, y, x.sizes),
    "select_scatter": with_place,
    "slice_scatter": with_slice,
    "flat_apply": lambda b, *args: read_by_index(b, args),
    "gather": gathered,
    "take_along_dim": taken,
    "one_hot": marked,
    "scatter": placed,
    "scatter_add": added_at,
    "index_add": added_at,
    "scatter_reduce": reduced_at,
    "index_copy": copied_at,
    "index_fill": copied_at,
    "embedding": lambda b, table, places, *_, **__: indexed(b, table, [places]),
    "slice": sliced,
    "select": selected,
    "repeat_interleave": repeated,
    "dropout": _dropout,
    "lift_fresh_copy": unchanged,
    "to": unchanged,
    "type_as": lambda b, x, like: x,
    "_to_copy": unchanged,
    "clone": unchanged,
    "contiguous": unchanged,
    "detach": unchanged,
    "detach_": unchanged,
    "alias": unchanged,
    "_assert_tensor_metadata": lambda *_, **__: None,
}
OPERATIONS |= SEQUENCES
OPERATIONS |= LOGIC
OPERATIONS |= CELLS
OPERATIONS |= FORMULAS
OPERATIONS |= {
    n: _map(n)
    for n in ("exp", "log", "sqrt", "abs", "tanh", "sigmoid", "relu", "neg", "erf", "sin", "cos", "floor")
}
OPERATIONS |= {
    n: compared(op)
    for n, op in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}.items()
}
