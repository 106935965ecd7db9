"""The library of mappings, and mappings of one's own."""

from __future__ import annotations

import pytest

import mappings
from einsum_cascade.errors import MappingError
from mappings.binding import Binding
from mappings.files import load, names

NEST = """
kind: nest
cascade: gemm
nests:
  others: {time: {DRAM: [M, N, K]}}
"""
BINDING = """
kind: binding
keep: {DRAM: all}
phases: {all: [{PE: [C]}]}
"""


def written(tmp_path, text):
    path = tmp_path / "m.yaml"
    path.write_text(text)
    return path


def test_every_mapping_of_the_library_loads():
    for name in names():
        assert load(name).name or name.startswith("gpu/")


def test_lazy_face():
    assert mappings.load("fusemax") == load("fusemax")


def test_a_file_of_ones_own(tmp_path):
    found = load(written(tmp_path, NEST + "---" + BINDING))
    assert found.nest.cascade == "gemm"
    assert found.binding.keeps("DRAM", "C", "A")


def test_a_binding_borrows_a_nest(tmp_path):
    text = BINDING.replace("kind: binding", "kind: binding\nnest: fusemax")
    assert load(written(tmp_path, text)).nest == load("fusemax").nest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NEST, "expected one nest and one binding, found nest"),
        (NEST + "---" + NEST, "expected one nest and one binding"),
        (BINDING, "the binding needs a nest"),
        ("kind: nst\n", "kind: expected one of nest, binding, gpu, found 'nst'"),
        ("[1, 2]", "kind: expected one of"),
        (NEST.replace("nests:", "nest:") + "---" + BINDING, "nest: unknown field; did you mean 'nests'?"),
        (
            NEST.replace("time", "tim") + "---" + BINDING,
            "nests.others.tim: unknown field; did you mean 'time'?",
        ),
        (NEST + "---" + BINDING.replace("[C]}]", "[C, C]}]"), "C is scheduled twice"),
        (NEST.replace("nests:", "split: {M: [M1]}\nnests:") + "---" + BINDING, "at least two parts"),
        (
            NEST.replace("nests:", "split: {M: [X, Y], N: [X, Z]}\nnests:") + "---" + BINDING,
            "a part of both M and N",
        ),
        (NEST + "---" + BINDING.replace("{all: [{PE: [C]}]}", "{}"), "at least one is needed"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(MappingError) as caught:
        load(written(tmp_path, text))
    assert message in str(caught.value)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(MappingError, match="did you mean 'fusemax'"):
        load("fusemx")
    with pytest.raises(MappingError, match="no such mapping file"):
        load("nowhere/m.yaml")


def test_parts_and_fields_can_be_set():
    assert load("fusemax", {"P1": 2}).nest.sizes["P1"] == 2
    assert load("fusemax", {"sizes.P1": 2}) == load("fusemax", {"P1": 2})
    assert load("fusemax_stalled", {"P1": 2}).nest.sizes["P1"] == 2
    assert load("fusemax").nest.sizes["P1"] == "fit(GlobalBuffer)"


def test_a_list_may_be_set_as_text():
    for text in ("H, B, P2, M1", "[H,B,P2,M1]"):
        assert load("fusemax", {"outer": text}).nest.outer == ("H", "B", "P2", "M1")
    assert load("fusemax", {"keep.DRAM": "Q,K,V,AV"}) == load("fusemax")
    with pytest.raises(MappingError, match=r"outer: expected a list such as \[P, M\], found 3"):
        load("fusemax", {"outer": 3})


def test_keeps_by_einsum_by_list_and_all():
    binding = Binding({"A": "all", "B": ("X",), "C": {"E F": ("X", "Y")}}, {"p": ({"PE": ("E",)},)})
    assert binding.keeps("A", "E", "anything")
    assert binding.keeps("B", "E", "X") and not binding.keeps("B", "E", "Y")
    assert binding.keeps("C", "F", "Y") and not binding.keeps("C", "G", "Y")
    assert not binding.keeps("D", "E", "X")


def test_a_wait_may_be_a_plain_number(tmp_path):
    waits = BINDING.replace("[{PE: [C]}]", "[{wait: [300, 2 * C]}, {PE: [C]}]")
    steps = load(written(tmp_path, NEST + "---" + waits)).binding.phases["all"]
    assert steps[0] == {"wait": ("300", "2 * C")}
