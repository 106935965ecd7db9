"""The grid against single predictions."""

from __future__ import annotations

import pytest

from mappings.tiles import TileMapping
from simulator.gpu.grid import predict_grid
from simulator.gpu.model import predict


def test_grid_is_the_single_predictions():
    table = predict_grid(
        "flash_attention",
        on="h100",
        implementation="fa3",
        seq=[512, 3000],
        heads=[1, 7, 600],
        tiles=[TileMapping(query=128, key=64), TileMapping(query=64, key=64, blocks_per_sm=2)],
        head_dim=128,
        causal=True,
    )
    assert len(table) == 12
    for row in table.to_dict("records"):
        tile = TileMapping(query=row["query"], key=row["key"], blocks_per_sm=1 if row["query"] == 128 else 2)
        alone = predict(
            "flash_attention",
            on="h100",
            implementation="fa3",
            tile=tile,
            batch=1,
            heads=row["heads"],
            seq_q=row["seq"],
            head_dim=128,
            causal=True,
        )
        # The closed form never exceeds the schedule; between two and eight blocks a slot it is up to 20 % below it.
        assert 0.8 * alone.latency_s <= row["latency_s"] <= alone.latency_s * (1 + 1e-9)
        assert row["roofline_s"] == pytest.approx(alone.roofline_s)
