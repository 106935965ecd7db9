"""Masks of Einsums whose loops are still open: how much of a space is left, in steps of an array or in elements."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

from einsum_cascade.analysis.points import numbers_of
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Action, Einsum
from einsum_cascade.errors import CascadeError

from ..identity import remembered
from .idle import Removed, idle
from .live import DENSE, Live, Mask, live_of, settings_of_tiles
from .nest import Level, Loop, Nest, Operand, SizeTable

# Parts of a rank inside a tile, outermost first: over steps, over turns of a step, on an axis.
_DEPTH = {"1": 1, "turns": 2, "axis": 3, "0": 3}
_removed = remembered(maxsize=256)(idle)


def masks_of(cascade: Cascade, einsum: Einsum, nest: Nest, sizes: Mapping[str, int]) -> Live:
    """Return the masks of an Einsum over loops `P.2`, `P.1`, `P.0`; those of which the points can be counted.

    Args:
        cascade: the algorithm.
        einsum: one of it.
        nest: its loops.
        sizes: by rank.
    """
    live = _plain(cascade, einsum, sizes)
    if live.whole is None:
        return DENSE
    parts: dict[str, list[str]] = {}
    for loop in (*nest.time, *nest.space):
        parts.setdefault(f"{rank_of(loop.variable)}.1", []).append(loop.part)
    finer = {whole: tuple(sorted(found, key=_depth)) for whole, found in parts.items()}
    return live.changed(functools.partial(_cut, finer=finer))


def _cut(mask: Mask, *, finer: Mapping[str, tuple[str, ...]]) -> Mask:
    """Return a mask with the loops of a nest in place of `P.1` and `P.0`."""
    loops = []
    for variable, parts in mask.loops:
        kept = (p for p in parts if not p.endswith(".0"))
        loops.append((variable, tuple(piece for p in kept for piece in finer.get(p, (p,)))))
    return replace(mask, loops=tuple(loops))


def masked(cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int]) -> bool:
    """Tell whether an Einsum has masks whose points can be counted."""
    return _plain(cascade, einsum, sizes).whole is not None


def _depth(part: str) -> int:
    """Return where a part stands among those of its rank; `P.2` and those with larger numbers step over tiles."""
    _, dot, level = part.partition(".")
    if not dot:
        return 0
    kind = level.partition(".")[0]
    return _DEPTH[kind] if kind in _DEPTH else -int(kind)


def _removal(cascade: Cascade, einsum: Einsum) -> Removed | None:
    found: Removed | None = _removed(cascade).get(einsum.name)
    return found


@remembered(maxsize=256)
def constants(cascade: Cascade, sizes: Mapping[str, int]) -> Mapping[str, float]:
    """Return the named constants of a cascade."""
    return {name: value for name, value in numbers_of(cascade, sizes).items() if name not in sizes}


def steps_of(
    cascade: Cascade, einsum: Einsum, action: Action, widths: Mapping[str, int], sizes: Mapping[str, int]
) -> float:
    """Return the steps that an array does for one kind of work of an Einsum, those without a point left out.

    Args:
        cascade: the algorithm.
        einsum: one of it.
        action: the work.
        widths: by rank, how much of it lies on an axis.
        sizes: by rank.
    """
    live = _plain(cascade, einsum, sizes)
    loops = tuple(f"{rank_of(v)}.1" for v in action.variables)
    mask = live.of_work(einsum.actions.index(action))
    return float(settings_of_tiles(mask, loops, _table(cascade, sizes, widths)))


def elements_left(cascade: Cascade, einsum: Einsum, operand: Operand, sizes: Mapping[str, int]) -> float:
    """Return the share of the words of an operand that an Einsum touches, the results of nothing included."""
    live = _plain(cascade, einsum, sizes)
    mask = live.written if operand.output else live.whole
    if mask is None:
        return 1.0
    loops = tuple(f"{rank_of(v)}.1" for v in sorted(operand.variables))
    table = _table(cascade, sizes, {})
    return float(settings_of_tiles(mask, loops, table) / max(1, table[loops]))


def _table(cascade: Cascade, sizes: Mapping[str, int], widths: Mapping[str, int]) -> SizeTable:
    found: dict[str, float] = {**constants(cascade, sizes), **sizes}
    for rank, size in sizes.items():
        width = widths.get(rank, 1)
        found[f"{rank}.1"], found[f"{rank}.0"] = -(-size // width), width
    return SizeTable(found)


@remembered(maxsize=8192)
def _plain(cascade: Cascade, einsum: Einsum, sizes: Mapping[str, int]) -> Live:
    """Return the masks of an Einsum over loops `P.1` outside `P.0`; none where its points cannot be counted."""
    loops = tuple(Loop(v, f"{rank_of(v)}.{level}") for v in einsum.variables for level in (1, 0))
    nest = Nest(einsum.name, "", (Level("", loops),), (), ())
    parts_of = {rank_of(v): (f"{rank_of(v)}.1", f"{rank_of(v)}.0") for v in einsum.variables}
    live = live_of(cascade, einsum, nest, parts_of, _removal(cascade, einsum))
    table = _table(cascade, sizes, {})

    def opened(mask: Mask) -> Mask | None:
        """Return a mask that removes anything, its loops running beyond the ends of ranks that may be cut so."""
        left = settings_of_tiles(mask, mask.own, table)
        if not left < table[mask.own]:
            return None
        ranks = ((v, rank_of(v)) for v, _ in mask.loops)
        return replace(mask, ends=tuple((v, rank) for v, rank in ranks if cuttable(cascade, rank)))

    try:
        return live.changed(opened)
    except CascadeError:
        return DENSE


def cuttable(cascade: Cascade, rank: str) -> bool:
    """Tell whether tiles need not divide a rank: the parts of one that the cascade itself splits are exact."""
    return not any(rank in (whole, *parts) for whole, parts in cascade.splits.items())
