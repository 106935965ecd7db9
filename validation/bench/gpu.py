"""Speed of the tile simulator: single predictions, and grids of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mappings.tiles import TileMapping
from simulator.gpu.grid import predict_grid
from simulator.gpu.model import predict

from .timing import timed

_SIZES = {"batch": 4, "heads": 32, "head_dim": 128, "causal": True}


def bench(rounds: int = 5) -> list[dict[str, Any]]:
    """Return what was measured, with unit and target: one row a figure."""
    alone = _rate(_calls, rounds)
    together = _rate(_grid, rounds)
    return [
        {
            "what": "GPU predictions, one call at a time",
            "value": alone,
            "unit": "calls/s",
            "target": ">= 1,000",
            "ratio": "",
        },
        {
            "what": "GPU predictions, lengths x heads x tiles",
            "value": together,
            "unit": "points/s",
            "target": ">= 100,000",
            "ratio": f"{together / alone:,.0f} x one call at a time",
        },
    ]


def _calls() -> int:
    lengths = range(256, 8192 + 1, 256)
    for n in lengths:
        predict("flash_attention", on="h100", implementation="fa3", seq_q=n, seq_kv=n, **_SIZES)
    return len(lengths)


def _grid() -> int:
    tiles = [TileMapping(query=q, key=k) for q in (64, 128) for k in (64, 128)]
    lengths, heads = range(512, 8192 + 1, 512), range(1, 2049)
    return len(
        predict_grid("flash_attention", on="h100", seq=lengths, heads=heads, tiles=tiles, head_dim=128)
    )


def _rate(run: Callable[[], int], rounds: int) -> float:
    run()  # files are read and tables built once
    done, seconds = timed(run, rounds)
    return done / seconds
