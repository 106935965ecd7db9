"""Which numbers of the GPU simulator were chosen after looking at data: read off the marks that files carry."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator
from pathlib import Path

import mappings.gpu
import simulator.gpu.calibration
from mappings.gpu import kernel_mappings

_MARK = re.compile(r"\b(?:chosen after looking at|fitted:)", re.IGNORECASE)
_TABLES = Path(simulator.gpu.calibration.TABLE).parent
_LIBRARY = mappings.gpu.LIBRARY
_CHIPS = _TABLES.parents[1] / "hardware" / "library" / "gpu"
_CODE = (_TABLES.parent, _LIBRARY.parents[1], Path(__file__).parent)
_ROOT = _TABLES.parents[2]


def chosen_after_data() -> list[dict[str, str]]:
    """Return {"file", "what", "why"} of every mark: fitted table rows, tiles, habits, constants in the code.

    Nothing is listed by hand: a table's `source`, a mapping's `chosen_on`, a comment beside a line of YAML,
    above or beside a constant.
    """
    return [
        {"file": str(path.relative_to(_ROOT)), "what": what, "why": why}
        for path, what, why in (*_of_tables(), *_of_mappings(), *_of_chips(), *_of_code())
    ]


def chosen_note(found: list[dict[str, str]]) -> str:
    """Return one line: how many entries of which files were chosen after looking at data."""
    files: dict[str, int] = {}
    for entry in found:
        name = Path(entry["file"]).name
        count = int(entry["what"].split()[0]) if entry["what"].endswith(" rows") else 1
        files[name] = files.get(name, 0) + count
    words = ", ".join(f"{name} {n}" for name, n in sorted(files.items()))
    return f"chosen after looking at data (field chosen_after_data of --json): {words}"


def _of_tables() -> Iterator[tuple[Path, str, str]]:
    """Yield tables: rows with names of their own one by one, the fitted ones of a large table as their number."""
    for path in (*sorted(_TABLES.glob("*.csv")), *sorted(_LIBRARY.glob("*.csv"))):
        with path.open(encoding="utf-8", newline="") as file:
            marked = [row for row in csv.DictReader(file) if _MARK.search(row["source"])]
        named = [row for row in marked if "name" in row or not row["source"].startswith("fitted:")]
        yield from ((path, next(iter(row.values())), row["source"]) for row in named)
        if len(named) < len(marked):
            origins = sorted({row["source"].rpartition(" in ")[2] for row in marked if row not in named})
            yield path, f"{len(marked) - len(named)} rows", "; ".join(origins)


def _of_mappings() -> Iterator[tuple[Path, str, str]]:
    for mapping in kernel_mappings():
        path = _LIBRARY / f"{mapping.name}.yaml"
        if mapping.chosen_on:
            yield path, "tiles and habits", mapping.chosen_on
        yield from _remarks(path)


def _of_chips() -> Iterator[tuple[Path, str, str]]:
    for path in sorted(_CHIPS.glob("*.yaml")):
        yield from _remarks(path)


def _remarks(path: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the lines of a YAML file that carry the mark beside their value."""
    for line in path.read_text(encoding="utf-8").splitlines():
        value, sign, remark = line.partition("  # ")
        if sign and _MARK.search(remark):
            yield path, value.strip(), remark


def _of_code() -> Iterator[tuple[Path, str, str]]:
    """Yield constants of modules whose comment carries the mark."""
    for folder in _CODE:
        for path in sorted(folder.rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if "hosen after looking at" in text:
                yield from ((path, *found) for found in _marked_constants(text))


def _marked_constants(text: str) -> Iterator[tuple[str, str]]:
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Assign) or not all(
            isinstance(t, (ast.Name, ast.Tuple)) for t in node.targets
        ):
            continue
        above: list[str] = []
        for line in reversed(lines[: node.lineno - 1]):
            if not line.startswith("#"):
                break
            above.insert(0, line.lstrip("# "))
        beside = [line.partition("  # ")[2] for line in lines[node.lineno - 1 : node.end_lineno]]
        remark = " ".join(part for part in (*above, *beside) if part)
        if _MARK.search(remark):
            yield f"{ast.unparse(node.targets[0])} = {ast.unparse(node.value)}", remark
