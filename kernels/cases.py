"""The checks of every kernel: odd lengths, options, head sizes, word types. Small, as the interpreter runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .registry import Case


def _sizes(heads: int, seq_q: int, seq_kv: int, head_dim: int, **more: int) -> dict[str, Any]:
    return {"heads": heads, "seq_q": seq_q, "seq_kv": seq_kv, "head_dim": head_dim} | more


def flash_attention() -> Iterator[Case]:
    """Yield the checks of the flash kernel."""
    odd = _sizes(2, 37, 53, 64)
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, odd)
        yield Case(dtype, odd, {"causal": True})
        yield Case(dtype, odd, {"causal": True, "window": 9})
    for head_dim in (32, 40, 128, 256):
        yield Case("bf16", _sizes(1, 19, 35, head_dim), {"causal": True})
    yield Case("fp32", odd, {"window": 8})
    yield Case("fp32", odd, {"window": 1})
    yield Case("fp32", _sizes(1, 70, 70, 32), {"window": 21})
    # More queries than keys: the first queries of a causal head see nothing.
    yield Case("fp32", _sizes(1, 53, 20, 32), {"causal": True})
    yield Case("fp32", _sizes(1, 53, 20, 32), {"causal": True, "window": 3})
    yield Case("fp32", _sizes(4, 33, 33, 32, kv_heads=2, batch=2), {"causal": True})
    yield Case("fp32", _sizes(6, 1, 45, 32, kv_heads=1), {"causal": True})
    yield Case("fp32", odd, {"soft_cap": 2.0})
    yield Case("fp32", odd, {"causal": True}, extras=("slopes",))
    yield Case("fp32", odd, {"window": 11}, extras=("bias",))
    yield Case("fp32", _sizes(2, 53, 20, 32), {"causal": True}, extras=("sink",))
    yield Case(
        "bf16", odd, {"causal": True, "window": 17, "soft_cap": 3.0}, extras=("slopes", "bias", "sink")
    )
    yield Case("fp32", odd, {"scale": 0.03})
