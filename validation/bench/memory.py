"""The greatest memory that a process has held."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_mib() -> float:
    """Return the greatest resident memory of this process, in MiB.

    Linux hands `ru_maxrss` on from the parent when a program is started, so a small process of a large one would look
    large; the high-water mark of its own pages begins anew.
    """
    if _STATUS.exists():
        line = next(x for x in _STATUS.read_text(encoding="ascii").splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
