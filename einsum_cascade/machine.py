"""The machine on which a command runs."""

from __future__ import annotations

import os


def cpus() -> int:
    """Return how many CPUs this process may use: where the system tells, those of its container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
