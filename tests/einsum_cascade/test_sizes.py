"""Sizes of a use: texts, models of the workload table, splits, and every way to get them wrong."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import CascadeError, bounds, parse, parse_sizes, zoo
from einsum_cascade.sizes import count, resolve, stated_parts

ONE = zoo.load("attention_1pass")


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("64K", 65536), ("1M", 2**20), ("1.5K", 1536), (" 7 ", 7)]
)
def test_count(text: str, value: int) -> None:
    assert count(text) == value


def test_a_split_is_completed() -> None:
    sizes = parse_sizes("E=4,F=4,P=8,M=96", ONE)
    assert (sizes["M1"], sizes["M0"]) == (2, 48)  # 48 is the largest divisor of 96 up to 64
    assert parse_sizes("E=4,F=4,P=8,M=96", ONE, tile=32)["M1"] == 3
    assert parse_sizes("E=4,F=4,P=8,M1=5,M0=7", ONE)["M"] == 35


def test_models() -> None:
    sizes = parse_sizes("BERT/64K", ONE)
    assert sizes["M"] == sizes["P"] == 65536
    assert (sizes["B"], sizes["H"], sizes["E"]) == (64, 12, 64)
    assert parse_sizes("BERT/64K,B=1", ONE)["B"] == 1


def test_derived_ranks_and_aliases() -> None:
    sizes = parse_sizes("E=2,F=2,T=12,T0=4", zoo.load("linear_chunked"))
    assert (sizes["T1"], sizes["S0"]) == (3, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no sizes given"),
        ("E=4,F=4,M=8", "attention_1pass needs the size of P"),
        ("E=4,F=4,P=8", r"needs the size of M1 \(or M = M1 \* M0\), M0 \(or M = M1 \* M0\)"),
        ("E=4,F=4,P=8,M=8,Q=1", "attention_1pass has no rank Q"),
        ("E=4,E=4", "E is given twice"),
        ("E=-4", "a size is at least 1"),
        ("E=0", "a size is at least 1"),
        ("E=2.5", "a size is a whole number"),
        ("E=four", "expected a whole number such as 64, 64K or 1M"),
        ("E=4,P", "expected RANK=number"),
        ("E=4,F=4,P=8,M=10,M0=4", "M0=4 does not divide M=10"),
        ("E=4,F=4,P=8,M=8,M1=3,M0=2", "M1=3 does not divide M=8"),
        ("E=4,F=4,P=8,M=12,M1=3,M0=2", "M=12 contradicts M = 6 of its parts"),
        ("BERTT/64K", "did you mean 'BERT'"),
        ("BERT", "lacks a length; write BERT/64K"),
        ("E=1e9G", "expected a whole number"),
        ("E=999999999G", "at most 2\\^48"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(CascadeError, match=message):
        parse_sizes(text, ONE)


@pytest.mark.parametrize("value", [0, -1, 1.5, "4", True, None])
def test_resolve_refuses_what_is_not_a_size(value: object) -> None:
    with pytest.raises(CascadeError, match="a size is a whole number of at least 1"):
        resolve(zoo.load("gemm"), {"M": value, "N": 1, "K": 1})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("I - 5", "J would be -3; a size is a whole number"),
        ("I / 4", "J would be 0.5"),
        ("I // (I - 2)", "divides by zero"),
        ("I ** 99", "exponent beyond 64"),
        ("log(I - 2)", "not finite"),
    ],
)
def test_derived_sizes_must_be_sizes(size: str, message: str) -> None:
    text = f"cascade c\nrank I\nrank J = {size}\ninput A[I]\noutput O[]\nO[] = A[i]\n"
    with pytest.raises(CascadeError, match=message):
        parse_sizes("I=2", parse(text))


@pytest.mark.parametrize("block", [16, 64, 512])
def test_stated_parts_where_other_ranks_follow_from_a_part(block):
    """The window W = N0 + 2 * R of a halo follows from the block, whichever block was chosen."""
    halo = zoo.load("halo_attention")
    sizes = parse_sizes(f"E=8,F=8,N1=4,N0={block},R=4", halo)
    chosen = resolve(halo, {"E": 8, "F": 8, "N": 4 * block, "R": 4})["N0"]
    expected = {} if chosen == block else {"N1": 4, "N0": block}
    assert stated_parts(halo, sizes) == expected


def test_sizes_may_be_numpy_integers_and_counts_do_not_overflow():
    """A shape of an array gives int64, and products of them are soon beyond it."""
    flash = zoo.load("attention_3pass")
    sizes = {"E": 64, "F": 64, "M": 2**21, "P": 2**21, "B": 2**12, "H": 2**11}
    typed = {name: np.int32(size) for name, size in sizes.items()}
    assert {type(size) for size in resolve(flash, typed).values()} == {int}
    assert bounds(flash, typed).operations["mac"] == 2 * 64 * 2**42 * 2**23
