"""Run compiled-kernel source in Triton's interpreter and back, in one process.

Triton decides at import time, by an environment variable, whether `@triton.jit` compiles or interprets. A program that
checks kernels on a CPU and compiles the same kernels ahead of time needs both. So kernels are always decorated for the
compiler, and `interpreting()` swaps every compiled function of Triton's library and of this package for an interpreted
twin of the same Python source, for as long as its block runs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, ParamSpec, TypeVar
from unittest import mock

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

PACKAGE = __name__.partition(".")[0]
# On Triton's builder while it computes as the hardware does; what watches its words may replace these.
_MARK = "speaks_hardware"


@functools.cache
def _twin(source: Callable[..., Any]) -> Any:
    from triton.runtime.interpreter import InterpretedFunction

    class Twin(InterpretedFunction):  # type: ignore[misc]  # Triton has no types
        """As Triton's, but a call from another kernel does not patch `triton.language` again, and for good."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.rewrite()(*args, **kwargs)

    return Twin(source)


def _patched_language(stack: ExitStack) -> None:
    """Let `triton.language` and its core interpret, as Triton does for a launch, for as long as the stack is open."""
    import triton.language as tl
    from triton.runtime import interpreter

    # Triton patches what the globals of a kernel name; library functions name `core`.
    scope = interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    stack.callback(scope.restore)


def _swappable() -> Iterator[tuple[ModuleType, str, Any]]:
    """Yield every module attribute that holds a compiled function an interpreted kernel may reach."""
    from triton.runtime.jit import JITFunction

    prefixes = ("triton.language", PACKAGE)
    for name, module in list(sys.modules.items()):
        if not any(name == p or name.startswith(p + ".") for p in prefixes):
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, JITFunction):
                yield module, attribute, value


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 bit patterns (uint16) as float32, exactly.

    >>> widen_bfloat16(np.array([0x3F80, 0xC000], np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return float32 as bfloat16 bit patterns (uint16), rounded to nearest even as the hardware does.

    >>> hex(int(round_to_bfloat16(np.array([1.01], np.float32))[0]))
    '0x3f81'
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # A carry must not turn a NaN into an infinity.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def round_to_tf32(values: np.ndarray) -> np.ndarray:
    """Return float32 rounded to the 10 bits of mantissa of TF32, ties away from zero, as `cvt.rna.tf32.f32` does.

    >>> float(round_to_tf32(np.array([1.0 + 2.0**-11], np.float32))[0]) - 1.0 == 2.0**-10
    True
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def tf32_product(a: np.ndarray, b: np.ndarray, *, three: bool) -> np.ndarray:
    """Return the float32 product of two matrices as tensor cores form it from TF32.

    Args:
        three: of two TF32 words for each operand, the three products that matter, instead of one product.
    """
    large = [round_to_tf32(x) for x in (a, b)]
    if not three:
        return np.asarray(large[0] @ large[1])
    small = [round_to_tf32(x - y) for x, y in zip((a, b), large, strict=True)]
    return np.asarray(small[0] @ large[1] + large[0] @ small[1] + large[0] @ large[1])


def _hardware_words(stack: ExitStack) -> None:
    """Give the interpreter the bfloat16 and TF32 arithmetic of the hardware for as long as the stack is open.

    Triton's interpreter keeps bfloat16 as bit patterns, multiplies those as integers in `dot`, truncates where the
    hardware rounds, and multiplies float32 exactly whatever precision a kernel asks for. What a
    comparison of two scalars gives, it spreads over a tile in the type of what was compared.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    cls, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    plain_cast, plain_dot = cls.cast_impl, cls.create_dot
    plain_splat = cls.create_splat

    def cast(self: Any, src: Any, dst_type: Any) -> Any:
        pair = (src.dtype.scalar, dst_type.scalar)
        if pair == (tl.bfloat16, tl.float32):
            return handle(widen_bfloat16(src.data), tl.float32)
        if pair == (tl.float32, tl.bfloat16):
            return handle(round_to_bfloat16(src.data), tl.bfloat16)
        return plain_cast(self, src, dst_type)

    def dot(self: Any, a: Any, b: Any, added: Any, precision: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (handle(widen_bfloat16(x.data), tl.float32) for x in (a, b))
        elif a.dtype.scalar == tl.float32 and precision.name in ("TF32", "TF32x3"):
            product = tf32_product(a.data, b.data, three=precision.name == "TF32x3")
            return handle(product + added.data, added.dtype.scalar)
        return plain_dot(self, a, b, added, precision, *rest)

    def splat(self: Any, tile_type: Any, one: Any) -> Any:
        return plain_splat(self, tile_type, handle(one.data, tl.int1) if one.data.dtype == bool else one)

    stack.enter_context(mock.patch.object(cls, "create_splat", splat))
    stack.enter_context(mock.patch.object(cls, "cast_impl", cast))
    stack.enter_context(mock.patch.object(cls, "create_dot", dot))
    stack.enter_context(mock.patch.object(cls, _MARK, True, create=True))


def _speaks_hardware() -> bool:
    """Tell whether a block around this one has given the interpreter the arithmetic of the hardware already."""
    from triton.runtime.interpreter import InterpreterBuilder

    return getattr(InterpreterBuilder, _MARK, False)


@contextmanager
def interpreting() -> Iterator[None]:
    """Make every kernel launched inside the block run in Triton's interpreter, on CPU tensors.

    Blocks may nest. Where TRITON_INTERPRET=1 was set before Triton was loaded, kernels are interpreted anyway, and only
    what the interpreter lacks is added. Not for threads: the swap is seen by all of them.
    """
    import triton

    if _speaks_hardware():
        yield
        return
    with ExitStack() as stack:
        if not triton.knobs.runtime.interpret:
            stack.enter_context(triton.knobs.runtime.scope())
            triton.knobs.runtime.interpret = True
            for module, attribute, value in _swappable():
                stack.enter_context(mock.patch.object(module, attribute, _twin(value.fn)))
            _patched_language(stack)
        _hardware_words(stack)
        # Infinities and NaNs are ordinary values of a masked tile; NumPy would warn of each.
        stack.enter_context(np.errstate(all="ignore"))
        yield


def interpreted_on_cpu(launcher: Callable[P, R]) -> Callable[P, R]:
    """Return the launcher, run in the interpreter when its first tensor lies on the CPU and compiled otherwise."""

    @functools.wraps(launcher)
    def launch(*args: P.args, **kwargs: P.kwargs) -> R:
        import torch

        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        first = next(tensors, None)
        if first is not None and first.is_cuda:
            # Triton launches on the current device, wherever the tensors lie.
            with torch.cuda.device(first.device):
                return launcher(*args, **kwargs)
        with interpreting():
            return launcher(*args, **kwargs)

    return launch
