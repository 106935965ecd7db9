"""What no machine can avoid: passes, operations, live footprint and traffic of a cascade, in one printable result."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cascade import Cascade, require
from ..errors import DataError, glimpse
from .footprint import boundaries
from .needed import without_unused
from .passes import all_passes
from .points import known_sizes, operations
from .quantities import as_bytes, shown_bytes
from .traffic import Traffic, ranks_with_passes, traffic

Array = Any
_CUT = "compulsory + minimum cut between passes (Menger); passes of FuseMax (2024)"
_KEPT = "matrix multiplication: Smith et al. (2019), 2 N / sqrt(S) - 2 S words"
_FUSED = (
    "scores that may stay on chip: phases of Irony et al. (2004); the order P M E^2 / S of Saha and Ye (2024)"
)


@dataclass(frozen=True, slots=True)
class Term:
    """One lower bound on the traffic, with where it comes from.

    Attributes:
        name: what it counts.
        traffic_bytes: the bound that it gives by itself, compulsory traffic of other tensors included.
        source: the argument, and who made it.
    """

    name: str
    traffic_bytes: float
    source: str


@dataclass(frozen=True)
class Bounds:
    """What every machine pays for a cascade at given sizes.

    Attributes:
        sizes: of every rank, and of the batch ranks.
        word_bytes: bytes of an element.
        buffer_bytes: the on-chip buffer for which the traffic is bounded; None: any.
        passes: the number of passes over each rank that is reduced.
        operations: scalar operations by cost class, batch ranks included.
        compulsory_bytes: every needed input element read once, every output element written once.
        traffic_bytes: the largest of the terms: no schedule moves less.
        free_pass_buffer_bytes: live bytes per fiber from which no further pass moves anything; 0 with one pass.
        kept: the tensors that those bytes hold.
        terms: every bound by itself.
    """

    cascade: Cascade
    sizes: Mapping[str, int]
    word_bytes: float
    buffer_bytes: float | None
    passes: Mapping[str, int]
    operations: Mapping[str, int]
    compulsory_bytes: float
    traffic_bytes: float
    free_pass_buffer_bytes: float
    kept: tuple[str, ...]
    terms: tuple[Term, ...]

    @property
    def formulas(self) -> dict[str, str]:
        """The bounds as formulas in the ranks, in bytes; `word` and `buffer` are the bytes of each."""
        from .symbolic import formulas

        return formulas(self.cascade, self.sizes)

    def as_json(self) -> dict[str, object]:
        """Return the fields that the command prints."""
        return {
            "cascade": self.cascade.name,
            "sizes": dict(self.sizes),
            "word_bytes": self.word_bytes,
            "buffer_bytes": self.buffer_bytes,
            "passes": dict(self.passes),
            "operations": dict(self.operations),
            "compulsory_bytes": self.compulsory_bytes,
            "traffic_bytes": self.traffic_bytes,
            "free_pass_buffer_bytes": self.free_pass_buffer_bytes,
            "kept": list(self.kept),
            "formulas": self.formulas,
            "terms": [
                {"name": t.name, "traffic_bytes": t.traffic_bytes, "source": t.source} for t in self.terms
            ],
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return what a table for people shows."""
        rows = [(f"passes over {rank}", str(n)) for rank, n in self.passes.items()]
        rows += [(f"operations: {op}", f"{n:,}") for op, n in self.operations.items()]
        rows.append(("compulsory traffic", shown_bytes(self.compulsory_bytes)))
        where = "any buffer" if self.buffer_bytes is None else f"a buffer of {shown_bytes(self.buffer_bytes)}"
        rows.append((f"least traffic with {where}", shown_bytes(self.traffic_bytes)))
        if self.free_pass_buffer_bytes:
            what = f"further passes are free from ({', '.join(self.kept)} of one fiber)"
            rows.append((what, shown_bytes(self.free_pass_buffer_bytes)))
        return rows

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        lines = [f"  {name:<{width}}  {value}" for name, value in self.rows()]
        return "\n".join([f"{self.cascade.name}: what no machine can avoid", *lines])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td style='text-align:left'>{html.escape(n)}</td><td>{html.escape(v)}</td></tr>"
            for n, v in self.rows()
        )
        return (
            f"<p><b>{html.escape(self.cascade.name)}</b>: what no machine can avoid</p><table>{cells}</table>"
        )


def bounds(
    cascade: Cascade,
    sizes: Mapping[str, int] | str,
    *,
    buffer: str | float | None = None,
    word: str | float = "2 B",
) -> Bounds:
    """Return what no machine can avoid when it executes the cascade.

    Args:
        sizes: of the free ranks, or a text such as `BERT/64K`; batch ranks that the text leaves out multiply all.
        buffer: on-chip memory, with its unit or in bytes; without one the traffic holds for any buffer.
        word: the bytes of one element.

    Raises:
        CascadeError: missing or illegal sizes.
        DataError: an amount without its unit.

    >>> from einsum_cascade import zoo
    >>> b = bounds(zoo.load("attention_3pass"), "E=16,F=16,M=64,P=32", word="16 bit")
    >>> b.passes["M"], b.free_pass_buffer_bytes, b.kept
    (3, 128.0, ('QK',))
    """
    require(cascade)
    known = known_sizes(cascade, sizes)
    # A machine need not compute what no output needs.
    cascade = without_unused(cascade)
    word_bytes = as_bytes(word, what="word")
    buffer_bytes = None if buffer is None else as_bytes(buffer, what="buffer")
    found = traffic(cascade, known)
    free, kept = _free_pass(cascade, known)
    words = float("inf") if buffer_bytes is None else buffer_bytes / word_bytes
    terms = _terms(found, words, word_bytes)
    return Bounds(
        cascade=cascade,
        sizes=known,
        word_bytes=word_bytes,
        buffer_bytes=buffer_bytes,
        passes={rank: p.count for rank, p in all_passes(cascade).items()},
        operations=operations(cascade, known),
        compulsory_bytes=found.compulsory_words * word_bytes,
        traffic_bytes=max(t.traffic_bytes for t in terms),
        free_pass_buffer_bytes=free * word_bytes,
        kept=kept,
        terms=terms,
    )


def traffic_curve(
    cascade: Cascade,
    sizes: Mapping[str, int] | str,
    *,
    buffers_bytes: Sequence[float] | Array,
    word: str | float = "2 B",
) -> Array:
    """Return the least traffic in bytes for each of many buffer sizes at once.

    Args:
        buffers_bytes: on-chip memory, one entry a point of the curve.

    >>> from einsum_cascade import zoo
    >>> curve = traffic_curve(zoo.load("attention_3pass"), "E=4,F=4,M=64,P=64", buffers_bytes=[16, 2**20])
    >>> bool(curve[0] > curve[1])
    True
    """
    require(cascade)
    word_bytes = as_bytes(word, what="word")
    try:
        buffers = np.asarray(buffers_bytes, dtype=float)
    except (TypeError, ValueError):
        buffers = np.array([math.nan])
    if not (buffers > 0).all():
        raise DataError(f"buffers_bytes: expected numbers of bytes above 0, found {glimpse(buffers_bytes)}")
    curve: Array = (
        traffic(cascade, known_sizes(cascade, sizes)).least_words(buffers / word_bytes) * word_bytes
    )
    return curve


def _free_pass(cascade: Cascade, sizes: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
    """Return the largest of the minimum cuts between two passes, in words of one fiber, and what it holds."""
    best, kept = 0, tuple[str, ...]()
    for rank in ranks_with_passes(cascade):
        for between in boundaries(cascade, rank, sizes):
            words, names = between.cut(sizes)
            if words > best:
                best, kept = words, names
    return best, kept


def _terms(found: Traffic, buffer_words: float, word_bytes: float) -> tuple[Term, ...]:
    base = found.compulsory_words * word_bytes
    terms = [
        Term("compulsory", base, "each needed input element is read once, each output element written once")
    ]
    if buffer_words == float("inf"):
        return tuple(terms)
    at = np.asarray([buffer_words])
    for p in found.pass_terms:
        extra = float(p.least_words(at)[0]) * word_bytes
        name = f"passes over {p.rank}"
        terms.append(Term(name, base + extra, _CUT))
    for c in found.contractions:
        moved = (c.other_words + float(c.least_words(at)[0])) * word_bytes
        source = _KEPT if c.kept else _FUSED
        terms.append(Term(f"contraction {c.einsum} of {' and '.join(c.operands)}", moved, source))
    return tuple(terms)


def curve_to_draw(
    cascade: Cascade, sizes: Mapping[str, int] | str, *, word: str | float = "2 B", count: int = 60
) -> tuple[Array, Array]:
    """Return buffer sizes, and the least traffic for each, from one fiber's words to all compulsory bytes."""
    known = known_sizes(cascade, sizes)
    word_bytes = as_bytes(word, what="word")
    found = traffic(cascade, known)
    words = np.geomspace(64, max(found.compulsory_words, 128), count)
    return words * word_bytes, found.least_words(words) * word_bytes
