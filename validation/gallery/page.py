"""Rows of the gallery -> one self-contained HTML page, with its text, mathematics, graphs and plots inside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from einsum_cascade import zoo
from einsum_cascade.analysis.quantities import shown_bytes
from einsum_cascade.errors import DataError
from einsum_cascade.machine import cpus
from einsum_cascade.mathml import mathml
from einsum_cascade.outputs import check_writable, make_folder, replacing
from einsum_cascade.printer import latex, render
from einsum_cascade.zoo.entries import STATED_LENGTH

from .amounts import amount, count
from .charts import Series, chart
from .graph import graph_svg
from .rows import BUFFER_BYTES, LENGTHS, Point, Row, rows
from .times import ARRAY, FROM_TEXT, GPU, SEARCHED, Time, kernels

# The length that the page shows first.
FIRST_LENGTH = 2**14
_TITLES = {GPU: "H100", ARRAY: "FuseMax"}


def gallery(out: Path, *, only: Sequence[str] = (), jobs: int | None = None) -> Path:
    """Write index.html into a folder and return its path.

    Args:
        out: the folder; made if it is not there.
        only: names of entries; all of the zoo without any.
        jobs: processes that work side by side; None for one a core.

    Raises:
        CascadeError: no such entry.
        DataError: the page cannot be written.
    """
    names = list(dict.fromkeys(only)) or list(zoo.names())
    for name in names:
        zoo.load(name)
    page = out / "index.html"
    # A folder that takes no file is told before the minutes of work, not after them; an older page stays until then.
    make_folder(out)
    check_writable(page)
    jobs = jobs or min(cpus(), len(names))
    found = list(tqdm(rows(names, jobs=jobs), total=len(names), desc="gallery", unit="entry", disable=None))
    _write(page, page_of(found))
    return page


def _write(page: Path, text: str) -> None:
    """Write a page that takes the place of an older one once it is whole."""
    try:
        with replacing(page) as whole:
            whole.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {page}: {error.strerror or error}") from None


def page_of(found: Sequence[Row]) -> str:
    """Return the page of some rows as text."""
    data = {
        "lengths": list(LENGTHS),
        "shown": [count(n) for n in LENGTHS],
        "entries": [_data(row) for row in found],
    }
    kinds = sorted({row.entry.kind for row in found})
    parts = {
        "count": str(len(found)),
        "kinds": "".join(f"<option>{escape(k)}</option>" for k in kinds),
        "lengths": "".join(
            f'<option value="{n}"{" selected" if n == FIRST_LENGTH else ""}>{count(n)}</option>'
            for n in LENGTHS
        ),
        "gpu": _TITLES[GPU],
        "array": _TITLES[ARRAY],
        "stated": count(STATED_LENGTH),
        "searched": " and ".join(count(LENGTHS[k]) for k in SEARCHED),
        "buffer": shown_bytes(BUFFER_BYTES),
        "rows": "\n".join(_row(row) for row in found),
        # "</script" would end the element and "<!--" change its meaning, whatever string they stand in.
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "script": _part("gallery.js"),
    }
    page = _part("gallery.html")
    for name, text in parts.items():
        page = page.replace("{{" + name + "}}", text)
    return page


def _part(name: str) -> str:
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _data(row: Row) -> dict[str, Any]:
    """Return what the script sorts, filters and compares by."""
    e = row.entry
    return {
        "name": e.name,
        "title": e.title,
        "kind": e.kind,
        "source": e.source,
        "naive": max((c.naive for c in e.passes.values()), default=1),
        "intensity": e.intensity,
        "traffic": [p.traffic_bytes for p in row.points],
        "gpu": [p.gpu.seconds for p in row.points],
        "guess": [p.gpu.how == FROM_TEXT for p in row.points],
        "array": [p.array.seconds for p in row.points],
    }


def _row(row: Row) -> str:
    e = row.entry
    passes = ", ".join(_change(rank, c.naive, c.best) for rank, c in e.passes.items())
    cells = (
        f'<input type="checkbox" aria-label="compare {escape(e.title)}">'
        f"<span><b>{escape(e.title)}</b><code>{e.name}</code></span>"
        f'<span class="class">{escape(e.kind)}</span>'
        f'<span data-label="passes">{passes}</span>'
        f'<span class="number" data-label="ops/byte">{_short(e.intensity)}</span>'
        '<span class="number" data-column="traffic" data-label="least traffic"></span>'
        f'<span class="number" data-column="gpu" data-label="{_TITLES[GPU]}"></span>'
        f'<span class="number" data-column="array" data-label="{_TITLES[ARRAY]}"></span>'
    )
    return (
        f'<details class="row" id="{e.name}" data-name="{e.name}"><summary class="columns">{cells}</summary>'
        f"<article>{''.join(_body(row))}</article></details>"
    )


def _change(rank: str, naive: int, best: int) -> str:
    return f"{rank} {naive}" if naive == best else f"{rank} {naive} → {best}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _body(row: Row) -> Iterator[str]:
    e = row.entry
    memory = ' <span class="unsure">partly from memory</span>' if e.unsure else ""
    yield f'<p>{escape(e.summary)} <span class="source">{escape(e.source)}</span>{memory}</p>'
    yield '<div class="two"><div><h3>Mathematics</h3>'
    yield f'<div class="scroll">{mathml(row.cascade)}</div>'
    yield f'<details class="more"><summary>LaTeX</summary><pre>{escape(latex(row.cascade))}</pre></details></div>'
    yield f"<div><h3>Text</h3><pre>{escape(render(row.cascade))}</pre></div></div>"
    yield f'<h3>Dependency graph</h3><div class="scroll">{graph_svg(row.cascade)}</div>'
    yield f"<h3>Passes</h3>{_passes(row)}"
    yield f'<div class="two"><div><h3>Least traffic</h3>{_traffic(row.points)}</div>'
    yield f"<div><h3>Predicted time</h3>{_times(row.points)}</div></div>"
    yield f'<h3>At each length</h3><div class="scroll">{_table(row)}</div>{_remarks(row)}'


def _passes(row: Row) -> str:
    lines = []
    for rank, change in row.entry.passes.items():
        chain = " → ".join(row.chains[rank])
        forced = f', forced by <span class="chain">{escape(chain)}</span>' if change.naive > 1 else ""
        fewer = f"; {change.best} after rewriting" if change.best < change.naive else ""
        lines.append(f"<li>{change.naive} over {rank}{fewer}{forced}</li>")
    return f"<ul>{''.join(lines)}</ul>"


def _traffic(points: Sequence[Point]) -> str:
    series = (
        Series("compulsory, any buffer", "green", [p.compulsory_bytes for p in points]),
        Series(f"{shown_bytes(BUFFER_BYTES)} on chip", "blue", [p.traffic_bytes for p in points]),
    )
    return chart(series, LENGTHS, unit="B", label="least traffic")


def _times(points: Sequence[Point]) -> str:
    series = (
        Series(
            _TITLES[GPU], "blue", [p.gpu.seconds for p in points], [p.gpu.how == FROM_TEXT for p in points]
        ),
        Series(_TITLES[ARRAY], "orange", [p.array.seconds for p in points]),
    )
    return chart(series, LENGTHS, unit="s", label="time")


def _table(row: Row) -> str:
    head = "".join(
        f"<th>{escape(t)}</th>"
        for t in (
            "length",
            "compulsory",
            "least traffic",
            _TITLES[GPU],
            "bound by",
            _TITLES[ARRAY],
            "bound by",
        )
    )
    body = "".join(_table_row(p) for p in row.points)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _table_row(p: Point) -> str:
    cells = [count(p.length), _bytes(p.compulsory_bytes), _bytes(p.traffic_bytes)]
    plain = "".join(f"<td>{c}</td>" for c in cells)
    return f"<tr>{plain}{_time_cells(p.gpu)}{_time_cells(p.array)}</tr>"


def _bytes(value: float | None) -> str:
    return "–" if value is None else amount(value, "B")


def _time_cells(time: Time) -> str:
    if time.seconds is None:
        return f'<td class="why" colspan="2">refused: {escape(time.refused)}</td>'
    css = ' class="guess"' if time.how == FROM_TEXT else ""
    spread = (
        f' title="{amount(time.low_s, "s")} to {amount(time.high_s, "s")}"'
        if time.low_s is not None and time.high_s is not None
        else ""
    )
    return f"<td{css}{spread}>{amount(time.seconds, 's')}</td><td>{escape(time.bound_by)}</td>"


def _remarks(row: Row) -> str:
    name = row.entry.name
    sizes = ", ".join(f"{rank} = {text}" for rank, text in row.entry.recipe.items())
    laid = kernels().get(name)
    if laid is None:
        how = "laid out as kernels from its text"
    else:
        how = f"simulated as {laid.kernel}" + (f" ({laid.remark})" if laid.remark else "")
    return f'<p class="hint">Sizes: {escape(sizes)}. {_TITLES[GPU]}: {escape(how)}.</p>'
