"""What `cascade list` tells: the columns, and that the stored facts of the zoo are what the analysis finds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from einsum_cascade import CascadeError, zoo
from einsum_cascade.errors import ModelError
from einsum_cascade.zoo.entries import STATED_LENGTH, entry, sizes_at, table
from validation import facts, seeds
from validation.catalogue import catalogue, shown

# The operators that one kernel can serve, as the design of the zoo tells them apart, and those that need none.
CLASSES = {
    "softmax attention", "two-pass attention", "linear attention", "scan", "grouped softmax", "gathered attention",
    "delta rule and memory", "channel attention", "gate", "merge of partial attentions", "decode", "recurrence",
    "convolution", "matrix product",
}  # fmt: skip


def test_every_entry_is_described() -> None:
    assert tuple(table()) == zoo.names()
    assert {e.kind for e in table().values()} == CLASSES
    assert len({e.title for e in table().values()}) == len(table())


@pytest.mark.parametrize("name", zoo.names())
def test_an_entry_is_what_its_cascade_says(name: str) -> None:
    told, cascade = entry(name), zoo.load(name)
    assert (told.summary, told.source) == (cascade.summary, cascade.source)
    assert set(told.over) <= set(cascade.rank_names)
    for length in (1024, 65536):
        sizes = sizes_at(name, length)
        assert set(sizes) >= set(cascade.rank_names)


def test_passes_of_the_text_are_those_stored_and_those_of_the_seed_papers() -> None:
    for name, told in table().items():
        naive = {rank: facts.passes_of_text(name, rank) for rank in told.over}
        assert {rank: c.naive for rank, c in told.passes.items()} == naive, name
    for row in seeds.table():
        for item in row["passes"].split():
            rank, _, count = item.partition(":")
            stored = entry(row["cascade"]).passes
            assert rank not in stored or stored[rank].naive == int(count), row["cascade"]


@pytest.mark.slow
def test_reduced_passes_are_those_stored() -> None:
    """A rule that reaches more is good news: run `python -m validation.facts` and read what changed."""
    for name, told in table().items():
        assert facts.passes_of(name) == dict(told.passes), name


@pytest.mark.slow
def test_intensities_are_those_stored() -> None:
    for name, told in table().items():
        assert told.intensity == float(f"{facts.intensity_of(name):.4g}"), name


def test_intensity_of_a_matrix_product_by_hand() -> None:
    """M = 16K, K = N = 4096: 2 M K N operations over 2 (M K + K N + M N) bytes."""
    m, k, n = STATED_LENGTH, 4096, 4096
    assert facts.intensity_of("gemm") == 2 * m * k * n / (2 * (m * k + k * n + m * n))
    assert facts.work({"mac": 3, "exp": 5}) == 11


def test_a_length_without_whole_sizes_is_refused() -> None:
    with pytest.raises(CascadeError, match=r"gna_2d: My = sqrt\(LENGTH\) is 44.72.* at a length of 2,000"):
        sizes_at("gna_2d", 2000)
    with pytest.raises(CascadeError, match="did you mean 'gemm'"):
        entry("gem")


def test_list_as_json_and_as_a_table() -> None:
    rows = catalogue("algorithms")
    assert [r["name"] for r in rows] == list(zoo.names())
    assert {"name", "summary", "source", "class", "passes", "intensity"} <= set(rows[0])
    attention = next(r for r in rows if r["name"] == "attention_3pass")
    assert attention["passes"] == {"M": {"naive": 3, "best": 1}}
    columns, cells = shown("algorithms", rows)
    assert dict(zip(columns, cells[rows.index(attention)], strict=True))["passes"] == "M 3 -> 1"
    for kind in ("hardware", "mappings", "models"):
        assert shown(kind, catalogue(kind))[0] == ["name", "summary", "source"]
    with pytest.raises(ModelError, match="did you mean 'models'"):
        catalogue("model")


def test_list_parses_no_cascade() -> None:
    """It is for a look in passing: nothing of it needs the grammar, NumPy or the analysis."""
    code = (
        "import sys, json; from validation.catalogue import catalogue; rows = catalogue('algorithms');"
        "print(json.dumps([len(rows), [m for m in ('lark', 'networkx', 'sympy') if m in sys.modules]]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [len(zoo.names()), []]
