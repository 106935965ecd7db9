"""The one reader of published tables, and what a bad file is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from einsum_cascade.errors import DataError
from validation.tables import read_table


def test_numbers_or_texts_as_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,\n007,x\n", encoding="utf-8")
    assert read_table(path)["a"].tolist() == [1, 7]
    assert read_table(path, required=("a",), as_text=True).to_dict("list") == {
        "a": ["1", "007"],
        "b": ["", "x"],
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a table: no rows"),
        (b"a,b\n", "no rows"),
        (b"\xff\xfe\x00a", "not a text file"),
        (b'a,b\n1,2\n"3,4\n', "not a table"),
        (b"a,b\n1,2,3\n1,2,3,4\n", "not a table"),
        (b"latency,b\n1,2\n", "column 'latency_s' is missing; did you mean 'latency'"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_table(path, required=("latency_s",))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match="no such file"):
            read_table(path)
