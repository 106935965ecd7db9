"""Many predictions at once: sequence lengths x heads x tiles of one kernel on one GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mappings.gpu import find_kernel_mapping
from mappings.tiles import TileMapping

from ..hardware.gpu import find_gpu
from .calibration import prior, uncalibrated
from .efficiency import Efficiency, times
from .launch import Launch
from .model import as_wide, key_of, lay
from .sizes import call_of

if TYPE_CHECKING:
    import pandas as pd


def predict_grid(
    kernel: str,
    *,
    on: str,
    seq: Sequence[int],
    heads: Sequence[int],
    tiles: Sequence[TileMapping] = (),
    implementation: str = "triton",
    calibration: Efficiency | None = None,
    **sizes: Any,
) -> pd.DataFrame:
    """Return predicted latencies of every sequence length x heads x tile, one row a point.

    Tiles and visits are counted once per length and tile; heads only scale them. Blocks are scheduled by the closed
    form, so that a point may lie below `predict` by up to 15 % where there are two to eight blocks a slot. Keys are
    never split.

    Args:
        seq: tokens, queries and keys alike; `heads`: query heads with as many key heads, batch included.
        tiles: tile mappings to compare; the kernel's own where empty.
        **sizes: head_dim, and causal, window, dtype, kv_dtype as `predict` takes them.

    >>> table = predict_grid("flash_attention", on="h100", seq=[1024, 2048], heads=[8, 16], head_dim=128)
    >>> table.columns.tolist()
    ['query', 'key', 'seq', 'heads', 'latency_s', 'roofline_s']
    """
    import pandas as pd

    gpu = find_gpu(on)
    # Into how many parts keys are split depends on the number of heads, which only scales a point here.
    mapping = replace(find_kernel_mapping(kernel, implementation), split_keys=False)
    many = np.asarray(heads, dtype=np.float64)
    frames = []
    efficiency = calibration
    for n in seq:
        tokens = {"batch": 1, "heads": 1, "seq_q": n, "seq_kv": n} | sizes
        # What a grid's blocks do may depend on any size, the number of heads too.
        words = [tokens | {"heads": h} for h in heads] if mapping.grids else [tokens]
        calls = [call_of(mapping, w) for w in words]
        key = as_wide(key_of(calls[0], gpu, mapping, implementation), mapping)
        efficiency = efficiency or uncalibrated(prior(key))
        for tile in tiles or (None,):
            laid = [lay([call], gpu, mapping=mapping, tile=tile) for call in calls]
            if not mapping.grids:
                laid = [_scaled(laid[0], many)]
            found = [times(each, efficiency, exact=False) for each in laid]
            points = {
                "query": laid[0].tile.query,
                "key": laid[0].tile.key,
                "seq": n,
                "heads": many.astype(np.int64),
            }
            frames.append(
                {
                    **points,
                    "latency_s": np.concatenate([t.latency_s for t in found]),
                    "roofline_s": np.concatenate([t.roofline_s for t in found]),
                }
            )
    size = len(many)
    columns = {
        name: np.concatenate([np.broadcast_to(np.asarray(frame[name]), size) for frame in frames])
        for name in frames[0]
    }
    return pd.DataFrame(columns)


def _scaled(one: Launch, many: np.ndarray[Any, np.dtype[np.float64]]) -> Launch:
    """Return the launch of one head as the launches of many, one a number of heads."""
    rows = (len(many), one.full.shape[1])
    copies = one.copies * many
    blocks = one.runs.sum() * copies
    return replace(
        one,
        full=np.broadcast_to(one.full, rows),
        masked=np.broadcast_to(one.masked, rows),
        walked=np.broadcast_to(one.walked, rows),
        runs=np.broadcast_to(one.runs, rows),
        windowed=np.broadcast_to(one.windowed, len(many)),
        counts=one.counts * many,
        copies=copies,
        parts=np.broadcast_to(one.parts, len(many)),
        resident=np.clip(np.ceil(blocks / one.gpu.sms), 1, one.most),
        flops=one.flops * many,
        bytes_moved=one.bytes_moved * many,
        bytes_appended=one.bytes_appended * many,
        bytes_of_queries=one.bytes_of_queries * many,
        bytes_of_parts=one.bytes_of_parts * many,
        elements_appended=one.elements_appended * many,
        footprint=one.footprint * many,
    )
