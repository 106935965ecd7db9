"""Speed of the tile simulator: single predictions, grids of them, and predictions from a text alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from einsum_cascade import parse, zoo
from einsum_cascade.analysis.points import known_sizes
from einsum_cascade.cascade import Cascade
from mappings.tiles import TileMapping
from simulator.gpu.fusion.predict import predict_cascade
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
        *_texts(),
    ]


def _texts() -> list[dict[str, Any]]:
    """Return the time of a prediction from a text, a mean over the zoo: of texts that are new, and at more sizes."""
    texts = [parse(zoo.text(name)) for name in zoo.names()]
    _, first_s = timed(lambda: _laid_out(texts, chunks=64), clock=time.process_time)
    chunks = iter((80, 96, 112))
    _, next_s = timed(lambda: _laid_out(texts, chunks=next(chunks)), 3, clock=time.process_time)
    mean_ms, more_ms = (s / len(texts) * 1e3 for s in (first_s, next_s))
    return [
        {
            "what": f"a text on a GPU, mean of {len(texts)}",
            "value": mean_ms,
            "unit": "ms",
            "target": "< 150 ms",
            "ratio": "",
        },
        {
            "what": "the same at another length",
            "value": more_ms,
            "unit": "ms",
            "target": "< 150 ms",
            "ratio": f"{mean_ms / more_ms:.1f} x as fast as the first",
        },
    ]


def _laid_out(texts: Sequence[Cascade], *, chunks: int) -> None:
    """Predict texts for sequences of some chunks of 64, with 32 heads; what else has a size has 64."""
    usual = dict.fromkeys(("M", "P", "T"), 64 * chunks) | dict.fromkeys(("M1", "T1"), chunks)
    for cascade in texts:
        sizes = known_sizes(cascade, {r: usual.get(r, 64) for r in cascade.free_ranks})
        batch = {"B", "H"} - {*cascade.rank_names}
        predict_cascade(cascade, sizes | dict.fromkeys(sorted(batch)[:1], 32), on="h100")


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
