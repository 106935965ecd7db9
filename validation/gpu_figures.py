"""Figures of the tile simulator with their tables: errors on published measurements, a roofline, a launch in waves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mappings.gpu import find_kernel_mapping
from simulator.gpu import plots
from simulator.gpu.call import Call, make_call
from simulator.gpu.model import predict
from simulator.gpu.prediction import Prediction
from simulator.gpu.visits import reach, tile_visits
from simulator.gpu.waves import timeline
from simulator.hardware.gpu import find_gpu

from .measured import PUBLISHED, read_measured
from .suites import run_one

KERNEL = "flash_attention"
DEVICE, IMPLEMENTATION, HEAD_DIM = "h100", "cuda-fa3", 128
# A causal launch of 512 blocks: long enough for waves, short enough to see every block.
EXAMPLE: Mapping[str, Any] = {"batch": 1, "heads": 8, "seq_q": 8192, "head_dim": HEAD_DIM, "causal": 1}
_FEW = 5  # sets of fewer rows have no error to speak of

Part = tuple[str, pd.DataFrame, Any]


def figures() -> Iterator[Part]:
    """Yield name, table and Axes: predicted against measured, error by set, roofline, waves."""
    result = run_one("gpu")
    cases, sets = pd.DataFrame(result["cases"]), pd.DataFrame(result["sets"])
    yield "predicted_against_measured", cases, plots.predicted_against_measured(cases)
    yield "error_by_set", sets, plots.error_by_set(sets[sets["n"] >= _FEW])
    points, ceilings = roofline_points(), pipe_ceilings()
    yield "roofline", points, plots.roofline(points, ceilings)
    yield "ceilings", ceilings, None
    waves = wave_events()
    yield "waves", waves, plots.wave_timeline(waves, sms=find_gpu(DEVICE).sms)


def roofline_points(
    device: str = DEVICE, implementation: str = IMPLEMENTATION, head_dim: int = HEAD_DIM
) -> pd.DataFrame:
    """Return published forward launches of a kernel and their predictions, as points of a roofline.

    Columns: kind (measured, predicted), name, intensity (useful operations / compulsory byte), tflops.
    """
    rows = read_measured(PUBLISHED / "gpu_measured.csv")
    mine = rows[(rows["implementation"] == implementation) & (rows["head_dim"] == head_dim)]
    mine = mine[(mine["direction"] == "fwd") & (mine["kernel"] == KERNEL)]
    mine = mine[[find_gpu(name).name == device for name in mine["device"]]]
    words = ("batch", "heads", "seq_q", "seq_kv", "head_dim", "causal", "dtype", "window", "kv_heads")
    out = []
    for row in mine.to_dict("records"):
        call = make_call(**{word: row[word] for word in words})
        intensity = call.flops() / (call.query_bytes() + call.key_bytes())
        name = f"{call.seq_q // 1024}K{' causal' if call.causal else ''}"
        seen = predict(
            KERNEL, on=device, implementation=implementation, **{word: row[word] for word in words}
        )
        measured = call.flops() / row["latency_ms"] / 1e9
        out += [("measured", name, intensity, measured), ("predicted", name, intensity, seen.tflops)]
    return pd.DataFrame(out, columns=["kind", "name", "intensity", "tflops"]).sort_values(
        ["kind", "intensity"]
    )


def pipe_ceilings(
    device: str = DEVICE, implementation: str = IMPLEMENTATION, head_dim: int = HEAD_DIM
) -> pd.DataFrame:
    """Return what each pipe of an SM allows a tile of a kernel, in useful TFLOPS, and the slope of the memory.

    Columns: name, tflops, bandwidth_tb_s (the one that does not apply is zero).
    """
    gpu = find_gpu(device)
    found = predict(KERNEL, on=gpu, implementation=implementation, **{**EXAMPLE, "head_dim": head_dim})
    flops = 4.0 * found.resources["query"] * found.resources["key"] * head_dim
    chip = gpu.sms * gpu.clock_hz / 1e12
    rows = [(name, flops / cycles * chip, 0.0) for name, cycles in found.pipes_cycles.items() if cycles > 0]
    memory = (f"{gpu.name} memory", 0.0, gpu.memory_bandwidth_bytes_per_s / 1e12)
    return pd.DataFrame([*rows, memory], columns=["name", "tflops", "bandwidth_tb_s"])


def wave_events(
    device: str = DEVICE, implementation: str = IMPLEMENTATION, sizes: Mapping[str, Any] = EXAMPLE
) -> pd.DataFrame:
    """Return every block of a launch as the greedy schedule places it, ending with the predicted compute time.

    Columns: slot, start, end [s], run, tiles (key tiles of the block).
    """
    found, call = predict(KERNEL, on=device, implementation=implementation, **sizes), make_call(**sizes)
    tiles = _tiles_of_blocks(found, call)
    if find_kernel_mapping(KERNEL, implementation).order == "longest_first":
        tiles = np.sort(tiles)[::-1]
    slots = find_gpu(device).sms * int(found.resources["blocks_per_sm"])
    events = timeline(tiles.tolist(), [call.batch * call.heads] * len(tiles), slots=slots)
    out = pd.DataFrame(events, columns=["slot", "start", "end", "run"])
    scale = found.parts_s["compute"] / out["end"].max()
    return out.assign(start=out["start"] * scale, end=out["end"] * scale, tiles=tiles[out["run"]])


def _tiles_of_blocks(found: Prediction, call: Call) -> np.ndarray[Any, np.dtype[np.float64]]:
    left, right = reach(causal=call.causal, window=call.window)
    query, key = found.resources["query"], found.resources["key"]
    visits = tile_visits(call.seq_q, call.seq_kv, query=query, key=key, left=left, right=right)
    return np.asarray(visits.visited[0], dtype=np.float64)
