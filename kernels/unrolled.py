"""How often a compiled loop goes through the body of its loop in the source: the assembler unrolls short ones.

Triton hands PTX to the assembler, in which a loop of the source is still one loop. How many loads, stores, products and
exponentials a loop has there and how many afterwards tells by how much it was unrolled; what is left over of an
unrolled loop may have a loop of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from . import sass

_INSTRUCTION = re.compile(r"^\s*(?P<guard>@!?%p\w+\s+)?(?P<opcode>[a-z][a-z0-9_.:]+)\b(?P<rest>[^;]*);")
_LABEL = re.compile(r"^(?P<label>\$L\w+):")
_PLACE = re.compile(r"\$L\w+")
# PTX by what it becomes; what is not listed plays no part here. The first that fits decides.
_BECOMES = (
    (re.compile(r"bra\b"), "BRA"),
    (re.compile(r"ret\b|exit\b"), "EXIT"),
    (re.compile(r"ld\.global"), "LDG"),
    (re.compile(r"cp\.async\.bulk"), "UTMALDG"),
    (re.compile(r"cp\.async\.c[ag]"), "LDGSTS"),
    (re.compile(r"st\.global"), "STG"),
    (re.compile(r"(?:fma|add|sub|mul)\.(?:\w+\.)*f32x2"), "FFMA2"),
    (re.compile(r"(?:fma|add|sub|mul)\.(?:\w+\.)*f32"), "FFMA"),
    (re.compile(r"(?:ex2|lg2|sin|cos|tanh)\."), "MUFU"),
    (re.compile(r"(?:div|rcp|sqrt|rsqrt)\."), "DIVIDE"),
    (re.compile(r"mma\.|wgmma\.mma|tcgen05\.mma"), "HMMA"),
)
_LOADS, _STORES = ("LDG", "LDGSTS", "UTMALDG"), ("STG", "UTMASTG")
_FLOATS = ("FFMA", "FADD", "FMUL")
# Counts that the assembler keeps, but for loads of what iterations share. Additions and products are more than in the
# source where it expands a division or an exponential, and fewer where it joins two.
_KEPT = ("load", "store", "exp", "tensor")
# Of a loop of PTX that is found nowhere: it is unrolled whole, or laid over two.
_LOST = 0.5


def seen_through(found: Sequence[sass.Loop], text: str, ptx: str) -> tuple[sass.Loop, ...]:
    """Return the loops of a disassembled kernel, each with how often it goes through the body of its loop in PTX.

    Args:
        found: `sass.loops(text)`.
        text: output of `nvdisasm -c`.
        ptx: what the assembler was given.
    """
    own = [_counted(lines, body) for lines, body in _bodies(*sass.parsed(text))]
    source = [_counted(lines, body) for lines, body in _bodies(*_parsed(ptx))]
    places = _aligned(own, source)
    if places is None:
        return tuple(found)
    times = [_times(mine, source[at]) for mine, at in zip(own, places, strict=True)]
    most = {at: max(t for t, a in zip(times, places, strict=True) if a == at) for at in places}
    return tuple(
        replace(loop, unrolled=t, remainder=t < most[at])
        for loop, t, at in zip(found, times, places, strict=True)
    )


def _parsed(ptx: str) -> tuple[list[sass.Line], dict[str, int]]:
    lines: list[sass.Line] = []
    labels: dict[str, int] = {}
    for raw in ptx.splitlines():
        if label := _LABEL.match(raw):
            labels[label["label"]] = len(lines)
        elif found := _INSTRUCTION.match(raw):
            opcode = next((name for pattern, name in _BECOMES if pattern.match(found["opcode"])), "OTHER")
            jumps = tuple(_PLACE.findall(found["rest"])) if opcode == "BRA" else ()
            goes_on = bool(found["guard"]) or opcode not in ("BRA", "EXIT")
            lines.append(sass.Line(opcode, jumps, goes_on, opcode in ("MUFU", "HMMA")))
    return lines, labels


def _bodies(lines: list[sass.Line], labels: Mapping[str, int]) -> list[tuple[list[sass.Line], set[int]]]:
    return [(lines, body) for body in sass.innermost(lines, labels)]


def _counted(lines: Sequence[sass.Line], body: set[int]) -> dict[str, float]:
    """Return how much of each kind a loop holds."""
    counts = dict.fromkeys((*_KEPT, "float", "divide"), 0.0)
    for line in (lines[i] for i in body):
        if line.opcode in _LOADS:
            counts["load"] += 1
        elif line.opcode in _STORES:
            counts["store"] += 1
        elif line.works:
            counts["tensor" if sass.pipe_of(line.opcode) == "tensor" else "exp"] += 1
        elif line.opcode.removesuffix("2") in _FLOATS:
            counts["float"] += 2 if line.opcode.endswith("2") else 1
        elif line.opcode == "DIVIDE":
            counts["divide"] += 1
    return counts


def _ratios(mine: Mapping[str, float], theirs: Mapping[str, float]) -> list[float]:
    """Return how many times each kind of the source's loop a compiled one holds; nothing where it is another loop."""
    if any((mine[kind] > 0) != (theirs[kind] > 0) for kind in _KEPT):
        return []
    ratios = [mine[kind] / theirs[kind] for kind in _KEPT if theirs[kind]]
    if theirs["float"] and mine["float"] and not theirs["divide"] and not theirs["exp"]:
        ratios.append(mine["float"] / theirs["float"])
    return ratios


def _times(mine: Mapping[str, float], theirs: Mapping[str, float]) -> int:
    return max(1, round(max(_ratios(mine, theirs))))


def _misfit(mine: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """Return how badly a compiled loop fits one of the source, in which all kinds should be so many times."""
    ratios = _ratios(mine, theirs)
    if not ratios:
        return math.inf
    times = _times(mine, theirs)
    return sum(abs(math.log(r / times)) for r in ratios)


def _aligned(own: Sequence[Mapping[str, float]], source: Sequence[Mapping[str, float]]) -> list[int] | None:
    """Return the loop of the source that each compiled one belongs to, in the same order; None where nothing fits."""
    if not own or not source:
        return None
    # The best for loops up to the present one, by the loop of the source that it is laid on.
    best: dict[int, tuple[float, list[int]]] = {-1: (0.0, [])}
    for mine in own:
        reached: dict[int, tuple[float, list[int]]] = {}
        for at, theirs in enumerate(source):
            misfit = _misfit(mine, theirs)
            ways = [
                (cost + misfit + _LOST * max(0, at - before - 1), [*path, at])
                for before, (cost, path) in best.items()
                if before <= at
            ]
            if ways and min(ways)[0] < math.inf:
                reached[at] = min(ways)
        best = reached
    ends = [(cost + _LOST * (len(source) - 1 - at), path) for at, (cost, path) in best.items()]
    return min(ends)[1] if ends else None
