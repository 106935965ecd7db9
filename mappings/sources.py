"""Kernels as text, on their way from who writes them to who compiles them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A kernel as text, with what its compiler has to know.

    Attributes:
        name: of the function; `text`: the module that it stands in.
        pointers: type of each pointer argument, as Triton's compiler names it (`*bf16`).
        constants: values of its compile-time arguments.
        loops: how many loops the text has one after the other, two being one without and one with a mask; -1 where they
            are others, so that what was compiled says nothing of a step.
    """

    name: str
    text: str
    pointers: Mapping[str, str]
    constants: Mapping[str, int]
    warps: int
    loops: int
    stages: int = 3
