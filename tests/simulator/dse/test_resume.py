"""A sweep killed at any instant and started again gives the table of an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import DataError
from simulator.dse.engine import sweep
from simulator.dse.runner import Pending
from simulator.dse.segments import decode
from simulator.dse.space import Space, rows
from simulator.dse.store import opened, saved_in

MARK, HEAD = b"\xd5sweep1\n", 16  # bytes of a head behind its mark: points, length, checksum

# One run of a sweep as its own process: what can be killed for real.
PROGRAM = """
import os, resource, sys, time
from einsum_cascade.errors import ModelError
from simulator.dse.engine import sweep
from simulator.dse.runner import Pending
from simulator.dse.space import Space

SPACE = Space({"n": list(range(40)), "m": [1, 2, 3, 4, 5], "L3": ["4 MiB", "16 MiB", "64 MiB"]})

def evaluate(point):
    time.sleep(float(os.environ.get("PAUSE_S", "0.004")))
    if counter := os.environ.get("COUNTER"):
        with open(counter, "ab") as file:
            file.write(b".")
    if point["n"] == 7:
        raise ModelError("does not fit")
    return {"latency_s": point["m"] / (1 + point["n"]), "L3_words": len(point["L3"]), "utilization": {"PE2D": 0.1}}

if __name__ == "__main__":
    if limit := os.environ.get("LARGEST_FILE"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        sweep(SPACE, evaluate=evaluate, out=sys.argv[1], jobs=int(sys.argv[2]))
    except ModelError as error:
        sys.exit(str(error))
"""
POINTS = 600


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture(scope="module")
def uninterrupted(program, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    start(program, out, jobs=1, PAUSE_S="0").wait()
    return out


def start(program: Path, out: Path, *, jobs: int, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, program, out, str(jobs)],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def stored(folder: Path) -> list[dict]:
    """Every point in the file of a folder, by looking at the bytes alone."""
    data = (folder / "points.log").read_bytes()
    parts = data.split(MARK)[1:]
    found = [decode(part[HEAD:]) for part in parts]
    return [point for part in found for point in rows(part.points)]


def same(a: Path, b: Path) -> None:
    assert (a / "table.csv").read_bytes() == (b / "table.csv").read_bytes()
    pd.testing.assert_frame_equal(
        pd.read_parquet(a / "table.parquet"), pd.read_parquet(b / "table.parquet"), check_exact=True
    )
    points = [tuple(point.values()) for point in stored(a)]
    assert len(points) == len(set(points)) == POINTS == saved_in(a)


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_random_instants(program, uninterrupted, tmp_path, jobs):
    rng = random.Random(jobs)
    kills = 0
    saved = 0
    for _ in range(30):
        run = start(program, tmp_path, jobs=jobs)
        try:
            run.wait(timeout=rng.uniform(0.4, 2.6) if kills < 4 else 60)
            break
        except subprocess.TimeoutExpired:
            workers = children(run.pid)
            run.kill()
            run.wait()
            kills += 1
        now = saved_in(tmp_path)
        assert now >= saved, "a point that was saved is gone"
        saved = now
        ends = time.monotonic() + 10
        while any(alive(w) for w in workers) and time.monotonic() < ends:
            time.sleep(0.05)
        assert not any(alive(w) for w in workers), "a worker outlived its killed parent"
    assert run.returncode == 0, run.stderr.read()
    assert kills >= 1
    same(tmp_path, uninterrupted)


def small(point):
    return {"y": point["x"] / 3}


def test_torn_at_every_byte(tmp_path):
    """Whatever part of the last batch reached the disk, the table comes out the same."""
    space = Space({"x": list(range(6))})
    whole = sweep(space, evaluate=small, out=tmp_path)
    path = tmp_path / "points.log"
    data = path.read_bytes()
    last = data.rindex(MARK)
    assert 0 < last < len(data) - 100
    for cut in [*range(last, len(data), 7), *range(9), last - 1, len(data) - 1]:
        path.write_bytes(data[:cut])
        again = sweep(space, evaluate=small, out=tmp_path)
        pd.testing.assert_frame_equal(again, whole)
        assert sorted(p["x"] for p in stored(tmp_path)) == list(range(6))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_cut_and_damaged_anywhere(data):
    """A file of any batches, cut at any byte and with any byte changed, gives the table of a whole run."""
    space = Space({"x": list(range(20)), "y": ["a", 2, 2.5, True]})
    sizes = iter(data.draw(st.lists(st.integers(1, 30), min_size=4, max_size=8)) * 80)

    def result(point):
        return {"z": point["x"] / 3, "w": str(point["y"])} | ({"odd": point["x"]} if point["x"] % 2 else {})

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(Pending, "learn", lambda self, batch: setattr(self, "size", next(sizes)))
        whole = sweep(space, evaluate=result, out=folder)
        path = Path(folder) / "points.log"
        for _ in range(data.draw(st.integers(1, 3))):
            kept = bytearray(path.read_bytes()[: data.draw(st.integers(0, path.stat().st_size))])
            if len(kept) > len(MARK):
                # The first bytes tell whose file it is.
                kept[data.draw(st.integers(len(MARK), len(kept) - 1))] ^= data.draw(st.integers(1, 255))
            path.write_bytes(kept)
            pd.testing.assert_frame_equal(sweep(space, evaluate=result, out=folder), whole)
            assert saved_in(folder) >= len(space)


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "points.log").write_text("my notes\n" * 9)
    with pytest.raises(DataError, match="not the points of a sweep; choose another folder"):
        sweep(Space({"x": [1]}), evaluate=small, out=tmp_path)
    assert (tmp_path / "points.log").read_text() == "my notes\n" * 9


def test_points_of_an_earlier_release_are_refused(tmp_path):
    (tmp_path / "points.jsonl").write_text('{"key":"k","point":{"x":1},"result":{"y":1}}\n')
    with pytest.raises(DataError, match=r"\(points.jsonl\) are of an earlier release.*choose another folder"):
        sweep(Space({"x": [1]}), evaluate=small, out=tmp_path)


def test_a_finished_sweep_computes_nothing_and_a_larger_one_only_what_is_new(tmp_path):
    seen = []

    def counted(point):
        seen.append(point["x"])
        return small(point)

    sweep(Space({"x": [1, 2, 3]}), evaluate=counted, out=tmp_path)
    sweep(Space({"x": [1, 2, 3]}), evaluate=counted, out=tmp_path)
    assert seen == [1, 2, 3]
    larger = Space({"x": [5, 3, 2, 1]})
    table = sweep(larger, evaluate=counted, out=tmp_path)
    assert seen == [1, 2, 3, 5]
    assert table["x"].tolist() == [5, 3, 2, 1]
    sweep(larger, evaluate=counted, out=tmp_path, context="another model")
    assert seen == [1, 2, 3, 5, 5, 3, 2, 1]


def test_two_runs_into_one_folder_share_the_work(program, uninterrupted, tmp_path):
    counter = tmp_path / "counter"
    runs = [start(program, tmp_path / "out", jobs=1, COUNTER=str(counter), PAUSE_S="0.001") for _ in range(2)]
    messages = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], messages
    assert sum("another run writes here; waiting" in m for m in messages) == 1
    assert len(counter.read_bytes()) == POINTS
    same(tmp_path / "out", uninterrupted)


@pytest.mark.parametrize("limit", [4_000, 30_001])
def test_a_full_disk_is_one_error_that_says_what_is_saved(program, uninterrupted, tmp_path, limit):
    # A limit on the size of a file fails the write as a full disk does, in the middle of a batch too.
    run = start(program, tmp_path, jobs=1, LARGEST_FILE=str(limit), PAUSE_S="0.001")
    message = run.communicate()[1].strip()
    assert run.returncode == 1
    assert message.count("\n") == 0
    assert 0 < saved_in(tmp_path) < POINTS
    assert f"cannot write: File too large; {saved_in(tmp_path)} points are saved" in message
    assert len(stored(tmp_path)) == saved_in(tmp_path)
    assert start(program, tmp_path, jobs=1, PAUSE_S="0").wait() == 0
    same(tmp_path, uninterrupted)


def test_an_interrupt_saves_and_ends_the_workers(program, uninterrupted, tmp_path):
    run = start(program, tmp_path, jobs=2, PAUSE_S="0.03")
    while len(children(run.pid)) < 3:  # two workers and the resource tracker
        time.sleep(0.02)
        assert run.poll() is None
    time.sleep(0.5)
    os.killpg(run.pid, signal.SIGINT)
    message = run.communicate(timeout=20)[1]
    assert "points are saved, the same command goes on from there" in message
    assert start(program, tmp_path, jobs=1, PAUSE_S="0").wait() == 0
    same(tmp_path, uninterrupted)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_made(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write here") as found:
        sweep(Space({"x": [1]}), evaluate=small, out=tmp_path / place)
    assert "\n" not in str(found.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot write here: Permission denied"), opened(tmp_path):
        pass


UNGUARDED = """
import sys, time
from einsum_cascade.errors import ModelError
from simulator.dse.engine import sweep
from simulator.dse.runner import Pending
from simulator.dse.space import Space

def evaluate(point):
    time.sleep(0.01)
    return {"y": 1}

try:
    sweep(Space({"x": list(range(300))}), evaluate=evaluate, out=sys.argv[1] + __name__, jobs=2)
except ModelError as error:
    sys.exit(str(error))
"""


def test_a_script_without_a_guard_is_told_so(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    command = [sys.executable, tmp_path / "script.py", tmp_path / "out"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "the pool of worker processes is lost" in ran.stderr
    assert "if __name__ == '__main__':" in ran.stderr.splitlines()[-1]
