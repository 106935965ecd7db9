"""The suite of the seed papers: complete, within tolerance, and able to notice a broken cascade."""

from __future__ import annotations

import pytest

from einsum_cascade import parse, zoo
from validation import seeds


def test_everything_is_within_tolerance() -> None:
    found = seeds.cases()
    assert found[~found.ok].empty, found[~found.ok].to_string()
    assert tuple(found.columns) == seeds.COLUMNS
    draws = found[found.column.str.startswith("difference")]
    assert len(draws) == seeds.DRAWS * len(zoo.names())


def test_every_paper_has_its_operator() -> None:
    papers = {p for row in seeds.table() for p in row["papers"].split()}
    assert papers == {f"S{i:02}" for i in range(1, 45)}
    assert len({row["seed_name"] for row in seeds.table()}) == 61
    assert {row["cascade"] for row in seeds.table()} <= set(zoo.names())


def test_unsure_rows_say_so_in_their_source() -> None:
    for row in seeds.table():
        assert ("UNSURE" in zoo.load(row["cascade"]).source) == (row["unsure"] == "1"), row["cascade"]


@pytest.mark.parametrize(
    ("sizes", "only", "expected"),
    [
        ({"E": 2, "F": 3, "M": 5, "P": 7}, (), 5 * 7 * (2 + 3)),
        ({"E": 2, "F": 3, "M": 5, "P": 7}, ("AV",), 3 * 5 * 7),
    ],
)
def test_macs_by_hand(sizes: dict[str, int], only: tuple[str, ...], expected: int) -> None:
    assert seeds.macs("attention_3pass", sizes, only=only) == expected


def test_macs_of_a_text() -> None:
    text = "cascade c\nrank I J\ninput A[I] B[J]\noutput O[]\nO[] = A[i] * B[j] :: sum(i, j)\n"
    assert seeds.macs(parse(text), {"I": 3, "J": 4}) == 12


# Papers with a headline claim that counting can reproduce; the list is kept apart from the suite, on purpose.
CLAIMS = {"S03", "S09", "S12", "S14", "S21", "S22", "S26", "S30", "S36", "S42", "S44"}


def test_claims_that_counting_reproduces_are_cases_and_the_others_say_why() -> None:
    claims = list(seeds._claims())
    assert {c["case"].split()[0] for c in claims} == CLAIMS
    assert all(c["why"] and c["ok"] for c in claims)
    assert all(why for why in seeds.NOT_REPRODUCED.values())


def test_memory_of_a_layer_by_hand() -> None:
    """L = 512, H = 768: L H = 393,216 and Z L^2 = 3,145,728.

    On 64 cards that share the sequence: (10 x 393,216 + 3,145,728) / 64 = 110,592. On 12 that share the heads:
    (8 x 393,216 + 3,145,728) / 12 + 2 x 393,216 = 1,310,720.
    """
    assert seeds._activations(512, sequence=64) == 110_592
    assert seeds._activations(512, heads=12) == 1_310_720
