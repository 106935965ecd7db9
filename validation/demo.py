"""The main job: describe, bound, sweep, predict, measure, compare; written as one report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import chapters
from .report import Section, prepare, write

TITLE = "einsum-cascade: what can no machine avoid, what will this machine take, and was that right?"
INTRODUCTION = (
    "Every figure and table below was computed by this run from the cascade texts, the hardware and mapping files and "
    "the published tables that the package carries. Errors are printed as they are."
)

Chapter = Callable[[], tuple[Section, str]]
CHAPTERS: tuple[tuple[str, Chapter], ...] = (
    ("describe", chapters.describe),
    ("bounds", chapters.bounds),
    ("fusemax", chapters.fusemax),
    ("sweep", chapters.sweep),
    ("neighbourhood", chapters.neighbourhood),
    ("gpu", chapters.gpu),
    ("cpu", chapters.cpu),
)


def run(out: Path) -> dict[str, Any]:
    """Write the report into a folder and return what each step found and how long it took.

    Returns:
        `{"report": path, "steps": [{"step", "result", "seconds"}], "seconds"}`.

    Raises:
        ModelError: a step cannot be carried out, or the folder cannot be written.
    """
    from tqdm.auto import tqdm

    started = time.perf_counter()
    prepare(out)
    told = CHAPTERS
    if chapters.measured_files():
        told += (("campaign", chapters.campaign),)
    sections: list[Section] = []
    steps: list[dict[str, Any]] = []
    with tqdm(total=len(told), desc="demo", file=sys.stderr) as bar:
        for name, chapter in told:
            bar.set_postfix_str(name)
            begun = time.perf_counter()
            section, result = chapter()
            sections.append(section)
            steps.append({"step": name, "result": result, "seconds": round(time.perf_counter() - begun, 2)})
            bar.update()
    page = write(TITLE, INTRODUCTION, sections, out)
    return {"report": str(page), "steps": steps, "seconds": round(time.perf_counter() - started, 2)}
