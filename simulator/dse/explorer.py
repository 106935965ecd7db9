"""One self-contained HTML page over a sweep: scatter with its front, filters, parallel coordinates; no network."""

from __future__ import annotations

import base64
import contextlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.errors import DataError
from einsum_cascade.outputs import check_writable

from .computed import with_formulas
from .formulas import magnitude
from .pareto import pareto
from .plots import axis_label
from .provenance import model_version
from .store import read_manifest, write_atomically
from .subjects import changes_work, waterfalls
from .tables import plain_rows, read_table

if TYPE_CHECKING:
    import pandas as pd

_SCRIPTS = ("data.js", "explorer.js", "schedule.js", "controls.js")
# A column of more different words than this is a text, not a property to filter or colour by.
_MOST_LEVELS = 1000
# Schedules are simulated again for the page, which should not take longer than a look at it: those of all designs where
# they are few, else those of the front.
_MOST_SCHEDULES = 2000
# An axis of at most so many values is shown value by value, numbers too.
_FEW = 40


def explore(folder: str | Path, *, page: str | Path | None = None) -> Path:
    """Write the page of a finished sweep and return its path.

    Args:
        folder: of the sweep.
        page: the file to write; None means `explore.html` in the folder.

    Raises:
        DataError: no finished sweep, or the page cannot be written.
    """
    manifest, table = read_manifest(folder), read_table(folder)
    out = Path(page) if page else Path(folder) / "explore.html"
    check_writable(out)
    title = f"Design space: {_subject(manifest)}"
    write_atomically(out, page_of(table, manifest, title=title, schedules=_schedules(table, manifest)))
    return out


def _schedules(table: pd.DataFrame, manifest: Mapping[str, Any]) -> Mapping[int, Any]:
    """Return the schedules of the front, or of every design, by the number of the row among those without error."""
    inputs, minimize, maximize = (manifest.get(name, ()) for name in ("inputs", "minimize", "maximize"))
    axes = [*manifest.get("axes", {}), *manifest.get("derived", ())]
    usable = table[table["error"].isna()].reset_index(drop=True)
    chosen = usable
    if len(usable) > _MOST_SCHEDULES and (minimize or maximize):
        work = [a for a in axes if changes_work(a)]
        chosen = pareto(usable, minimize=minimize, maximize=maximize, by=work)
    if not inputs or len(chosen) > _MOST_SCHEDULES or manifest.get("model") != model_version():
        return {}
    points = zip(chosen.index.tolist(), plain_rows(chosen[axes]), strict=True)
    return waterfalls(dict(points), inputs)


def page_of(
    table: pd.DataFrame,
    manifest: Mapping[str, Any],
    *,
    title: str,
    schedules: Mapping[int, Any] = MappingProxyType({}),
) -> str:
    """Return the page as text.

    Args:
        table: one row a point.
        manifest: its `axes`, `derived`, `inputs`, `minimize` and `maximize` are used.
        schedules: (lane, Einsum, begin, end) in seconds, by the number of the row among those without error.

    Raises:
        DataError: no row without an error, or fewer than two columns to draw.
    """
    objectives = [*manifest.get("minimize", ()), *manifest.get("maximize", ())]
    table = with_formulas(table, objectives)
    usable = table[table["error"].isna()] if "error" in table else table
    if not len(usable):
        raise DataError("every point of the sweep has failed; there is nothing to explore")
    axes = [*manifest.get("axes", {}), *manifest.get("derived", ())]
    stated = {**dict(manifest.get("derived") or {}), **manifest.get("axes", {})}
    columns = [
        _column(usable[name], stated.get(name)) | {"objective": name in objectives}
        for name in usable.columns
        if name != "error" and usable[name].notna().any()
    ]
    columns = [c | {"role": "axis" if c["name"] in axes else "result"} for c in columns if "data" in c]
    data = {
        "count": len(usable),
        "failed": len(table) - len(usable),
        "inputs": manifest.get("inputs", {}),
        "maximize": list(manifest.get("maximize", ())),
        "columns": columns,
        "start": _start(columns, objectives),
        "schedules": {str(number): slots for number, slots in schedules.items()},
    }
    # "</script" would end the element and "<!--" change its meaning, whatever string they stand in.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    script = "\n".join(_part(name) for name in _SCRIPTS)
    page = _part("explorer.html").replace("{{title}}", html.escape(title)).replace("{{script}}", script)
    return page.replace("{{data}}", text)


def _part(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _subject(manifest: Mapping[str, Any]) -> str:
    inputs = manifest.get("inputs", {})
    return ", ".join(str(v) for v in inputs.values()) or "a sweep"


def _column(values: pd.Series, order: Any) -> dict[str, Any]:
    """Return a column for the page: numbers, or codes of levels in the order of the axis.

    Args:
        values: the column.
        order: what the manifest says of the axis: a list, or a mapping with the unit of values that were drawn.
    """
    name = str(values.name)
    if isinstance(order, Mapping) and (unit := order.get("unit")):
        numbers = values.str.removesuffix(f" {unit}").astype(float).to_numpy(dtype="<f8")
        return {"name": name, "label": f"{name} [{unit}]", "unit": unit, "data": _base64(numbers)}
    out: dict[str, Any] = {"name": name, "label": axis_label(name)}
    listed = [str(v) for v in order] if isinstance(order, list) else []
    if not 0 < len(listed) <= _FEW:
        with contextlib.suppress(TypeError, ValueError):
            return out | {"data": _base64(values.to_numpy(dtype="<f8", na_value=np.nan))}
    texts = values.map(str, na_action="ignore").astype(object).fillna("none")
    found = dict.fromkeys(texts)
    levels = [v for v in listed if v in found] + [v for v in found if v not in listed]
    if len(levels) > _MOST_LEVELS:
        return out
    place = {level: code for code, level in enumerate(levels)}
    codes = np.array([place[v] for v in texts], dtype="<u2")
    ordered = all(magnitude(v) is not None for v in levels)
    return out | {"levels": levels, "ordered": ordered, "data": _base64(codes)}


def _base64(values: Any) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def _start(columns: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> dict[str, str]:
    """Return what the page shows first: the objectives, and a front for each kind of work."""
    numbers = [c["name"] for c in columns if "levels" not in c]
    results = [c["name"] for c in columns if c["role"] == "result" and "levels" not in c]
    wanted = list(dict.fromkeys([*(o for o in objectives if o in numbers), *results, *numbers]))
    axes = [c["name"] for c in columns if c["role"] == "axis"]
    if len(wanted) < 2:
        raise DataError("the table has fewer than two columns of numbers; there is nothing to draw")
    work = [c["name"] for c in columns if c["role"] == "axis" and "levels" in c and changes_work(c["name"])]
    return {"x": wanted[0], "y": wanted[1], "color": axes[0], "group": work[0] if work else ""}
