"""The table of PyTorch operations: how each is said in Einsums. A new one is one row here; no torch is imported."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .einsum import Reduction
from .expr import Apply, Compare, Expr, Num, Var
from .torch_contractions import einsum, linear, matmul
from .torch_shapes import (
    arange,
    aranged,
    axis_of,
    expanded,
    filled,
    filled_like,
    flattened,
    permuted,
    repeated,
    reshaped,
    selected,
    sliced,
    squeezed,
    transposed,
    triangle,
    unchanged,
    unflattened,
    unsqueezed,
    viewed,
)
from .torch_values import (
    Builder,
    UntraceableError,
    Value,
    constant,
    elementwise,
    is_truth,
    number,
    size_of,
    truth,
)

Handler = Callable[..., Any]


def _apply(op: str) -> Callable[..., Expr]:
    return lambda *a: Apply(op, tuple(number(x) for x in a))


def _map(op: str) -> Handler:
    return lambda b, *values, **_: elementwise(b, _apply(op), *values)


def _compare(op: str) -> Handler:
    def compared(left: Expr, right: Expr) -> Expr:
        if right == Num(0) and op in ("==", "!=") and isinstance(left, Apply) and left.op == "select":
            inside = truth(left)
            return inside if op == "!=" else Apply("not", (inside,))
        return Compare((op,), (number(left), number(right)))

    return lambda b, x, y, **_: elementwise(b, compared, x, y)


def _logic(op: str) -> Handler:
    return lambda b, *values, **_: elementwise(b, lambda *a: Apply(op, tuple(map(truth, a))), *values)


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
    def added(b: Builder, x: Any, y: Any, alpha: float = 1, **_: Any) -> Value:
        right = y if alpha == 1 else elementwise(b, _product, y, alpha)
        return elementwise(b, _apply(op), x, right)

    return added


def _where(b: Builder, condition: Value, x: Any, y: Any) -> Value:
    return elementwise(b, lambda c, p, q: Apply("select", (truth(c), number(p), number(q))), condition, x, y)


def _masked_fill(b: Builder, x: Value, mask: Value, fill: Any) -> Value:
    return _where(b, elementwise(b, lambda m: Apply("not", (truth(m),)), mask), x, fill)


def _clamp(
    b: Builder, x: Value, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None
) -> Value:
    low, high = (low if low is not None else min), (high if high is not None else max)
    out = x if low is None else elementwise(b, _apply("max"), x, low)
    return out if high is None else elementwise(b, _apply("min"), out, high)


def reduced(
    b: Builder, x: Value, dims: Sequence[int] | int | None, op: str, *, keepdim: bool = False, wanted: str
) -> Value:
    """Return a reduction over some dimensions."""
    some = range(len(x.sizes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = [axis_of(x, d) for d in some]
    left = [i for i in range(len(x.sizes)) if i not in gone]
    order = [*left, *gone]
    back = {place: i for i, place in enumerate(order)}

    def make(at: tuple[Expr, ...]) -> Expr:
        value = number(x.element(tuple(at[back[i]] for i in range(len(order)))))
        spread = [at[back[i]] for i in gone if x.axes[i] is None]
        # A sum over an axis that the value does not mention still counts it.
        for v in spread:
            value = Apply("+", (value, Apply("*", (Num(0), v))))
        return value

    def reductions(at: tuple[Expr, ...]) -> tuple[Reduction, ...]:
        return (Reduction(op, tuple(v.name for v in at[len(left) :] if isinstance(v, Var))),)

    axes, sizes = [x.axes[i] for i in order], [x.sizes[i] for i in order]
    out = b.define(wanted, axes, make, reductions=reductions, kept=len(left), sizes=sizes)
    if not keepdim:
        return out
    shape = [1 if i in gone else n for i, n in enumerate(x.sizes)]
    return reshaped(b, out, shape)


def _mean(b: Builder, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    total = reduced(b, x, dims, "sum", keepdim=keepdim, wanted="SUM")
    return elementwise(b, _apply("/"), total, _count(x, dims))


def _count(x: Value, dims: Any) -> Value:
    some = range(len(x.sizes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = [axis_of(x, d) for d in some]
    return size_of([x.axes[i] for i in gone], [x.sizes[i] for i in gone])


def _variance(
    b: Builder, x: Value, dims: Any = None, *, correction: float | None = 1, keepdim: bool = False
) -> Value:
    mean = b.solid(_mean(b, x, dims, True), "MU")
    square = elementwise(b, lambda v, m: Apply("**", (Apply("-", (v, m)), Num(2))), x, mean)
    total = reduced(b, square, dims, "sum", keepdim=keepdim, wanted="VS")
    less = 1 if correction is None else correction
    count = elementwise(b, _apply("-"), _count(x, dims), less) if less else _count(x, dims)
    return elementwise(b, _apply("/"), total, count)


def softmax(b: Builder, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    """Return the stable softmax as it is written in textbooks: maximum, exponentials, sum, quotient."""
    shifted, total = _exponentials(b, x, dim)
    return b.solid(elementwise(b, _apply("/"), shifted, total), "A")


def _exponentials(b: Builder, x: Value, dim: int) -> tuple[Value, Value]:
    scores = _scores(b, x)
    top = reduced(b, scores, dim, "max", keepdim=True, wanted="GM")
    shifted = elementwise(b, lambda s, m: Apply("exp", (Apply("-", (s, m)),)), scores, top)
    numerator = b.solid(shifted, "SN")
    return numerator, reduced(b, numerator, dim, "sum", keepdim=True, wanted="SD")


def _scores(b: Builder, x: Value) -> Value:
    """Return scores by name; those that are masked with -inf become points that do not exist."""
    if x.plain:
        return x
    return b.define("S", x.axes, lambda at: number(x.element(at)), sizes=x.sizes, masks=True)


def _log_softmax(b: Builder, x: Value, dim: int, *_: Any) -> Value:
    scores = _scores(b, x)
    total = _exponentials(b, scores, dim)[1]
    top = reduced(b, scores, dim, "max", keepdim=True, wanted="GM")
    log = elementwise(b, lambda d: Apply("log", (d,)), total)
    return elementwise(b, lambda s, m, d: Apply("-", (Apply("-", (s, m)), d)), scores, top, log)


def _logsumexp(b: Builder, x: Value, dims: Any, keepdim: bool = False) -> Value:
    return reduced(b, _scores(b, x), dims, "logsumexp", keepdim=keepdim, wanted="L")


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
        width = elementwise(b, _apply("sqrt"), size_of(q.axes[-1:], q.sizes[-1:]))
        scores = elementwise(b, _apply("/"), scores, width)
    else:
        scores = elementwise(b, _product, scores, scale)
    if is_causal:
        later = arange(scores.sizes[-1])
        mine = reshaped(b, arange(scores.sizes[-2]), (scores.sizes[-2], 1))
        scores = _where(b, _compare("<=")(b, later, mine), scores, -math.inf)
    if mask is not None:
        logical = is_truth(mask.element(tuple(Num(0) for _ in mask.sizes)))
        scores = _where(b, mask, scores, -math.inf) if logical else elementwise(b, _apply("+"), scores, mask)
    return matmul(b, softmax(b, scores, -1), v)


def _layer_norm(
    b: Builder,
    x: Value,
    shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    dims = list(range(-len(shape), 0))
    x = b.solid(x)
    mean = b.solid(_mean(b, x, dims, True), "MU")
    spread = b.solid(_variance(b, x, dims, correction=0, keepdim=True), "VA")

    def normal(value: Expr, mu: Expr, va: Expr) -> Expr:
        return Apply("/", (Apply("-", (value, mu)), Apply("sqrt", (Apply("+", (va, constant(eps))),))))

    out = elementwise(b, normal, x, mean, spread)
    out = out if weight is None else elementwise(b, _product, out, weight)
    return out if bias is None else elementwise(b, _apply("+"), out, bias)


def _dropout(b: Builder, x: Value, p: float, train: bool) -> Value:
    if train and p:
        raise UntraceableError("dropout is random")
    return x


def _gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    if approximate != "none":
        raise UntraceableError("gelu with approximate='tanh'")
    return elementwise(b, _apply("gelu"), x)


def _softplus(b: Builder, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    if beta != 1:
        raise UntraceableError("softplus with beta")
    return elementwise(b, _apply("softplus"), x)


def _extreme(op: str) -> Handler:
    def extreme(b: Builder, x: Value, dim: Any = None, keepdim: bool = False) -> Any:
        found = reduced(b, x, dim, op, keepdim=keepdim, wanted=op.upper())
        return (found, None) if isinstance(dim, int) else found

    return extreme


OPERATIONS: dict[str, Handler] = {
    "add": _add("+"),
    "sub": _add("-"),
    "rsub": lambda b, x, y, alpha=1: _add("-")(b, y, x, alpha),
    "mul": lambda b, x, y: elementwise(b, _product, x, y),
    "div": _map("/"),
    "pow": lambda b, x, y: elementwise(b, _plain_power, x, y),
    "reciprocal": lambda b, x: elementwise(b, _apply("/"), 1, x),
    "rsqrt": lambda b, x: elementwise(b, lambda v: Apply("/", (Num(1), Apply("sqrt", (v,)))), x),
    "square": lambda b, x: elementwise(b, lambda v: Apply("**", (v, Num(2))), x),
    "maximum": _map("max"),
    "minimum": _map("min"),
    "softplus": _softplus,
    "gelu": _gelu,
    "silu": lambda b, x: elementwise(b, lambda v: Apply("*", (v, Apply("sigmoid", (v,)))), x),
    "clamp": _clamp,
    "where": _where,
    "masked_fill": _masked_fill,
    "logical_and": _logic("and"),
    "bitwise_and": _logic("and"),
    "__and__": _logic("and"),
    "__or__": _logic("or"),
    "logical_or": _logic("or"),
    "bitwise_or": _logic("or"),
    "logical_not": _logic("not"),
    "bitwise_not": _logic("not"),
    "sum": lambda b, x, dims=None, keepdim=False, **_: reduced(
        b, x, dims, "sum", keepdim=keepdim, wanted="SUM"
    ),
    "prod": lambda b, x, dims=None, keepdim=False, **_: reduced(
        b, x, dims, "prod", keepdim=keepdim, wanted="PROD"
    ),
    "mean": _mean,
    "var": _variance,
    "std": lambda b, *a, **k: elementwise(b, _apply("sqrt"), _variance(b, *a, **k)),
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
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "layer_norm": _layer_norm,
    "einsum": einsum,
    "matmul": matmul,
    "bmm": matmul,
    "mm": matmul,
    "mv": matmul,
    "dot": matmul,
    "linear": linear,
    "scaled_dot_product_attention": attention,
    "arange": aranged,
    "ones": lambda b, sizes, **_: filled(b, sizes, 1),
    "zeros": lambda b, sizes, **_: filled(b, sizes, 0),
    "full": filled,
    "ones_like": filled_like(1),
    "zeros_like": filled_like(0),
    "full_like": filled_like(None),
    "tril": triangle("<="),
    "triu": triangle(">="),
    "permute": lambda b, x, order: permuted(x, order),
    "transpose": lambda b, x, i, j: transposed(x, i, j),
    "t": lambda b, x: x if len(x.sizes) < 2 else transposed(x, 0, 1),
    "mT": lambda b, x: transposed(x, -1, -2),
    "numpy_T": lambda b, x: permuted(x, range(len(x.sizes))[::-1]),
    "unsqueeze": unsqueezed,
    "squeeze": squeezed,
    "expand": expanded,
    "view": viewed,
    "reshape": viewed,
    "_unsafe_view": viewed,
    "flatten": flattened,
    "unflatten": unflattened,
    "slice": sliced,
    "select": selected,
    "repeat_interleave": repeated,
    "dropout": _dropout,
    "lift_fresh_copy": unchanged,
    "to": unchanged,
    "_to_copy": unchanged,
    "clone": unchanged,
    "contiguous": unchanged,
    "detach": unchanged,
    "alias": unchanged,
    "_assert_tensor_metadata": lambda *_, **__: None,
}
OPERATIONS |= {
    n: _map(n)
    for n in ("exp", "log", "sqrt", "abs", "tanh", "sigmoid", "relu", "neg", "erf", "sin", "cos", "floor")
}
OPERATIONS |= {
    n: _compare(op)
    for n, op in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}.items()
}
