"""Checks of a GPU in their own process, without a GPU: one that dies or hangs is told, and the others are answered."""

from __future__ import annotations

import importlib

import pytest

from einsum_cascade.errors import KernelError
from kernels import apart, beforehand, check, registry

SERVER = '''
import os, signal, time
from kernels import apart

def dies(pipe, jobs):
    for job in jobs:
        pipe.send(apart.READY)
        if job == "bad":
            os.kill(os.getpid(), signal.SIGKILL)
        pipe.send({"well": job})

def hangs(pipe, jobs):
    for job in jobs:
        pipe.send(apart.READY)
        if job == "bad":
            time.sleep(60)
        pipe.send({"well": job})

def dies_after_an_answer(pipe, jobs):
    """As where a fault of the device is told by the check that met it, and ends the process behind it."""
    for job in jobs:
        pipe.send(apart.READY)
        pipe.send({"well": job})
        if job == "bad":
            raise RuntimeError("the device is gone")

def stillborn(pipe, jobs):
    raise SystemExit(3)
'''
JOBS = ("good", "bad", "fine")


@pytest.fixture
def server(tmp_path, monkeypatch):
    (tmp_path / "faulty_server.py").write_text(SERVER)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("faulty_server")


def answers(serve, limit_s):
    return list(apart.outcomes(JOBS, failed=lambda job, why: (job, why), serve=serve, case_limit_s=limit_s))


@pytest.mark.parametrize(
    ("how", "limit_s", "words"), [("dies", 60.0, "the process died"), ("hangs", 1.5, "given up after 1.5 s")]
)
def test_a_check_that_takes_its_process_along_has_failed_and_the_next_follows(server, how, limit_s, words):
    assert answers(getattr(server, how), limit_s) == [{"well": "good"}, ("bad", words), {"well": "fine"}]


def test_a_process_that_ends_between_two_checks_is_no_fault_of_the_next(server):
    assert answers(server.dies_after_an_answer, 60.0) == [{"well": job} for job in JOBS]


def test_a_process_that_never_begins_is_an_error(server):
    with pytest.raises(KernelError, match="the process died before its first check"):
        answers(server.stillborn, 60.0)


def test_a_gpu_is_checked_apart_after_all_is_compiled(monkeypatch):
    """With an interpreter in the place of the GPU: what is compiled is what is checked, and the order is kept."""
    compiled = []
    plain = check.run_case

    def outcomes(jobs, *, failed, serve):
        assert serve is apart.on_gpu
        yield failed(jobs[0], "the process died")
        yield from (plain(registry.find(name), case) for name, case in jobs[1:])

    monkeypatch.setattr("kernels.device.resolve", lambda device: "cuda")
    monkeypatch.setattr(beforehand, "compile_here", compiled.extend)
    monkeypatch.setattr(apart, "outcomes", outcomes)
    first, *others = check.run(["merge_attention"], device="cuda")
    cases = [("merge_attention", case) for case in registry.load("cases:merge_attention")()]
    assert compiled == cases
    assert (first.worst, first.how, first.ok) == ("did not run: the process died", "compiled", False)
    assert [o.case for o in others] == [case.label for _, case in cases[1:]]
    assert all(o.ok for o in others)


def test_the_process_of_a_gpu_sends_what_each_check_found_and_asks_the_device_after_a_fault(monkeypatch):
    sent, asked = [], []

    class Pipe:
        send = staticmethod(sent.append)

    cases = list(registry.load("cases:merge_attention")())[:2]
    good = check.run_case(registry.find("merge_attention"), cases[0])
    bad = check._failed("merge_attention", cases[1], "cuda", "out of memory")
    monkeypatch.setattr(check, "attempt", lambda entry, case, device: good if case == cases[0] else bad)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: asked.append(len(sent)))
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    apart.on_gpu(Pipe, [("merge_attention", case) for case in cases])
    assert sent == [apart.READY, good, apart.READY, bad]
    assert asked == [4]
