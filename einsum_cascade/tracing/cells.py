"""One step of a recurrent network: LSTM, GRU and plain cells, by the equations of PyTorch's documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..expr import Apply, Expr, Num
from .contractions import linear
from .reductions import named
from .shapes import sliced
from .values import Builder, Value, elementwise, number

Handler = Callable[..., Any]


def lstm_cell(b: Builder, x: Value, state: Sequence[Value], *weights: Value) -> tuple[Value, Value]:
    """Return the output and the cell's state: c = f*c + i*g, h = o*tanh(c)."""
    hidden, cell = state
    mine, back = (_parts(b, side, 4) for side in _sides(b, x, hidden, *weights))
    let_in, keep, new, show = (
        elementwise(b, _gate(name), one, other)
        for name, one, other in zip(("sigmoid", "sigmoid", "tanh", "sigmoid"), mine, back, strict=True)
    )
    kept = elementwise(b, _times, keep, cell)
    written = elementwise(b, _times, let_in, new)
    after = elementwise(b, lambda u, v: Apply("+", (number(u), number(v))), kept, written)
    after = named(b, after)  # two read it: what is shown, and the next step
    shown = elementwise(b, lambda u: Apply("tanh", (number(u),)), after)
    return named(b, elementwise(b, _times, show, shown)), after


def gru_cell(b: Builder, x: Value, state: Value, *weights: Value) -> Value:
    """Return the state: n = tanh(x_n + r*h_n), h = (1 - z)*n + z*h; r acts behind the product, as PyTorch has it."""
    mine, back = (_parts(b, side, 3) for side in _sides(b, x, state, *weights))
    reset = elementwise(b, _gate("sigmoid"), mine[0], back[0])
    keep = elementwise(b, _gate("sigmoid"), mine[1], back[1])
    new = elementwise(b, _gate("tanh"), mine[2], elementwise(b, _times, reset, back[2]))

    def blend(z: Expr, n: Expr, h: Expr) -> Expr:
        rest = Apply("-", (Num(1), number(z)))
        return Apply("+", (_times(rest, n), _times(z, h)))

    return elementwise(b, blend, keep, new, state)


def plain_cell(name: str) -> Handler:
    """Return a handler of h = f(W x + U h)."""

    def cell(b: Builder, x: Value, state: Value, *weights: Value) -> Value:
        return elementwise(b, _gate(name), *_sides(b, x, state, *weights))

    return cell


CELLS: dict[str, Handler] = {
    "lstm_cell": lstm_cell,
    "gru_cell": gru_cell,
    "rnn_tanh_cell": plain_cell("tanh"),
    "rnn_relu_cell": plain_cell("relu"),
}


def _sides(
    b: Builder,
    x: Value,
    state: Value,
    of_input: Value,
    of_state: Value,
    bias_of_input: Value | None = None,
    bias_of_state: Value | None = None,
) -> tuple[Value, Value]:
    """Return what the input and what the state give to all gates."""
    return linear(b, x, of_input, bias_of_input), linear(b, state, of_state, bias_of_state)


def _parts(b: Builder, gates: Value, count: int) -> list[Value]:
    """Return the gates that stand side by side in the last dimension."""
    width = gates.sizes[-1] // count
    return [sliced(b, gates, -1, i * width, (i + 1) * width) for i in range(count)]


def _gate(name: str) -> Callable[[Expr, Expr], Expr]:
    return lambda mine, back: Apply(name, (Apply("+", (number(mine), number(back))),))


def _times(x: Expr, y: Expr) -> Expr:
    return Apply("*", (number(x), number(y)))
