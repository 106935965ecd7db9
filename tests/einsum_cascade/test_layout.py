"""Tables keep to the width of a terminal, and names and words in them stay whole."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from einsum_cascade.layout import Layout, lay_out, wrapped

WORD = st.text("abc_xyz", min_size=1, max_size=20)
CELL = st.lists(WORD, max_size=8).map(" ".join)
TEXT = "attention with its scores in memory, in three passes or two: what one costs"
NAMES = ["linear_attention_gradients", "attention_selected_blocks"]


def laid(columns: list[str], rows: list[list[str]], width: int) -> Layout:
    found = lay_out(columns, rows, [False] * len(columns), width)
    assert found is not None
    assert all(len(line) <= width for line in [*found.head, *found.body])
    return found


@given(st.lists(st.tuples(WORD, CELL, CELL), min_size=1, max_size=6), st.integers(20, 120))
def test_every_word_stays_whole_within_the_width(rows, width):
    found = lay_out(["name", "what it is", "more"], rows, [False, False, True], width)
    if found is None:
        return
    assert all(len(line) <= width for line in [*found.head, *found.body])
    words = {w for line in [found.said, *found.head, *found.body] for w in re.split(r"[ ;]+", line)}
    assert {w for row in rows for cell in row for w in cell.split()} <= words


def test_a_table_with_room_keeps_every_cell_on_its_line():
    found = laid(["name", "of", "text"], [[*NAMES, TEXT]], 140)
    assert found.body == ["  ".join([*NAMES, TEXT])]
    assert found.head == ["name                        of                         text"]


def test_a_long_text_goes_below_its_row():
    found = laid(["name", "of", "text"], [[*NAMES, TEXT]] * 2, 80)
    assert found.head == ["name                        of", "  text"]
    assert found.body[:2] == ["  ".join(NAMES), "  " + TEXT]


def test_a_text_that_fits_in_two_lines_stays_beside_its_name():
    found = laid(["name", "text"], [[NAMES[0], TEXT]], 80)
    assert found.body[0].startswith(NAMES[0] + "  attention with") and len(found.body) == 2


def test_what_is_the_same_in_every_row_is_said_once_where_the_table_is_too_wide():
    rows = [[name, "triton-cascade", "fwd", TEXT[:n]] for name, n in zip("abcd", (5, 9, 14, 38), strict=True)]
    columns = ["kernel", "implementation", "direction", "text"]
    assert laid(columns, rows, 90).said == ""
    narrow = laid(columns, rows, 60)
    assert narrow.said == "implementation triton-cascade; direction fwd"
    assert narrow.head == ["kernel  text"]


def test_words_that_others_only_add_to_are_said_once():
    rows = [
        ["a", "triton-cascade", "x"],
        ["b", "triton-cascade 3-pass", "y"],
        ["c", "triton-cascade sink", "z"],
    ]
    found = laid(["kernel", "variant", "what"], rows, 24)
    assert found.said == "variant triton-cascade ..."
    assert found.body == ["a       -        x", "b       3-pass   y", "c       sink     z"]


def test_further_lines_of_a_name_are_indented_so_that_rows_can_be_told_apart():
    found = laid(["case", "n"], [["FLUX 4K, H100 chart", "1"], ["Cosmos", "2"]], 14)
    assert found.body == ["FLUX 4K,     1", "  H100", "  chart", "Cosmos       2"]


def test_paths_go_on_after_a_slash_and_heads_of_joined_words_after_a_sign():
    found = laid(["name", "as_published_same_rows"], [["a", "source/of/flash/forward/launch_template.h"]], 30)
    assert found.body == ["a     source/of/flash/forward/", "      launch_template.h"]
    assert laid(["name", "as_published_same_rows"], [["a", "1"]], 20).head == [
        "name  as_published_",
        "      same_rows",
    ]


def test_columns_come_closer_before_the_table_is_given_up():
    assert laid(["aaaa", "bbbb"], [["1", "2"]], 9).head == ["aaaa bbbb"]
    assert lay_out(["aaaa", "bbbb"], [["1", "2"]], [False, False], 8) is None


def test_a_sentence_is_wrapped_between_words():
    assert wrapped("forced by QK -> GM", 12) == ["forced by QK", "-> GM"]
    assert wrapped("", 12) == [""]
