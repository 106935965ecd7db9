"""The machine on which a command runs."""

from __future__ import annotations

import os
from pathlib import Path


def cpus() -> int:
    """Return how many CPUs this process may use: where the system tells, those of its container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return how much memory is free here: where the system tells, what its container leaves; 0 where nothing tells."""
    found = []
    info = Path("/proc/meminfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    most, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if most.exists() and used.exists():
        limit = most.read_text(encoding="utf-8").strip()
        found += [max(0, int(limit) - int(used.read_text(encoding="utf-8")))] if limit.isdigit() else []
    return min(found, default=0)
