"""How to describe a chip of one's own: the example on the page runs, and the words it lists are all that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from einsum_cascade import zoo
from einsum_cascade.ops import COST_CLASSES
from simulator.hardware.cost import table
from simulator.hardware.reader import load_hardware
from simulator.spatial.mapper import find_mapping

PAGE = (Path(__file__).resolve().parents[3] / "simulator" / "README.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("### A chip of your own")[2].partition("\n## ")[0]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(re.search(r"```yaml\n(.*?)```", SECTION, re.DOTALL)[1])
    return path


def test_the_example_is_a_chip_whose_parameters_are_its_own(path):
    chip = load_hardware(path, N=64)
    assert chip.arrays["MXU"].shape == (64, 64)
    assert chip.arrays["VPU"].shape == (512,)
    sizes = {"E": 64, "F": 64, "P": 256, "M": 256}
    estimate = find_mapping(zoo.load("attention_1pass"), sizes, chip).estimate
    macs = 256 * 256 * (64 + 64)
    assert estimate.latency_s * chip.clock_hz >= macs / 64**2
    assert 0 < max(estimate.utilization.values()) <= 1 + 1e-12


def test_the_words_that_are_listed_are_those_that_there_are():
    kinds = re.search(r"`dram` \(kinds (.*?)\)", SECTION, re.DOTALL)[1]
    assert re.findall(r"`(\w+)`", kinds) == [row["kind"] for row in table("dram")]
    operations = re.search(r"The operations are (.*?);", SECTION, re.DOTALL)[1]
    assert set(re.findall(r"`(\w+)`", operations)) == set(COST_CLASSES)
