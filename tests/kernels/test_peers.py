"""Other people's kernels beside ours, with stand-ins for packages and for a GPU: gate, rows, where ours stands."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from einsum_cascade.errors import KernelError
from kernels import (
    bench,
    bench_cuda,
    device,
    inputs,
    journal,
    peers,
    reference,
    report,
    timing,
    unattended,
)
from kernels.measurement import Setting, as_table

SMALL = Setting(1, 2, 33, 16, dtype="fp32")


def module(monkeypatch, name, **functions):
    """Put a stand-in package, and its parents, where an import finds it."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    for key, value in functions.items():
        setattr(sys.modules[name], key, value)


def retention(q, k, v, *, scale):
    """As fla has it: heads behind the sequence, rates of RetNet, a state beside the result."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    rates = -torch.log1p(-(2.0 ** -(5.0 + torch.arange(q.shape[1]))))
    (out,) = reference.linear_attention(q * scale, k, v, decay=rates)
    return out.transpose(1, 2), None


def na2d(q, k, v, *, kernel_size):
    """As natten has it: heads behind the layout."""
    q, k, v = (t.movedim(-2, 1) for t in (q, k, v))
    return reference.neighborhood_attention(q, k, v, window=kernel_size)[0].movedim(1, -2)


def test_without_the_packages_there_are_only_torch_s_own():
    if any(peers._installed(n) for n in ("fla", "natten")):
        pytest.skip("one of them is installed")
    names = [name for name, _ in peers.peers(bench_cuda.attention(SMALL))]
    assert names == ["sdpa-flash", "sdpa-cudnn", "sdpa-mem-efficient", "flex-attention"]
    assert not list(peers.peers(bench_cuda.neighborhood(SMALL, layout=(3, 11), window=(3, 3))))


def test_fla_is_entered_and_agrees(monkeypatch):
    module(monkeypatch, "fla.ops.retention", chunk_retention=retention)
    problem = peers.Problem("linear_attention", SMALL, 1.0, bench_cuda._sizes(SMALL))
    ((name, call),) = peers.peers(problem)
    tensors = inputs.linear(heads=2, seq_q=33, seq_kv=33, head_dim=16)
    assert name == "fla"
    assert torch.allclose(call(tensors), reference.linear_attention(**tensors)[0], atol=1e-5)


def test_natten_is_measured_beside_ours(monkeypatch):
    module(monkeypatch, "natten", na2d=na2d)
    problem = bench_cuda.neighborhood(replace(SMALL, seq=35), layout=(5, 7), window=(3, 3))
    rows = bench_cuda.measure(problem, on="cpu", budget_s=0.0, clock=lambda call: (call(), 0.002)[1])
    assert [r.implementation for r in rows] == ["triton-cascade", "natten"]
    assert all(r.latency_ms == 2.0 and r.ratio == 1.0 for r in rows)
    assert all("layout=(5, 7)" in r.extra and "window=(3, 3)" in r.extra for r in rows)
    # Eight times 35 visible pairs are 4 x heads x 16 x 35 x 9 operations in 2 ms.
    assert rows[0].tflops == pytest.approx(4 * 2 * 16 * 35 * 9 / 0.002 / 1e12)


@pytest.mark.parametrize("package", ["natten", "fla.ops.retention"])
def test_what_a_peer_is_given_is_laid_out_for_it_before_it_is_timed(monkeypatch, package):
    """Copies of q, k and v would count against it, and take longer than a small window does."""
    given = []

    def other(q, k, v, **options):
        given.append(q)
        return na2d(q, k, v, **options) if package == "natten" else retention(q, k, v, **options)

    module(monkeypatch, package, **{"natten": {"na2d": other}}.get(package, {"chunk_retention": other}))
    if package == "natten":
        problem = bench_cuda.neighborhood(replace(SMALL, seq=35), layout=(5, 7), window=(3, 3))
    else:
        problem = peers.Problem("linear_attention", SMALL, 1.0, bench_cuda._sizes(SMALL))
    ((_, call),) = peers.peers(problem)
    first, second = (bench_cuda.rotating(problem, "cpu")[0] for _ in range(2))
    for tensors in (first, second, first, second):
        call(tensors)
    assert all(q.is_contiguous() and q.shape[-2] == SMALL.heads for q in given)
    assert [id(q) for q in given[2:]] == [id(q) for q in given[:2]]
    assert given[0] is not given[1]


def test_a_peer_that_is_wrong_is_not_timed(monkeypatch, capsys):
    module(
        monkeypatch, "natten", na2d=lambda q, k, v, kernel_size: 1.01 * na2d(q, k, v, kernel_size=kernel_size)
    )
    problem = bench_cuda.neighborhood(replace(SMALL, seq=35), layout=(5, 7), window=(3, 3))
    rows = bench_cuda.measure(problem, on="cpu", budget_s=0.0, clock=lambda call: 1.0)
    assert [r.implementation for r in rows] == ["triton-cascade"]
    assert "natten: relative error" in capsys.readouterr().err


@pytest.mark.parametrize(
    "how", [TypeError("unexpected keyword"), ValueError("no such layout"), AssertionError()]
)
def test_a_peer_of_another_version_is_left_out_with_a_word(monkeypatch, capsys, how):
    def other(q, k, v, *, kernel_size):
        raise how

    module(monkeypatch, "natten", na2d=other)
    problem = bench_cuda.neighborhood(replace(SMALL, seq=35), layout=(5, 7), window=(3, 3))
    rows = bench_cuda.measure(problem, on="cpu", budget_s=0.0, clock=lambda call: 1.0)
    assert [r.implementation for r in rows] == ["triton-cascade"]
    assert "natten is left out" in capsys.readouterr().err


def test_our_own_kernel_must_be_right():
    problem = bench_cuda.neighborhood(replace(SMALL, seq=35), layout=(5, 7), window=(3, 3))
    tensors = bench_cuda.rotating(problem, "cpu")[0]
    rows, expected = bench_cuda._truth(problem, tensors)
    with pytest.raises(KernelError, match="triton-cascade: relative error"):
        bench_cuda._admitted("triton-cascade", lambda t: 1.01 * expected, problem, tensors, (rows, expected))


def test_a_backend_that_is_not_there_is_left_out(monkeypatch):
    """PyTorch has no cuDNN and no flash attention in float32 on a CPU; what it has is timed."""

    def plain(problem):
        yield (
            "absent",
            lambda t: (_ for _ in ()).throw(RuntimeError("No available kernel. Aborting execution.")),
        )
        yield "sdpa", lambda t: scaled_dot_product_attention(t["q"], t["k"], t["v"], is_causal=True)

    monkeypatch.setattr(bench_cuda, "peers", plain)
    times = iter([0.003, 0.002])
    rows = bench_cuda.measure(
        bench_cuda.attention(replace(SMALL, causal=True)),
        on="cpu", budget_s=0.0, clock=lambda call: (call(), next(times))[1],
    )  # fmt: skip
    assert [r.implementation for r in rows] == ["triton-cascade", "sdpa"]
    (stands,) = report.standing(as_table(rows))
    assert (stands["best_other"], stands["others"]) == ("sdpa", 1)
    assert stands["speedup"] == pytest.approx(2 / 3)
    assert stands["window"] is None
    _, ((*_, speedup),) = report.standing_rows(as_table(rows))
    assert speedup == pytest.approx(2 / 3)


def test_a_row_of_the_interpreter_cannot_pass_for_a_gpu():
    assert device.measured_name("cpu").startswith("Triton interpreter")


def test_a_broken_package_is_not_taken_for_an_absent_one(monkeypatch, tmp_path):
    (tmp_path / "halfway.py").write_text("import something_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_it_needs"):
        peers._installed("halfway")


@pytest.mark.parametrize("quick", [True, False])
def test_a_bench_that_ends_early_has_seen_every_kind_of_problem(quick):
    made = list(bench_cuda.settings(quick=quick))
    first = [p for p in made if p.setting.seq == 4096]
    assert made[: len(first)] == first

    def kinds(problems):
        return {(p.kernel, p.setting.head_dim, p.setting.causal, p.setting.window) for p in problems}

    assert kinds(first) == kinds(made)
    assert first[0].setting.head_dim == 128


def test_what_a_bench_had_no_time_for_is_told(monkeypatch, tmp_path, capsys):
    """With a stand-in for the device, which measures two problems and fails a third."""
    every = list(bench_cuda.settings(quick=True))
    path = tmp_path / "rows.csv"
    monkeypatch.setattr(device, "resolve", lambda asked: "cuda")
    monkeypatch.setattr(device, "measured_name", lambda on: "a stand-in")

    def supervise(work, path, *rest, minutes):
        spread = timing.spread([1.0])
        for p in every[:2]:
            row = bench_cuda._row(p, "triton-cascade", spread, spread, {"commit": "c"}, "cuda")
            journal.append(path, [row])
        journal.fail(path, bench_cuda.key_of(every[2], "cuda"), "KernelError: wrong", commit=device.commit())

    monkeypatch.setattr(unattended, "supervise", supervise)
    bench.run("cuda", quick=True, out=path)
    said = capsys.readouterr().err
    assert f"{len(every) - 3} of {len(every)} problems are left" in said
    assert "1 problems failed: KernelError: wrong" in said


@pytest.mark.parametrize("quick", [True, False])
def test_the_problems_of_the_bench_are_those_of_the_table(quick):
    made = list(bench_cuda.settings(quick=quick))
    assert {p.kernel for p in made} == {"flash_attention", "linear_attention", "neighborhood_attention"}
    lengths = bench_cuda.QUICK if quick else bench_cuda.FULL
    flash = [p.setting for p in made if p.kernel == "flash_attention"]
    assert {s.seq for s in flash} == set(lengths)
    assert {s.head_dim for s in flash} == {64, 128}
    assert {(s.causal, s.window) for s in flash} == {(False, None), (True, None), (True, 1024)}
