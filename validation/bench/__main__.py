"""`python -m validation.bench`: every room is measured in one run and shown beside its targets."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import Any

from einsum_cascade.terminal import note, table

from .timing import timed

ROOMS = ("analysis", "dse", "gna", "gpu", "mapper", "spatial")


def start_of_the_command(rounds: int = 5) -> dict[str, Any]:
    """Return the time of `cascade --help`, median of whole processes, beside that of an empty interpreter."""

    def seconds(*args: str) -> float:
        command = [sys.executable, *args]
        return timed(lambda: subprocess.run(command, capture_output=True, check=True), rounds)[1]

    empty = seconds("-c", "pass")
    ours = seconds("-m", "validation", "--help")
    return {
        "what": "cascade --help",
        "value": ours,
        "unit": "s",
        "target": "< 0.3 s",
        "ratio": f"{ours / empty:.1f} x an empty interpreter",
    }


def main() -> None:
    """Run every bench module of this package and print one table."""
    rows = [start_of_the_command()]
    for room in ROOMS:
        note(f"measuring {room} ...")
        rows += importlib.import_module(f"{__package__}.{room}").bench()
    columns = ["what", "value", "unit", "target", "ratio"]
    table(
        f"bench: {os.cpu_count()} cores",
        columns,
        [[r.get(c, "") for c in columns] for r in rows],
        note="medians of one run; ratios carry over to other machines, seconds do not",
    )


if __name__ == "__main__":
    main()
