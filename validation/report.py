"""Sections of text, tables and figures -> one self-contained HTML page, a Markdown report, CSV tables."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum_cascade.errors import DataError
from einsum_cascade.terminal import cell

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table with the name of its CSV file and a caption that says units and source."""

    name: str
    caption: str
    frame: pd.DataFrame
    rows_shown: int = 24

    @property
    def rest(self) -> str:
        """How many rows are only in the file; empty where all are shown."""
        rest = len(self.frame) - self.rows_shown
        return f"{rest:,} more rows" if rest > 0 else ""


@dataclass(frozen=True)
class Figure:
    """A picture as PNG bytes, with the name of its file and a caption that says what to see in it."""

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Listing:
    """Preformatted text, such as a cascade."""

    text: str


Part = str | Table | Figure | Listing


@dataclass(frozen=True)
class Section:
    """One step of the story; a plain string is a paragraph."""

    title: str
    parts: tuple[Part, ...]


def picture(axes: Any) -> bytes:
    """Return the figure of some axes as PNG bytes, and close it."""
    from matplotlib import pyplot

    figure = axes.figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    pyplot.close(figure)
    return buffer.getvalue()


def prepare(out: Path) -> None:
    """Make the folders of a report; a minute of work need not end in finding that they cannot be written.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        for folder in (out, out / "figures", out / "tables"):
            folder.mkdir(parents=True, exist_ok=True)
        (out / "report.html").touch()
    except OSError as error:
        raise DataError(f"cannot write the report to {out}: {error.strerror or error}") from None


def write(title: str, introduction: str, sections: Sequence[Section], out: Path) -> Path:
    """Write report.html, report.md, figures/*.png and tables/*.csv; return the path of the page.

    Raises:
        DataError: the folder cannot be written.
    """
    prepare(out)
    try:
        for part in (p for s in sections for p in s.parts):
            if isinstance(part, Table):
                part.frame.to_csv(out / "tables" / f"{part.name}.csv", index=False)
            elif isinstance(part, Figure):
                (out / "figures" / f"{part.name}.png").write_bytes(part.png)
        page = out / "report.html"
        page.write_text(as_html(title, introduction, sections), encoding="utf-8")
        (out / "report.md").write_text(as_markdown(title, introduction, sections), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write the report to {out}: {error.strerror or error}") from None
    return page


def as_markdown(title: str, introduction: str, sections: Sequence[Section]) -> str:
    """Return the report as Markdown; figures are links to the files beside it."""
    out = [f"# {title}", introduction]
    for section in sections:
        out.append(f"## {section.title}")
        for part in section.parts:
            if isinstance(part, Table):
                file = f"`tables/{part.name}.csv`" + (f": {part.rest}" if part.rest else "")
                out += [f"**{part.caption}** ({file})", _rows_markdown(part)]
            elif isinstance(part, Figure):
                out.append(f"![{part.caption}](figures/{part.name}.png)")
            elif isinstance(part, Listing):
                out.append(f"```\n{part.text.rstrip()}\n```")
            else:
                out.append(part)
    return "\n\n".join(out) + "\n"


def _rows_markdown(table: Table) -> str:
    rows = table.frame.head(table.rows_shown)
    # pandas writes what is missing as <NA>, which a reader of Markdown takes for HTML.
    known = rows.astype(object).where(rows.notna(), None)
    return str(known.to_markdown(index=False, floatfmt=".4g", missingval="-"))


_STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dde3ea; --paper: #ffffff; --shade: #f5f7fa; --blue: #1f6feb; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; color: var(--ink); background: var(--shade);
       margin: 0; }
main { max-width: 1020px; margin: 0 auto; padding: 2rem 1.5rem 5rem; background: var(--paper); }
h1 { font-size: 1.8rem; margin: .2rem 0 .6rem; } h2 { margin-top: 2.6rem; border-bottom: 2px solid var(--line); }
nav a { color: var(--blue); text-decoration: none; margin-right: 1rem; white-space: nowrap; }
figure { margin: 1.4rem 0; } figure img { max-width: 100%; } figcaption, caption { color: var(--soft);
         font-size: .9rem; text-align: left; padding: .3rem 0; }
.wide { overflow-x: auto; margin: 1.2rem 0; } table { border-collapse: collapse; font-size: .84rem; }
caption { font-weight: 600; }
th, td { padding: .22rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--shade); } .number { text-align: right; white-space: nowrap; } .word { text-align: left; }
pre { background: var(--shade); border: 1px solid var(--line); padding: .8rem; overflow-x: auto;
      font-size: .82rem; line-height: 1.4; }
"""


def as_html(title: str, introduction: str, sections: Sequence[Section]) -> str:
    """Return the report as one page that needs no network: figures and style are inside."""
    links = " ".join(f'<a href="#s{i}">{html.escape(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(
        f'<h2 id="s{i}">{html.escape(s.title)}</h2>' + "".join(map(_part_html, s.parts))
        for i, s in enumerate(sections)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
        f"<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p><nav>{links}</nav>{body}"
        "</main></body></html>\n"
    )


def _part_html(part: Part) -> str:
    if isinstance(part, Table):
        more = f" ({part.rest} in tables/{part.name}.csv)" if part.rest else ""
        caption = f"<caption>{html.escape(part.caption + more)}</caption>"
        return (
            f'<div class="wide"><table>{caption}{_rows_html(part.frame.head(part.rows_shown))}</table></div>'
        )
    if isinstance(part, Figure):
        data = base64.b64encode(part.png).decode("ascii")
        caption = html.escape(part.caption)
        return (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    if isinstance(part, Listing):
        return f"<pre>{html.escape(part.text)}</pre>"
    return f"<p>{html.escape(part)}</p>"


def _rows_html(frame: pd.DataFrame) -> str:
    """Return head and body of a table; numbers stand on the right, words on the left."""
    numeric = [kind.kind in "iuf" for kind in frame.dtypes]
    sides = ["number" if n else "word" for n in numeric]

    def row(tag: str, values: Sequence[Any]) -> str:
        return "".join(
            f'<{tag} class="{side}">{html.escape(cell(v))}</{tag}>'
            for side, v in zip(sides, values, strict=True)
        )

    body = "".join(f"<tr>{row('td', values)}</tr>" for values in frame.itertuples(index=False, name=None))
    return f"<thead><tr>{row('th', list(map(str, frame.columns)))}</tr></thead><tbody>{body}</tbody>"
