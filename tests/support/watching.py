"""What a memory and race checker would see of interpreted kernels: every address that every program reads and writes.

The interpreter runs programs one after the other and forgives reads beside a tensor; a GPU does neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder


@dataclass
class Watch:
    """Faults of the launches inside a block, in words, and how many launches there were.

    Attributes:
        backwards: programs run in reverse order.
    """

    backwards: bool
    faults: list[str] = field(default_factory=list)
    launches: int = 0
    name: str = ""
    program: int = 0
    spans: tuple[np.ndarray, np.ndarray] = (np.zeros(0), np.zeros(0))
    read: list[tuple[int, np.ndarray]] = field(default_factory=list)
    written: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def begin(self, name: str, arguments: list[Any]) -> None:
        """Note the memory of the tensors of a launch."""
        tensors = [t for t in arguments if isinstance(t, torch.Tensor) and t.numel()]
        ends = []
        for t in tensors:
            last = sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True))
            ends.append((t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()))
        starts, stops = (np.array(side) for side in zip(*sorted(ends), strict=True))
        # One may lie inside another: what counts is the furthest end of those that begin before an address.
        self.spans = starts, np.maximum.accumulate(stops)
        self.name, self.read, self.written = name, [], []
        self.launches += 1

    def touch(self, where: list[tuple[int, np.ndarray]], what: str, pointers: Any, mask: Any) -> None:
        """Note the addresses that a program touches, and those of them that belong to no tensor."""
        addresses = pointers.data[np.broadcast_to(mask.data.astype(bool), pointers.data.shape)].astype(
            np.int64
        )
        if not addresses.size:
            return
        size = pointers.get_element_ty().primitive_bitwidth // 8
        place = np.searchsorted(self.spans[0], addresses, side="right") - 1
        beside = (place < 0) | (addresses + size > self.spans[1][np.maximum(place, 0)])
        if beside.any():
            self.faults.append(f"{self.name} {what} beside every tensor")
        where.append((self.program, addresses))

    def end(self) -> None:
        """Note what programs do to each other's memory."""
        if not self.written:
            return
        address, program = _by_address(self.written)
        if ((address[1:] == address[:-1]) & (program[1:] != program[:-1])).any():
            self.faults.append(f"{self.name}: two programs write one place")
        if self.read:
            read, reader = _by_address(self.read)
            place = np.minimum(np.searchsorted(address, read), len(address) - 1)
            if ((address[place] == read) & (program[place] != reader)).any():
                self.faults.append(f"{self.name}: a program reads what another writes")


def _by_address(touched: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    address = np.concatenate([a for _, a in touched])
    program = np.concatenate([np.full(len(a), p) for p, a in touched])
    order = np.argsort(address, kind="stable")
    return address[order], program[order]


@contextmanager
def watching(*, backwards: bool = False) -> Iterator[Watch]:
    """Watch the memory of every interpreted launch inside the block."""
    watch = Watch(backwards)
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    place, run = InterpreterBuilder.set_grid_idx, GridExecutor.__call__

    def watched_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        watch.touch(watch.read, "reads", pointers, mask)
        return load(self, pointers, mask, *rest)

    def watched_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        watch.touch(watch.written, "writes", pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def set_place(self: Any, x: int, y: int, z: int) -> None:
        watch.program = self.grid_dim[0] - 1 - x if watch.backwards else x
        place(self, watch.program, y, z)

    def launch(self: Any, *arguments: Any, **named: Any) -> None:
        watch.begin(self.fn.__name__, [*arguments, *named.values()])
        run(self, *arguments, **named)
        watch.end()

    with ExitStack() as stack:
        for owner, name, new in (
            (InterpreterBuilder, "create_masked_load", watched_load),
            (InterpreterBuilder, "create_masked_store", watched_store),
            (InterpreterBuilder, "set_grid_idx", set_place),
            (GridExecutor, "__call__", launch),
        ):
            stack.enter_context(mock.patch.object(owner, name, new))
        yield watch
