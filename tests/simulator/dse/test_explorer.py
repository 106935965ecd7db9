"""The page in a real browser: opened, pointed at, filtered, brushed, clicked; without a network or an error."""

from __future__ import annotations

import base64
import json

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Browser, in_browser

import simulator as sim
from einsum_cascade.errors import DataError
from simulator.dse.engine import sweep
from simulator.dse.explorer import explore, page_of
from simulator.dse.pareto import pareto
from simulator.dse.space import Space
from simulator.dse.spec import read_spec

MANIFEST = {
    "inputs": {
        "cascade": "attention_1pass",
        "hardware": "fusemax",
        "mapping": "fusemax",
        "sizes": "BERT/64K",
    },
    "axes": {
        "hardware.N": [64, 128, 256],
        "hardware.memories.DRAM.bandwidth": ["200 GiB/s", "400 GiB/s"],
        "sizes.seq": ["4K", "64K"],
        "x": {"from": 0, "to": 1, "unit": ""},
    },
    "derived": [],
    "minimize": ["latency_s", "area_mm2"],
    "maximize": [],
}


def designs(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = rng.choice([64, 128, 256], count)
    seq = rng.choice(["4K", "64K"], count)
    latency = rng.lognormal(0, 1, count) / n * np.where(seq == "4K", 1, 256)
    return pd.DataFrame(
        {
            "hardware.N": n,
            "hardware.memories.DRAM.bandwidth": rng.choice(["200 GiB/s", "400 GiB/s"], count),
            "sizes.seq": seq,
            "x": rng.random(count),
            "latency_s": latency,
            "energy_j": rng.lognormal(3, 1, count),
            "area_mm2": n * rng.lognormal(0, 0.3, count),
            "bound_by": rng.choice(["PE1D", "DRAM"], count),
            "error": pd.array([pd.NA] * count, dtype="string"),
        }
    )


async def place_of(browser: Browser, design: int) -> tuple[float, float]:
    code = f"[view.px[{design}], view.py[{design}], $('plot').getBoundingClientRect().toJSON()]"
    px, py, box = await browser.js(code)
    return box["x"] + px, box["y"] + py


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the explorer was not opened")
@pytest.mark.slow
def test_a_hundred_thousand_designs_in_a_browser(tmp_path):
    pytest.importorskip("tornado", reason="tornado (of distributed) drives the browser")
    table = designs(100_000)
    front = pareto(table, minimize=["latency_s", "area_mm2"], by="sizes.seq")
    chosen = int(front["latency_s"].idxmax())
    schedules = {chosen: [("PE2D", "QK", 0.0, 1.0), ("PE1D", "RM", 1.0, 1.5)]}
    page = tmp_path / "explore.html"
    page.write_text(page_of(table, MANIFEST, title="Test <of> a page", schedules=schedules), encoding="utf-8")
    row = table.loc[chosen]

    async def script(browser: Browser) -> None:
        # The fastest of some openings: other work on the machine only ever adds time.
        assert min([await browser.open(page) for _ in range(4)]) < 3000
        assert await browser.js("$('shown').textContent") == "100,000 of 100,000 designs"
        assert await browser.js("document.title") == "Test <of> a page"

        drawn = await browser.js("view.front.flatMap((f) => f.rows)")
        assert sorted(drawn) == sorted(front.index)

        place = await place_of(browser, chosen)
        await browser.mouse("mouseMoved", *place)
        assert await browser.js("getComputedStyle($('tip')).display") == "block"
        tip = await browser.js("$('tip').innerText")
        assert f"{row['latency_s']:.5g}"[:6] in tip
        assert row["sizes.seq"] in tip

        await browser.click(*place)
        yaml = await browser.js("$('yaml').textContent")
        (tmp_path / "one.yaml").write_text(yaml)
        assert f"sizes.seq: [{row['sizes.seq']}]" in yaml
        assert f"hardware.N: [{row['hardware.N']}]" in yaml
        assert await browser.js("$('schedule').getBoundingClientRect().height") > 60
        assert await browser.js("$('schedule-advice').textContent") == ""

        await browser.js("$('x').value = 'energy_j'; $('x').dispatchEvent(new Event('change'))")
        again = pareto(table, minimize=["energy_j", "area_mm2"], by="sizes.seq")
        assert sorted(await browser.js("view.front.flatMap((f) => f.rows)")) == sorted(again.index)

        box = await browser.js(
            "document.querySelector('[data-column=\"hardware.N\"] input').getBoundingClientRect().toJSON()"
        )
        await browser.click(box["x"] + 5, box["y"] + 5)
        left = int((table["hardware.N"] != 64).sum())
        assert await browser.js("$('shown').textContent") == f"{left:,} of 100,000 designs"

        await browser.js(
            "{const box = document.querySelectorAll('[data-column=\"energy_j\"] input')[1];"
            "box.value = '20'; box.dispatchEvent(new Event('change'))}"
        )
        left = int(((table["hardware.N"] != 64) & (table["energy_j"] <= 20)).sum())
        assert await browser.js("$('shown').textContent") == f"{left:,} of 100,000 designs"

        await browser.js("$('reset').click()")
        at, box = await browser.js(
            "[lines.find((l) => l.column.name === 'x'), $('parallel').getBoundingClientRect().toJSON()]"
        )
        x, top, bottom = box["x"] + at["at"], box["y"] + at["top"], box["y"] + at["bottom"]
        await browser.mouse("mouseMoved", x, bottom)
        await browser.mouse("mousePressed", x, bottom)
        await browser.mouse("mouseMoved", x, (top + bottom) / 2)
        await browser.mouse("mouseReleased", x, (top + bottom) / 2)
        shown = int((await browser.js("$('shown').textContent")).split()[0].replace(",", ""))
        assert shown == pytest.approx(
            50_000, rel=0.05
        )  # half of a uniform axis, to a pixel's width and its padding

    browser = in_browser(page, tmp_path / "profile", script)
    assert browser.problems == []
    assert [u for u in browser.requested if not u.startswith("file:")] == []


def test_the_yaml_of_a_design_is_a_sweep_file(tmp_path):
    """What the page prints for a design (see the browser test) is read back as a sweep of that one point."""
    text = "cascade: attention_1pass\nhardware: fusemax\nmapping: fusemax\nsizes: BERT/64K\n"
    text += "axes:\n  hardware.N: [64]\n  hardware.memories.DRAM.bandwidth: [200 GiB/s]\n  sizes.seq: [4K]"
    (tmp_path / "one.yaml").write_text(text)
    spec = read_spec(tmp_path / "one.yaml")
    assert list(spec.space) == [
        {"hardware.N": 64, "hardware.memories.DRAM.bandwidth": "200 GiB/s", "sizes.seq": "4K"}
    ]


def columns_of(text: str) -> dict:
    data = json.loads(text.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    return {c["name"]: c for c in data["columns"]} | {"start": data["start"]}


def test_drawn_amounts_are_numbers_of_their_unit():
    table = designs(200)
    amounts = np.random.default_rng(2).random((2, 200)).tolist()
    table["hardware.L3"] = [f"{v!r} MiB" for v in amounts[0]]
    table["hardware.RF"] = [f"{v!r} KiB" for v in amounts[1]]
    manifest = {
        **MANIFEST,
        "axes": {**MANIFEST["axes"], "hardware.L3": {"from": 0, "to": 1, "unit": "MiB"}},
        "derived": {"hardware.RF": {"formula": "1", "unit": "KiB"}},
        "minimize": ["hardware.memories.DRAM.bandwidth", "latency_s", "hardware.L3"],
    }
    found = columns_of(page_of(table, manifest, title="t"))
    for name, unit, wanted in (("hardware.L3", "MiB", amounts[0]), ("hardware.RF", "KiB", amounts[1])):
        column = found[name]
        assert "levels" not in column
        assert column["label"] == f"{name} [{unit}]"
        assert np.frombuffer(base64.b64decode(column["data"]), dtype="<f8").tolist() == wanted
    # An objective that is a list of a few amounts is a level, and no axis of the scatter.
    assert (found["start"]["x"], found["start"]["y"]) == ("latency_s", "hardware.L3")


def test_a_page_is_self_contained_and_closed_to_injection(tmp_path):
    table = designs(20)
    table["bound_by"] = "</script><script>alert(1)</script>"
    text = page_of(table, MANIFEST, title="</title><script>alert(2)</script>")
    assert "<script>alert" not in text
    assert text.count("</script>") == 2
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in text


def test_a_folder_gets_its_page(tmp_path):
    def evaluate(point):
        if point["x"] == 3:
            raise DataError("does not fit")
        return {"latency_s": 1 / point["x"], "area_mm2": float(point["x"])}

    sweep(Space({"x": [1, 2, 3]}), evaluate=evaluate, out=tmp_path)
    page = explore(tmp_path)
    assert page == tmp_path / "explore.html"
    data = json.loads(page.read_text().split('type="application/json">')[1].split("</script>")[0])
    assert (data["count"], data["failed"]) == (2, 1)
    with pytest.raises(DataError, match="no sweep here"):
        explore(tmp_path / "none")
    with pytest.raises(DataError, match="cannot write"):
        explore(tmp_path, page=tmp_path / "none" / "page.html")


def test_the_front_has_the_schedules_of_the_simulator(tmp_path):
    fixed = {"cascade": "attention_1pass", "hardware": "fusemax", "mapping": "fusemax", "sizes": "BERT/4K"}
    objectives = {"minimize": ["latency_s", "area_mm2"]}
    table = sim.sweep({"hardware.N": [64, 128]}, out=tmp_path, objectives=objectives, **fixed)
    data = json.loads(
        explore(tmp_path).read_text().split('type="application/json">')[1].split("</script>")[0]
    )
    assert set(data["schedules"]) == {"0", "1"}
    for number, slots in data["schedules"].items():
        assert max(end for *_, end in slots) == pytest.approx(table["latency_s"][int(number)], rel=1e-12)
        assert [slots[0][1], slots[0][2]] == ["QK", 0.0]


def test_many_designs_keep_the_schedules_of_their_front(tmp_path, monkeypatch):
    fixed = {"cascade": "attention_1pass", "hardware": "fusemax", "mapping": "fusemax", "sizes": "BERT/4K"}
    axes = {"hardware.N": [64, 128], "hardware.L3": ["8 MiB", "16 MiB"], "sizes.seq": ["4K", "16K"]}
    table = sim.sweep(axes, out=tmp_path, objectives={"minimize": ["latency_s", "area_mm2"]}, **fixed)
    front = pareto(table, minimize=["latency_s", "area_mm2"], by=["sizes.seq"])
    assert len(front) < len(table) == 8
    for most, kept in ((8, range(8)), (7, front.index), (len(front) - 1, ())):
        monkeypatch.setattr("simulator.dse.explorer._MOST_SCHEDULES", most)
        page = explore(tmp_path).read_text()
        data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
        assert set(data["schedules"]) == {str(i) for i in kept}
