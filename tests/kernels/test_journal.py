"""The table that a campaign goes on with: what a stop cut off is cut, what is no table is left as it is."""

from __future__ import annotations

import pytest

from einsum_cascade.errors import DataError
from kernels import campaign, journal


def tiny():
    return list(campaign.plan(lengths=(32,), head_dims=(16,), tokens=32))[:1]


def test_a_row_that_a_stop_cut_off_is_removed(tmp_path):
    path = tmp_path / "rows.csv"
    campaign.run(path, tiny(), on="cpu")
    whole = path.read_text()
    path.write_text(whole + "cascade kernels campaign,half a r")
    assert len(journal.done(path)) == 1
    assert path.read_text() == whole


def test_a_foreign_list_of_failures_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    journal.failed_path(path).write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="missing"):
        journal.failures(path, commit="any")


@pytest.mark.parametrize(
    "content",
    [
        b"my notes\nwithout an end",
        b"one line",
        b"a,b\n1,2\n3",
        bytes(range(256)),
        b"device,kern\xff",
        b'"open\n',
    ],
    ids=["notes", "line", "table", "binary", "latin", "quote"],
)
def test_a_file_that_is_no_table_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.csv: .*expected a table of measurements"):
        journal.done(path)
    assert path.read_bytes() == content


def test_a_head_that_a_stop_cut_off_is_written_again(tmp_path):
    path = tmp_path / "rows.csv"
    campaign.run(path, tiny(), on="cpu")
    whole = path.read_text()
    path.write_text(whole[:20])
    assert journal.done(path) == set()
    campaign.run(path, tiny(), on="cpu")
    assert len(journal.done(path)) == 1
    assert path.read_text().splitlines()[0] == whole.splitlines()[0]
