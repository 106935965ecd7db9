"""Co-design (c): an H100 with twice the exponentials or half the L2, for attention and neighbourhood attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil, prod
from typing import Any

import pandas as pd

from mappings.tiles import PerScore, TileMapping
from simulator.gpu.gna_choice import Choice
from simulator.gpu.gna_time import predict_gna
from simulator.gpu.gna_tune import tune_gna
from simulator.gpu.model import predict
from simulator.gpu.prediction import Prediction
from simulator.gpu.tile import TileTime, tile_time
from simulator.hardware.gpu import Gpu
from simulator.hardware.reader import load_hardware

DEVICE, IMPLEMENTATION = "h100", "cuda-fa3"
VARIANTS: Mapping[str, Mapping[str, str]] = {
    "twice the exponentials": {"exp_per_cycle": "x2"},
    "half the L2 capacity": {"l2": "x0.5"},
    "half the L2 capacity and rate": {"l2": "x0.5", "l2_bandwidth": "x0.5"},
}
TOKENS = 65536  # of a batch: 64 sequences of 1K, one of 64K
HEADS, HEAD_DIMS, LENGTHS = 16, (64, 128, 256), (1024, 8192, 65536)
MASKS: Mapping[str, Mapping[str, int]] = {
    "dense": {},
    "causal": {"causal": 1},
    "window 1024": {"causal": 1, "window": 1024},
}
# Published use cases of GNA, without a stride and with the best one of the tuner.
PROBLEMS: Mapping[str, Mapping[str, Any]] = {
    "HunyuanVideo": {"layout": (30, 48, 80), "window": (18, 24, 24)},
    "FLUX 4K": {"layout": (256, 256), "window": 80},
}
GNA_HEADS, GNA_HEAD_DIMS = 24, (64, 128)
_KEY_BYTES = 2 * 2  # a key and a value element of 16 bits
COLUMNS = ("what", "head_dim", "tokens", "variant", "latency_s", "speedup", "speedup_apart", "bound_by")


def table(*, full: bool) -> pd.DataFrame:
    """Return the speedup of every kernel on every variant, and the pipe that binds it there.

    Two extremes stand side by side. `speedup`: groups of rows queue for products and softmax, as predicted, and blocks
    walk over the keys in step, so that the L2 serves all but the first. `speedup_apart`: products and exponentials take
    turns, and blocks drift apart, so that keys which do not fit into the L2 come from memory for every block.

    Columns: what (mask, or problem and stride), head_dim, tokens (of a sequence), variant, latency_s (of the first
    extreme), speedup, speedup_apart, bound_by.
    """
    dims = HEAD_DIMS if full else HEAD_DIMS[1:2]
    changed = {name: load_hardware(DEVICE, change) for name, change in VARIANTS.items()}
    rows = [row for d in dims for kernel in (_attention, _neighbourhood) for row in kernel(d, changed)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _attention(head_dim: int, changed: Mapping[str, Gpu]) -> Iterator[dict[str, Any]]:
    for mask, more in MASKS.items():
        for n in LENGTHS:
            call = {
                "batch": TOKENS // n,
                "heads": HEADS,
                "seq_q": n,
                "seq_kv": n,
                "head_dim": head_dim,
                **more,
            }
            own = load_hardware(DEVICE)
            was = _on(own, call)
            for name, gpu in changed.items():
                now = _on(gpu, call)
                apart = _apart_s(was, own, was, call) / _apart_s(now, gpu, was, call)
                yield _row(mask, head_dim, n, name, now.latency_s, was.latency_s, apart, now.bound_by)


def _on(gpu: Gpu, call: Mapping[str, Any]) -> Prediction:
    return predict("flash_attention", on=gpu, implementation=IMPLEMENTATION, **call)


def _apart_s(found: Prediction, gpu: Gpu, own: Prediction, call: Mapping[str, Any]) -> float:
    """Return the seconds of a call at the other extreme: pipes take turns, blocks drift apart.

    Args:
        found: the prediction on this GPU.
        gpu: this GPU.
        own: the prediction on the GPU as it is, which says what its products and exponentials take together.
        call: its sizes.
    """
    query, key = found.resources["query"], found.resources["key"]
    compute = own.parts_s["compute"]
    serial = max(own.latency_s - compute, 0.0) + compute * _serial(found.pipes_cycles) / _serial(
        own.pipes_cycles
    )
    tiles_of_head = ceil(call["seq_q"] / query)
    seen = call["seq_kv"] if not call.get("window") else min(call["seq_kv"], gpu.sms * query + call["window"])
    in_flight = ceil(gpu.sms / tiles_of_head) * seen * call["head_dim"] * _KEY_BYTES
    if in_flight <= gpu.l2_bytes:
        return serial
    visits = found.tiles["full"] + found.tiles["masked"]
    return max(serial, visits * key * call["head_dim"] * _KEY_BYTES / gpu.memory_bandwidth_bytes_per_s)


def _neighbourhood(head_dim: int, changed: Mapping[str, Gpu]) -> Iterator[dict[str, Any]]:
    """Yield rows of the published problems; all windows of the blocks in flight fit into half the L2."""
    if head_dim not in GNA_HEAD_DIMS:
        return
    for problem, setting in PROBLEMS.items():
        best = tune_gna(**setting, on=DEVICE, heads=GNA_HEADS, head_dim=head_dim, top=1).choices[0]
        fixed = {
            **setting,
            "q_tile": best.q_tile,
            "kv_tile": best.kv_tile,
            "heads": GNA_HEADS,
            "head_dim": head_dim,
        }
        tile = _tile(load_hardware(DEVICE), best, head_dim)
        for kind, stride in (("stride 1", 1), ("best stride", best.stride)):
            was = predict_gna(**fixed, stride=stride, on=DEVICE)
            for name, gpu in changed.items():
                now, after = predict_gna(**fixed, stride=stride, on=gpu), _tile(gpu, best, head_dim)
                apart_s = was.latency_s + was.kernel_s * (after.serial / tile.serial - 1)
                yield _row(
                    f"{problem}, {kind}", head_dim, prod(setting["layout"]), name,
                    now.latency_s, was.latency_s, was.latency_s / apart_s, after.bound_by,
                )  # fmt: skip


def _row(
    what: str,
    head_dim: int,
    tokens: int,
    variant: str,
    now_s: float,
    was_s: float,
    apart: float,
    bound_by: str,
) -> dict[str, Any]:
    values = (what, head_dim, tokens, variant, now_s, was_s / now_s, apart, bound_by)
    return dict(zip(COLUMNS, values, strict=True))


def _serial(pipes: Mapping[str, float]) -> float:
    """Return the cycles of a tile whose products and exponentials take turns; its slowest pipe is a bound still."""
    vector = max(pipes[name] for name in ("exp", "fma", "alu"))
    return max(pipes["tensor"] + vector, *pipes.values())


def _tile(gpu: Gpu, choice: Choice, head_dim: int) -> TileTime:
    tile = TileMapping(query=prod(choice.q_tile), key=prod(choice.kv_tile))
    return tile_time(gpu, tile, head_dim=head_dim, dtype="fp16", per_score=PerScore())
