"""Sums of products: einsum, matrix products and linear layers."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from ..expr import Apply, Expr, Num
from .values import Axis, Builder, Value, constant, elementwise


def contracted(b: Builder, operands: Sequence[Value], subscripts: Sequence[str], out: str) -> Value:
    """Return the sum of products that einsum letters describe."""
    solid = [b.solid(x) for x in operands]
    axes: dict[str, Axis | None] = {}
    sizes: dict[str, int] = {}
    for x, letters in zip(solid, subscripts, strict=True):
        for letter, n in zip(letters, x.sizes, strict=True):
            sizes[letter] = n if sizes.get(letter, 1) == 1 else sizes[letter]
    for x, letters in zip(solid, subscripts, strict=True):
        for letter, axis, n in zip(letters, x.axes, x.sizes, strict=True):
            if n == sizes[letter]:
                axes[letter] = b.join(axes.get(letter), axis)
    order = [*out, *(c for c in axes if c not in out)]

    def make(at: tuple[Expr, ...]) -> Expr:
        place = dict(zip(order, at, strict=True))
        value: Expr | None = None
        for x, letters in zip(solid, subscripts, strict=True):
            index = tuple(
                Num(0) if n == 1 and sizes[c] != 1 else place[c]
                for c, n in zip(letters, x.sizes, strict=True)
            )
            factor = x.element(index)
            value = factor if value is None else Apply("*", (value, factor))
        assert value is not None
        return value

    name = _joined_name(b, solid)
    return b.define(name, [axes[c] for c in order], make, kept=len(out), sizes=[sizes[c] for c in order])


def _joined_name(b: Builder, operands: Sequence[Value]) -> str:
    names = []
    for x in operands:
        found = x.element(tuple(Num(0) for _ in x.sizes))
        names.append(getattr(found, "tensor", ""))
    joined = "".join(names)
    return joined if all(names) and len(joined) <= 4 else "C"


def einsum(b: Builder, text: str, operands: Sequence[Value], **_: Any) -> Value:
    """Return what torch.einsum gives, an ellipsis included."""
    left, arrow, out = text.replace(" ", "").partition("->")
    subscripts = left.split(",")
    letters = ""
    if "." in text:
        spare = [c for c in string.ascii_letters[::-1] if c not in text]
        extra = max(
            len(x.sizes) - len(s.replace("...", "")) for x, s in zip(operands, subscripts, strict=True)
        )
        letters = "".join(spare[:extra])
        shown = [len(x.sizes) - len(s.replace("...", "")) for x, s in zip(operands, subscripts, strict=True)]
        subscripts = [s.replace("...", letters[extra - n :]) for s, n in zip(subscripts, shown, strict=True)]
        out = out.replace("...", letters)
    if not arrow:
        flat = "".join(subscripts)
        out = letters + "".join(sorted(c for c in set(flat) - {*letters} if flat.count(c) == 1))
    return contracted(b, operands, subscripts, out)


def matmul(b: Builder, x: Value, y: Value) -> Value:
    """Return a matrix product; leading dimensions are batches."""
    n, m = len(x.sizes), len(y.sizes)
    batch = "abcdefgh"[: max(n, m, 2) - 2]
    left = (batch[len(batch) - (n - 2) :] + "ik") if n > 1 else "k"
    right = (batch[len(batch) - (m - 2) :] + "kj") if m > 1 else "k"
    out = batch + ("i" if n > 1 else "") + ("j" if m > 1 else "")
    return contracted(b, [x, y], [left, right], out)


def outer(b: Builder, x: Value, y: Value) -> Value:
    """Return all products of two vectors."""
    return contracted(b, [x, y], ["i", "j"], "ij")


def added_product(b: Builder, x: Value, y: Value, z: Value, beta: float = 1, alpha: float = 1) -> Value:
    """Return a matrix product added to a value, each times a number."""

    def total(added: Expr, product: Expr) -> Expr:
        left, right = (
            term if factor == 1 else Apply("*", (constant(factor), term))
            for factor, term in ((beta, added), (alpha, product))
        )
        return Apply("+", (left, right))

    return elementwise(b, total, x, matmul(b, y, z))


def linear(b: Builder, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """Return a linear layer."""
    batch = "abcdefgh"[: len(x.sizes) - 1]
    out = contracted(b, [x, weight], [batch + "k", "jk"], batch + "j")
    return out if bias is None else elementwise(b, lambda x, y: Apply("+", (x, y)), out, bias)


def tensordot(b: Builder, x: Value, y: Value, left: Sequence[int], right: Sequence[int], **_: Any) -> Value:
    """Return the sum of products over pairs of dimensions, one of each tensor."""
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    mine, yours = ([next(letters) for _ in v.sizes] for v in (x, y))
    for i, j in zip(left, right, strict=True):
        yours[j] = mine[i]
    gone = {mine[i] for i in left}
    out = [c for c in (*mine, *yours) if c not in gone]
    return contracted(b, [x, y], ["".join(mine), "".join(yours)], "".join(out))
