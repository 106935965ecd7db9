"""`cascade trace`: a function of a user's own file as a cascade, held against the function."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from einsum_cascade import evaluate, load, parse, passes, random_inputs
from validation.cli import app

pytest.importorskip("torch")

MINE = """
import torch

def attend(q, k, v, causal=False):
    s = q @ k.transpose(-1, -2)
    if causal:
        s = s + torch.full(s.shape[-2:], float("-inf")).triu(1)
    return s.softmax(-1) @ v

class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(4, 3)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(torch.relu(self.up(x)))

def memory(q, k, v):
    state, out = torch.zeros(q.shape[1], v.shape[1]), []
    for t in range(len(q)):
        state = state + k[t][:, None] * v[t][None]
        out.append(q[t] @ state)
    return torch.stack(out)

def places(table, at, keep):
    return torch.where(keep, table[at], 0.0)

def inverse(x):
    return torch.linalg.inv(x)

def wrong(x):
    return x.nothing

def unlike(x):
    return x if torch.compiler.is_exporting() else x + 1

needs_more = len
"""


@pytest.fixture
def run(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(MINE, encoding="utf-8")

    def call(function: str, *words: str):
        return CliRunner().invoke(app, ["trace", f"{file}:{function}", *words])

    return call


def test_it_prints_the_cascade_and_how_far_it_is_from_the_function(run) -> None:
    done = run("attend", "--inputs", "q=2x8x4,k=2x6x4", "--inputs", "v=2x6x3")
    assert done.exit_code == 0
    text, _, told = done.stdout.partition("\nlargest difference")
    assert passes(parse(text), "M").count == 3
    assert "on the example" in told


def test_the_document_holds_what_a_script_needs(run, tmp_path: Path) -> None:
    out = tmp_path / "mine.cascade"
    shapes = "q=2x8x4,k=2x8x4,v=2x8x3"
    done = run("attend", "--inputs", shapes, "--set", "causal=True", "--json", "--out", str(out))
    found = json.loads(done.stdout)
    cascade = load(out)
    assert parse(found["cascade"]) == cascade
    assert found["difference"] < 1e-5
    assert [i["tensor"] for i in found["inputs"]] == ["Q", "K", "V"]
    assert any(e.where is not None for e in cascade.einsums)
    evaluate(cascade, found["sizes"], random_inputs(cascade, found["sizes"], seed=1))


def test_a_class_of_modules_is_made_and_set_to_inference(run) -> None:
    done = run("Layer", "--inputs", "x=5x4", "--json")
    assert json.loads(done.stdout)["difference"] < 1e-5


def test_a_loop_is_a_block(run) -> None:
    done = run("memory", "--inputs", "q=5x4,k=5x4,v=5x3", "--roll")
    assert done.exit_code == 0
    assert "iterate t {" in done.stdout


def test_examples_of_other_types(run) -> None:
    done = run("places", "--inputs", "table=9x4,at=6:int<9,keep=6x4:bool", "--json")
    assert json.loads(done.stdout)["difference"] < 1e-6


def test_a_cascade_that_differs_is_a_comparison_out_of_tolerance(run) -> None:
    assert run("unlike", "--inputs", "x=3x3").exit_code == 1


@pytest.mark.parametrize(
    ("function", "words", "told"),
    [
        ("attend", ["--inputs", "q=2x8x4"], "needs k, v"),
        ("attend", ["--inputs", "q=4x4,k=4x4,w=4x4"], "no parameter 'w'"),
        ("attend", ["--inputs", "q=4x4,k=4y4,v=4x4"], "k=4y4: expected a shape"),
        ("attend", ["--inputs", "q=4x4,q=4x4"], "'q' is given twice"),
        ("attend", ["--inputs", "q"], "--inputs: expected name=value"),
        ("attend", ["--inputs", "q=4x4", "--set", "q=3"], "as a tensor and as a constant"),
        ("attend", ["--inputs", "q=4x0,k=4x4,v=4x4"], "at least one element"),
        ("atend", [], "did you mean 'attend'"),
        ("inverse", ["--inputs", "x=3x3"], "mine.py:30: return torch.linalg.inv(x)"),
        ("wrong", ["--inputs", "x=3x3"], "mine.py:33: AttributeError"),
    ],
)
@pytest.mark.parametrize("document", [False, True])
def test_a_mistake_is_told_in_one_line(
    run, function: str, words: list[str], told: str, document: bool
) -> None:
    done = run(function, *words, *(["--json"] if document else []))
    assert done.exit_code == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    if document:
        assert told in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(x:\n", "broken.py:1: SyntaxError"),
        ("\nimport sys\nsys.exit(3)\n", "broken.py:3: SystemExit"),
        ("x = 1 / 0\n", "broken.py:1: ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_executed(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(app, ["trace", f"{file}:f", "--inputs", "x=3"])
    assert done.exit_code == 2
    assert told in done.stderr


@pytest.mark.parametrize(("place", "told"), [("mine", "FILE.py:FUNCTION"), ("nowhere.py:f", "no such file")])
def test_a_place_that_is_none(place: str, told: str) -> None:
    done = CliRunner().invoke(app, ["trace", place])
    assert done.exit_code == 2
    assert told in done.stderr
