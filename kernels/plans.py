"""What a campaign measures: every kernel at every length, head size and mask, the most valuable cases first."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from einsum_cascade.errors import KernelError, nearest

from .measurement import OURS, Setting
from .registry import Case

# The most valuable first: the lengths of common models, then what shows waves, then what shows the limits.
LENGTHS = (4096, 16384, 1024, 8192, 2048, 32768, 65536)
HEAD_DIMS = (128, 64)
TOKENS = 65536
# The unfused baseline keeps its scores in memory: longer sequences come in smaller batches of at most so many bytes,
# and half as many again for the weights, which cards of 40 GB hold beside the tensors; beyond, a batch is too small.
MOST_UNFUSED = 8192
MOST_SCORE_BYTES = 2**34
# Modified scores cost the same at every length, relative to causal attention, and neighborhoods in one and three
# dimensions and their gradients relative to those in two: two lengths show it.
MODIFIED = (4096, 16384)
CHUNK = 64
# Of the check that a case has to pass before it is measured: two tiles of queries, and as many steps over the keys as a
# pipeline is deep; its float64 reference takes a CPU some tenths of a second.
GATE_TOKENS = 256
# Channels of an image for each head of a sequence.
CHANNELS_PER_HEAD = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """One case of the campaign.

    Attributes:
        entry: name in the registry.
        variant: the implementation column: `measurement.OURS` and what distinguishes it.
        direction: "fwd", "bwd" or "fwdbwd", both one after the other.
        flops: useful operations of one call.
        bytes: that one call reads and writes at least.
        sizes, extras: arguments of the entry's input maker.
        options: keyword arguments of the launcher.
    """

    entry: str
    variant: str
    direction: str
    setting: Setting
    flops: float
    bytes: float
    sizes: Mapping[str, Any] = field(hash=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    extras: tuple[str, ...] = ()

    @property
    def alone(self) -> Case:
        """The case with one sequence, which compiles to the same: their number is no argument of a kernel."""
        return Case(self.setting.dtype, {**self.sizes, "batch": 1}, self.options, self.extras)

    @property
    def specialisation(self) -> tuple[object, ...]:
        """Cases that agree in this are the same compiled kernel."""
        return (
            self.entry,
            self.variant,
            self.setting.head_dim,
            self.setting.causal,
            self.setting.window is None,
        )


def plan(
    *, lengths: Iterable[int] = LENGTHS, head_dims: Iterable[int] = HEAD_DIMS, tokens: int = TOKENS
) -> Iterator[Plan]:
    """Yield every case, in the order of `lengths`: all kernels appear at the first one already.

    Args:
        tokens: of a batch; longer sequences come in smaller batches.
    """
    heads_dims = tuple(head_dims)
    for seq in lengths:
        whole = [_of_size(seq, head_dim, tokens) for head_dim in heads_dims]
        # The plain masks of every head size, then the other operators, then modified scores.
        yield from (p for dense in whole for p in _attention(dense))
        yield from (p for dense in whole for p in _operators(dense))
        yield from _images(whole[0])
        if seq in MODIFIED or tokens != TOKENS:
            yield from (p for dense in whole for p in _neighborhoods(dense))
            yield from (p for dense in whole for p in _modified(dense))


def case_of(kernel: str, *, seq: int, head_dim: int, device: str = "cuda") -> Plan:
    """Return the campaign's first case of a kernel; on the CPU with few heads.

    Args:
        head_dim: 0 for a kernel without heads.

    Raises:
        KernelError: the campaign has no case of that kernel.
    """
    tokens = TOKENS if device == "cuda" else seq
    plans = list(plan(lengths=(seq,), head_dims=(head_dim or HEAD_DIMS[0],), tokens=tokens))
    for p in plans:
        if p.entry == kernel:
            return p
    raise KernelError(
        f"{kernel}: the campaign has no case of it; {nearest(kernel, {p.entry for p in plans})}"
    )


def gate_of(p: Plan) -> Case:
    """Return the check before a case: few tokens of one sequence, computed by the very kernel that is then measured."""
    s = p.setting
    # An image has channels in the place of heads.
    heads = s.heads if s.head_dim else max(1, s.heads // CHANNELS_PER_HEAD)
    return _gates_of(s.head_dim or HEAD_DIMS[0], heads)[p.specialisation]


@functools.cache
def _gates_of(head_dim: int, heads: int) -> Mapping[object, Case]:
    """Return the checks of all cases of one head size by what they compile to."""
    dense = Setting(1, heads, GATE_TOKENS, head_dim, dtype="bf16")
    found: dict[object, Case] = {}
    for make in (_attention, _operators, _images, _neighborhoods, _modified):
        for p in make(dense):
            found.setdefault(p.specialisation, p.alone)
    return found


def _of_size(seq: int, head_dim: int, tokens: int) -> Setting:
    heads = max(1, 2048 // head_dim) if tokens == TOKENS else 2
    return Setting(max(1, tokens // seq), heads, seq, head_dim, dtype="bf16")


def _bytes(s: Setting, tensors: float = 4.0) -> float:
    """Bytes of so many tensors of a batch; q, k, v and the result where not given."""
    return tensors * 2.0 * s.batch * s.heads * s.seq * s.head_dim


def _sizes(s: Setting) -> dict[str, Any]:
    sizes = {"batch": s.batch, "heads": s.heads, "seq_q": s.seq, "seq_kv": s.seq, "head_dim": s.head_dim}
    return sizes | ({"kv_heads": s.kv_heads} if s.kv_heads else {})


def _attention(dense: Setting) -> Iterator[Plan]:
    sizes = _sizes(dense)
    for causal, window in ((False, None), (True, None), (True, 1024), (True, 128)):
        if window is not None and window >= dense.seq:
            continue
        s = replace(dense, causal=causal, window=window)
        options: dict[str, Any] = {"causal": causal, "window": window}
        yield Plan("flash_attention", OURS, "fwd", s, s.flops, _bytes(s), sizes, options)
        # The gradients' five products and the forward pass's two, which is run for what it saves.
        yield Plan(
            "flash_attention_gradients",
            OURS,
            "fwdbwd",
            s,
            3.5 * s.flops,
            _bytes(s, 12),
            sizes,
            options,
            ("grad",),
        )
    if dense.seq <= MOST_UNFUSED:
        yield from _unfused(dense)


def _unfused(dense: Setting) -> Iterator[Plan]:
    """Three passes and two over scores in memory, and where that takes a smaller batch, the fused kernel on it too."""
    most = MOST_SCORE_BYTES // (4 * dense.heads * dense.seq**2)
    s = replace(dense, batch=max(1, min(dense.batch, most)))
    sizes = _sizes(s)
    if s != dense:
        yield Plan("flash_attention", OURS, "fwd", s, s.flops, _bytes(s), sizes, {"causal": False})
    scores = 4.0 * s.batch * s.heads * s.seq**2
    for passes in (3, 2):
        # Written by the product, read by each sweep; with three passes half-size weights are written and read besides.
        moved = _bytes(s) + scores * (5 if passes == 3 else 3)
        yield Plan("unfused_attention", f"{OURS} {passes}-pass", "fwd", s, s.flops, moved, sizes,
                   {"passes": passes})  # fmt: skip


def _modified(dense: Setting) -> Iterator[Plan]:
    causal = replace(dense, causal=True)
    for words, options, extras in (
        ("soft-cap", {"soft_cap": 30.0}, ()),
        ("alibi", {}, ("slopes",)),
        ("relative-bias", {}, ("bias",)),
        ("sink", {}, ("sink",)),
        ("toeplitz", {}, ("bias", "factor")),
    ):
        yield Plan("flash_attention", f"{OURS} {words}", "fwd", causal, causal.flops, _bytes(causal), _sizes(dense),
                   {"causal": True} | options, extras)  # fmt: skip
    grouped = replace(causal, kv_heads=max(1, dense.heads // 4))
    yield Plan("flash_attention", f"{OURS} grouped-query", "fwd", grouped, grouped.flops, _bytes(grouped),
               _sizes(grouped), {"causal": True})  # fmt: skip


def _operators(dense: Setting) -> Iterator[Plan]:
    sizes = _sizes(dense)
    s = replace(dense, causal=True)
    tokens = dense.batch * dense.heads * dense.seq
    one_token = 4.0 * tokens * dense.head_dim
    # Pairs within a chunk that a causal mask leaves, and the state.
    chunked = one_token * (dense.head_dim + (CHUNK + 1) / 2)
    tiny = dense.seq < CHUNK * 2
    yield Plan("linear_attention", OURS, "fwd", s, chunked, _bytes(s), sizes)
    yield Plan("linear_attention_gradients", OURS, "bwd", s, 3 * chunked, _bytes(s, 12), sizes, {}, ("grad",))
    yield Plan("neural_memory", OURS, "fwd", s, 2 * chunked, _bytes(s), sizes, {"chunk": 16})
    yield Plan("prefix_attention", OURS, "fwd", s, one_token, _bytes(s, 3), sizes)
    yield Plan("softplus_attention", OURS, "fwd", s, s.flops, _bytes(s), sizes)
    yield Plan("reweighted_attention", OURS, "fwd", s, 1.5 * s.flops, _bytes(s, 6), sizes)
    yield Plan(
        "landmark_attention", OURS, "fwd", s, s.flops, _bytes(s), sizes, {"period": 16 if tiny else CHUNK}
    )
    yield Plan("reversed_attention", OURS, "fwd", dense, 1.5 * dense.flops, _bytes(dense, 6), sizes)
    few = replace(s, kv_heads=max(1, dense.heads // 4))
    # It reads keys and values of a quarter of the heads alone: no more sequences, and the largest L2 cache holds them.
    twice = replace(few, batch=2 * few.batch)
    yield Plan("decode_attention", f"{OURS} split-kv", "fwd", twice, 2 * one_token, _bytes(twice, 0.5),
               _sizes(twice) | {"seq_q": 1}, {"splits": 16})  # fmt: skip
    picks = min(16, dense.seq // 64 or 1)
    yield Plan("selected_attention", OURS, "fwd", few, one_token * picks * 64, _bytes(few, 2 + picks * 16),
               _sizes(few) | {"picks": picks, "block": 64 if not tiny else 16},
               {"block": 64 if not tiny else 16})  # fmt: skip
    yield _neighborhood(dense, 2)
    if dense.head_dim <= 128:
        yield Plan("channel_attention", OURS, "fwd", dense, one_token * dense.head_dim, _bytes(dense), sizes)


def _neighborhood(dense: Setting, rank: int) -> Plan:
    layout = _layout(dense.seq, rank)
    window = tuple(max(1, n // 4) for n in layout)
    flops = 4.0 * dense.batch * dense.heads * dense.head_dim * dense.seq * math.prod(window)
    # Tokens are permuted before and after.
    sizes = {"layout": layout, "heads": dense.heads, "head_dim": dense.head_dim, "batch": dense.batch}
    return Plan("neighborhood_attention", f"{OURS} {rank}-D", "fwd", dense, flops, _bytes(dense, 12), sizes,
                {"window": window})  # fmt: skip


def _neighborhoods(dense: Setting) -> Iterator[Plan]:
    """The other ranks, and gradients: five products beside the forward pass's two, and eight permutations more."""
    whole = _neighborhood(dense, 2)
    yield replace(whole, entry="neighborhood_attention_gradients", direction="fwdbwd", flops=3.5 * whole.flops,
                  bytes=_bytes(dense, 41), extras=("grad",))  # fmt: skip
    yield _neighborhood(dense, 1)
    yield _neighborhood(dense, 3)


def _images(dense: Setting) -> Iterator[Plan]:
    """Gates of an image of as many pixels as the sequence has tokens, 256 channels."""
    height, width = _layout(dense.seq, 2)
    channels = min(256, CHANNELS_PER_HEAD * dense.heads)
    images = max(1, dense.batch * dense.heads * dense.head_dim // channels)
    s = Setting(images, channels, dense.seq, 0, dtype="bf16")
    # Read for the means, read and written for the scaling.
    moved = 3 * 2.0 * images * channels * dense.seq
    sizes = {"batch": images, "channels": channels, "height": height, "width": width}
    for entry, more, options, extras in (
        ("efficient_channel_gate", {"taps": 5}, {}, ("taps",)),
        ("squeeze_excite_gate", {"reduced": channels // 16}, {}, ("layers",)),
        ("efficient_local_gate", {"taps": 7}, {"groups": 16}, ("strips",)),
    ):
        yield Plan(entry, OURS, "fwd", s, 0.0, moved, sizes | more, options, extras)


def _layout(seq: int, rank: int) -> tuple[int, ...]:
    """Return a layout of `seq` tokens with axes as equal as powers of two allow; seq is a power of two.

    >>> _layout(4096, 2), _layout(2048, 3)
    ((64, 64), (8, 16, 16))
    """
    bits = seq.bit_length() - 1
    return tuple(2 ** ((bits + i) // rank) for i in range(rank))
