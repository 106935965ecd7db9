"""Kernels written from the text of a cascade, run in the interpreter against the evaluator of that text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import MORE
from hypothesis import HealthCheck, given, settings
from strategies import Use, uses
from written_files import run, written_file

from einsum_cascade import evaluate, gradients, in_chunks, parse, zoo
from einsum_cascade.errors import KernelError
from einsum_cascade.evaluator import difference, points, random_inputs
from einsum_cascade.zoo import reference
from einsum_cascade.zoo.entries import sizes_at
from kernels import written
from kernels.written import check_written, compile_written, load_written, time_written
from simulator.gpu.fusion import kernels as planned
from simulator.gpu.writing.program import write_program
from simulator.gpu.writing.terms import CannotWriteError
from simulator.hardware.gpu import find_gpu

# Sums of up to some hundred terms in float32 against float64, at values of any size.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", zoo.names())
def test_an_entry_of_the_zoo_computes_what_its_text_says(name: str, tmp_path: Path) -> None:
    """At the sizes and numbers at which the text itself is compared with its formula."""
    sizes, inputs = reference.draw(name, seed=1)
    cascade = zoo.load(name)
    found = run(written_file(tmp_path, cascade, sizes, dtype="fp32"), inputs)
    for tensor, value in evaluate(cascade, sizes, inputs).items():
        assert difference(found[tensor], value) <= TOLERANCE


@settings(max_examples=40 * MORE, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(use=uses())
def test_a_random_cascade_computes_what_its_text_says(use: Use, tmp_path: Path) -> None:
    try:
        file = written_file(tmp_path, use.cascade, use.sizes, dtype="fp32")
    except CannotWriteError:
        return
    found = run(file, use.inputs)
    for tensor, value in evaluate(use.cascade, use.sizes, use.inputs).items():
        assert difference(found[tensor], value) <= TOLERANCE


# Tiles that divide no rank, several of them along each, steps behind a mask, more than one element of the batch.
ODD = "E=24,F=40,M=150,P=170,B=2"
SPLIT = "E=24,F=40,M1=5,M0=30,P=170,B=2"


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("attention_3pass", ODD),
        ("attention_causal", "E=24,F=40,M=170,P=170,B=2"),
        ("attention_sliding_window", "E=24,F=40,M=170,P=170,W=37,B=2"),
        ("attention_1pass_causal", SPLIT),
        ("attention_1pass_sliding_window", f"{SPLIT},W=37"),
        ("gemm", "M=150,N=70,K=90,B=3"),
    ],
)
def test_tiles_that_divide_nothing(name: str, sizes: str, dtype: str, tmp_path: Path) -> None:
    file = written_file(tmp_path, zoo.load(name), sizes, dtype=dtype)
    assert any(blocks > 1 for _, _, blocks, _, _ in file.launches)
    outcome = check_written(file)
    assert outcome.ok, outcome


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("attention_causal", "E=24,F=40,M=70,P=70"),
        ("attention_grouped_query", "E=16,F=16,M=33,P=33,D=2,G=2"),
        ("gna_1d", "E=16,F=16,M=40,P=40,W=9,S=3"),
    ],
)
def test_a_backward_pass_computes_what_autograd_does(name: str, sizes: str, tmp_path: Path) -> None:
    """Nobody has written its text or its kernels; what the forward pass saves is taken from the evaluator."""
    found = gradients(zoo.load(name), saved="small")
    whole = gradients(zoo.load(name)).cascade
    inputs = random_inputs(whole, sizes, seed=3)
    every = evaluate(whole, sizes, inputs, keep_all=True)
    given = {s.tensor: inputs.get(s.tensor, every.get(s.tensor)) for s in found.cascade.inputs}
    made = run(written_file(tmp_path, found.cascade, sizes, dtype="fp32"), given)
    queries, keys, values, weights = (torch.tensor(inputs[t]) for t in ("Q", "K", "V", "DAV"))
    for x in (queries, keys, values):
        x.requires_grad_()
    # The scores' mask comes from the text's own points, the rest from PyTorch.
    groups = 1 if name != "attention_grouped_query" else 2
    wide = [x.repeat_interleave(groups, 0) if groups > 1 else x for x in (keys, values)]
    scores = torch.einsum("...ep,...em->...mp", queries, wide[0])
    exists = points(zoo.load(name), sizes, {t: inputs[t] for t in "QKV"})["QK"].present
    weighed = scores.masked_fill(~torch.tensor(exists), -torch.inf).softmax(-2)
    (torch.einsum("...mp,...fm->...fp", weighed, wide[1]) * weights).sum().backward()
    for tensor, x in {"DQ": queries, "DK": keys, "DV": values}.items():
        assert x.grad is not None
        assert difference(made[tensor], x.grad.numpy()) <= TOLERANCE


def test_a_recurrence_s_backward_pass_in_chunks_computes_what_its_text_says(tmp_path: Path) -> None:
    backward = gradients(zoo.load("linear_recurrent"), ["Q", "K", "V"]).cascade
    chunked = in_chunks(in_chunks(backward, "T").cascade, "U").cascade
    sizes = "E=16,F=16,T1=3,T0=16"
    inputs = random_inputs(chunked, sizes, seed=1)
    made = run(written_file(tmp_path, chunked, sizes, dtype="fp32"), inputs)
    for tensor, value in evaluate(backward, "E=16,F=16,T=48", inputs).items():
        assert difference(made[tensor].reshape(value.shape), value) <= TOLERANCE


@pytest.mark.parametrize(
    "name", ["gated_linear", "linear_recurrent", "deltanet", "rwkv6", "rwkv7", "kimi_delta"]
)
def test_what_a_step_leaves_to_the_next_is_whole(name: str, tmp_path: Path) -> None:
    """Heads longer than a step of 64: a state walked along its own axis had kept the last part of it alone."""
    file = written_file(tmp_path, zoo.load(name), "E=80,F=72,T=5,H=1", dtype="fp32")
    assert check_written(file).ok


@pytest.mark.parametrize(
    ("name", "gates"),
    [("deltanet", ()), ("kimi_delta", ("ALPHA",)), ("mamba2_recurrent", ()), ("titans", ())],
)
def test_a_recurrence_in_chunks_computes_what_its_steps_do(
    name: str, gates: tuple[str, ...], tmp_path: Path
) -> None:
    """Three chunks of 16, against the evaluator's walk of the recurrence; keys of length one, as layers make them."""
    cascade = zoo.load(name)
    chunked = in_chunks(cascade, size=16, positive=gates, apart=bool(gates)).cascade
    sizes = {"E": 24, "F": 20, "T": 48}
    inputs = random_inputs(cascade, sizes, seed=2)
    inputs |= {t: 1 / (1 + np.exp(-inputs[t])) for t in gates}
    if "K" in inputs:
        inputs["K"] /= np.linalg.norm(inputs["K"], axis=0)
    found = run(written_file(tmp_path, chunked, {"E": 24, "F": 20, "T1": 3}, dtype="fp32"), inputs)
    for tensor, value in evaluate(cascade, sizes, inputs).items():
        assert difference(found[tensor].reshape(value.shape), value) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        # An inner walk over a head that is too long for a product to take at once; one that is not.
        ("attention_2pass", "E=300,F=24,M=70,P=20"),
        ("attention_1pass", "E=300,F=24,M0=35,M1=2,P=20"),
        ("attention_2pass", "E=200,F=24,M=70,P=20"),
        # The one side of a product is the other side of the next, turned.
        ("linear_chunked", "E=40,F=24,T0=16,T1=3"),
        ("titans_chunked", "E=20,F=20,T0=16,T1=2"),
        # Selections from longer rows than a step.
        ("attention_indexed", "D=20,E=20,F=24,H=2,M=150,N=3,P=6,R=70"),
    ],
)
def test_walks_inside_walks(name: str, sizes: str, tmp_path: Path) -> None:
    assert check_written(written_file(tmp_path, zoo.load(name), sizes, dtype="fp32")).ok


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("gemm", "M=4K,N=4K,K=4K"),
        ("attention_1pass", "E=128,F=128,M0=64,M1=64,P=4K,H=32"),
    ],
)
@pytest.mark.parametrize(("on", "target"), [("a100", "sm_80"), ("l40s", "sm_89"), ("h100", "sm_90")])
def test_shared_memory_is_planned_as_the_compiler_allots_it(
    name: str, sizes: str, on: str, target: str, tmp_path: Path
) -> None:
    """Operands of products, two or three stages of those that move; some KiB beside them are for reductions."""
    program = write_program(zoo.load(name), sizes, on=on)
    (tmp_path / "mine.py").write_text(program.text)
    made = compile_written(load_written(tmp_path / "mine.py"), target)
    for choice, resources in zip(program.choices, made, strict=True):
        held = choice.kernel.work.held
        assert 0 <= resources.shared_bytes - held.shared <= 4096
        # Registers are planned more coarsely: of 235 kernels of the zoo half came within a quarter.
        assert 0.5 < held.registers / (4 * 32 * resources.registers * held.warps) < 2
        assert resources.stack_bytes == 0


@pytest.mark.parametrize(
    "name", ["gated_linear", "rwkv7", "gna_2d", "halo_attention", "squeeze_excite", "titans"]
)
def test_what_is_written_at_real_sizes_compiles_and_can_be_launched(name: str, tmp_path: Path) -> None:
    """The interpreter runs small sizes alone; Triton's types and scopes, and what a block can have, show here."""
    gpu = find_gpu("h100")
    file = written_file(tmp_path, zoo.load(name), sizes_at(name, 4096), on=gpu)
    for made in compile_written(file, "sm_90"):
        assert made.shared_bytes <= gpu.shared_bytes_per_block


def test_a_tensor_that_is_needed_both_ways_round_is_loaded_once(tmp_path: Path) -> None:
    file = written_file(tmp_path, zoo.load("linear_chunked"), "E=64,F=64,T0=64,T1=64", dtype="bf16")
    text = file.path.read_text()
    assert text.count("tl.load(K_ptr") == text.count("tl.load(V_ptr") == 1
    assert text.count("tl.permute(") >= 2


def test_long_sums_without_products_take_a_tile_of_terms_at_a_time(tmp_path: Path) -> None:
    """64 terms for each of one row would leave half of the threads idle, and wait for memory in each step."""
    file = written_file(
        tmp_path,
        parse("cascade rows\nrank M P\ninput X[P, M]\noutput Y[P]\nY[p] = X[p, m] :: max(m)"),
        "P=8,M=50K",
        dtype="fp32",
    )
    (launch,) = file.launches[:1]
    assert launch[3]["BLOCK_M"] * launch[3].get("BLOCK_P", 1) >= 2048


@pytest.mark.parametrize(
    "groups", [None, [["QK", "GM"], ["SN", "SD"], ["A", "AV"]], [["QK"], ["GM", "SN", "SD", "A"]]]
)
def test_kernels_that_somebody_chose(groups, tmp_path: Path) -> None:
    file = written_file(tmp_path, zoo.load("attention_causal"), ODD, kernels=groups, dtype="fp32")
    assert check_written(file).ok


ODD_NAMES = """cascade odd
rank In Tl Pid
input TORCH[In, Tl] P_first[Tl, Pid] TL[Pid]
output RUN[In, Pid] TRITON[In]
RUN[in, pid] = TORCH[in, tl] * P_first[tl, pid] * TL[pid]
TRITON[in] = RUN[in, pid] :: max(pid) where pid <= in
"""


def test_names_that_python_or_triton_uses_itself(tmp_path: Path) -> None:
    outcome = check_written(written_file(tmp_path, parse(ODD_NAMES), "In=20,Tl=30,Pid=40", dtype="fp32"))
    assert outcome.ok, outcome
    with pytest.raises(CannotWriteError, match="tensor SIZES: the file needs this name itself"):
        write_program(parse("cascade o\nrank M\ninput SIZES[M]\noutput Y[M]\nY[m] = SIZES[m]\n"), "M=3")


@pytest.fixture
def in_parts(monkeypatch):
    """Let every sum that can be shared out be so, however little there is of it."""
    plain = planned.tilings

    def shared(*words):
        every = list(plain(*words))
        return [t for t in every if t.parts > 1] or every

    monkeypatch.setattr(planned, "tilings", shared)


@pytest.mark.parametrize("op", ["sum", "prod", "max", "min", "logsumexp"])
@pytest.mark.usefixtures("in_parts")
def test_sums_are_shared_out_among_blocks(op: str, tmp_path: Path) -> None:
    """Of three results, of whose terms a mask leaves some."""
    text = f"cascade few\nrank P M\ninput X[P, M]\noutput S[P]\nS[p] = X[p, m] :: {op}(m) where m >= 70 * p\n"
    cascade, sizes = parse(text), {"P": 3, "M": 300}
    file = written_file(tmp_path, cascade, sizes, dtype="fp32")
    assert "S_parts" in file.tensors
    inputs = random_inputs(cascade, sizes)
    assert difference(run(file, inputs)["S"], evaluate(cascade, sizes, inputs)["S"]) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("attention_decode", "E=32,F=24,M=300,D=2,G=1"),
        ("attention_3pass", "E=16,F=24,M=150,P=3,B=2"),
        ("gemm", "M=16,N=20,K=300"),
        ("attention_causal", "E=16,F=24,M=150,P=150"),
        ("attention_2pass_local", "E=16,F=24,M1=5,M0=30,P=3"),
    ],
)
@pytest.mark.usefixtures("in_parts")
def test_kernels_share_out_their_sums(name: str, sizes: str, tmp_path: Path) -> None:
    file = written_file(tmp_path, zoo.load(name), sizes, dtype="fp32", implementation="eager")
    assert any(name.endswith("_parts") for name in file.tensors)
    outcome = check_written(file)
    assert outcome.ok, outcome


def test_more_than_the_interpreter_can_do_is_refused(tmp_path: Path) -> None:
    file = written_file(tmp_path, zoo.load("attention_1pass"), "E=64,F=64,M1=64,M0=64,P=4096,B=8,H=64")
    with pytest.raises(KernelError, match="thread blocks, of which the interpreter runs 10,000 at the most"):
        check_written(file)


def test_a_wrong_kernel_is_found(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    text = write_program(zoo.load("attention_1pass_causal"), SPLIT, dtype="fp32").text
    path.write_text(text.replace("sld + spd", "sld"))
    assert path.read_text() != text
    file = load_written(path)
    outcome = check_written(file)
    assert not outcome.ok
    assert outcome.worst == "AV"
    with pytest.raises(KernelError, match="AV is wrong"):
        time_written(file, clock=lambda call: 1.0, device="cpu")


def test_times_stand_beside_what_was_predicted(tmp_path: Path) -> None:
    file = written_file(tmp_path, zoo.load("attention_3pass"), "E=16,F=16,M=32,P=32", dtype="fp32")
    ticks = iter(range(1, 1000))

    def clock(call) -> float:
        call()
        return 1e-6 * next(ticks)

    with written.runnable(file):
        found = time_written(file, clock=clock, device="cpu", budget_s=0.0)
    assert [t.kernel for t in found] == [step[0].__name__ for step in file.launches]
    assert [t.predicted for t in found] == list(file.predicted)
    assert all(t.measured.rounds == 3 for t in found)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_flash_attention_compiles_without_spills(target: str, tmp_path: Path) -> None:
    sizes = "E=64,F=64,M1=64,M0=64,P=4096,H=32"
    file = written_file(tmp_path, zoo.load("attention_1pass_causal"), sizes)
    (found,) = compile_written(file, target)
    assert not found.spills
    assert found.totals["tensor"] > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", "SyntaxError"),
        ("x = 1\n", "no CASCADE; expected a file that `cascade write` has made"),
        ("raise OSError('no disk')\n", "OSError: no disk"),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.py"
    path.write_text(text)
    with pytest.raises(KernelError, match=message):
        load_written(path)
    with pytest.raises(KernelError, match="no such file"):
        load_written(tmp_path / "none.py")


def test_the_commands_take_files(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from validation.cli import app

    runner = CliRunner()
    path = str(written_file(tmp_path, zoo.load("attention_1pass"), "E=16,F=16,M1=2,M0=16,P=32").path)
    checked = runner.invoke(app, ["kernels", "check", path, "--json", "--device", "cpu"])
    assert checked.exit_code == 0
    (case,) = json.loads(checked.stdout)["cases"]
    assert (case["kernel"], case["ok"], case["how"]) == ("attention_1pass", True, "interpreted")
    compiled = runner.invoke(app, ["kernels", "compile", path, "--target", "sm_90", "--json"])
    (found,) = json.loads(compiled.stdout)
    assert found["kernel"] == "qk_to_av"
    assert not found["spills"]
    for words, message in (
        (["compile", path, "--write"], "--write stores the kernels of this package"),
        (["check", str(tmp_path / "none.py")], "no such file"),
        (["check", str(tmp_path / "none.txt")], "none.txt: no such file"),
        (["compile", path, "--target", "sm_1"], "target 'sm_1'"),
    ):
        refused = runner.invoke(app, ["kernels", *words])
        assert refused.exit_code == 2
        assert message in refused.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="times are taken where there is a GPU")
def test_times_are_refused_without_a_gpu(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from validation.cli import app

    path = str(written_file(tmp_path, zoo.load("gemm"), "M=16,N=16,K=16").path)
    refused = CliRunner().invoke(app, ["kernels", "time", path])
    assert refused.exit_code == 2
    assert "runs it in the interpreter" in refused.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["attention_3pass", "attention_1pass_causal", "linear_chunked", "gna_1d"])
def test_a_written_file_is_right_and_timed_on_a_gpu(name: str, tmp_path: Path) -> None:
    cascade = zoo.load(name)
    sizes = dict.fromkeys(cascade.free_ranks, 64)
    file = written_file(tmp_path, cascade, sizes)
    assert check_written(file, device="cuda").ok
    from kernels.bench_cuda import event_clock

    assert all(t.measured.median > 0 for t in time_written(file, clock=event_clock))


def test_a_kernel_that_no_block_can_have_the_memory_for_is_told(tmp_path: Path) -> None:
    """99 KiB a block on sm_89: the same kernel can be launched on sm_80, which has 163."""
    from kernels.report import too_large

    sizes = "E=128,F=128,M=4K,P=4K,H=32"
    file = written_file(tmp_path, zoo.load("attention_2pass"), sizes, on="h100", dtype="bf16")
    wide, narrow = compile_written(file, "sm_90")[-1], compile_written(file, "sm_89")[-1]
    assert narrow.shared_bytes > 99 * 1024
    (line,) = too_large([wide, narrow])
    asked = f"{narrow.shared_bytes:,} bytes of shared memory, 101,376 at the most"
    assert line == f"{narrow.kernel} cannot be launched on l40s: {asked}"
