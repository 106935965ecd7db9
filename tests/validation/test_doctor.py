"""What the doctor says of a machine with a GPU, with stand-ins for what is not here."""

from __future__ import annotations

import pytest

from validation import doctor


def facts(found):
    return {f["what"]: (f["found"], f["ok"]) for f in found["facts"]}


def test_a_machine_without_a_gpu_needs_no_compiler(monkeypatch):
    monkeypatch.setattr(doctor, "_gpu", lambda: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    found = doctor.examine()
    assert found["ok"]
    assert found["gpu"] is None
    assert "cannot launch" in facts(found)["C compiler"][0]


@pytest.mark.parametrize(
    ("version", "sees"), [("2.13.0+cpu", False), ("2.13.0", True), ("2.13.0+cu130", True)]
)
def test_a_gpu_that_torch_does_not_see_is_told(monkeypatch, version, sees):
    """An environment that was made elsewhere: the GPU is there, and a campaign on it would find none."""
    monkeypatch.setattr(doctor, "_gpu", lambda: "NVIDIA H200, 570.1")
    monkeypatch.setattr(doctor, "_version", lambda name: (version, True))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    said, ok = facts(doctor.examine())["GPU"]
    assert said.startswith("NVIDIA H200")
    assert ok == sees == ("build for CPUs" not in said)


def test_a_gpu_on_which_triton_could_not_launch_is_told(monkeypatch, tmp_path):
    """Triton builds its launcher with a C compiler and Python's headers when it first meets a GPU."""
    monkeypatch.setattr(doctor, "_gpu", lambda: "NVIDIA H200, 570.1")
    monkeypatch.setattr(doctor, "_version", lambda name: ("2.13.0", True))
    monkeypatch.setattr(doctor.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    found = doctor.examine()
    assert not found["ok"]
    assert not facts(found)["C compiler"][1]
    assert not facts(found)["Python headers"][1]
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CC", "/opt/cc")
    found = doctor.examine()
    assert found["ok"]
    assert facts(found)["C compiler"][0] == "/opt/cc"
