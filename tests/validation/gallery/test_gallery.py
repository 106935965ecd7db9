"""The page of a few entries: complete, self-contained, labelled, and alive in a real browser."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser, in_browser

import validation.gallery.page as page_module
from einsum_cascade import CascadeError, bounds, zoo
from einsum_cascade.errors import DataError
from einsum_cascade.zoo.entries import sizes_at
from simulator.gpu.fusion.predict import predict_cascade
from simulator.gpu.model import predict
from validation.gallery.amounts import amount
from validation.gallery.charts import Series, chart
from validation.gallery.graph import graph_svg
from validation.gallery.page import gallery
from validation.gallery.rows import BUFFER_BYTES, LENGTHS
from validation.gallery.times import DTYPE, FROM_TEXT, GPU, gpu_time, kernels

# Two with kernels of the GPU simulator, one without, which runs step by step.
ENTRIES = ("attention_3pass", "squeeze_excite", "deltanet")
VOID = {"meta", "input", "br", "link"}


class Reader(HTMLParser):
    """Every opened element is closed in order; what is told of each is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.labels: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "text":
            self.labels.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gallery(tmp_path_factory.mktemp("gallery"), only=ENTRIES)


@pytest.fixture(scope="module")
def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8").split('type="application/json">')[1].split("</script>")[0]
    return json.loads(text)


def test_every_entry_has_its_row_with_text_mathematics_graph_and_plots(page: Path, read: Reader) -> None:
    rows = [a["data-name"] for tag, a in read.found if tag == "details" and a.get("class") == "row"]
    assert rows == list(ENTRIES)
    assert len([1 for tag, _ in read.found if tag == "math"]) == len(ENTRIES)
    drawings = [a for tag, a in read.found if tag == "svg"]
    assert [a["class"] for a in drawings] == ["graph", "chart", "chart"] * len(ENTRIES)
    assert all(a["aria-label"] for a in drawings)
    text = page.read_text(encoding="utf-8")
    for name in ENTRIES:
        assert zoo.load(name).source.replace("&", "&amp;") in text


def test_axes_have_labels_with_units(read: Reader) -> None:
    for label in ("length [elements]", "least traffic [B]", "time [s]", "16K", "1M"):
        assert label in read.labels


def test_nothing_comes_from_a_network_and_no_text_ends_a_script(page: Path, read: Reader) -> None:
    text = page.read_text(encoding="utf-8")
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in text
    assert text.count("</script>") == 2
    assert not [a for _, a in read.found if "href" in a or "src" in a]


def test_the_numbers_are_those_of_the_analysis(page: Path) -> None:
    data = data_of(page)
    for entry in data["entries"]:
        for length, found in zip(LENGTHS, entry["traffic"], strict=True):
            wanted = bounds(
                zoo.load(entry["name"]), sizes_at(entry["name"], length), buffer=f"{BUFFER_BYTES} B"
            )
            assert found == wanted.traffic_bytes
        assert all(a <= b for a, b in zip(entry["gpu"], entry["gpu"][1:], strict=False))
    assert [e["guess"][0] for e in data["entries"]] == [False, False, True]


def test_an_entry_without_a_kernel_is_laid_out_from_its_text() -> None:
    sizes = sizes_at("deltanet", LENGTHS[1])
    found = gpu_time("deltanet", sizes)
    told = predict_cascade(zoo.load("deltanet"), sizes, on=GPU, dtype=DTYPE)
    assert (found.seconds, found.low_s, found.high_s) == (told.latency_s, told.low_s, told.high_s)
    assert found.how == FROM_TEXT


def test_kernels_name_entries_and_their_ranks() -> None:
    for name, laid in kernels().items():
        known = set(sizes_at(name, LENGTHS[-1]))
        words = {w for text in laid.arguments.values() for w in re.split("[,*]", text) if not w.isdigit()}
        assert words <= known, name


def test_an_entry_of_its_own_mask_is_timed_by_its_tiles() -> None:
    sizes = sizes_at("attention_sink", LENGTHS[1])
    found = gpu_time("attention_sink", sizes)
    heads = {"batch": 1, "heads": sizes["H"], "head_dim": sizes["E"], "seq_q": sizes["P"]}
    window, causal = (
        predict("flash_attention", on=GPU, causal=True, window=w, **heads) for w in (sizes["W"], 0)
    )
    assert window.latency_s < found.seconds < causal.latency_s


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "B", "0 B"),
        (999.9, "B", "1 kB"),
        (1.5e-6, "s", "1.5 µs"),
        (12345.0, "s", "12345 s"),
        (2**20, "B", "1.05 MB"),
    ],
)
def test_amounts(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text


def test_a_line_of_a_chart_stands_where_its_values_say() -> None:
    """Two decades over the height: the middle value, a decade above the lowest, is in the middle."""
    drawn = chart([Series("t", "blue", [1.0, 10.0, 100.0])], [1024, 4096, 16384], unit="s", label="time")
    places = drawn.split('points="')[1].split('"')[0].split()
    x, y = zip(*((float(v) for v in place.split(",")) for place in places), strict=True)
    assert math.isclose(y[1], (y[0] + y[2]) / 2, abs_tol=0.1)
    assert math.isclose(x[1], (x[0] + x[2]) / 2, abs_tol=0.1)
    assert y[0] > y[1] > y[2]
    assert "No time" in chart([Series("t", "blue", [None])], [1024], unit="s", label="time")


@pytest.mark.parametrize("name", ["gemm", "landmark_1pass", "titans_chunked"])
def test_a_graph_draws_every_tensor_once_and_every_edge(name: str) -> None:
    cascade = zoo.load(name)
    drawn = graph_svg(cascade)
    assert drawn.count("<rect") == len(cascade.graph.nodes)
    assert drawn.count('<path class="edge') == len(cascade.graph.edges)
    for node in cascade.graph.nodes:
        assert f">{node}</text>" in drawn


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(CascadeError, match=r"did you mean 'gemm'"):
        gallery(tmp_path, only=["gem"])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        gallery(tmp_path / "file", only=["squeeze_excite"])


def test_what_is_interrupted_leaves_an_older_page_and_no_empty_one(tmp_path, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(page_module, "rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gallery(tmp_path / "new", only=["squeeze_excite"])
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "index.html").write_text("older")
    with pytest.raises(KeyboardInterrupt):
        gallery(tmp_path, only=["squeeze_excite"])
    assert (tmp_path / "index.html").read_text() == "older"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the gallery was not opened")
@pytest.mark.slow
def test_the_page_in_a_browser(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("tornado", reason="tornado (of distributed) drives the browser")
    data = data_of(page)
    shown = "[...document.querySelectorAll('details.row:not([hidden])')].map((e) => e.dataset.name)"

    async def script(browser: Browser) -> None:
        assert await browser.js("$('count').textContent") == "3 of 3"
        await browser.js("document.querySelector('[data-sort=gpu]').click()")
        for length in (1024, 2**20):
            await browser.js(f"$('length').value = '{length}'; $('length').dispatchEvent(new Event('input'))")
            at = LENGTHS.index(length)
            wanted = sorted(data["entries"], key=lambda e: e["gpu"][at])
            assert await browser.js(shown) == [e["name"] for e in wanted]
            cell = "document.querySelector('#attention_3pass [data-column=gpu]').textContent"
            wanted_time = next(e for e in data["entries"] if e["name"] == "attention_3pass")["gpu"][at]
            assert await browser.js(cell) == amount(wanted_time, "s")
        await browser.js("$('kind').value = 'gate'; $('kind').dispatchEvent(new Event('input'))")
        assert await browser.js(shown) == ["squeeze_excite"]
        await browser.js("$('reset').click(); new Promise((done) => setTimeout(done, 20))")
        await browser.js("$('passes').value = '1'; $('passes').dispatchEvent(new Event('input'))")
        assert await browser.js(shown) == ["deltanet"]
        await browser.js("document.querySelectorAll('summary input').forEach((box) => box.click())")
        assert await browser.js("document.querySelectorAll('#together polyline').length") == 3
        labels = await browser.js(
            "[...document.querySelectorAll('#together text')].map((t) => t.textContent)"
        )
        assert "length [elements]" in labels
        assert "time on H100 [s]" in labels
        math_height = "document.querySelector('#deltanet math').getBoundingClientRect().height"
        await browser.js("$('deltanet').open = true")
        assert await browser.js(math_height) > 60
        await browser.call(
            "Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True
        )
        assert await browser.js("document.documentElement.scrollWidth") <= 400

    browser = in_browser(page, tmp_path / "profile", script)
    assert browser.problems == []
    assert [u for u in browser.requested if not u.startswith("file:")] == []
