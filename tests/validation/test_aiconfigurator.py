"""aiconfigurator's parquet tables: the same rows as the sampled CSV, and mistakes in one line."""

from __future__ import annotations

import pandas as pd
import pytest

from einsum_cascade.errors import DataError
from validation.gpu import compare
from validation.measured import PUBLISHED, read_measured

SAME = ["device", "implementation", "dtype", "batch", "heads", "seq_q", "seq_kv", "head_dim", "causal", "latency_ms",
        "kv_heads", "window", "kv_dtype"]  # fmt: skip
FRAMEWORKS = {"vllm": "VLLM", "sglang": "SGLang", "trtllm": "TRTLLM"}
NUMBERS = {"batch_size": "batch", "isl": "seq_q", "num_heads": "heads", "num_key_value_heads": "kv_heads",
           "head_dim": "head_dim", "window_size": "window", "latency": "latency_ms", "power": "power_w"}  # fmt: skip


@pytest.fixture(scope="module")
def sampled():
    table = read_measured(PUBLISHED / "serving_attention.csv")
    wanted = (table["device"] == "L40S") & (table["implementation"] == "sglang-0.5.14:triton")
    powered = table[table["power_w"].notna()].head(5)
    return pd.concat([table[wanted].head(120), powered], ignore_index=True)


def as_published(rows: pd.DataFrame) -> pd.DataFrame:
    """The file's own columns, as read in the files of the four sampled systems."""
    name = rows["implementation"].str.extract(r"(?P<framework>\w+)-(?P<version>[^:]+):(?P<kernel_source>.*)")
    name["framework"] = name["framework"].map(FRAMEWORKS)
    out = name.assign(device="NVIDIA " + rows["device"].str.replace(" SXM", ""), op_name="context_attention")
    out = out.assign(beam_width=1, step=0, kv_cache_dtype=rows["kv_dtype"], power_limit=1000.0)
    out["attn_dtype"] = rows["dtype"].replace({"bf16": "bfloat16"})
    return out.assign(**{theirs: rows[ours] for theirs, ours in NUMBERS.items()})


@pytest.fixture
def parquet(sampled, tmp_path):
    path = tmp_path / "context_attention_perf.parquet"
    as_published(sampled).to_parquet(path)
    return path


def test_the_rows_are_those_of_the_sample(sampled, parquet):
    expected, got = sampled.copy(), read_measured(parquet)
    expected["device"] = "NVIDIA " + expected["device"].str.replace(" SXM", "")
    pd.testing.assert_frame_equal(got[SAME], expected[SAME], check_dtype=False)
    assert got["power_w"].equals(expected["power_w"])


def test_validate_takes_the_parquet_file(sampled, parquet, tmp_path):
    csv = tmp_path / "same.csv"
    sampled.to_csv(csv, index=False)
    from_parquet, from_csv = compare(parquet), compare(csv)
    assert from_parquet["cells"] == from_csv["cells"] > 100
    key = "mape_calibrated"
    assert [s[key] for s in from_parquet["sets"]] == pytest.approx([s[key] for s in from_csv["sets"]])


def test_rows_of_the_chip_by_another_name_calibrate(sampled, parquet, tmp_path):
    csv = tmp_path / "calibrate.csv"
    sampled[sampled["window"] == 0].head(3).to_csv(csv, index=False)
    scalars = {c["scalar_source"] for c in compare(parquet, csv)["cases"] if "L40S" in c["case"]}
    assert any(text.startswith("calibrated on") for text in scalars)


def test_keys_in_the_cache_lengthen_the_keys(sampled, tmp_path):
    path = tmp_path / "chunked.parquet"
    as_published(sampled.head(1)).assign(step=512).to_parquet(path)
    row = read_measured(path).iloc[0]
    assert row["seq_kv"] == row["seq_q"] + 512


def test_older_files_have_no_window(sampled, tmp_path):
    path = tmp_path / "older.parquet"
    as_published(sampled.head(2)).drop(columns=["window_size", "power", "power_limit"]).to_parquet(path)
    assert read_measured(path)["window"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="isl"), "missing column 'isl'"),
        (lambda t: t.assign(op_name="gemm"), "no row with op_name"),
        (lambda t: t.assign(latency=0.0), "row 1: latency"),
        (lambda t: t.assign(isl=float("nan")), "row 1: isl"),
        (lambda t: t.head(0), "no row"),
    ],
)
def test_mistakes_are_named(sampled, tmp_path, change, says):
    path = tmp_path / "bad.parquet"
    change(as_published(sampled.head(3))).to_parquet(path)
    with pytest.raises(DataError, match=says):
        read_measured(path)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"device": "h200_sxm"}, {}),
        ({"device": "NVIDIA RTX PRO 6000 Blackwell Server Edition"}, {}),
        ({"device": "MI300X"}, {"device unknown": 5}),
        ({"attn_dtype": "torch.bfloat16", "kv_cache_dtype": "auto", "window_size": -1}, {}),
        ({"kv_cache_dtype": "fp8_e4m3", "power": "n/a", "comment": "new column"}, {}),
        ({"attn_dtype": "nvfp4"}, {"a type or size that is not modelled": 5}),
        ({"num_key_value_heads": 7}, {"a type or size that is not modelled": 5}),
        ({"head_dim": 4096}, {"no tile of the kernel fits the device": 5}),
        ({"kernel_source": "brand_new", "framework": "other"}, {}),
    ],
)
def test_strange_rows_are_predicted_or_counted(sampled, tmp_path, change, left):
    path = tmp_path / "strange.parquet"
    plain = as_published(sampled.head(40)).astype(object)
    plain["power"] = plain["power"].astype(str)
    table = pd.concat([plain, plain.head(5).assign(**change)], ignore_index=True)
    table.astype(str).to_parquet(path)
    assert compare(path)["left_out"] == left


def test_what_is_no_parquet_file(tmp_path):
    text = tmp_path / "text.parquet"
    text.write_text("not parquet")
    for path, says in ((text, "not a parquet table"), (tmp_path / "none.parquet", "no such file")):
        with pytest.raises(DataError, match=says):
            read_measured(path)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(DataError):
        read_measured(tmp_path / "folder.parquet")
