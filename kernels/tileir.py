"""Read Triton's own intermediate text of a kernel: what one step of its innermost loops multiplies and moves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

_TENSOR = r"tensor<(?P<{0}>[0-9x]+)x{1}>"
# Of a scaled product the scales stand behind each operand.
_SCALES = r"(?:, tensor<[^>]*>)?"
_DOT = re.compile(
    r"tt\.dot(?:_scaled)? .*: "
    + _TENSOR.format("a", r"(?P<word>\w+)")
    + _SCALES
    + r" \* "
    + _TENSOR.format("b", r"\w+")
)
_LOAD = re.compile(
    r"tt\.(?:load|descriptor_load|gather) .*tensor<(?P<shape>[0-9x]+)x(?:!tt\.ptr<)?(?P<word>\w+)>"
)
# Elements of four bits lie two in a byte.
_PACKED = re.compile(r" lhs = e2m1 ")
_BITS = re.compile(r"(\d+)")
_PASSES = {"tf32x3": 3.0, "bf16x3": 3.0, "bf16x6": 6.0}


@dataclass(frozen=True, slots=True)
class Work:
    """What one step does, for one thread block.

    Attributes:
        product_flops: operations of tile products, as the tensor cores execute them: in units of 16-bit operands, so
            that a TF32 product counts twice and three of them six times; of narrower ones see `sass.product_rate`.
        load_bytes: loaded from global memory.
        exponentials: values that pass through `exp2` or `exp`.
    """

    product_flops: float = 0.0
    load_bytes: float = 0.0
    exponentials: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.product_flops + other.product_flops,
            self.load_bytes + other.load_bytes,
            self.exponentials + other.exponentials,
        )


def _sides(text: str) -> list[int]:
    return [int(n) for n in text.split("x")]


def _bytes(word: str) -> float:
    bits = _BITS.search(word)
    return int(bits[1]) / 8 if bits else 8.0


def _line_work(line: str) -> Work:
    if dot := _DOT.search(line):
        (*_, m, k), (*_, n) = _sides(dot["a"]), _sides(dot["b"])
        precision = re.search(r"inputPrecision = (\w+)", line)
        passes = _PASSES.get(precision[1], 1.0) if precision and _bytes(dot["word"]) == 4 else 1.0
        if _PACKED.search(line):
            k *= 2
        return Work(product_flops=2.0 * m * n * k * passes * max(1.0, _bytes(dot["word"]) / 2))
    if load := _LOAD.search(line):
        return Work(load_bytes=math.prod(_sides(load["shape"])) * _bytes(load["word"]))
    if "math.exp" in line:
        shape = re.search(r"tensor<([0-9x]+)xf", line)
        return Work(exponentials=float(math.prod(_sides(shape[1]))) if shape else 1.0)
    return Work()


def steps(text: str) -> tuple[Work, ...]:
    r"""Return the work of one step of every innermost loop that does any, in program order; without such, the whole.

    Args:
        text: the module in Triton's dialect, `asm["ttir"]` of a compiled kernel.

    >>> steps('scf.for %i = %a to %b step %c : i32 {\n%d = tt.dot %x, %y, %z : tensor<16x32xbf16> * '
    ...       'tensor<32x8xbf16> -> tensor<16x8xf32>\n}')[0].product_flops
    8192.0
    """
    found: list[Work] = []
    outside = Work()
    # One entry an open loop: depth of its brace, its work, and whether a loop inside it does the work.
    stack: list[tuple[int, Work, bool]] = []
    depth = 0
    for line in text.splitlines():
        code = line.partition(" loc(")[0]
        if "scf.for" in code or "scf.while" in code:
            stack.append((depth, Work(), False))
        elif stack:
            at, work, inner = stack[-1]
            stack[-1] = (at, work + _line_work(code), inner)
        else:
            outside += _line_work(code)
        depth += code.count("{") - code.count("}")
        while stack and depth <= stack[-1][0] and "}" in code:
            _, work, inner = stack.pop()
            if not inner and work != Work():
                found.append(work)
            if stack and (inner or work != Work()):
                stack[-1] = (stack[-1][0], stack[-1][1], True)
    return tuple(found) or (outside,)


def heaviest(works: Iterable[Work]) -> Work:
    """Return the step with the most products; where none multiplies or takes exponentials, all of them together.

    >>> heaviest([Work(load_bytes=8.0), Work(load_bytes=24.0)]).load_bytes
    32.0
    """
    every = tuple(works)
    if any(w.product_flops or w.exponentials for w in every):
        return max(every, key=lambda w: (w.product_flops, w.load_bytes))
    return sum(every, Work())
