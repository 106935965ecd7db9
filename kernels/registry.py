"""The kernels by name: what each computes, which cascade it is tied to, and where its parts are. Loads no torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from einsum_cascade.errors import KernelError, nearest

from .entry import Case, Choices, KernelEntry

__all__ = ["Case", "Choices", "KernelEntry", "chosen", "entries", "find", "load"]

_CAUSAL = {"causal": True}
_WINDOW = {"causal": True, "window": 1024}
# Elementwise work over whole planes: short rows of many pixels.
_PIXELS = Choices((16,), (64, 128, 256), (4, 8), (1,))

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
                outputs=("AV", "LSE"),
                build="attention:build",
                variants={"dense": {}, "causal": _CAUSAL, "causal window": _WINDOW},
                modified=tuple(
                    f"causal {word}" for word in ("soft-cap", "alibi", "relative-bias", "sink", "toeplitz")
                ),
            ),
            KernelEntry(
                name="unfused_attention",
                cascade="attention_3pass",
                summary="attention with its scores in memory, in three passes or two: what a pass costs",
                source="FuseMax (MICRO 2024), cascades 3 and 4",
                launcher="unfused:unfused_attention",
                reference="reference:unfused_attention",
                inputs="inputs:attention",
                outputs=("AV", "LSE"),
                build="unfused:build",
                variants={name: {} for name in ("product", "softmax", "values")}
                | {"exponentials and values": {"passes": 2}},
            ),
            KernelEntry(
                name="linear_attention",
                cascade="linear_chunked",
                summary="chunked linear attention with decay and optional normaliser (Lightning-2, retention)",
                source="Qin et al., Lightning Attention-2 (2024); Sun et al., RetNet (2023)",
                launcher="linear:linear_attention",
                reference="reference:linear_attention",
                inputs="inputs:linear",
                outputs=("NV",),
                build="linear:build",
                variants={"forward": {}, "normalised": {"normalise": True}, "reversed": {}},
                choices=Choices((16, 32, 64, 128), (16, 32, 64), (4, 8), (1, 2, 3)),
            ),
            KernelEntry(
                name="linear_attention_gradients",
                cascade="linear_chunked",
                summary="gradients of linear_attention: the same kernel, roles exchanged, time reversed",
                source="Qin et al., Lightning Attention-2 (2024), backward pass",
                launcher="linear:linear_attention_gradients",
                reference="reference:linear_attention_gradients",
                inputs="inputs:linear",
                outputs=("DQ", "DK", "DV"),
                shares="linear_attention/reversed",
            ),
            KernelEntry(
                name="neighborhood_attention",
                cascade="gna_2d",
                summary="generalized neighborhood attention in 1 to 3 dimensions, tokens permuted into tiles",
                source="Hassani et al., Generalized Neighborhood Attention (arXiv 2504.16922); NATTEN's window rule",
                launcher="neighborhood:neighborhood_attention",
                reference="reference:neighborhood_attention",
                inputs="inputs:neighborhood",
                outputs=("AV", "LSE"),
                build="neighborhood:build",
                variants={"1-D": {}, "2-D": {}, "3-D": {}, "3-D mask-free": {}},
            ),
            KernelEntry(
                name="neighborhood_attention_gradients",
                cascade="gna_2d",
                summary="gradients of neighborhood_attention: keys walk the query tiles that may see them",
                source="Hassani et al., Generalized Neighborhood Attention (arXiv 2504.16922); Dao et al. (2023)",
                launcher="neighborhood_backward:neighborhood_attention_gradients",
                reference="reference:neighborhood_attention_gradients",
                inputs="inputs:neighborhood",
                outputs=("DQ", "DK", "DV"),
                build="neighborhood_backward:build",
                variants={
                    f"{part}, {layout}": {}
                    for part in ("keys and values", "queries")
                    for layout in ("1-D", "2-D", "3-D", "3-D mask-free")
                },
                choices=Choices((32, 64), (32, 64), (4, 8), (1, 2)),
            ),
            KernelEntry(
                name="flash_attention_gradients",
                cascade="attention_1pass",
                summary="gradients of flash_attention, modified too: weights from the log-sum-exp, no atomics",
                source="Dao et al., FlashAttention-2 (2023), algorithm 2",
                launcher="backward:flash_attention_gradients",
                reference="reference:flash_attention_gradients",
                inputs="inputs:attention",
                outputs=("DQ", "DK", "DV"),
                learnt=("slopes", "bias", "sink", "factor"),
                build="backward:build",
                variants={
                    f"{part}, {mask}": options
                    for part in ("keys and values", "queries")
                    for mask, options in (("dense", {}), ("causal", _CAUSAL), ("causal window", _WINDOW))
                },
                choices=Choices((32, 64, 128), (32, 64, 128), (4, 8), (1, 2)),
            ),
            KernelEntry(
                name="decode_attention",
                cascade="attention_split_decode",
                summary="few queries over a long cache: keys split over thread blocks, heads packed, then merged",
                source="Dao et al., Flash-Decoding (2023)",
                launcher="decode:decode_attention",
                reference="reference:decode_attention",
                inputs="inputs:attention",
                outputs=("AV", "LSE"),
                build="decode:build",
                variants={"split": {}, "merge": {}},
                choices=Choices((16, 32), (32, 64, 128), (4, 8), (2, 3), ("block_n",)),
            ),
            KernelEntry(
                name="merge_attention",
                cascade="ring_attention",
                summary="merge of partial attentions by their log-sum-exps: split keys, ring step",
                source="Liu et al., Ring Attention (2023); Dao et al., Flash-Decoding (2023)",
                launcher="decode:merge_attention",
                reference="reference:merge_attention",
                inputs="inputs:partial_attentions",
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
                outputs=("AV", "LSE"),
                build="scan:build",
                variants={"causal": {}},
                choices=Choices((16,), (16, 32, 64, 128), (4, 8), (1, 2), ("block_n",)),
            ),
            KernelEntry(
                name="channel_attention",
                cascade="davit_channel",
                summary="channels attend to channels, scores summed over the tokens (DaViT, XCiT, MANIQA)",
                source="Ding et al., DaViT (ECCV 2022); El-Nouby et al., XCiT (NeurIPS 2021)",
                launcher="channel:channel_attention",
                reference="reference:channel_attention",
                inputs="inputs:channels",
                outputs=("AV",),
                build="channel:build",
                variants={"weights": {}, "values": {}},
                head_dims=(64, 128),
                choices=Choices((16,), (16, 32, 64, 128), (4, 8), (1, 2, 3), ("block_n",)),
            ),
            KernelEntry(
                name="reversed_attention",
                cascade="reversed_attention_2pass",
                summary="reversed attention: softmax over keys, aggregated onto the keys (P^T V), in two passes",
                source="Ding et al., DependencyViT (CVPR 2023)",
                launcher="transposed:reversed_attention",
                reference="reference:reversed_attention",
                inputs="inputs:parents",
                outputs=("O",),
                build="transposed:build",
                variants={"log-sum-exp": {}, "gather": {}},
                choices=Choices((32, 64, 128), (32, 64, 128), (4, 8), (1, 2, 3)),
            ),
            KernelEntry(
                name="selected_attention",
                cascade="attention_selected_blocks",
                summary="causal attention to the key blocks that an index names for each query: top-k, routed",
                source="Yuan et al., Native Sparse Attention (arXiv 2502.11089), selection branch",
                launcher="gathered:selected_attention",
                reference="reference:selected_attention",
                inputs="inputs:selected",
                outputs=("AV", "LSE"),
                build="gathered:build",
                variants={"causal": {}},
                choices=Choices((16,), (16, 32, 64), (4, 8), (1, 2, 3), ("block_n",)),
            ),
            KernelEntry(
                name="landmark_attention",
                cascade="landmark_1pass",
                summary="grouped softmax: a past block's tokens share the weight of its landmark",
                source="Mohtashami and Jaggi, Landmark Attention (NeurIPS 2023)",
                launcher="landmark:landmark_attention",
                reference="reference:landmark_attention",
                inputs="inputs:attention",
                outputs=("AV",),
                build="landmark:build",
                variants={"causal": {}},
                choices=Choices((32, 64, 128), (64,), (4, 8), (1, 2, 3)),
            ),
            KernelEntry(
                name="softplus_attention",
                cascade="lssa",
                summary="length-scaled softplus attention: no maximum, one pass",
                source="Gao et al., LSSAR (arXiv 2501.13428)",
                launcher="softplus:softplus_attention",
                reference="reference:softplus_attention",
                inputs="inputs:attention",
                outputs=("AV",),
                build="softplus:build",
                variants={"one pass": {}},
                choices=Choices((32, 64, 128), (32, 64, 128), (4, 8), (2, 3)),
            ),
            KernelEntry(
                name="reweighted_attention",
                cascade="lssar",
                summary="softplus attention re-weighted: sums first, then values, two passes",
                source="Gao et al., LSSAR (arXiv 2501.13428)",
                launcher="softplus:reweighted_attention",
                reference="reference:reweighted_attention",
                inputs="inputs:attention",
                outputs=("AV",),
                build="softplus:build",
                variants={"sums": {}, "values": {}},
                choices=Choices((32, 64, 128), (32, 64, 128), (4, 8), (2, 3)),
            ),
            KernelEntry(
                name="neural_memory",
                cascade="titans_chunked",
                summary="chunked neural memory: gradients with momentum and forgetting while it reads",
                source="Behrouz et al., Titans (arXiv 2501.00663), section 3.2",
                launcher="memory:neural_memory",
                reference="reference:neural_memory",
                inputs="inputs:memory",
                outputs=("O",),
                build="memory:build",
                variants={"weights": {}, "memory": {}},
                choices=Choices((16, 32, 64), (16, 32, 64), (4, 8), (1, 2)),
            ),
            KernelEntry(
                name="efficient_channel_gate",
                cascade="eca",
                summary="channel gate: pixel means, a convolution along the channels, a sigmoid",
                source="Wang et al., ECA-Net (CVPR 2020)",
                launcher="gates:efficient_channel_gate",
                reference="reference:efficient_channel_gate",
                inputs="inputs:image",
                outputs=("O",),
                build="gates:build",
                variants={"means": {}, "convolution": {}, "scaling": {}},
                head_dims=(0,),
                choices=_PIXELS,
            ),
            KernelEntry(
                name="squeeze_excite_gate",
                cascade="squeeze_excite",
                summary="channel gate: pixel means, two small layers, a sigmoid",
                source="Hu et al., Squeeze-and-Excitation Networks (CVPR 2018)",
                launcher="gates:squeeze_excite_gate",
                reference="reference:squeeze_excite_gate",
                inputs="inputs:image",
                outputs=("O",),
                build="gates:build",
                variants={"squeeze": {}},
                head_dims=(0,),
                choices=_PIXELS,
            ),
            KernelEntry(
                name="efficient_local_gate",
                cascade="ela",
                summary="gate from means of rows and columns: convolution, group norm, sigmoid on each",
                source="Xu and Wan, ELA (arXiv 2403.01123)",
                launcher="gates:efficient_local_gate",
                reference="reference:efficient_local_gate",
                inputs="inputs:image",
                outputs=("O",),
                build="gates:build",
                variants={"strips": {}, "strip gates": {}, "strip scaling": {}},
                head_dims=(0,),
                choices=_PIXELS,
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


def chosen(names: Iterable[str] | None) -> tuple[KernelEntry, ...]:
    """Return the named kernels, or all of them where no name is given.

    Raises:
        KernelError: no kernel has one of the names.

    >>> [e.name for e in chosen(["merge_attention"])]
    ['merge_attention']
    """
    return entries() if names is None else tuple(map(find, names))


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
