"""Sizes of a use: `E=64,P=1024,M=1024`, or a model of the workload table with a length: `BERT/64K,B=1`."""

from __future__ import annotations

import csv
import functools
import math
import re
from collections.abc import Container, Mapping
from importlib import resources
from numbers import Integral

import numpy as np

from .cascade import Cascade
from .errors import CascadeError, glimpse, nearest
from .expr import Apply, Expr, Num, Size, walk

# Ranks along the sequence; a model's length sets whichever of them a cascade has.
SEQUENCE_RANKS = ("M", "P", "T", "N", "L")
# Ranks that only multiply the work, so that a text may leave them out.
BATCH_RANKS = ("B", "H")
DEFAULT_TILE = 64
MAX_SIZE = 2**48

_SUFFIX = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)\s*([KMG]?)")


@functools.cache
def workloads() -> dict[str, dict[str, int]]:
    """Return the model table: name -> sizes by rank (B, D, H, E, F, S)."""
    text = resources.files(__package__).joinpath("zoo/workloads.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {r["model"]: {k: int(v) for k, v in r.items() if k not in ("model", "source")} for r in rows}


@functools.cache
def model_ranks() -> frozenset[str]:
    """Return the ranks whose sizes a model of the table brings, whether a cascade has them or not."""
    return frozenset(next(iter(workloads().values()))) | {*SEQUENCE_RANKS}


def count(text: str, *, name: str = "size") -> int:
    """Return a whole number written with an optional K, M or G (powers of 1024).

    Raises:
        CascadeError: not a whole number of at least 1.

    >>> count("64K")
    65536
    """
    match = _NUMBER.fullmatch(text.strip())
    if not match:
        raise CascadeError(f"{name}={text}: expected a whole number such as 64, 64K or 1M")
    value = float(match[1]) * _SUFFIX[match[2]]
    if value != int(value):
        raise CascadeError(f"{name}={text}: a size is a whole number")
    if value < 1:
        raise CascadeError(f"{name}={text}: a size is at least 1")
    if value > MAX_SIZE:
        raise CascadeError(f"{name}={text}: a size is at most 2^48")
    return int(value)


def parse_sizes(text: str, cascade: Cascade | None = None, *, tile: int | None = None) -> dict[str, int]:
    """Return the size of every rank of a cascade, and of the batch ranks given with it.

    Args:
        text: `E=64,P=1024,M=1024` or `MODEL/LENGTH[,RANK=n...]`.
        cascade: completes derived and split ranks when given, and refuses unknown ones.
        tile: size of the inner rank of a split (`M0`) that the text leaves open.

    Raises:
        CascadeError: an unknown rank or model, a missing, negative or non-integer size, a contradiction.
    """
    if not isinstance(text, str):
        raise CascadeError(f"sizes: expected a text such as 'E=64,M=1024', found {glimpse(text)}")
    given: dict[str, int] = {}
    soft: dict[str, int] = {}
    for position, item in enumerate(filter(None, (p.strip() for p in text.split(",")))):
        if "=" in item:
            name, _, value = item.partition("=")
            name = name.strip()
            if not name:
                raise CascadeError(
                    f"'{item}' in '{text}': a rank is missing before '='; expected RANK=number"
                )
            if name in given:
                raise CascadeError(f"{name} is given twice in '{text}'")
            given[name] = count(value, name=name)
        elif position == 0:
            soft = model_sizes(item)
        else:
            raise CascadeError(f"'{item}' in '{text}': expected RANK=number")
    if not given and not soft:
        raise CascadeError("no sizes given; write them as E=64,P=1024,M=1024 or as BERT/64K")
    if cascade is None:
        return soft | given
    return resolve(cascade, given, soft=soft, tile=tile)


def changed_sizes(text: str, changes: Mapping[str, object], cascade: Cascade) -> str:
    """Return a text of sizes with some of them changed, to be read by `parse_sizes`.

    Args:
        text: as for `parse_sizes`; a model may lack its length where `seq` is changed.
        changes: by rank, or `seq` for every rank along the sequence, or `model`.
        cascade: says which ranks there are.

    Raises:
        CascadeError: a model is set where the text names none.

    >>> from einsum_cascade import zoo
    >>> changed_sizes("BERT/64K,B=1", {"seq": "4K", "P": 256}, zoo.load("attention_3pass"))
    'BERT/4K,B=1,P=256'
    >>> changed_sizes("E=8,F=8,P=16,M=16", {"seq": 32}, zoo.load("attention_3pass"))
    'E=8,F=8,M=32,P=32'
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    ranks = {name: value for name, value in changes.items() if name not in ("seq", "model")}
    seq, other = changes.get("seq"), changes.get("model")
    head = items[:1] if items and "=" not in items[0] else []
    kept = items[len(head) :]
    if head:
        model, slash, length = head[0].partition("/")
        model = str(model if other is None else other)
        length = str(length if seq is None else seq)
        head = [f"{model}/{length}" if slash or length else model]
    elif other is not None:
        raise CascadeError(f"sizes.model: the sizes '{text}' name no model; write them as {other}/64K")
    elif seq is not None:
        ranks = {rank: seq for rank in SEQUENCE_RANKS if rank in cascade.rank_names} | ranks
    kept = [item for item in kept if item.partition("=")[0].strip() not in ranks]
    return ",".join([*head, *kept, *(f"{rank}={size}" for rank, size in ranks.items())])


def model_sizes(text: str) -> dict[str, int]:
    """Return the sizes of a model of the workload table at a length: `BERT/64K`."""
    model, slash, length = text.partition("/")
    table = workloads()
    if model not in table:
        raise CascadeError(f"unknown model '{model}'", hint=nearest(model, table))
    if not slash or not length:
        raise CascadeError(f"'{text}' lacks a length; write {model}/64K")
    seq = count(length, name="length")
    return table[model] | dict.fromkeys(SEQUENCE_RANKS, seq)


def require_table(given: object) -> None:
    """Refuse what gives no sizes.

    Raises:
        CascadeError: something else than a table of them.
    """
    if not isinstance(given, Mapping):
        raise CascadeError(
            f"sizes: expected a text such as 'E=64,M=1024', or a table of sizes by rank, found {glimpse(given)}"
        )


def resolve(
    cascade: Cascade,
    given: Mapping[str, int],
    *,
    soft: Mapping[str, int] | None = None,
    tile: int | None = None,
) -> dict[str, int]:
    """Return the sizes of all ranks, completed by the cascade's own equations.

    Args:
        given: sizes that a user named; every name must be a rank of the cascade or a batch rank.
        soft: sizes that are taken where the cascade has the rank and nothing else gives it.
        tile: size of the inner rank of a split that is left open; else its largest divisor up to 64.

    Raises:
        CascadeError: see `parse_sizes`.
    """
    require_table(given)
    names = set(cascade.rank_names)
    for name, value in given.items():
        if name not in names and name not in BATCH_RANKS:
            raise CascadeError(
                f"{cascade.name} has no rank {name}", hint=nearest(name, [*names, *BATCH_RANKS])
            )
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise CascadeError(f"{name}={value}: a size is a whole number of at least 1")
    sizes = {name: int(value) for name, value in given.items()}  # NumPy's integers are too short for counts
    for name, value in (soft or {}).items():
        if name in BATCH_RANKS or (name in names and not _settled(cascade, name, sizes)):
            sizes.setdefault(name, value)
    for _ in range(2):  # the parts of one rank may be second names of the parts of another
        _name_again(cascade, sizes)
        _split(cascade, sizes, tile)
    missing = [r for r in cascade.free_ranks if r not in sizes]
    if missing:
        wanted = ", ".join(_asked(cascade, r) for r in missing)
        raise CascadeError(f"{cascade.name} needs the size of {wanted}")
    for rank in cascade.ranks:
        if rank.size is not None:
            value = _whole(rank.name, size_value(rank.size, cascade, sizes))
            if sizes.setdefault(rank.name, value) != value:
                raise CascadeError(
                    f"{rank.name}={sizes[rank.name]} contradicts {rank.name} = {value} of its parts"
                )
    return sizes


def stated_parts(cascade: Cascade, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the parts of split ranks (M0 of M = M1 * M0) that a user chose: those that `resolve` would not choose.

    A text that says how large a part is (`rank M0 = 64`) has chosen all parts of its rank. A table of sizes does not
    say who filled it, and `parse_sizes` fills in what is left open; a tile that only it chose must not win over the
    tile of a mapping.

    >>> from einsum_cascade import zoo
    >>> flash = zoo.load("attention_1pass")
    >>> stated_parts(flash, parse_sizes("BERT/1K", flash)), stated_parts(flash, parse_sizes("BERT/1K,M0=128", flash))
    ({}, {'M1': 8, 'M0': 128})
    """
    parts = [p for whole, inner in cascade.splits.items() if whole in sizes for p in inner if p in sizes]
    if not parts:
        return {}
    # what follows from a part (W = N0 + 2 * R) would contradict the part that `resolve` chooses
    follows = {r.name for r in cascade.ranks if r.size is not None and r.name not in cascade.splits}
    try:
        chosen = resolve(cascade, {k: v for k, v in sizes.items() if k not in follows and k not in parts})
    except CascadeError:  # parts that several ranks share (heads) cannot be chosen for one after the other
        return {p: sizes[p] for p in parts}
    fixed = _fixed_parts(cascade)
    return {p: sizes[p] for p in parts if sizes[p] != chosen[p] or p in fixed}


def settled_parts(cascade: Cascade, named: Container[str]) -> set[str]:
    """Return the parts of every split rank of which at least one is named: `M1=8` settles M0 as well.

    >>> from einsum_cascade import zoo
    >>> sorted(settled_parts(zoo.load("attention_1pass"), {"P", "M1"}))
    ['M0', 'M1']
    """
    fixed = _fixed_parts(cascade)
    return {
        p for parts in cascade.splits.values() if any(p in named or p in fixed for p in parts) for p in parts
    }


def _fixed_parts(cascade: Cascade) -> set[str]:
    """Return the parts of every split rank of which the text says how large one is."""
    return {p for parts in cascade.splits.values() if _numbers(cascade, parts) for p in parts}


def size_value(node: Expr, cascade: Cascade, sizes: Mapping[str, int]) -> float | int:
    """Return the value of an expression over sizes and constants.

    Raises:
        CascadeError: a size is missing, or the value is not finite.
    """
    # Each name is worked out once: sizes that double each other would otherwise take for ever.
    return _value(node, cascade, dict(sizes))


def _value(node: Expr, cascade: Cascade, known: dict[str, float]) -> float | int:
    from .ops import SCALAR

    if isinstance(node, Num):
        return node.value
    if isinstance(node, Size):
        if node.name not in known:
            defined = {c.name: c.value for c in cascade.constants}
            defined |= {r.name: r.size for r in cascade.ranks if r.size is not None}
            if node.name not in defined:
                raise CascadeError(f"{cascade.name} needs the size of {node.name}")
            known[node.name] = _value(defined[node.name], cascade, known)
        return known[node.name]
    if isinstance(node, Apply):
        args = [_value(a, cascade, known) for a in node.args]
        if node.op in ("/", "//", "%") and args[1] == 0:
            raise CascadeError(f"a size of {cascade.name} divides by zero")
        if node.op == "**" and abs(args[1]) > 64:
            raise CascadeError(f"a size of {cascade.name} has an exponent beyond 64")
        if node.op == "neg":
            return -args[0]
        with np.errstate(all="ignore"):
            value = float(SCALAR[node.op].function(*map(np.float64, args)))
        if not math.isfinite(value):
            raise CascadeError(f"a size of {cascade.name} is not finite")
        return int(value) if value == int(value) else value
    raise CascadeError(f"a size of {cascade.name} may use numbers and sizes only")


def _settled(cascade: Cascade, name: str, sizes: Mapping[str, int]) -> bool:
    """Tell whether the given parts of a split already say how large the whole is."""
    parts = cascade.splits.get(name)
    return parts is not None and all(p in sizes for p in parts)


def _name_again(cascade: Cascade, sizes: dict[str, int]) -> None:
    """Give a rank the size of its second name: with `rank T = S` it is enough to give either, be S split or not."""
    for _ in cascade.aliases:
        for name, meant in cascade.aliases.items():
            if meant in sizes:
                sizes.setdefault(name, sizes[meant])
            elif name in sizes and not _settled(cascade, meant, sizes):
                sizes[meant] = sizes[name]


def _split(cascade: Cascade, sizes: dict[str, int], tile: int | None) -> None:
    """Give the parts of split ranks (M = M1 * M0) their sizes, where the whole is known.

    A part may be split again: a rank is looked at once its size is known, which that of another one may settle.
    """
    waiting = dict(cascade.splits)
    while ready := {whole: parts for whole, parts in waiting.items() if whole in sizes}:
        for whole, parts in ready.items():
            _split_one(cascade, whole, parts, sizes, tile)
            del waiting[whole]


def _split_one(
    cascade: Cascade, whole: str, parts: tuple[str, ...], sizes: dict[str, int], tile: int | None
) -> None:
    """Give the parts of one rank their sizes, what is left open to the outermost."""
    sizes |= {p: n for p, n in _numbers(cascade, parts).items() if p not in sizes}
    for part in parts:
        if part in sizes and sizes[whole] % sizes[part]:
            raise CascadeError(f"{part}={sizes[part]} does not divide {whole}={sizes[whole]}")
    open_parts = [p for p in parts if p not in sizes]
    while len(open_parts) > 1:
        inner = open_parts.pop()
        sizes[inner] = _tile(whole, _left_for(cascade, inner, sizes), tile)
    if open_parts:
        sizes[open_parts[0]] = _left(cascade, whole, sizes)


def _left(cascade: Cascade, whole: str, sizes: Mapping[str, int]) -> int:
    """Return what is left of a rank for those of its parts that have no size yet."""
    return sizes[whole] // math.prod(sizes[p] for p in cascade.splits[whole] if p in sizes)


def _left_for(cascade: Cascade, part: str, sizes: Mapping[str, int]) -> int:
    """Return what a part has to divide: what is left of every rank that it is a part of."""
    wholes = (w for w, parts in cascade.splits.items() if part in parts and w in sizes)
    return math.gcd(*(_left(cascade, w, sizes) for w in wholes))


def _numbers(cascade: Cascade, parts: tuple[str, ...]) -> dict[str, int]:
    """Return the parts of a split whose size the text states: T0 of `rank T0 = 64`, `rank T = T1 * T0`."""
    stated = {r.name: r.size for r in cascade.ranks if r.name in parts and r.size is not None}
    return {
        name: _whole(name, size_value(size, cascade, {}))
        for name, size in stated.items()
        if not any(isinstance(n, Size) for n in walk(size))
    }


def _tile(whole: str, size: int, tile: int | None) -> int:
    if tile is not None:
        if size % tile:
            raise CascadeError(f"the tile {tile} does not divide {whole}={size}")
        return tile
    return next(t for t in range(min(DEFAULT_TILE, size), 0, -1) if size % t == 0)


def _whole(name: str, value: float | int) -> int:
    if value != int(value) or value < 1:
        raise CascadeError(f"{name} would be {value}; a size is a whole number of at least 1")
    return int(value)


def _asked(cascade: Cascade, rank: str) -> str:
    for whole, parts in cascade.splits.items():
        if rank in parts:
            return f"{rank} (or {whole} = {' * '.join(parts)})"
    return rank
