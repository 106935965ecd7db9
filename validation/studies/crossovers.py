"""Co-design (b): attentions of the zoo as one layer over N tokens on spatial chips and GPUs, and where they cross."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from einsum_cascade import zoo
from einsum_cascade.errors import ModelError
from einsum_cascade.sizes import parse_sizes
from mappings.expression import evaluate_expression
from mappings.reader import read_yaml
from simulator.gpu.gna_tune import tune_gna
from simulator.gpu.model import predict
from simulator.gpu.prediction import Prediction
from simulator.hardware.reader import load_hardware
from simulator.spatial.default import default_mapping
from simulator.spatial.model import simulate

from .results import FOLDER

Floats = NDArray[np.float64]

RECIPES = FOLDER / "attentions.yaml"
EXACT = "attention_1pass"
COLUMNS = ("attention", "machine", "tokens", "latency_s", "low_s", "high_s", "bound_by", "error")
_FEW = (4096,)  # lengths that a part of the study recomputes, on every third of the spatial chips
# The tuner gives no interval; this is the largest error of a published bar that it was not fitted on (gna suite).
_GNA_SPREAD = 0.15
_TIE = 0.01


def recipes() -> dict[str, Any]:
    """Return the layers and machines of the study, as attentions.yaml lists them."""
    found: dict[str, Any] = dict(read_yaml(RECIPES)[0])
    return found


def table(*, full: bool) -> pd.DataFrame:
    """Return the time of every attention on every machine by length; `error` says why there is none."""
    recipe = recipes()
    lengths = recipe["lengths"] if full else _FEW
    if not full:
        recipe |= {"spatial": recipe["spatial"][::3]}
    rows = [
        {"attention": name, "machine": machine, "tokens": n, **found}
        for name, layer in recipe["attentions"].items()
        for machine, one in _machines(recipe)
        for n in lengths
        for found in [_tried(one, name, layer, n, recipe)]
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).fillna({"error": "", "bound_by": ""})


def calls(
    layer: Mapping[str, Any], tokens: int, recipe: Mapping[str, Any]
) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Yield the kernel calls of a layer over so many tokens: the kernel, how many of it, and its sizes."""
    for call in layer["calls"]:
        sizes = {
            name: _count(value, tokens) for name, value in call.items() if name not in ("kernel", "times")
        }
        fixed = {"batch": 1, "heads": recipe["heads"], "head_dim": recipe["head_dim"], "dtype": "bf16"}
        yield call["kernel"], float(call.get("times", 1)), {**fixed, **sizes}


def sizes_of(
    name: str, layer: Mapping[str, Any], tokens: int, recipe: Mapping[str, Any]
) -> Mapping[str, int]:
    """Return the sizes of a layer's cascade: its ranks, the heads and a batch of one."""
    ranks = {rank: _count(value, tokens) for rank, value in layer["sizes"].items()}
    text = ",".join(f"{rank}={size}" for rank, size in {**ranks, "H": recipe["heads"], "B": 1}.items())
    return parse_sizes(text, zoo.load(name))


def crossings(times: pd.DataFrame, *, baseline: str = EXACT) -> pd.DataFrame:
    """Return from which length on an attention stays faster than another; log-log interpolation between lengths.

    Args:
        times: columns attention, machine, tokens, latency_s; lengths rising.
        baseline: the attention to beat.

    Returns:
        attention, machine, tokens and latency_s of the last point where both take equally long, or of the first
        length of the table where the attention is always faster; attentions that are slower at the last length have
        no row.
    """
    rows = []
    for (machine, name), own in times.dropna(subset=["latency_s"]).groupby(
        ["machine", "attention"], sort=False
    ):
        base = times[(times["machine"] == machine) & (times["attention"] == baseline)]
        both = own.merge(base, on="tokens", suffixes=("", "_base")).dropna(subset=["latency_s_base"])
        x, y = np.log(both["tokens"].to_numpy(dtype=float)), np.log(both["latency_s"].to_numpy())
        late = y - np.log(both["latency_s_base"].to_numpy())
        if name == baseline or late[-1] >= 0:
            continue
        slower = np.flatnonzero(late >= 0)
        at = x[0] if not slower.size else _root(x, late, int(slower[-1]))
        values = (name, machine, float(np.exp(at)), float(np.exp(np.interp(at, x, y))))
        rows.append(dict(zip(("attention", "machine", "tokens", "latency_s"), values, strict=True)))
    return pd.DataFrame(rows)


def fastest(times: pd.DataFrame) -> pd.DataFrame:
    """Return the fastest attention of each kind, by what a query reads, for every machine and length.

    Attentions within a hundredth of the fastest are as fast: then exact one-pass attention, or the first of the list.

    Columns: reads, machine, tokens, attention, speedup (over exact one-pass attention on the same machine).
    """
    layers = recipes()["attentions"]
    known = times.dropna(subset=["latency_s"])
    known = known.assign(
        reads=known["attention"].map({name: layer["reads"] for name, layer in layers.items()})
    )
    exact = known[known["attention"] == EXACT][["machine", "tokens", "latency_s"]]
    both = known.merge(exact, on=["machine", "tokens"], suffixes=("", "_exact"))
    least = both.groupby(["reads", "machine", "tokens"])["latency_s"].transform("min")
    rank = both["attention"].map({name: i for i, name in enumerate((EXACT, *layers))} | {EXACT: -1})
    ties = both.assign(rank=rank)[both["latency_s"] <= least * (1 + _TIE)].sort_values("rank", kind="stable")
    best = ties.groupby(["reads", "machine", "tokens"]).head(1).sort_index()
    best = best.assign(speedup=best["latency_s_exact"] / best["latency_s"])
    return best[["reads", "machine", "tokens", "attention", "speedup"]].reset_index(drop=True)


def _root(x: Floats, late: Floats, i: int) -> float:
    """Return where a line from point i, which is not below zero, to the next one, which is, passes zero."""
    return float(x[i] + (x[i + 1] - x[i]) * late[i] / (late[i] - late[i + 1]))


def _machines(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    spatial = [(name, _on_chip(name)) for name in recipe["spatial"]]
    return [*spatial, *((name, _on_gpu(name, kernel)) for name, kernel in recipe["gpus"].items())]


def _tried(
    one: Any, name: str, layer: Mapping[str, Any], tokens: int, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        return dict(one(name, layer, tokens, recipe))
    except ModelError as error:
        return {"error": str(error).splitlines()[0]}


def _on_chip(chip: str) -> Any:
    def one(name: str, layer: Mapping[str, Any], tokens: int, recipe: Mapping[str, Any]) -> dict[str, Any]:
        cascade, sizes, hardware = zoo.load(name), sizes_of(name, layer, tokens, recipe), load_hardware(chip)
        found = simulate(cascade, sizes, hardware, default_mapping(cascade, sizes, hardware))
        s = float(found.latency_s)
        return {"latency_s": s, "low_s": s, "high_s": s, "bound_by": str(found.bound_by)}

    return one


def _on_gpu(gpu: str, implementation: str) -> Any:
    def one(name: str, layer: Mapping[str, Any], tokens: int, recipe: Mapping[str, Any]) -> dict[str, Any]:
        if "gna" in layer:
            setting = {k: _count(v, tokens) for k, v in layer["gna"].items()}
            best = tune_gna(**setting, on=gpu, heads=recipe["heads"], head_dim=recipe["head_dim"], top=1)
            s = best.choices[0].latency_s
            return {
                "latency_s": s,
                "low_s": s * (1 - _GNA_SPREAD),
                "high_s": s * (1 + _GNA_SPREAD),
                "bound_by": "tiles",
            }
        found: list[tuple[float, Prediction]] = [
            (times, predict(kernel, on=gpu, implementation=implementation, **sizes))
            for kernel, times, sizes in calls(layer, tokens, recipe)
        ]
        slowest = max(found, key=lambda each: each[0] * each[1].latency_s)[1]
        sums = {f: sum(n * getattr(p, f) for n, p in found) for f in ("latency_s", "low_s", "high_s")}
        return {**sums, "bound_by": slowest.bound_by}

    return one


def _count(value: Any, tokens: int) -> int:
    return int(evaluate_expression(value, {"N": tokens}, where=RECIPES.name))
