"""`python -m validation.bench [PART ...]`: every room, or the named parts, measured and shown beside their targets."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from einsum_cascade.errors import nearest
from einsum_cascade.terminal import note, table

from .timing import timed

START = "start"
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


def parts(words: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the parts that a command line names, each once, or all of them."""
    parser = argparse.ArgumentParser(
        "python -m validation.bench",
        description="Measure how fast the parts of this package are, beside their targets; all take minutes.",
    )
    every = (START, *ROOMS)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(every)}; all where none is named"
    )
    chosen = parser.parse_args(words).parts
    for name in chosen:
        if name not in every:
            parser.error(f"part '{name}': {nearest(name, every)}")
    return tuple(dict.fromkeys(chosen)) or every


def main(words: Sequence[str] | None = None) -> None:
    """Run the bench modules of the named parts and print one table."""
    rows = []
    for part in parts(words):
        note(f"measuring {part} ...")
        if part == START:
            rows.append(start_of_the_command())
        else:
            rows += importlib.import_module(f"{__package__}.{part}").bench()
    columns = ["what", "value", "unit", "target", "ratio"]
    table(
        f"bench: {os.cpu_count()} cores",
        columns,
        [[r.get(c, "") for c in columns] for r in rows],
        note="medians of one run; ratios carry over to other machines, seconds do not",
    )


if __name__ == "__main__":
    main()
