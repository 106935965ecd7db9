"""What is joined and later cut apart again stays in pieces: a learned sink beside the scores, a prefix before them.

`softmax(cat([scores, sinks], -1))[..., :-1]` walks the scores and one number more. Kept in two pieces the softmax has
one maximum and one sum over both, and the scores keep the rank of the keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..expr import Apply
from .pieces import joined
from .reductions import reduced, scores_of
from .shapes import axis_of, selected
from .values import Builder, Value, applied, elementwise

# What acts on each element by itself, so that it may act on each piece.
_MAPS = frozenset(
    {
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "neg",
        "exp",
        "exp2",
        "log",
        "clamp",
        "clamp_min",
        "clamp_max",
        "tanh",
    }
    | {
        "sigmoid",
        "relu",
        "abs",
        "dropout",
        "to",
        "_to_copy",
        "type_as",
        "clone",
        "contiguous",
        "detach",
        "alias",
    }
    | {"maximum", "minimum"}
)
# What takes one dimension whole: how it is said, and how the results of two pieces are put together.
_WHOLE = {"max": "max", "amax": "max", "min": "min", "amin": "min", "sum": "sum"}
_TOGETHER = {"max": applied("max"), "min": applied("min"), "sum": applied("+")}
_SLICES = ("slice", "narrow")


@dataclass(frozen=True, eq=False)
class Cut:
    """A tensor in pieces along one dimension, which is counted from the front.

    Attributes:
        place: the dimension.
        pieces: one behind the other.
    """

    place: int
    pieces: tuple[Value, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the whole."""
        own = list(self.pieces[0].sizes)
        own[self.place] = sum(p.sizes[self.place] for p in self.pieces)
        return tuple(own)

    def dimension(self, dim: int) -> int:
        """Return a dimension counted from the front."""
        return axis_of(self.pieces[0], dim)

    def whole(self, b: Builder) -> Value:
        """Return the tensor in one piece."""
        return joined(b, self.pieces, self.place)

    def solid(self, b: Builder) -> Cut:
        """Return the tensor with every piece read by an access."""
        return replace(self, pieces=tuple(b.solid(p) for p in self.pieces))


def cut(pieces: Sequence[Value], dim: int = 0) -> Cut:
    """Return a tensor that stays in pieces."""
    return Cut(axis_of(pieces[0], dim), tuple(pieces))


def applied_to_pieces(
    b: Builder,
    name: str,
    handler: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Return what an operation gives, in pieces as far as it leaves them."""
    first = next(a for a in args if isinstance(a, Cut))
    if name in _SLICES and args[0] is first:
        found = _sliced(first, *args[1:], **kwargs)
        if found is not None:
            return found
    if name in ("softmax", "_softmax") and first.dimension(args[1]) == first.place:
        return _softmax(b, first)
    if name in _WHOLE and args[0] is first and len(args) > 1:
        dims = [args[1]] if isinstance(args[1], int) else list(args[1] or ())
        if [first.dimension(d) for d in dims] == [first.place]:
            keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
            found = _reduced(b, first, _WHOLE[name], keepdim=keep)
            return (found, None) if name in ("max", "min") else found
    if name in _MAPS and all(_goes_along(first, a) for a in args):
        pieces = (
            handler(b, *(a.pieces[i] if isinstance(a, Cut) else a for a in args), **kwargs)
            for i in range(len(first.pieces))
        )
        return replace(first, pieces=tuple(pieces))
    return handler(b, *in_one_piece(b, args), **{k: in_one_piece(b, v) for k, v in kwargs.items()})


def in_one_piece(b: Builder, given: Any) -> Any:
    """Return arguments, those in pieces whole."""
    if isinstance(given, (list, tuple)):
        return [in_one_piece(b, a) for a in given]
    return given.whole(b) if isinstance(given, Cut) else given


def _goes_along(first: Cut, other: Any) -> bool:
    """Tell whether an argument is in the same pieces, or the same for all of them."""
    if isinstance(other, Cut):
        mine, theirs = ([p.sizes[c.place] for p in c.pieces] for c in (first, other))
        return len(first.sizes) - first.place == len(other.sizes) - other.place and mine == theirs
    if not isinstance(other, Value):
        return not isinstance(other, (list, tuple))
    from_end = len(first.sizes) - first.place
    return len(other.sizes) <= len(first.sizes) and (
        len(other.sizes) < from_end or other.sizes[-from_end] == 1
    )


def _sliced(x: Cut, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value | Cut | None:
    """Return the pieces that a slice names, or None where it cuts through one."""
    if x.dimension(dim) != x.place or step != 1:
        return None
    chosen = range(*slice(start, end, step).indices(x.sizes[x.place]))
    ends = list(itertools.accumulate((p.sizes[x.place] for p in x.pieces), initial=0))
    if chosen.start not in ends or chosen.stop not in ends or not len(chosen):
        return None
    found = x.pieces[ends.index(chosen.start) : ends.index(chosen.stop)]
    return found[0] if len(found) == 1 else replace(x, pieces=found)


def _reduced(b: Builder, x: Cut, op: str, *, keepdim: bool) -> Value:
    """Return a reduction over the dimension of the pieces: that of each, put together."""
    wanted = {"max": "MAX", "min": "MIN", "sum": "SUM"}[op]
    return _together(b, x, x.pieces, op, wanted, keepdim=keepdim)


def _together(
    b: Builder, x: Cut, pieces: Sequence[Value], op: str, wanted: str, *, keepdim: bool = True
) -> Value:
    found: Value | None = None
    for piece in pieces:
        if piece.sizes[x.place] == 1:  # one element is its own maximum and its own sum
            mine = piece if keepdim else selected(b, piece, x.place, 0)
        else:
            mine = reduced(b, piece, x.place, op, keepdim=keepdim, wanted=wanted)
        found = mine if found is None else elementwise(b, _TOGETHER[op], found, mine)
    assert found is not None
    return b.solid(found, wanted)


def _softmax(b: Builder, x: Cut) -> Cut:
    """Return the stable softmax over all pieces: one maximum, one sum."""
    scores = [scores_of(b, p, x.place) for p in x.pieces]
    top = _together(b, x, scores, "max", "GM")
    shifted = [
        b.solid(elementwise(b, lambda s, m: Apply("exp", (Apply("-", (s, m)),)), s, top), "SN")
        for s in scores
    ]
    total = _together(b, x, shifted, "sum", "SD")
    shares = (b.solid(elementwise(b, applied("/"), s, total), "A") for s in shifted)
    return replace(x, pieces=tuple(shares))


def is_cut_again(node: Any) -> bool:
    """Tell whether what a node joins is cut apart again at the same places, maps and a softmax in between."""
    pieces, *more = node.args
    shapes = [tuple(int(n) for n in p.meta["val"].shape) for p in pieces]
    dim = more[0] if more else node.kwargs.get("dim", 0)
    if len({len(s) for s in shapes}) != 1 or len(pieces) < 2:
        return False
    place = dim % len(shapes[0])
    ends = set(itertools.accumulate((s[place] for s in shapes), initial=0))
    return any(_bounds(found, place) <= ends for found in _slices_of(node, place))


def _slices_of(node: Any, place: int) -> Iterator[Any]:
    """Yield the slices along a dimension of what is made of a node element by element."""
    open_nodes, seen = [node], {node}
    while open_nodes:
        for user in open_nodes.pop().users:
            name = str(getattr(user.target, "__name__", user.target)).split(".")[0]
            if user.op != "call_function" or user in seen:
                continue
            seen.add(user)
            if name in _SLICES and (user.args[1:2] or (0,))[0] % len(user.meta["val"].shape) == place:
                yield user
            elif name in _MAPS or name in ("softmax", "_softmax"):
                open_nodes.append(user)


def _bounds(node: Any, place: int) -> set[int]:
    """Return the first place of a slice and the one behind its last; -1 where it leaves out some in between."""
    _, _, start, end, step = (*node.args, None, None, None, 1)[:5] if len(node.args) < 5 else node.args
    size = int(node.args[0].meta["val"].shape[place])
    chosen = range(*slice(start, end, step or 1).indices(size))
    return {chosen.start, chosen.stop} if chosen.step == 1 and len(chosen) < size else {-1}
