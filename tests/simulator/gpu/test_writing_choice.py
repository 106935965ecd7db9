"""Tiles of written kernels by what a compiler makes of them, with a compiler that the test has made up."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from einsum_cascade import zoo
from mappings.tiles import KernelResources, LoopWork
from simulator.gpu.writing.choice import MOST, loops_of
from simulator.gpu.writing.program import write_program
from simulator.gpu.writing.scopes import lost_name
from simulator.hardware.gpu import find_gpu

SIZES = "E=64,F=64,M0=64,M1=64,P=4K,H=32"
MADE = KernelResources(registers=128, shared_bytes=48 * 1024, made_by="a test")
NOTHING = None


def program(answer, name="attention_1pass_causal", sizes=SIZES):
    """Return a written program and what its compiler was given; `answer` makes resources of a kernel's source."""
    asked = []

    def compiler(sources):
        asked.extend(sources)
        return [answer(s) for s in sources]

    return write_program(zoo.load(name), sizes, on="h100", compiler=compiler), asked


def rows(source):
    return source.constants.get("BLOCK_P", 1)


def test_each_tile_is_compiled_with_four_and_with_eight_warps_and_the_usual_one_first():
    plain = write_program(zoo.load("attention_1pass_causal"), SIZES, on="h100")
    found, asked = program(lambda source: MADE)
    assert 2 <= len(asked) <= 2 * MOST
    assert {s.warps for s in asked} == {4, 8}
    (first,) = plain.choices[0].written
    assert (asked[0].constants, asked[0].warps) == (first.constants, first.warps)
    assert found.choices[0].tried == len(asked)
    assert asked[0].pointers == {"Q_ptr": "*bf16", "K_ptr": "*bf16", "V_ptr": "*bf16", "AV_ptr": "*bf16"}
    for source in asked:
        compile(source.text, source.name, "exec")


def test_a_tile_that_spills_is_taken_only_where_all_do():
    spilt = replace(MADE, stack_bytes=64)
    kept, asked = program(lambda source: MADE if rows(source) == 64 and source.warps == 8 else spilt)
    (written,) = kept.choices[0].written
    assert (written.constants["BLOCK_P"], written.warps) == (64, 8)
    assert "LAUNCHES" in kept.text and written.text in kept.text
    every, _ = program(lambda source: spilt)
    assert every.choices[0].kernel.tile.resources.stack_bytes == 64
    assert len({rows(s) for s in asked}) > 1


def test_what_cannot_be_launched_is_not_taken():
    gpu = find_gpu("h100")
    huge = replace(MADE, shared_bytes=int(gpu.shared_bytes_per_block) + 1)
    first = program(lambda source: MADE)[1][0]
    found, _ = program(lambda source: huge if source.constants == first.constants else MADE)
    assert found.choices[0].written[0].constants != first.constants
    for answer in (huge, NOTHING):
        kept, asked = program(lambda source, answer=answer: answer)
        assert kept.choices[0].kernel.tile.resources is None
        assert kept.choices[0].tried == len(asked)
        assert kept.choices[0].written[0].constants == first.constants


def test_a_longer_compiled_loop_takes_longer_and_loses():
    def loop(instructions):
        return LoopWork(instructions=instructions, special=1, fma=1, alu=1, tensor=8)

    def answer(source):
        return replace(MADE, loop=loop(400 if rows(source) == 128 and source.warps == 4 else 40_000))

    fast, _ = program(answer)
    (written,) = fast.choices[0].written
    assert (written.constants["BLOCK_P"], written.warps) == (128, 4)
    slow, _ = program(lambda source: replace(MADE, loop=loop(40_000)))
    assert slow.prediction.latency_s > 5 * fast.prediction.latency_s


def test_kernels_of_a_plan_are_compiled_together_and_chosen_apart():
    found, asked = program(lambda source: MADE, "attention_3pass", "E=64,F=64,M=4K,P=4K,H=32")
    assert len(found.choices) == len({s.name for s in asked}) > 1
    assert sum(c.tried for c in found.choices) == len(asked)
    assert all(c.kernel.tile.resources == MADE for c in found.choices)


@pytest.mark.parametrize(
    "name", ["attention_3pass", "attention_1pass_causal", "gated_linear", "linear_chunked"]
)
def test_loops_are_counted_where_they_follow_each_other(name):
    sizes = {"attention_3pass": "E=64,F=64,M=4K,P=4K", "attention_1pass_causal": SIZES}
    usual = "E=128,F=128,T=4K" if name == "gated_linear" else "E=64,F=64,T0=64,T1=64"
    program = write_program(zoo.load(name), sizes.get(name, usual), on="h100")
    for choice in program.choices:
        text = choice.written[0].text
        lines = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.For)]
        assert loops_of(text) in (len(lines), -1)
        assert lost_name(text, {"tl", "triton", *choice.written[0].helpers}) is None


@pytest.mark.parametrize(
    ("body", "lost"),
    [
        ("x = tl.load(a_ptr)\n  tl.store(a_ptr, x)", None),
        ("for i in range(0, 4):\n    x = i\n    y = x\n  tl.store(a_ptr, y)", "y"),
        ("x = 0\n  for i in range(0, 4):\n    for j in range(0, 2):\n      z = x\n    x = z", "z"),
        ("for i in range(0, n):\n    x = i", "n"),
        ("for i in range(0, 4):\n    x = i\n  for i in range(4, 8):\n    x = x + i", "x"),
        ("tl.store(a_ptr, i)\n  i = 3", "i"),
    ],
)
def test_a_name_holds_where_triton_says(body, lost):
    assert lost_name(f"def f(a_ptr):\n  {body}", {"tl"}) == lost


def invoke(arguments, monkeypatch, made):
    from typer.testing import CliRunner

    from kernels import sources
    from validation.cli import app

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sources, "compiled", lambda given, *, on, progress: [made for _ in given])
    return CliRunner().invoke(app, ["write", "gemm", "--sizes", "M=512,N=512,K=512", *arguments])


def test_the_command_shows_what_was_compiled(monkeypatch, tmp_path):
    import json

    ran = invoke(["--compiled", "--out", str(tmp_path / "mine.py")], monkeypatch, MADE)
    assert ran.exit_code == 0, ran.output
    assert "registers" in ran.output and "48 KiB" in ran.output and "128" in ran.output
    ran = invoke(["--compiled", "--json"], monkeypatch, MADE)
    (kernel,) = json.loads(ran.stdout)["kernels"][:1]
    assert kernel["resources"] == {
        "registers": 128,
        "shared_bytes": 48 * 1024,
        "stack_bytes": 0,
        "tensor_memory_columns": 0,
    }
    plain = invoke(["--json"], monkeypatch, MADE)
    assert json.loads(plain.stdout)["kernels"][0]["resources"] is None


def test_the_command_tells_of_spills_and_of_what_cannot_be_launched(monkeypatch):
    spilt = invoke(["--compiled", "--json"], monkeypatch, replace(MADE, stack_bytes=96))
    assert "compiled tiles spill, this one 96 bytes a thread" in spilt.stderr
    none = invoke(["--compiled", "--json"], monkeypatch, NOTHING)
    assert "tiles that were compiled can be launched on h100" in none.stderr


def test_a_kernel_that_no_block_can_hold_is_told_before_it_is_compiled():
    from typer.testing import CliRunner

    from validation.cli import app

    sizes = "E=128,F=128,M=4K,G=12"
    ran = CliRunner().invoke(app, ["write", "aaren_scan", "--sizes", sizes, "--json"])
    assert ran.exit_code == 0
    # 4,096 running values of 128 in fp32 are 2 MiB, what they begin from is 1 MiB of bf16; an SM has 256 KiB.
    assert "lm_to_rnv: a block holds some 3," in ran.stderr and "of which there are 255" in ran.stderr
