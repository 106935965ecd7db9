"""Read a disassembled kernel: its loops, and which pipe of the GPU each instruction of a loop keeps busy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

_INSTRUCTION = re.compile(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_]*)(?P<rest>[^;]*);")
_LABEL = re.compile(r"^(?P<label>\.L_\w+):")
_TARGET = re.compile(r"`\((?P<label>\.L_\w+)\)")

# Opcode stems by pipe; the longest stem that an opcode starts with decides. What is not listed is `other`.
PIPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tensor": ("HMMA", "HGMMA", "IMMA", "IGMMA", "QGMMA", "DMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA", "OMMA"),
        "special": ("MUFU",),
        "fma": ("FFMA", "FMUL", "FADD", "IMAD", "HFMA2", "HMUL2", "HADD2"),
        "alu": (
            "FMNMX", "FSEL", "FSETP", "FCHK", "ISETP", "IADD", "VIADD", "VIMNMX", "IMNMX", "IABS", "LOP3", "LEA",
            "SEL", "SHF", "PRMT", "PLOP3", "P2R", "R2P", "SGXT", "BMSK", "HMNMX2", "HSETP2", "MOV",
        ),
        "convert": ("F2FP", "F2F", "F2I", "I2F", "I2FP", "FRND"),
        "shared": ("LDS", "LDSM", "STS", "STSM", "ATOMS", "SHFL", "MOVM"),
        "global": ("LDG", "LDGSTS", "STG", "RED", "ATOMG", "UTMALDG", "UTMASTG", "LD", "ST"),
        "local": ("LDL", "STL"),
        "tensor_memory": ("LDTM", "STTM", "UTCCP"),
    }
)  # fmt: skip
_STEMS = sorted(((stem, pipe) for pipe, stems in PIPES.items() for stem in stems), key=lambda s: -len(s[0]))


@dataclass(frozen=True, slots=True)
class Loop:
    """One innermost loop that does the kernel's work.

    Attributes:
        instructions: length of its body, for one warp.
        pipes: instructions by pipe, in the order of `PIPES`, then `other`.
    """

    instructions: int
    pipes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Line:
    opcode: str
    jumps_to: str | None


def pipe_of(opcode: str) -> str:
    """Return the pipe that executes an opcode.

    >>> pipe_of("HGMMA"), pipe_of("LDGSTS"), pipe_of("LDS"), pipe_of("BAR")
    ('tensor', 'global', 'shared', 'other')
    """
    return next((pipe for stem, pipe in _STEMS if opcode.startswith(stem)), "other")


def pipe_counts(opcodes: Iterator[str]) -> dict[str, int]:
    """Return how many of the opcodes each pipe executes."""
    counts = Counter(map(pipe_of, opcodes))
    return {pipe: counts[pipe] for pipe in (*PIPES, "other")}


def _lines(text: str) -> tuple[list[_Line], dict[str, int]]:
    lines: list[_Line] = []
    labels: dict[str, int] = {}
    for raw in text.splitlines():
        if label := _LABEL.match(raw):
            labels[label["label"]] = len(lines)
        elif found := _INSTRUCTION.search(raw):
            target = _TARGET.search(found["rest"]) if found["opcode"].startswith("BRA") else None
            lines.append(_Line(found["opcode"], target["label"] if target else None))
    return lines, labels


def totals(text: str) -> dict[str, int]:
    """Return instructions by pipe in the whole kernel."""
    return pipe_counts(line.opcode for line in _lines(text)[0])


def loops(text: str) -> tuple[Loop, ...]:
    """Return the innermost loops that multiply tiles or take exponentials, in program order.

    A loop is what lies between a label and a jump back to it. Waiting loops hold no arithmetic and are left out.

    Args:
        text: output of `nvdisasm -c`.
    """
    lines, labels = _lines(text)
    spans = {
        (labels[line.jumps_to], i)
        for i, line in enumerate(lines)
        if line.jumps_to in labels and labels[line.jumps_to] < i
    }
    working = sorted(
        s
        for s in spans
        if any(pipe_of(line.opcode) in ("tensor", "special") for line in lines[s[0] : s[1] + 1])
    )
    inner = [s for s in working if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in working)]
    return tuple(
        Loop(end - start + 1, MappingProxyType(pipe_counts(line.opcode for line in lines[start : end + 1])))
        for start, end in inner
    )
