"""Read a disassembled kernel: its loops, and which pipe of the GPU each instruction of a loop keeps busy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import networkx as nx

_INSTRUCTION = re.compile(
    r"/\*[0-9a-f]+\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_]*)(?P<rest>[^;]*);"
)
_LABEL = re.compile(r"^(?P<label>\.L_\w+):")
_TARGET = re.compile(r"`\((?P<label>\.L_\w+)\)")
# Where a jump through a table may lead, as warps that are specialised find the code of their kind.
_TARGETS = re.compile(r"BRANCH_TARGETS (?P<labels>[.\w,]+)")
# Divisions and roots: of the special units, too, but an integer division is no step of an algorithm.
_DIVIDES = re.compile(r"\.(?:RCP|RSQ|SQRT)")

# Opcode stems by pipe; the longest stem that an opcode starts with decides. What is not listed is `other`.
PIPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tensor": (
            "HMMA", "HGMMA", "IMMA", "IGMMA", "QGMMA", "DMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA",
            "OMMA", "QMMA",
        ),
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
# What begins like a load from global memory and is none: constants, the end of a group of copies, sums over a warp.
_NEITHER = ("LDC", "LDGDEPBAR", "REDUX")
_STEMS = sorted(
    [(stem, pipe) for pipe, stems in PIPES.items() for stem in stems]
    + [(stem, "other") for stem in _NEITHER],
    key=lambda s: -len(s[0]),
)


@dataclass(frozen=True, slots=True)
class Loop:
    """One innermost loop that does the kernel's work.

    Attributes:
        instructions: length of its body, for one warp.
        pipes: instructions by pipe, in the order of `PIPES`, then `other`.
        unrolled: how often it goes through the body of the loop in the source.
        remainder: it does what an unrolled loop of the same source leaves over.
    """

    instructions: int
    pipes: Mapping[str, int]
    unrolled: int = 1
    remainder: bool = False

    @property
    def once(self) -> Loop:
        """What it takes to go through the body of the loop in the source once.

        >>> Loop(112, {"fma": 49}, unrolled=4).once
        Loop(instructions=28, pipes={'fma': 12}, unrolled=1, remainder=False)
        """
        return self if self.unrolled == 1 else together([self], share=self.unrolled)


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction, of SASS or of PTX by the opcode that it becomes.

    Attributes:
        jumps_to: labels of a branch.
        goes_on: whether the next instruction can follow: false after an unconditional branch or an exit.
        works: multiplies tiles or takes exponentials, logarithms and their like.
    """

    opcode: str
    jumps_to: tuple[str, ...]
    goes_on: bool
    works: bool


def pipe_of(opcode: str) -> str:
    """Return the pipe that executes an opcode.

    >>> pipe_of("HGMMA"), pipe_of("LDGSTS"), pipe_of("LDS"), pipe_of("LDC"), pipe_of("BAR")
    ('tensor', 'global', 'shared', 'other', 'other')
    """
    return next((pipe for stem, pipe in _STEMS if opcode.startswith(stem)), "other")


def pipe_counts(opcodes: Iterator[str]) -> dict[str, int]:
    """Return how many of the opcodes each pipe executes."""
    counts = Counter(map(pipe_of, opcodes))
    return {pipe: counts[pipe] for pipe in (*PIPES, "other")}


def parsed(text: str) -> tuple[list[Line], dict[str, int]]:
    """Return the instructions of a disassembled kernel, and at which of them its labels stand."""
    lines: list[Line] = []
    labels: dict[str, int] = {}
    for raw in text.splitlines():
        if label := _LABEL.match(raw):
            labels[label["label"]] = len(lines)
        elif found := _INSTRUCTION.search(raw):
            opcode, jumps = found["opcode"], _jumps(found["opcode"], found["rest"])
            # `@P0 BRA` and `BRA.U UP0,` are conditional; a bare BRA, BRX, EXIT or RET is not.
            conditional = bool(found["guard"]) or (opcode == "BRA" and bool(jumps) and "," in found["rest"])
            leaves = opcode in ("BRA", "BRX", "EXIT", "RET")
            works = pipe_of(opcode) in WORK and not (opcode == "MUFU" and _DIVIDES.match(found["rest"]))
            lines.append(Line(opcode, jumps, conditional or not leaves, works))
    return lines, labels


def _jumps(opcode: str, rest: str) -> tuple[str, ...]:
    """Return the labels that a branch may lead to."""
    if opcode == "BRA" and (one := _TARGET.search(rest)):
        return (one["label"],)
    table = _TARGETS.search(rest) if opcode == "BRX" else None
    return tuple(table["labels"].split(",")) if table else ()


def totals(text: str) -> dict[str, int]:
    """Return instructions by pipe in the whole kernel."""
    return pipe_counts(line.opcode for line in parsed(text)[0])


# Of tensor instructions on narrower operands than 16 bits; the others take 16 bits or TF32, which are counted by type.
_NARROW = {
    8: ("QGMMA", "QMMA", "UTCQMMA", "IGMMA", "IMMA", "UTCIMMA"),
    4: ("OMMA", "UTCOMMA"),
}


def product_rate(text: str) -> int:
    """Return how many times the rate of 16-bit operands a kernel multiplies at, by the slowest of its instructions.

    Operands of 8 bits run at twice the rate, of 4 bits at four times. What a generation has no instruction for it
    widens first, so that only the instructions tell.

    Source: CUDA C++ Programming Guide and datasheets, dense tensor rates of H100 (fp8), B200 (fp8, fp4).

    >>> product_rate("/*0000*/ UTCQMMA gdesc[UR4] ;"), product_rate("/*0000*/ HMMA.16816.F32 R4, R8, R12, R4 ;")
    (2, 1)
    """
    bits = {opcode: width for width, opcodes in _NARROW.items() for opcode in opcodes}
    found = [bits.get(line.opcode, 16) for line in parsed(text)[0] if pipe_of(line.opcode) == "tensor"]
    return 16 // max(found, default=16)


def loops(text: str) -> tuple[Loop, ...]:
    """Return the innermost loops that multiply tiles or take exponentials, in program order.

    Of a kernel without such loops, those that load and calculate or store, as sums and copies do. Loops are the natural
    loops of the flow graph: a jump back to an instruction that dominates it. A jump back from a waiting block that the
    assembler moved out of the way is none. Loops that only wait hold no arithmetic and are left out; a loop that
    contains another working loop is not innermost.

    Args:
        text: output of `nvdisasm -c`.
    """
    lines, labels = parsed(text)
    bodies = innermost(lines, labels)
    return tuple(
        Loop(len(body), MappingProxyType(pipe_counts(lines[i].opcode for i in body))) for body in bodies
    )


def innermost(lines: Sequence[Line], labels: Mapping[str, int]) -> list[set[int]]:
    """Return the instructions of the innermost working loops, see `loops`."""
    if not lines:
        return []
    bodies = _natural_loops(_flow(lines, labels))
    working = {head: body for head, body in bodies.items() if any(lines[i].works for i in body)}
    if not working:
        working = {h: body for h, body in bodies.items() if _sweeps({lines[i].opcode for i in body})}
    return [
        body for head, body in sorted(working.items()) if not any(h != head and h in body for h in working)
    ]


WORK = ("tensor", "special")


def together(loops: Sequence[Loop], *, share: int = 1) -> Loop:
    """Return several loops as one, or the given share of them.

    >>> together([Loop(4, {"fma": 2}), Loop(6, {"fma": 0})], share=2)
    Loop(instructions=5, pipes={'fma': 1}, unrolled=1, remainder=False)
    """
    pipes = {pipe: round(sum(loop.pipes[pipe] for loop in loops) / share) for pipe in loops[0].pipes}
    return Loop(round(sum(loop.instructions for loop in loops) / share), pipes)


def spread(loop: Loop, among: int, all_of: int) -> Loop:
    """Return what a warp does on average of a loop that some of all warps go through.

    >>> spread(Loop(12, {"fma": 6}), 4, 12)
    Loop(instructions=4, pipes={'fma': 2}, unrolled=1, remainder=False)
    """
    share = among / all_of
    pipes = {pipe: round(count * share) for pipe, count in loop.pipes.items()}
    return Loop(round(loop.instructions * share), pipes)


def _sweeps(opcodes: set[str]) -> bool:
    """Whether a loop loads and does something with it; one that waits for another block does not."""
    loads = any(pipe_of(each) == "global" and each.startswith(("LD", "UTMALDG")) for each in opcodes)
    return loads and any(each.startswith("ST") or pipe_of(each) == "fma" for each in opcodes)


def _flow(lines: Sequence[Line], labels: Mapping[str, int]) -> nx.DiGraph:
    """Return which instruction can follow which, from instruction 0 on."""
    graph = nx.DiGraph()
    graph.add_node(0)
    for i, line in enumerate(lines):
        if line.goes_on and i + 1 < len(lines):
            graph.add_edge(i, i + 1)
        places = (labels.get(label, len(lines)) for label in line.jumps_to)
        graph.add_edges_from((i, place) for place in places if place < len(lines))
    return graph.subgraph({0} | nx.descendants(graph, 0))


def _natural_loops(graph: nx.DiGraph) -> dict[int, set[int]]:
    """Return the body of every natural loop by its head."""
    dominator = nx.immediate_dominators(graph, 0)

    def dominates(head: int, node: int) -> bool:
        while node > 0 and node != head:
            node = dominator.get(node, 0)
        return node == head

    loops: dict[int, set[int]] = {}
    for tail, head in graph.edges:
        if head <= tail and dominates(head, tail):
            body = loops.setdefault(head, {head})
            body |= {tail}
            stack = [tail] if tail != head else []
            while stack:
                before = [n for n in graph.predecessors(stack.pop()) if n not in body]
                body.update(before)
                stack += before
    return loops
