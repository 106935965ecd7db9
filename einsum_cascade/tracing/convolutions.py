"""Convolutions of traced tensors along one to three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..expr import Access, Apply, Compare, Expr, Num
from .shapes import reshaped
from .values import Axis, Builder, Value, number

Numbers = Sequence[int] | int


@dataclass(frozen=True, slots=True)
class _Walk:
    """How taps walk one dimension: the place of tap k of result t is t * step + k * spread - front.

    Attributes:
        length: elements of the dimension; `count`: of the result; `taps`: of the weight.
        around: zeros at both ends together.
    """

    length: int
    taps: int
    step: int
    spread: int
    front: int
    around: int

    @property
    def count(self) -> int:
        return (self.length + self.around - (self.taps - 1) * self.spread - 1) // self.step + 1

    def place(self, t: Expr, k: Expr) -> Expr:
        """Return where a tap of a result reads."""
        first = t if self.step == 1 else Apply("*", (t, Num(self.step)))
        tap = k if self.spread == 1 else Apply("*", (k, Num(self.spread)))
        # One tap reads where it is.
        place = first if self.taps == 1 else Apply("+", (first, tap))
        return Apply("-", (place, Num(self.front))) if self.front else place


def convolution(along: int) -> Callable[..., Value]:
    """Return a handler of convolutions along some dimensions: all channels, groups of them, or each by itself."""

    def convolved(
        b: Builder,
        x: Value,
        weight: Value,
        bias: Value | None = None,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        groups: int = 1,
    ) -> Value:
        if len(x.sizes) == along + 1:
            lifted = reshaped(b, x, [1, *x.sizes])
            out = convolved(b, lifted, weight, bias, stride, padding, dilation, groups)
            return reshaped(b, out, out.sizes[1:])
        walks = _walks(x.sizes[2:], weight.sizes[2:], stride, padding, dilation)
        out = _products(b, x, weight, walks, groups)
        if bias is None:
            return out
        return Value(out.axes, out.sizes, lambda at: Apply("+", (out.element(at), bias.element((at[1],)))))

    return convolved


def _walks(
    lengths: Sequence[int], taps: Sequence[int], stride: Numbers, padding: Numbers | str, dilation: Numbers
) -> list[_Walk]:
    out = []
    for i, (length, k) in enumerate(zip(lengths, taps, strict=True)):
        step, spread = _at(stride, i), _at(dilation, i)
        border = (k - 1) * spread
        if isinstance(padding, str):
            front, around = (border // 2, border) if padding == "same" else (0, 0)
        else:
            front, around = _at(padding, i), 2 * _at(padding, i)
        out.append(_Walk(length, k, step, spread, front, around))
    return out


def _products(b: Builder, x: Value, weight: Value, walks: Sequence[_Walk], groups: int) -> Value:
    """Return the sum over taps and channels of what they read times their weight."""
    made, inner = weight.sizes[:2]
    along = len(walks)
    depthwise = groups == made and inner == 1 and x.sizes[1] == made
    together = b.join(x.axes[1], weight.axes[0 if depthwise else 1]) if depthwise or groups == 1 else None
    axes: list[Axis | None] = [x.axes[0], together if depthwise else weight.axes[0]]
    # A single tap walks a dimension element by element.
    axes += [x.axes[2 + i] if _plain(w) else Axis(w.count) for i, w in enumerate(walks)]
    axes += weight.axes[2:]
    sizes = [x.sizes[0], made, *(w.count for w in walks), *(w.taps for w in walks)]
    if not depthwise:
        axes.append(together if groups == 1 else weight.axes[1])
        sizes.append(inner)

    def make(at: tuple[Expr, ...]) -> Expr:
        n, o = at[:2]
        c = at[-1] if not depthwise else Num(0)
        channel: Expr = o if depthwise else c
        if groups > 1 and not depthwise:
            group = Apply("*", (Apply("//", (o, Num(made // groups))), Num(inner)))
            channel = Apply("+", (group, c))
        taps = at[2 + along : 2 + 2 * along]
        places = [w.place(t, k) for w, t, k in zip(walks, at[2:], taps, strict=False)]
        value = _bordered(b, number(x.element((n, channel, *places))), places, walks)
        own = (Num(0) if w.taps == 1 else k for w, k in zip(walks, taps, strict=True))
        return Apply("*", (value, weight.element((o, c, *own))))

    return b.define("C", axes, make, kept=2 + along, sizes=sizes)


def _plain(walk: _Walk) -> bool:
    return walk.taps == 1 and walk.step == 1 and not walk.around


def _bordered(b: Builder, value: Expr, places: Sequence[Expr], walks: Sequence[_Walk]) -> Expr:
    """Return a value that is 0 beyond the ends of the dimensions that have a border."""
    borders = [(place, w.length) for place, w in zip(places, walks, strict=True) if w.around]
    if isinstance(value, Access):
        # A slice, a repetition or a single element ends elsewhere than the tensor that it is read from.
        ends = list(zip(value.indices, b.lengths.get(value.tensor, ()), strict=False))
        if borders and all(border in ends for border in borders):
            return Apply("pad", (value, Num(0)))
    for place, length in borders:
        value = Apply("select", (Compare(("<=", "<"), (Num(0), place, Num(length))), value, Num(0)))
    return value


def _at(numbers: Numbers, dimension: int) -> int:
    """Return the number for one dimension; one number stands for all."""
    if isinstance(numbers, int):
        return numbers
    return numbers[dimension] if len(numbers) > 1 else numbers[0]
