"""Text to cascade: what each construct becomes, and files that are not cascades."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

import pytest

from einsum_cascade import CascadeError, evaluate, load, parse, zoo
from einsum_cascade.declarations import Iterate
from einsum_cascade.expr import Access, Apply, Compare, Num, Size, Var
from einsum_cascade.parser import parse_expression


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("1 + 2 * 3", Apply("+", (Num(1), Apply("*", (Num(2), Num(3)))))),
        ("1 - 2 - 3", Apply("-", (Apply("-", (Num(1), Num(2))), Num(3)))),
        ("-m ** 2", Apply("neg", (Apply("**", (Var("m"), Num(2))),))),
        ("2 ** -m", Apply("**", (Num(2), Apply("neg", (Var("m"),))))),
        ("2 ** 3 ** m", Apply("**", (Num(2), Apply("**", (Num(3), Var("m")))))),
        ("m // 2 % 3", Apply("%", (Apply("//", (Var("m"), Num(2))), Num(3)))),
        ("0 <= m < M", Compare(("<=", "<"), (Num(0), Var("m"), Size("M")))),
        (
            "not m < 1 and m > 2",
            Apply(
                "and",
                (Apply("not", (Compare(("<",), (Var("m"), Num(1))),)), Compare((">",), (Var("m"), Num(2)))),
            ),
        ),
        ("a or b and c", Apply("or", (Var("a"), Apply("and", (Var("b"), Var("c")))))),
        ("T[]", Access("T")),
        ("K[e, J[p] + 1]", Access("K", (Var("e"), Apply("+", (Access("J", (Var("p"),)), Num(1)))))),
        ("-inf", Apply("neg", (Num(math.inf),))),
        ("1e-5", Num(1e-5)),
        ("1.", Num(1.0)),
        ("max(a, b, 1)", Apply("max", (Var("a"), Var("b"), Num(1)))),
    ],
)
def test_expression(text: str, tree: object) -> None:
    assert parse_expression(text) == tree


def test_reductions() -> None:
    head = "cascade c\nrank I J S\ninput A[I, J]\noutput O[S] U[I]\n"
    text = head + "O[s] = A[i, 0] :: topk(i -> s, sorted)\nU[i] = A[i, j] :: max(j) where j < i\n"
    select, largest = parse(text).einsums
    assert (select.reductions[0].op, select.reductions[0].into, select.reductions[0].sorted) == (
        "topk",
        "s",
        True,
    )
    assert select.reduced == ("i",)
    assert largest.reductions[0].variables == ("j",)
    assert largest.where == Compare(("<",), (Var("j"), Var("i")))


def test_blocks_states_splits_and_aliases() -> None:
    c = zoo.load("linear_chunked")
    assert [type(x) for x in c.body].count(Iterate) == 1
    assert c.states == {"KV"}
    assert c.splits == {"T": ("T1", "T0")}
    assert c.aliases == {"S0": "T0"}
    assert c.free_ranks == ("E", "F", "T1", "T0")
    assert c.signatures["KV"].state == 0


def test_comments_continuations_and_line_ends() -> None:
    head = "# first\r\ncascade c  # a name\r\nrank I\r\n\r\ninput A[I]\r\noutput O[I]\r\n"
    text = head + "O[i] = A[i] \\\r\n  + 1  # more"
    assert parse(text).einsums[0].value == Apply("+", (Access("A", (Var("i"),)), Num(1)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\t\n", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "this file is binary"),
        (b"cascade c\0\n", "this file is binary"),
        (b"cascade c\nrank I\nO[i] = 1\n", ""),
    ],
)
def test_files(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.cascade"
    file.write_bytes(content)
    if message:
        with pytest.raises(CascadeError, match=message):
            load(file)
    else:
        assert zoo.find(str(file)).name == "c"


def test_missing_files_and_names() -> None:
    with pytest.raises(CascadeError, match=r"cannot read /nowhere/x\.cascade: No such file"):
        zoo.find("/nowhere/x.cascade")
    with pytest.raises(CascadeError, match="did you mean 'attention_1pass'"):
        zoo.find("attention_1pas")


HEAD = "cascade c\nrank I\ninput A[I]\noutput O[I]\n"
HOSTILE = {
    "a long sum": HEAD + "O[i] = " + "+".join(["1"] * 24_000) + "\n",
    "a long comparison": HEAD + "O[i] = A[i] where " + "<".join(["1"] * 23_000) + "\n",
    "minus signs": HEAD + "O[i] = " + "-" * 48_000 + "1\n",
    "not not not": HEAD + "O[i] = A[i] where " + "not " * 11_000 + "1 < 2\n",
    "a tower of powers": HEAD + "O[i] = " + "**".join(["2"] * 15_000) + "\n",
    "arguments": HEAD + "O[i] = max(" + ",".join(["1"] * 23_000) + ")\n",
    "brackets": HEAD + "O[i] = " + "[" * 48_000,
    "a chain of sizes": HEAD
    + "".join(f"let C{k} = C{k + 1} + 1\n" for k in range(1_900))
    + "let C1900 = 1\n",
    "a chain of Einsums": HEAD
    + "T0[i] = A[i]\n"
    + "".join(f"T{k}[i] = T{k - 1}[i]\n" for k in range(1, 2_400)),
    "states": HEAD
    + "".join(f"T{k}[0] = 1\n" for k in range(1_600))
    + "iterate i {\n"
    + "".join(f"T{k}[i+1] = 1\n" for k in range(1_600))
    + "}\n",
    "digits": HEAD + "O[i] = " + "9" * 48_000,
    "quotes": HEAD + '"' * 48_000,
    "blanks": "cascade c\n" + " " * 48_000 + "x",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_answered_soon(text: str) -> None:
    start = time.process_time()
    with contextlib.suppress(CascadeError):
        parse(text)
    # Measured: 0.7 s of processor time for the slowest.
    assert time.process_time() - start < 2


def test_sizes_that_double_each_other_are_worked_out_once() -> None:
    doubled = "".join(f"let C{k} = C{k + 1} + C{k + 1}\n" for k in range(40)) + "let C40 = 1\n"
    cascade = parse("cascade c\nrank I\n" + doubled + "input A[I]\noutput O[I]\nO[i] = A[i] * C0\n")
    assert evaluate(cascade, "I=1", {"A": [1]})["O"] == [2**40]


def test_text_is_bounded() -> None:
    with pytest.raises(CascadeError, match="the text has 300,010 characters"):
        parse("cascade c\n" + "#" * 300_000)


@pytest.mark.parametrize("control", ["\x1b[31m", "\x07", "\x00", "\x7f", "\x9b", "\r", "\u202e", "\x0c"])
@pytest.mark.parametrize("before", ['cascade c\n"', "cascade c\nrank I\nO[i] = A[i] ", "# ", ""])
def test_control_characters_are_named_and_never_passed_on(control: str, before: str) -> None:
    """A terminal would obey them: colours, titles, a line that writes over another, words in another order."""
    with pytest.raises(CascadeError, match="no control characters") as found:
        parse(f'{before}{control}x"\n', file=f"evil{control}.cascade")
    shown = str(found.value)
    assert control[0] not in shown.replace("\n", "")
    assert control[0].encode("unicode_escape").decode() in shown
    assert found.value.at == (before.count("\n") + 1, len(before.rsplit("\n", 1)[-1]) + 1)


def test_a_caret_stands_below_what_is_escaped() -> None:
    error = CascadeError("here", at=(1, 4)).located_in("f", "a\x1bb!c")
    source, caret = str(error).split("\n")[1:]
    assert source.index("!") == caret.index("^")


def test_line_ends_of_other_machines_are_no_control_characters() -> None:
    assert parse("cascade c\r\nrank I\r\ninput A[I]\r\noutput O[I]\r\nO[i] = A[i]\r\n").name == "c"


def test_a_long_line_is_shown_around_its_mistake() -> None:
    with pytest.raises(CascadeError) as found:
        parse(HEAD + "O[i] = " + "+".join(["A[i]"] * 5_000) + " $ + 1\n")
    _, source, caret = str(found.value).split("\n")
    assert len(source) < 120
    assert source[caret.index("^")] == "$"


def test_a_byte_order_mark_is_no_word(tmp_path: Path) -> None:
    file = tmp_path / "windows.cascade"
    file.write_bytes(b"\xef\xbb\xbf" + zoo.text("gemm").replace("\n", "\r\n").encode())
    assert load(file) == zoo.load("gemm")
