"""The kernels by name: what each computes, which cascade it is tied to, and where its parts are. Loads no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from einsum_cascade.errors import KernelError, nearest


@dataclass(frozen=True, slots=True)
class Case:
    """One check: sizes, word type and options.

    Attributes:
        dtype: "fp32", "fp16" or "bf16".
        sizes: arguments of the input maker.
        options: keyword arguments that launcher and reference share.
        extras: further input tensors to make, by the names that the input maker knows.
    """

    dtype: str
    sizes: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    extras: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The case in one line."""
        parts = [*self.sizes.items(), *self.options.items()]
        return " ".join([self.dtype, *(f"{k}={v}" for k, v in parts), *self.extras])


@dataclass(frozen=True, slots=True)
class KernelEntry:
    """One kernel. Parts are "module:name" inside this package, loaded when used.

    Attributes:
        cascade: name of the zoo cascade that it computes.
        launcher: takes tensors, options and `empty`; returns the outputs in order.
        reference: the same mathematics on materialised tensors.
        inputs: makes the tensors of a case.
        cases: the checks of this kernel.
        outputs: names of what launcher and reference return.
        builds: yields the shipped specialisations for a compute capability; empty where another entry's serve.
        tunable: makes one specialisation of a given tile; empty where the tile is not free.
    """

    name: str
    cascade: str
    summary: str
    source: str
    launcher: str
    reference: str
    inputs: str
    cases: str
    outputs: tuple[str, ...]
    builds: str = ""
    tunable: str = ""


_ENTRIES: Mapping[str, KernelEntry] = MappingProxyType(
    {
        e.name: e
        for e in (
            KernelEntry(
                name="flash_attention",
                cascade="attention_1pass",
                summary="1-pass attention: causal, window, grouped query, soft cap, ALiBi, relative bias, sink",
                source="Dao et al., FlashAttention-2 (2023); Nayak et al., FuseMax (MICRO 2024), cascade 5",
                launcher="attention:flash_attention",
                reference="reference:attention",
                inputs="inputs:attention",
                cases="cases:flash_attention",
                builds="attention:builds",
                tunable="attention:build",
                outputs=("AV", "LSE"),
            ),
            KernelEntry(
                name="unfused_attention",
                cascade="attention_3pass",
                summary="attention with its scores in memory, in three passes or two: what a pass costs",
                source="FuseMax (MICRO 2024), cascades 3 and 4",
                launcher="unfused:unfused_attention",
                reference="reference:unfused_attention",
                inputs="inputs:attention",
                cases="cases:unfused_attention",
                builds="unfused:builds",
                outputs=("AV", "LSE"),
            ),
            KernelEntry(
                name="linear_attention",
                cascade="linear_chunked",
                summary="chunked linear attention with decay and optional normaliser (Lightning-2, retention)",
                source="Qin et al., Lightning Attention-2 (2024); Sun et al., RetNet (2023)",
                launcher="linear:linear_attention",
                reference="reference:linear_attention",
                inputs="inputs:linear",
                cases="cases:linear_attention",
                builds="linear:builds",
                outputs=("NV",),
            ),
            KernelEntry(
                name="linear_attention_gradients",
                cascade="linear_chunked",
                summary="gradients of linear_attention: the same kernel, roles exchanged, time reversed",
                source="Qin et al., Lightning Attention-2 (2024), backward pass",
                launcher="linear:linear_attention_gradients",
                reference="reference:linear_attention_gradients",
                inputs="inputs:linear",
                cases="cases:linear_attention_gradients",
                outputs=("DQ", "DK", "DV"),
            ),
            KernelEntry(
                name="neighborhood_attention",
                cascade="gna_2d",
                summary="generalized neighborhood attention in 1 to 3 dimensions, tokens permuted into tiles",
                source="Hassani et al., Generalized Neighborhood Attention (arXiv 2504.16922); NATTEN's window rule",
                launcher="neighborhood:neighborhood_attention",
                reference="reference:neighborhood_attention",
                inputs="inputs:neighborhood",
                cases="cases:neighborhood_attention",
                builds="neighborhood:builds",
                outputs=("AV", "LSE"),
            ),
            KernelEntry(
                name="flash_attention_gradients",
                cascade="attention_1pass",
                summary="gradients of flash_attention: weights again from the log-sum-exp, no atomic additions",
                source="Dao et al., FlashAttention-2 (2023), algorithm 2",
                launcher="backward:flash_attention_gradients",
                reference="reference:flash_attention_gradients",
                inputs="inputs:attention",
                cases="cases:flash_attention_gradients",
                builds="backward:builds",
                outputs=("DQ", "DK", "DV"),
            ),
            KernelEntry(
                name="decode_attention",
                cascade="attention_split_decode",
                summary="few queries over a long cache: keys split over thread blocks, heads packed, then merged",
                source="Dao et al., Flash-Decoding (2023)",
                launcher="decode:decode_attention",
                reference="reference:decode_attention",
                inputs="inputs:attention",
                cases="cases:decode_attention",
                builds="decode:builds",
                outputs=("AV", "LSE"),
            ),
            KernelEntry(
                name="merge_attention",
                cascade="ring_attention",
                summary="merge of partial attentions by their log-sum-exps: split keys, ring step",
                source="Liu et al., Ring Attention (2023); Dao et al., Flash-Decoding (2023)",
                launcher="decode:merge_attention",
                reference="reference:merge_attention",
                inputs="inputs:partial_attentions",
                cases="cases:merge_attention",
                outputs=("AV", "LSE"),
            ),
            KernelEntry(
                name="prefix_attention",
                cascade="aaren_scan",
                summary="attention of one learnt query over every prefix of the keys, by an associative scan (Aaren)",
                source="Feng et al., Attention as an RNN (arXiv 2405.13956)",
                launcher="scan:prefix_attention",
                reference="reference:prefix_attention",
                inputs="inputs:prefix",
                cases="cases:prefix_attention",
                builds="scan:builds",
                outputs=("AV", "LSE"),
            ),
            KernelEntry(
                name="channel_attention",
                cascade="davit_channel",
                summary="channels attend to channels, scores summed over the tokens (DaViT, XCiT, MANIQA)",
                source="Ding et al., DaViT (ECCV 2022); El-Nouby et al., XCiT (NeurIPS 2021)",
                launcher="channel:channel_attention",
                reference="reference:channel_attention",
                inputs="inputs:channels",
                cases="cases:channel_attention",
                builds="channel:builds",
                outputs=("AV",),
            ),
            KernelEntry(
                name="reversed_attention",
                cascade="reversed_attention_2pass",
                summary="reversed attention: softmax over keys, aggregated onto the keys (P^T V), in two passes",
                source="Ding et al., DependencyViT (CVPR 2023)",
                launcher="transposed:reversed_attention",
                reference="reference:reversed_attention",
                inputs="inputs:parents",
                cases="cases:reversed_attention",
                builds="transposed:builds",
                outputs=("O",),
            ),
            KernelEntry(
                name="selected_attention",
                cascade="attention_selected_blocks",
                summary="causal attention to the key blocks that an index names for each query: top-k, routed",
                source="Yuan et al., Native Sparse Attention (arXiv 2502.11089), selection branch",
                launcher="gathered:selected_attention",
                reference="reference:selected_attention",
                inputs="inputs:selected",
                cases="cases:selected_attention",
                builds="gathered:builds",
                outputs=("AV", "LSE"),
            ),
        )
    }
)


def entries() -> tuple[KernelEntry, ...]:
    """Return every kernel, in the order of the table."""
    return tuple(_ENTRIES.values())


def find(name: str) -> KernelEntry:
    """Return one kernel by name.

    Raises:
        KernelError: no kernel has that name.

    >>> find("flash_attention").cascade
    'attention_1pass'
    """
    if name not in _ENTRIES:
        raise KernelError(f"kernel '{name}': {nearest(name, _ENTRIES)}")
    return _ENTRIES[name]


def load(place: str) -> Any:
    """Return the object at "module:name" of this package.

    Raises:
        KernelError: torch or Triton, which it needs, is not installed.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(f".{module}", __package__), name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "triton"):
            raise
        raise KernelError(f"kernels need {error.name}: pip install 'einsum-cascade[kernels]'") from error
