"""cascade predict: JSON of the contract, and mistakes in one line."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from simulator.gpu.cli import register

SIZES = "batch=4,heads=32,seq_q=8192,seq_kv=8192,head_dim=128,causal=1,dtype=bf16"
FIELDS = {
    "latency_s",
    "low_s",
    "high_s",
    "tflops",
    "bound_by",
    "tiles",
    "waves",
    "scalar",
    "scalar_source",
    "resources",
}


def run(*args: str):
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)  # two commands, so that the name is spoken as at the front door
    return CliRunner().invoke(app, ["predict", *args])


def test_json_is_the_contract():
    result = run("flash_attention", "--on", "h100", "--set", SIZES, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert set(found) >= FIELDS
    assert found["tiles"] == {
        "full": 258048,
        "masked": 8192,
        "skipped": 258048,
    }  # 64 x 64 tiles of 128, 128 heads


def test_table_for_people_shows_the_interval_and_the_source():
    result = run("flash_attention", "--on", "h100", "--set", SIZES)
    assert "interval" in result.stdout
    assert "uncalibrated" in result.stdout


def test_decode_splits_the_keys():
    sizes = "batch=1,heads=32,kv_heads=8,seq_q=1,seq_kv=131072,head_dim=128,dtype=bf16"
    result = run("flash_decode", "--on", "h200", "--set", sizes, "--implementation", "triton", "--json")
    found = json.loads(result.stdout)
    # 8 blocks became the least number that leaves less than 15 % of the chip idle, as the kernels' own rule has it.
    assert 0.85 <= found["waves"] <= 1.0
    assert found["bound_by"] in ("memory", "l2")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("flash_attention", "--on", "h1000", "--set", SIZES), "unknown GPU 'h1000'"),
        (("flash_attentio", "--on", "h100", "--set", SIZES), "did you mean 'flash_attention'"),
        (("flash_attention", "--on", "h100", "--set", "batch"), "expected name=value"),
        (("flash_attention", "--on", "h100", "--set", SIZES + ",batch=2"), "given twice"),
        (("flash_attention", "--on", "h100", "--set", "batch=4,heads=2,seq_q=10"), "head_dim"),
        (("flash_attention", "--on", "h100", "--set", SIZES, "--calibrate", "missing.csv"), "no such file"),
        (("flash_attention", "--on", "h100", "--set", SIZES, "--calibrate", "."), "cannot be read"),
        (
            ("flash_attention", "--on", "h100", "--set", SIZES, "--calibrate", "heads.csv"),
            "the table has no rows",
        ),
        (
            ("softmax_of_dreams", "--on", "h100", "--set", SIZES),
            "can be predicted: channel_attention, chunk_retention",
        ),
        (
            ("flash_attention", "--on", "h100", "--set", "batch=1,heads=1,seq_q=64,head_dim=4096"),
            "does not fit",
        ),
    ],
)
def test_mistakes_leave_with_two(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heads.csv").write_text(
        "source,device,kernel,implementation,direction,dtype,head_dim,latency_ms\n", encoding="utf-8"
    )
    result = run(*args)
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


def test_an_unknown_implementation_is_answered_with_a_warning():
    args = ("flash_attention", "--on", "h100", "--set", SIZES, "--json", "--implementation")
    result, known = run(*args, "trition"), run(*args, "triton")
    found, sure = json.loads(result.stdout), json.loads(known.stdout)
    assert "warning: implementation 'trition' is not known; did you mean 'triton'?" in result.stderr
    assert not known.stderr
    assert any("trition" in text for text in found["assumptions"])
    assert found["high_s"] == pytest.approx(2 * found["latency_s"])
    assert sure["high_s"] == pytest.approx(1.25 * sure["latency_s"])


def test_a_cascade_is_predicted_by_its_sizes(tmp_path):
    ran = run("attention_3pass", "--on", "h100", "--sizes", "BERT/4K,B=1", "--json")
    found = json.loads(ran.stdout)
    assert set(found) >= FIELDS
    assert [each["name"] for each in found["launches"]] == ["QK+GM", "QK+SN+SD", "QK+SN+A+AV"]
    text = "cascade c\nrank E M P\ninput Q[E, P] K[E, M]\noutput S[M, P]\nS[m, p] = Q[e, p] * K[e, m] where m <= p\n"
    path = tmp_path / "mine.cascade"
    path.write_text(text)
    assert run(str(path), "--on", "b200", "--sizes", "E=64,M=4K,P=4K", "--set", "dtype=fp16").exit_code == 0


def test_kernels_of_a_cascade_are_given_by_the_names_that_are_printed():
    given = ("--kernels", "QK/GM+SN+SD+A/AV")
    ran = run("attention_3pass", "--on", "h100", "--sizes", "E=64,F=64,M=1K,P=1K,H=4", *given, "--json")
    assert [each["name"] for each in json.loads(ran.stdout)["launches"]] == ["QK", "GM+SN+SD+A", "AV"]
    eager = run(
        "attention_3pass", "--on", "h100", "--sizes", "BERT/1K", "--implementation", "eager", "--json"
    )
    assert len(json.loads(eager.stdout)["launches"]) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("attention_3pass", "--on", "h100"), "is a cascade: give the sizes of its ranks, --sizes"),
        (("attention_3pass", "--on", "h100", "--sizes", "E=64"), "F, M, P"),
        (
            ("attention_3pass", "--on", "h100", "--sizes", "BERT/1K", "--set", "heads=3"),
            "'heads' is no word of",
        ),
        (
            ("attention_3pass", "--on", "h100", "--sizes", "BERT/1K", "--set", "dtype=bf61"),
            "unknown type 'bf61'",
        ),
        (
            ("attention_3pass", "--on", "h100", "--sizes", "BERT/1K", "--mapping", "x.yaml"),
            "--mapping goes with",
        ),
        (
            ("attention_3pass", "--on", "h100", "--sizes", "BERT/1K", "--implementation", "triton"),
            "eager, fused",
        ),
        (("attention_3pass", "--on", "h100", "--sizes", "BERT/1K", "--kernels", "QK+XX"), "no Einsum 'XX'"),
        (
            ("flash_attention", "--on", "h100", "--kernels", "QK", "--set", SIZES),
            "--kernels goes with a cascade",
        ),
        (("flush", "--on", "h100", "--sizes", "E=1"), "the zoo has no 'flush'"),
        (("attention_3pass", "--on", "fusemax", "--sizes", "BERT/1K"), "GPU"),
    ],
)
def test_mistakes_about_a_cascade(arguments, message):
    ran = run(*arguments)
    assert ran.exit_code == 2
    assert message in ran.output
    assert "Traceback" not in ran.output
