"""Random expressions, random legal cascades with sizes and inputs, and random text that resembles cascades."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from einsum_cascade import render, zoo
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Constant, Iterate, Rank, Signature, variable_of
from einsum_cascade.einsum import Einsum, Reduction
from einsum_cascade.expr import Access, Apply, Compare, Expr, Num, Size, Var, variables
from einsum_cascade.ops import COMPARISON, SCALAR

# Rank -> the sizes that are tried. M is split, N is a second name of I, T is iterated, S is what topk selects.
SIZES = {"I": (1, 4), "J": (1, 3), "M1": (1, 3), "M0": (1, 3), "S": (1, 3), "T": (1, 4)}
RANKS = (
    Rank("I"),
    Rank("J"),
    Rank("S"),
    Rank("T"),
    Rank("M1"),
    Rank("M0"),
    Rank("M", Apply("*", (Size("M1"), Size("M0")))),
    Rank("N", Size("I")),
)
REDUCIBLE = ("I", "J", "M", "M1", "M0", "N")


def numbers() -> st.SearchStrategy[Num]:
    whole = st.integers(0, 10**6).map(Num)
    real = st.floats(0.0, 1e300, allow_nan=False, allow_subnormal=False).map(Num)
    return whole | real | st.just(Num(math.inf))


LEAVES = (Size("M"), Size("W1"), Var("m"), Var("m1"), Access("T"), Access("Q", (Var("e"),)))
FUNCTIONS = sorted(n for n, op in SCALAR.items() if not op.logical and n not in ("pad", "select"))


@st.composite
def expressions(draw: st.DrawFn, *, depth: int = 4) -> Expr:
    """Numbers of every shape the grammar knows; the names in them need not exist."""
    kind = draw(st.integers(0, 7)) if depth else 0
    if kind <= 1:
        return draw(numbers() | st.sampled_from(LEAVES))
    inner = expressions(depth=depth - 1)
    if kind <= 5:
        name = draw(st.sampled_from(FUNCTIONS))
        low, high = SCALAR[name].arity
        return Apply(name, tuple(draw(inner) for _ in range(draw(st.integers(low, min(high, 3))))))
    access = Access("K", tuple(draw(inner) for _ in range(draw(st.integers(0, 2)))))
    if kind == 6:
        return draw(st.sampled_from([access, Apply("pad", (access, Num(1)))]))
    return Apply("select", (draw(predicates(depth=depth - 1)), draw(inner), draw(inner)))


@st.composite
def predicates(draw: st.DrawFn, *, depth: int = 3) -> Expr:
    """Comparisons and what joins them."""
    kind = draw(st.integers(0, 4)) if depth else 0
    if kind <= 1:
        ops = draw(st.lists(st.sampled_from(sorted(COMPARISON)), min_size=1, max_size=2))
        return Compare(
            tuple(ops), tuple(draw(expressions(depth=max(depth - 1, 0))) for _ in range(len(ops) + 1))
        )
    inner = predicates(depth=depth - 1)
    if kind == 2:
        return Apply("not", (draw(inner),))
    return Apply("and" if kind == 3 else "or", (draw(inner), draw(inner)))


@dataclass(frozen=True)
class Use:
    """A cascade with sizes and inputs to run it on."""

    cascade: Cascade
    sizes: dict[str, int]
    inputs: dict[str, np.ndarray] = field(repr=False)


@dataclass
class _Known:
    """Tensors that may be read while a cascade is being made."""

    values: list[Signature]
    indices: list[Signature]
    state: Signature | None = None
    generation: str | None = None


@st.composite
def uses(draw: st.DrawFn, *, iterate: bool | None = None) -> Use:
    """A legal cascade of every construct of the language, with small sizes and whole-number inputs.

    Values are kept exact or well conditioned, so that an interpreter that adds in another order agrees to 1e-9.
    """
    inputs = [
        Signature("A", draw(_ranks())),
        Signature("B", draw(_ranks())),
        Signature("X", draw(_ranks(least=0))),
    ]
    index = Signature("J0", draw(_ranks(least=0)))
    known = _Known(list(inputs), [index])
    body: list[Einsum | Iterate] = []
    body.extend(_add(draw, known, f"U{i}") for i in range(draw(st.integers(1, 3))))
    if iterate if iterate is not None else draw(st.booleans()):
        body += _block(draw, known)
        body.append(_add(draw, known, "Z"))
    defined = [e.name for item in body for e in (item.einsums if isinstance(item, Iterate) else [item])]
    constants = (Constant("W", Num(draw(st.integers(0, 3)))),)
    shapes = {s.tensor: s for s in (*known.values, *known.indices)}
    outputs = tuple(Signature(t, shapes[t].ranks) for t in dict.fromkeys(defined) if t in shapes)
    cascade = Cascade("random", "", "", RANKS, constants, (*inputs, index), outputs, tuple(body))
    sizes = {r: draw(st.integers(*bounds)) for r, bounds in SIZES.items()}
    sizes |= {"M": sizes["M1"] * sizes["M0"], "N": sizes["I"]}
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    arrays = {s.tensor: rng.integers(-3, 4, [sizes[r] for r in s.ranks]).astype(float) for s in inputs}
    arrays["J0"] = rng.integers(-1, 4, [sizes[r] for r in index.ranks]).astype(float)
    return Use(cascade, sizes, arrays)


def cascades() -> st.SearchStrategy[Cascade]:
    """Legal cascades alone."""
    return uses().map(lambda u: u.cascade)


def _ranks(*, least: int = 1, most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(REDUCIBLE), min_size=least, max_size=most, unique=True).map(tuple)


def _add(draw: st.DrawFn, known: _Known, name: str) -> Einsum:
    """Make one Einsum and let later ones read what it defines."""
    kind = draw(st.sampled_from(["map", "reduce", "reduce", "reduce", "select"]))
    kept, gone = draw(_ranks(least=0)), draw(_ranks(least=1))
    target = tuple(variable_of(r) for r in kept)
    reduced = tuple(v for v in map(variable_of, gone) if v not in target)
    if kind == "map" or not reduced:
        einsum = Einsum(
            Access(name, tuple(map(Var, target))),
            draw(_value(known, target)),
            (),
            draw(_where(known, target)),
        )
        known.values.append(Signature(name, kept))
    elif kind == "reduce":
        einsum = draw(_reducing(known, name, target, reduced))
        known.values.append(Signature(name, kept))
    else:
        einsum = draw(_selecting(known, name, target, reduced[0]))
        extra = ("S",) if einsum.reductions[0].into else ()
        known.indices.append(Signature(name, kept + extra))
    return einsum


@st.composite
def _reducing(
    draw: st.DrawFn, known: _Known, name: str, target: tuple[str, ...], reduced: tuple[str, ...]
) -> Einsum:
    space = target + reduced
    factors = draw(st.lists(_value(known, space), min_size=1, max_size=3))
    value = factors[0]
    for f in factors[1:]:
        value = Apply("*", (value, f))
    where = draw(_where(known, space))
    used = set(variables(value)) | (set(variables(where)) if where is not None else set())
    for v in reduced:
        if v not in used:  # a reduced variable must be used; as a factor it counts its own coordinates
            value = Apply("*", (value, Apply("+", (Var(v), Num(1)))))
    op = st.sampled_from(["sum", "sum", "max", "min", "prod", "logsumexp"])
    if len(reduced) == 2 and draw(st.booleans()):
        reductions: tuple[Reduction, ...] = tuple(Reduction(draw(op), (v,)) for v in reduced)
    elif draw(st.booleans()) or (isinstance(value, Apply) and value.op in ("+", "-")):
        reductions = (Reduction(draw(op), reduced),)
    else:
        reductions = ()
    return Einsum(Access(name, tuple(map(Var, target))), value, reductions, where)


@st.composite
def _selecting(draw: st.DrawFn, known: _Known, name: str, target: tuple[str, ...], reduced: str) -> Einsum:
    # Ties and order are exact only where the keys are: whole-number inputs, not sums.
    keys = _Known([s for s in known.values if s.tensor in ("A", "B", "X")], known.indices[:1])
    read = draw(_access(keys, (*target, reduced)))
    value = Apply("+", (read, Var(reduced))) if reduced not in variables(read) else read
    where = draw(_where(known, (*target, reduced)))
    if draw(st.booleans()):
        reduction = Reduction("topk", (reduced,), "s", draw(st.booleans()))
        return Einsum(Access(name, (*map(Var, target), Var("s"))), value, (reduction,), where)
    return Einsum(Access(name, tuple(map(Var, target))), value, (Reduction("argmax", (reduced,)),), where)


def _block(draw: st.DrawFn, known: _Known) -> list[Einsum | Iterate]:
    """Make a block with one state, and what it reads and defines."""
    ranks = draw(_ranks(least=0, most=1))
    free = tuple(variable_of(r) for r in ranks)
    first = Einsum(Access("R", (Num(0), *map(Var, free))), draw(_value(known, free)))
    state = Signature("R", ("T", *ranks), state=0)
    inside = _Known(list(known.values), list(known.indices), state, "t")
    space = ("t", *free)
    work = draw(_reducing(inside, "Y", space, tuple(v for v in ("j", "m0") if v not in free)[:1]))
    inside.values.append(Signature("Y", ("T", *ranks)))
    mixed = Apply(
        "+", (Apply("*", (Num(0.5), Access("R", (Var("t"), *map(Var, free))))), draw(_value(inside, space)))
    )
    update = Einsum(
        Access("R", (Apply("+", (Var("t"), Num(1))), *map(Var, free))), mixed, (), draw(_where(inside, space))
    )
    after = Einsum(
        Access("Y2", tuple(map(Var, space))),
        Apply(
            "max",
            (
                Access("R", (Apply("+", (Var("t"), Num(1))), *map(Var, free))),
                Access("Y", tuple(map(Var, space))),
            ),
        ),
    )
    known.values += [Signature("Y", ("T", *ranks)), Signature("Y2", ("T", *ranks)), state]
    return [first, Iterate("t", (work, update, after))]


@st.composite
def _access(draw: st.DrawFn, known: _Known, space: tuple[str, ...]) -> Expr:
    source = draw(st.sampled_from(known.values))
    indices = []
    for axis, rank in enumerate(source.ranks):
        if known.state is None and axis == source.state:
            indices.append(draw(st.sampled_from([Size("T"), Num(0), Apply("-", (Size("T"), Num(1)))])))
        else:
            indices.append(draw(_index(known, space, rank)))
    read = Access(source.tensor, tuple(indices))
    return Apply("pad", (read, Num(draw(st.integers(0, 2))))) if draw(st.integers(0, 5)) == 0 else read


@st.composite
def _index(draw: st.DrawFn, known: _Known, space: tuple[str, ...], rank: str) -> Expr:
    own = variable_of(rank)
    usable = [v for v in space if v != known.generation] or list(space)
    base: Expr = Var(own) if own in space else Var(draw(st.sampled_from(usable))) if usable else Num(0)
    shape = draw(st.integers(0, 11))
    if shape <= 5:
        return base
    if shape == 6:
        return Apply(draw(st.sampled_from(["+", "-"])), (base, Num(draw(st.integers(0, 2)))))
    if shape == 7:
        return Apply(draw(st.sampled_from(["*", "//", "%"])), (base, Num(draw(st.integers(1, 3)))))
    if shape == 8:
        return Apply("clamp", (Apply("-", (base, Num(1))), Num(0), Apply("-", (Size(rank), Num(1)))))
    if shape == 9:
        return Apply("-", (Apply("-", (Size(rank), Num(1))), base))
    if shape == 10:
        return Num(draw(st.integers(0, 2)))
    table = draw(st.sampled_from(known.indices))
    inner = [Var(variable_of(r)) if variable_of(r) in space else Num(0) for r in table.ranks]
    return Access(table.tensor, tuple(inner))


@st.composite
def _value(draw: st.DrawFn, known: _Known, space: tuple[str, ...], depth: int = 2) -> Expr:
    shape = draw(st.integers(0, 9)) if depth else draw(st.integers(0, 3))
    inner = _value(known, space, depth - 1) if depth else None
    if shape <= 2 or inner is None:
        return draw(_access(known, space))
    if shape == 3:
        constants = [Num(1), Num(0), Num(2.5), Size("I"), Size("W"), *map(Var, space)]
        return draw(st.sampled_from(constants))
    if shape == 4:
        return Apply(draw(st.sampled_from(["+", "-", "*"])), (draw(inner), draw(inner)))
    if shape == 5:
        return Apply(draw(st.sampled_from(["max", "min"])), (draw(inner), draw(inner)))
    if shape == 6:
        return Apply(
            draw(st.sampled_from(["tanh", "sigmoid", "relu", "neg", "softplus", "gelu", "cos"])),
            (draw(inner),),
        )
    if shape == 7:
        return Apply("exp", (Apply("neg", (Apply("abs", (draw(inner),)),)),))
    if shape == 8:
        return Apply("/", (draw(inner), Apply("+", (Num(1), Apply("abs", (draw(inner),))))))
    return Apply("select", (draw(_predicate(known, space)), draw(inner), draw(inner)))


@st.composite
def _predicate(draw: st.DrawFn, known: _Known, space: tuple[str, ...]) -> Expr:
    exact = [s for s in known.values if s.tensor in ("A", "B", "X")]
    reads = _Known(exact, known.indices[:1], None, known.generation)
    operand = st.sampled_from(
        [Num(0), Num(1), Num(2), Size("I"), Size("W"), *map(Var, space), *map(Var, space)]
    )
    left = draw(operand | _access(reads, space) if draw(st.integers(0, 3)) == 0 else operand)
    ops = [draw(st.sampled_from(sorted(COMPARISON)))]
    args = [left, draw(operand)]
    if draw(st.integers(0, 3)) == 0:
        ops.append(draw(st.sampled_from(["<", "<=", "!="])))
        args.append(Apply("+", (draw(operand), draw(operand))))
    found: Expr = Compare(tuple(ops), tuple(args))
    joined = draw(st.integers(0, 6))
    if joined == 0:
        return Apply("not", (found,))
    if joined <= 3:
        return Apply("or" if joined == 1 else "and", (found, draw(_predicate(known, space))))
    return found


def _where(known: _Known, space: tuple[str, ...]) -> st.SearchStrategy[Expr | None]:
    return st.none() | _predicate(known, space)


WORDS = (
    *re.findall(
        r"\S+",
        """cascade rank let input output source iterate where and or not inf sorted pad select sum max topk argmax exp
        A B O I J M M1 M0 T i j m m1 t 0 1 2 1e9 0.5 9999999999999999999 + - * / // % ** = == != < <= > >=
        :: : -> , ( ) [ ] { } \\ # é "text" """,
    ),
    *("\t", "\n", "\n", "\n"),
)


def token_soup() -> st.SearchStrategy[str]:
    """Words of the language in any order, with and without a legal beginning."""
    heads = st.sampled_from(
        [
            "",
            "cascade c\n",
            "cascade c\nrank I J\ninput A[I] B[I, J]\noutput O[I]\n",
            "cascade c\nrank I\nR[0] = 1\niterate i {\n",
        ]
    )
    return st.tuples(heads, st.lists(st.sampled_from(WORDS), max_size=40)).map(
        lambda p: p[0] + " ".join(p[1])
    )


@functools.cache
def _zoo_texts() -> tuple[str, ...]:
    return tuple(render(zoo.load(n)) for n in zoo.names())


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """The text of a legal cascade in which words were lost, doubled, swapped or replaced."""
    text = draw(st.sampled_from(_zoo_texts()) | cascades().map(render))
    words = re.findall(r"\w+|\s+|[^\w\s]+", text)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(words) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                words[at] = ""
            case 1:
                words[at] *= 2
            case 2:
                other = draw(st.integers(0, len(words) - 1))
                words[at], words[other] = words[other], words[at]
            case _:
                words[at] = draw(st.sampled_from(WORDS))
    return "".join(words)
