"""Recipes of the crossover study against the zoo's own operation counts, and crossings by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from einsum_cascade import zoo
from einsum_cascade.analysis.bounds import bounds
from simulator.gpu.model import predict
from validation.studies.crossovers import EXACT, calls, crossings, fastest, recipes, sizes_of
from validation.studies.results import committed

RECIPE = recipes()
LAYERS = RECIPE["attentions"]
# Multiply-adds of the calls / of the cascade, where they differ on purpose.
RATIOS = {
    # Two streams past a state: each call multiplies twice where the cascade multiplies once.
    "l2vit": (1.98, 2.01),
    "channel_attention": (1.98, 2.01),
    # The first and the last block have half a halo in the cascade; the calls take a whole one: 1 / 23 at 4096 tokens.
    "halo_attention": (1.04, 1.05),
}


@pytest.mark.parametrize("name", [n for n, layer in LAYERS.items() if "calls" in layer])
def test_calls_do_the_products_of_the_cascade(name: str) -> None:
    tokens = 4096
    sizes = sizes_of(name, LAYERS[name], tokens, RECIPE)
    wanted = bounds(zoo.load(name), sizes).operations["mac"]
    found = 0.0
    for kernel, times, call in calls(LAYERS[name], tokens, RECIPE):
        p = predict(kernel, on="h100", **call)
        found += times * p.tflops * p.latency_s * 1e12 / 2
    low, high = RATIOS.get(name, (0.99, 1.01))
    assert low <= found / wanted <= high


def test_crossings_by_hand() -> None:
    # One quadratic, one linear: x^2 = 4096 x at 4096; a third one always above, a fourth always below.
    n = [1024, 2048, 8192, 65536]
    lines = {
        EXACT: [x**2 for x in n],
        "linear": [4096 * x for x in n],
        "slow": [2 * x**2 for x in n],
        "fast": n,
    }
    rows = [
        {"attention": k, "machine": "m", "tokens": x, "latency_s": y / 1e9}
        for k, ys in lines.items()
        for x, y in zip(n, ys, strict=True)
    ]
    found = crossings(pd.DataFrame(rows)).set_index("attention")
    assert set(found.index) == {"linear", "fast"}
    assert found.loc["linear", "tokens"] == pytest.approx(4096)
    assert found.loc["linear", "latency_s"] == pytest.approx(4096**2 / 1e9)
    assert found.loc["fast", "tokens"] == pytest.approx(1024)


def test_a_line_without_its_last_points_is_compared_where_it_exists() -> None:
    rows = pd.DataFrame(
        {
            "attention": [EXACT, EXACT, EXACT, "other", "other", "other"],
            "machine": "m",
            "tokens": [1, 2, 4] * 2,
            "latency_s": [1.0, 2.0, 4.0, 2.0, 1.0, float("nan")],
        }
    )
    assert crossings(rows)["tokens"].to_list() == pytest.approx([2**0.5])


def test_the_committed_table_names_what_is_missing() -> None:
    table = committed("crossovers")
    missing = table["latency_s"].isna()
    assert (table["error"] != "").equals(missing)
    assert ((table["low_s"] <= table["latency_s"]) & (table["latency_s"] <= table["high_s"]))[~missing].all()
    best = fastest(table)
    assert set(best["reads"]) == {layer["reads"] for layer in LAYERS.values()}
    assert not best.duplicated(subset=["reads", "machine", "tokens"]).any()
