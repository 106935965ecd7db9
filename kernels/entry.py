"""What the registry says of a kernel, and of one check of it. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Case:
    """One check: sizes, word type and options.

    Attributes:
        dtype: "fp32", "fp16" or "bf16".
        sizes: arguments of the input maker.
        options: keyword arguments that launcher and reference share.
        extras: further input tensors to make, by the names that the input maker knows.
        slow_on: targets on which no tile holds it in registers: it is right there, but slow.
    """

    dtype: str
    sizes: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    slow_on: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The case in one line."""
        parts = [*self.sizes.items(), *self.options.items()]
        return " ".join([self.dtype, *(f"{k}={v}" for k, v in parts), *self.extras])


@dataclass(frozen=True, slots=True)
class Choices:
    """The tiles that are tried when a kernel is tuned: every combination that fits an SM.

    Attributes:
        units: the sides of a tile whose product is the work of one step, in the kernel's own unit.
    """

    block_m: tuple[int, ...] = (64, 128)
    block_n: tuple[int, ...] = (32, 64, 128)
    warps: tuple[int, ...] = (4, 8)
    stages: tuple[int, ...] = (2, 3)
    units: tuple[str, ...] = ("block_m", "block_n")


@dataclass(frozen=True, slots=True)
class KernelEntry:
    """One kernel. Parts are "module:name" inside this package, loaded when used.

    Attributes:
        cascade: name of the zoo cascade that it computes.
        launcher: takes tensors, options and `empty`; returns the outputs in order.
        reference: the same mathematics on materialised tensors.
        inputs: makes the tensors of a case.
        outputs: names of what launcher and reference return.
        learnt: input tensors whose gradients follow the outputs, in this order, where they are given.
        build: makes one specialisation of a given tile; empty where another entry's serve.
        shares: "kernel/variant" whose build and tile this one takes.
        variants: the specialisations that are shipped, and the launcher's options that run each.
        modified: more of them, which take the tiles of windows and are not tuned: predictions know their loops.
        head_dims: for which they are shipped; 0 where there are no heads.
        choices: the tiles among which the kernel is tuned.
    """

    name: str
    cascade: str
    summary: str
    source: str
    launcher: str
    reference: str
    inputs: str
    outputs: tuple[str, ...]
    learnt: tuple[str, ...] = ()
    build: str = ""
    shares: str = ""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    modified: tuple[str, ...] = ()
    head_dims: tuple[int, ...] = (64, 128, 256)
    choices: Choices = Choices()

    @property
    def built(self) -> tuple[str, ...]:
        """Every specialisation of which the compiled resources are stored."""
        return *self.variants, *self.modified

    @property
    def cases(self) -> str:
        """The checks of this kernel."""
        return f"cases:{self.name}"
