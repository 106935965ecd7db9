"""cascade show, check and evaluate as a user types them; the graph that show draws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from matplotlib import pyplot
from typer.testing import CliRunner

from einsum_cascade import cli, zoo
from einsum_cascade.draw import dot, draw, layers, save_graph
from validation.cli import app

SIZES = "E=4,F=3,M=12,P=5"


def run(*args: str) -> tuple[int, str, str]:
    own = typer.Typer()
    cli.register(own)
    result = CliRunner().invoke(own, list(args))
    return result.exit_code, result.stdout, result.stderr


def test_show_prints_canonical_text() -> None:
    code, out, _ = run("show", "attention_1pass")
    assert (code, out) == (0, str(zoo.load("attention_1pass")))
    assert run("show", "gemm", "--latex")[1].startswith(r"\begin{align*}")
    assert json.loads(run("show", "gemm", "--json")[1])["text"] == str(zoo.load("gemm"))


def test_check() -> None:
    code, out, _ = run("check", "attention_causal", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["ok"] is True
    assert found["name"] == "attention_causal"
    assert found["ranks"] == ["E", "F", "M", "P"]
    assert found["inputs"] == ["Q[E, P]", "K[E, M]", "V[F, M]"]
    assert found["outputs"] == ["AV[F, P]"]
    assert found["einsums"] == ["QK", "GM", "SN", "SD", "A", "AV"]


def test_a_bad_file_shows_the_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.cascade"
    file.write_text("cascade c\nrank I\ninput A[I]\noutput O[I]\nO[i] = A[i] : max(u)\n")
    code, out, err = run("check", str(file))
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"{file}:5:13: expected an operator, ':: reduction', 'where' or the end of the line, found ':'",
        "  O[i] = A[i] : max(u)",
        "              ^",
    ]


def test_evaluate_writes_outputs(tmp_path: Path) -> None:
    out, again = tmp_path / "out.npz", tmp_path / "again.npz"
    assert run("evaluate", "attention_1pass", "--sizes", SIZES, "--seed", "3", "--out", str(out))[0] == 0
    inputs = tmp_path / "in.npz"
    from einsum_cascade import random_inputs

    np.savez(inputs, **random_inputs(zoo.load("attention_1pass"), SIZES, seed=3))
    code, text, _ = run(
        "evaluate",
        "attention_3pass",
        "--sizes",
        SIZES,
        "--inputs",
        str(inputs),
        "--out",
        str(again),
        "--json",
    )
    assert code == 0
    assert json.loads(text)["AV"]["shape"] == [3, 5]
    with np.load(out) as a, np.load(again) as b:
        assert a.files == ["AV"]
        assert a["AV"].dtype == np.float64
        np.testing.assert_allclose(a["AV"], b["AV"], atol=1e-12)  # one pass or three: sums in another order


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["show", "attention_1pas"], "did you mean 'attention_1pass'?"),
        (["check", "nowhere.cascade"], "cannot read nowhere.cascade: No such file or directory"),
        (["show", "gemm", "--graph", "x.gif"], "x.gif: a graph is written as .svg, .png, .pdf or .dot"),
        (["show", "gemm", "--graph", "/nowhere/x.svg"], "cannot write /nowhere/x.svg"),
        (["evaluate", "gemm", "--sizes", "M=2,N=2", "--out", "x.npz"], "gemm needs the size of K"),
        (
            ["evaluate", "gemm", "--sizes", "M=2,N=2,K=2", "--out", "/nowhere/x.npz"],
            "cannot write /nowhere/x.npz",
        ),
        (
            ["evaluate", "gemm", "--sizes", "M=2,N=2,K=2", "--inputs", __file__, "--out", "x.npz"],
            "expected an .npz file with one array per input",
        ),
        (["evaluate", "gemm", "--sizes", "M=1G,N=1G,K=2", "--out", "x.npz"], "the tensor C would take"),
    ],
)
def test_mistakes(args: list[str], message: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_layers_follow_the_dependencies() -> None:
    depth = layers(zoo.load("attention_3pass"))
    assert depth == {"Q": 0, "K": 0, "V": 0, "QK": 1, "GM": 2, "SN": 3, "SD": 4, "A": 5, "AV": 6}


@pytest.mark.parametrize("name", ["attention_1pass", "linear_chunked", "gemm"])
def test_graphs(name: str, tmp_path: Path) -> None:
    cascade = zoo.load(name)
    shown = {t.get_text() for t in draw(cascade).texts}
    assert set(cascade.signatures) <= shown
    assert dot(cascade).count("->") == cascade.graph.number_of_edges()
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    save_graph(cascade, first)
    save_graph(cascade, second)
    assert first.read_bytes() == second.read_bytes()
    assert b"<svg" in first.read_bytes()


def test_a_graph_is_the_same_in_every_run(tmp_path: Path) -> None:
    """Names hash anew in every process."""
    drawn = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.svg"
        program = (
            f"from einsum_cascade import draw, zoo; draw.save_graph(zoo.load('ninformer'), {str(path)!r})"
        )
        subprocess.run(
            [sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("name", ["attention_3pass", "ninformer", "arrow_attention"])
def test_no_arc_of_a_graph_is_cut_off(name: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.png"
    save_graph(zoo.load(name), path)
    pixels = pyplot.imread(path)[..., :3]
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    assert all((edge == 1).all() for edge in edges)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "{}.cascade"),
        ("passes", "attention_3pass", "--rank", "{}"),
        ("bounds", "attention_3pass", "--sizes", "{}=3"),
        ("bounds", "attention_3pass", "--sizes", "{}/64K"),
        ("reduce", "attention_3pass", "--rank", "M", "--out", "/nowhere/{}"),
        ("evaluate", "attention_3pass", "--sizes", "E=2,F=2,M=2,P=2", "--inputs", "{}.npz", "--out", "x.npz"),
        ("{}",),
    ],
    ids=lambda a: a[0],
)
def test_hostile_names_are_shown_and_not_obeyed(arguments: tuple[str, ...]) -> None:
    evil = "a\x1b[31m\x07b"
    ran = CliRunner().invoke(app, [a.format(evil) for a in arguments], color=True)
    assert ran.exit_code == 2
    assert "a\\x1b[31m\\x07b" in ran.output
    assert "\x1b[31m\x07" not in ran.output
    assert "\x07" not in ran.output


def test_outputs_go_where_nothing_can_be_sought() -> None:
    code, _, message = run("evaluate", "attention_3pass", "--sizes", SIZES, "--out", "/dev/null")
    assert (code, message) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "ATTENTION_1PASS"), "did you mean 'attention_1pass'?"),
        (("bounds", "gemm", "--sizes", "bert/64K"), "did you mean 'BERT'?"),
        (("bounds", "gemm", "--sizes", "=3"), "a rank is missing before '='"),
        (("bounds", "attention_3pass", "--sizes", SIZES, "--buffer", "16 mib"), "did you mean 'MiB'?"),
        (("bounds", "attention_3pass", "--sizes", SIZES, "--buffer", "1e400 B"), "beyond what a float64"),
        (("bounds", "attention_3pass", "--sizes", SIZES, "--plot", "x.csv"), "ends in .svg, .png, .pdf"),
    ],
)
def test_mistakes_are_named_with_the_nearest(arguments: tuple[str, ...], said: str) -> None:
    ran = CliRunner().invoke(app, list(arguments))
    assert ran.exit_code == 2
    assert said in ran.stderr
