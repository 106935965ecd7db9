"""A measuring session without a GPU: faults, memory that runs out, hangs, a full clock; what is lost, what is not."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from einsum_cascade.errors import KernelError
from kernels import bench_cuda, campaign, device, journal, registry, unattended

WORKER = '''
import os, signal, time
from pathlib import Path
from kernels import device, journal, unattended

CASES = ("good", "bad", "fine")

def key(name):
    return (name,) + ("",) * (len(journal.KEY) - 1)

def work(path, how, *, minutes):
    """Three cases; the second kills its process, or never ends."""
    past = set(path.read_text().split()) if path.exists() else set()
    past |= {k[0] for k in journal.failures(path, commit=device.commit())}
    for name in CASES:
        if name in past:
            continue
        unattended.note_running(path, key(name))
        if name == "bad":
            if how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        with path.open("a") as file:
            file.write(name + "\\n")
        unattended.note_running(path, None)
    return 0

def lingers(path, *, minutes):
    """Writes its own number, then a line now and then for a minute, as a case after the other."""
    path.write_text(f"{os.getpid()}\\n")
    for _ in range(600):
        time.sleep(0.1)
        with path.open("a") as file:
            file.write("row\\n")
    return 0

def stillborn(path, *, minutes):
    raise SystemExit(3)

def asleep(path, *, minutes):
    time.sleep(60)
'''


@pytest.fixture
def worker(tmp_path, monkeypatch):
    import importlib

    (tmp_path / "faulty_device.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("faulty_device")


@pytest.mark.parametrize(
    ("how", "limit_s", "words"), [("dies", 60.0, "exit code -9"), ("hangs", 1.5, "given up after 1.5 s")]
)
def test_a_case_that_takes_its_process_along_is_recorded_and_the_next_follows(
    worker, tmp_path, how, limit_s, words
):
    path = tmp_path / "rows.csv"
    unattended.supervise(
        worker.work, path, how, minutes=20.0, case_limit_s=limit_s
    )  # of a machine with much else to do
    assert path.read_text().split() == ["good", "fine"]
    failed = journal.failures(path, commit=device.commit())
    assert [k[0] for k in failed] == ["bad"]
    assert words in failed[worker.key("bad")]
    assert not unattended.marker(path).exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_goes_on_measuring_behind_a_campaign_that_was_stopped(worker, tmp_path, how):
    """Whatever ends the one who watches, a second campaign on the same table must find the device free."""
    path = tmp_path / "rows.csv"
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pathlib import Path; import faulty_device;"
        "from kernels import unattended;"
        "unattended.supervise(faulty_device.lingers, Path(sys.argv[1]), minutes=2.0)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: path.exists() and path.read_text().count("\n") > 2)
        process.send_signal(how)
    child = int(path.read_text().split()[0])
    wait_for(lambda: not Path(f"/proc/{child}").exists())


def wait_for(condition, *, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.05)


def test_a_process_that_dies_before_its_first_case_is_no_case_s_fault(worker, tmp_path):
    with pytest.raises(KernelError, match="exit code 3 before its first case"):
        unattended.supervise(worker.stillborn, tmp_path / "rows.csv", minutes=1.0)


def test_a_process_that_never_begins_a_case_is_given_up_too(worker, tmp_path):
    with pytest.raises(KernelError, match="before its first case"):
        unattended.supervise(worker.asleep, tmp_path / "rows.csv", minutes=0.01, case_limit_s=1.0)


def test_a_campaign_runs_in_a_process_of_its_own(tmp_path):
    path = tmp_path / "rows.csv"
    unattended.supervise(campaign.work, path, tiny()[:2], "cpu", minutes=5.0)
    assert len(journal.done(path)) == 2


def tiny():
    return list(campaign.plan(lengths=(32,), head_dims=(16,), tokens=32))[:4]


def test_memory_that_runs_out_in_one_case_leaves_the_others(tmp_path, monkeypatch):
    path, cases = tmp_path / "rows.csv", tiny()
    full = cases[1]
    assert len([p for p in cases if p.entry == full.entry]) == 1 or full.options
    load = registry.load

    def scarce(place):
        found = load(place)
        if place != registry.find(full.entry).launcher:
            return found

        def launcher(*args, **kwargs):
            if {k: kwargs.get(k) for k in full.options} == dict(full.options):
                raise torch.OutOfMemoryError("tried to allocate 51 GiB")
            return found(*args, **kwargs)

        return launcher

    monkeypatch.setattr(registry, "load", scarce)
    assert campaign.run(path, cases, on="cpu") == len(cases) - 1
    ((key, error),) = journal.failures(path, commit=device.commit()).items()
    assert key == campaign._key_of(full, device.measured_name("cpu"))
    assert error == "OutOfMemoryError: tried to allocate 51 GiB"
    monkeypatch.setattr(registry, "load", load)
    # The same commit fails the same way: it is not tried again. Another commit is another kernel.
    assert campaign.run(path, cases, on="cpu") == 0
    monkeypatch.setattr(device, "commit", lambda: "another")
    assert campaign.run(path, cases, on="cpu") == 1


def test_a_kernel_that_fails_its_check_is_not_timed_once(tmp_path, monkeypatch):
    """With stand-ins for the device: one kernel is wrong; each of its cases is recorded and none is measured."""
    path, cases = tmp_path / "rows.csv", tiny()
    asked, timed = [], []

    def checked(p):
        asked.append(p.specialisation)
        return "relative error 0.5" if p.entry == "flash_attention" else ""

    def measured(p, *rest):
        timed.append(p.entry)
        return campaign._row(p, campaign.timing.spread([1.0]), "cpu", device.environment("cpu"))

    monkeypatch.setattr(campaign, "_check", checked)
    monkeypatch.setattr(campaign, "_measured", measured)
    monkeypatch.setattr(campaign, "_ceilings", lambda *rest: campaign.ceilings.ASSUMED)
    monkeypatch.setattr(campaign, "_compile", lambda *rest: None)
    monkeypatch.setattr(device, "measured_name", lambda on: "a stand-in")
    assert campaign.run(path, cases, on="cuda") == len(timed)
    assert sorted(asked) == sorted({p.specialisation for p in cases})
    assert "flash_attention" not in timed
    wrong = journal.failures(path, commit=device.commit())
    assert len(wrong) == len([p for p in cases if p.entry == "flash_attention"]) > 0


def test_a_fault_that_takes_the_device_ends_the_process(tmp_path, monkeypatch):
    """After an illegal access every further call fails too: nothing may be recorded against the cases behind it."""

    def faulty(*rest):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(campaign, "_check", lambda p: "")
    monkeypatch.setattr(campaign, "_measured", faulty)
    monkeypatch.setattr(campaign, "_ceilings", lambda *rest: campaign.ceilings.ASSUMED)
    monkeypatch.setattr(campaign, "_compile", lambda *rest: None)
    monkeypatch.setattr(device, "measured_name", lambda on: "a stand-in")
    monkeypatch.setattr(torch.cuda, "synchronize", faulty)
    path = tmp_path / "rows.csv"
    with pytest.raises(RuntimeError, match="illegal memory access"):
        campaign.run(path, tiny(), on="cuda")
    assert not journal.failures(path, commit=device.commit())
    # The case in progress is named, so that the one who started the process can record it.
    named = tuple(unattended.marker(path).read_text().split("\n"))
    assert named == campaign._key_of(tiny()[0], "a stand-in")


@pytest.fixture
def stand_in(monkeypatch):
    """What a campaign asks of a GPU, without one; the list of what it measured."""
    timed = []

    def measured(p, *rest):
        timed.append(p)
        return campaign._row(p, campaign.timing.spread([1.0]), "cpu", device.environment("cpu"))

    monkeypatch.setattr(campaign, "_check", lambda p: "")
    monkeypatch.setattr(campaign, "_measured", measured)
    monkeypatch.setattr(campaign, "_ceilings", lambda *rest: campaign.ceilings.ASSUMED)
    monkeypatch.setattr(campaign, "_compile", lambda *rest: None)
    monkeypatch.setattr(device, "measured_name", lambda on: "a stand-in")
    return timed


@pytest.mark.parametrize("reason", ["the process died with exit code -11", "given up after 60 s"])
def test_a_kernel_that_took_its_process_along_is_not_tried_at_every_length(
    tmp_path, stand_in, capsys, reason
):
    """A new process costs ten seconds: eighty cases of one kernel that faults would take a whole session."""
    path, every = tmp_path / "rows.csv", list(campaign.plan())
    first = every[0]
    journal.fail(path, campaign._key_of(first, "a stand-in"), reason, commit=device.commit())
    campaign.run(path, every, on="cuda")
    assert stand_in == [p for p in every if p.specialisation != first.specialisation]
    alike = sum(p.specialisation == first.specialisation for p in every)
    assert f"{alike - 1} cases are left out: of flash_attention" in capsys.readouterr().err


def test_a_kernel_of_which_two_forms_took_their_process_along_is_not_tried_again(tmp_path, stand_in):
    path, every = tmp_path / "rows.csv", list(campaign.plan(lengths=(4096,)))
    forms = {p.specialisation: p for p in reversed(every) if p.entry == "flash_attention"}
    for p in list(forms.values())[:2]:
        journal.fail(path, campaign._key_of(p, "a stand-in"), "the process died", commit=device.commit())
    campaign.run(path, every, on="cuda")
    assert stand_in == [p for p in every if p.entry != "flash_attention"]


def test_an_error_that_leaves_the_process_is_of_its_case_alone(tmp_path, stand_in):
    path, every = tmp_path / "rows.csv", list(campaign.plan())
    journal.fail(
        path, campaign._key_of(every[0], "a stand-in"), "OutOfMemoryError: 51 GiB", commit=device.commit()
    )
    campaign.run(path, every, on="cuda")
    assert stand_in == every[1:]


def test_what_the_supervisor_records_is_known_as_fatal(worker, tmp_path):
    path = tmp_path / "rows.csv"
    unattended.supervise(worker.work, path, "dies", minutes=20.0, case_limit_s=60.0)
    (error,) = journal.failures(path, commit=device.commit()).values()
    assert unattended.is_fatal(error)


def test_a_full_clock_leaves_the_rest_to_the_next_run(tmp_path, monkeypatch):
    path, cases = tmp_path / "rows.csv", tiny()
    hours = iter([0.0, 0.0, 0.0, 61.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(hours))
    assert campaign.run(path, cases, on="cpu", minutes=1.0) == 2
    monkeypatch.undo()
    assert campaign.run(path, cases, on="cpu") == len(cases) - 2


def test_the_bench_goes_on_where_it_was_and_behind_what_fails(tmp_path, monkeypatch):
    small = [
        bench_cuda.attention(bench_cuda.Setting(1, 1, seq, 16, dtype="fp32", causal=True))
        for seq in (16, 20, 24)
    ]
    monkeypatch.setattr(bench_cuda, "peers", lambda problem: iter(()))
    options = {"on": "cpu", "budget_s": 0.0, "clock": lambda call: (call(), 0.001)[1]}
    path = tmp_path / "rows.csv"
    assert bench_cuda.run(path, small[:1], **options) == 1
    measure = bench_cuda.measure

    def fails_at_20(problem, **rest):
        if problem.setting.seq == 20:
            raise KernelError("out of resource: shared memory")
        return measure(problem, **rest)

    monkeypatch.setattr(bench_cuda, "measure", fails_at_20)
    assert bench_cuda.run(path, small, **options) == 1
    with path.open() as file:
        assert [row["seq_kv"] for row in csv.DictReader(file)] == ["16", "24"]
    assert list(journal.failures(path, commit=device.commit()).values()) == [
        "KernelError: out of resource: shared memory"
    ]
    assert bench_cuda.run(path, small, **options) == 0


def test_a_bench_does_not_believe_what_another_left_where_it_wrote_nothing(tmp_path, monkeypatch):
    """Memory that is handed out again may hold the right numbers: it is poisoned, and all of a result is looked at."""
    problem = bench_cuda.attention(bench_cuda.Setting(2, 2, 20, 16, dtype="fp32"))
    monkeypatch.setattr(bench_cuda, "peers", lambda problem: iter(()))
    options = {"on": "cpu", "budget_s": 0.0, "clock": lambda call: (call(), 0.001)[1]}
    (row,) = bench_cuda.measure(problem, **options)
    assert row.rounds == 1
    load = registry.load

    def forgetful(place):
        found = load(place)
        if place != registry.find("flash_attention").launcher:
            return found

        def launcher(*args, empty=torch.empty, **kwargs):
            out, *more = found(*args, **kwargs)
            # The second sequence is never written; where nobody poisons it, memory happens to hold what is right.
            rest = out[1:] if empty is torch.empty else empty(tuple(out[1:].shape), dtype=out.dtype)
            return torch.cat([out[:1], rest]), *more

        return launcher

    monkeypatch.setattr(registry, "load", forgetful)
    with pytest.raises(KernelError, match="not timed"):
        bench_cuda.measure(problem, **options)


def test_without_nvidia_smi_the_state_is_unknown_and_no_crash(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(device.gpu_state().values()) == {"unknown"}
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '580.1, 1755, 1980, [N/A], 512.5, 700.00, 61'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    state = device.gpu_state(gpu="GPU-1")
    assert (state["driver"], state["sm_clock_mhz"], state["memory_clock_mhz"]) == ("580.1", "1755", "unknown")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert set(device.gpu_state().values()) == {"unknown"}
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    assert set(device.gpu_state(limit_s=0.1).values()) == {"unknown"}


class Event:
    """As torch.cuda's on a machine of its own: each launch takes 1 ms, what was queued is done when asked for."""

    clock_ms = 0.0

    def __init__(self, *, enable_timing):
        assert enable_timing

    def record(self):
        self.at_ms = Event.clock_ms

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return end.at_ms - self.at_ms


def launch():
    Event.clock_ms += 1.0


def test_the_state_of_a_gpu_is_read_while_it_works(monkeypatch, tmp_path):
    """A slow nvidia-smi: it answers only when it has seen the call at work for a while."""
    seen = tmp_path / "seen"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f"#!/bin/sh\nwhile [ ! -e {seen} ]; do sleep 0.05; done\necho '580.1, 1755, 1980, 2619, 512.5, 700.00, 61'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    launches = []

    def call():
        launch()
        launches.append(0)
        if len(launches) == 50:
            seen.touch()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(device, "_identifier", lambda: "0")
    facts = device.under_load(call, "cuda")
    assert facts["power_w"] == "512.5"
    # One to learn how long it takes, then pieces of 20 ms at 1 ms each until the answer is there.
    assert len(launches) >= 61
    assert (len(launches) - 1) % 20 == 0


@pytest.mark.parametrize(("short_rows", "leads"), [(0, 1), (1, 2), (9, 3)])
def test_launches_gather_behind_work_or_the_row_is_timed_again(monkeypatch, short_rows, leads):
    """Where the GPU was idle before the whole row was queued, gaps between launches were timed: a longer lead."""
    given = []

    def query(event):
        # The lead is done, and with it the first event of the row.
        return len(given) <= short_rows

    monkeypatch.setattr(Event, "query", query, raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(bench_cuda.ceilings, "keep_busy", given.append)
    assert bench_cuda.event_clock(launch, repeats=4) == pytest.approx(1e-3)
    assert len(given) == leads
    assert given == sorted(set(given))
