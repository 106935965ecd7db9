"""A Dask cluster on loopback: scheduler and workers as processes of their own, some of them killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from einsum_cascade.errors import DataError
from simulator.dse import cluster as dse_cluster
from simulator.dse.cluster import connected
from simulator.dse.provenance import model_version
from simulator.dse.store import saved_in

pytest.importorskip("distributed")

# The module that evaluates: workers import it, as they would import this project on a cluster.
TOY = """
import os, time
from simulator.dse.space import Space

SPACE = Space({"n": list(range(40)), "m": list(range(1, 11))})

def evaluate(point):
    time.sleep(0.02)
    return {"latency_s": point["m"] / (1 + point["n"]), "name": "toy"}
"""
PROGRAM = """
import sys
import toy
from einsum_cascade.errors import ModelError
from simulator.dse import cluster
from simulator.dse.cluster import connected
from simulator.dse.engine import sweep

cluster._check_versions = lambda client: None  # the toy is no part of the model
cluster._CONNECT_S = 4
try:
    with connected(sys.argv[1]) as workers:
        sweep(toy.SPACE, evaluate=toy.evaluate, out=sys.argv[2], workers=workers)
except ModelError as error:
    sys.exit(str(error))
"""


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "toy.py").write_text(TOY)
        (folder / "program.py").write_text(PROGRAM)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.processes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self.scheduler = self.start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port)
        self.workers = [self.worker() for _ in range(2)]

    def worker(self) -> subprocess.Popen[bytes]:
        options = [
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--memory-limit",
            "0",
            "--death-timeout",
            "60",
        ]
        return self.start("distributed.cli.dask_worker", self.address, *options)

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(self.folder),
                "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
            },
            cwd=self.folder,
            stdout=log,
            stderr=log,
        )
        self.processes.append(process)
        return process

    def sweep(self, out: Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}
        command = [sys.executable, "program.py", self.address, str(out)]
        return subprocess.Popen(command, cwd=self.folder, env=environment, stderr=subprocess.PIPE, text=True)

    def wait_for_workers(self) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                with connected(self.address) as workers:
                    if workers.width == 2:
                        return
            except DataError:
                time.sleep(0.2)
        pytest.fail((self.folder / "log").read_text()[-3000:])


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(dse_cluster, "_check_versions", lambda client: None)
    found = Cluster(tmp_path)
    try:
        yield found
    finally:
        for process in found.processes:
            process.kill()
            process.wait()


def wait_for_points(out: Path, count: int, run: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 30
    while saved_in(out) < count and time.monotonic() < until:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.02)


def expected() -> pd.DataFrame:
    rows = [(n, m, m / (1 + n), "toy") for n in range(40) for m in range(1, 11)]
    return pd.DataFrame(rows, columns=["n", "m", "latency_s", "name"])


def check(out: Path) -> None:
    table = pd.read_csv(out / "table.csv")
    pd.testing.assert_frame_equal(table.drop(columns="error"), expected(), check_exact=True)
    assert saved_in(out) == 400


@pytest.mark.slow
def test_a_worker_and_then_the_scheduler_are_killed(cluster, tmp_path):
    cluster.wait_for_workers()

    out = tmp_path / "worker_killed"
    run = cluster.sweep(out)
    wait_for_points(out, 60, run)
    cluster.workers[0].send_signal(signal.SIGKILL)
    assert run.wait(timeout=90) == 0, run.communicate()[1]
    check(out)

    out = tmp_path / "scheduler_killed"
    run = cluster.sweep(out)
    wait_for_points(out, 50, run)
    cluster.scheduler.send_signal(signal.SIGKILL)
    message = run.communicate(timeout=90)[1].strip()
    assert run.returncode == 1
    assert message.startswith(f"the Dask cluster at {cluster.address} is lost")
    assert message.count("\n") == 0
    saved = saved_in(out)
    assert 50 <= saved < 400

    again = Cluster(tmp_path)
    cluster.processes += again.processes
    again.wait_for_workers()
    run = again.sweep(out)
    assert run.wait(timeout=90) == 0, run.communicate()[1]
    check(out)


def test_no_scheduler(monkeypatch):
    monkeypatch.setattr("simulator.dse.cluster._CONNECT_S", 0.5)
    with (
        pytest.raises(DataError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
        connected("tcp://127.0.0.1:9"),
    ):
        pass


@pytest.mark.parametrize("address", ["nonsense", "nonsense://x", "tcp://127.0.0.1:x", "http://a:1"])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_not_an_address(address):
    with pytest.raises(DataError, match=f"no Dask scheduler answers at {address}"), connected(address):
        pass


class Answers:
    """A client whose workers say which model version they have."""

    def __init__(self, *versions: str) -> None:
        self.versions = versions

    def run(self, function):
        if not self.versions:
            raise ImportError("No module named 'simulator'")
        return {f"tcp://worker{i}": v for i, v in enumerate(self.versions)}


def test_workers_with_another_model_are_refused():
    dse_cluster._check_versions(Answers(model_version()))
    with pytest.raises(DataError, match=r"worker1 has model version 0\.0\.9, here it is"):
        dse_cluster._check_versions(Answers(model_version(), "0.0.9"))
    with pytest.raises(DataError, match="cannot import this package: No module"):
        dse_cluster._check_versions(Answers())
