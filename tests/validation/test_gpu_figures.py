"""Figures of the tile simulator: their tables against the predictions that they show."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest

from simulator.gpu.model import predict
from simulator.hardware.gpu import find_gpu
from validation import gpu_figures
from validation.reproduce import reproduce

mpl.use("Agg")


def test_waves_end_with_the_compute_time_and_hold_every_tile() -> None:
    found = predict("flash_attention", on="h100", implementation="cuda-fa3", **gpu_figures.EXAMPLE)
    events = gpu_figures.wave_events()
    assert events["end"].max() == pytest.approx(found.parts_s["compute"])
    assert events["tiles"].sum() == found.tiles["full"] + found.tiles["masked"]
    # No slot runs two blocks at a time.
    for _, row in events.sort_values("start").groupby("slot"):
        assert (row["start"].to_numpy()[1:] >= row["end"].to_numpy()[:-1] - 1e-15).all()


def test_the_lowest_ceiling_is_the_pipe_that_binds() -> None:
    ceilings = gpu_figures.pipe_ceilings()
    pipes = ceilings[ceilings["tflops"] > 0]
    found = predict("flash_attention", on="h100", implementation="cuda-fa3", **gpu_figures.EXAMPLE)
    assert pipes.loc[pipes["tflops"].idxmin(), "name"] == max(found.pipes_cycles, key=found.pipes_cycles.get)
    gpu = find_gpu("h100")
    # The tensor pipe's ceiling is the datasheet's rate at the model's clock, whatever the tile is.
    assert float(pipes.set_index("name").loc["tensor", "tflops"]) == pytest.approx(
        gpu.peak_flops("bf16") / 1e12
    )


def test_points_are_what_was_published() -> None:
    points = gpu_figures.roofline_points()
    measured = points[points["kind"] == "measured"]
    assert len(measured) == len(points) / 2 > 3
    # tritonbench PR 1267: FlashAttention-3 forward, 4 x 48 heads of 128, 8K tokens, causal: 684.7 TFLOPS.
    assert measured.loc[measured["name"] == "8K causal", "tflops"].tolist() == pytest.approx(
        [684.7], rel=1e-3
    )


def test_every_figure_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = {"expected": 1e-3, "got": 1.1e-3, "group": "a"}
    one = {"device": "a", "implementation": "x", "head_dim": 64, "window": 0, "n": 9}
    errors = {"mape_calibrated": 0.04, "mape_roofline": 0.1, "worst": 0.2}
    monkeypatch.setattr(gpu_figures, "run_one", lambda _: {"cases": [case], "sets": [{**one, **errors}]})
    names = {path.name for path in reproduce("gpu", tmp_path)}
    assert {f"{n}.png" for n in ("predicted_against_measured", "error_by_set", "roofline", "waves")} <= names
    assert "ceilings.csv" in names
