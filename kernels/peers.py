"""Other people's kernels for the same problems: PyTorch's own and, where installed, those of fla and natten.

A peer is entered where it can compute a problem; one that is not installed, or that PyTorch does not have on the device
at hand, is left out. Every peer passes the same gate of correctness as our own kernel before it is timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .masks import limits
from .measurement import Setting

Tensors = Mapping[str, torch.Tensor]
Call = Callable[[Tensors], torch.Tensor]
BACKENDS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-mem-efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What ours and its peers compute.

    Attributes:
        kernel: name in the registry.
        flops: useful operations of one call.
        sizes: arguments of the registry's input maker.
        options: keyword arguments of our launcher.
    """

    kernel: str
    setting: Setting
    flops: float
    sizes: Mapping[str, Any] = field(hash=False)
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


def peers(problem: Problem) -> Iterator[tuple[str, Call]]:
    """Yield name and call of every peer of a problem that is installed."""
    yield from _PEERS.get(problem.kernel, _none)(problem)


def _none(problem: Problem) -> Iterator[tuple[str, Call]]:
    del problem
    return iter(())


def _installed(name: str) -> Any:
    """Return a module, or None where its package is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        return None


def _attention(problem: Problem) -> Iterator[tuple[str, Call]]:
    s = problem.setting
    if s.window is None:
        for name, backend in BACKENDS.items():
            yield name, _sdpa(backend, s)
    yield "flex-attention", flex(s)
    natten = _installed("natten")
    if natten is not None and s.window is not None and s.causal:
        yield "natten", _natten(natten.na1d, window=(s.window,), causal=(True,))


def _sdpa(backend: SDPBackend, s: Setting) -> Call:
    grouped = s.kv_heads not in (None, s.heads)

    def call(t: Tensors) -> torch.Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(
                t["q"], t["k"], t["v"], is_causal=s.causal, enable_gqa=grouped
            )

    return call


def flex(s: Setting) -> Call:
    """Return a call of flex_attention, which is compiled when it is first called.

    What was compiled before is forgotten: after some compiled forms of one function PyTorch would take to running it
    uncompiled, with every score in memory, and the time would be that of another algorithm.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    left, right = limits(causal=s.causal, window=s.window)
    reach_left = s.seq if left is None else left
    reach_right = s.seq if right is None else right

    def seen(b: Any, h: Any, p: Any, m: Any) -> Any:
        return (m >= p - reach_left) & (m <= p + reach_right)

    masks: dict[torch.device, Any] = {}

    def call(t: Tensors) -> torch.Tensor:
        device = t["q"].device
        if device not in masks:
            whole = left is None and right is None
            masks[device] = (
                None if whole else create_block_mask(seen, None, None, s.seq, s.seq, device=str(device))
            )
        out: torch.Tensor = compiled(
            t["q"], t["k"], t["v"], block_mask=masks[device], enable_gqa=s.kv_heads not in (None, s.heads)
        )
        return out

    return call


Laid = tuple[torch.Tensor, ...]


def _once(lay: Callable[[Tensors], Laid]) -> Callable[[Tensors], Laid]:
    """Return `lay`, asked once for each set of tensors: how a peer wants them in memory is no part of its time."""
    known: dict[int, tuple[Tensors, Laid]] = {}

    def laid(t: Tensors) -> Laid:
        # The set is kept too, so that no other gets its identity.
        if id(t) not in known:
            known[id(t)] = t, lay(t)
        return known[id(t)][1]

    return laid


def _natten(function: Callable[..., torch.Tensor], **options: Any) -> Call:
    """Return a call of natten, which keeps heads behind the layout."""
    names = {"window": "kernel_size", "stride": "stride", "dilation": "dilation", "causal": "is_causal"}
    arguments = {names[key]: value for key, value in options.items()}
    laid = _once(lambda t: tuple(t[n].movedim(1, -2).contiguous() for n in "qkv"))

    def call(t: Tensors) -> torch.Tensor:
        return function(*laid(t), **arguments).movedim(-2, 1)

    return call


def _neighborhood(problem: Problem) -> Iterator[tuple[str, Call]]:
    natten = _installed("natten")
    if natten is not None:
        rank = len(problem.options["window"])
        options = {key: problem.options[key] for key in ("window", "stride", "dilation", "causal")
                   if key in problem.options}  # fmt: skip
        yield "natten", _natten(getattr(natten, f"na{rank}d"), **options)


def _linear(problem: Problem) -> Iterator[tuple[str, Call]]:
    del problem
    retention = _installed("fla.ops.retention")
    if retention is not None:
        laid = _once(lambda t: tuple(t[n].transpose(1, 2).contiguous() for n in "qkv"))

        # Its rates, 1 - 2^(-5 - head), are those of our inputs; it keeps heads behind the sequence.
        def call(t: Tensors) -> torch.Tensor:
            out: torch.Tensor = retention.chunk_retention(*laid(t), scale=1.0)[0]
            return out.transpose(1, 2)

        yield "fla", call


_PEERS: Mapping[str, Callable[[Problem], Iterator[tuple[str, Call]]]] = {
    "flash_attention": _attention,
    "linear_attention": _linear,
    "neighborhood_attention": _neighborhood,
}
