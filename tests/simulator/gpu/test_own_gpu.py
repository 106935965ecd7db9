"""GPUs of files that somebody else wrote: by path, never taken for one of the library whose name stands in the path."""

from __future__ import annotations

import pytest

import simulator as sim
from einsum_cascade import zoo
from einsum_cascade.errors import HardwareError
from mappings.reader import parse_yaml
from simulator.gpu.model import predict
from simulator.hardware.gpu import find_gpu
from simulator.hardware.reader import find_hardware

CALL = {"batch": 4, "heads": 33, "seq_q": 8192, "seq_kv": 8192, "head_dim": 128, "dtype": "bf16"}


@pytest.fixture
def copied(tmp_path):
    """Write a copy of the library's H100 with some lines changed, under a name that has the library's in it."""

    def write(**changes: object) -> str:
        text = find_hardware("h100").read_text(encoding="utf-8")
        (document,) = parse_yaml(text, "h100", error=HardwareError)
        lines = {**{k: v for k, v in document.items() if k != "aliases"}, **changes}
        path = tmp_path / "my_h100_of_next_year.yaml"
        path.write_text("\n".join(f"{k}: {as_flow(v)}" for k, v in lines.items()) + "\n", encoding="utf-8")
        return str(path)

    return write


def as_flow(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {as_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_flow, value)) + "]"
    return '"' + value.replace('"', "'") + '"' if isinstance(value, str) else str(value)


def test_a_copy_predicts_as_the_original(copied):
    assert find_gpu(copied()) == find_gpu("h100")
    assert predict("flash_attention", on=copied(), **CALL) == predict("flash_attention", on="h100", **CALL)


def test_what_the_file_says_counts(copied):
    """Twice the SMs for 8,448 equal blocks, 64 on each of 132 SMs: half the time, less what a launch costs."""
    many = predict("flash_attention", on=copied(sms=264), **CALL)
    plain = predict("flash_attention", on="h100", **CALL)
    assert plain.parts_s["compute"] == pytest.approx(2 * many.parts_s["compute"], rel=0.02)
    layout = {"layout": (256, 256), "window": (80, 80), "top": 1}
    tuned = [sim.tune_gna(on=on, **layout).choices[0] for on in (copied(sms=264), "h100")]
    assert tuned[0].latency_s < tuned[1].latency_s
    sizes = {"M": 4096, "N": 4096, "K": 4096}
    laid = [
        sim.predict_cascade(zoo.load("gemm"), on=on, sizes=sizes).latency_s
        for on in (copied(sms=264), "h100")
    ]
    assert laid[0] < laid[1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sms": 0}, "sms: expected a positive number"),
        ({"target": "hopper"}, "target: expected an architecture such as sm_90, found 'hopper'"),
        ({"memory_bandwidth": 7}, "write the unit"),
    ],
)
def test_a_wrong_file_is_told(copied, changes, says):
    path = copied(**changes)
    with pytest.raises(HardwareError, match=says):
        find_gpu(path)


def test_other_files_are_told(tmp_path):
    with pytest.raises(HardwareError, match="no such hardware file"):
        find_gpu(str(tmp_path / "h100.yaml"))
    with pytest.raises(HardwareError, match="describes no GPU; expected 'kind: gpu'"):
        find_gpu(str(find_hardware("fusemax")))
