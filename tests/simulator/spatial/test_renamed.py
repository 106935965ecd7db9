"""The same algorithm in other letters costs the same: no name of a rank or a tensor decides anything."""

from __future__ import annotations

import random
import re

import pytest
from examples import MORE
from hypothesis import given, settings
from hypothesis import strategies as st
from random_machines import random_machine
from spatial_cascades import CASCADES

from einsum_cascade import zoo
from einsum_cascade.errors import MappingError
from einsum_cascade.parser import parse
from einsum_cascade.printer import render
from simulator import load_hardware, simulate
from simulator.spatial.default import default_mapping
from simulator.spatial.mapper import find_mapping

# Einsums over the same ranks tie between several of them on the axes, and the axes differ.
CHIP = """
kind: spatial
name: mine
clock: 1 GHz
word: 2 B
memories:
  DRAM: {component: dram, kind: hbm2, bandwidth: 100 GB/s, row: 8 B}
  Shared: {component: sram, capacity: 4 KiB, row: 32 B}
  Registers: {component: registers, capacity: 16 B, row: 2 B, of: PE, per_element: true}
arrays:
  PE:
    shape: [4, 16]
    units: [mac, add, max, exp, divide]
    ops: {mac: {mac: 1}, mul: {mac: 1}, add: {add: 1}, max: {max: 1}, exp: {exp: 1}, divide: {divide: 1}}
"""
QUANTITIES = ("latency_s", "energy_j", "traffic_bytes", "area_mm2", "bound_by")


def renamed(name, sizes):
    """Return a cascade of the zoo and its sizes with every rank and tensor under another name, in reverse order."""
    cascade = zoo.load(name)
    capitals = sorted({*cascade.rank_names, *cascade.signatures}, reverse=True)
    new = {old: f"X{i:02}" for i, old in enumerate(capitals)}
    new |= {old.lower(): to.lower() for old, to in new.items() if old in cascade.rank_names}
    _, _, body = render(cascade).partition("rank ")
    body = re.sub(r"[A-Za-z]\w*", lambda found: new.get(found[0], found[0]), body)
    return parse(f"cascade {name}\nrank {body}"), {new.get(rank, rank): n for rank, n in sizes.items()}


def quantities(estimate):
    return {name: getattr(estimate, name) for name in QUANTITIES}


@pytest.mark.parametrize("objective", ["latency_s", "energy_j", "traffic_bytes"])
@pytest.mark.parametrize("name", CASCADES)
def test_the_mapping_found_is_as_good_in_other_letters(tmp_path, name, objective):
    (tmp_path / "mine.yaml").write_text(CHIP)
    chip = load_hardware(tmp_path / "mine.yaml")
    found = find_mapping(zoo.load(name), CASCADES[name], chip, objective=objective, effort=20)
    other = find_mapping(*renamed(name, CASCADES[name]), chip, objective=objective, effort=20)
    assert quantities(other.estimate) == quantities(found.estimate)


@settings(max_examples=8 * MORE, deadline=None)
@given(st.sampled_from(sorted(CASCADES)), st.integers(0, 2**32))
def test_a_mapping_made_on_the_spot_is_the_same_in_other_letters(tmp_path_factory, name, seed):
    path = tmp_path_factory.mktemp("chip") / "random.yaml"
    path.write_text(random_machine(random.Random(seed)))
    chip = load_hardware(path)
    both = []
    for cascade, sizes in ((zoo.load(name), CASCADES[name]), renamed(name, CASCADES[name])):
        try:
            both.append(quantities(simulate(cascade, sizes, chip, default_mapping(cascade, sizes, chip))))
        except MappingError:
            both.append(None)
    assert both[0] == both[1]
