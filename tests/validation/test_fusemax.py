"""Every published cell of the FuseMax artifact, the headline averages, and what a bad file is answered."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from einsum_cascade import zoo
from einsum_cascade.errors import DataError, ModelError
from einsum_cascade.sizes import model_sizes
from simulator import load_hardware
from simulator.spatial.model import plan
from validation.fusemax import FILES, LENGTHS, SHIPPED, cases, estimate, flat_choices, headline
from validation.fusemax_quirks import AS_PUBLISHED, CORRECTED, SIMULATED
from validation.fusemax_runs import flat_mapping


@pytest.fixture(scope="module")
def table():
    return cases()


def test_every_public_cell_as_published(table):
    # 1e-9: the same model computed anew in doubles; only the order of additions differs (found: 5e-16)
    assert len(table) == 18 * (5 + 7 + 7 + 10 + 10 + 3 + 3 + 7)
    assert table["relative_error"].max() <= 1e-9
    assert table["ok"].all()


@pytest.fixture(scope="module")
def ratios():
    return {row["quantity"]: row for row in headline()}


@pytest.mark.parametrize(
    ("quantity", "as_published", "corrected"),
    [
        # The averages of all 24 rows that the paper states (6.7x, 79 %, 5.3x, 83 %), to four digits, and with register
        # files, exponentials, overflow and the missed tile put right.
        ("attention speedup vs FLAT", 6.7226, 6.7226),
        ("attention energy vs FLAT", 0.7875, 0.8783),
        ("attention speedup vs unfused", 10.052, 10.051),
        ("attention energy vs unfused", 0.7674, 0.8468),
        ("end-to-end speedup vs FLAT", 5.3017, 5.3017),
        ("end-to-end energy vs FLAT", 0.8335, 0.9123),
        ("end-to-end speedup vs unfused", 7.602, 7.601),
        ("+Cascade attention energy vs FLAT", 0.9082, 0.9660),
    ],
)
def test_headline(ratios, quantity, as_published, corrected):
    assert ratios[quantity]["as_published"] == pytest.approx(as_published, rel=1e-4)
    assert ratios[quantity]["corrected"] == pytest.approx(corrected, rel=1e-4)
    same_rows = (ratios[quantity]["published"], ratios[quantity]["as_published_same_rows"])
    assert same_rows[0] == pytest.approx(same_rows[1], rel=1e-12)


def test_partial_overflow_is_partial():
    """With 12 heads 64-bit arithmetic wraps to something other than zero at 256K: +0.34 %, else +0.51 %."""
    from dataclasses import replace

    unwrapped = replace(AS_PUBLISHED, wrap=False)

    def excess(model, length):
        wrapped, exact = (estimate("binding", model, length, q).energy_j for q in (AS_PUBLISHED, unwrapped))
        return wrapped / exact - 1

    assert excess("BERT", "256K") == pytest.approx(0.0034, abs=5e-5)
    assert excess("TrXL", "256K") == pytest.approx(0.0051, abs=5e-5)
    assert 0 < excess("BERT", "64K") < 1e-6
    assert excess("BERT", "16K") == 0


def test_utilisation_of_binding_is_full():
    for length in LENGTHS:
        assert estimate("binding", "BERT", length, SIMULATED).utilization["PE1D"] == pytest.approx(
            1, abs=1e-12
        )


def test_energy_scales_with_heads_once_the_overflow_is_gone():
    energies = [
        estimate("binding", m, "256K", CORRECTED).energy_j / h
        for m, h in (("BERT", 12), ("TrXL", 16), ("T5", 8))
    ]
    assert max(energies) / min(energies) == pytest.approx(1, rel=1e-12)


def test_flat_choices_name_every_row():
    choices = flat_choices(SHIPPED)
    assert {("XLM", "1M"), ("BERT", "1K")} <= set(choices)


def test_spilled_shares_are_those_of_the_published_table():
    """The simulator computes them from the mapping; FLAT's own search printed them."""
    table = pd.read_csv(SHIPPED / "flat_validation.csv")
    printed = table[table["platform"] == "cloud"].set_index(["models", "seq_len"])["proportion_spilled"]
    for (model, length), choice in flat_choices(SHIPPED).items():
        settled = plan(
            zoo.load("attention_3pass"),
            model_sizes(f"{model}/{length}"),
            load_hardware("flat"),
            flat_mapping(choice),
        )
        found = max(settled.spills.values(), default=0.0)
        assert found == pytest.approx(printed[model, length], rel=1e-12, abs=1e-12), (model, length)


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(SHIPPED, tmp_path / "published")
    return tmp_path / "published"


def test_any_folder_with_the_same_names(folder):
    for file in FILES:
        path = folder / f"{file.name}.csv"
        pd.read_csv(path).head(1).to_csv(path, index=False)
    found = cases(folder)
    assert len(found) == sum(len(file.columns) for file in FILES)
    assert found["ok"].all()


def test_a_wrong_cell_is_found(folder):
    path = folder / "attn-arch.csv"
    rows = pd.read_csv(path)
    rows.loc[0, "latency"] *= 1 + 1e-8
    rows.to_csv(path, index=False)
    wrong = cases(folder).query("~ok")
    assert wrong["case"].tolist() == ["attn-arch/BERT/1K"]
    assert wrong["column"].tolist() == ["latency"]


def test_files_that_a_folder_lacks_are_left_out(folder):
    (folder / "pareto.csv").unlink()
    assert not cases(folder)["case"].str.startswith("pareto").any()
    assert headline(folder)


def test_a_folder_without_any_of_them(tmp_path):
    with pytest.raises(DataError, match="none of the artifact's files"):
        cases(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_text(""), "not a table"),
        (
            lambda p: p.write_text(
                "model,seq_len,traffic,latency,energy,util_2d,util_1d,QK,LM,SLN,SLD,SLNV\n"
            ),
            "no rows",
        ),
        (lambda p: p.write_bytes(b"\x00\xff\xfe\x80"), "not a table"),
        (
            lambda p: p.write_text(p.read_text().replace("latency", "latncy", 1)),
            "'latency' is missing; did you mean",
        ),
        (
            lambda p: p.write_text(p.read_text().replace("SLNV", "SLNV,extra", 1)),
            "unknown column|not a table",
        ),
        (lambda p: p.write_text(p.read_text().replace("BERT", "BART")), "unknown model 'BART'"),
        (
            lambda p: p.write_text(p.read_text() + p.read_text().splitlines()[1] + "\n"),
            "attn-binding.csv:20: BERT/1K is there a second time",
        ),
        (
            lambda p: p.write_text(p.read_text().replace("402653184", "much", 1)),
            "expected a number, found 'much'",
        ),
        (
            lambda p: p.write_text(p.read_text().replace("402653184", "", 1)),
            "attn-binding.csv:2: traffic: expected a number, found none",
        ),
        (
            lambda p: p.write_text(p.read_text().replace("402653184", "inf", 1)),
            "attn-binding.csv:2: traffic: expected a number, found 'inf'",
        ),
    ],
)
def test_bad_files(folder, damage, message):
    damage(folder / "attn-binding.csv")
    with pytest.raises(DataError, match=message):
        cases(folder)


@pytest.mark.parametrize(
    ("file", "column", "said"),
    [
        ("pareto", "PE_dim", "pareto.csv:2: PE_dim=x: expected a whole number"),
        ("attn-flat", "seq_len", "attn-flat.csv:2: seq_len=x: expected a whole number"),
        ("flat_validation", "P1", "flat_validation.csv: .*: P1=x: expected a whole number"),
    ],
)
def test_a_size_that_is_none_is_told_with_its_place(folder, file, column, said):
    path = folder / f"{file}.csv"
    table = pd.read_csv(path, dtype=str)
    row = 0
    if "platform" in table:
        row = int(((table["platform"] == "cloud") & (table["fusion_granularity"] != "head")).argmax())
    table.loc[row, column] = "x"
    table.to_csv(path, index=False)
    with pytest.raises(ModelError, match=said):
        cases(folder)
