"""The checks of every kernel: odd lengths, options, head sizes, word types. Small, as the interpreter runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .registry import Case


def _sizes(heads: int, seq_q: int, seq_kv: int, head_dim: int, **more: int) -> dict[str, Any]:
    return {"heads": heads, "seq_q": seq_q, "seq_kv": seq_kv, "head_dim": head_dim} | more


# Half words in the head sizes that are common and largest; single words are checked in small ones, as few tiles of
# large ones fit a GPU.
_WIDE = (("fp16", 128), ("bf16", 256))
_LEARNT = ("slopes", "bias", "sink", "factor")


def flash_attention() -> Iterator[Case]:
    """Yield the checks of the flash kernel."""
    odd = _sizes(2, 37, 53, 64)
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, odd)
        yield Case(dtype, odd, {"causal": True})
        yield Case(dtype, odd, {"causal": True, "window": 9})
    for head_dim in (32, 40, 128, 256):
        yield Case("bf16", _sizes(1, 19, 35, head_dim), {"causal": True})
    for dtype, head_dim in _WIDE:
        for mask in ({}, {"window": 6}, {"causal": True, "window": 7}):
            yield Case(dtype, _sizes(2, 19, 27, head_dim, kv_heads=1), mask)
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
    yield Case("fp32", odd, {"causal": True}, extras=("factor",))
    yield Case("bf16", odd, {"window": 19}, extras=("bias", "factor"))
    yield Case("bf16", _sizes(2, 19, 27, 64, kv_heads=1), {"causal": True, "soft_cap": 3.0})
    yield Case("bf16", _sizes(2, 32, 32, 128), {"causal": True, "window": 7}, extras=("factor",))
    # Of large heads those that need most registers: ragged and grouped, and one head a group with nothing to mask.
    for dtype, head_dim in (("bf16", 256), ("fp32", 128)):
        grouped = _sizes(2, 19, 27, head_dim, kv_heads=1)
        yield Case(dtype, grouped, {"causal": True}, extras=("slopes",))
        yield Case(dtype, grouped, {"window": 19, "soft_cap": 3.0}, extras=("slopes",))
        yield Case(dtype, _sizes(2, 32, 32, head_dim), extras=("bias", "factor"))
        yield Case(dtype, grouped, {"window": 19, "soft_cap": 3.0}, extras=_LEARNT)


def unfused_attention() -> Iterator[Case]:
    """Yield the checks of the unfused baselines."""
    for passes in (3, 2):
        for dtype in ("fp32", "bf16"):
            yield Case(dtype, _sizes(2, 37, 53, 32), {"passes": passes})
        yield Case("fp32", _sizes(2, 53, 20, 40, kv_heads=1), {"passes": passes, "causal": True})
        for dtype, head_dim in _WIDE:
            yield Case(dtype, _sizes(2, 19, 27, head_dim, kv_heads=1), {"passes": passes, "causal": True})


def linear_attention() -> Iterator[Case]:
    """Yield the checks of chunked linear attention."""
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, _sizes(2, 53, 53, 32))
    yield Case("fp32", _sizes(3, 40, 40, 40))
    yield Case("fp32", _sizes(2, 53, 53, 32, positive=True), {"normalise": True})
    yield Case("bf16", _sizes(1, 33, 33, 128, batch=2))
    for dtype, head_dim in _WIDE:
        yield Case(dtype, _sizes(2, 37, 37, head_dim, positive=True), {"normalise": True})


def linear_attention_gradients() -> Iterator[Case]:
    """Yield the checks of the gradients of chunked linear attention."""
    yield Case("fp32", _sizes(2, 53, 53, 32), extras=("grad",))
    yield Case("fp32", _sizes(1, 19, 19, 40, batch=2), extras=("grad",))
    for dtype, head_dim in (("fp16", 64), ("bf16", 128)):
        yield Case(dtype, _sizes(2, 37, 37, head_dim), extras=("grad",))
    for dtype, head_dim, seq in (("fp32", 40, 37), ("fp16", 64, 37), ("bf16", 128, 48), ("bf16", 256, 37)):
        yield Case(dtype, _sizes(2, seq, seq, head_dim, positive=True), {"normalise": True}, ("grad",))


def _grid(*layout: int, heads: int = 1, head_dim: int = 16, batch: int = 1) -> dict[str, Any]:
    return {"layout": layout, "heads": heads, "head_dim": head_dim, "batch": batch}


def neighborhood_attention() -> Iterator[Case]:
    """Yield the checks of neighborhood attention."""
    on = _grid
    yield Case("fp32", on(53, heads=2, batch=2), {"window": (9,)})
    yield Case("fp32", on(53), {"window": (8,), "stride": (4,)})
    yield Case("fp32", on(50), {"window": (9,), "stride": (3,), "causal": (True,)})
    yield Case("fp32", on(53), {"window": (5,), "dilation": (4,), "stride": (2,)})
    yield Case("bf16", on(9, 13, head_dim=32), {"window": (5, 6)})
    yield Case("fp32", on(9, 13), {"window": (4, 7), "stride": (2, 3), "causal": (False, True)})
    yield Case("fp32", on(10, 13), {"window": (3, 4), "dilation": (2, 3), "q_tile": (2, 8), "k_tile": (4, 4)})
    # Window, stride and tiles fit: no visited tile needs a mask.
    yield Case("fp32", on(16, 16), {"window": (8, 8), "stride": (8, 8), "q_tile": (4, 4), "k_tile": (4, 4)})
    yield Case("fp32", on(5, 6, 7), {"window": (3, 3, 3), "q_tile": (2, 2, 4), "k_tile": (2, 4, 2)})
    yield Case(
        "fp16", on(4, 6, 7), {"window": (3, 5, 4), "stride": (1, 2, 4), "causal": (True, False, False)}
    )
    # Everything at once: every axis strided and dilated, two of them causal, classes of unequal length.
    yield Case(
        "fp32", on(6, 7, 8, heads=2, batch=2),
        {"window": (2, 2, 3), "stride": (2, 1, 3), "dilation": (2, 3, 2), "causal": (True, False, True)},
    )  # fmt: skip
    for dtype, head_dim in _WIDE:
        yield Case(
            dtype, on(9, 13, head_dim=head_dim),
            {"window": (4, 5), "stride": (2, 3), "dilation": (2, 1), "causal": (True, False)},
        )  # fmt: skip


def neighborhood_attention_gradients() -> Iterator[Case]:
    """Yield the checks of the gradients of neighborhood attention."""
    mixed = {"window": (4, 5), "stride": (2, 3), "dilation": (2, 1), "causal": (True, False)}
    for sizes, options in (
        (_grid(53, heads=2, batch=2), {"window": (9,)}),
        (_grid(50), {"window": (9,), "stride": (3,), "causal": (True,)}),
        (_grid(53), {"window": (5,), "dilation": (4,), "stride": (2,)}),
        (
            _grid(10, 13, head_dim=40),
            {"window": (3, 4), "dilation": (2, 3), "q_tile": (2, 8), "k_tile": (4, 4)},
        ),
        # Window, stride and tiles fit: no visited tile needs a mask, though queries are padded.
        (_grid(16, 12), {"window": (8, 12), "stride": (8, 12), "q_tile": (8, 8), "k_tile": (4, 4)}),
        # Everything at once: every axis strided and dilated, two of them causal, classes of unequal length.
        (
            _grid(6, 7, 8, heads=2),
            {"window": (2, 2, 3), "stride": (2, 1, 3), "dilation": (2, 3, 2), "causal": (True, False, True)},
        ),
    ):
        yield Case("fp32", sizes, options, ("grad",))
    for dtype, head_dim in (("fp16", 64), ("bf16", 64), ("bf16", 128), ("fp16", 192), ("bf16", 256)):
        yield Case(dtype, _grid(9, 13, head_dim=head_dim), mixed, ("grad",))
    yield Case("bf16", _grid(4, 6, 7, head_dim=32), {"window": (3, 5, 4), "stride": (1, 2, 4)}, ("grad",))


def decode_attention() -> Iterator[Case]:
    """Yield the checks of split-KV decode."""
    yield Case("fp32", _sizes(6, 1, 77, 32, kv_heads=2), {"splits": 3})
    # More splits than key tiles: some of them are empty.
    yield Case("fp32", _sizes(2, 1, 20, 32), {"splits": 4})
    yield Case("bf16", _sizes(8, 3, 100, 64, kv_heads=1, batch=2), {"splits": 2})
    yield Case("fp16", _sizes(2, 1, 64, 40), {"splits": 1})
    for dtype, head_dim in _WIDE:
        yield Case(dtype, _sizes(4, 1, 77, head_dim, kv_heads=2), {"splits": 3})


def merge_attention() -> Iterator[Case]:
    """Yield the checks of the merge of partial attentions."""
    yield Case("fp32", {"parts": 3, "rows": 21, "head_dim": 32})
    yield Case("bf16", {"parts": 2, "rows": 16, "head_dim": 40})
    yield Case("fp16", {"parts": 4, "rows": 21, "head_dim": 256})


def flash_attention_gradients() -> Iterator[Case]:
    """Yield the checks of the gradients of flash attention."""
    odd = _sizes(2, 37, 53, 32)
    yield Case("fp32", odd, extras=("grad",))
    yield Case("fp32", odd, {"causal": True}, extras=("grad",))
    yield Case("fp32", odd, {"causal": True, "window": 9}, extras=("grad",))
    yield Case("fp32", odd, {"window": 8}, extras=("grad",))
    # More queries than keys: the first queries see nothing and their gradients are 0.
    yield Case("fp32", _sizes(4, 40, 21, 40, kv_heads=2), {"causal": True}, extras=("grad",))
    yield Case("bf16", _sizes(2, 33, 33, 64, kv_heads=1), {"causal": True}, extras=("grad",))
    for dtype, head_dim in _WIDE:
        for mask in ({}, {"window": 6}, {"causal": True, "window": 7}):
            yield Case(dtype, _sizes(2, 19, 27, head_dim, kv_heads=1), mask, extras=("grad",))
    # Each modification of the scores alone, under different masks, then with what it meets in the same line of code.
    yield Case("fp32", odd, {"scale": 0.3, "causal": True}, extras=("grad",))
    yield Case("fp32", odd, {"soft_cap": 2.0}, extras=("grad",))
    yield Case("fp32", odd, {"causal": True}, extras=("grad", "slopes"))
    yield Case("fp32", odd, {"window": 11}, extras=("grad", "bias"))
    yield Case("fp32", _sizes(2, 53, 20, 32), {"causal": True}, extras=("grad", "sink"))
    yield Case("fp32", odd, {"causal": True}, extras=("grad", "factor"))
    yield Case(
        "fp32", _sizes(4, 40, 21, 40, kv_heads=2, batch=2), {"soft_cap": 1.5}, extras=("grad", *_LEARNT)
    )
    everything = {"causal": True, "window": 17, "soft_cap": 3.0}
    yield Case("bf16", _sizes(2, 37, 53, 64), everything, extras=("grad", *_LEARNT))
    yield Case("fp16", _sizes(2, 19, 27, 128, kv_heads=1), {"causal": True}, extras=("grad", "slopes"))
    for dtype, head_dim in _WIDE:
        sizes = _sizes(2, 19, 27, head_dim, kv_heads=1)
        yield Case(dtype, sizes, {"window": 19}, extras=("grad", "bias", "factor"))
        yield Case(dtype, sizes, everything, extras=("grad", *_LEARNT))
    # Of large heads those that need most registers: what spilled on one GPU generation or another.
    # Of the float32 ones, which take the smallest tile there is, some still spill 8 to 24 bytes a thread.
    few = {"window": ("sm_90",), "bias": ("sm_86", "sm_89", "sm_90", "sm_100", "sm_120"), "all": ("sm_120",)}
    for dtype, head_dim, slow in (("bf16", 256, {}), ("fp32", 128, few)):
        sizes, whole = _sizes(2, 19, 27, head_dim, kv_heads=1), _sizes(2, 32, 32, head_dim)
        for what, shape, options, extras in (
            ("window", sizes, {"window": 19, "soft_cap": 3.0}, ()),
            ("bias", sizes, {"causal": True}, ("bias",)),
            ("slopes", sizes, {"causal": True}, ("slopes",)),
            ("all", whole, {"soft_cap": 3.0}, _LEARNT),
        ):
            yield Case(dtype, shape, options, ("grad", *extras), slow_on=slow.get(what, ()))


def prefix_attention() -> Iterator[Case]:
    """Yield the checks of prefix attention."""
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, _sizes(2, 1, 53, 32, batch=2))
    yield Case("fp32", _sizes(1, 1, 17, 40))
    for dtype, head_dim in _WIDE:
        yield Case(dtype, _sizes(2, 1, 37, head_dim))


def channel_attention() -> Iterator[Case]:
    """Yield the checks of channel attention; head_dim is the number of channels."""
    for dtype in ("fp32", "bf16"):
        yield Case(dtype, _sizes(2, 53, 53, 24, batch=2))
    yield Case("fp32", _sizes(1, 100, 100, 16), {"scale": 0.5})
    for dtype, channels in (("fp16", 64), ("bf16", 128)):
        yield Case(dtype, _sizes(2, 37, 37, channels))


def reversed_attention() -> Iterator[Case]:
    """Yield the checks of reversed attention."""
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, _sizes(2, 37, 53, 32))
    yield Case("fp32", _sizes(1, 53, 20, 40, batch=2))
    for dtype, head_dim in _WIDE:
        yield Case(dtype, _sizes(2, 19, 37, head_dim))


def selected_attention() -> Iterator[Case]:
    """Yield the checks of attention to gathered blocks."""
    yield Case("fp32", _sizes(4, 9, 70, 32, kv_heads=2, picks=3))
    yield Case("fp32", _sizes(1, 20, 33, 40, batch=2), {"causal": False})
    yield Case("bf16", _sizes(6, 7, 64, 64, kv_heads=2))
    for dtype, head_dim in _WIDE:
        yield Case(dtype, _sizes(4, 9, 70, head_dim, kv_heads=2, picks=3))


def landmark_attention() -> Iterator[Case]:
    """Yield the checks of landmark attention; the last block is incomplete in most."""
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, _sizes(2, 53, 53, 32), {"period": 17})
    yield Case("fp32", _sizes(1, 41, 41, 40, batch=2), {"period": 5})
    yield Case("fp32", _sizes(4, 33, 33, 64, kv_heads=2), {"period": 2})
    # One block holds everything: plain causal attention, but for the landmark that nobody reaches.
    yield Case("fp32", _sizes(1, 20, 20, 32), {"period": 40})
    for dtype, head_dim in (*_WIDE, ("bf16", 128)):
        yield Case(dtype, _sizes(2, 35, 35, head_dim, kv_heads=1), {"period": 16})


def softplus_attention() -> Iterator[Case]:
    """Yield the checks of softplus attention."""
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, _sizes(2, 53, 53, 32))
    yield Case("fp32", _sizes(4, 20, 37, 40, kv_heads=2, batch=2))
    for dtype, head_dim in (*_WIDE, ("bf16", 128)):
        yield Case(dtype, _sizes(2, 35, 35, head_dim, kv_heads=1))


def reweighted_attention() -> Iterator[Case]:
    """Yield the checks of re-weighted softplus attention."""
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, _sizes(2, 53, 53, 32))
    yield Case("fp32", _sizes(4, 20, 37, 40, kv_heads=2, batch=2))
    for power in (1, 2, 7):
        yield Case("fp32", _sizes(1, 33, 33, 32), {"power": power})
    for dtype, head_dim in (*_WIDE, ("bf16", 128)):
        yield Case(dtype, _sizes(2, 35, 35, head_dim, kv_heads=1))


def neural_memory() -> Iterator[Case]:
    """Yield the checks of the chunked memory."""
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, _sizes(2, 53, 53, 32), {"chunk": 16})
    # Single words are two TF32 words in registers: of the tiles that were tried, from 16 columns and 4 to 16 warps,
    # none holds such long chunks of them with the instructions of Hopper and Blackwell.
    long_chunks = ("sm_90", "sm_100")
    yield Case("fp32", _sizes(1, 70, 70, 40, batch=2), {"chunk": 32}, slow_on=long_chunks)
    yield Case("fp32", _sizes(1, 20, 20, 64), {"chunk": 64}, slow_on=(*long_chunks, "sm_120"))
    yield Case("bf16", _sizes(1, 35, 35, 128), {"chunk": 16})
    for dtype, head_dim in _WIDE:
        yield Case(dtype, _sizes(1, 21, 21, head_dim), {"chunk": 16})


def _image(channels: int, height: int, width: int, **more: int) -> dict[str, Any]:
    return {"channels": channels, "height": height, "width": width} | more


def efficient_channel_gate() -> Iterator[Case]:
    """Yield the checks of the gate with a convolution along the channels."""
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, _image(37, 7, 9, batch=2), extras=("taps",))
    yield Case("fp32", _image(5, 3, 3, taps=9), extras=("taps",))
    yield Case("fp32", _image(40, 5, 5, taps=4), extras=("taps",))


def squeeze_excite_gate() -> Iterator[Case]:
    """Yield the checks of the gate with two small layers."""
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, _image(37, 7, 9, batch=2, reduced=5), extras=("layers",))
    yield Case("fp32", _image(64, 3, 3, reduced=20), extras=("layers",))


def efficient_local_gate() -> Iterator[Case]:
    """Yield the checks of the gate of rows and columns."""
    for dtype in ("fp32", "fp16", "bf16"):
        yield Case(dtype, _image(36, 7, 19, batch=2), {"groups": 4}, extras=("strips",))
    yield Case("fp32", _image(40, 17, 5, taps=7), {"groups": 2}, extras=("strips",))
    yield Case("fp32", _image(6, 3, 3, taps=4), {"groups": 6}, extras=("strips",))
