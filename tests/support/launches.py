"""What a Triton kernel really does, counted while the interpreter runs it: products, loop steps, bytes, line by line.

Nothing here knows a kernel: the interpreter's own dot, load and store are listened to, and the `range` of kernel code.
So a count is what formulas of a kernel's work can be held against. It is the work of the source: lanes that a mask
turns off move nothing, but a dot is counted whole, with the padding of its tile, and once however many TF32 products
it is made of; a load of one address in many lanes counts in each, other than in the distinct bytes.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

import kernels
from kernels import offline, registry
from kernels.interpreter import interpreting
from kernels.registry import Case

FOLDER = f"{Path(kernels.__file__).parent}{os.sep}"
# What would do work that is not counted.
UNCOUNTED = ("create_atomic_rmw", "create_atomic_cas", "create_dot_scaled")


class Place(NamedTuple):
    """A line of a kernel's source: op is "dot", "load", "store" or, for the passes of a loop, "for"."""

    op: str
    function: str
    line: int


@dataclass(frozen=True, eq=False)
class Launched:
    """One launch of a jit function. Arrays have one entry per program, in the order of the grid.

    Attributes:
        programs: thread blocks.
        dots: calls of tl.dot.
        product_flops: 2 m n k of every dot.
        steps: passes of the loops over `range` that hold no other; unrolled loops (tl.static_range) are none.
        loaded_bytes: of the lanes whose mask is true.
        stored_bytes: likewise.
        distinct_loaded_bytes: read by the whole launch, each byte once.
        distinct_stored_bytes: written likewise.
        calls: how often each place was executed; of a loop, its passes.
    """

    name: str
    programs: int
    dots: np.ndarray
    product_flops: np.ndarray
    steps: np.ndarray
    loaded_bytes: np.ndarray
    stored_bytes: np.ndarray
    distinct_loaded_bytes: int
    distinct_stored_bytes: int
    calls: Mapping[Place, np.ndarray]

    def count(self, op: str, function: str | None = None) -> np.ndarray:
        """Return the calls of an op of each program, in all functions or in one."""
        found = [n for p, n in self.calls.items() if p.op == op and function in (None, p.function)]
        return sum(found, np.zeros(self.programs, np.int64))


class _Running:
    """The counts of a launch while it runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        # For each program: work by kind, and calls by place.
        self.work: list[Counter[str]] = []
        self.calls: list[Counter[Place]] = []
        # Addresses by kind of access and width of a word.
        self.touched: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
        self.inside: list[Place] = []
        self.outer: set[Place] = set()

    def begin(self) -> None:
        self.work.append(Counter())
        self.calls.append(Counter())
        self.inside.clear()

    def call(self, op: str) -> None:
        self.calls[-1][_place(op)] += 1

    def dot(self, a: Any, b: Any) -> None:
        self.call("dot")
        # A dot may be of many matrices: those of a, of m rows and k columns, by n columns of b.
        self.work[-1]["flops"] += 2 * a.data.size * b.data.shape[-1]

    def access(self, op: str, pointers: Any, mask: Any) -> None:
        self.call(op)
        lanes = np.broadcast_to(mask.data, pointers.data.shape).astype(bool)
        addresses = pointers.data[lanes]
        # A truth value takes a byte in memory.
        width = max(8, pointers.get_element_ty().primitive_bitwidth) // 8
        self.work[-1][op] += addresses.size * width
        self.touched[op, width].append(np.unique(addresses))

    def passes(self, place: Place, numbers: range) -> Iterator[int]:
        self.outer.update(self.inside)
        self.inside.append(place)
        for number in numbers:
            self.calls[-1][place] += 1
            yield number
        self.inside.pop()

    def distinct_bytes(self, op: str) -> int:
        found = [
            (np.unique(np.concatenate(addresses))[:, None] + np.arange(width, dtype=np.uint64)).ravel()
            for (kind, width), addresses in self.touched.items()
            if kind == op
        ]
        # Of words of different widths some may overlap.
        return np.unique(np.concatenate(found)).size if found else 0

    def counted(self) -> Launched:
        def each(number: Callable[[int], int]) -> np.ndarray:
            return np.array([number(i) for i in range(len(self.work))], np.int64)

        def calls(i: int, op: str) -> int:
            return sum(n for p, n in self.calls[i].items() if p.op == op and p not in self.outer)

        places = sorted(set().union(*self.calls))
        return Launched(
            name=self.name,
            programs=len(self.work),
            dots=each(lambda i: calls(i, "dot")),
            product_flops=each(lambda i: self.work[i]["flops"]),
            steps=each(lambda i: calls(i, "for")),
            loaded_bytes=each(lambda i: self.work[i]["load"]),
            stored_bytes=each(lambda i: self.work[i]["store"]),
            distinct_loaded_bytes=self.distinct_bytes("load"),
            distinct_stored_bytes=self.distinct_bytes("store"),
            calls={p: each(lambda i, p=p: self.calls[i][p]) for p in places},
        )


def _place(op: str) -> Place:
    """Return the line of kernel code that is being executed."""
    frame = sys._getframe(1)
    while not frame.f_code.co_filename.startswith(FOLDER):
        assert frame.f_back is not None, f"{op}: not called from {FOLDER}"
        frame = frame.f_back
    return Place(op, frame.f_code.co_name, frame.f_lineno)


@contextmanager
def counting() -> Iterator[list[Launched]]:
    """Interpret what is launched inside the block, and count it; the modules of the kernels are loaded already.

    Yields:
        A list that grows by one entry a launch.
    """
    made: list[Launched] = []
    running: list[_Running] = []
    plain_call, plain_index = GridExecutor.__call__, InterpreterBuilder.set_grid_idx

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        running.append(_Running(self.fn.__name__))
        try:
            plain_call(self, *args, **kwargs)
            made.append(running[-1].counted())
        finally:
            running.pop()

    def index(self: Any, *at: int) -> None:
        running[-1].begin()
        plain_index(self, *at)

    def numbers(*limits: Any) -> range | Iterator[int]:
        found = range(*limits)
        return running[-1].passes(_place("for"), found) if running else found

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError(f"none of {', '.join(UNCOUNTED)} is counted")

    with interpreting(), ExitStack() as stack:
        # Read inside the block: `interpreting` has a dot of its own, which does not always call the first one.
        plain_dot = InterpreterBuilder.create_dot
        plain_load, plain_store = (
            InterpreterBuilder.create_masked_load,
            InterpreterBuilder.create_masked_store,
        )

        def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
            running[-1].dot(a, b)
            return plain_dot(self, a, b, *rest)

        # Loads and stores without a mask go through these two as well, and those by a descriptor.
        def load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
            running[-1].access("load", pointers, mask)
            return plain_load(self, pointers, mask, *rest, **named)

        def store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
            running[-1].access("store", pointers, mask)
            return plain_store(self, pointers, value, mask, *rest)

        patches = {"set_grid_idx": index, "create_dot": dot, "create_masked_load": load}
        patches |= {"create_masked_store": store} | dict.fromkeys(UNCOUNTED, refuse)
        for name, patch in patches.items():
            stack.enter_context(mock.patch.object(InterpreterBuilder, name, patch))
        stack.enter_context(mock.patch.object(GridExecutor, "__call__", call))
        for name, module in list(sys.modules.items()):
            if name.startswith(kernels.__name__ + "."):
                # A global hides the built-in of that name from the functions of its module.
                stack.enter_context(mock.patch.object(module, "range", numbers, create=True))
        yield made


def launches_of(entry_name: str, case: Case) -> list[Launched]:
    """Return the launches of a kernel as a case calls it, in order."""
    entry = registry.find(entry_name)
    for place in (entry.inputs, entry.launcher):
        registry.load(place)
    with counting() as made:
        offline.call(entry, case)
    return made
