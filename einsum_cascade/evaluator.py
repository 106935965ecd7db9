"""The meaning of a cascade: NumPy evaluation in float64 at sizes that fit in memory.

What the language leaves to its evaluator, decided here:

* An *absent* point (removed by `where`, outside its tensor, or reading an absent point) takes no part in a reduction.
  Whatever makes points absent names variables: a conjunct those in it, an index beyond its tensor those of the index,
  a point that does not exist those of its access. If one of them is reduced, terms are removed; if all stand in the
  target, output points are. So a key beyond the end of the sequence is absent from a softmax, although the sum over
  its width has lost all terms; and a row whose keys are all masked has the maximum -inf.
* A reduction left without terms gives its identity: sum 0, prod 1, max and logsumexp -inf, min inf. `argmax` and
  `topk` without (enough) terms give absent indices.
* `select(pred, a, b)` reads only the branch that it takes. `pad(T[..], v)` is `v` where the access is absent.
* With several reductions a condition acts where the first of its variables is about to be reduced.
* Ties in `argmax` and `topk` go to the smaller index.
* An absent point of a tensor that is handed back reads as 0.
* Arithmetic is IEEE float64 without warnings: `-inf - (-inf)` is not-a-number, as in every implementation that forgets
  a wholly masked row; a cascade that wants a number there says so (`RM[0, p] = -1e30`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .cascade import Cascade, require
from .declarations import Iterate, rank_of
from .einsum import Einsum
from .errors import CascadeError, glimpse, nearest
from .expr import Access, Apply, Compare, Expr, Num, Var, children, variables, walk
from .iteration import bound, conjuncts_of, factors_of, run
from .sizes import BATCH_RANKS, parse_sizes, require_table, resolve, size_value
from .terms import Array, Points, Space, space_of, value_of

LIMIT_BYTES = 2 * 2**30
# NumPy arrays have at most 64 axes, and np.einsum 52 letters.
MAX_VARIABLES = 32
# From here on numbers are taken for marks of what is masked; sums of a few products of ordinary numbers stay below.
MARK = 1e29


def evaluate(
    cascade: Cascade,
    sizes: Mapping[str, int] | str,
    inputs: Mapping[str, Any],
    *,
    keep_all: bool = False,
    limit_bytes: int = LIMIT_BYTES,
) -> dict[str, Any]:
    """Return the outputs of a cascade as float64 arrays, by name.

    Args:
        cascade: what to evaluate.
        sizes: of the free ranks (split ranks may be given whole), or a text such as `E=8,M=16,P=16`.
        inputs: an array for each input, in the order of ranks of its signature.
        keep_all: hand back every tensor that is defined, not the outputs alone. A state has all its states,
            one more than the rank it iterates.
        limit_bytes: refuse to make tensors that together take more.

    Raises:
        CascadeError: sizes that do not fit the cascade, an input that is missing, unknown, of the wrong shape, not
            numeric or not a number, or arrays beyond the limit.

    >>> from einsum_cascade import zoo
    >>> out = evaluate(zoo.load("gemm"), "M=1,N=1,K=2", {"A": [[2.0], [3.0]], "B": [[4.0], [5.0]]})
    >>> float(out["C"][0, 0])
    23.0
    """
    require(cascade)
    tensors = points(cascade, sizes, inputs, limit_bytes=limit_bytes)
    given = {s.tensor for s in cascade.inputs}
    asked = [t for t in tensors if t not in given] if keep_all else [s.tensor for s in cascade.outputs]
    return {t: plain(tensors[t]) for t in asked}


def points(
    cascade: Cascade,
    sizes: Mapping[str, int] | str,
    inputs: Mapping[str, Any],
    *,
    limit_bytes: int = LIMIT_BYTES,
) -> dict[str, Points]:
    """Return every tensor of a cascade with the points that exist; `evaluate` documents arguments and errors."""
    known = sizes_of_use(cascade, sizes)
    check_memory(cascade, known, limit_bytes=limit_bytes)
    tensors = _checked_inputs(cascade, known, inputs)
    values = numbers_of_use(cascade, known)
    for item in cascade.body:
        run_item(cascade, item, values, tensors, limit_bytes=limit_bytes)
    return tensors


def run_item(
    cascade: Cascade,
    item: Einsum | Iterate,
    values: Mapping[str, float],
    tensors: dict[str, Points],
    *,
    limit_bytes: int = LIMIT_BYTES,
) -> None:
    """Add what an Einsum or a block of a cascade defines to the tensors before it.

    Args:
        values: of every rank and named constant.
    """
    with np.errstate(all="ignore"):
        if isinstance(item, Iterate):
            _run_block(cascade, item, values, tensors, limit_bytes)
            return
        found = run(item, space_of(item, values, tensors, fixed={}, limit_bytes=limit_bytes))
        if item.name in cascade.states:
            tensors[item.name] = _room(cascade, item.name, values)
            _store(item, found, tensors, values, {})
        else:
            tensors[item.name] = Points(np.array(found.values), found.present)


def sizes_of_use(cascade: Cascade, sizes: Mapping[str, int] | str) -> dict[str, int]:
    """Return the size of every rank, from a text or from the sizes of some."""
    if isinstance(sizes, str):
        return parse_sizes(sizes, cascade)
    return resolve(cascade, sizes)


def shape_of(cascade: Cascade, tensor: str, sizes: Mapping[str, float]) -> tuple[int, ...]:
    """Return the shape of a tensor; the axis of a state has one element more than its rank."""
    s = cascade.signatures[tensor]
    return tuple(int(sizes[r]) + (axis == s.state) for axis, r in enumerate(s.ranks))


def check_memory(cascade: Cascade, sizes: Mapping[str, int], *, limit_bytes: int = LIMIT_BYTES) -> None:
    """Refuse sizes at which the tensors, or what is made on the way, would not fit.

    Raises:
        CascadeError: naming the tensor and the bytes that it would take.
    """
    words = {t: math.prod(shape_of(cascade, t, sizes)) for t in cascade.signatures}
    largest = max(words, key=lambda t: words[t], default="")
    bound(words.get(largest, 0), f"the tensor {largest}", limit_bytes)
    bound(sum(words.values()), f"all tensors together, the largest being {largest},", limit_bytes)
    for einsum, block in cascade.statements:
        if len(einsum.variables) > MAX_VARIABLES:
            raise CascadeError(f"{einsum.name} has more than {MAX_VARIABLES} variables", at=einsum.at)
        first = einsum.all_reductions[:1]
        contracts = bool(first) and first[0].op == "sum"
        parts = factors_of(einsum.value) if contracts else (einsum.value,)
        for part in (*parts, *conjuncts_of(einsum.where)):
            names = [v for v in variables(part) if v != block]
            count = math.prod(sizes[rank_of(v)] for v in names)
            bound(count, f"an operand of {einsum.name}", limit_bytes)


def random_inputs(
    cascade: Cascade, sizes: Mapping[str, int] | str, *, seed: int = 0, limit_bytes: int = LIMIT_BYTES
) -> dict[str, Any]:
    """Return inputs drawn from a normal distribution; the same seed gives the same numbers.

    An input that stands inside an index is drawn from the whole numbers that keep the access inside its tensor. One
    that stands under a logarithm, a root or a power is drawn between 0.05 and 0.95, and one that is asked whether it
    equals something (a mask of 0 and 1, a segment) is 0 or 1.

    Args:
        limit_bytes: refuse to draw them where all tensors together take more.
    """
    require(cascade)
    known = sizes_of_use(cascade, sizes)
    check_memory(cascade, known, limit_bytes=limit_bytes)
    try:
        rng = np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise CascadeError(f"seed: expected a whole number of at least 0, found {glimpse(seed)}") from None
    indexed = dict.fromkeys(compared(cascade), 1) | _index_bounds(cascade, known)
    positive = _needs_positive(cascade)
    out = {}
    for s in cascade.inputs:
        shape = shape_of(cascade, s.tensor, known)
        if s.tensor in indexed:
            out[s.tensor] = rng.integers(0, indexed[s.tensor] + 1, shape).astype(float)
        elif s.tensor in positive:
            out[s.tensor] = rng.uniform(0.05, 0.95, shape)
        else:
            out[s.tensor] = rng.standard_normal(shape)
    return out


def same_result(
    a: Cascade, b: Cascade, sizes: Mapping[str, int] | str, *, seed: int = 0, tolerance: float = 1e-9
) -> bool:
    """Tell whether two cascades give the same outputs on the same random inputs.

    An output with a rank that one of them splits (O[F, T] and O[F, T1, T0]) is compared element by element.

    Args:
        sizes: of the ranks of either; a rank that only one of them has concerns that one.
        tolerance: largest difference, relative to the largest number of the output (float64 sums in another
            order differ by about 1e-15 per term).

    Raises:
        CascadeError: they do not ask for the same inputs, or a size is missing.
    """
    require(a)
    require(b)
    given = parse_sizes(sizes) if isinstance(sizes, str) else sizes
    require_table(given)
    known = dict(given)
    for whole, parts in (*a.splits.items(), *b.splits.items()):
        if whole not in known and all(p in known for p in parts):
            known[whole] = math.prod(known[p] for p in parts)
    use = {id(c): resolve(c, _relevant(c, known)) for c in (a, b)}
    inputs = random_inputs(a, use[id(a)], seed=seed)
    wanted = {s.tensor for s in b.inputs}
    if wanted != set(inputs):
        odd = sorted(wanted ^ set(inputs))[0]
        raise CascadeError(f"{a.name} and {b.name} have different inputs: {odd} belongs to one only")
    left = evaluate(a, use[id(a)], inputs)
    right = evaluate(b, use[id(b)], inputs)
    if left.keys() != right.keys() or any(left[t].size != right[t].size for t in left):
        return False
    return all(difference(left[t].reshape(right[t].shape), right[t]) <= tolerance for t in left)


def difference(a: Any, b: Any) -> float:
    """Return the largest difference of two arrays, relative to the largest finite number of the second (or to 1).

    Numbers that only stand for a mask (the lowest of a format, -1e30) are held against themselves, and say nothing of
    how large the others are.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    alike = (a == b) | (np.isnan(a) & np.isnan(b))
    if alike.all():
        return 0.0
    ordinary = np.abs(b) < MARK
    scale = max(1.0, float(np.max(np.abs(b[ordinary]), initial=0.0)))
    with np.errstate(all="ignore"):
        apart = np.where(alike, 0.0, np.abs(a - b)) / np.where(ordinary, scale, np.abs(b))
    return math.inf if np.isnan(apart).any() else float(apart.max())


def plain(found: Points) -> Array:
    """Return values, 0 where a point does not exist."""
    return found.values if found.present is None else np.where(found.present, found.values, 0.0)


def _relevant(cascade: Cascade, sizes: Mapping[str, int]) -> dict[str, int]:
    names = {*cascade.rank_names, *BATCH_RANKS}
    return {k: v for k, v in sizes.items() if k in names}


def numbers_of_use(cascade: Cascade, sizes: Mapping[str, int]) -> dict[str, float]:
    """Return the value of every rank and named constant."""
    constants = {c.name: size_value(c.value, cascade, sizes) for c in cascade.constants}
    return {**constants, **sizes}


def _checked_inputs(
    cascade: Cascade, sizes: Mapping[str, int], inputs: Mapping[str, Any]
) -> dict[str, Points]:
    names = [s.tensor for s in cascade.inputs]
    if not isinstance(inputs, Mapping):
        raise CascadeError(f"inputs: expected arrays by the name of their tensor, found {glimpse(inputs)}")
    for name in inputs:
        if name not in names:
            raise CascadeError(f"{cascade.name} has no input {name}", hint=nearest(name, names))
    out = {}
    for s in cascade.inputs:
        if s.tensor not in inputs:
            raise CascadeError(f"{cascade.name} needs the input {s.tensor}[{', '.join(s.ranks)}]")
        try:
            array = np.asarray(inputs[s.tensor])
        except ValueError as error:
            raise CascadeError(f"input {s.tensor} is not an array: {error}") from None
        shape = shape_of(cascade, s.tensor, sizes)
        if array.dtype.kind not in "biuf":
            raise CascadeError(f"input {s.tensor} holds {array.dtype}, not real numbers")
        if array.shape != shape:
            wanted = ", ".join(f"{r}={n}" for r, n in zip(s.ranks, shape, strict=True))
            raise CascadeError(f"input {s.tensor} has the shape {array.shape}, expected {shape} ({wanted})")
        array = array.astype(float)
        if np.isnan(array).any():
            place = tuple(int(i) for i in np.argwhere(np.isnan(array))[0])
            raise CascadeError(f"input {s.tensor} is not a number (NaN) at {place}")
        out[s.tensor] = Points(array)
    return out


def _run_block(
    cascade: Cascade,
    block: Iterate,
    values: Mapping[str, float],
    tensors: dict[str, Points],
    limit_bytes: int,
) -> None:
    for e in block.einsums:
        if e.name not in tensors:
            tensors[e.name] = _room(cascade, e.name, values)
    for generation in range(int(values[rank_of(block.variable)])):
        fixed = {block.variable: generation}
        for e in block.einsums:
            found = run(e, space_of(e, values, tensors, fixed=fixed, limit_bytes=limit_bytes))
            _store(e, found, tensors, values, fixed)
    for e in block.einsums:
        whole = tensors[e.name]
        if whole.present is not None and whole.present.all():
            tensors[e.name] = Points(whole.values)


def _room(cascade: Cascade, tensor: str, sizes: Mapping[str, float]) -> Points:
    """Return an empty tensor: what no generation has written yet is absent."""
    shape = shape_of(cascade, tensor, sizes)
    return Points(np.zeros(shape), np.zeros(shape, dtype=bool))


def _store(
    einsum: Einsum,
    found: Points,
    tensors: Mapping[str, Points],
    values: Mapping[str, float],
    fixed: Mapping[str, int],
) -> None:
    space = Space((), values, fixed, tensors, LIMIT_BYTES)
    key: list[int | slice] = []
    for index in einsum.target.indices:
        free = isinstance(index, Var) and index.name not in fixed
        key.append(slice(None) if free else int(value_of(index, space).values))
    room = tensors[einsum.name]
    room.values[tuple(key)] = found.values
    assert room.present is not None
    room.present[tuple(key)] = True if found.present is None else found.present


def _index_bounds(cascade: Cascade, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return, for each input read inside an index, the largest value that keeps the access inside its tensor."""
    given = {s.tensor for s in cascade.inputs}
    bounds: dict[str, int] = {}
    for einsum, _ in cascade.statements:
        for access in (a for a in _everywhere(einsum) if isinstance(a, Access)):
            shape = shape_of(cascade, access.tensor, sizes)
            for index, extent in zip(access.indices, shape, strict=True):
                for inner in {n.tensor for n in walk(index) if isinstance(n, Access)} & given:
                    top = _largest_inside(index, extent, cascade, sizes)
                    bounds[inner] = min(top, bounds.get(inner, top))
    return bounds


def _largest_inside(index: Expr, extent: int, cascade: Cascade, sizes: Mapping[str, int]) -> int:
    numbers = numbers_of_use(cascade, sizes)

    def reached(value: int) -> float:
        ends = {v: sizes[rank_of(v)] - 1 for v in variables(index)}
        tensors = {n.tensor: Points(np.asarray(float(value))) for n in walk(index) if isinstance(n, Access)}
        flat = _flattened(index)
        with np.errstate(all="ignore"):
            return float(value_of(flat, Space((), numbers, ends, tensors, LIMIT_BYTES)).values)

    low, high = 0, extent - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if reached(middle) < extent else (low, middle - 1)
    return low


def _flattened(index: Expr) -> Expr:
    """Return the index with every access read as a scalar."""
    if isinstance(index, Access):
        return Access(index.tensor)
    return Apply(index.op, tuple(map(_flattened, index.args))) if isinstance(index, Apply) else index


def _needs_positive(cascade: Cascade) -> set[str]:
    """Return the tensors read under a logarithm, a root, or as the base of a power that is not a whole number."""
    found: set[str] = set()
    for einsum, _ in cascade.statements:
        for node in _everywhere(einsum):
            if not isinstance(node, Apply) or node.op not in ("log", "sqrt", "**"):
                continue
            if node.op == "**" and isinstance(node.args[1], Num) and isinstance(node.args[1].value, int):
                continue
            found |= {n.tensor for n in walk(children(node)[0]) if isinstance(n, Access)}
    return found


def compared(cascade: Cascade) -> list[str]:
    """Return the tensors that are asked whether they equal something; random numbers never would."""
    nodes = (n for einsum, _ in cascade.statements for n in _everywhere(einsum) if isinstance(n, Compare))
    return [
        side.tensor
        for n in nodes
        for op, *pair in zip(n.ops, n.args, n.args[1:], strict=False)
        for side in pair
        if op in ("==", "!=") and isinstance(side, Access)
    ]


def _everywhere(einsum: Einsum) -> list[Expr]:
    roots = [einsum.value, *([einsum.where] if einsum.where is not None else [])]
    return [n for root in roots for n in walk(root)]
