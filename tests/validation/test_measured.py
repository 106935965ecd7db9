"""The reader of measured tables refuses what it should, in one clear line."""

from __future__ import annotations

import pandas as pd
import pytest

from einsum_cascade.errors import DataError
from validation.measured import PUBLISHED, read_measured

HEAD = (
    "source,device,kernel,implementation,direction,dtype,batch,heads,seq_q,seq_kv,head_dim,causal,extra,"
    "latency_ms,tflops"
)
ROW = "me,H100,flash_attention,triton,fwd,bf16,4,32,1024,1024,128,1,,0.5,"


def write(tmp_path, *lines):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_good_table(tmp_path):
    table = read_measured(write(tmp_path, HEAD, ROW))
    assert table[["batch", "kv_heads", "window"]].iloc[0].tolist() == [4, 0, 0]
    assert table["latency_ms"].iloc[0] == 0.5


def test_remarks_fill_in_missing_columns(tmp_path):
    row = ROW.replace(",,0.5", ",gqa kv heads=8; window=128; more,0.5")
    table = read_measured(write(tmp_path, HEAD, row))
    assert table[["kv_heads", "window"]].iloc[0].tolist() == [8, 128]


@pytest.mark.parametrize(
    ("head", "row"),
    [
        (HEAD.replace(",", ", "), ROW.replace(",", " , ")),
        (HEAD, ROW.replace(",128,1,", ",128,True,")),
        (HEAD, ROW.replace("bf16", "bfloat16")),
        (HEAD, ROW.replace("bf16", "BF16")),
        (HEAD, ",".join(f'"{cell}"' for cell in ROW.split(","))),
        ("\ufeff" + HEAD + "\r", ROW + "\r"),
        (",".join(reversed(HEAD.split(","))), ",".join(reversed(ROW.split(",")))),
    ],
)
def test_strangers_write_the_same_table_in_other_ways(tmp_path, head, row):
    plain = read_measured(write(tmp_path, HEAD, ROW))
    found = read_measured(write(tmp_path, head, row))
    pd.testing.assert_frame_equal(found, plain, check_like=True)


MISTAKES = [
    ((HEAD,), "no rows"),
    ((HEAD.replace("batch,", ""), ROW), "missing column 'batch'"),
    ((HEAD + ",colour", ROW + ",red"), "unknown column 'colour'"),
    ((HEAD + ",windw", ROW + ",1"), "did you mean 'window'"),
    ((HEAD, ROW.replace("me,", ",", 1)), "line 2: no source"),
    ((HEAD, ROW, ROW.replace("0.5", "fast")), "line 3: latency_ms: expected a number, found 'fast'"),
    ((HEAD, ROW.replace("0.5", "-0.5")), "latency_ms: expected a positive number"),
    ((HEAD, ROW.replace("0.5", "")), "latency_ms"),
    ((HEAD, ROW.replace("0.5", "nan")), "latency_ms"),
    ((HEAD, ROW.replace(",4,32", ",4.5,32")), "batch: expected a whole number"),
    ((HEAD, ROW, ROW.replace("fwd", "forward")), "line 3: direction: 'forward' is none; did you mean 'fwd'"),
    ((HEAD, ROW, ROW.replace(",128,1,", ",128,2,")), "line 3: causal: expected 0 or 1, found 2"),
    ((HEAD + ",window", ROW + ",128", ROW + ",1.5"), "line 3: window: expected a whole number, found 1.5"),
    ((HEAD + ",kv_heads", ROW + ",7.9"), "line 2: kv_heads: expected a whole number, found 7.9"),
    ((HEAD, ROW.replace(",128,1,", ",64.5,1,")), "head_dim: expected a whole number, found 64.5"),
    ((HEAD, ROW + ",1,2,3"), "line 2: expected 15 fields, found 18"),
    ((HEAD + ",source", ROW + ",you"), "the column 'source' is there 2 times"),
]


@pytest.mark.parametrize(("lines", "says"), MISTAKES)
def test_mistakes_are_one_clear_line(tmp_path, lines, says):
    with pytest.raises(DataError, match=says) as caught:
        read_measured(write(tmp_path, *lines))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b"  \n", "empty"), (b"\xff\xfe\x00\x01", "not a text"), (b"a,b\x00", "zero byte")],
)
def test_files_that_are_no_tables(tmp_path, content, says):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_measured(path)
    with pytest.raises(DataError, match="no such file"):
        read_measured(tmp_path / "missing.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_measured(tmp_path)


@pytest.mark.parametrize(("name", "rows"), [("gpu_measured.csv", 1084), ("serving_attention.csv", 9171)])
def test_published_tables_are_whole(name, rows):
    assert len(read_measured(PUBLISHED / name)) == rows
