"""The commands as a user meets them: JSON on stdout alone, exit codes, and a front door that loads no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import typer
from typer.testing import CliRunner

from kernels import cases, cli

app = typer.Typer()
# Of the merge of partial attentions, which launches once.
CASES = list(cases.merge_attention())


@app.callback()
def main():
    """As the front door has other commands beside these."""


cli.register(app)


def run(*words):
    return CliRunner().invoke(app, ["kernels", *words])


def test_list_is_one_json_document():
    listed = json.loads(run("list", "--json").stdout)
    assert {"name", "summary", "source", "cascade"} <= set(listed[0])
    assert "flash_attention" in [k["name"] for k in listed]
    assert "flash_attention" in run("list").stdout


def test_check_one_kernel():
    result = run("check", "merge_attention", "--device", "cpu", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert document["ok"]
    assert document["failed"] == 0
    assert document["checks"] == len(document["cases"]) == len(CASES)
    assert document["cases"][0]["how"] == "interpreted"


def test_check_fails_with_exit_code_one(monkeypatch):
    from kernels import check

    monkeypatch.setitem(check.LIMITS, "fp32", 0.0)
    result = run("check", "merge_attention", "--device", "cpu", "--json")
    assert result.exit_code == 1
    assert not json.loads(result.stdout)["ok"]


def test_checks_compiled_for_a_target():
    document = json.loads(run("check", "merge_attention", "--target", "sm_90", "--json").stdout)
    assert document["ok"]
    assert document["launches"] == len(CASES)
    assert {"registers", "stack_bytes", "shared_bytes", "function", "case"} <= set(document["cases"][0])


def test_compile_reports_resources():
    found = json.loads(run("compile", "decode_attention", "--target", "sm_80", "--json").stdout)
    assert {"registers", "shared_bytes", "stack_bytes", "spills", "loops", "source"} <= set(found[0])
    assert not any(f["spills"] for f in found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "flash"], "kernel 'flash'"),
        (["check", "--device", "tpu"], "device 'tpu'"),
        (["check", "--target", "sm_91"], "did you mean 'sm_90'"),
        (["compile", "--target", "sm_91"], "did you mean 'sm_90'"),
        (["compile", "nothing", "--target", "sm_90"], "kernel 'nothing'"),
        (["bench", "--out", "/does/not/exist/x.csv"], "there is no folder"),
        (["bench", "--out", "/"], "cannot write /: Is a directory"),
        (["probe", "nofile.py:k"], "no such file"),
        (["probe", "nofile.py"], "FILE.py:KERNEL"),
    ],
)
def test_mistakes_leave_with_two_and_one_message(words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "words", [["check", "flash"], ["compile", "flash"], ["tune", "flash"], ["campaign", "--out", "/no/x.csv"]]
)
def test_a_mistake_is_told_before_torch_is_loaded(words):
    code = (
        "import sys\nfrom validation.cli import app\n"
        f"try: app(['kernels', *{words!r}])\n"
        "except SystemExit as end: sys.exit(9 if 'torch' in sys.modules else end.code)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 2


def test_front_door_and_face_load_neither_torch_nor_triton():
    code = (
        "import sys, kernels, kernels.cli, kernels.registry; kernels.registry.entries();"
        "sys.exit(any(m in sys.modules for m in ('torch', 'triton', 'pandas', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "advice"),
    [(("campaign", "--out", "x.csv"), "--tiny"), (("tune", "--measure"), "without --measure")],
)
def test_without_a_gpu_a_command_advises_what_it_has(words, advice, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2
    assert advice in result.stderr
    assert "--device" not in result.stderr
