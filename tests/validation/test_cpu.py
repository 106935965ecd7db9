"""The CPU model's counts, worked by hand, and its arithmetic."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from kernels import bench_cpu
from kernels.measurement import Setting, as_table, write_table
from validation.cli import app
from validation.cpu import (
    Problem,
    Sweep,
    Work,
    blocked,
    chunked,
    errors,
    flexible,
    fused,
    materialised,
    predicted_s,
    rates_of,
    with_predictions,
)
from validation.measured import read_measured

RATES = {
    "threads": 1,
    "fused_flops_per_s": 1e9,
    "bmm_flops_per_s": 2e9,
    "softmax_per_s": 1e8,
    "masked_per_s": 5e7,
    "calls_per_s": 1e6,
    "copy_bytes_per_s": 1e9,
    "cached_copy_bytes_per_s": 4e9,
    "fresh_bytes_per_s": 1e8,
}


def test_fused_causal_attention_runs_whole_tiles() -> None:
    # 1024 tokens in four tiles of 256 queries reach 1, 1, 2 and 2 tiles of 512 keys: 256 * 6 * 512 pairs.
    found = fused(Problem(heads=1, seq=1024, head_dim=64, causal=True, window=0))
    assert found.fused == 4 * 64 * 256 * 6 * 512
    assert fused(Problem(1, 1024, 64, False, 0)).fused == 4 * 64 * 1024**2
    # Within one tile of keys nothing is saved.
    assert fused(Problem(1, 512, 64, True, 0)) == fused(Problem(1, 512, 64, False, 0))


def test_eager_attention_sweeps_every_score() -> None:
    found = materialised(Problem(2, 128, 32, False, 0))
    assert found.softmaxed == 2 * 128**2
    assert found.sweeps == (Sweep(2 * 128**2 * 4, 6, 3),)


def test_blocks_see_block_plus_window_keys() -> None:
    # 300 tokens are 3 blocks of 128 queries, each against 128 + 128 keys.
    found = blocked(Problem(1, 300, 64, True, 128))
    assert found.softmaxed == found.masked == 384 * 256


def test_chunked_linear_attention_is_linear() -> None:
    short, long = (chunked(Problem(1, n, 64, True, 0)).batched for n in (512, 1024))
    assert long == 2 * short


def test_flex_attention_visits_the_blocks_that_its_mask_leaves() -> None:
    # Four blocks of 128 a side: 10 of 16 below the diagonal; a window of 128 leaves each its own and the one before.
    dense, causal, window = (
        flexible(Problem(1, 512, 64, *mask)).fused for mask in ((False, 0), (True, 0), (True, 128))
    )
    assert (dense, causal, window) == tuple(4 * 64 * 128**2 * n for n in (16, 10, 7))
    # One key more reaches a block further.
    assert flexible(Problem(1, 512, 64, True, 130)).fused == 4 * 64 * 128**2 * 9


@pytest.mark.parametrize(
    ("sweep", "seconds"),
    [
        (Sweep(2**20, 4, 1), 4 * 2**20 / 4e9),  # in the caches
        (Sweep(2**22, 4, 1), 4 * 2**22 / 1e9),  # one tensor fits, what it is made to does not
        (Sweep(2**24, 4, 0), 4 * 2**24 / 1e9),  # in memory, in place
        (Sweep(2**26, 4, 1), 3 * 2**26 / 1e9 + 2**26 / 1e8),  # one of four sweeps goes to new pages
    ],
)
def test_time_is_the_sum_of_its_parts(sweep: Sweep, seconds: float) -> None:
    work = Work(fused=1e9, batched=1e9, softmaxed=1e8, masked=1e8, sweeps=(sweep,), calls=10**6)
    assert predicted_s(work, RATES) == pytest.approx(1.0 + 0.5 + 1.0 + 2.0 + 1.0 + seconds)


class Counted(TorchDispatchMode):
    """Counts the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("seq", [256, 1024])
def test_operators_are_counted_as_torch_dispatches_them(seq: int) -> None:
    tensors = torch.randn(3, 1, 2, seq, 64).unbind()
    causal, window = Problem(2, seq, 64, True, 0), Problem(2, seq, 64, True, 128)
    cases: list[tuple[Work, Callable[..., torch.Tensor]]] = [
        (materialised(Problem(2, seq, 64, False, 0)), bench_cpu.eager),
        (materialised(causal), partial(bench_cpu.eager, causal=True)),
        (blocked(window), partial(bench_cpu.blocked_window, window=128, block=128)),
        (chunked(causal), partial(bench_cpu.chunked_linear, chunk=64, decay=0.01)),
    ]
    with torch.inference_mode():
        bench_cpu.eager(*tensors, causal=True)  # makes its mask once
        for work, call in cases:
            with Counted() as counted:
                call(*tensors)
            assert counted.calls == work.calls


def measured(threads: int, *, seq: int = 1024) -> list[dict[str, object]]:
    same = {"batch": 1, "heads": 4, "seq_q": seq, "head_dim": 64, "threads": threads, "window": None}
    fused_row = {"implementation": "torch-sdpa", "causal": 0, "latency_ms": 2.0, "ratio": 1.0}
    eager_row = {"implementation": "torch-eager", "causal": 0, "latency_ms": 6.0, "ratio": 3.0}
    return [same | fused_row, same | eager_row, same | eager_row | {"implementation": "torch-other"}]


def rates(threads: int, *, seq: int = 1024, share: float = 1.0) -> dict[str, float]:
    return RATES | {
        "threads": threads, "batch": 1, "heads": 4, "seq": seq, "head_dim": 64, "cpu_share": share,
    }  # fmt: skip


def test_each_size_is_predicted_from_the_rates_of_its_own_rounds() -> None:
    fast = rates(1) | {name: 10 * RATES[name] for name in RATES if name != "threads"}
    table = with_predictions(pd.DataFrame(measured(1) + measured(1, seq=2048)), [fast, rates(1, seq=2048)])
    # What is not modelled is left out; ten times the rates are a tenth of the time and the same ratio.
    assert list(table["variant"]) == ["sdpa", "eager"] * 2
    work = fused(Problem(4, 1024, 64, False, 0))
    assert table["predicted [ms]"][0] == pytest.approx(100 * predicted_s(work, RATES))
    again = with_predictions(pd.DataFrame(measured(1)), [rates(1)])
    assert again["predicted ratio"][1] == pytest.approx(table["predicted ratio"][1])
    assert not len(with_predictions(pd.DataFrame(measured(1)), [rates(1, seq=2048)]))


def test_threads_that_others_kept_from_their_cpus_are_shown_and_not_judged() -> None:
    """One thread is timed by its own processor time, whatever the others do; two need their two CPUs."""
    busy = [rates(1, share=0.4), rates(2, share=0.7)]
    rows = pd.DataFrame(measured(1) + measured(2))
    table = with_predictions(rows, busy)
    assert list(table["judged"]) == [True, True, False, False]
    assert len(errors(table)) == 1
    assert errors(table).iloc[0] == pytest.approx(abs(table["predicted ratio"][1] / 3.0 - 1.0))
    assert len(errors(with_predictions(rows, [rates(1), rates(2, share=0.9)]))) == 2


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as `kernels bench --device cpu --out` writes it, of one small size."""
    rows, found = bench_cpu.measure(Setting(1, 1, 256, 32), (64,), count=1, budget_s=0.05)
    path = tmp_path_factory.mktemp("cpu") / "cpu.csv"
    write_table(as_table(rows), path)
    # What was written is what was measured, to six digits.
    (read,) = rates_of(read_measured(path))
    assert read["softmax_per_s"] == pytest.approx(found.softmax_per_s, rel=1e-5)
    return path


def validate(path: Path, *more: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, ["validate", "gpu", "--measured", str(path), *more])
    return found.exit_code, found.stdout, found.stderr


def test_a_file_of_the_bench_is_judged_by_its_ratios(written: Path) -> None:
    code, out, _ = validate(written, "--json")
    result = json.loads(out)
    rows = read_measured(written)
    assert result["suite"] == "cpu"
    # All but the baseline, which is its own measure.
    assert result["cells"] == len(rows) - 1 == 5
    for case, ratio in zip(result["cases"], rows["ratio"][1:], strict=True):
        assert case["expected"] == pytest.approx(ratio)
        assert case["relative_error"] == pytest.approx(abs(case["got"] / case["expected"] - 1.0))
        assert case["ok"] == (case["relative_error"] <= 0.3)
    middle = statistics.median(c["relative_error"] for c in result["cases"])
    assert result["median_relative_error"] == pytest.approx(middle)
    assert result["ok"] == (middle <= 0.3) == (code == 0)
    assert "median error of the predicted ratios" in result["notes"][0]
    assert "1 heads of 32, 256 tokens, 1 threads" in result["cases"][0]["case"]


def test_files_of_a_cpu_that_cannot_be_judged_say_so(written: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(written)
    bare = tmp_path / "bare.csv"
    rows.assign(extra="torch=2").to_csv(bare, index=False)
    assert "carry no rates of their CPU" in validate(bare)[2]
    alone = tmp_path / "alone.csv"
    rows[:1].to_csv(alone, index=False)
    assert "none of its 1 rows is left to judge" in validate(alone)[2]
    assert "take no --calibrate" in validate(written, "--calibrate", str(written))[2]
    other = tmp_path / "other.csv"
    rows.assign(implementation=[*rows["implementation"][:-1], "torch-other"]).to_csv(other, index=False)
    assert "1 rows are not judged: no work is known of torch-other" in validate(other)[2]
